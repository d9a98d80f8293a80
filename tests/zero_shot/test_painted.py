"""Painted pictures, against a loop of diffusers' own scheduler, network and decoder."""

from __future__ import annotations

import itertools
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from diffeat import ExtractSpec
from diffeat.errors import SpecError
from diffeat.noise import picture_noise
from diffeat.words.vocabulary import Vocabulary
from diffeat.zero_shot.heat import ALL_MAPS, HeatOptions, WordHeat
from diffeat.zero_shot.painted import (
    check_guidance,
    decode,
    every_step,
    paint,
    runs_by_picture,
)
from diffeat.zero_shot.pictures import heat_maps
from diffeat.zero_shot.prompts import runs_of
from tests.pipelines import pictures

STEPS = 4
CLASSES = Vocabulary.of("cat").classes


def spec_of(backbone, prompt: str = "a cat", **more) -> ExtractSpec:
    steps = every_step(backbone, STEPS)
    return ExtractSpec(steps, ALL_MAPS, noise="generation", steps=STEPS, prompt=prompt, size=32,
                       **more)  # fmt: skip


def noise_of(names: list[str], shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture_noise(seed, name, 0, shape) for name in names]))


@torch.no_grad()
def as_diffusers_paints(plain, x: torch.Tensor, guidance: float) -> np.ndarray:
    """(N, H, W, 3) in [0, 1], by its scheduler's steps."""
    if plain.is_flow:  # even steps of Euler, as our grid goes
        sigmas = np.linspace(1, 0, STEPS + 1)
        times = [(s * 1000, s, after) for s, after in itertools.pairwise(sigmas)]
    else:
        scheduler = diffusers.DDIMScheduler.from_config(
            {**plain.noise, "steps_offset": 0, "set_alpha_to_one": True, "clip_sample": False,
             "timestep_spacing": "leading"}
        )  # fmt: skip
        scheduler.set_timesteps(STEPS)
        times = scheduler.timesteps
    some, none = (plain.condition(len(x), prompt) for prompt in ("a cat", ""))
    for t in times:
        told = t[0] if plain.is_flow else int(t)
        outputs = [plain.run(x, told, one).outs[""] for one in (some, none)]
        there, free = (one[0] if isinstance(one, tuple) else one for one in outputs)
        v = free + guidance * (there - free)
        x = x + (t[2] - t[1]) * v if plain.is_flow else scheduler.step(v, int(t), x).prev_sample
    config = plain.vae.config
    x = x / config.scaling_factor + (config.shift_factor or 0.0)
    return (plain.vae.decode(x).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("name", "guidance"), [("sd1", 1.0), ("sd1", 4.0), ("sd3", 2.5)])
def test_pictures_are_those_of_a_plain_loop(name, guidance, backbone_of, plain_of) -> None:
    backbone, plain = backbone_of(name), plain_of(name)
    heat = WordHeat(backbone, spec_of(backbone), HeatOptions(guidance=guidance))
    runs = runs_by_picture(backbone, CLASSES, "a cat", 3, 1)
    found = list(paint(heat, runs, rows=2))
    assert [one.id for one in found] == ["00000", "00001", "00002"]
    names = [one.id for one in found]
    x = noise_of(names, backbone.latent_shape((32, 32)))
    expected = as_diffusers_paints(plain, x, guidance)
    for one, wanted in zip(found, expected, strict=True):
        assert one.pixels.shape == (32, 32, 3)
        assert one.pixels.std() > 1
        np.testing.assert_allclose(one.pixels, 255 * wanted, atol=0.75)  # rounded


def test_heat_is_that_of_the_generation(backbone_of) -> None:
    """The same as an extraction with this noise reads, level by level."""
    backbone = backbone_of("sd1")
    spec = spec_of(backbone)
    (one,) = paint(WordHeat(backbone, spec), runs_of(backbone, CLASSES, "a cat"))
    # what the pictures show plays no part
    other = heat_maps(backbone, pictures(1), "cat", spec, ids=["00000"])
    np.testing.assert_allclose(one.heat, other[0], rtol=1e-4, atol=1e-6)
    few = replace(spec, timesteps=spec.timesteps[:1])
    (early,) = paint(WordHeat(backbone, few), runs_of(backbone, CLASSES, "a cat"))
    np.testing.assert_array_equal(early.pixels, one.pixels)  # whichever levels are read
    assert np.abs(early.heat - one.heat).max() > 1e-6


def test_one_word_after_the_other(backbone_of) -> None:
    backbone = backbone_of("sd1")
    classes = Vocabulary.of("cat,mat,dot").classes
    runs = runs_by_picture(backbone, classes, "a {word}", 5, 2)  # the third is background
    assert [run.prompt for run in runs] == ["a cat", "a mat", "a cat", "a mat", "a cat"]
    heat = WordHeat(backbone, replace(spec_of(backbone), steps=2, timesteps=(0, 500)))
    found = list(paint(heat, runs[:3], first=7))
    assert [one.id for one in found] == ["00007", "00008", "00009"]
    there = [[bool(np.isfinite(one).all()) for one in each.heat] for each in found]
    assert there == [[True, False, False], [False, True, False], [True, False, False]]
    alone = list(paint(heat, runs[2:3], first=9))  # seeded by its number and nothing else
    np.testing.assert_allclose(alone[0].pixels, found[2].pixels, atol=1)


def test_latents_of_pixel_models_are_pictures(backbone_of) -> None:
    x = torch.tensor([-2.0, -1, 0, 1]).reshape(1, 1, 2, 2)
    found = decode(backbone_of("pixel-grey"), x)
    assert found.shape == (1, 3, 2, 2)
    assert found[0, 1].flatten().tolist() == [0, 0, 0.5, 1]


def test_an_encoded_picture_is_decoded(backbone_of, plain_of) -> None:
    """With the VAE's shift and scale, and without."""
    backbone, plain, x = backbone_of("flux"), plain_of("flux"), pictures(2)
    with torch.no_grad():
        z = plain.posterior(x).mean
        expected = (plain.vae.decode(z).sample / 2 + 0.5).clamp(0, 1)
        for scaled in (True, False):
            found = decode(backbone, backbone.encode(x, scaled)[0], scaled)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_refusals(backbone_of) -> None:
    backbone = backbone_of("sd1")
    runs = runs_of(backbone, CLASSES, "a cat")
    for change in ({"noise": "per-image"}, {"ensemble": 2}):
        with pytest.raises(SpecError, match="painting expects"):
            next(paint(WordHeat(backbone, replace(spec_of(backbone), **change)), runs))
    with pytest.raises(SpecError, match="distilled for guidance"):
        check_guidance(backbone_of("flux"), 3.0)
    check_guidance(backbone_of("flux"), 1.0)
