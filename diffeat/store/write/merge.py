"""Shards become the file that the user named."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import StoreError
from diffeat.store.format.atomic import explained, is_regular, new_file
from diffeat.store.format.checksums import BLOCK_BYTES, Checksums, file_checksum
from diffeat.store.format.columns import Column
from diffeat.store.format.compress import check_compression
from diffeat.store.format.header import create_header, write_skipped
from diffeat.store.format.layout import Progress, create_column, room_for, stored
from diffeat.store.format.manifest import Manifest
from diffeat.store.format.safety import open_part
from diffeat.store.format.targets import GROUP as TARGETS
from diffeat.store.write.folder import ShardFolder, damage, missing_spans
from diffeat.store.write.growth import GROWS, Growth
from diffeat.store.write.held import HeldRows

DIGESTS_AHEAD = 2
OPEN_SHARDS = 64
DENSE = 2
"""Rows that are scattered among at most so many times as many are read with those between."""
Places = tuple[np.ndarray, np.ndarray]
"""(N,) shard and (N,) row in it of each row of the merged file, in the order of the pictures."""


def merge_shards(
    folder: ShardFolder,
    manifest: Manifest,
    compression: str,
    progress: Progress = iter,
    held: Sequence[HeldRows] = (),
    growth: Growth | None = None,
    out: Path | None = None,
) -> tuple[int, dict[str, str]]:
    """Merge shards that cover all pictures into the user's file; the shards stay.

    Each picture is taken once, from the first shard that has a row of it; a picture that one
    worker could not read and another could is taken from the other. Disk is set aside
    first, unless the file is compressed.

    Args:
        folder: where they are; the caller holds its lock.
        manifest: what is being made.
        compression: of the merged file.
        progress: wraps the list of shards, such as a progress bar.
        held: rows of finished files, for pictures that shards lack.
        growth: what becomes of these, and so the order of the rows.
        out: the merged file, where it is not the user's.

    Returns:
        Rows of the file, and id → reason of the pictures that were left out.

    Raises:
        StoreError: a shard is damaged (it is removed), or every picture was skipped.
        OSError: there is no room.
    """
    whole = manifest
    if growth is not None:
        whole = growth.whole(manifest, [one.manifest for one in held])
    with OpenShards(folder, manifest, held) as opened:
        places, left_out = _places(opened, None if growth is None else growth.first)
        ids, reasons = _skipped_text(opened, left_out)
        count = len(places[0])
        if not count:
            _refuse_nothing(opened, reasons)
        with new_file(
            folder.path / "merged.h5", out or folder.output, _room(opened, count, compression)
        ) as (file, disk):
            names = manifest.class_names if manifest.labelled else None
            create_header(file, whole, count, names, manifest.timesteps)
            write_skipped(file, ids, reasons)
            for column in stored(manifest.columns):
                create_column(file, column, count, compression)
            with Checksums() as checksums:
                for name, start, values in _blocks(opened, places, progress):
                    file[name][start : start + len(values)] = values
                    checksums.add(name, values)
                    disk.check()
                checksums.write(file)
            file.attrs["complete"] = True
    return count, dict(zip(ids, reasons, strict=True))


class OpenShards:
    """Shards that are opened when they are needed, after a look at their checksums.

    The checksums of the next ones are taken in threads while one is in use. A context manager;
    `self[k]` is the open file of shard k, of which at most OPEN_SHARDS are open. Rows of a
    finished files stand behind them as shards of their own.

    Attributes:
        paths: of all shards, ascending.
        named: the same with the finished files.
    """

    def __init__(self, folder: ShardFolder, manifest: Manifest, held: Sequence[HeldRows] = ()):
        self.folder, self.manifest, self.held = folder, manifest, held
        self._spans = folder.shards(manifest)
        self.paths = list(self._spans)
        self._checked: set[int] = set()
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._pool = ThreadPoolExecutor(DIGESTS_AHEAD, thread_name_prefix="diffeat-checksum")
        self._digests: dict[int, Future] = {}

    def __enter__(self) -> OpenShards:
        return self

    def __exit__(self, *exc) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return len(self.named)

    @property
    def named(self) -> list[Path]:
        return [*self.paths, *(one.path for one in self.held)]

    def __getitem__(self, number: int) -> h5py.File | HeldRows:
        if number >= len(self.paths):
            return self.held[number - len(self.paths)]
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if number not in self._checked:
            reason = self._damage(number, self._digest(number))
            if reason is not None:
                self._remove_damaged(number, reason)
            self._checked.add(number)
        if len(self._open) >= OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        self._open[number] = open_part(self.paths[number])
        return self._open[number]

    def _digest(self, number: int) -> Callable[[], str]:
        """What waits for the checksum of a shard, and raises what reading raised."""
        for ahead in range(number, min(number + DIGESTS_AHEAD, len(self.paths))):
            if ahead not in self._digests:
                self._digests[ahead] = self._pool.submit(_digest_of_regular, self.paths[ahead])
        return self._digests[number].result

    def _damage(self, number: int, digest: Callable[[], str] | None = None) -> str | None:
        path = self.paths[number]
        return damage(path, self._spans[path], self.manifest, digest)

    def _remove_damaged(self, number: int, reason: str) -> None:
        """Remove this shard and all others that are damaged too; always raises."""
        bad = {number: reason}
        for other in range(len(self.paths)):
            if other != number and other not in self._checked:
                found = self._damage(other)
                if found is not None:
                    bad[other] = found
        for other in bad:
            self.folder.forget(self.paths[other])
        named = "; ".join(f"{self.paths[k].name} {why}" for k, why in sorted(bad.items()))
        raise StoreError(
            f"{self.folder.path}: {named}. Removed; run the same command again, and the "
            "pictures in it are computed again"
        )


def _digest_of_regular(path: Path) -> str:
    """The checksum, or "" of a link, which is not followed."""
    return file_checksum(path) if is_regular(path) else ""


def _places(
    opened: OpenShards, order: np.ndarray | None = None
) -> tuple[Places, list[tuple[int, int, int]]]:
    """Where the rows are, and (picture, shard, position) of those that were skipped.

    Args:
        order: the place of each picture in the merged file; None is that of the shards.
    """
    index, shard, row, skipped = [], [], [], []
    for number in range(len(opened)):
        file = opened[number]
        held = file["index"][:]
        index.append(held)
        shard.append(np.full(len(held), number, np.int32))
        row.append(np.arange(len(held), dtype=np.int64))
        skipped += ((k, number, at) for at, k in enumerate(file["skipped_index"][:].tolist()))
    if not index:
        return (np.empty(0, np.int32), np.empty(0, np.int64)), []
    index = np.concatenate(index)
    there, first = np.unique(index, return_index=True)  # the first shard that has it
    if order is not None:
        first = first[np.argsort(order[there], kind="stable")]
    places = np.concatenate(shard)[first], np.concatenate(row)[first]
    read = np.isin(np.array([k for k, _, _ in skipped], np.int64), there)  # by another
    left_out = {one[0]: one for one, has in zip(skipped[::-1], read[::-1], strict=True) if not has}
    place = int if order is None else order.__getitem__
    return places, sorted(left_out.values(), key=lambda one: place(one[0]))


def _skipped_text(opened: OpenShards, skipped) -> tuple[list[str], list[str]]:
    """Ids and reasons of skipped pictures."""
    ids, reasons = [], []
    for _, number, at in skipped:
        ids.append(opened[number]["skipped_ids"].asstr()[at])
        reasons.append(opened[number]["skipped_reason"].asstr()[at])
    return ids, reasons


def _refuse_nothing(opened: OpenShards, reasons: Sequence[str]) -> None:
    """Remove shards without any row, so that the next run tries the pictures again; raises."""
    for path in opened.paths:
        opened.folder.forget(path)
    raise StoreError(
        f"{opened.folder.output}: every picture was skipped, first because of "
        f"{(reasons or ['nothing'])[0]}; nothing is written"
    )


def _room(opened: OpenShards, count: int, compression: str) -> int:
    """Bytes of disk that the merged file may take."""
    texts = sum(path.stat().st_size for path in opened.named) // 64 + (1 << 20)
    return room_for(stored(opened.manifest.columns), count, compression) + texts


def _blocks(
    opened: OpenShards, places: Places, progress: Progress
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(data set, first row, rows) of all that the merged file holds of its pictures.

    It goes a shard at a time, so that progress is told in shards, and in it a block at a time,
    so that chunks are written in order, once.
    """
    columns = stored(opened.manifest.columns)
    lists = ("ids", "labels") if opened.manifest.labelled else ("ids",)
    lists += tuple(f"{TARGETS}/{name}" for name in opened.manifest.targets)
    step = max(1, BLOCK_BYTES // max(column.row_bytes for column in columns))
    ends = np.bincount(places[0], minlength=len(opened)).cumsum().tolist()
    for _, begin, end in zip(progress(opened.named), [0, *ends], ends, strict=False):
        for start in range(begin, end, step):
            runs = list(_runs(places, start, min(start + step, end)))
            for column in columns:
                yield column.name, start, _gathered(opened, column, runs)
            for first, stop, number, row in runs:
                for name in lists:
                    yield name, first, opened[number][name][row : row + stop - first]


def _runs(places: Places, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Unbroken pieces of rows start … stop: (first, last + 1, shard, first row there)."""
    shard, row = (one[start:stop] for one in places)
    breaks = np.flatnonzero((np.diff(shard) != 0) | (np.diff(row) != 1)) + 1
    edges = [0, *breaks.tolist(), stop - start]
    for first, last in itertools.pairwise(edges):
        if first < last:
            yield start + first, start + last, int(shard[first]), int(row[first])


def _gathered(opened: OpenShards, column: Column, runs: Sequence) -> np.ndarray:
    """(n, …) rows of some runs that follow each other."""
    begin, end = runs[0][0], runs[-1][1]
    block = np.empty((end - begin, *column.shape), column.dtype)
    for number in {number for _, _, number, _ in runs}:
        data = opened[number][column.name]
        ours = [(first - begin, stop - begin, row) for first, stop, n, row in runs if n == number]
        low = min(row for _, _, row in ours)
        high = max(row + stop - first for first, stop, row in ours)
        if len(ours) > 1 and high - low <= DENSE * sum(b - a for a, b, _ in ours):
            data, low = data[low:high], low  # few reads of what lies close together
        else:
            low = 0
        for first, stop, row in ours:
            rows = np.s_[row - low : row - low + stop - first]
            if isinstance(data, np.ndarray):
                block[first:stop] = data[rows]
            else:
                data.read_direct(block, rows, np.s_[first:stop])
    return block


def merge_parts(
    path: str | Path,
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
) -> None:
    """Finish a feature file from its shards, without model and pictures.

    Args:
        path: the feature file; FILE.parts lies beside it.
        compression: "none", "lzf", "gzip" or "zstd".
        overwrite: replace what lies at `path`.
        progress: wraps the list of shards.

    Raises:
        StoreError: no shards, pictures are missing, damage, or no room.
    """
    folder = ShardFolder(path)
    check_compression(compression)
    with explained(folder.output, f"run `diffeat merge {path}` again"):
        if not folder.exists():
            raise StoreError(f"{folder.path}: no such folder; there is nothing to merge")
        if folder.output.exists() and not overwrite:
            raise StoreError(f"{path} is already there; pass --overwrite to replace it")
        with folder.lock():
            manifest = folder.manifest()
            if GROWS in manifest.pictures:
                raise StoreError(
                    f"{folder.path} adds to what was finished before; run the same `diffeat "
                    "extract` again, which joins them"
                )
            missing = missing_spans(folder.covered(manifest), manifest.count)
            if missing:
                lacking = sum(stop - start for start, stop in missing)
                raise StoreError(
                    f"{path}: {lacking} of {manifest.count} pictures are missing; run the same "
                    "`diffeat extract` again to compute them"
                )
            merge_shards(folder, manifest, compression, progress)
            folder.remove()
