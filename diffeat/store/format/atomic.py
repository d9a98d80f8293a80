"""Files that appear under their name only when they are whole, and locks that die with us."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import resource
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from diffeat.errors import DiffeatError, StoreError, reason_of

KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE: blocks are set aside, the file stays as long as it is."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class GuardedFile(io.RawIOBase):
    """A new file under HDF5 that keeps the system's errors to itself.

    HDF5 cannot close what it could not write: after a failed write it leaves its objects open
    and may crash the process later. So the first error is noted, what comes after it is
    dropped, and whoever writes asks for it with `check`.
    """

    def __init__(self, path: Path):
        self._failure: OSError | None = None
        path.unlink(missing_ok=True)  # a leftover, or a link that must not be written through
        self._raw = open(path, "x+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._at = self._end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        self._do(lambda: _write_all(self._raw.fileno(), view, self._at))
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def readinto(self, data) -> int:
        view = memoryview(data).cast("B")
        view[:] = bytes(len(view))  # what was never written
        self._do(lambda: os.preadv(self._raw.fileno(), [view], self._at))
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        self._do(lambda: os.ftruncate(self._raw.fileno(), self._end))
        return self._end

    def flush(self) -> None:
        """Nothing waits here."""

    def sync(self) -> None:
        """Give back blocks that were set aside and not needed, and wait for the disk."""
        self._do(lambda: os.ftruncate(self._raw.fileno(), self._end))
        self._do(lambda: os.fsync(self._raw.fileno()))

    def check(self) -> None:
        """OSError if something could not be written."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _do(self, action: Callable[[], object]) -> None:
        if self._failure is None:
            try:
                action()
            except OSError as error:
                self._failure = error


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def new_file(
    path: Path, final: Path | None = None, reserved: int = 0
) -> Iterator[tuple[h5py.File, GuardedFile]]:
    """An HDF5 file that appears under its name (or as `final`) only when whole and synced.

    Args:
        path: where it is written, with .tmp at the end until it is whole.
        final: its name in the end.
        reserved: bytes of disk that are set aside first.

    Returns:
        The file for h5py, and what lies under it, whose `check` says whether all that was
        written has reached the system.

    Raises:
        OSError: no room, or something could not be written; at the end, or from `check`.
    """
    partial = path.with_name(path.name + ".tmp")
    disk = None
    try:
        disk = GuardedFile(partial)
        # latest: attributes may be larger than 64 KiB (many class names)
        with h5py.File(
            disk, "w", driver="fileobj", libver=("v108", "latest"), track_order=True
        ) as file:
            reserve(partial, reserved)
            yield file, disk
        disk.sync()
        disk.check()
        os.replace(partial, final or path)
        sync_folder((final or path).parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        if disk is not None:
            disk.close()


def memory_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file that `fill` fills, made in memory.

    HDF5 may crash the process when the disk fills up under it; plain writing fails cleanly.
    """
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return file.id.get_file_image()


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file under another name, sync it, and rename it into place.

    The other name is nobody else's, so that two processes may write the same file at once.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_small(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes; follows no link."""
    if not is_regular(path):
        raise StoreError(f"{path} is no regular file; remove it")
    if path.stat().st_size > most:
        raise StoreError(f"{path} is larger than {most} bytes; remove it")
    return path.read_bytes()


def is_regular(path: Path) -> bool:
    """Whether a path is a file itself, and no link to one."""
    return stat.S_ISREG(os.lstat(path).st_mode)


def reserve(path: Path, wanted: int) -> None:
    """Set aside `wanted` bytes for a file that is about to grow.

    So a full disk is met before work is spent on a file that will not fit. Where the file
    system cannot set blocks aside, free space is compared instead.

    Raises:
        OSError: ENOSPC, EDQUOT or EFBIG.
    """
    if wanted <= 0:
        return
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and wanted > limit:
        raise OSError(errno.EFBIG, "File too large")
    check_space(path.parent, wanted)  # fallocate would take what there is before it fails
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is None:
        return
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    with open(path, "r+b") as file:
        if fallocate(file.fileno(), KEEP_SIZE, 0, wanted) == 0:
            return
        reason = ctypes.get_errno()
        if reason in (*FULL, errno.EFBIG):
            os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size)
            raise OSError(reason, os.strerror(reason))


def check_space(folder: Path, wanted: int) -> None:
    """OSError (ENOSPC) if the disk of `folder` has fewer than `wanted` free bytes."""
    if shutil.disk_usage(folder).free < wanted:
        raise OSError(errno.ENOSPC, "No space left on device")


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path, output: Path):
    """An open, exclusively locked file; the system lets go of it when the process dies.

    Raises:
        StoreError: another process holds it, or the file system has no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, 0o666), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # who finished meanwhile has removed the folder, and the lock with it
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):  # not found: removed while we looked
        file.close()
        raise StoreError(
            f"{output}: another process is writing it; wait for it or stop it"
        ) from None
    except OSError as error:
        file.close()
        raise StoreError(
            f"{output}: this file system has no locks ({error.strerror}); choose an output on "
            "another one, such as a local disk"
        ) from error
    return file


@contextmanager
def explained(path: Path, then: str = "run the same command again") -> Iterator[None]:
    """Turn errors of the file system into StoreErrors that say what to do."""
    try:
        yield
    except DiffeatError:
        raise
    except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
        full = getattr(error, "errno", None) in FULL or any(
            words in str(error) for words in ("No space left", "Disk quota exceeded")
        )
        what = (
            "the disk is full; free space"
            if full
            else f"cannot be written ({reason_of(error)}); check that the folder is there and "
            "writable"
        )
        raise StoreError(f"{path}: {what} and {then}. Finished pictures are kept") from error
