"""The folder of shards: which pictures are finished, and whether the shards are sound."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import DiffeatError, StoreError
from diffeat.images.columns import TargetColumn
from diffeat.store.format.atomic import is_regular, locked
from diffeat.store.format.checksums import file_checksum
from diffeat.store.format.columns import Column
from diffeat.store.format.layout import shard_folder, stored
from diffeat.store.format.manifest import Manifest
from diffeat.store.format.safety import (
    check_links,
    check_texts,
    damage_explained,
    open_part,
    read_attr,
    read_text,
)
from diffeat.store.format.targets import GROUP as TARGETS
from diffeat.store.format.targets import check_values, shape_of
from diffeat.store.write.shards import SHARD_SPANS, Span, columns_hash, union

SHARD_ROWS = 1 << 24
"""No shard covers more pictures."""
NAME = re.compile(r"shard-(\d{10,12})-(\d{10,12})-([0-9a-f]{32})\.h5")
Spans = tuple[Span, ...]


class ShardFolder:
    """The folder of shards of one feature file; looks at the disk anew with each call.

    Args:
        output: the feature file that the user named.

    Attributes:
        path: the folder, whether it is there or not.
    """

    def __init__(self, output: str | Path):
        self.output = Path(output)
        self.path = shard_folder(self.output)
        self._known: dict[str, Spans | None] = {}

    def exists(self) -> bool:
        """Whether it is there."""
        if self.path.is_symlink():
            raise StoreError(f"{self.path} is a link; expected a folder: remove it")
        return self.path.is_dir()

    def lock(self):
        """Its lock as an open file; see `locked`."""
        return locked(self.path / "lock", self.output)

    def manifest(self) -> Manifest:
        """What is being made; StoreError if the folder does not say."""
        found = Manifest.read(self.path)
        if found is None or found.columns is None:
            raise StoreError(
                f"{self.path} does not say what is being made; run the same `diffeat extract` again"
            )
        return found

    def files(self) -> list[Path]:
        """Everything that has a shard's name, ascending; nothing where the folder is gone."""
        with suppress(FileNotFoundError):  # while it is looked at
            return sorted(p for p in self.path.glob("shard-*.h5") if NAME.fullmatch(p.name))
        return []

    def shards(self, manifest: Manifest) -> dict[Path, Spans]:
        """The shards that were made by a manifest, ascending, as far as their attributes tell.

        Returns:
            Where each lies, and the ranges of pictures that it covers, ascending.
        """
        found = {}
        for path in self.files():
            if path.name not in self._known:
                spans = _spans_of(path, manifest)
                if spans is None:  # not kept: the next one of that name may be sound
                    continue
                self._known[path.name] = spans
            if self._known[path.name] is not None:
                found[path] = self._known[path.name]
        return found

    def covered(self, manifest: Manifest) -> list[Span]:
        """Ranges of pictures that are in shards: ascending, apart, none twice."""
        return union(span for spans in self.shards(manifest).values() for span in spans)

    def known(self, manifest: Manifest) -> tuple[list[str], np.ndarray | None]:
        """Ids and (n, 16) digests of the pictures whose rows are in shards; None without any."""
        found: dict[str, np.ndarray | None] = {}
        for path in self.shards(manifest):
            with damage_explained(path, "the shard"), open_part(path) as file:
                check_links(file, path)
                ids = file["ids"].asstr()[:].tolist()
                digests = file["digests"][:] if "digests" in file else [None] * len(ids)
                found |= zip(ids, digests, strict=True)
        lacking = not found or any(one is None for one in found.values())
        return list(found), None if lacking else np.stack(list(found.values()))

    def forget(self, path: Path) -> None:
        """Remove a shard."""
        path.unlink(missing_ok=True)
        self._known.pop(path.name, None)

    def ignore(self, path: Path) -> None:
        """Count a shard as not there."""
        self._known[path.name] = None

    def remove(self) -> None:
        """Remove the folder, with the shards of whoever may still be writing.

        Shards go first: killed in between, it leaves no shard without the manifest.
        """
        with suppress(OSError):
            for path in self.files():
                path.unlink()
        shutil.rmtree(self.path, ignore_errors=True)


def missing_spans(covered: Sequence[Span], count: int) -> list[Span]:
    """The ranges of 0 … count that are not covered."""
    edges = [0, *(edge for span in covered for edge in span), count]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(start, stop) for start, stop in pairs if start < stop]


def _spans_of(path: Path, manifest: Manifest) -> Spans | None:
    """What a shard covers by its attributes alone, or None if it is not one of this manifest.

    Nothing but attributes is touched, so that no link can be followed.
    """
    with suppress(Exception):  # h5py lets nearly every kind of error through
        if not is_regular(path):
            return None
        with open_part(path) as file:
            if read_text(file, "request") not in ("", manifest.fingerprint):
                return None
            if read_text(file, "columns") != columns_hash(manifest.columns or ()):
                return None
            spans = read_attr(file, "spans", 2 * SHARD_SPANS)
        spans = [(int(start), int(stop)) for start, stop in spans]
        sound = all(0 <= start < stop <= manifest.count for start, stop in spans)
        apart = all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        few = sum(stop - start for start, stop in spans) <= SHARD_ROWS
        if spans and sound and apart and few:
            return tuple(spans)
    return None


def damage(
    path: Path, spans: Spans, manifest: Manifest, digest: Callable[[], str] | None = None
) -> str | None:
    """What is wrong with a shard, or None: its checksum, and all that it claims to hold.

    Args:
        path, spans: which, and what it covers.
        manifest: what it is of.
        digest: gives the checksum of its bytes, where somebody takes it already.
    """
    try:
        if not is_regular(path):
            return "is a link"
        if (digest or partial(file_checksum, path))() != NAME.fullmatch(path.name)[3]:
            return "has another checksum than its name says"
        with open_part(path) as file:
            check_links(file, path)
            check_shard(file, spans, manifest)
    except FileNotFoundError:
        return "is gone"
    except (DiffeatError, KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
        return f"is damaged ({error})"
    return None


def check_shard(file: h5py.File, spans: Spans, manifest: Manifest) -> None:
    """ValueError unless an open shard holds what its attributes say, in plain sight."""
    rows = check_texts(file, "ids")
    skipped = check_texts(file, "skipped_ids")
    if check_texts(file, "skipped_reason") != skipped:
        raise ValueError("as many skipped ids as reasons were expected")
    wanted = sum(stop - start for start, stop in spans)
    if rows + skipped != wanted:
        raise ValueError(f"it holds {rows + skipped} pictures of the {wanted} that it claims")
    lists = [Column("index", (), "int64", {})] + [
        Column("labels", (), "int64", {}) for _ in range(manifest.labelled)
    ]
    lists += [
        Column(f"{TARGETS}/{name}", *shape_of(one), {}) for name, one in manifest.targets.items()
    ]
    for column in (*lists, *stored(manifest.columns)):
        _check_plain(file[column.name], column.name, (rows, *column.shape), column.dtype)
    _check_plain(file["skipped_index"], "skipped_index", (skipped,), "int64")
    held = np.sort(np.concatenate([file["index"][:], file["skipped_index"][:]]))
    if not np.array_equal(held, np.concatenate([np.arange(*span) for span in spans])):
        raise ValueError("it does not hold the pictures that it claims")
    if manifest.labelled and rows:
        labels = file["labels"][:]
        if labels.min() < -1 or labels.max() >= len(manifest.class_names):
            raise ValueError("labels lie outside their names")
    for name, one in manifest.targets.items():
        values = file[f"{TARGETS}/{name}"][:]
        check_values(TargetColumn(one["kind"], tuple(one["names"]), values), name)


def _check_plain(data, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """A data set that lies in one piece in this file, of the very shape and type."""
    if not isinstance(data, h5py.Dataset) or data.shape != shape or data.dtype != np.dtype(dtype):
        raise ValueError(f"{name} is {data!r}; expected {shape} {dtype}")
    if data.chunks or data.is_virtual or data.id.get_storage_size() != data.nbytes:
        raise ValueError(f"{name} claims {data.nbytes} bytes, which it does not hold")
