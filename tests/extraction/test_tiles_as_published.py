"""ODISE's tiles: side by side, the last shifted back, the same noise for each."""

from __future__ import annotations

import pytest
import torch

import diffeat
from diffeat.cli.options import NONE
from diffeat.cli.spec_options import spec_of
from diffeat.errors import SpecError
from diffeat.extraction.views import offsets
from diffeat.specs import ExtractSpec
from tests.extraction.common import T, drawn, same, spec
from tests.extraction.test_views import merged
from tests.pipelines import gaussian, pictures

SIZE, TILE, PLACES = (32, 80), (32, 32), (0, 32, 48)
"""80 pixels in tiles of 32: the third would begin at 64, and is shifted back by 16."""


def laid(plain, images, eps):
    """Each tile as a picture of its own with noise `eps`, its map laid where it belongs."""
    parts = {}
    for left in PLACES:
        part = images[:, :, :, left : left + TILE[1]]
        parts[left] = merged(plain, ["up.0"], part, eps, [(0, 0)], TILE)["up.0"]
    stride = TILE[0] // parts[0].shape[2]
    total = torch.zeros(*parts[0].shape[:3], SIZE[1] // stride)
    count = torch.zeros(SIZE[1] // stride)
    for left, value in parts.items():
        where = slice(left // stride, (left + TILE[1]) // stride)
        total[..., where] += value
        count[where] += 1
    return total / count


@pytest.mark.parametrize("length", [512, 576, 960, 1024, 1280, 1344, 2560])
def test_tiles_step_by_512_and_the_last_is_shifted_back(length):
    expected, start = [], 0
    while start + 512 < length:
        expected.append(start)
        start += 512
    assert offsets(length, 512, 64, "shifted") == [*expected, length - 512]


def test_even_tiles_differ_from_it():
    assert offsets(1280, 512, 64) == [0, 384, 768]
    assert offsets(1280, 512, 64, "shifted") == [0, 512, 768]


def test_tiles_off_the_stride_are_refused():
    """1024 × 4/3 is 1365; and tiles of 48 do not step by multiples of 32."""
    with pytest.raises(SpecError, match=r"side of 1365: .* begin at 853, .* stride 64"):
        offsets(1365, 512, 64, "shifted")
    with pytest.raises(SpecError, match=r"tiles of 48 side by side .* stride 32"):
        offsets(48 + 64, 48, 32, "shifted")


@pytest.mark.parametrize("noise", ["shared", "per-image"])
def test_every_tile_has_the_same_noise(noise, backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(2, SIZE)
    options = {"noise": noise, "seed": 4, "tile": TILE, "tile_layout": "shifted"}
    asked = spec("sd1", "up.0", tile_noise="tile", **options)
    found = diffeat.extract(backbone, images, asked, ids="ab")
    names = ["", ""] if noise == "shared" else "ab"
    eps = drawn(names, backbone.latent_shape(TILE), seed=4)
    same(found["up.0", T], laid(plain, images, eps))
    own = diffeat.extract(backbone, images, spec("sd1", "up.0", **options), ids="ab")
    whole = drawn(names, backbone.latent_shape(SIZE), seed=4)
    expected = merged(plain, ["up.0"], images, whole, [(0, left) for left in PLACES], TILE)
    same(own["up.0", T], expected["up.0"])
    assert (own["up.0", T] - found["up.0", T]).abs().max() > 1e-3


def test_explicit_noise_has_the_size_of_a_tile(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(1, SIZE)
    asked = spec("sd1", "up.0", tile=TILE, tile_noise="tile", tile_layout="shifted")
    eps = gaussian(1, *backbone.latent_shape(TILE))
    found = diffeat.extract(backbone, images, asked, noise=eps)
    same(found["up.0", T], laid(plain, images, eps))
    with pytest.raises(SpecError, match=r"noise is .*; expected \(1, 1, 4, "):
        diffeat.extract(backbone, images, asked, noise=gaussian(1, *backbone.latent_shape(SIZE)))


def test_a_mirrored_tile_has_its_noise_mirrored(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(1, TILE)
    eps = gaussian(1, *backbone.latent_shape(TILE))
    asked = spec("sd1", "up.0", tile=TILE, tile_noise="tile", flip=True)
    found = diffeat.extract(backbone, images, asked, noise=eps)
    expected = merged(plain, ["up.0"], images, eps, [(0, 0)], TILE, (False, True))
    same(found["up.0", T], expected["up.0"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tile_noise": "tile"}, "tile_noise='tile' is for tiles; give tile too"),
        ({"tile_layout": "shifted"}, "tile_layout='shifted' is for tiles; give tile too"),
        ({"tile_noise": "tiles", "tile": 32}, "tile_noise='tiles' is unknown.*mean 'tile'"),
        ({"tile_layout": "odd", "tile": 32}, "tile_layout='odd' is unknown"),
    ],
)
def test_what_cannot_be_meant(fields, message):
    with pytest.raises(SpecError, match=message):
        ExtractSpec((20,), ("up.0",), **fields)


def test_a_recipe_without_its_tiles():
    """`--tile none` undoes all that the recipe says of tiles, and what is said beside it counts."""
    assert spec_of("odise", None, {}).tile_noise == "tile"
    undone = spec_of("odise", None, {"tile": NONE})
    assert (undone.tile, undone.tile_noise, undone.tile_layout) == (None, "picture", "even")
    with pytest.raises(SpecError, match="tile_noise='tile' is for tiles"):
        spec_of("odise", None, {"tile": NONE, "tile_noise": "tile"})
