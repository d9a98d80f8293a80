"""`verify`: a feature file compared with the contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import StoreError
from diffeat.specs import ExtractSpec
from diffeat.store.format.checksums import (
    BLOCK_BYTES,
    checksum,
    differs,
    feed,
    list_differs,
    lists_in,
    new_hash,
)
from diffeat.store.format.columns import PICTURE_COLUMNS, feature_name
from diffeat.store.format.layout import Progress
from diffeat.store.format.safety import damage_explained
from diffeat.store.read.reader import FeatureStore

ATTRIBUTES = ("block", "t", "alpha", "sigma", "log_snr", "layout", "stride", "channels")
CHANGED = "another checksum than when they were written"


def verify(path: str | Path, progress: Progress = iter) -> list[str]:
    """Read a whole feature file and compare it with the contract.

    Every data set carries a checksum, so flipped bits are found too.

    Args:
        progress: wraps the list of feature sets, such as a progress bar.

    Returns:
        What is wrong, one sentence each; empty if the file is sound.

    Raises:
        StoreError: it cannot be opened as a feature file at all.
    """
    problems: list[str] = []
    with FeatureStore(path) as store:
        count = len(store)
        if len(set(store.ids)) != count:
            problems.append("ids are not unique")
        for name in lists_in(store.file):
            if name in store.file and list_differs(store.file[name]):
                problems.append(f"{name}: {CHANGED}")
        if store.labels is not None and count:
            names = len(store.class_names)
            if not -1 <= store.labels.min() <= store.labels.max() < names:
                problems.append("labels lie outside their names")
        problems += _verify_targets(store)
        problems += _verify_pictures(store)
        for block, t in progress(list(product(store.blocks, store.timesteps))):
            problems += _verify_features(store, block, t)
    return problems


def _verify_targets(store: FeatureStore) -> Iterator[str]:
    """What is wrong with the further targets, where there are any."""
    for name in store.targets:
        try:
            store.targets[name]
        except StoreError as error:
            yield str(error).removeprefix(f"{store.path}: ")


def _verify_pictures(store: FeatureStore) -> Iterator[str]:
    """What is wrong with the columns beside the features, where there are any."""
    for name in PICTURE_COLUMNS:
        try:
            values = store.picture_column(name)
        except StoreError as error:
            yield str(error).removeprefix(f"{store.path}: ")
            continue
        if values is None:
            continue
        if differs(store.file[name], checksum(values)):
            yield f"{name}: {CHANGED}"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            yield f"{name}: inf or nan"
        if name in IMPOSSIBLE and (problem := IMPOSSIBLE[name](values, store.spec)):
            yield f"{name} {problem}"


def _boxes_outside(boxes: np.ndarray, spec: ExtractSpec) -> str:
    """Of (N, 4) boxes: top, left, height, width."""
    size = spec.size or (1 << 31, 1 << 31)
    inside = (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= size).all()
    return "" if inside else "lie outside the pictures"


def _without_pixels(sizes: np.ndarray, spec: ExtractSpec) -> str:
    return "" if (sizes >= 1).all() else "have a picture without pixels"


def _nowhere(placements: np.ndarray, spec: ExtractSpec) -> str:
    """Of (N, 4) placements: sx, tx, sy, ty."""
    found = (placements[:, 0] != 0).all() and (placements[:, 2] > 0).all()
    return "" if found else "are of no fit (expected sx other than 0, sy above 0)"


IMPOSSIBLE: dict[str, Callable[[np.ndarray, ExtractSpec], str]] = {
    "boxes": _boxes_outside,
    "sizes": _without_pixels,
    "placements": _nowhere,
}
"""Columns of PICTURE_COLUMNS → what is wrong with their values, "" if nothing."""


def _verify_features(store: FeatureStore, block: str, t: int | float) -> list[str]:
    where = feature_name(block, t)
    try:
        data = store[block, t]
        with damage_explained(store.path, f"the attributes of {where}"):
            lacking = [name for name in ATTRIBUTES if name not in data.attrs]
    except StoreError as error:
        return [str(error).removeprefix(f"{store.path}: ")]
    problems = [f"{where} lacks the attribute {name!r}" for name in lacking]
    for part in (data.stored, data.scales):
        if part is None:
            continue
        found = _verify_values(part)
        if found:
            return [*problems, f"{part.name.lstrip('/')}, {found}"]
    return problems


def _verify_values(data: h5py.Dataset) -> str:
    """What is wrong with the values of a data set; read in pieces of bounded size."""
    hasher = new_hash()
    for key in _pieces(data):
        try:
            values = data[key]
        except OSError as error:
            return f"rows from {key[0].start}: cannot be read ({error})"
        if data.dtype.kind == "f" and not np.isfinite(values).all():
            return f"rows from {key[0].start}: inf or nan"
        feed(hasher, values)
    return (
        "has another checksum than when it was written" if differs(data, hasher.hexdigest()) else ""
    )


def _pieces(data: h5py.Dataset) -> Iterator[tuple[slice, ...]]:
    """Keys that together read a data set once, in the order of its values."""
    row = math.prod(data.shape[1:]) * data.dtype.itemsize
    chunk = (data.chunks or (1,))[0]
    rows = max(1, BLOCK_BYTES // max(1, row) // chunk) * chunk
    if row <= BLOCK_BYTES or data.ndim < 3:
        for start in range(0, len(data), rows):
            yield (slice(start, start + rows),)
        return
    inner = math.prod(data.shape[2:]) * data.dtype.itemsize
    step = max(1, BLOCK_BYTES // inner)  # of the second axis: one row is too much at once
    for start in range(len(data)):
        for first in range(0, data.shape[1], step):
            yield slice(start, start + 1), slice(first, first + step)
