"""Pictures as ODISE sees them: sizes, tiles, noise, and maps that are laid together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.adapt.odise_network import Pyramid
from diffeat.adapt.odise_tiles import (
    DIVISOR,
    LONGEST,
    SHORT,
    Canvas,
    Frame,
    cut,
    shared_noise,
    tile_offsets,
)
from diffeat.errors import SpecError
from diffeat.extraction.views import offsets

PUBLISHED = Frame(SHORT, LONGEST, DIVISOR, 512)


class TestFrame:
    @pytest.mark.parametrize(
        ("size", "inner", "outer"),
        [
            ((480, 640), (1024, 1365), (1024, 1408)),
            ((300, 1200), (640, 2560), (640, 2560)),  # the longer side ends at 2560
            ((2000, 1500), (1365, 1024), (1408, 1024)),
        ],
    )
    def test_sizes(self, size, inner, outer):
        assert PUBLISHED.inner(size) == inner
        assert PUBLISHED.outer(size) == outer

    def test_tiles_side_by_side_the_last_shifted_back(self):
        found = list(PUBLISHED.tiles((1024, 1408)))
        assert found == [(t, x, 512) for t in (0, 512) for x in (0, 512, 896)]
        # where the shorter side is less, it is the tile's
        assert list(PUBLISHED.tiles((448, 1024))) == [(0, 0, 448), (0, 448, 448), (0, 576, 448)]

    @pytest.mark.parametrize(("length", "tile"), [(1280, 512), (512, 512), (1024, 512), (96, 64)])
    def test_offsets_as_those_of_extraction(self, length, tile):
        assert tile_offsets(length, tile) == offsets(length, tile, 32, "shifted")

    def test_any_length(self):
        assert tile_offsets(1000, 512) == [0, 488]
        with pytest.raises(SpecError, match="do not fit"):
            tile_offsets(100, 512)

    def test_pictures_and_masks_are_padded_right_and_below(self):
        frame = Frame(16, 100, 8, 16)
        pixels = np.full((8, 13, 3), 255, np.uint8)
        x = frame.picture(Image.fromarray(pixels))
        assert x.shape == (3, 16, 32)
        assert x[:, :, :26].min() == 1
        assert not x[:, :, 26:].any()
        mask = torch.zeros(1, 8, 13, dtype=torch.bool)
        mask[0, 2, 3] = True
        moved = frame.masks(mask)
        wanted = torch.zeros(1, 16, 32, dtype=torch.bool)
        wanted[0, 4:6, 6:8] = True
        assert torch.equal(moved, wanted)
        assert frame.masks(mask[:0]).shape == (0, 16, 32)


class TestNoise:
    def test_that_of_torchs_generator(self):
        generator = torch.Generator().manual_seed(42)
        wanted = torch.randn((1, 4, 64, 64), generator=generator)
        assert torch.equal(shared_noise((4, 64, 64), (64, 64)), wanted)
        small = torch.nn.functional.interpolate(wanted, (32, 48), mode="bicubic")
        assert torch.equal(shared_noise((4, 32, 48), (64, 64)), small)


def test_small_tiles_are_enlarged():
    x = torch.rand(3, 20, 24)
    assert torch.equal(cut(x, 4, 2, 16, 16), x[:, 4:20, 2:18])
    assert cut(x, 0, 0, 12, 16).shape == (3, 16, 16)
    assert torch.equal(cut(torch.ones(3, 12, 12), 0, 0, 12, 16), torch.ones(3, 16, 16))


def test_overlaps_are_averaged_at_the_floor_of_offset_and_stride():
    rng = np.random.default_rng(0)
    canvas = Canvas((16, 28), (4, 8))
    total, count = np.zeros((2, 4, 7)), np.zeros((4, 7))
    parts = []
    for left in (0, 12):  # 12 // 8 = 1, 12 // 4 = 3
        fine, coarse = rng.normal(size=(2, 4, 4)), rng.normal(size=(2, 2, 2))
        canvas.lay(0, left, {4: torch.from_numpy(fine), 8: torch.from_numpy(coarse)})
        total[:, :, left // 4 : left // 4 + 4] += fine
        count[:, left // 4 : left // 4 + 4] += 1
        parts.append(coarse)
    whole = canvas.whole()
    np.testing.assert_allclose(whole[4], total / count)
    np.testing.assert_allclose(whole[8][:, :, 1], (parts[0][:, :, 1] + parts[1][:, :, 0]) / 2)
    np.testing.assert_allclose(whole[8][:, :, 2], parts[1][:, :, 1])


class TestPyramid:
    def test_published_levels(self):
        """2560@64 goes to 32; two tensors at 32 and three at 8."""
        strides = {"a": 64, "b": 32, "c": 16, "d": 8, "e": 4, "f": 8, "g": 8, "h": 4}
        pyramid = Pyramid(dict.fromkeys(strides, 8), strides)
        assert pyramid.strides == (4, 8, 16, 32)
        assert pyramid.places == (32, 32, 16, 8, 4, 8, 8, 4)
        assert pyramid.projections[0].first.weight.shape == (128, 8, 1, 1)
        assert pyramid.projections[0].last.weight.shape == (512, 128, 1, 1)

    @torch.no_grad()
    def test_nearest_then_projected_then_summed(self):
        torch.manual_seed(0)
        pyramid = Pyramid({"a": 5, "b": 7}, {"a": 16, "b": 4}, 4, 8, 24)
        a, b = torch.randn(1, 5, 2, 2), torch.randn(1, 7, 8, 8)
        found = pyramid({"a": a, "b": b}, (32, 32))
        assert list(found) == [4, 8]
        large = a.repeat_interleave(2, 2).repeat_interleave(2, 3)  # 2×2 → 4×4
        torch.testing.assert_close(found[8], _bottleneck(pyramid.projections[0], large))
        torch.testing.assert_close(found[4], _bottleneck(pyramid.projections[1], b))
        both = Pyramid({"a": 5, "b": 7}, {"a": 16, "b": 4}, 4, 4, 24)
        both.load_state_dict(pyramid.state_dict())
        summed = both({"a": a, "b": b}, (32, 32))[4]
        larger = a.repeat_interleave(4, 2).repeat_interleave(4, 3)
        wanted = _bottleneck(both.projections[0], larger) + found[4]
        torch.testing.assert_close(summed, wanted)


def _bottleneck(layer, x):
    """A residual bottleneck with group norms, from its weights."""
    conv, norm = torch.nn.functional.conv2d, torch.nn.functional.group_norm
    n = [(one.num_groups, one.weight, one.bias) for one in layer.norms]
    u = norm(conv(x, layer.first.weight), *n[0]).relu()
    u = norm(conv(u, layer.middle.weight, padding=1), *n[1]).relu()
    u = norm(conv(u, layer.last.weight), *n[2])
    return (u + norm(conv(x, layer.shortcut.weight), *n[3])).relu()
