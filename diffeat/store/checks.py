"""`verify`: a feature file, or the parts of an unfinished one, compared with the contract."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import StoreError
from diffeat.noise import format_t
from diffeat.store.parts import Parts, damage, missing_spans
from diffeat.store.reader import FeatureStore
from diffeat.store.request import Note
from diffeat.store.safety import damage_explained
from diffeat.store.seals import LISTS, Seal, list_broken
from diffeat.store.view import QuantizedView

BLOCK_BYTES = 8 << 20
"""What is looked at together."""
ATTRIBUTES = ("block", "t", "alpha", "sigma", "log_snr", "layout", "stride", "channels")


def verify(path: str | Path) -> list[str]:
    """Read a whole feature file and compare it with the contract.

    Every data set carries a checksum, so flipped bits are found too.

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
        for name in LISTS:
            if name in store.file and (found := _verify_list(store.file[name])):
                problems.append(f"{name}: {found}")
        if store.labels is not None and count:
            names = len(store.class_names)
            if not 0 <= store.labels.min() <= store.labels.max() < names:
                problems.append("labels lie outside their names")
        problems += _verify_boxes(store)
        problems += _verify_pictures(store)
        for block in store.blocks:
            for t in store.timesteps:
                problems += _verify_features(store, block, t)
    return problems


def _verify_list(data: h5py.Dataset) -> str:
    return "another checksum than when they were written" if list_broken(data) else ""


def _verify_boxes(store: FeatureStore) -> list[str]:
    """What is wrong with the boxes of padded pictures, where there are any."""
    try:
        boxes = store.boxes
    except StoreError as error:
        return [str(error).removeprefix(f"{store.path}: ")]
    if boxes is None:
        return []
    changed = _verify_list(store.file["boxes"])
    size = store.spec.size or (1 << 31, 1 << 31)
    inside = (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= size).all()
    problems = [f"boxes: {changed}"] if changed else []
    return problems if inside else [*problems, "boxes lie outside the pictures"]


def _verify_pictures(store: FeatureStore) -> list[str]:
    """What is wrong with sizes, placements, digests and stats of the pictures, if there are any."""
    problems, known = [], {}
    for name in ("sizes", "placements", "digests", "file_stats"):
        try:
            found = getattr(store, name)
        except StoreError as error:
            problems.append(str(error).removeprefix(f"{store.path}: "))
            continue
        if found is not None and (changed := _verify_list(store.file[name])):
            problems.append(f"{name}: {changed}")
        known[name] = found
    return problems + _verify_placements(known.get("sizes"), known.get("placements"))


def _verify_placements(sizes: np.ndarray | None, placements: np.ndarray | None) -> list[str]:
    """What no fit of a picture can be."""
    problems = []
    if sizes is not None and not (sizes >= 1).all():
        problems.append("sizes: a picture without pixels")
    if placements is not None:
        sx, _, sy, _ = placements.T
        if not np.isfinite(placements).all() or (sx == 0).any() or (sy <= 0).any():
            problems.append("placements: expected finite numbers, sx other than 0, sy above 0")
    return problems


def _verify_features(store: FeatureStore, block: str, t: int | float) -> list[str]:
    where = f"features/{block}/t{format_t(t)}"
    try:
        data = store[block, t]
        with damage_explained(store.path, f"the attributes of {where}"):
            lacking = [name for name in ATTRIBUTES if name not in data.attrs]
    except StoreError as error:
        return [str(error).removeprefix(f"{store.path}: ")]
    problems = [f"{where} lacks the attribute {name!r}" for name in lacking]
    parts = [data]
    if isinstance(data, QuantizedView):
        parts = [data.quantized, data.scales]
    for part in parts:
        found = _verify_values(part)
        if found:
            return [*problems, f"{part.name.lstrip('/')}, {found}"]
    return problems


def _verify_values(data: h5py.Dataset) -> str:
    """What is wrong with the values of a data set; read in pieces of bounded size."""
    seal = Seal()
    for key in _pieces(data):
        try:
            values = data[key]
        except OSError as error:
            return f"rows from {key[0].start}: cannot be read ({error})"
        if data.dtype.kind == "f" and not np.isfinite(values).all():
            return f"rows from {key[0].start}: inf or nan"
        seal.add(values)
    return "has another checksum than when it was written" if seal.broken(data) else ""


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


@dataclass(frozen=True)
class Progress:
    """How far an unfinished extraction is.

    Attributes:
        note: what is being made.
        finished: pictures that are in sound shards.
        shards: number of shards of this request.
        problems: what is wrong with shards, one sentence each.
    """

    note: Note
    finished: int
    shards: int
    problems: list[str]


def look_at_parts(path: str | Path, thorough: bool = False) -> Progress | None:
    """How far the extraction of `path` is; None if no parts lie beside it.

    Args:
        path: the feature file that is being made.
        thorough: also read every shard and compare its checksum.

    Raises:
        StoreError: the parts do not say what is being made.
    """
    parts = Parts(path)
    if not parts.exist():
        return None
    note = Note.read(parts.folder)
    if note is None or note.columns is None:
        raise StoreError(
            f"{parts.folder} does not say what is being made; run the same `diffeat extract` again"
        )
    shards = parts.shards(note)
    known = {shard.path for shard in shards}
    problems = [
        f"{file.name} is damaged or of another request"
        for file in parts.files()
        if file not in known
    ]
    if thorough:
        for shard in list(shards):
            reason = damage(shard, note)
            if reason is not None:
                problems.append(f"{shard.path.name} {reason}")
                parts.ignore(shard)
    missing = missing_spans(parts.covered(note), note.count)
    finished = note.count - sum(stop - start for start, stop in missing)
    return Progress(note, finished, len(shards), problems)
