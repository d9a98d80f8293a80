"""Opening HDF5 files of unknown origin: no other file is read, no claim is believed unchecked."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.errors import DiffeatError, StoreError
from diffeat.store.format.compress import FILTERS, need_plugin
from diffeat.store.format.layout import shard_folder

FORMAT = 1
ATTRIBUTES = 1 << 20
"""An attribute has no more elements."""
CHUNK_LIMIT = 64 << 20
"""A compressed chunk has no more bytes, because it is unpacked whole."""
RATIO, SMALL = 1024, 1 << 30
"""A data set larger than SMALL is not compressed further than RATIO."""
HOLES = 64
"""A file is no longer than so many times the disk that it takes."""
HELD = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
"""What a lock is refused with that somebody else holds."""
LOCKLESS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems without locks answer."""


@contextmanager
def damage_explained(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever h5py or JSON raise on a damaged file into a StoreError."""
    try:
        yield
    except DiffeatError:
        raise
    except Exception as error:  # h5py lets nearly every kind of error through
        raise StoreError(
            f"{path}: {what} is damaged ({type(error).__name__}: {error}); make the file again"
        ) from error


def open_checked(path: str | Path, cache: int | None = None) -> h5py.File:
    """Open a feature file for reading.

    Args:
        path: the file.
        cache: bytes of unpacked chunks that are kept for each data set; None is HDF5's choice.

    Raises:
        StoreError: missing, truncated, not HDF5, not ours, of another format, with links or
            storage in other files, or open for writing in another program.
    """
    path = Path(path)
    try:
        there = path.exists()
    except OSError as error:  # such as a name that is too long
        raise StoreError(f"{path}: {error.strerror}; check the path") from error
    if path.is_dir():
        raise StoreError(f"{path} is a folder; expected a feature file (.h5)")
    if not there:
        hint = (
            "; an unfinished extraction lies beside it: run the same command again to continue"
            if shard_folder(path).is_dir()
            else "; check the path"
        )
        raise StoreError(f"{path}: no such file{hint}")
    file = _open_locked(path, cache)
    try:
        check_links(file, path)
        found = read_attr(file, "format", 1)
        if found is None or "features" not in file or "ids" not in file:
            raise StoreError(
                f"{path}: an HDF5 file, but no diffeat feature file; expected the attribute "
                "'format' and the groups 'ids' and 'features'"
            )
        if int(found) != FORMAT:
            raise StoreError(
                f"{path}: format {found}, this version reads format {FORMAT}; update diffeat"
            )
    except BaseException as error:
        file.close()
        if isinstance(error, (StoreError, KeyboardInterrupt)):
            raise
        raise StoreError(f"{path}: damaged ({error}); make it again") from error
    return file


def _open_locked(path: Path, cache: int | None) -> h5py.File:
    """The file under HDF5's shared lock; without one where the file system has no locks.

    A finished file never changes, so it can be read without a lock; but who holds the lock
    against readers has opened it for writing, and what would be read then is anybody's guess.
    """
    try:
        return h5py.File(path, "r", rdcc_nbytes=cache)
    except OSError as error:
        number = _lock_error(error)
        if number in HELD:
            raise StoreError(
                f"{path}: another program has it open for writing and holds its HDF5 lock "
                "(the file itself need not be damaged); close it there, or wait until it ends. "
                "Expected a file that nobody writes: diffeat never writes into a finished one"
            ) from error
        damage = error
        if number in LOCKLESS:
            try:
                return h5py.File(path, "r", rdcc_nbytes=cache, locking=False)
            except OSError as second:
                damage = second
    raise StoreError(
        f"{path}: cannot be opened as HDF5 ({damage}); it is truncated, damaged or no "
        "feature file: make it again with `diffeat extract`"
    ) from damage


def _lock_error(error: OSError) -> int | None:
    """The errno of a lock that was not had, or None where the error is about something else."""
    if "lock file" not in str(error):
        return None
    found = re.search(r"errno = (\d+)", str(error))
    return error.errno or (int(found[1]) if found else None)


def open_part(path: Path) -> h5py.File:
    """A shard for reading, without a lock: shards are renamed into place whole, and whatever
    changed one afterwards shows in the checksum that its name holds."""
    return h5py.File(path, "r", locking=False)


def check_links(file: h5py.File, path: Path) -> None:
    """Refuse every link or storage in another file.

    Even a file in the same folder could link on to somewhere else, and diffeat writes none.
    Soft links stay within the file, whose other links are all checked here.
    """
    waiting: list[h5py.Group] = [file]
    seen: set = set()
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                _refuse(path, f"link {group.name.rstrip('/')}/{name}", link.filename)
            if isinstance(link, h5py.SoftLink):
                continue
            item = group[name]
            if isinstance(item, h5py.Dataset):
                for target, *_ in item.external or ():
                    _refuse(path, f"external storage of {item.name}", target)
                for source in item.virtual_sources() if item.is_virtual else ():
                    if source.file_name != ".":  # HDF5's name for the file itself
                        _refuse(path, f"virtual source of {item.name}", source.file_name)
            elif isinstance(item, h5py.Group) and item.id not in seen:
                seen.add(item.id)
                waiting.append(item)


def _refuse(path: Path, what: str, target: str | bytes) -> None:
    target = target.decode(errors="replace") if isinstance(target, bytes) else target
    raise StoreError(
        f"{path}: {what} points to another file, {target!r}; refused, because a feature file "
        "must not make you read others. Expected one file that holds all its data: copy it in"
    )


def read_attr(item: h5py.HLObject, name: str, most: int = ATTRIBUTES) -> Any:
    """An attribute of at most `most` elements, or None where there is none.

    Its size is looked at first: h5py would read whatever it claims to be.

    Raises:
        ValueError: it has more elements.
    """
    if name not in item.attrs:
        return None
    size = math.prod(item.attrs.get_id(name).shape or ())
    if size > most:
        raise ValueError(f"attribute {name!r} has {size} elements; expected at most {most}")
    return item.attrs[name]


def read_text(item: h5py.HLObject, name: str) -> str:
    """An attribute that is one text; KeyError, TypeError or ValueError for anything else."""
    value = read_attr(item, name, 1)
    if value is None:
        raise KeyError(f"attribute {name!r} is missing")
    return as_text(value)


def as_text(value: Any) -> str:
    if not isinstance(value, (bytes, str)):
        raise TypeError(f"{value!r:.100} is no text")
    return value.decode() if isinstance(value, bytes) else str(value)


def check_texts(file: h5py.File, name: str) -> int:
    """Length of a list of texts that may be read whole.

    diffeat writes texts of any length into one unbroken run, where each row is 16 bytes: its
    length, and where it lies. Two rows may claim the same place, so the lengths are added up
    before HDF5 makes a copy for each.

    Raises:
        TypeError, ValueError: it is anything else, or claims more than the file holds.
    """
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.ndim != 1:
        raise TypeError(f"{name} is no list")
    info = h5py.check_string_dtype(data.dtype)
    if info is None:
        raise TypeError(f"{name} has type {data.dtype}")
    held, row = _size_of(file), 16 if info.length is None else info.length
    size = len(data) * row
    if data.chunks or data.is_virtual or data.id.get_storage_size() != size or size > held:
        raise ValueError(f"{name} claims {len(data)} texts, which it does not hold")
    if info.length is None and len(data):
        offset = data.id.get_offset()
        if offset is not None:  # else it lies in the header itself and is short
            with open(file.filename, "rb") as raw:
                raw.seek(offset)
                rows = np.frombuffer(raw.read(16 * len(data)), np.uint32)
            if int(rows[::4].sum(dtype=np.uint64)) > held:
                raise ValueError(f"the texts of {name} claim to be longer than the file")
    return len(data)


def check_numbers(data: Any, name: str, kinds: str, shape: tuple[int | None, ...]) -> None:
    """See that a data set is what it claims, before anything is read from it.

    Args:
        data: what lies at `name`.
        kinds: numpy kinds that it may have, such as "f".
        shape: its shape; None for any length, an ellipsis at the end for any further axes.

    Raises:
        TypeError, ValueError: another type or shape, an unknown filter, or more values than
            the file can hold.
        StoreError: a filter that is not installed.
    """
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in kinds or data.dtype.shape:
        raise TypeError(f"{name} is no data set of " + KINDS[kinds])
    fixed = shape[:-1] if shape[-1:] == (...,) else shape
    fits = len(data.shape) == len(fixed) or (fixed != shape and len(data.shape) >= len(fixed))
    if not fits or any(w not in (None, f) for w, f in zip(fixed, data.shape, strict=False)):
        wanted = ", ".join("any" if s is None else "…" if s is ... else str(s) for s in shape)
        raise ValueError(f"{name} has shape {data.shape}; expected ({wanted})")
    claimed, held = data.nbytes, data.id.get_storage_size()
    if data.is_virtual:  # of this file itself
        held = _size_of(data.file)
        if claimed > held:
            raise ValueError(f"{name} claims {claimed} bytes, the whole file has {held}")
        return
    properties = data.id.get_create_plist()
    used = {properties.get_filter(k)[0] for k in range(properties.get_nfilters())}
    if unknown := used - set(FILTERS):
        raise ValueError(f"{name} went through filter {min(unknown)}, which diffeat never uses")
    need_plugin(used, data.file.filename)
    if not used & COMPRESSION:
        held = min(held, _size_of(data.file))
        if claimed > held:
            raise ValueError(f"{name} claims {claimed} bytes and holds {held}")
        return
    chunk = math.prod(data.chunks) * data.dtype.itemsize
    if chunk > CHUNK_LIMIT:
        raise ValueError(f"{name} has compressed chunks of {chunk} bytes")
    if claimed > SMALL and claimed > RATIO * held:
        raise ValueError(f"{name} claims to hold {claimed} bytes in {held}")


COMPRESSION = {number for number, name in FILTERS.items() if name not in ("shuffle", "fletcher32")}
KINDS = {"f": "floats", "i": "whole numbers", "iu": "whole numbers", "fi": "numbers"}


def _size_of(file: h5py.File) -> int:
    """Bytes that a file can hold; a file that is nearly all holes holds less than its length."""
    found = os.stat(file.filename)
    blocks = getattr(found, "st_blocks", 0)  # 0: the file system does not say
    return min(found.st_size, blocks * 512 * HOLES) if blocks else found.st_size
