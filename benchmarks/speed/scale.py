"""(g) What bounds an extraction on many machines: the parts that do not grow with accelerators.

Rates of one core, one disk and one driver are measured here; what a number of accelerators
would ask of them follows by arithmetic from an assumed rate of one accelerator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import diffeat
from benchmarks.speed.ensemble import BLOCK, TIMESTEP
from benchmarks.speed.flops import costs
from benchmarks.speed.settings import Settings
from benchmarks.speed.surface import MODEL, SIZE
from diffeat.engines.base import TASK_BYTES
from diffeat.engines.on_ray import TASK_PIXELS
from diffeat.images import fit_picture
from diffeat.store import Column, Manifest, ShardWriter, StoreWriter

ASSUMED_TFLOPS = 300.0
"""What one accelerator is taken to sustain on this network; part (f) measures it on a GPU."""
ACCELERATORS = (1, 8, 100, 800)
PICTURES = 1_281_167  # ImageNet's training pictures
CHANNELS, STRIDE = 1280, 16  # of BLOCK


def measure(settings: Settings) -> dict[str, Any]:
    """Measured rates, and what they mean for one to hundreds of accelerators."""
    cost = costs(MODEL, SIZE, (BLOCK,))
    flops = cost.run(1, [BLOCK])
    rates = {
        "decode_ms": 1e3 * _decode(settings.by_length(60, 4)),
        **_store(settings.by_length(512 << 20, 8 << 20)),
        "ray_tasks_per_second": _ray_tasks(settings.by_length(400, 8)),
    }
    cells = (SIZE[0] // STRIDE) * (SIZE[1] // STRIDE)
    sizes = {"pixels": 3 * SIZE[0] * SIZE[1], "vector": 2 * CHANNELS, "map": 2 * CHANNELS * cells}
    return {
        "model": MODEL,
        "size": list(SIZE),
        "block": BLOCK,
        "timestep": TIMESTEP,
        "gflops_per_picture": flops / 1e9,
        "assumed_tflops": ASSUMED_TFLOPS,
        "pictures": PICTURES,
        "bytes_per_picture": sizes,
        "rates": {name: None if rate is None else float(f"{rate:.4g}")
                  for name, rate in rates.items()},
        "accelerators": [_demand(count, flops, sizes, rates) for count in ACCELERATORS],
    }  # fmt: skip


def _demand(
    count: int, flops: int, sizes: dict[str, int], rates: dict[str, float]
) -> dict[str, Any]:
    """What `count` accelerators ask of everything else.

    rate = count·R / F; compute = N / rate; cores = rate·decode; merge = N·bytes / merge rate
    """
    rate = count * ASSUMED_TFLOPS * 1e12 / flops
    merge = {
        kind: PICTURES * sizes[kind] / 1e6 / rates["merge_mb_per_second"]
        for kind in ("vector", "map")
    }
    found = {
        "accelerators": count,
        "pictures_per_second": rate,
        "compute_seconds": PICTURES / rate,
        "decoding_cores": rate * rates["decode_ms"] / 1e3,
        "tasks_per_second": rate * sizes["pixels"] / TASK_PIXELS,
        "pixels_mb_per_second": rate * sizes["pixels"] / 1e6,
        "vectors_mb_per_second": rate * sizes["vector"] / 1e6,
        "maps_mb_per_second": rate * sizes["map"] / 1e6,
        "merge_vectors_seconds": merge["vector"],
        "merge_maps_seconds": merge["map"],
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _decode(repeats: int) -> float:
    """Seconds of one core for one photograph: reading, decoding, resizing."""
    source = diffeat.open_source("photos")

    def once() -> None:
        for index in range(len(source)):
            fit_picture(source.load(index), SIZE, "squash", "bicubic")

    once()
    return _seconds(lambda: [once() for _ in range(repeats)]) / repeats / len(source)


def _store(size: int) -> dict[str, float]:
    """Megabytes per second into shards, and from shards into the file, each synced."""
    rows = size // (2 * CHANNELS)
    step = max(1, TASK_BYTES // (2 * CHANNELS))
    ids = tuple(f"{index:07d}.jpg" for index in range(rows))
    source = diffeat.images.ArraySource("rates", ids, pixels=np.zeros((rows, 1, 1), np.uint8))
    what = {"block": BLOCK, "t": TIMESTEP, "alpha": 1.0, "sigma": 0.0, "log_snr": 0.0,
            "layout": "NC", "stride": STRIDE, "channels": CHANNELS}  # fmt: skip
    column = Column(f"features/{BLOCK}/t{TIMESTEP}", (CHANNELS,), "float16", what)
    spec = diffeat.ExtractSpec((TIMESTEP,), (BLOCK,), pool="1x1").to_dict()
    model = {"name": "none", "family": "none", "fingerprint": "", "dtype": "float32"}
    request = Manifest(spec, model, {"name": "rates", "count": rows, "fingerprint": ""})
    values = np.random.default_rng(0).standard_normal((rows, CHANNELS)).astype(np.float16)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rates.h5"
        with StoreWriter(path, request, source, [column]) as writer:
            shards = ShardWriter(path, [column], source)

            def write() -> None:
                for first in range(0, rows, step):
                    span = (first, min(first + step, rows))
                    part = {column.name: values[slice(*span)]}
                    shards.write_now(span, range(*span), part)

            written, merged = _seconds(write), _seconds(writer.finish)
    megabytes = values.nbytes / 1e6
    return {
        "shard_mb_per_second": megabytes / written,
        "merge_mb_per_second": megabytes / merged,
    }


def _ray_tasks(count: int) -> float | None:
    """Tasks per second that the driver hands out; None where Ray is not installed."""
    try:
        import ray
        import ray.data
    except ImportError:
        return None
    if ray.is_initialized():
        return None
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"task": index} for index in range(count)]

        def hand_out() -> None:
            rows = ray.data.from_items(items, override_num_blocks=count).map(_pass_on)
            assert sum(1 for _ in rows.iter_rows()) == count

        hand_out()
        return count / _seconds(hand_out)
    finally:
        ray.shutdown()


def _pass_on(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
