"""Pictures in every form that a notebook has them in, and what comes back with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import diffeat
from diffeat.errors import SpecError
from diffeat.images import ArraySource
from tests.extraction.common import T, same, spec

SIZE = (20, 28)  # not the model's
IDS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(pixels, tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("pictures")
    for name, array in zip(IDS, pixels, strict=True):
        Image.fromarray(array).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in IDS]


def pooled(**options) -> diffeat.ExtractSpec:
    return spec("pixel", "up.1", pool="1x1", **options)


FORMS = {
    "stack": lambda pixels, files: pixels,
    "stack as a tensor": lambda pixels, files: torch.from_numpy(pixels),
    "list of arrays": lambda pixels, files: list(pixels),
    "tuple": lambda pixels, files: tuple(pixels),
    "iterator": lambda pixels, files: iter(pixels),
    "list of all sorts": lambda pixels, files: [files[0], Image.open(files[1]), pixels[2]],
    "source": lambda pixels, files: ArraySource("x", tuple("xyz"), pixels=pixels),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_eight_bit_pictures_are_fitted_as_files_are(form, fit, pixels, files, backbone_of):
    backbone = backbone_of("pixel")
    expected = diffeat.extract(backbone, files, pooled(fit=fit), ids=IDS)
    found = diffeat.extract(backbone, form(pixels, files), pooled(fit=fit), ids=IDS)
    assert torch.equal(found["up.1", T], expected["up.1", T])
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.sizes, [SIZE] * 3)
    assert found.ids == IDS


ONE = {
    "array": lambda pixels, files: pixels[0],
    "PIL": lambda pixels, files: Image.fromarray(pixels[0]),
    "path": lambda pixels, files: files[0],
    "name": lambda pixels, files: str(files[0]),
}


@pytest.mark.parametrize("form", ONE.values(), ids=ONE)
def test_one_picture_is_a_list_of_one(form, pixels, files, backbone_of):
    expected = diffeat.extract(backbone_of("pixel"), [files[0]], pooled(), ids=["a"])["up.1", T]
    found = diffeat.extract(backbone_of("pixel"), form(pixels, files), pooled(), ids=["a"])
    assert torch.equal(found["up.1", T], expected)


def test_grey_pictures(pixels, backbone_of):
    grey, backbone = pixels[..., 0], backbone_of("pixel")
    colours = np.repeat(grey[..., None], 3, -1)
    expected = diffeat.extract(backbone, colours, pooled())["up.1", T]
    for images in (grey, list(grey)):
        assert torch.equal(diffeat.extract(backbone, images, pooled())["up.1", T], expected)
    one = diffeat.extract(backbone, grey[0], pooled())["up.1", T]
    same(one, expected[:1])


def test_floats_stay_at_their_own_size(backbone_of):
    backbone, images = backbone_of("pixel"), torch.rand(3, 3, 24, 32)
    expected = diffeat.extract(backbone, images, pooled())["up.1", T]
    for form in (list(images), list(images.numpy()), images.numpy()):
        found = diffeat.extract(backbone, form, pooled())
        assert torch.equal(found["up.1", T], expected)
        assert found.boxes is None
    same(diffeat.extract(backbone, images[0], pooled())["up.1", T], expected[:1])


def test_floats_of_several_sizes(backbone_of):
    backbone, images = backbone_of("pixel"), [torch.rand(3, 24, 32), torch.rand(3, 32, 32)]
    for mirror in (False, True):
        asked = pooled(fit="native", mirror=mirror)
        found = diffeat.extract(backbone, images, asked, ids=["a", "b"])
        for row, (image, name) in enumerate(zip(images, "ab", strict=True)):
            alone = diffeat.extract(backbone, image[None], pooled(mirror=mirror), ids=[name])
            same(found["up.1", T][row], alone["up.1", T][0])
        assert found.sizes.tolist() == [[24, 32], [32, 32]]
    with pytest.raises(SpecError, match="multiples of 4"):
        diffeat.extract(backbone, [images[0], torch.rand(3, 30, 32)], pooled(fit="native"))


def test_eight_bit_pictures_of_several_sizes(backbone_of):
    arrays = [np.full((h, 32, 3), h, np.uint8) for h in (24, 32)]
    found = diffeat.extract(backbone_of("pixel"), arrays, pooled(fit="native"))
    assert found.sizes.tolist() == [[24, 32], [32, 32]]


def test_what_comes_back_says_what_it_is(pixels, backbone_of):
    backbone = backbone_of("pixel")
    asked = spec("pixel", ("up.0", "up.1"), (T, "sigma=0.3"), pool="2x2", dtype="float16")
    source = ArraySource("x", tuple("xyz"), np.array([1, 0, -1]), ("cat", "dog"), pixels)
    features = diffeat.extract(backbone, source, asked)
    assert features.ids == ["x", "y", "z"]
    assert features.labels.tolist() == [1, 0, -1]
    assert features.class_names == ("cat", "dog")
    level = backbone.schedule.resolve("sigma=0.3")
    text = repr(features)
    for part in ("3 pictures, 2 classes (cat, dog), float16", "up.0", str((3, 64)),
                 f"sigma/alpha {level.sigma / level.alpha:.4g}", "asked: sigma=0.3"):  # fmt: skip
        assert part in text, part
    assert len(text.splitlines()) == 7
    plain = diffeat.extract(backbone, pixels, asked)
    assert (plain.ids, plain.labels, plain.class_names) == (["0", "1", "2"], None, ())
    assert "3 pictures, float16" in repr(plain)


def test_all_t_of_a_block(pixels, backbone_of):
    asked = spec("pixel", ("up.0", "up.1"), (T, "sigma=0.3", 20), pool="1x1")
    features = diffeat.extract(backbone_of("pixel"), pixels, asked)
    levels = features["up.1"]
    at = int(backbone_of("pixel").schedule.resolve("sigma=0.3").t)
    assert list(levels) == [T, at, 20]
    for t, values in levels.items():
        assert values is features["up.1", t]
    assert levels["sigma=0.3"] is features["up.1", "sigma=0.3"] is levels[at]
    assert repr(levels) == f"Levels('up.1', {{{T}: (3, 16), {at}: (3, 16), 20: (3, 16)}})"
    assert "sigma=0.3" not in levels
    with pytest.raises(KeyError, match=r"'up\.7'.*\(up\.0, 200\)"):
        features["up.7"]
    with pytest.raises(KeyError, match="t=30"):
        levels[30]


def not_the_values(action) -> str:
    """The message of what goes wrong, which shows no array."""
    with pytest.raises((SpecError, KeyError)) as found:
        action()
    text = str(found.value)
    assert len(text) < 600, text
    for word in ("tensor(", "array(", "0."):
        assert word not in text, text
    return text


def test_no_message_shows_values(pixels, backbone_of):
    backbone, floats = backbone_of("pixel"), torch.rand(3, 3, 32, 32)
    features = diffeat.extract(backbone, floats, pooled())
    wrong = {
        "Tensor (3, 3, 32, 32) float32 is no backbone": lambda: diffeat.extract(
            floats, backbone, pooled()),
        "is no spec": lambda: diffeat.extract(backbone, pooled(), floats),
        "3 ids for 2": lambda: diffeat.extract(backbone, floats[:2], pooled(), ids=floats),
        "(3, 3, 8, 8); expected": lambda: diffeat.extract(
            backbone, floats, pooled(), noise=floats[..., :8, :8]),
        "Tensor (3, 32, 32) float32": lambda: features[floats[0]],
        "at t=Tensor": lambda: features["up.1", floats],
        "block ndarray": lambda: features[pixels, 20],
        "fit one array": lambda: diffeat.extract(
            backbone, [floats[0, :, :k] for k in range(4, 32, 4)], pooled()),
        "picture 1 is ndarray (2, 2) object": lambda: diffeat.extract(
            backbone, [pixels[0], np.array([[None] * 2] * 2)], pooled()),
        "timesteps: Tensor (3, 32, 32) float32 is no": lambda: diffeat.ExtractSpec(
            floats, "up.1"),
        "label Tensor (3, 32, 32)": lambda: diffeat.extract(
            backbone, floats, pooled(), labels=list(floats)),
        "embeddings are Tensor": lambda: diffeat.extract(
            backbone, floats, pooled(), embeddings=floats),
        "size=": lambda: diffeat.ExtractSpec(20, "up.1", size=floats),
        "seed=": lambda: diffeat.ExtractSpec(20, "up.1", seed=floats),
        "flip=": lambda: diffeat.ExtractSpec(20, "up.1", flip=floats),
        "noise=": lambda: diffeat.ExtractSpec(20, "up.1", noise=floats),
    }  # fmt: skip
    for part, action in wrong.items():
        assert part in not_the_values(action), part


def test_floats_that_want_gradients_are_read_silently(backbone_of):
    wanting = torch.rand(2, 3, 16, 16, requires_grad=True)
    found = [diffeat.extract(backbone_of("pixel"), one, spec("pixel", ("mid",)))["mid", T]
             for one in (wanting, wanting.detach())]  # fmt: skip
    assert torch.equal(*found)


def test_an_alpha_channel_has_its_way(backbone_of):
    with pytest.raises(SpecError, match=r"alpha channel, Image\.fromarray"):
        diffeat.extract(
            backbone_of("pixel"), np.zeros((16, 16, 4), np.uint8), spec("pixel", ("mid",))
        )
