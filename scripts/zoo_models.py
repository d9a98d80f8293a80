"""Architectures, objectives and samplers of the bundled models (used by train_zoo.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from torch import nn

TRAIN_STEPS = 1000
"""Native noise levels 0 … 999 of both objectives."""


def build_unet(size: int, widths: tuple[int, ...], layers: int, classes: int) -> UNet2DModel:
    """A DDPM U-Net with attention at its coarsest stage. `classes` is unused: unconditional."""
    plain = len(widths) - 1
    return UNet2DModel(
        sample_size=size,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        norm_num_groups=16,
        attention_head_dim=32,
    )


def build_dit(
    size: int, width: int, depth: int, heads: int, patch: int, classes: int
) -> DiTTransformer2DModel:
    """A DiT on pixels; class index `classes` is the null class (label dropout 0.1 in training).

    Every block starts as the identity and the output as zero (adaLN-Zero; Peebles & Xie 2023,
    section 3.2), which diffusers leaves to the training program.
    """
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=3,
        out_channels=3,
        num_layers=depth,
        sample_size=size,
        patch_size=patch,
        num_embeds_ada_norm=classes,
    )
    gates = [block.norm1.linear for block in model.transformer_blocks]
    for layer in [*gates, model.proj_out_1, model.proj_out_2]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


@dataclass(frozen=True)
class DDPM:
    """Epsilon prediction on the linear schedule (Ho et al. 2020, eq. 14).

    x_t = sqrt(abar_t)·x + sqrt(1 - abar_t)·eps, loss = ||eps - eps_theta(x_t, t)||².
    """

    name: str = "ddpm"

    def loss_inputs(self, x, eps, generator):
        """Noisy input, native t and regression target; t is stratified over the batch."""
        scheduler = _noising()
        t = (_stratified(len(x), generator, x.device) * TRAIN_STEPS).long()
        return scheduler.add_noise(x, eps, t), t, eps

    def scheduler(self):
        return DDPMScheduler(num_train_timesteps=TRAIN_STEPS)

    def sampler(self):
        return DDIMScheduler(num_train_timesteps=TRAIN_STEPS)


@dataclass(frozen=True)
class Flow:
    """Rectified flow with logit-normal times (Esser et al. 2024, eq. 13 and 19).

    x_s = (1 - s)·x + s·eps, target eps - x; the network is told t = 1000·s.
    """

    name: str = "flow"

    def loss_inputs(self, x, eps, generator):
        u = _stratified(len(x), generator, x.device).clamp(1e-4, 1 - 1e-4)
        s = torch.sigmoid(torch.special.ndtri(u)).view(-1, 1, 1, 1)
        return (1 - s) * x + s * eps, s.flatten() * TRAIN_STEPS, eps - x

    def scheduler(self):
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_STEPS)

    sampler = scheduler


@cache
def _noising() -> DDPMScheduler:
    return DDPM().scheduler()


OBJECTIVES = {"ddpm": DDPM(), "flow": Flow()}


def _stratified(count: int, generator: torch.Generator, device) -> torch.Tensor:
    """One uniform number from each of `count` equal parts of [0, 1): less loss noise."""
    jitter = torch.rand(count, generator=generator)
    order = torch.randperm(count, generator=generator)
    # rounding in fp32 may reach 1.0, which is outside
    return ((order + jitter) / count).clamp(max=1 - 2**-24).to(device)


def predict(model: nn.Module, x: torch.Tensor, t: torch.Tensor, labels) -> torch.Tensor:
    """One call of either architecture; `labels` only reach class-conditional ones."""
    if isinstance(getattr(model, "module", model), DiTTransformer2DModel):
        return model(x, timestep=t, class_labels=labels).sample
    return model(x, t).sample


@torch.no_grad()
def sample_grid(model, objective, count: int, classes: int, size: int, device, steps: int = 50):
    """Draw `count` pictures from fixed noise; classes in turn where there are any.

    Returns:
        uint8 array (rows·size, columns·size, 3), pictures row by row.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, size, size, generator=generator).to(device)
    labels = (torch.arange(count) % max(classes, 1)).to(device)
    sampler = objective.sampler()
    sampler.set_timesteps(steps)
    for t in sampler.timesteps:
        output = predict(model, x, t.expand(count).to(device), labels)
        x = sampler.step(output, t, x).prev_sample
    columns = math.ceil(math.sqrt(count * 2))
    rows = math.ceil(count / columns)
    canvas = torch.zeros(rows * columns, 3, size, size)
    canvas[:count] = (x / 2 + 0.5).clamp(0, 1).cpu()
    grid = canvas.view(rows, columns, 3, size, size).permute(0, 3, 1, 4, 2)
    return (grid.reshape(rows * size, columns * size, 3) * 255).round().byte().numpy()


def pipeline_of(model: nn.Module, objective):
    """The diffusers pipeline that stores the model. A DiT on pixels has no VAE."""
    if isinstance(model, UNet2DModel):
        return DDPMPipeline(unet=model, scheduler=objective.scheduler())
    return DiTPipeline(transformer=model, vae=None, scheduler=objective.scheduler())
