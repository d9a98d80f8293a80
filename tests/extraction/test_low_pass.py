"""The low-pass of maps, against a Fourier transform written out as a matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import diffeat
from diffeat.errors import SpecError
from diffeat.extraction.reduce import low_passed
from diffeat.search.frequency import high_frequency_ratio
from tests.extraction.common import T, same, spec
from tests.pipelines import gaussian, pictures

MAP = "up.1.attn.0:cross.map"


def by_hand(maps: np.ndarray, cutoff: float) -> np.ndarray:
    """Projections on every wave exp(2πi(f_y·y + f_x·x)) up to a radius, one after another."""
    height, width = maps.shape[2:]
    y, x = np.mgrid[:height, :width]
    kept = np.zeros(maps.shape, complex)
    for row in range(height):
        for column in range(width):
            fy, fx = (k / n - (k > n / 2) for k, n in ((row, height), (column, width)))
            if math.sqrt(fy**2 + fx**2) <= cutoff / 2:
                wave = np.exp(2j * np.pi * (fy * y + fx * x))
                share = (maps * wave.conj()).mean((2, 3), keepdims=True)
                kept += share * wave
    assert np.abs(kept.imag).max() < 1e-9
    return kept.real


@pytest.mark.parametrize("cutoff", [0.1, 0.5, 0.75, 1.0, 1.4])
@pytest.mark.parametrize("shape", [(8, 8), (6, 9), (5, 4), (1, 7), (1, 1)])
def test_it_is_what_the_waves_below_the_cutoff_make(shape, cutoff):
    maps = gaussian(2, 3, *shape)
    found = low_passed(maps, cutoff)
    expected = by_hand(maps.double().numpy(), cutoff)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    assert high_frequency_ratio(found.numpy(), cutoff).max() < 1e-12
    same(found.mean((2, 3)), maps.mean((2, 3)), atol=1e-6)


def test_waves_below_pass_and_waves_above_do_not():
    x = torch.arange(16.0)
    slow, fast = (torch.cos(2 * math.pi * k * x / 16).expand(1, 1, 4, 16) for k in (2, 6))
    same(low_passed(slow + fast, 0.5), slow, atol=1e-5)  # 4/16 is half of Nyquist
    same(low_passed(slow + fast, 0.8), slow + fast, atol=1e-5)


def test_precision_and_gradients_stay():
    maps = gaussian(1, 2, 4, 6).to(torch.bfloat16)
    assert low_passed(maps, 0.5).dtype == torch.bfloat16
    real = gaussian(1, 1, 4, 5).double().requires_grad_()
    (low_passed(real, 0.6) ** 2).sum().backward()
    # a projection: the gradient of its squared length is twice the projected
    same(real.grad, 2 * low_passed(real.detach(), 0.6), atol=1e-5)


@pytest.mark.parametrize(("model", "block"), [("pixel", "up.1"), ("sd1", MAP), ("dit", "block.1")])
@pytest.mark.parametrize("pool", ["none", "2x4"])
def test_maps_are_low_passed_before_they_are_pooled(model, block, pool, backbone_of):
    images, backbone = pictures(2), backbone_of(model)
    whole = diffeat.extract(backbone, images, spec(model, block))[block, T]
    found = diffeat.extract(backbone, images, spec(model, block, low_pass=0.5, pool=pool))
    expected = torch.from_numpy(by_hand(whole.double().numpy(), 0.5)).float()
    if pool != "none":
        n, c, h, w = expected.shape
        expected = expected.reshape(n, c, 2, h // 2, 4, w // 4).mean((3, 5)).flatten(1)
    same(found[block, T], expected, atol=1e-5)


@pytest.mark.parametrize("views", [{"flip": True}, {"tile": 32}])
def test_whole_maps_are_low_passed_and_not_their_tiles(views, backbone_of):
    images, backbone = pictures(1, (32, 48)), backbone_of("pixel")
    whole = diffeat.extract(backbone, images, spec("pixel", "up.1", **views))["up.1", T]
    asked = spec("pixel", "up.1", low_pass=0.4, **views)
    found = diffeat.extract(backbone, images, asked)["up.1", T]
    same(found, torch.from_numpy(by_hand(whole.double().numpy(), 0.4)).float(), atol=1e-5)


def test_a_mean_over_the_map_is_warned_of(backbone_of):
    plain = diffeat.extract(backbone_of("pixel"), pictures(1), spec("pixel", "up.1", pool="1x1"))
    asked = spec("pixel", "up.1", pool="1x1", low_pass=0.3)
    with pytest.warns(UserWarning, match=r"low_pass=0\.3: the mean .* has no frequencies"):
        found = diffeat.extract(backbone_of("pixel"), pictures(1), asked)
    same(found["up.1", T], plain["up.1", T], atol=1e-6)


def test_text_has_no_frequencies(backbone_of):
    asked = spec("sd1", ("up.1", "up.1.attn.0:cross.k"), low_pass=0.5)
    with pytest.raises(SpecError, match=r"low_pass=0\.5 is for maps; block 'up\.1\.attn\.0:cross"):
        diffeat.extract(backbone_of("sd1"), pictures(1), asked)


@pytest.mark.parametrize("value", [0, -0.5, math.sqrt(2), 2, math.nan, True, "0.5", (0.5,)])
def test_cutoffs_that_there_are_not(value):
    with pytest.raises(SpecError, match=r"low_pass=.*expected Nyquist frequencies above 0"):
        spec("pixel", "up.1", low_pass=value)


def test_it_is_written_down_only_where_it_is_asked_for():
    assert "low_pass" not in spec("pixel", "up.1").to_dict()
    asked = spec("pixel", "up.1", low_pass=np.float32(0.5))
    assert asked.to_dict()["low_pass"] == 0.5
    assert asked.fingerprint != spec("pixel", "up.1").fingerprint
