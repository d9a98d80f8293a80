"""(f) Pictures per second, and what part of a device's matrix peak that is."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import diffeat
from benchmarks.speed.common import rounded, seconds, synchronize
from benchmarks.speed.flops import costs
from benchmarks.speed.settings import Settings
from diffeat.backbones.devices import pick_device
from diffeat.errors import DiffeatError
from diffeat.extraction import Extractor, Plan

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NO_GPU = "torch sees no GPU here"
AHEAD = 2
"""Batches that are queued before the first is fetched."""


@dataclass(frozen=True)
class Task:
    """One model at work: random weights, which change no speed, and one noise level.

    Attributes:
        model: what `diffeat.load` takes.
        block: the last that is needed.
        t: the noise level.
        size: (H, W) of the pictures in pixels.
        batches: of which sizes, ascending.
        spell: seconds that one measurement lasts at least.
        options: of `diffeat.load`.
    """

    model: str
    block: str
    t: int
    size: tuple[int, int]
    batches: tuple[int, ...]
    spell: float
    options: dict[str, Any] = field(default_factory=dict)


def measure(settings: Settings) -> dict[str, Any]:
    """Full-size models on a GPU: by batch size, then by precision, memory format and compile.

    Without a GPU it runs where it is asked for by name (`--part f`), with the bundled models.
    What is changed is compared with bf16 on a GPU, with fp32 on a CPU.
    """
    device = pick_device(settings.device)
    if device.type == "cpu" and not settings.alone:
        return {"device": "cpu", "left_out": NO_GPU}
    base = "fp32" if device.type == "cpu" and not settings.quick else "bf16"
    peaks = {name: matrix_peak(device, dtype, settings) for name, dtype in PRECISIONS.items()}
    return {
        "device": str(device),
        "device_name": _name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "base": base,
        "matrix_teraflops": peaks,
        "models": [
            _model(task, device, base, peaks[base], settings) for task in tasks(device, settings)
        ],
    }


def tasks(device: torch.device, settings: Settings) -> list[Task]:
    """SD 1.5 as DIFT uses it, and half of DiT-XL/2; of another model its last block."""
    if device.type == "cpu" and not settings.quick and not settings.model:
        sizes = {"size": (32, 32), "batches": (1, 8, 64), "spell": 2.0}
        return [
            Task("unet-cifar10", "up.1", 20, **sizes),
            Task("dit-cifar10", "block.3", 5, **sizes),
        ]
    whole = device.type != "cpu" and not settings.quick
    batches = (1, 2, 4, 8, 16, 32, 64) if whole else (1, 2)
    spell = 2.0 if whole else 0.0
    if settings.model:
        backbone = diffeat.load(settings.model, "meta")
        size = settings.size or backbone.native_size
        return [Task(settings.model, backbone.blocks[-1].name, 100, size, batches, spell)]
    sd_size = settings.size or ((512, 512) if whole else (128, 128))
    dit_size = settings.size or (256, 256)
    found = [
        Task("sd15@random", "up.1", 261, sd_size, batches, spell),
        Task("dit-xl-2-256@random", "block.13", 100, dit_size, batches, spell),
    ]
    return found if whole else found[:1]


def matrix_peak(device: torch.device, dtype: torch.dtype, settings: Settings) -> float:
    """TFLOP/s of products of two large square matrices, the best of several runs.

    2·n³ operations each; what no real network can be above.
    """
    side = 8192 if device.type == "cuda" and not settings.quick else 512
    generator = torch.Generator().manual_seed(settings.seed)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    times = 20 if side > 512 else 2

    def work() -> None:
        for _ in range(times):
            torch.mm(a, b)

    work()
    best = min(seconds(work, device) for _ in range(settings.by_length(5, 2)))
    return round(times * 2 * side**3 / best / 1e12, 3)


def _model(
    task: Task, device: torch.device, base: str, peak: float, settings: Settings
) -> dict[str, Any]:
    """All measurements of one model."""
    cost = costs(task.model, task.size, (task.block,))
    flops = cost.run(1, [task.block])
    plain = replace(task, options={"dtype": base, "channels_last": False})
    by_batch = _sweep(plain, device, settings)
    best = max((run for run in by_batch if "error" not in run), key=_rate, default=None)
    runs = {base: best}
    if best is not None:
        for name, options in variants(plain.options).items():
            if name == base:
                continue
            changed = replace(plain, options=options, batches=(best["batch"],))
            runs[name] = _sweep(changed, device, settings)[0]
    for run in [*by_batch, *runs.values()]:
        if run is not None and "error" not in run:
            reached = flops * _rate(run) / 1e12
            run["teraflops"] = float(f"{reached:.5g}")
            run["share_of_peak"] = float(f"{reached / peak:.5g}")
            run["gain"] = round(_rate(run) / _rate(best), 4)
    return {
        "model": task.model,
        "block": task.block,
        "t": task.t,
        "size": list(task.size),
        "gflops_per_picture": {
            "encoder": cost.encoder / 1e9,
            "denoiser": cost.denoiser[task.block] / 1e9,
        },
        "by_batch": by_batch,
        "variants": runs,
    }


def variants(plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is changed, one thing at a time and then what may go together."""
    return {
        "bf16": {**plain, "dtype": "bf16"},
        "fp16": {**plain, "dtype": "fp16"},
        "fp32": {**plain, "dtype": "fp32"},
        "channels last": {**plain, "channels_last": True},
        "compile": {**plain, "compile": True},
        "compile, channels last": {**plain, "compile": True, "channels_last": True},
    }


def _rate(run: dict[str, Any]) -> float:
    return run["pictures_per_s"]


def _sweep(task: Task, device: torch.device, settings: Settings) -> list[dict[str, Any]]:
    """One result per batch size, up to the first that does not fit in memory.

    What cannot be done on a machine (no compiler, say) is a result too, with its reason.
    """
    found: list[dict[str, Any]] = []
    try:
        backbone = diffeat.load(task.model, str(device), **task.options)
        for batch in task.batches:
            found.append({"batch": batch})
            found[-1] |= _throughput(backbone, task, batch, settings)
            _empty(device)
    except (DiffeatError, RuntimeError) as error:  # torch's errors, out of memory among them
        found = found or [{"batch": task.batches[0]}]
        found[-1]["error"] = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        backbone = None
        if task.options.get("compile"):
            torch.compiler.reset()  # the next is to be compiled afresh
        _empty(device)
    return found


def _throughput(backbone, task: Task, batch: int, settings: Settings) -> dict[str, Any]:
    """Pictures per second of the engine, which fetches a batch while the next is computed."""
    spec = diffeat.ExtractSpec((task.t,), (task.block,), pool="1x1", size=task.size,
                               seed=settings.seed)  # fmt: skip
    extractor = Extractor(Plan(backbone, spec), batch)
    generator = torch.Generator().manual_seed(settings.seed)
    pixels = torch.randint(0, 256, (batch, 3, *task.size), dtype=torch.uint8, generator=generator)
    ids = [str(number) for number in range(batch)]
    device = backbone.device
    warm = seconds(lambda: _batches(extractor, pixels, ids, AHEAD), device)
    once = seconds(lambda: _batches(extractor, pixels, ids, AHEAD), device)
    count = AHEAD + int(task.spell / once * AHEAD)
    _batches(extractor, pixels, ids, count)  # what is compiled or tuned late is done by now
    _reset_peak(device)
    times = [
        seconds(lambda: _batches(extractor, pixels, ids, count), device)
        for _ in range(settings.by_length(3, 1))
    ]
    return {
        "pictures": batch * count,
        "first_seconds": round(warm, 3),
        "seconds": rounded(times),
        "pictures_per_s": float(f"{batch * count / statistics.median(times):.5g}"),
        "device_peak_gb": _peak_gb(device),
    }


def _batches(extractor: Extractor, pixels: torch.Tensor, ids: list[str], count: int) -> None:
    for _ in _results(extractor, pixels, ids, count):
        pass


def _results(extractor, pixels, ids, count: int) -> Iterator[dict]:
    """Results of `count` batches, with `AHEAD` of them on their way."""
    waiting = []
    for _ in range(count):
        waiting.append(extractor.start(pixels, ids))
        if len(waiting) == AHEAD:
            yield waiting.pop(0).result()
    for pending in waiting:
        yield pending.result()


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.empty_cache()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
