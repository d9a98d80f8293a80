"""Files that claim more than they hold: refused, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest

from diffeat.errors import StoreError
from diffeat.store import FeatureStore, verify
from tests.store.conftest import Job

LIMIT = 192 << 20
"""What reading a hostile file may cost beyond an interpreter with the library."""

START = """
import resource, sys
import h5py, hdf5plugin
from diffeat.errors import DiffeatError
from diffeat.store import FeatureStore, merge_files, verify

def limit(more):
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.RLIM_INFINITY))
"""
READ = """
import json

def use(path):
    with FeatureStore(path) as store:
        store.ids, store.labels, store.class_names, store.boxes, store.skipped, store.how
        for block in store.blocks:
            for t in store.timesteps:
                store[block, t][:1]

def seen(path):
    for action in (use, verify, lambda path: merge_files([path], path + ".out")):
        limit(int(sys.argv[1]))
        try:
            yield ["fine", action(path)]
        except DiffeatError as error:
            yield ["refused", str(error)]

for path in sys.argv[2:]:
    print(json.dumps(list(seen(path)), default=str))
"""


def run(code: str, *args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, str(LIMIT), *map(str, args)],
        capture_output=True, text=True, check=False, timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def spoilt(path, change):
    """A sound file of ten labelled, padded pictures, which `change` spoils."""
    names = ("cat", "dog")
    Job(path, labels=np.arange(10) % 2, class_names=names, fit="pad", boxes=True).write()
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
    return path


def replaced(name: str, **options):
    """A data set in another's place, with its attributes."""

    def change(file):
        attrs = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **options).attrs.update(attrs)

    return change


def bomb(name: str, shape, dtype, chunks, compression="gzip"):
    """A data set of zeros that is very much larger than what lies on the disk."""

    def change(file):
        replaced(name, shape=shape, dtype=dtype, chunks=chunks, compression=compression)(file)
        data = file[name]
        nbytes = int(np.prod(chunks)) * np.dtype(dtype).itemsize
        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(nbytes >> 20))
        packed += packer.flush()
        for corner in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunks, strict=True))):
            at = tuple(k * c for k, c in zip(corner, chunks, strict=True))
            data.id.write_direct_chunk(at, packed)

    return change


def many_texts(name: str):
    """Ten texts that all lie in the same place, which claims a whole GiB each."""

    def change(file):
        replaced(name, data=["x" * 40] * 10, dtype=h5py.string_dtype())(file)
        offset = file[name].id.get_offset()
        file.flush()
        with open(file.filename, "r+b") as raw:
            raw.seek(offset)
            rows = np.frombuffer(raw.read(160), np.uint32).reshape(10, 4).copy()
            rows[:] = rows[0]
            rows[:, 0] = 1 << 30
            raw.seek(offset)
            raw.write(rows.tobytes())

    return change


FEATURES = "features/mid/t20"
SPOILT = {
    "rows of an exabyte": replaced(FEATURES, shape=(10, 1 << 55), dtype="f4", chunks=(1, 1 << 16)),
    "an empty huge map": replaced(
        FEATURES, shape=(10, 1 << 14, 1 << 10, 1 << 10), dtype="f4", chunks=(1, 1, 256, 256)
    ),
    "one huge empty chunk": replaced(
        FEATURES, shape=(10, 1 << 28), dtype="f4", chunks=(10, 100_000_000)
    ),
    "a packed chunk of 256 MiB": bomb(FEATURES, (10, 1 << 26), "f4", (1, 1 << 26)),
    "a row of 10 GiB in 10 MB": bomb(FEATURES, (10, 1 << 28), "f4", (1, 1 << 24)),
    "packed labels": replaced(
        "labels", shape=(1 << 34,), dtype="i8", chunks=(1 << 20,), compression="gzip"
    ),
    "boxes of another shape": replaced(
        "boxes", shape=(10, 1 << 40), dtype="i4", chunks=(1, 1 << 16)
    ),
    "chunked ids": replaced("ids", shape=(1 << 40,), dtype=h5py.string_dtype(), chunks=(1024,)),
    "ids that were never written": replaced("ids", shape=(1 << 30,), dtype=h5py.string_dtype()),
    "ids of a fixed length": replaced("ids", shape=(10,), dtype="S100000000", chunks=(1,)),
    "ids in one place": many_texts("ids"),
    "elements that are arrays": replaced(FEATURES, shape=(10,), dtype="(100000,1000)f4",
                                         chunks=(1,)),
    "complex numbers": replaced(FEATURES, data=np.zeros((10, 3, 2, 2), complex)),
    "references": replaced(FEATURES, shape=(10,), dtype=h5py.ref_dtype),
    "lists": replaced(FEATURES, shape=(10,), dtype=h5py.vlen_dtype(np.float32)),
    "big whole numbers": replaced(FEATURES, data=np.zeros((10, 3, 2, 2), np.int64)),
    "an unknown filter": replaced(FEATURES, data=np.zeros((10, 3, 2, 2), "f4"), chunks=(1, 3, 2, 2),
                                  scaleoffset=2),
    "a long list of levels": lambda file: file["features"].attrs.create(
        "timesteps", np.zeros((1 << 20) + 1)
    ),
    "a long format": lambda file: file.attrs.create("format", np.ones(1 << 22)),
    "a table of specs": lambda file: file.attrs.create("spec", ["{}"] * 1000),
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """name → what reading, verifying and joining its file end with, in little memory."""
    folder = tmp_path_factory.mktemp("sizes")
    changes = {"nothing": lambda file: None, **SPOILT}
    paths = [spoilt(folder / f"{k}.h5", change) for k, change in enumerate(changes.values())]
    done = run(START + READ, *paths)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(changes, zip(paths, found, strict=True), strict=True))


@pytest.mark.parametrize("name", SPOILT)
def test_claims_are_refused_in_little_memory(seen, name):
    path, (read, verified, joined) = seen[name]
    for what, message in (read, joined):
        assert what == "refused"
        assert message.startswith(f"{path}: ")
    assert verified[0] == "refused" or verified[1], "verify finds nothing"
    assert not path.with_name(path.name + ".out").exists()


def test_a_sound_file_is_read_in_as_little_memory(seen):
    _, (read, verified, joined) = seen["nothing"]
    assert (read, verified, joined[0]) == (["fine", None], ["fine", []], "fine")


def test_the_measure_bites(tmp_path):
    """Under the same limit, plain h5py does not survive what is refused above."""
    path = spoilt(tmp_path / "x.h5", SPOILT["a packed chunk of 256 MiB"])
    code = "limit(int(sys.argv[1])); h5py.File(sys.argv[2])['features/mid/t20'][0, :10]; print(1)"
    done = run(START + code, path)
    assert done.returncode != 0
    assert done.stdout == ""


def test_large_rows_are_verified_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("diffeat.store.read.verify.BLOCK_BYTES", 1 << 16)
    made = Job(tmp_path / "x.h5", count=3, shape=(64, 64, 64), dtype="float32")  # 1 MiB each
    path = made.write()
    tracemalloc.start()
    assert verify(path) == []
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with h5py.File(path, "r+") as file:
        file["features/up.1/t60"][1, 63, 63, 63] = np.nan
    assert verify(path) == ["features/up.1/t60, rows from 1: inf or nan"]


def test_a_sparse_file(tmp_path):
    """A file with a hole in place of its rows."""

    def change(file):
        replaced(FEATURES, shape=(10, 1 << 24), dtype="f4")(file)
        file[FEATURES][9, -1] = 1.0  # claims all of it; the system writes one block

    path = spoilt(tmp_path / "x.h5", change)
    assert path.stat().st_blocks * 512 < 10 << 20
    with FeatureStore(path) as store, pytest.raises(StoreError, match="claims 671088640 bytes"):
        store["mid", 20]
    assert any("claims" in problem for problem in verify(path))
