"""`merge_files`: several finished feature files become one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from diffeat.errors import SpecError, SpecMismatch, StoreError
from diffeat.images import nfc
from diffeat.store.format.atomic import explained, new_file
from diffeat.store.format.checksums import (
    ATTRIBUTE,
    Checksums,
    check_lists,
    checked_blocks,
    write_list,
)
from diffeat.store.format.columns import PICTURE_COLUMNS, WHEN, Column
from diffeat.store.format.compress import check_compression
from diffeat.store.format.header import create_header, write_skipped
from diffeat.store.format.layout import Progress, create_column, room_for
from diffeat.store.format.quantize import quantization_attrs, scale_name
from diffeat.store.format.targets import GROUP as TARGETS
from diffeat.store.format.targets import described
from diffeat.store.join.alike import Joined, check_alike, columns_in, manifest_of
from diffeat.store.join.below import APART, below
from diffeat.store.join.beside import beside
from diffeat.store.read.originals import moved
from diffeat.store.read.reader import FeatureStore
from diffeat.store.read.view import FeatureView


def merge_files(
    paths: Sequence[str | Path],
    out: str | Path,
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
    prefixes: Sequence[str] | None = None,
) -> Path:
    """Join feature files of one model and one way of extraction into one file.

    Either the pictures differ: then rows come below each other, files in the order given, and
    class names are united. Or the pictures are the same, in the same order: then (block, t)
    come together, which must fill a whole table. One file alone is written again, say with
    another compression. What is in memory does not grow with the features.

    Args:
        paths: feature files.
        out: the new file.
        compression: "none", "lzf", "gzip" or "zstd".
        overwrite: replace what lies at `out`.
        progress: wraps the list of data sets.
        prefixes: one for each file: "train" makes ids train/<id>, so that pictures of several
            sources are told apart, whatever their names. The file notes them; noise stays what
            the ids without them seeded.

    Returns:
        `out`.

    Raises:
        SpecMismatch: the files do not fit together; says what differs.
        StoreError: a file cannot be read, or `out` cannot be written.
    """
    out = Path(out)
    check_compression(compression)
    prefixes = _checked(prefixes, len(paths))
    if not paths:
        raise StoreError("no feature files to merge were given")
    if out.exists() and (out.is_dir() or not overwrite):
        raise StoreError(f"{out} is already there; pass --overwrite to replace it")
    with ExitStack() as stack:
        stores = [stack.enter_context(FeatureStore(path)) for path in paths]
        for store in stores:
            check_lists(store.file)
        whole = _joined(stores, prefixes)
        pictures = moved(whole.manifest.pictures, stores[0].path, out)
        whole = replace(whole, manifest=replace(whole.manifest, pictures=pictures))
        with explained(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _write(whole, out, compression, progress)
    return out


def _checked(prefixes: Sequence[str] | None, count: int) -> list[str] | None:
    """One plain prefix for each file, or None; SpecError for others."""
    if not prefixes:
        return None
    found = [nfc(prefix).strip("/") for prefix in prefixes]
    if len(found) != count or not all(found) or any("\0" in prefix for prefix in found):
        raise SpecError(
            f"prefixes {', '.join(map(repr, prefixes))} for {count} files; expected one for each, "
            "such as train and test, in the order of the files"
        )
    return found


def _joined(stores: list[FeatureStore], prefixes: list[str] | None = None) -> Joined:
    """What some files give together.

    Raises:
        SpecMismatch: they do not fit together; says what differs.
    """
    first = stores[0]
    for store in stores[1:]:
        check_alike(first, store)
    if prefixes is not None:
        return below(stores, prefixes)
    if len(stores) == 1:
        sources = {name: [first] for name in columns_in(first)}
        known = first.ids, first.labels, first.class_names, first.skipped
        return Joined(manifest_of(first), *known, sources, dict(first.targets))
    same = [store.ids == first.ids for store in stores[1:]]
    if all(same):
        return beside(stores)
    if any(same):
        raise SpecMismatch(
            "some files hold the same pictures and others do not; join those with the same "
            f"pictures first, {APART}"
        )
    return below(stores)


def _columns(stores: list[FeatureStore], name: str) -> list[tuple[list, Column]]:
    """Data sets as they are stored, and what they become; of int8 also those of the scales."""
    if name in PICTURE_COLUMNS:
        found = [store.file[name] for store in stores]
    else:
        block, t = name.split("/")[1], float(name.split("/")[2][1:])
        found = [store[block, t] for store in stores]
    data = found[0]
    for store, other in zip(stores, found, strict=True):
        if other.shape[1:] != data.shape[1:]:
            raise SpecMismatch(
                f"{store.path}: {name} has rows of shape {other.shape[1:]}, elsewhere "
                f"{data.shape[1:]}"
            )
        if _stored(other) != _stored(data):
            raise SpecMismatch(
                f"{store.path}: {name} is stored as {_stored(other)}, elsewhere as "
                f"{_stored(data)}; extract all in the same dtype"
            )
    attrs = {key: data.attrs[key] for key in data.attrs if key != ATTRIBUTE}
    if WHEN in attrs:
        attrs[WHEN] = min(int(other.attrs.get(WHEN, 0)) for other in found)
    if name in PICTURE_COLUMNS or data.scales is None:
        found = [getattr(one, "stored", one) for one in found]
        return [(found, Column(name, data.shape[1:], str(data.dtype), attrs))]
    attrs |= {**quantization_attrs(name, data.shape[1:]), "group": data.group}
    if any(other.group != data.group for other in found):
        raise SpecMismatch(f"{name} was quantised in groups of other sizes")
    numbers = Column(name, data.shape[1:], "int8", attrs)
    scales = Column(scale_name(name), data.scales.shape[1:], "float32", {})
    return [([o.stored for o in found], numbers), ([o.scales for o in found], scales)]


def _stored(data) -> str:
    """The dtype in the file, and whether it is that of quantised numbers."""
    quantized = isinstance(data, FeatureView) and data.scales is not None
    return f"quantised {data.stored.dtype}" if quantized else str(data.dtype)


def _write(whole: Joined, out: Path, compression: str, progress: Progress) -> None:
    columns = [found for name, stores in whole.sources.items() for found in _columns(stores, name)]
    count = len(whole.ids)
    room = room_for([column for _, column in columns], count, compression) + (1 << 20)
    room += sum(len(name.encode()) + 64 for name in whole.ids)
    partial = out.with_name(f"{out.name}.{os.getpid()}-{secrets.token_hex(4)}")
    names = None if whole.labels is None else whole.class_names
    with new_file(partial, out, reserved=room) as (file, disk):
        manifest = replace(whole.manifest, targets=described(whole.targets))
        create_header(file, manifest, count, names, _steps(whole))
        write_list(file, "ids", whole.ids)
        if whole.labels is not None:
            write_list(file, "labels", whole.labels)
        for name, column in whole.targets.items():
            write_list(file, f"{TARGETS}/{name}", column.values)
        write_skipped(file, list(whole.skipped), list(whole.skipped.values()))
        with Checksums() as checksums:
            for found, column in progress(columns):
                target = create_column(file, column, count, compression)
                row = 0
                for data in found:
                    for start, rows in checked_blocks(data, (target.chunks or (1,))[0]):
                        target[row + start : row + start + len(rows)] = rows
                        checksums.add(column.name, rows)
                        disk.check()
                    row += len(data)
            checksums.write(file)
        file.attrs["complete"] = True


def _steps(whole: Joined) -> list[float]:
    """Native t of all features."""
    names = (name.split("/") for name in whole.sources if name not in PICTURE_COLUMNS)
    return list(dict.fromkeys(float(parts[2][1:]) for parts in names))
