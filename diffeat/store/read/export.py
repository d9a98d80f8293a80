"""Feature files as other programs read them: NumPy's .npz and Zarr (format 3)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.errors import SpecError, StoreError
from diffeat.store.format.atomic import explained, sync_folder
from diffeat.store.format.checksums import ATTRIBUTE, checked_blocks
from diffeat.store.format.columns import PICTURE_COLUMNS, feature_name
from diffeat.store.format.layout import Progress
from diffeat.store.read.view import FeatureView

if TYPE_CHECKING:
    from diffeat.store.read.reader import FeatureStore

SUFFIXES = (".npz", ".zarr")
ZARR_CHUNK = 1 << 20


def export(
    store: FeatureStore,
    path: str | Path,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
    keep_int8: bool = False,
    overwrite: bool = False,
    progress: Progress = iter,
) -> Path:
    """Write features as .npz or .zarr; what is in memory does not grow with them.

    Both hold features/<block>/t<t>, ids, labels with class_names, targets/<column> with
    target_names/<column>, boxes, sizes, placements, digests, skipped ids and reasons (where there
    are any) and spec, model and pictures as JSON.

    Args:
        store: the feature file.
        path: NAME.npz, or NAME.zarr, which becomes a folder.
        blocks, timesteps: which features; None is all.
        keep_int8: give int8 numbers and their scales instead of float32.
        overwrite: replace what lies at `path`.
        progress: wraps the list of arrays.

    Returns:
        `path`.

    Raises:
        SpecError: another suffix, or a block or t that the file does not have.
        StoreError: `path` is there already or cannot be written, or zarr is not installed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise SpecError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.exists() and not overwrite:
        raise StoreError(f"{path} is already there; pass --overwrite to replace it")
    keys = [(b, t) for b in blocks or store.blocks for t in timesteps or store.timesteps]
    arrays = [array for key in keys for array in _arrays(store, key, keep_int8)]
    write = _write_npz if path.suffix == ".npz" else _write_zarr
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _appears_whole(path) as partial:
            write(store, partial, arrays, progress)
    return path


@contextmanager
def _appears_whole(path: Path) -> Iterator[Path]:
    """Another name in the same folder, which takes the place of `path` when all went well."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield partial
        if path.is_dir():
            aside = partial.with_suffix(".old")
            os.replace(path, aside)
            os.replace(partial, path)
            shutil.rmtree(aside)
        else:
            os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _arrays(store: FeatureStore, key, keep_int8: bool) -> list[tuple[str, Any]]:
    """Names and data sets of one (block, t)."""
    name, data = feature_name(*key), store[key]
    if data.scales is None:
        return [(name, data.stored)]
    if keep_int8:
        return [(name, data.stored), (data.scales.name.lstrip("/"), data.scales)]
    return [(name, data)]


def _facts(store: FeatureStore) -> dict[str, Any]:
    """What says how the features were made, as JSON."""
    names = ("spec", "model", "pictures")
    values = {"spec": store.spec.to_dict(), "model": store.model, "pictures": store.pictures}
    texts = {name: json.dumps(values[name]) for name in names}
    return {**texts, "how": json.dumps(store.how), "fingerprint": store.fingerprint}


def _attrs(data) -> dict[str, Any]:
    """Attributes of a data set as plain values, without those of its storage."""
    kept = {key: np.asarray(data.attrs[key]).tolist() for key in data.attrs if key != ATTRIBUTE}
    if isinstance(data, FeatureView):  # its numbers are no int8 any more
        for name in ("quantization", "group", "scale"):
            kept.pop(name, None)
    # JSON has no inf
    return {
        k: str(v) if isinstance(v, float) and not np.isfinite(v) else v for k, v in kept.items()
    }


def _small(store: FeatureStore) -> dict[str, Any]:
    """Arrays of numbers beside the features; texts are apart."""
    kept = [name for name, known in PICTURE_COLUMNS.items() if known["exported"]]
    found = {"labels": store.labels, **{name: store.picture_column(name) for name in kept}}
    found |= {f"targets/{name}": one.values for name, one in store.targets.items()}
    return {name: values for name, values in found.items() if values is not None}


def _texts(store: FeatureStore) -> dict[str, list[str]]:
    found = {"ids": store.ids}
    if store.labels is not None:
        found["class_names"] = store.class_names
    for name, one in store.targets.items():
        if one.kind != "number":
            found[f"target_names/{name}"] = list(one.names)
    if store.skipped:
        found["skipped/ids"] = list(store.skipped)
        found["skipped/reasons"] = list(store.skipped.values())
    return found


def _write_npz(store: FeatureStore, path: Path, arrays, progress: Progress) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, data in progress(arrays):
            rows = (values for _, values in checked_blocks(data))
            _add(archive, name, data.dtype, data.shape, rows)
        for name, values in _small(store).items():
            _add(archive, name, values.dtype, values.shape, [values])
        texts = {**_texts(store), **{name: [text] for name, text in _facts(store).items()}}
        for name, values in texts.items():
            dtype = np.dtype(f"<U{max((len(text) for text in values), default=1) or 1}")
            shape = () if name in _facts(store) else (len(values),)
            pieces = (np.array(values[k : k + 4096], dtype) for k in range(0, len(values), 4096))
            _add(archive, name, dtype, shape, pieces)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _add(archive, name: str, dtype, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    """One .npy in the archive, written piece by piece."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False,
              "shape": tuple(map(int, shape))}  # fmt: skip
    with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece).view(np.uint8).reshape(-1).data)


def _write_zarr(store: FeatureStore, path: Path, arrays, progress: Progress) -> None:
    try:
        import zarr
    except ImportError:
        raise StoreError(
            f"{path}: writing Zarr needs the package zarr; pip install 'diffeat[zarr]'"
        ) from None
    root = zarr.create_group(str(path), zarr_format=3)
    facts = _facts(store)
    root.attrs.update(
        {name: json.loads(text) for name, text in facts.items() if name != "fingerprint"}
    )
    root.attrs.update({"format": 1, "fingerprint": facts["fingerprint"]})
    for name, data in progress(arrays):
        row = max(1, data.nbytes // max(1, len(data)))
        rows = max(1, min(len(data), ZARR_CHUNK // row))
        array = root.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=(rows, *data.shape[1:]),
            attributes=_attrs(data),
        )
        for start, values in checked_blocks(data, rows):
            array[start : start + len(values)] = values
    for name, values in _small(store).items():
        root.create_array(name, data=values)
    for name, values in _texts(store).items():
        array = root.create_array(name, shape=(len(values),), dtype="string", chunks=(4096,))
        array[:] = np.array(values, dtype=object)
    os.sync()
