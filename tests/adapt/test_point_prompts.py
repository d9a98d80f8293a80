"""Prompts that are optimised until a token attends to a point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffeat
from diffeat.adapt import PointPrompts, PromptTuning
from diffeat.adapt.crops import OnePicture, gaussian
from diffeat.adapt.point_prompts import OBJECTIVE
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import STATES
from tests.adapt.toys import SIDE, shifted_pairs

BLOCKS = ("down.0.attn.*:cross.map",)
OPTIONS = {
    "contexts": 2, "steps": 25, "learning_rate": 0.5, "sigma": 0.1, "progress": False,
    "options": {"noise": "none"},
}  # fmt: skip


def prompts(backbone, **more) -> PointPrompts:
    return PointPrompts(backbone, BLOCKS, 20, **{**OPTIONS, **more})


def errors(found, truth) -> np.ndarray:
    return np.linalg.norm(found.points - truth, axis=1)


@pytest.fixture(scope="module")
def pairs():
    return shifted_pairs(6, 7, points=3)


@pytest.fixture(scope="module")
def learned(backbone_of, pairs):
    return prompts(backbone_of("sd1")).fit(
        pairs.pictures().load(0), pairs.truth(0).source_points[:2]
    )


def test_a_token_attends_to_the_point_also_in_crops_that_it_never_saw(learned, pairs, backbone_of):
    picture, truth = pairs.pictures().load(0), pairs.truth(0).source_points[:2]
    start = prompts(backbone_of("sd1"))
    generator = torch.Generator().manual_seed(3)
    start.contexts_ = torch.randn(learned.contexts_.shape, generator=generator)
    learned.random_state = 99  # other crops
    try:
        after = errors(learned.locate(picture, 20, 5), truth)
    finally:
        learned.random_state = 0
    before = errors(start.locate(picture, 20, 5), truth)
    assert after.mean() < 0.5 * before.mean()
    for curve in learned.history_:
        losses = [one["loss"] for one in curve]
        assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


@pytest.mark.slow
def test_the_point_is_found_in_a_picture_that_was_moved(backbone_of, pairs):
    source, found, stay = pairs.pictures(), [], []
    for k in range(len(pairs)):
        truth = pairs.truth(k)
        model = prompts(backbone_of("sd1"), steps=30)
        model.fit(source.load(2 * k), truth.source_points)
        found += errors(model.locate(source.load(2 * k + 1), 20, 6), truth.target_points).tolist()
        stay += np.linalg.norm(truth.source_points - truth.target_points, axis=1).tolist()
    # what attends to a place, whatever is there, would be off by the shift
    assert np.median(found) < 0.75 * np.median(stay)


def test_whole_pictures_give_the_mean_of_extracted_maps(learned, pairs):
    picture = pairs.pictures().load(1)
    backbone = learned.backbone
    learned.crop = 1.0
    try:
        found = learned.attention(picture, 20, 2)
        matches = learned.locate(picture, 20, 1)
    finally:
        learned.crop = 0.93
    assert found.shape == (2, SIDE, SIDE)
    spec = diffeat.ExtractSpec((20,), BLOCKS, noise="none", tokens=(1,), dtype="float32")
    for point, contexts in enumerate(learned.contexts_):
        total = 0
        for context in contexts:
            maps = diffeat.extract(backbone, picture, spec, embeddings={STATES: context[None]})
            for one in maps.values():
                total = total + torch.nn.functional.interpolate(one, (SIDE, SIDE), mode="bilinear")
        mean = (total / (2 * len(maps)))[0, 0].numpy()
        np.testing.assert_allclose(found[point], mean, rtol=1e-4, atol=1e-6)
        row, column = np.unravel_index(mean.argmax(), mean.shape)
        assert matches.points[point].tolist() == [column, row]
        assert matches.score[point] == pytest.approx(mean.max(), rel=1e-4)


def test_points_are_told_in_pixels_of_the_picture(learned):
    # twice as wide and three times as high as the input
    pixels = np.random.default_rng(0).integers(0, 255, (96, 64, 3)).astype(np.uint8)
    at = OnePicture.of(learned._noisy(20), pixels).placement
    np.testing.assert_allclose(at.to_input([[0.5, 1.0]]), [[0.0, 0.0]], atol=1e-9)
    found = learned.locate(pixels, 20, 1).points
    inner = at.to_input(found)
    np.testing.assert_allclose(inner, inner.round(), atol=1e-9)
    assert found[:, 1].max() <= 95


def test_the_target_is_a_gaussian_where_the_crop_has_the_point():
    found = gaussian(np.array([10.0, 20.0]), (4, 8, 16, 8), (32, 32), 3.0)
    # 8 columns from 8 on, shown over 32: x = 10 is column (10.5 - 8)·4 - .5 = 9.5; y likewise 32.5
    expected = [
        [np.exp(-((x - 9.5) ** 2 + (y - 32.5) ** 2) / 18) for x in range(32)] for y in range(32)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert gaussian(np.array([3.0, 5.0]), (0, 0, 32, 32), (32, 32), 2.0)[5, 3] == 1


def test_prompts_are_optimised_independently():
    output, target = torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    whole = float(OBJECTIVE.loss(output, target, "mean"))
    parts = (slice(k, k + 1) for k in range(3))
    each = sum(float(OBJECTIVE.loss(output[k], target[k], "mean")) for k in parts)
    assert whole == pytest.approx(each, rel=1e-6)
    assert each == pytest.approx(3 * float(((output - target) ** 2).mean()), rel=1e-6)


def test_going_on_gives_the_same_bits(backbone_of, pairs, tmp_path):
    given = pairs.pictures().load(0), pairs.truth(0).source_points[:2]
    few = {"steps": 4, "options": {"noise": "uniform"}}
    whole = prompts(backbone_of("sd1"), **few).fit(*given)
    dying = prompts(backbone_of("sd1"), **few, checkpoint=tmp_path)
    optimised = dying._optimised

    def second(noisy, one, point, place):
        if place == 1:
            noisy = _Failing(noisy, 2)
        return optimised(noisy, one, point, place)

    dying._optimised = second
    with pytest.raises(KeyboardInterrupt):
        dying.fit(*given)
    again = prompts(backbone_of("sd1"), **few, checkpoint=tmp_path).fit(*given)
    assert torch.equal(again.contexts_, whole.contexts_)
    with pytest.raises(ValueError, match="point was"):
        prompts(backbone_of("sd1"), **few, checkpoint=tmp_path).fit(given[0], given[1] + 1)


class _Failing:
    """A forward that is interrupted after so many runs."""

    def __init__(self, noisy, runs):
        self.noisy, self.left = noisy, runs

    def __getattr__(self, name):
        return getattr(self.noisy, name)

    def __call__(self, *args):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.noisy(*args)


def test_files(learned, pairs, backbone_of, tmp_path):
    path = learned.save(tmp_path / "p.safetensors")
    again = PointPrompts.load(path, backbone_of("sd1"))
    assert torch.equal(again.contexts_, learned.contexts_)
    assert (again.blocks, again.t, again.steps) == (BLOCKS, 20, 25)
    picture = pairs.pictures().load(1)
    spec = {"noise": "none", "tokens": (1,), "dtype": "float32"}
    told = diffeat.ExtractSpec((20,), BLOCKS, embeddings=str(path), **spec)
    with pytest.raises(SpecError, match="holds 4 prompts of points; expected one"):
        diffeat.extract(learned.backbone, picture, told)
    one = PointPrompts(learned.backbone, BLOCKS, 20)
    one.contexts_ = learned.contexts_[:, :1]
    single = one.save(tmp_path / "q.safetensors", point=1)
    told = diffeat.ExtractSpec((20,), BLOCKS, embeddings=str(single), **spec)
    plain = diffeat.ExtractSpec((20,), BLOCKS, **spec)
    by_hand = {STATES: learned.contexts_[1, :1]}
    found = diffeat.extract(learned.backbone, picture, told)
    expected = diffeat.extract(learned.backbone, picture, plain, embeddings=by_hand)
    assert all(torch.equal(found[key], expected[key]) for key in found)
    with pytest.raises(
        SpecError, match=r"denoiser of .*, which .*sd2"
    ):  # no text encoder took part
        PointPrompts.load(path, backbone_of("sd2"))
    with pytest.raises(SpecError, match="a prompt of kind 'points'; expected a learned prompt"):
        PromptTuning.load(path, backbone_of("sd1"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"crop": 1.5}, "crop=1.5"),
        ({"sigma": 0}, "sigma=0"),
        ({"options": {"prompt": "a"}}, "options"),
        ({"token": 99}, "token=99"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(backbone_of, pairs, fields, message):
    with pytest.raises(SpecError, match=message):
        prompts(backbone_of("sd1"), **fields).fit(pairs.pictures().load(0), [[3, 3]])


def test_what_cannot_be_optimised_is_refused(backbone_of, pairs, learned):
    picture = pairs.pictures().load(0)
    with pytest.raises(SpecError, match=r"point \[40.0, 3.0\] is not in what the input shows"):
        prompts(backbone_of("sd1")).fit(picture, [[40, 3]])
    with pytest.raises(SpecError, match="no points"):
        prompts(backbone_of("sd1")).fit(picture, [])
    with pytest.raises(SpecError, match="no cross-attention map"):
        PointPrompts(backbone_of("sd1"), ("up.1.attn.0:self.map",), 20).fit(picture, [[3, 3]])
    with pytest.raises(SpecError, match="does not attend to one text"):
        PointPrompts(backbone_of("pixel"), ("up.1",), 20).fit(picture, [[3, 3]])
    with pytest.raises(SpecError, match="2 pictures are given"):
        learned.locate([picture, picture])
    with pytest.raises(SpecError, match="crops=0"):
        learned.locate(picture, crops=0)
    with pytest.raises(SpecError, match="not learned yet"):
        prompts(backbone_of("sd1")).locate(picture)
