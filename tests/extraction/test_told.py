"""A t between two steps, which a network is told but no noise has; and uniform noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import diffeat
from diffeat.errors import SpecError
from diffeat.noise import picture_noise
from diffeat.schedules import Schedule
from diffeat.store import FeatureStore, verify
from tests.extraction.common import T, differ, given, output_of, same, spec
from tests.pipelines import pictures

LEARNED = 261.3
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.mark.parametrize(("model", "block"), [("pixel", "up.0"), ("sd1", "up.0"),
                                              ("dit", "block.2")])  # fmt: skip
def test_a_fraction_is_what_the_network_is_told(model, block, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(2)
    with given(backbone) as seen:
        found = diffeat.extract(backbone, images, spec(model, block, LEARNED, noise="none"))
    ((_, told),) = seen
    assert told.tolist() == pytest.approx([LEARNED] * 2, rel=1e-6)
    clean = plain.encode(images)
    same(found[block, LEARNED], output_of(plain, block, clean, LEARNED))
    whole = output_of(plain, block, clean, 262)
    assert differ(found[block, LEARNED], whole, 1e-5)


def test_whole_steps_are_told_as_before(backbone_of):
    backbone = backbone_of("pixel")
    with given(backbone) as seen:
        found = diffeat.extract(
            backbone, pictures(1), spec("pixel", "up.0", (261, 261.5, 262), noise="none")
        )
        alone = diffeat.extract(backbone, pictures(1), spec("pixel", "up.0", 261, noise="none"))
    assert [told.dtype for _, told in seen] == [torch.float32, torch.int64]
    same(found["up.0", 261], alone["up.0", 261])


def test_with_noise_a_fraction_is_refused_with_the_reason(backbone_of):
    backbone, images = backbone_of("pixel"), pictures(1)
    why = r"t=261\.3 is out of range.*between two steps is not defined.*noise='none'"
    for noise in ("per-image", "shared", "uniform"):
        with pytest.raises(SpecError, match=why):
            diffeat.extract(backbone, images, spec("pixel", "up.0", LEARNED, noise=noise))
    with pytest.raises(SpecError, match=why):  # noise by hand
        diffeat.extract(
            backbone, images, spec("pixel", "up.0", LEARNED, noise="none"),
            noise=torch.zeros(1, *backbone.latent_shape((32, 32))),
        )  # fmt: skip
    for t in (-0.5, 999.5, 1000.5):
        with pytest.raises(SpecError, match="out of range"):
            diffeat.extract(backbone, images, spec("pixel", "up.0", t, noise="none"))


def test_what_is_recorded_lies_between_the_steps():
    schedule = Schedule.from_config(LINEAR)
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    level = schedule.resolve("261.3", clean=True)
    expected = 0.7 * abar[261] + 0.3 * abar[262]
    assert level.alpha**2 == pytest.approx(expected, rel=1e-5)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
    assert level.label == "t261.3"
    assert schedule.resolve(261.0, clean=True) == schedule.resolve(261)


def test_a_table_of_steps_cannot_be_asked_between_them(backbone_of, monkeypatch):
    backbone = backbone_of("pixel")
    monkeypatch.setitem(backbone.config, "time_embedding_type", "learned")
    with pytest.raises(SpecError, match="looks t up in a table of whole steps"):
        diffeat.extract(backbone, pictures(1), spec("pixel", "up.0", LEARNED, noise="none"))


def test_a_file_holds_it_under_its_name(backbone_of, tmp_path):
    from PIL import Image

    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    backbone, path = backbone_of("pixel"), tmp_path / "f.h5"
    source = diffeat.open_source(tmp_path)
    wanted = spec("pixel", ("up.0", "mid"), (LEARNED, 20), noise="none")
    diffeat.extract_to_file(backbone, source, wanted, path, progress=False)
    assert verify(path) == []
    assert diffeat.extract_to_file(backbone, source, wanted, path, progress=False).computed == 0
    images = torch.from_numpy(np.stack([np.asarray(source.load(k)) for k in range(3)]))
    images = images.permute(0, 3, 1, 2).float() / 255
    with FeatureStore(path) as store:
        assert store.timesteps == [20, LEARNED]
        assert store.file["features/mid/t261.3"].attrs["t"] == LEARNED
        expected = diffeat.extract(backbone, images, wanted, ids=source.ids)
        same(torch.from_numpy(store["mid", LEARNED][:]), expected["mid", LEARNED])


# --- uniform noise ------------------------------------------------------------------------------


def test_uniform_noise_is_uniform_and_a_pictures_own():
    values = picture_noise(0, "a", 0, (4, 64, 64), uniform=True)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 0.01
    np.testing.assert_array_equal(values, picture_noise(0, "a", 0, (4, 64, 64), uniform=True))
    for other in ((1, "a", 0), (0, "b", 0), (0, "a", 1)):
        found = picture_noise(*other, (4, 64, 64), uniform=True)
        assert abs(np.corrcoef(values.ravel(), found.ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("model", ["pixel", "sd1"])
def test_uniform_noise_is_added_as_other_noise_is(model, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(2)
    wanted = spec(model, "up.0", noise="uniform", ensemble=2, seed=3)
    found = diffeat.extract(backbone, images, wanted, ids="ab")
    clean, shape = plain.encode(images), backbone.latent_shape((32, 32))
    maps = []
    for member in range(2):
        eps = np.stack([picture_noise(3, name, member, shape, uniform=True) for name in "ab"])
        x = plain.noisy(clean, torch.from_numpy(eps), T)
        maps.append(output_of(plain, "up.0", x, T))
    same(found["up.0", T], (maps[0] + maps[1]) / 2)
    alone = diffeat.extract(backbone, images[1:], wanted, ids="b")
    same(alone["up.0", T], found["up.0", T][1:])
    plain_noise = diffeat.extract(backbone, images, spec(model, "up.0", ensemble=2, seed=3),
                                  ids="ab")  # fmt: skip
    assert differ(plain_noise["up.0", T], found["up.0", T])
