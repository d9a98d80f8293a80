"""Files that appear under their name only when they are whole, and locks that die with us."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from diffeat.errors import PictureError, StoreError


@contextmanager
def new_file(path: Path, final: Path | None = None) -> Iterator[h5py.File]:
    """An HDF5 file that appears under its name (or as `final`) only when whole and synced."""
    partial = path.with_name(path.name + ".tmp")
    try:
        # latest: attributes may be larger than 64 KiB (many class names)
        with h5py.File(partial, "w", libver=("v108", "latest"), track_order=True) as file:
            yield file
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, final or path)
        sync_folder((final or path).parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def new_small_file(path: Path) -> Iterator[h5py.File]:
    """The same for a file that fits in memory, where HDF5 builds it.

    HDF5 may crash the process when the disk fills up under it; plain writing fails cleanly.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    write_synced(path, image)


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file under another name, sync it, and rename it into place."""
    partial = path.with_name(path.name + ".tmp")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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
    """An open, exclusively locked file; the system lets go of it when the process dies."""
    file = open(path, "w")  # noqa: SIM115 (stays open as long as the lock is held)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StoreError(
            f"{output}: another process is writing it; wait for it or stop it"
        ) from None
    return file


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the file system into StoreErrors that say what to do."""
    try:
        yield
    except (StoreError, PictureError):
        raise
    except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        what = (
            "the disk is full; free space"
            if full
            else f"cannot be written ({error}); check that the folder is there and writable"
        )
        raise StoreError(
            f"{path}: {what} and run the same command again. Finished pictures are kept"
        ) from error
