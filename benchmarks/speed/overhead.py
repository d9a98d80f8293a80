"""(a) What extraction to a file costs above the forwards that it cannot do without."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import diffeat
from benchmarks.speed.common import in_turn, jpegs, ratios, rounded
from benchmarks.speed.settings import Settings
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.images import Source
from diffeat.noise import picture_noise

SPEC = diffeat.ExtractSpec(timesteps=(20, 60), blocks=("up.0", "up.1"), pool="2x2")
TARGET = 1.05


def measure(settings: Settings) -> dict[str, Any]:
    """Time JPEG files → HDF5 file against the bare truncated forwards, in turn, in one process.

    The bare side is a plain loop over the denoiser with ready-made noisy inputs on the device,
    cut off after the last block by a plain torch hook: no decoding, noise, pooling or writing.
    Where there is a VAE, it encodes the pictures on both sides.
    """
    pictures = settings.pictures or settings.by_length(256, 8)
    batch = settings.batch or settings.by_length(64, 4)
    repeats = settings.by_length(7, 3)
    model = settings.model or "unet-cifar10"
    backbone = diffeat.load(model, settings.device)
    plan = Plan(backbone, _spec(settings))
    with TemporaryDirectory() as folder:
        source = jpegs(Path(folder), pictures, plan.size, settings.seed)
        inputs = _noisy_inputs(plan, source, batch)
        target = Path(folder) / "features.h5"

        def extraction() -> None:
            diffeat.extract_to_file(
                backbone, source, plan.spec, target, batch, overwrite=True, progress=False
            )

        works = (extraction, lambda: bare_forwards(plan, inputs))
        whole, bare = in_turn(works, repeats, backbone.device)
    return {
        "model": model,
        "pictures": pictures,
        "batch": batch,
        "spec": plan.spec.to_dict(),
        "device": str(backbone.device),
        "forwards": pictures * len(plan.levels),
        "extraction_seconds": rounded(whole),
        "bare_seconds": rounded(bare),
        "ratio": ratios(whole, bare),
        "target": TARGET,
    }


def _spec(settings: Settings) -> diffeat.ExtractSpec:
    if settings.model and not (settings.timesteps and settings.blocks):
        raise SpecError(
            f"part a with --model {settings.model} needs its noise levels (-t) and blocks (-b)"
        )
    return diffeat.ExtractSpec(
        settings.timesteps or SPEC.timesteps, settings.blocks or SPEC.blocks, pool=SPEC.pool,
        size=settings.size, seed=settings.seed,
    )  # fmt: skip


@torch.no_grad()
def _noisy_inputs(plan: Plan, source: Source, batch: int) -> list[tuple[Any, list[dict]]]:
    """Per batch the pictures for the VAE (or None) and the arguments of every forward.

    On the device: the work that cannot be avoided starts here.
    """
    backbone, batches = plan.backbone, []
    for start in range(0, len(source), batch):
        ids = source.ids[start : start + batch]
        rows = range(start, start + len(ids))
        pixels = np.stack([np.asarray(source.load(row)).transpose(2, 0, 1) for row in rows])
        x = torch.from_numpy(pixels).float().to(backbone.device) / 255
        clean = backbone.encode(x)[0]
        eps = [picture_noise(plan.spec.seed, name, 0, clean.shape[1:]) for name in ids]
        eps = torch.from_numpy(np.stack(eps)).to(backbone.device)
        spec = plan.spec
        condition = backbone.condition([spec.prompt] * len(ids), [spec.label] * len(ids))
        condition = {name: value.to(backbone.device) for name, value in condition.items()}
        forwards = []
        for level in plan.levels:
            noisy = level.alpha * clean + level.sigma * eps
            sigma = torch.full((len(ids), 1, 1, 1), level.sigma, device=backbone.device)
            given = backbone.schedule.scaled(noisy, sigma).to(backbone.dtype)
            t = torch.full((len(ids),), level.t, dtype=torch.float64, device=backbone.device)
            forwards.append(
                backbone.call_arguments(given, backbone.schedule.network_t(t), condition)
            )
        pictures = None if backbone.vae is None else (2 * x - 1).to(backbone.vae.dtype)
        batches.append((pictures, forwards))
    return batches


class _Cut(Exception):
    """Ends a bare forward after the last block."""


@torch.no_grad()
def bare_forwards(plan: Plan, inputs: list[tuple[Any, list[dict]]]) -> None:
    """The VAE and the truncated forwards alone."""

    def cut(*_: Any) -> None:
        raise _Cut

    denoiser = plan.backbone.denoiser
    handle = denoiser.get_submodule(plan.blocks[-1].path).register_forward_hook(cut)
    try:
        for pictures, forwards in inputs:
            if pictures is not None:
                plan.backbone.vae.encode(pictures)
            for arguments in forwards:
                try:
                    denoiser(**arguments)
                except _Cut:
                    continue
    finally:
        handle.remove()
