"""Where a forward starts: clean latents and the noise that belongs to each picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffeat.backbones.base import Latents
from diffeat.backbones.devices import upload
from diffeat.errors import SpecError
from diffeat.extraction.plan import Plan
from diffeat.noise import picture_noise
from diffeat.specs import ExtractSpec


def clean_latents(
    spec: ExtractSpec, latents: Latents, ids: Sequence[str], sample: torch.Tensor | None = None
) -> torch.Tensor:
    """(P, E, C, h, w) clean latents: the posterior's mean, or one seeded sample per member.

    Args:
        sample: (P, E, C, h, w) standard Gaussian noise of the samples, in place of the seeded.
    """
    shape = tuple(latents.mean.shape[1:])
    clean = latents.mean[:, None].expand(-1, spec.ensemble, *shape)
    if spec.latent == "mean" or latents.std is None:
        return clean
    if sample is None:
        sample = sample_noise(spec, ids, shape)
    return clean + latents.std[:, None] * upload_noise(sample, clean.device)


def draw_noise(
    plan: Plan,
    ids: Sequence[str],
    size: tuple[int, int],
    noise: torch.Tensor | None = None,
    sample: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The noise of a batch, to be drawn ahead of the compute; drawing releases Python's lock.

    Args:
        plan: what is extracted.
        ids: P picture ids.
        size: (H, W) of the pictures in pixels.
        noise, sample: explicit ones, which take the place of the seeded.

    Returns:
        (noise, sample) for `Extractor.start`, each (P, E, C, h, w) fp32 on the CPU; None where
        the spec needs none. Noise that every tile has is of a tile's size.
    """
    spec, shape = plan.spec, plan.backbone.latent_shape(size)
    denoised = any(not block.of_vae for block in plan.blocks)
    if noise is not None or (denoised and spec.noise != "inversion"):
        noise = noise_of(spec, ids, plan.noise_shape(size), noise)
    if sample is None and spec.latent == "sample" and plan.backbone.vae is not None:
        sample = sample_noise(spec, ids, shape)
    return noise, sample


def upload_noise(noise: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(P, E, C, h, w) noise on the device; what pictures share travels once."""
    if len(noise) > 1 and noise.stride(0) == 0:
        return upload(noise[:1], device).expand_as(noise)
    return upload(noise, device)


def sample_noise(spec: ExtractSpec, ids: Sequence[str], shape) -> torch.Tensor:
    """(P, E, C, h, w) fp32 noise of the posterior's samples, on the CPU."""
    return _drawn(spec.seed, [f"{name}\0latent" for name in ids], spec.ensemble, shape)


def noise_of(
    spec: ExtractSpec, ids: Sequence[str], shape, explicit: torch.Tensor | None = None
) -> torch.Tensor | None:
    """(P, E, C, h, w) fp32 noise on the CPU by the spec's policy, or None for clean input."""
    if explicit is not None:
        return explicit_noise(explicit, len(ids), spec.ensemble, shape)
    if spec.noise == "none":
        return None
    names = [""] if spec.noise == "shared" else ids
    eps = _drawn(spec.seed, names, spec.ensemble, shape, spec.noise == "uniform")
    return eps.expand(len(ids), *eps.shape[1:])


def explicit_noise(noise: torch.Tensor, count: int, ensemble: int, shape) -> torch.Tensor:
    """(P, E, C, h, w) fp32 from a user's (P, …) or (P, E, …); SpecError for other shapes."""
    noise = torch.as_tensor(noise)
    wanted = (count, ensemble, *shape)
    if tuple(noise.shape) == (count, *shape) and ensemble == 1:
        noise = noise[:, None]
    if tuple(noise.shape) != wanted:
        raise SpecError(
            f"noise is {tuple(noise.shape)}; expected {wanted}"
            + (f" or {(count, *shape)}" if ensemble == 1 else "")
        )
    return noise.float()


def _drawn(
    seed: int, names: Sequence[str], members: int, shape, uniform: bool = False
) -> torch.Tensor:
    """(P, E, C, h, w) fp32 noise by name and member, on the CPU."""
    each = range(members)
    drawn = [[picture_noise(seed, name, e, shape, uniform) for e in each] for name in names]
    return torch.from_numpy(np.array(drawn))
