"""A file whose maps were made of those of other files: one (block, t), the rest carried over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import NumericsError, StoreError
from diffeat.images.columns import TargetColumn
from diffeat.noise import NO_T
from diffeat.store.format.atomic import explained, locked, new_file
from diffeat.store.format.checksums import BLOCK_BYTES, Checksums, write_list
from diffeat.store.format.columns import (
    PICTURE_COLUMNS,
    WHEN,
    Column,
    check_block,
    feature_name,
    picture_column,
)
from diffeat.store.format.compress import check_compression
from diffeat.store.format.header import create_header, write_skipped
from diffeat.store.format.layout import Progress, create_column, room_for, stored, stored_values
from diffeat.store.format.manifest import Manifest
from diffeat.store.format.targets import GROUP as TARGETS
from diffeat.store.format.targets import described
from diffeat.store.read.originals import moved
from diffeat.store.read.reader import FeatureStore

FORMS = ("float16", "float32", "int8")
Carried = dict[str, tuple[Column, np.ndarray]]


@dataclass(frozen=True)
class Derived:
    """What a derived file is made of.

    Attributes:
        store: an open file that has the pictures; what is known of them is carried over.
        rows: (n,) which of its rows, in order.
        block: name of the new maps.
        values: (n, C, h, w) floats, made when slices of them are read.
        spec, model, how: as in a `Manifest`.
        pictures: what else is said of the pictures than in `store`.
        dtype: "float16", "float32" or "int8".
    """

    store: FeatureStore
    rows: np.ndarray
    block: str
    values: Any
    spec: Mapping[str, Any]
    model: Mapping[str, Any]
    how: Mapping[str, Any]
    pictures: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float16"

    @property
    def column(self) -> Column:
        """The data set of the maps, whose stride is that of the higher side."""
        channels, height, width = self.values.shape[1:]
        size = self.spec.get("size") or (height, width)
        attrs = {
            "block": self.block, "t": int(NO_T), "alpha": 1.0, "sigma": 0.0,
            "log_snr": float("inf"), "layout": "NCHW",
            "stride": max(1, round(max(size[0] / height, size[1] / width))),
            "channels": int(channels),
        }  # fmt: skip
        name = feature_name(self.block, NO_T)
        return Column(name, (channels, height, width), self.dtype, attrs)


def write_derived(
    derived: Derived,
    path: str | Path,
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
) -> Path:
    """Write a derived file, some rows at a time; it appears under its name when it is whole.

    Args:
        derived: what it is made of.
        path: the new file.
        compression: "none", "lzf", "gzip" or "zstd".
        overwrite: replace what lies at `path`.
        progress: wraps the list of slices of rows.

    Returns:
        `path`.

    Raises:
        StoreError: it is there already, another process writes it, or it cannot be written.
        NumericsError: nan, inf, or numbers that the dtype does not hold.
    """
    path = Path(path)
    check_compression(compression)
    check_block(derived.block)
    if derived.dtype not in FORMS:
        raise StoreError(f"dtype {derived.dtype!r}; expected {', '.join(FORMS)}")
    if path.exists() and (path.is_dir() or not overwrite):
        raise StoreError(f"{path} is already there; pass --overwrite to replace it")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path):
            _write(derived, path, compression, progress)
    return path


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Alone in writing `path`: what a killed run left has one name, and is written over."""
    beside = path.with_name(f".{path.name}.lock")
    with locked(beside, path):
        try:
            yield
        finally:
            beside.unlink(missing_ok=True)


def _write(derived: Derived, path: Path, compression: str, progress: Progress) -> None:
    store, rows, count = derived.store, derived.rows, len(derived.rows)
    targets, carried = _targets(derived), _carried(store, rows)
    columns = [*stored([derived.column]), *(column for column, _ in carried.values())]
    room = room_for(columns, count, compression) + (1 << 20)
    names = None if store.labels is None else store.class_names
    partial = path.with_name(f".{path.name}")
    with new_file(partial, path, reserved=room) as (file, disk):
        manifest = replace(_manifest(derived, path), targets=described(targets))
        create_header(file, manifest, count, names, [float(NO_T)])
        write_list(file, "ids", [store.ids[row] for row in rows])
        if store.labels is not None:
            write_list(file, "labels", store.labels[rows])
        for name, column in targets.items():
            write_list(file, f"{TARGETS}/{name}", column.values)
        write_skipped(file, list(store.skipped), list(store.skipped.values()))
        for column in columns:
            create_column(file, column, count, compression)
        with Checksums() as checksums:
            for name, (_, values) in carried.items():
                file[name][:] = values
                checksums.add(name, values)
            for start, values in _blocks(derived, progress):
                for name, part in stored_values(derived.column, values).items():
                    file[name][start : start + len(part)] = part
                    checksums.add(name, part)
                disk.check()
            checksums.write(file)
        file.attrs["complete"] = True


def _blocks(derived: Derived, progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as the dtype has them), some MiB at a time."""
    count, each = len(derived.rows), 4 * int(np.prod(derived.values.shape[1:]))
    step = max(1, BLOCK_BYTES // max(1, each))
    spans = [slice(start, min(start + step, count)) for start in range(0, count, step)]
    for span in progress(spans):
        values = np.asarray(derived.values[span], np.float32)
        limit = np.finfo(np.float16).max if derived.dtype == "float16" else np.inf
        if not np.isfinite(values).all():
            raise NumericsError(f"{derived.block}: rows from {span.start} contain nan or inf")
        if (most := np.abs(values).max(initial=0)) > limit:
            raise NumericsError(
                f"{derived.block}: rows from {span.start} hold {most:g}, which float16 does not; "
                "write float32 (--dtype float32)"
            )
        yield span.start, values if derived.dtype == "int8" else values.astype(derived.dtype)


def _manifest(derived: Derived, path: Path) -> Manifest:
    pictures = moved(derived.store.pictures, derived.store.path, path)
    return Manifest(
        dict(derived.spec), dict(derived.model), {**pictures, **derived.pictures},
        dict(derived.how),
    )  # fmt: skip


def _targets(derived: Derived) -> dict[str, TargetColumn]:
    found = derived.store.targets
    return {name: found[name].take(derived.rows) for name in found}


def _carried(store: FeatureStore, rows: np.ndarray) -> Carried:
    """What is known of each picture: its data set, and the rows."""
    found: Carried = {}
    for name in PICTURE_COLUMNS:
        values = store.picture_column(name)
        if values is not None:
            attrs = store.file[name].attrs
            more: Sequence[str] = [WHEN] if WHEN in attrs else []
            column = picture_column(name, **{key: attrs[key] for key in more})
            found[name] = column, values[rows]
    return found
