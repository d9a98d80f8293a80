"""A file that somebody else holds is not damaged; file systems without locks can be read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import h5py
import pytest

from diffeat.errors import StoreError
from diffeat.store import FeatureStore, verify

HOLD = """
import sys, h5py
with h5py.File(sys.argv[1], "r+"):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_file_that_is_open_for_writing_is_called_locked(job):
    path = job().write()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreError, match="another program has it open for writing") as told:
            FeatureStore(path)
        assert "truncated" not in str(told.value)
        assert "close it there" in str(told.value)
        with pytest.raises(StoreError, match="another program has it open"):
            verify(path)
        other.communicate(b"")
    with FeatureStore(path) as store:
        assert len(store) == 10


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(job, monkeypatch, number):
    """HDF5 says so in the words of its own error; the file is then read without a lock."""
    path, opened = job().write(), h5py.File.__init__

    def refuse(self, name, *args, locking=None, **options):
        if isinstance(name, os.PathLike) and locking is not False:
            raise OSError(number, f"Unable to synchronously open file (unable to lock file, "
                          f"errno = {number}, error message = 'no')")  # fmt: skip
        opened(self, name, *args, locking=locking, **options)

    monkeypatch.setattr(h5py.File, "__init__", refuse)
    with FeatureStore(path) as store:
        assert len(store) == 10


def test_a_damaged_file_is_still_called_damaged(job):
    path = job().write()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="truncated, damaged"):
        FeatureStore(path)
