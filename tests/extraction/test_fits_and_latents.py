"""Pictures at their own sizes or on black, and the clean latents that they become."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import diffeat
from diffeat.errors import SpecError
from diffeat.images import open_source
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore
from tests.extraction.common import (
    T,
    condition_of,
    differ,
    drawn,
    given,
    output_of,
    same,
    spec,
)
from tests.pipelines import NATIVE, gaussian, pictures

SIZES = [(32, 48), (48, 32), (32, 48), (40, 40), (48, 32)]  # height, width; multiples of 4
DEEP = {"pixel": "up.1", "sd1": "up.1", "flux": "single.1"}


def picture(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def pooled(plain, model, image, eps, rows, columns, t=T):
    """(1, C·rows·columns) of one picture, by the plain model."""
    x = plain.noisy(plain.encode(image), eps, t)
    condition = condition_of(plain, 1, plain.pixels(x))
    maps = output_of(plain, DEEP[model], x, t, condition)
    _, _, h, w = maps.shape
    cells = maps.unflatten(3, (columns, w // columns)).unflatten(2, (rows, h // rows))
    return cells.mean((3, 5)).flatten(1)


# --- each picture at its own size -----------------------------------------------------------------


@pytest.mark.parametrize(("model", "batch_size"), [("pixel", None), ("sd1", 2), ("flux", 3)])
def test_pictures_of_all_sizes_in_one_batch(model, batch_size, backbone_of, plain_of):
    backbone, plain = backbone_of(model), plain_of(model)
    images = [picture(size, seed) for seed, size in enumerate(SIZES)]
    asked = spec(model, DEEP[model], (600, T), fit="native", pool="2x2")
    found = diffeat.extract(backbone, images, asked, ids="abcde", batch_size=batch_size)
    for row, (image, name) in enumerate(zip(images, "abcde", strict=True)):
        eps = drawn(name, backbone.latent_shape(SIZES[row]))
        for t in (600, T):
            expected = pooled(plain, model, tensor(image), eps, 2, 2, t)
            same(found[DEEP[model], t][row : row + 1], expected)
    assert found.boxes.tolist() == [[0, 0, *size] for size in SIZES]


def test_sizes_are_rounded_to_what_the_model_divides(backbone_of, plain_of):
    backbone, plain = backbone_of("pixel"), plain_of("pixel")
    image, fitting = picture((30, 41)), (32, 40)  # the nearest multiples of 4, the half one up
    asked = spec("pixel", "up.1", fit="native", pool="1x1", resample="lanczos")
    found = diffeat.extract(backbone, [image], asked, ids="a")
    resized = image.resize((fitting[1], fitting[0]), Image.Resampling.LANCZOS)
    same(found["up.1", T], pooled(plain, "pixel", tensor(resized), drawn("a", (3, *fitting)), 1, 1))
    assert found.boxes.tolist() == [[0, 0, *fitting]]


def test_files_of_pictures_of_all_sizes(backbone_of, plain_of, tmp_path):
    backbone, plain = backbone_of("pixel"), plain_of("pixel")
    for number, size in enumerate(SIZES):
        picture(size, number).save(tmp_path / f"{number}.png")
    asked = spec("pixel", "up.1", fit="native", pool="1x1", seed=2)
    extract_to_file(backbone, open_source(tmp_path), asked, tmp_path / "f.h5", batch_size=3)
    with FeatureStore(tmp_path / "f.h5") as store:
        values, ids = torch.from_numpy(store["up.1", T][:]), store.ids
    for row, name in enumerate(ids):
        eps = drawn([name], (3, *SIZES[row]), seed=2)
        image = tensor(Image.open(tmp_path / name))
        same(values[row : row + 1], pooled(plain, "pixel", image, eps, 1, 1))


def test_prompts_of_pictures_of_all_sizes(backbone_of, plain_of):
    backbone, plain = backbone_of("sd1"), plain_of("sd1")
    images, prompts = [picture(size, 7) for size in SIZES[:4]], ["a cat", "do", "at", "a cat"]
    asked = spec("sd1", "up.1", fit="native", pool="1x1", noise="none", prompt="")
    found = diffeat.extract(backbone, images, asked, prompts=prompts)["up.1", T]
    for row, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        condition = condition_of(plain, 1, prompt=prompt)
        maps = output_of(plain, "up.1", plain.encode(tensor(image)), T, condition)
        same(found[row : row + 1], maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "native"}, "can give maps of different sizes.*choose a pool such as 1x1"),
        ({"fit": "native", "pool": "1x1", "size": 32}, r"leave size=\(32, 32\) out"),
        ({"fit": "native", "pool": "1x1", "tile": 32}, "nor tiles"),
        ({"fit": "native", "pool": "40x40"}, "pool 40x40 is larger than the 32×48 map"),
        ({"fit": "stretch"}, "fit='stretch' is unknown"),
    ],
)
def test_own_sizes_that_cannot_be_meant(options, message, backbone_of):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of("pixel"), [picture((32, 48))], spec("pixel", "up.1", **options))


def test_one_noise_does_not_fit_all_sizes(backbone_of):
    asked = spec("pixel", "up.1", fit="native", pool="1x1")
    with pytest.raises(SpecError, match="noise= needs pictures of one size"):
        diffeat.extract(
            backbone_of("pixel"), [picture(NATIVE)], asked, noise=gaussian(1, 3, 32, 32)
        )


# --- pictures on black ----------------------------------------------------------------------------

BOXES = {  # of pictures of (height, width) in 32×32 pixels: top, left, height, width
    (16, 32): (8, 0, 16, 32),
    (32, 8): (0, 12, 32, 8),
    (32, 32): (0, 0, 32, 32),
    (64, 32): (0, 8, 32, 16),
}


@pytest.mark.parametrize("model", ["pixel", "sd1"])
def test_padded_pictures_and_their_boxes(model, backbone_of, plain_of, tmp_path):
    backbone, plain = backbone_of(model), plain_of(model)
    images = [picture(size, seed) for seed, size in enumerate(BOXES)]
    asked = spec(model, DEEP[model], fit="pad", noise="none", resample="bilinear")
    found = diffeat.extract(backbone, images, asked, batch_size=3)
    assert found.boxes.tolist() == [list(box) for box in BOXES.values()]
    assert found.boxes.dtype == np.int32
    by_hand = torch.zeros(4, 3, 32, 32)
    for row, (image, (top, left, height, width)) in enumerate(
        zip(images, BOXES.values(), strict=True)
    ):
        small = tensor(image.resize((width, height), Image.Resampling.BILINEAR))[0]
        by_hand[row, :, top : top + height, left : left + width] = small
    expected = output_of(plain, DEEP[model], plain.encode(by_hand), T)
    same(found[DEEP[model], T], expected)
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    extract_to_file(backbone, open_source(tmp_path), asked, tmp_path / "f.h5", batch_size=3)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.boxes.tolist() == found.boxes.tolist()
        same(torch.from_numpy(store[DEEP[model], T][:]), expected)


def test_boxes_only_where_pictures_are_fitted(backbone_of, tmp_path):
    backbone, image = backbone_of("pixel"), picture((16, 32))
    asked = spec("pixel", "mid")
    assert diffeat.extract(backbone, pictures(1), asked).boxes is None
    assert diffeat.extract(backbone, [image], asked).boxes.tolist() == [[0, 0, 32, 32]]
    image.save(tmp_path / "0.png")
    extract_to_file(backbone, open_source(tmp_path), asked, tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        assert "boxes" not in file


def test_tiles_of_padded_pictures_keep_their_boxes(backbone_of):
    asked = spec("pixel", "mid", fit="pad", size=(48, 32), tile=32)
    found = diffeat.extract(backbone_of("pixel"), [picture((16, 32))], asked)
    assert found.boxes.tolist() == [[16, 0, 16, 32]]
    assert found["mid", T].shape[2:] == (12, 8)


# --- clean latents --------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("model", ["sd1", "sd3"])
def test_latents_as_the_model_or_as_the_vae_has_them(model, scaled, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(2)
    asked = spec(model, ("vae", "net:in", "mid" if model == "sd1" else "block.1"),
                 noise="none", scale_latent=scaled)  # fmt: skip
    found = diffeat.extract(backbone, images, asked)
    mean, config = plain.posterior(images).mean, plain.vae.config
    if scaled:
        mean = (mean - (config.shift_factor or 0)) * config.scaling_factor
    same(found["vae", T], mean)
    same(found["net:in", T], mean)
    name = asked.blocks[2]
    same(found[name, T], output_of(plain, name, mean, T))


def test_unscaled_latents_are_noised_as_they_are(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd3"), plain_of("sd3"), pictures(2)
    eps = gaussian(2, *backbone.latent_shape(NATIVE))
    asked = spec("sd3", "net:in", scale_latent=False)
    found = diffeat.extract(backbone, images, asked, noise=eps)["net:in", T]
    same(found, 0.8 * plain.posterior(images).mean + 0.2 * eps)


def test_scale_means_nothing_without_a_vae(backbone_of):
    for scaled in (True, False):
        asked = spec("pixel", "net:in", noise="none", scale_latent=scaled)
        same(diffeat.extract(backbone_of("pixel"), pictures(1), asked)["net:in", T],
             pictures(1) * 2 - 1)  # fmt: skip


def samples(backbone, plain, images, asked, **options):
    """(P, E, C, h, w) standard normal numbers behind the sampled latents."""
    with given(backbone) as seen:
        diffeat.extract(backbone, images, asked, **options)
    rows = torch.cat([x for x, _ in seen]).unflatten(0, (len(images), asked.ensemble))
    posterior, config = plain.posterior(images), plain.vae.config
    shift, scale = config.shift_factor or 0, config.scaling_factor
    if not asked.scale_latent:
        shift, scale = 0, 1
    return (rows / scale + shift - posterior.mean[:, None]) / posterior.std[:, None]


@pytest.mark.parametrize("scaled", [True, False])
def test_every_member_samples_its_own_latent(scaled, backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd3"), plain_of("sd3"), pictures(3)
    asked = spec("sd3", "block.0", latent="sample", noise="none", ensemble=4, scale_latent=scaled)
    numbers = samples(backbone, plain, images, asked, ids="abc")
    assert abs(numbers.mean()) < 0.04  # 12288 values: 4.4 standard errors
    assert abs(numbers.std() - 1) < 0.03
    flat = numbers.flatten(0, 1).flatten(1)
    overlap = flat @ flat.T / flat.shape[1] - torch.eye(12)
    assert overlap.abs().max() < 0.15  # 1024 values each: 4.8 standard errors
    again = samples(backbone, plain, images.flip(0), asked, ids="cba", batch_size=4)
    same(again.flip(0), numbers, atol=1e-3)
    other = spec("sd3", "block.0", latent="sample", noise="none", ensemble=4, seed=1)
    assert differ(samples(backbone, plain, images, other, ids="abc"), numbers)


def test_features_of_sampled_members_are_averaged(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(2)
    asked = spec("sd1", "up.1", latent="sample", ensemble=3)
    eps = gaussian(2, 3, *backbone.latent_shape(NATIVE))
    clean = spec("sd1", "up.1", latent="sample", ensemble=3, noise="none")
    with given(backbone) as seen:
        diffeat.extract(backbone, images, clean)
    latents = seen[0][0].unflatten(0, (2, 3))
    found = diffeat.extract(backbone, images, asked, noise=eps, batch_size=2)["up.1", T]
    members = [
        output_of(plain, "up.1", plain.noisy(latents[:, e], eps[:, e], T), T) for e in range(3)
    ]
    same(found, sum(members) / 3)


# --- what is wrong today --------------------------------------------------------------------------


def test_mirror_images_of_pictures_of_all_sizes(backbone_of, plain_of):
    backbone, plain = backbone_of("pixel"), plain_of("pixel")
    images = [picture(size, seed) for seed, size in enumerate(SIZES[:2])]
    asked = spec("pixel", "up.1", fit="native", pool="1x1", flip=True, noise="none")
    try:
        found = diffeat.extract(backbone, images, asked)["up.1", T]
    except SpecError:
        return  # to refuse it would do as well
    for row, image in enumerate(images):
        views = [plain.encode(tensor(image)), plain.encode(tensor(image).flip(3))]
        means = [output_of(plain, "up.1", x, T).mean((2, 3)) for x in views]
        same(found[row : row + 1], (means[0] + means[1]) / 2)


def test_tensors_at_their_own_size(backbone_of, plain_of):
    asked = spec("pixel", "up.1", fit="native", pool="1x1", noise="none")
    found = diffeat.extract(backbone_of("pixel"), pictures(2, (32, 48)), asked)["up.1", T]
    x = plain_of("pixel").encode(pictures(2, (32, 48)))
    same(found, output_of(plain_of("pixel"), "up.1", x, T).mean((2, 3)))


def test_maps_of_pictures_of_all_sizes(backbone_of):
    asked = spec("sd1", "up.1.attn.0:self.map", fit="native", pool="1x1")
    images = [picture(size) for size in SIZES[:2]] + [picture(NATIVE)]
    with pytest.raises(SpecError, match=r"self\.map"):
        diffeat.extract(backbone_of("sd1"), images, asked)


def test_maps_of_large_pictures_fit_in_memory(backbone_of, monkeypatch):
    one = 4 * 256 * 24 * 16  # 256 keys in the 24×16 cells of a picture of 48×32
    monkeypatch.setattr("diffeat.extraction.plan.MAX_MAP_BYTES", 2 * one)
    asked = spec(
        "sd1", "up.1.attn.0:self.map", tokens=range(256), fit="native", pool="1x1", noise="none"
    )
    with given(backbone_of("sd1")) as seen:
        diffeat.extract(backbone_of("sd1"), [picture((48, 32))] * 6, asked)
    assert max(len(x) for x, _ in seen) <= 2
