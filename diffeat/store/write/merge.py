"""From shards to the user's file, in one pass and in the order of the pictures."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import StoreError
from diffeat.store.format.atomic import explained, locked, new_file
from diffeat.store.format.checksums import Seals
from diffeat.store.format.compress import check_compression
from diffeat.store.format.layout import (
    create_column,
    create_header,
    room_for,
    stored,
    write_skipped,
)
from diffeat.store.format.manifest import Column, Note
from diffeat.store.format.safety import open_part
from diffeat.store.write.folder import DigestsAhead, Parts, Shard, damage, missing_spans

BLOCK_BYTES = 8 << 20
"""What is copied at a time."""
OPEN_SHARDS = 64
Progress = Callable[[Iterable], Iterable]


@dataclass(frozen=True)
class Rows:
    """Where each row of the merged file comes from, in the order of the pictures.

    Attributes:
        shard: (N,) number of the shard.
        row: (N,) row in that shard.
    """

    shard: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Unbroken pieces of rows start … stop: (first, last + 1, shard, first row there)."""
        shard, row = self.shard[start:stop], self.row[start:stop]
        breaks = np.flatnonzero((np.diff(shard) != 0) | (np.diff(row) != 1)) + 1
        edges = [0, *breaks.tolist(), stop - start]
        for first, last in itertools.pairwise(edges):
            if first < last:
                yield start + first, start + last, int(shard[first]), int(row[first])


def merge_shards(parts: Parts, note: Note, compression: str, progress: Progress = iter) -> None:
    """Merge shards that cover all pictures into the user's file; the shards stay.

    Each picture is taken once, from the first shard that has a row of it; a picture that one
    worker could not read and another could is taken from the other. Disk is set aside
    first, unless the file is compressed.

    Args:
        parts: the folder, whose lock the caller holds.
        note: what is being made.
        compression: of the merged file.
        progress: wraps the list of shards, such as a progress bar.

    Raises:
        StoreError: a shard is damaged (it is removed), or every picture was skipped.
        OSError: there is no room.
    """
    shards = parts.shards(note)
    with SoundShards(parts, shards, note) as opened:
        rows, skipped = _rows(opened, len(shards))
        if not len(rows):
            reason = _skipped_text(opened, skipped[:1])[1] or ["nothing"]
            for shard in shards:  # so that the next run tries the pictures again
                parts.forget(shard.path)
            raise StoreError(
                f"{parts.path}: every picture was skipped, first because of {reason[0]}; "
                "nothing is written"
            )
        columns = stored(note.columns)
        room = room_for(columns, len(rows), compression)
        room += sum(shard.path.stat().st_size for shard in shards) // 64 + (1 << 20)
        with new_file(parts.folder / "merged.h5", parts.path, reserved=room) as file:
            features = [c for c in note.columns if c.name.startswith("features/")]
            steps = dict.fromkeys(float(c.attrs["t"]) for c in features)
            names = note.class_names if note.labelled else None
            create_header(file, note.request, len(rows), names, list(steps))
            write_skipped(file, *_skipped_text(opened, skipped))
            for column in columns:
                create_column(file, column, len(rows), compression)
            edges = _edges(rows, len(shards))
            with Seals() as seals:
                for number, _ in enumerate(progress([shard.path for shard in shards])):
                    part = edges[number : number + 2]
                    _copy(file, opened, rows, columns, note.labelled, part, seals)
                seals.write(file)
            file.attrs["complete"] = True


class SoundShards:
    """Opens shards when they are needed, after a look at their checksums.

    A context manager. `self[k]` is the open file of shard k; at most OPEN_SHARDS are open.
    """

    def __init__(self, parts: Parts, shards: Sequence[Shard], note: Note):
        self.parts, self.shards, self.note = parts, shards, note
        self._checked: set[int] = set()
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._digests = DigestsAhead([shard.path for shard in shards])

    def __enter__(self) -> SoundShards:
        return self

    def __exit__(self, *exc) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._digests.close()

    def __getitem__(self, number: int) -> h5py.File:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if number not in self._checked:
            reason = damage(self.shards[number], self.note, self._digests[number])
            if reason is not None:
                self._remove_damaged(number, reason)
            self._checked.add(number)
        if len(self._open) >= OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        self._open[number] = open_part(self.shards[number].path)
        return self._open[number]

    def _remove_damaged(self, number: int, reason: str) -> None:
        """Remove this shard and all others that are damaged too; always raises."""
        bad = {number: reason}
        for other, shard in enumerate(self.shards):
            if other != number and other not in self._checked:
                found = damage(shard, self.note)
                if found is not None:
                    bad[other] = found
        for other in bad:
            self.parts.forget(self.shards[other].path)
        named = "; ".join(f"{self.shards[k].path.name} {why}" for k, why in sorted(bad.items()))
        raise StoreError(
            f"{self.parts.folder}: {named}. Removed; run the same command again, and the "
            "pictures in it are computed again"
        )


def _rows(opened: SoundShards, count: int) -> tuple[Rows, list[tuple[int, int, int]]]:
    """Where the rows are, and (picture, shard, position) of those that were skipped."""
    index, shard, row, skipped = [], [], [], []
    for number in range(count):
        file = opened[number]
        held = file["index"][:]
        index.append(held)
        shard.append(np.full(len(held), number, np.int32))
        row.append(np.arange(len(held), dtype=np.int64))
        skipped += ((k, number, at) for at, k in enumerate(file["skipped_index"][:].tolist()))
    if not index:
        return Rows(np.empty(0, np.int32), np.empty(0, np.int64)), []
    index = np.concatenate(index)
    there, first = np.unique(index, return_index=True)  # the first shard that has it
    rows = Rows(np.concatenate(shard)[first], np.concatenate(row)[first])
    read = np.isin(np.array([k for k, _, _ in skipped], np.int64), there)  # by another
    left_out = {one[0]: one for one, has in zip(skipped[::-1], read[::-1], strict=True) if not has}
    return rows, sorted(left_out.values())


def _skipped_text(opened: SoundShards, skipped) -> tuple[list[str], list[str]]:
    """Ids and reasons of skipped pictures."""
    ids, reasons = [], []
    for _, number, at in skipped:
        ids.append(opened[number]["skipped_ids"].asstr()[at])
        reasons.append(opened[number]["skipped_reason"].asstr()[at])
    return ids, reasons


def _edges(rows: Rows, shards: int) -> np.ndarray:
    """Cuts the rows into one part per shard, so that progress is told in shards."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows.shard, minlength=shards))])


def _copy(
    file: h5py.File, opened, rows: Rows, columns: Sequence[Column], labelled, part, seals
) -> None:
    """Copy rows part[0] … part[1], a block at a time; chunks are written in order, once."""
    largest = max(column.row_bytes for column in columns)
    step = max(1, BLOCK_BYTES // largest)
    for start in range(int(part[0]), int(part[1]), step):
        stop = min(start + step, int(part[1]))
        runs = list(rows.runs(start, stop))
        for column in columns:
            block = np.empty((stop - start, *column.shape), column.dtype)
            for first, last, number, row in runs:
                source = opened[number][column.name]
                source.read_direct(
                    block, np.s_[row : row + last - first], np.s_[first - start : last - start]
                )
            file[column.name][start:stop] = block
            seals.add(column.name, block)
        for first, last, number, row in runs:
            for name in ("ids", "labels") if labelled else ("ids",):
                values = opened[number][name][row : row + last - first]
                file[name][first:last] = values
                seals.add(name, values)
        file.check()


@contextmanager
def held(parts: Parts) -> Iterator[None]:
    """Hold the lock of an existing folder of parts."""
    lock = locked(parts.folder / "lock", parts.path)
    try:
        yield
    finally:
        lock.close()


def merge_parts(
    path: str | Path,
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
) -> None:
    """Finish a feature file from its parts, without model and pictures.

    Args:
        path: the feature file; FILE.parts lies beside it.
        compression: "none", "lzf", "gzip" or "zstd".
        overwrite: replace what lies at `path`.
        progress: wraps the list of shards.

    Raises:
        StoreError: no parts, pictures are missing, damage, or no room.
    """
    parts = Parts(path)
    check_compression(compression)
    then = f"run `diffeat merge {path}` again"
    with explained(parts.path, then):
        if not parts.exist():
            raise StoreError(f"{parts.folder}: no such folder; there is nothing to merge")
        if parts.path.exists() and not overwrite:
            raise StoreError(f"{path} is already there; pass --overwrite to replace it")
        with held(parts):
            note = Note.read(parts.folder)
            if note is None or note.columns is None:
                raise StoreError(
                    f"{parts.folder} does not say what is being made; run the same `diffeat "
                    "extract` again"
                )
            missing = missing_spans(parts.covered(note), note.count)
            if missing:
                lacking = sum(stop - start for start, stop in missing)
                raise StoreError(
                    f"{path}: {lacking} of {note.count} pictures are missing; run the same "
                    "`diffeat extract` again to compute them"
                )
            merge_shards(parts, note, compression, progress)
            parts.remove()
