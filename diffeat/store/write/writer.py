"""The owner of one feature file in the making: its lock, its identity, and its merge."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.errors import DiffeatError, StoreError
from diffeat.images import Seen, Source
from diffeat.specs import differences
from diffeat.store.format.atomic import explained
from diffeat.store.format.columns import Column
from diffeat.store.format.compress import check_compression, compression_of
from diffeat.store.format.header import check_header, read_skipped
from diffeat.store.format.layout import Progress
from diffeat.store.format.manifest import CLASSES, NAME, Manifest
from diffeat.store.format.safety import (
    check_links,
    damage_explained,
    open_checked,
    open_part,
    read_attr,
)
from diffeat.store.format.seen import write_seen
from diffeat.store.read.reader import FeatureStore
from diffeat.store.write.folder import ShardFolder, missing_spans
from diffeat.store.write.growth import HELD, Growth, becomes, changes_of, difference_text
from diffeat.store.write.held import HeldRows
from diffeat.store.write.merge import merge_shards
from diffeat.store.write.shards import SHARD_BYTES, SHARD_SECONDS, ShardWriter, Span, union

OLD_NAME = re.compile(r"shard-(\d{10})-(\d{10})\.h5")
"""Shards before version 0.3, without checksum and ids."""


class StoreWriter:
    """Owns one feature file while it is made; a context manager that keeps what was finished.

    Batches are handed over with `add`, or written by ShardWriters in other processes; `finish`
    merges what all of them wrote.

    Args:
        path: the file that the user named.
        manifest: what it is made of; data sets and classes are added here.
        source: the pictures, in order.
        columns: the data sets.
        overwrite: replace what lies at `path`, whatever it is, once the new file is whole.
        compression: of the finished file: "none", "lzf", "gzip" or "zstd". It does not belong
            to the manifest: a finished file with another one is left as it is, with a warning.
        alone: whether no other process writes shards; then a folder without any is removed.
        seen: what is known of the pictures.
        growth: how the finished file at `path` becomes one of these pictures; None where there
            is none, or where it must not.
        noted: whether what is seen is left for a run that goes on after this one.

    Attributes:
        complete: the file is there and whole, made by the same manifest.
        done: number of pictures that earlier runs finished.
        rows: of the file, once it is complete.
        skipped: id → reason of the pictures that it leaves out, once it is complete.

    Raises:
        SpecMismatch: `path` or its shards were made by another manifest.
        StoreError: `path` cannot be written, or another process is writing it.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        source: Source,
        columns: Sequence[Column],
        overwrite: bool = False,
        compression: str = "none",
        alone: bool = True,
        seen: Seen | None = None,
        growth: Growth | None = None,
        noted: bool = True,
    ):
        self.path, self.source = Path(path), source
        self.columns = list(columns)
        self.overwrite = overwrite
        self.compression = check_compression(compression)
        self.alone, self.seen, self.noted = alone, seen, noted
        self.growth = growth
        self.complete = False
        self.done = self.rows = 0
        self.skipped: dict[str, str] = {}
        self.folder = ShardFolder(self.path)
        self.manifest = manifest
        self._shards: ShardWriter | None = None
        self._lock = None

    def __enter__(self) -> StoreWriter:
        with explained(self.path):
            _check_encodable(self.source)
            if self.path.is_dir():
                raise StoreError(f"{self.path} is a folder; expected the name of a file")
            try:
                self._open()
            except BaseException:
                self._unlock()
                raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _trace: Any) -> None:
        failure = None
        if self._shards is not None:
            try:
                self._shards.__exit__(kind, error, _trace)
            except BaseException as found:
                failure = found
        if self.alone and self._lock is not None and not self.complete and not self._begun():
            self.folder.remove()  # nothing to go on from, and nobody who still writes
        self._unlock()
        if failure is not None:
            raise failure

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open(self) -> None:
        if self.growth is not None:
            self.manifest = self.growth.noted(self.manifest)
        self.manifest = self.manifest.filled(self.source, self.columns)
        if self._finished():
            self._clear_up()
            return
        if self.growth is not None:
            self.growth.check(self.manifest)
            self._compare_with_grown()
        self.folder.exists()
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self._lock = self.folder.lock()
        if self._finished():  # by the process that held the lock until now
            self._clear_up()
            return
        for leftover in self.folder.path.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        self._go_on()
        self.done = sum(stop - start for start, stop in self.covered())

    def _clear_up(self) -> None:
        """Remove shards of this same manifest, unless somebody is making the file anew.

        The file is whole, so shards that cannot be read or removed are no error.
        """
        with suppress(StoreError, OSError):
            if not self.folder.exists():
                return
            if self._lock is None:
                self._lock = self.folder.lock()
            found = Manifest.read(self.folder.path)
            if found is None:
                ours = not self.folder.files()  # what a removal left that was killed
            else:
                ours = self._whole().fingerprint in (found.fingerprint, becomes(found))
            if ours:
                self.folder.remove()
        self._unlock()

    def _finished(self) -> bool:
        """Whether the file is there and complete; SpecMismatch if it is another's."""
        if not self.path.exists() or self.overwrite:
            return False
        try:
            file = open_checked(self.path)
        except StoreError as error:
            raise StoreError(f"{error}; or replace what is there (--overwrite)") from error
        with file, damage_explained(self.path, "its description"):
            found, whole = Manifest.from_attrs(file), self._whole()
            if self.growth is not None and found.fingerprint != whole.fingerprint:
                return False
            whole.check_same(found, self.path, self._differing)
            self.complete = bool(read_attr(file, "complete", 1))
            if self.complete:
                self.manifest = replace(self.manifest, how=found.how)
                self.rows, self.skipped = check_header(file), read_skipped(file)
                self._compare_compression(file)
        return self.complete

    def _whole(self) -> Manifest:
        """What the file in the end is made of."""
        return self.manifest if self.growth is None else self.growth.whole(self.manifest)

    def _differing(self) -> str:
        """How the finished file's pictures differ from these; "" where it cannot be told."""
        seen = self.seen or Seen(self.source.ids, None, None, 0)
        with suppress(DiffeatError), FeatureStore(self.path) as store:
            return difference_text(store, seen)
        return ""

    def _differing_parts(self, earlier: Manifest) -> str:
        """The same of the pictures that unfinished parts hold; of others they know no names."""
        ids, digests = self.folder.known(earlier)
        seen = self.seen or Seen(self.source.ids, None, None, 0)
        found = changes_of(ids, digests, seen)._replace(new=[])
        of = f"of {earlier.count} there and {len(self.source)} here, {len(ids)} are finished"
        return f"{of}; of these {found}" if any(found) else f"{of}, all of which are here"

    def _compare_with_grown(self) -> None:
        """Say it where a file that grows is stored otherwise from now on."""
        with suppress(DiffeatError), FeatureStore(self.path) as store:
            if store.compression != self.compression:
                warnings.warn(
                    f"{self.path} is there with compression {store.compression} and is written "
                    f"anew with {self.compression}; --compression {store.compression} keeps it",
                    stacklevel=5,
                )

    def _begun(self) -> bool:
        """Whether there is something in the folder to go on from."""
        return bool(self.folder.covered(self.manifest)) or any(
            self.folder.path.glob(HELD.format("*"))
        )

    def _compare_compression(self, file: h5py.File) -> None:
        found = [file[c.name] for c in self.columns if c.name in file]
        names = {compression_of(data) for data in found if isinstance(data, h5py.Dataset)}
        if names and names != {self.compression}:
            warnings.warn(
                f"{self.path} is there with compression {', '.join(sorted(names))}; to rewrite it: "
                f"diffeat merge OTHER.h5 {self.path} --compression {self.compression}",
                stacklevel=5,
            )

    def _go_on(self) -> None:
        """Compare with the manifest of an earlier run, and write down what is made now."""
        old = sorted(p for p in self.folder.path.glob("shard-*.h5") if OLD_NAME.fullmatch(p.name))
        earlier: Manifest | None = None
        try:
            if (self.folder.path / NAME).is_symlink():
                raise StoreError(f"{self.folder.path / NAME} is a link; remove it")
            if old or self.folder.files():
                earlier = Manifest.read(self.folder.path)
            if earlier is not None:
                self.manifest.check_same(
                    earlier, self.folder.path, lambda: self._differing_parts(earlier)
                )
        except StoreError:
            if not self.overwrite:
                raise
            for shard in (*old, *self.folder.files()):
                self.folder.forget(shard)
            old, earlier = [], None
            (self.folder.path / NAME).unlink(missing_ok=True)
        if earlier is not None:
            self.manifest = self._with_how(earlier.how)
        self.manifest.write(self.folder.path)
        if self.seen is not None and self.noted:
            write_seen(self.folder.path, self.seen)
        for shard in old:
            self._renew(shard)
        usable = self.folder.shards(self.manifest)
        for shard in self.folder.files():  # of an older version, or damaged: made again
            if shard not in usable:
                self.folder.forget(shard)

    def _with_how(self, before: dict[str, Any]) -> Manifest:
        """The manifest with what earlier runs did otherwise, after a warning."""
        now = self.manifest.how
        kept = list(before.get("earlier", ()))
        plain = {name: value for name, value in before.items() if name != "earlier"}
        known = {name: value for name, value in now.items() if name in plain or name != CLASSES}
        differ = differences(plain, known) if plain else []
        if differ:
            warnings.warn(
                f"{self.path} goes on in another way ({'; '.join(differ)}); features of the "
                "same picture may differ in their last bits",
                stacklevel=6,
            )
            kept.append(plain)
        return replace(self.manifest, how={**now, "earlier": kept}) if kept else self.manifest

    def _renew(self, path: Path) -> None:
        """Write a shard of an older version again, as shards are now; then remove it."""
        start, stop = map(int, OLD_NAME.fullmatch(path.name).groups())
        with damage_explained(path, "the shard"), open_part(path) as file:
            check_links(file, path)
            if all(column.name in file for column in self.columns):
                values = {column.name: file[column.name][:] for column in self.columns}
                reasons = file["skipped_reason"].asstr()[:]
                errors = list(zip(file["skipped_index"][:].tolist(), reasons, strict=True))
                writer = ShardWriter(self.path, self.columns, self.source)
                writer.write_now((start, stop), file["index"][:].tolist(), values, errors)
        path.unlink()

    def covered(self) -> list[Span]:
        """Ranges of pictures that are in shards now, whoever wrote them, or in the finished file
        that grows; ascending, apart."""
        found = self.folder.covered(self.manifest)
        held = [] if self.growth is None else [(self.growth.count, len(self.source))]
        return union([*found, *(span for span in held if span[0] < span[1])])

    def remaining(self, batch: int) -> list[Span]:
        """Ranges of at most `batch` pictures that no shard covers now.

        They are cut from the same grid in every run, so that a resumed run computes the same
        batches, and thereby the same bits, as an undisturbed one.
        """
        if self.complete:
            return []
        spans = []
        for first, stop in missing_spans(self.covered(), len(self.source)):
            start = first
            while start < stop:
                cut = min(stop, (start // batch + 1) * batch)
                spans.append((start, cut))
                start = cut
        return spans

    def add(
        self,
        span: Span,
        indices: Sequence[int],
        values: dict[str, np.ndarray],
        errors: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Hand over one finished batch, as `ShardWriter.add`."""
        if self._shards is None:
            self._shards = ShardWriter(
                self.path,
                self.columns,
                self.source,
                shard_bytes=SHARD_BYTES,
                shard_seconds=SHARD_SECONDS,
            )
        self._shards.add(span, indices, values, errors)

    def finish(self, progress: Progress = iter) -> None:
        """Merge the shards into the user's file and remove them.

        Args:
            progress: wraps the list of shards, such as a progress bar.

        Raises:
            StoreError: writing failed; shards stay for the next run.
        """
        if self._shards is not None:
            self._shards.flush()
        with explained(self.path):
            missing = sum(stop - start for start, stop in self.remaining(1 << 40))
            if missing:
                raise StoreError(
                    f"{self.folder.path}: shards are missing, with {missing} of {len(self.source)} "
                    "pictures; run the same command again"
                )
            with ExitStack() as stack:
                bases = () if self.growth is None else self.growth.bases
                held = [
                    stack.enter_context(HeldRows(base, self.source, self.columns, self.seen))
                    for base in bases
                ]
                self.rows, self.skipped = merge_shards(
                    self.folder, self.manifest, self.compression, progress, held, self.growth
                )
            self.folder.remove()
            self.complete = True


def _check_encodable(source: Source) -> None:
    targets = (text for name, one in source.targets.items() for text in (name, *one.names))
    for text in (*source.ids, *source.class_names, *targets):
        try:
            bad = "\0" in text or not text.encode()
        except UnicodeEncodeError:
            bad = True
        if bad:
            raise StoreError(
                f"{source.name}: the name {text!r} is no UTF-8 text without NUL, which HDF5 "
                "needs; rename the file"
            )
