"""What a feature file holds beside rows of numbers: attributes, ids, labels, skipped pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import h5py
import numpy as np

from diffeat._version import __version__
from diffeat.noise import plain_t
from diffeat.specs import ExtractSpec
from diffeat.store.format.checksums import write_list
from diffeat.store.format.columns import check_block
from diffeat.store.format.layout import TEXT
from diffeat.store.format.manifest import Manifest
from diffeat.store.format.safety import (
    FORMAT,
    as_text,
    check_numbers,
    check_texts,
    read_attr,
    read_text,
)
from diffeat.store.format.targets import check_targets, create_targets

SKIPPED = ("ids", "reasons")
"""Lists in /skipped."""


def create_header(
    file: h5py.File,
    manifest: Manifest,
    count: int,
    class_names: Sequence[str] | None,
    timesteps: Sequence[float],
) -> None:
    """All but the values: attributes, and empty ids, labels and targets of `count` rows.

    Args:
        class_names: None where there are no labels.
        timesteps: native t of all features.
    """
    file.attrs["format"] = FORMAT
    file.attrs["diffeat_version"] = __version__
    file.attrs.update(manifest.to_attrs())
    file.attrs["complete"] = False
    file.create_dataset("ids", shape=(count,), dtype=TEXT)
    if class_names is not None:
        labels = file.create_dataset("labels", shape=(count,), dtype=np.int64)
        labels.attrs.create("names", list(class_names), dtype=TEXT)
    create_targets(file, manifest.targets, count)
    file.require_group("features").attrs["timesteps"] = [float(t) for t in timesteps]


def write_skipped(file: h5py.File, ids: Sequence[str], reasons: Sequence[str]) -> None:
    """The pictures that were left out; nothing where there are none."""
    for name, texts in zip(SKIPPED, (ids, reasons), strict=True) if ids else ():
        file.create_dataset(f"skipped/{name}", shape=(len(texts),), dtype=TEXT)
        write_list(file, f"skipped/{name}", texts)


def read_skipped(file: h5py.File) -> dict[str, str]:
    """id → reason of the pictures that were left out."""
    if not _count_skipped(file):
        return {}
    return dict(zip(*(file[f"skipped/{name}"].asstr()[:] for name in SKIPPED), strict=True))


def _count_skipped(file: h5py.File) -> int:
    if "skipped" not in file:
        return 0
    counts = {check_texts(file, f"skipped/{name}") for name in SKIPPED}
    if len(counts) != 1:
        raise ValueError("as many skipped ids as reasons were expected")
    return counts.pop()


def check_header(file: h5py.File) -> int:
    """See types and lengths of all but the features; h5py reads nothing large for it.

    Args:
        file: from `open_checked`.

    Returns:
        N, the number of rows.

    Raises:
        Exception: nearly every kind, where anything is amiss; see `damage_explained`.
    """
    count = check_texts(file, "ids")
    if "labels" in file:
        check_numbers(file["labels"], "labels", "i", (count,))
        list(map(as_text, read_attr(file["labels"], "names")))
    check_targets(file, count)
    _count_skipped(file)
    if not isinstance(file["features"], h5py.Group):
        raise TypeError("features is no group")
    texts = {name: read_text(file, name) for name in ("spec", "model", "pictures")}
    read_text(file, "fingerprint")
    if not all(isinstance(json.loads(text), dict) for text in texts.values()):
        raise TypeError("spec, model and pictures must be JSON objects")
    spec = ExtractSpec.from_json(texts["spec"])
    if not all(isinstance(block, str) for block in spec.blocks):
        raise TypeError("the spec's blocks must be names")
    for block in spec.blocks:
        check_block(block)
    steps = timesteps_of(file, spec)
    if not steps or not all(map(math.isfinite, [*spec.timesteps, *steps])):
        raise ValueError("no noise level, or one that is not finite")
    return count


def timesteps_of(file: h5py.File, spec: ExtractSpec) -> list[int | float]:
    """Native timesteps, ascending."""
    steps = read_attr(file["features"], "timesteps")
    steps = spec.timesteps if steps is None else steps
    return sorted(plain_t(step) for step in np.asarray(steps).reshape(-1))
