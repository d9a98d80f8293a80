"""Shards: whole HDF5 files over some pictures, that any process may write.

Beside features.h5 lies features.h5.parts/ while the work goes on: `request.json` (the manifest),
`lock`, and shards. A shard is written under another name, synced and renamed, so
at any moment it is there or not. It holds the ids and labels of its rows, and its name ends in
a hash of its bytes: shard-FIRST-STOP-BLAKE2B.h5.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.errors import NumericsError, StoreError
from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.store.format.atomic import explained, memory_image, write_synced
from diffeat.store.format.checksums import new_hash
from diffeat.store.format.columns import Column
from diffeat.store.format.layout import TEXT, shard_folder, stored, stored_values
from diffeat.store.format.manifest import Manifest
from diffeat.store.format.targets import GROUP as TARGETS

SHARD_BYTES = 32 << 20
SHARD_SECONDS = 20.0
SHARD_SPANS = 1000
"""Ranges of pictures in one shard; they lie in an attribute, which must stay small."""

Span = tuple[int, int]
Batch = tuple[Span, Sequence[int], dict[str, np.ndarray], Sequence[tuple[int, str]]]
"""What `ShardWriter.add` is given."""


class ShardWriter:
    """Writes shards of one feature file in the background; any process may have one.

    It takes no lock and compares no manifest: a StoreWriter, in this process or in another, has
    made the folder, and merges in the end what it finds there. Two shards that
    hold the same picture do no harm. As a context manager it writes what was added before it
    leaves, also after an error.

    Args:
        path: the feature file that the user named.
        columns: the data sets, as the StoreWriter has them.
        source: the pictures, for their ids and labels.
        shard_bytes: a shard is cut when so much has been added,
        shard_seconds: or when its first batch is so old; None is the usual.

    Raises:
        StoreError: a shard could not be written; from the call after the one that handed it
            over, or at the end.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[Column],
        source: Source,
        *,
        shard_bytes: int | None = None,
        shard_seconds: float | None = None,
    ):
        self.path, self.columns, self.source = Path(path), list(columns), source
        self.shard_bytes = SHARD_BYTES if shard_bytes is None else shard_bytes
        self.shard_seconds = SHARD_SECONDS if shard_seconds is None else shard_seconds
        self._batches: list[Batch] = []  # finished, and not yet in a shard
        self._spans: list[Span] = []  # of those, joined
        self._size, self._since = 0, 0.0
        self._queue: queue.Queue[list[Batch] | None] = queue.Queue(maxsize=2)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._tag: str | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _trace: Any) -> None:
        self.close()
        if kind is None:
            self._raise_failure()

    def close(self) -> None:
        """Write what was added and end the thread; raises nothing."""
        if self._failure is None:
            self._hand_over()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def add(
        self,
        span: Span,
        indices: Sequence[int],
        values: dict[str, np.ndarray],
        errors: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Hand over one finished batch; it is written in the background.

        Args:
            span: (start, stop) of the batch in the source.
            indices: source indices of the rows.
            values: column name → (rows, …).
            errors: (source index, reason) of the pictures of the span without a row.
        """
        self._raise_failure()
        self._check(span, indices, values, errors)
        now = time.monotonic()
        if not self._batches:
            self._size, self._since = 0, now
        self._batches.append((span, indices, dict(values), errors))
        self._spans = union([*self._spans, span])
        self._size += sum(rows.nbytes for rows in values.values())
        old = now - self._since >= self.shard_seconds
        if self._size >= self.shard_bytes or old or len(self._spans) >= SHARD_SPANS:
            self._hand_over()

    def flush(self) -> None:
        """Write what was added so far, and wait until it is on the disk."""
        self._raise_failure()
        self._hand_over()
        self._queue.join()
        self._raise_failure()

    def write_now(
        self,
        span: Span,
        indices: Sequence[int],
        values: dict[str, np.ndarray],
        errors: Sequence[tuple[int, str]] = (),
    ) -> Path:
        """Write one batch as one shard, here and now; returns its path."""
        self._check(span, indices, values, errors)
        with explained(self.path):
            return self._write([(span, indices, dict(values), errors)])

    def _check(self, span: Span, indices, values, errors) -> None:
        """What would otherwise be found at the merge, when it is too late."""
        found = sorted([*indices, *(index for index, _ in errors)])
        if found != list(range(*span)):
            raise StoreError(
                f"a batch over pictures {span} came with rows or reasons for {found}; expected "
                "one for each"
            )
        for column in self.columns if len(indices) else ():
            shape = values[column.name].shape if column.name in values else None
            if shape != (len(indices), *column.shape):
                raise StoreError(
                    f"{column.name}: a batch of shape {shape}; expected "
                    f"{(len(indices), *column.shape)}"
                )

    def _hand_over(self) -> None:
        if not self._batches:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="diffeat-write", daemon=True)
            self._thread.start()
        self._queue.put(self._batches)
        self._batches, self._spans = [], []

    def _work(self) -> None:
        while (batches := self._queue.get()) is not None:
            try:
                # after a failure keep the queue moving, so that nobody waits for a dead writer
                if self._failure is None:
                    with explained(self.path):
                        self._write(batches)
            except BaseException as error:
                self._failure = error
            finally:
                del batches  # not kept in memory while waiting for the next
                self._queue.task_done()
        self._queue.task_done()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self, batches: list[Batch]) -> Path:
        folder = shard_folder(self.path)
        if not folder.is_dir():
            raise self._gone(folder)
        if self._tag is None:
            manifest = Manifest.read(folder)
            self._tag = "" if manifest is None else manifest.fingerprint
        spans = union(span for span, *_ in batches)
        image = memory_image(lambda file: self._fill(file, spans, batches))
        digest = new_hash(image).hexdigest()
        path = folder / f"shard-{spans[0][0]:010d}-{spans[-1][1]:010d}-{digest}.h5"
        try:
            write_synced(path, image)
        except FileNotFoundError:  # removed since it was looked at, or being removed
            raise self._gone(folder) from None
        return path

    def _gone(self, folder: Path) -> StoreError:
        return StoreError(f"{folder} is not there: nobody is making {self.path}, or it is finished")

    def _fill(self, file: h5py.File, spans: list[Span], batches: list[Batch]) -> None:
        indices = np.array([k for _, found, _, _ in batches for k in found], np.int64)
        order = np.argsort(indices, kind="stable")
        indices = indices[order]
        skipped = sorted(one for *_, errors in batches for one in errors)
        file.attrs["request"] = self._tag
        file.attrs["columns"] = columns_hash(self.columns)
        file.attrs["spans"] = np.array(spans, np.int64)
        ids, labels = self.source.ids, self.source.labels
        file["index"] = indices
        file["skipped_index"] = np.array([index for index, _ in skipped], np.int64)
        for name, texts in (
            ("ids", [ids[index] for index in indices]),
            ("skipped_ids", [ids[index] for index, _ in skipped]),
            ("skipped_reason", [reason for _, reason in skipped]),
        ):
            file.create_dataset(name, data=texts, dtype=TEXT)
        if labels is not None:
            file["labels"] = np.asarray(labels)[indices].astype(np.int64)
        for name, column in self.source.targets.items():
            file[f"{TARGETS}/{name}"] = column.take(indices).values
        in_order = bool((order[:-1] < order[1:]).all())
        for column in self.columns:
            for name, values in _column_values(column, batches).items():
                file[name] = values if in_order else values[order]


def _column_values(column: Column, batches: list[Batch]) -> dict[str, np.ndarray]:
    """What a shard holds of a column, by data set; the batches let go of it."""
    found = [values.pop(column.name) for _, _, values, _ in batches if column.name in values]
    empty = np.empty((0, *column.shape), "float32" if column.dtype == "int8" else column.dtype)
    values = found[0] if len(found) == 1 else np.concatenate([empty, *found])
    try:
        with np.errstate(over="raise"):
            return stored_values(column, values)
    except FloatingPointError:
        raise NumericsError(
            f"{column.name}: numbers too large for {column.dtype}; store as float32"
        ) from None


def union(spans: Iterable[Span]) -> list[Span]:
    """Ranges that overlap or touch are joined; the result ascends."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def columns_hash(columns: Sequence[Column]) -> str:
    """Says whether a shard holds these data sets; attributes play no part."""
    return fingerprint([(c.name, c.shape, c.dtype) for c in stored(columns)])
