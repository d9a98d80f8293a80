"""Named data sets, read from where they lie on disk. Nothing is ever downloaded.

Data sets are looked for below $DIFFEAT_DATA, ./data and /usr/share/datasets (where Debian's
package `dataset-fashion-mnist` puts its files).
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.clip_sets import CLIP_SETS
from diffeat.images.dense_sets import DENSE
from diffeat.images.files import from_folder
from diffeat.images.imagenet import open_imagenet
from diffeat.images.paired import PAIRED
from diffeat.images.sources import ArraySource, FileSource, Source

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip


def data_roots() -> list[Path]:
    """Folders in which named data sets are looked for, first match wins."""
    chosen = os.environ.get("DIFFEAT_DATA")
    roots = [Path(chosen)] if chosen else []
    return [*roots, Path("data"), Path("/usr/share/datasets")]


def _find(name: str, wanted: str, how_to_get: str, *also: str) -> Path:
    """The data set's folder, which may have one of further names."""
    for root in data_roots():
        for folder in (name, *also):
            if (root / folder).is_dir():
                return root / folder
    looked = ", ".join(str(root / name) for root in data_roots())
    raise SourceError(
        f"data set {name!r} is not on this machine (looked for {looked}). Expected {wanted}. "
        f"{how_to_get} Set DIFFEAT_DATA to the folder that contains {name!r}."
    )


def _digits(split: str) -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    return ArraySource(
        name="digits",
        ids=tuple(f"digit-{index:04d}" for index in range(len(pixels))),
        labels=data.target.astype(np.int64),
        class_names=tuple(str(k) for k in range(10)),
        pixels=pixels,
    )


def _photos(split: str) -> Source:
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    return replace(from_folder(folder), name="photos", left_out=Counter(), earlier=None)


def _fashion_mnist(split: str) -> Source:
    folder = _find(
        "fashion-mnist",
        "the four IDX files, plain or .gz",
        "Debian: apt install dataset-fashion-mnist.",
    )
    prefix = {"train": "train", "test": "t10k"}[split]
    pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte")
    return _arrays("fashion-mnist", split, pixels, labels, FASHION_CLASSES)


def _cifar10(split: str) -> Source:
    folder = _find(
        "cifar10",
        "train/<class>/*.jpg|png and test/<class>/*, or the files of the 'binary version' "
        "(data_batch_1.bin … test_batch.bin)",
        "It is at https://www.cs.toronto.edu/~kriz/cifar.html (the pickled 'python version' is "
        "not read, because pickles can run code).",
    )
    if (folder / split).is_dir():
        files = from_folder(folder / split)
        ids = tuple(f"{split}/{name}" for name in files.ids)
        return FileSource(
            name=f"cifar10:{split}",
            ids=ids,
            labels=files.labels,
            class_names=files.class_names,
            paths=files.paths,
            left_out=files.left_out,
            faults={f"{split}/{name}": why for name, why in files.faults.items()},
        )
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{k}.bin" for k in range(1, 6)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder}: expected a folder {split}/ or the file {missing[0]}")
    records = np.concatenate([_read_cifar_batch(folder / name) for name in names])
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _arrays("cifar10", split, pixels, records[:, 0], CIFAR10_CLASSES)


def _tiny_imagenet(split: str) -> Source:
    folder = _find(
        "tiny-imagenet",
        "Stanford's layout (train/<wnid>/images/*.JPEG, val/images/*.JPEG with "
        "val/val_annotations.txt, wnids.txt, words.txt), also in a folder tiny-imagenet-200",
        "It is at http://cs231n.stanford.edu/tiny-imagenet-200.zip; ':test' is its val, whose "
        "labels are public.",
        "tiny-imagenet-200",
    )
    inner = folder / "tiny-imagenet-200"
    return open_imagenet("tiny-imagenet", inner if inner.is_dir() else folder, split)


def _imagenet(split: str) -> Source:
    folder = _find(
        "imagenet",
        "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (loose val pictures sorted by class), and "
        "words.txt or LOC_synset_mapping.txt for names",
        "It is at https://image-net.org after registration; ':test' is its val, whose labels are "
        "public.",
    )
    return open_imagenet("imagenet", folder, split)


def paired_folder(name: str) -> Path:
    """Where a named set of pairs lies (`diffeat.images.paired.PAIRED`)."""
    one = PAIRED[name]
    return _find(name, one.wanted, one.how, *one.folders)


def clips_folder(name: str) -> Path:
    """Where a named set of videos lies (`diffeat.images.clip_sets.CLIP_SETS`)."""
    one = CLIP_SETS[name]
    return _find(name, one.wanted, one.how, *one.folders)


def dense_folder(name: str) -> Path:
    """Where a named set of masks or depth lies (`diffeat.images.dense_sets.DENSE`)."""
    one = DENSE[name]
    return _find(name, one.wanted, one.how, *one.folders)


def _dense(name: str, split: str) -> Source:
    return DENSE[name].pictures(f"{name}:{split}", dense_folder(name), split)


def _clips(name: str, split: str) -> Source:
    return CLIP_SETS[name].pictures(f"{name}:{split}", clips_folder(name), split)


def _paired(name: str, split: str) -> Source:
    return PAIRED[name].pictures(f"{name}:{split}", paired_folder(name), split)


def _read_cifar_batch(path: Path) -> np.ndarray:
    """(N, 3073) uint8: one byte of label and 3·32·32 of pixels per picture."""
    values = np.fromfile(path, np.uint8)
    if values.size == 0 or values.size % 3073:
        raise SourceError(f"{path}: truncated; expected a multiple of 3,073 bytes")
    return values.reshape(-1, 3073)


def _arrays(name: str, split: str, pixels: np.ndarray, labels: np.ndarray, classes) -> Source:
    if len(labels) != len(pixels) or labels.max() >= len(classes):
        raise SourceError(
            f"{name}:{split}: {len(pixels)} pictures, {len(labels)} labels up to {labels.max()}; "
            f"expected one label below {len(classes)} per picture: fetch the files again"
        )
    return ArraySource(
        name=f"{name}:{split}",
        ids=tuple(f"{split}-{index:05d}" for index in range(len(pixels))),
        labels=labels.astype(np.int64),
        class_names=classes,
        pixels=pixels,
    )


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: magic 0, 0, 8, dims; then big-endian sizes; then the data."""
    zipped = path.with_name(path.name + ".gz")
    if not path.is_file() and not zipped.is_file():
        raise SourceError(f"{path}: missing; expected it there, plain or as .gz")
    try:
        raw = path.read_bytes() if path.is_file() else gzip.decompress(zipped.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{zipped}: cannot be unpacked ({error}); fetch it again") from error
    dims = raw[3] if raw[:3] == b"\x00\x00\x08" and len(raw) > 3 else 0
    if not dims or len(raw) < 4 + 4 * dims:
        raise SourceError(f"{path}: not an IDX file of bytes; expected it to begin 00 00 08")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=dims, offset=4))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dims)
    if values.size != math.prod(shape):
        raise SourceError(
            f"{path}: truncated; expected {math.prod(shape)} bytes, has {values.size}"
        )
    return values.reshape(shape)


DATASETS: dict[str, tuple[Callable[[str], Source], tuple[str, ...]]] = {
    "digits": (_digits, ("all",)),
    "photos": (_photos, ("all",)),
    "fashion-mnist": (_fashion_mnist, ("train", "test")),
    "cifar10": (_cifar10, ("train", "test")),
    "tiny-imagenet": (_tiny_imagenet, ("train", "test", "val")),
    "imagenet": (_imagenet, ("train", "test", "val")),
    **{name: (partial(_paired, name), one.splits) for name, one in PAIRED.items()},
    **{name: (partial(_clips, name), one.splits) for name, one in CLIP_SETS.items()},
    **{name: (partial(_dense, name), one.splits) for name, one in DENSE.items()},
}


def name_and_split(text: str, split: str | None) -> tuple[str, str | None]:
    """NAME and SPLIT of "NAME:SPLIT"; a folder's own name may have colons.

    Args:
        split: instead of one in the text; it may be the same.

    Raises:
        SourceError: two different ones.
    """
    if Path(text).exists() or ":" not in text:
        return text, split
    head, _, tail = text.rpartition(":")
    if split is not None and split != tail:
        raise SourceError(f"{text}: split {tail!r} and split={split!r}; expected one of them")
    return head, tail


def open_dataset(text: str) -> Source:
    """Open "name" or "name:split"; the first split is the default."""
    name, _, split = text.partition(":")
    opener, splits = DATASETS[name]
    split = split or splits[0]
    if split not in splits:
        raise SourceError(
            f"data set {name!r} has no split {split!r}; expected {' or '.join(splits)}"
        )
    return opener(split)
