"""The noise rule: which Gaussian belongs to which picture, and x_t = alpha·z + sigma·eps.

z is the clean latent (the picture itself, or what the VAE makes of it), eps the noise of the
spec's policy. Whatever noises, draws and adds here: extractor, trajectories, training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffeat.backbones.devices import upload
from diffeat.errors import SpecError
from diffeat.extraction.plan import Plan
from diffeat.noise import picture_noise
from diffeat.specs import ExtractSpec


def add_noise(
    z: torch.Tensor, eps: torch.Tensor | None, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """x_t = alpha·z + sigma·eps, (n, C, h, w); z itself where there is no noise.

    Args:
        z, eps: (n, C, h, w).
        alpha, sigma: (n, 1, 1, 1) of the level.

    Source: Ho et al. 2020, eq. 4; every schedule is brought to this form.
    """
    return z if eps is None else alpha * z + sigma * eps


def clean_latents(
    spec: ExtractSpec, mean: torch.Tensor, std: torch.Tensor | None, sample: torch.Tensor | None
) -> torch.Tensor:
    """z, (P, E, C, h, w): the posterior's mean, or mean + std·sample, one sample per member.

    Args:
        spec: whether it is the mean or samples.
        mean, std: (P, C, h, w) from `Backbone.encode`; std is None without a VAE.
        sample: (P, E, C, h, w) standard Gaussian noise, where the spec wants samples.
    """
    z = mean[:, None].expand(-1, spec.ensemble, *mean.shape[1:])
    if spec.latent == "mean" or std is None:
        return z
    return z + std[:, None] * upload_noise(sample, z.device)


def noise_names(
    spec: ExtractSpec, ids: Sequence[str], digests: np.ndarray | None, rows: Sequence[int]
) -> list[str]:
    """What seeds the noise of some pictures: their ids, or by content the hex of their digests.

    Args:
        spec: whose `noise` says which.
        ids: N picture ids.
        digests: (N, 16) uint8 (see `Source.digests`); None where they are not known.
        rows: places of the pictures among the N.

    Raises:
        SpecError: noise by content of pictures whose digests are not known.
    """
    if not seeded_by_content(spec):
        return [ids[row] for row in rows]
    if digests is None:
        raise SpecError(
            f"noise={spec.noise} needs the digests of the pictures, which the rule of reading from "
            "before 0.7 does not take; make the file anew (--overwrite)"
        )
    return [digests[row].tobytes().hex() for row in rows]


def seeded_by_content(spec: ExtractSpec) -> bool:
    """Whether the noise of a picture follows from what it holds, and not from its id."""
    return spec.noise == "per-content"


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
        ids: P names that seed the noise (see `noise_names`).
        size: (H, W) of the pictures in pixels.
        noise, sample: explicit ones, which take the place of the seeded.

    Returns:
        (eps, sample), each (P, E, C, h, w) fp32 on the CPU; None where the spec needs none.
        Noise that every tile has is of a tile's size.

    Raises:
        SpecError: explicit noise of another shape.
    """
    spec, shape = plan.spec, plan.backbone.latent_shape(size)
    denoised = any(not block.of_vae for block in plan.blocks)
    if noise is not None:
        noise = explicit_noise(noise, len(ids), spec.ensemble, plan.noise_shape(size))
    elif denoised and spec.noise not in ("none", "inversion"):
        names = [""] if spec.noise == "shared" else ids
        drawn = _drawn(
            spec.seed, names, spec.ensemble, plan.noise_shape(size), spec.noise == "uniform"
        )
        noise = drawn.expand(len(ids), *drawn.shape[1:])
    if sample is None and spec.latent == "sample" and plan.backbone.vae is not None:
        sample = _drawn(spec.seed, [f"{name}\0latent" for name in ids], spec.ensemble, shape)
    return noise, sample


def fresh_noise(
    plan: Plan, count: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """As `draw_noise`, but other noise every time, as training wants it.

    Args:
        plan: what is extracted; "shared" noise is fresh for every picture too.
        count: P, the number of pictures.
        size: (H, W) of the pictures in pixels.
        generator: of the CPU.
    """
    shape = (count, plan.spec.ensemble, *plan.backbone.latent_shape(size))
    draw = torch.rand if plan.spec.noise == "uniform" else torch.randn
    eps = draw(shape, generator=generator)
    sample = torch.randn(shape, generator=generator)
    return None if plan.spec.noise == "none" else eps, sample


def upload_noise(noise: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(P, E, C, h, w) noise on the device; what pictures share travels once."""
    if len(noise) > 1 and noise.stride(0) == 0:
        return upload(noise[:1], device).expand_as(noise)
    return upload(noise, device)


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
