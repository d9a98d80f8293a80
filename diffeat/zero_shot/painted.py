"""Pictures that a text-to-image model paints, with the heat of their words: a labelled set.

The network goes from seeded noise to a clean latent, step by step; the heat of the words is read on
the way, and the latent is decoded to the picture that the heat is of.

Source: Baranchuk et al. 2022 (DatasetDDPM) paint sets and label them by a head; Wu et al. 2023
(DiffuMask) read masks from cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from diffeat.backbones import Backbone
from diffeat.backbones.devices import visiting
from diffeat.errors import SpecError
from diffeat.extraction import Batch
from diffeat.noise import plain_t
from diffeat.words.vocabulary import ClassWords
from diffeat.zero_shot.heat import WordHeat
from diffeat.zero_shot.prompts import WordRun, runs_of


@dataclass(frozen=True, eq=False)
class Painted:
    """A painted picture.

    Attributes:
        id: its name, which seeds its noise.
        prompt: what the network was told.
        pixels: (H, W, 3) uint8.
        heat: (K, h, w) float32 of the words; -inf of those that the prompt does not have.
    """

    id: str
    prompt: str
    pixels: np.ndarray
    heat: np.ndarray


@torch.no_grad()
def decode(backbone: Backbone, latents: torch.Tensor, scaled: bool = True) -> torch.Tensor:
    """Clean latents as pictures: the VAE's decoder, or of pixel models the latents themselves.

    Args:
        backbone: whose latents.
        latents: (P, C, h, w) on its device.
        scaled: whether they are shifted and scaled as the denoiser was trained.

    Returns:
        (P, 3, H, W) fp32 in [0, 1]; of one channel three equal ones.
    """
    found = latents
    if backbone.vae is not None:
        decoder = backbone.vae_decoder
        away = visiting(decoder, backbone.device) if backbone.vae_visits else nullcontext()
        with away:
            found = torch.cat([decoder(backbone.decoded(one[None], scaled)) for one in latents])
    found = (found.float() / 2 + 0.5).clamp(0, 1)
    return found.expand(-1, 3, -1, -1) if found.shape[1] == 1 else found


def every_step(backbone: Backbone, steps: int) -> tuple[float, ...]:
    """t of all levels with noise that a generation of so many steps visits."""
    grid = backbone.schedule.grid(steps)
    return tuple(plain_t(level.t) for level in grid if level.sigma > 0)


def check_guidance(backbone: Backbone, guidance: float) -> None:
    """SpecError for guidance of a model that is told its guidance as a condition."""
    if guidance != 1 and backbone.config.get("guidance_embeds"):
        raise SpecError(f"guidance={guidance:g}: {backbone.name} is distilled for guidance, which "
                        "it is told; leave it out")  # fmt: skip


def runs_by_picture(
    backbone: Backbone, classes: Sequence[ClassWords], prompt: str, count: int, words: int
) -> list[WordRun]:
    """The prompt of each of `count` pictures: with {word} one word after the other, in turn.

    Args:
        words: of the classes these are painted; the others are of the background.
    """
    runs = runs_of(backbone, classes, prompt)
    runs = runs[:words]  # of {word} one each
    return [runs[k % len(runs)] for k in range(count)]


def paint(
    heat: WordHeat, runs: Sequence[WordRun], rows: int = 4, first: int = 0
) -> Iterator[Painted]:
    """Paint a picture for each run, and read the heat of its words on the way.

    Args:
        heat: whose spec has noise="generation"; its seed, the picture's number and nothing else
            make the noise.
        runs: one for each picture; those with equal prompts share forwards.
        rows: pictures that are painted together.
        first: number of the first picture.

    Returns:
        The pictures, one after another, in the order of their runs.

    Raises:
        SpecError: a spec that does not generate, or with several members.
    """
    spec = heat.spec
    if spec.noise != "generation" or spec.ensemble != 1:
        raise SpecError(f"noise={spec.noise}, ensemble={spec.ensemble}; painting expects "
                        "noise=generation and one member")  # fmt: skip
    for start in range(0, len(runs), rows):
        some = runs[start : start + rows]
        found: dict[int, Painted] = {}
        for run in dict.fromkeys(some):
            places = [start + k for k, one in enumerate(some) if one == run]
            names = [name_of(first + place) for place in places]
            for place, one in zip(places, _painted(heat, run, names), strict=True):
                found[place] = one
        yield from (found[place] for place in sorted(found))


def name_of(number: int) -> str:
    """Id of a painted picture."""
    return f"{number:05d}"


def _painted(heat: WordHeat, run: WordRun, names: list[str]) -> Iterator[Painted]:
    """Pictures of one prompt, painted together."""
    forward = heat.forward(run)
    blank = np.zeros((len(names), 3, *forward.plan.size), np.uint8)  # whose latent plays no part
    sums = forward.heat(Batch.of(torch.from_numpy(blank), names))
    pixels = decode(heat.backbone, sums.painted, forward.plan.spec.scale_latent)
    pixels = (pixels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    maps = sums.heat.cpu().numpy()
    lacking = [k for k, keys in enumerate(run.keys) if not keys]
    maps[:, lacking] = -np.inf
    for name, picture, one in zip(names, pixels, maps, strict=True):
        yield Painted(name, run.prompt, picture, one)
