"""Reading a feature file: whole, against a plain read() of the same bytes, and row by row."""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.common import ratios, rounded
from benchmarks.speed.settings import Settings
from diffeat.store import FeatureStore

SLICE = 4 << 20
"""Bytes of one plain read, and of one slice of a data set."""
BATCH = 64


def read_whole(path: Path, settings: Settings) -> dict[str, Any]:
    """Bytes per second of many rows, and of plain reads.

    `store[block, t][start:stop]` in slices of 4 MiB, against read() of 4 MiB at a time into one
    buffer. Both begin with an empty page cache, so the disk is read; they take turns, and who
    is first changes, because the disk's own caches favour whoever comes later. Then the same
    from the page cache, where the disk plays no part and the cost of HDF5 itself shows.
    """
    with FeatureStore(path) as store:
        payload = sum(store[key].nbytes for key in _keys(store))
    works = {"plain": _plain, "slices": _slices}
    names = list(works)
    cold: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(settings.by_length(9, 3)):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            drop_cache(path)
            cold[name].append(_seconds(lambda name=name: works[name](path)))
    drop_cache(path)
    left = resident_share(path)  # not 0 on a file system that lives in memory
    warm = {
        name: [_seconds(lambda work=work: work(path)) for _ in range(settings.by_length(5, 2))]
        for name, work in works.items()
    }
    size = path.stat().st_size
    return {
        "file_megabytes": round(size / 1e6, 3),
        "payload_megabytes": round(payload / 1e6, 3),
        "left_in_cache": round(left, 4),
        "cold_seconds": {name: rounded(times) for name, times in cold.items()},
        "cold_mb_per_s": _rates(size, payload, cold),
        "cached_mb_per_s": _rates(size, payload, warm),
        "share": _shares(payload, cold["slices"], size, cold["plain"]),
    }


def _rates(size: int, payload: int, times: dict[str, list[float]]) -> dict[str, float]:
    """MB/s by the median of the times; of the features' bytes, or of the file's where it is
    read as it lies."""
    return {
        name: round((size if name == "plain" else payload) / 1e6 / statistics.median(taken), 1)
        for name, taken in times.items()
    }


def _shares(payload: int, mine: list[float], size: int, plain: list[float]) -> dict[str, Any]:
    """What part of the plain rate is reached, turn by turn."""
    return ratios([taken * payload for taken in plain], [taken * size for taken in mine])


def read_rows(path: Path, settings: Settings) -> dict[str, Any]:
    """Rows per second: one by one at random, and by a shuffled DataLoader."""
    rng = np.random.default_rng(settings.seed)
    with FeatureStore(path) as store:
        key = _keys(store)[-1]
        data = store[key]
        order = rng.permutation(len(data))[: settings.by_length(1000, 64)]
        dataset = store.torch_dataset(*key)

        def one_by_one() -> None:
            for row in order:
                data[row]

        def loader() -> None:
            generator = torch.Generator().manual_seed(settings.seed)
            rows = torch.utils.data.Subset(dataset, order.tolist())
            for _ in torch.utils.data.DataLoader(rows, BATCH, shuffle=True, generator=generator):
                pass

        works = {"one_by_one": one_by_one, "shuffled_loader": loader}
        found: dict[str, Any] = {"rows": len(order), "row_bytes": data[0].nbytes}
        for name, work in works.items():
            work()
            times = [_seconds(work) for _ in range(3)]
            found[f"{name}_rows_per_s"] = round(len(order) / statistics.median(times), 1)
    return found


def drop_cache(path: Path) -> None:
    """Write a file back and take it out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_share(path: Path) -> float:
    """What part of a file's pages is in the page cache, by mincore()."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory,
    ):
        pages = np.zeros(-(-len(memory) // mmap.PAGESIZE), np.uint8)
        anchor = ctypes.c_char.from_buffer(memory)
        where = ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(len(memory))
        call = ctypes.CDLL(None, use_errno=True).mincore
        failed = call(*where, ctypes.c_void_p(pages.ctypes.data))
        del anchor  # it would keep the map from being closed
        if failed:
            raise OSError(ctypes.get_errno(), "mincore failed", str(path))
    return float((pages & 1).mean())


def _plain(path: Path) -> None:
    buffer = bytearray(SLICE)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _slices(path: Path) -> None:
    with FeatureStore(path) as store:
        for key in _keys(store):
            data = store[key]
            rows = max(1, SLICE // max(1, data.nbytes // len(data)))
            for start in range(0, len(data), rows):
                data[start : start + rows]


def _keys(store: FeatureStore) -> list[tuple[str, Any]]:
    return [(block, t) for block in store.blocks for t in store.timesteps]


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
