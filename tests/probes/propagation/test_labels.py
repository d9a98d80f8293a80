"""Labels carried through clips, against loops in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from probes.cells import Cells
from probes.maps import Maps
from probes.propagation import LabelPropagator, windows
from tests.probes.propagation import naive

SIZE, GRID = (45, 78), (9, 13)
KEY = ("up.1", 101.0)


def clip(count=5, channels=6, grid=GRID, seed=0):
    """(N, C, h, w) float32: noise that moves a site to the left with every frame, and changes."""
    draw = np.random.default_rng(seed)
    h, w = grid
    scene = draw.standard_normal((channels, h, w + count))
    moved = np.stack([scene[:, :, place : place + w] for place in range(count)])
    return (moved + 0.3 * draw.standard_normal(moved.shape)).astype(np.float32)


def maps_of(frames, size=SIZE, **options):
    place = {"input_size": size, **options}
    return [Maps({KEY: values}, size, **place) for values in frames]


def mask_of(size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[5:25, 30:60], mask[25:40, 10:40], mask[8:15, 4:20] = 3, 9, 250
    return mask


def sites_of(mask, numbers, grid=GRID):
    """(K, h, w) of Pillow's nearest pixel."""
    small = np.asarray(Image.fromarray(mask).resize(grid[::-1], Image.Resampling.NEAREST))
    return np.stack([small == number for number in numbers]).astype(np.float64)


CASES = [
    {},
    {"radius": 2, "top_k": 4, "temperature": 0.1},
    {"radius": None, "top_k": 7, "last": 1},
    {"radius": 1, "top_k": 30, "last": 2, "first": False},
    {"radius": 0, "top_k": 3, "last": 3},
    {"radius": 3, "top_k": 1, "last": 0},
    {"radius": 1, "top_k": 6, "last": 2, "free_first": True},
    {"radius": 1, "top_k": 200, "last": 2, "free_first": True},
]


@pytest.mark.parametrize("options", CASES)
def test_labels_are_those_of_the_definition(options):
    frames, mask, numbers = clip(), mask_of(), [0, 3, 9, 250]
    propagator = LabelPropagator(**options)
    expected = naive.propagated(
        frames, sites_of(mask, numbers), last=propagator.last, first=propagator.first,
        radius=propagator.radius, k=propagator.top_k, temperature=propagator.temperature,
        free_first=propagator.free_first,
    )  # fmt: skip
    found = list(propagator.propagate(maps_of(frames), mask))
    soft = list(propagator.propagate_maps(maps_of(frames), sites_of(mask, numbers)))
    assert len(found) == len(soft) == len(frames)
    np.testing.assert_array_equal(found[0], mask)
    for place in range(1, len(frames)):
        np.testing.assert_allclose(soft[place]["labels"], expected[place], atol=2e-5)
        labels, lead = naive.hard(expected[place], numbers, SIZE)
        assert found[place].dtype == np.uint8
        sure = lead > 1e-3
        assert sure.mean() > 0.9
        np.testing.assert_array_equal(found[place][sure], labels[sure])


def test_small_tiles_find_the_same(monkeypatch):
    frames, mask = maps_of(clip(4)), mask_of()
    propagator = LabelPropagator(radius=2, top_k=5)
    whole = [maps["labels"] for maps in propagator.propagate_maps(frames, sites_of(mask, [0, 3]))]
    monkeypatch.setitem(windows.ROOM, "cpu", 1)
    for maps, expected in zip(
        propagator.propagate_maps(frames, sites_of(mask, [0, 3])), whole, strict=True
    ):
        np.testing.assert_allclose(maps["labels"], expected, atol=1e-6)


@pytest.mark.parametrize("radius", [0, 2, None])
@pytest.mark.parametrize("k", [1, 6, 500])
def test_nearest_sites_are_those_of_all_pairs(radius, k):
    h, w, count = 11, 10, 3
    draw = torch.Generator().manual_seed(1)
    target, *frames = torch.randn(count + 1, h, w, 5, generator=draw, dtype=torch.float64)
    sites, dots = windows.nearest_sites(target, frames, radius, k)
    every = target.flatten(0, 1) @ torch.cat([frame.flatten(0, 1) for frame in frames]).T
    rows, columns = (one.ravel() for one in np.mgrid[:h, :w])
    away = np.maximum(*(abs(one[:, None] - one) for one in (rows, columns)))
    if radius is not None:
        every[torch.from_numpy(np.tile(away > radius, (1, count)))] = -torch.inf
    expected = every.topk(dots.shape[1], dim=1).values
    torch.testing.assert_close(dots, expected)
    assert dots.shape[1] == min(k, count * (h * w if radius is None else (2 * radius + 1) ** 2))
    real = torch.isfinite(dots)
    torch.testing.assert_close(every.gather(1, sites)[real], dots[real])


def test_equal_features_come_from_within_the_radius():
    """Zero vectors are as like to everything; none further away is taken."""
    target, frame = torch.zeros(12, 12, 3), torch.zeros(12, 12, 3)
    sites, _ = windows.nearest_sites(target, [frame], 2, 9)
    own = torch.arange(144)[:, None]
    assert int((sites // 12 - own // 12).abs().max()) == 2
    assert int((sites % 12 - own % 12).abs().max()) == 2
    assert all(len(set(line)) == 9 for line in sites.tolist())


def test_several_cells_are_one_vector():
    a, b = clip(3, 4, seed=1), 50 * clip(3, 7, seed=2)
    both = [Maps({"a": x, "b": y}, SIZE, SIZE) for x, y in zip(a, b, strict=True)]
    joined = [np.concatenate([2 * naive.normalised(x), naive.normalised(y)])
              for x, y in zip(a, b, strict=True)]  # fmt: skip
    labels = sites_of(mask_of(), [0, 3])
    expected = naive.propagated(joined, labels, last=28, first=True, radius=3, k=4, temperature=0.2)
    for weights in ((2, 1), {"b": 1, "a": 2}):
        propagator = LabelPropagator(radius=3, top_k=4, weights=weights)
        for maps, soft in zip(propagator.propagate_maps(both, labels), expected, strict=True):
            np.testing.assert_allclose(maps["labels"], soft, atol=2e-5)
    plain = list(LabelPropagator(radius=3, top_k=4).propagate_maps(both, labels))[1]["labels"]
    assert not np.allclose(plain, expected[1], atol=1e-3)


def test_one_cell_is_the_same_with_a_weight():
    frames, labels = maps_of(clip(3)), sites_of(mask_of(), [0, 3])
    plain = list(LabelPropagator().propagate_maps(frames, labels))
    weighed = list(LabelPropagator(weights=[5]).propagate_maps(frames, labels))
    for a, b in zip(plain, weighed, strict=True):
        torch.testing.assert_close(a["labels"], b["labels"])


def test_rows_of_cells_are_frames():
    frames, mask = clip(4), mask_of()
    cells = Cells({KEY: frames}, sizes=np.tile(SIZE, (4, 1)))
    propagator = LabelPropagator(radius=2)
    pairs = zip(propagator.propagate(cells, mask), propagator.propagate(maps_of(frames), mask),
                strict=True)  # fmt: skip
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)


def test_objects_that_are_not_asked_for_are_background():
    frames, mask = maps_of(clip(3)), mask_of()
    found = list(LabelPropagator(radius=2).propagate(frames, mask, objects=[250, 9]))
    np.testing.assert_array_equal(found[0], np.where(mask == 3, 0, mask))
    assert set(np.unique(found)) == {0, 9, 250}
    kept = np.where(mask == 3, 0, mask)
    for a, b in zip(found, LabelPropagator(radius=2).propagate(frames, kept), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_moving_scene_carries_its_labels_along_and_noise_does_not():
    def shares(frames):
        """Of pixels that are right, in the last frame, where the scene still shows the object."""
        mask = np.zeros((64, 128), np.uint8)
        mask[16:48, 64:112] = 1
        expected = np.roll(mask, -8 * (len(frames) - 1), 1)
        maps = maps_of(frames, (64, 128))
        found = list(LabelPropagator(radius=3, top_k=3, temperature=0.05).propagate(maps, mask))[-1]
        return ((found == 1) & (expected == 1)).sum() / ((found == 1) | (expected == 1)).sum()

    grid, draw = (8, 16), np.random.default_rng(5)
    assert shares(clip(5, 24, grid)) > 0.8
    assert shares(draw.standard_normal((5, 24, *grid)).astype(np.float32)) < 0.5


def test_an_object_that_no_site_has_is_told_and_leaves_background():
    """Its map is of one value everywhere, which min-max cannot stretch."""
    draw = np.random.default_rng(0)
    frames = draw.standard_normal((2, 5, 4, 4)).astype(np.float32)
    mask = np.zeros((16, 16), np.uint8)
    mask[0, 0] = 7  # no site's centre
    with pytest.warns(UserWarning, match=r"the 4×4 sites lies in the object 7, too small"):
        found = list(LabelPropagator().propagate(maps_of(frames, (16, 16)), mask))
    assert found[0][0, 0] == 7
    assert not found[1].any()


def test_a_mask_without_background_stays_whole():
    frames = maps_of(clip(2))
    found = list(LabelPropagator(radius=1).propagate(frames, np.full(SIZE, 4, np.uint8)))
    np.testing.assert_array_equal(found[1], 4)


def test_scale_changes_what_is_largest():
    frames, mask = maps_of(clip(3)), mask_of()
    soft = list(LabelPropagator(radius=3, top_k=20, scale="none").propagate_maps(
        frames, sites_of(mask, [0, 3, 9, 250])))  # fmt: skip
    found = list(LabelPropagator(radius=3, top_k=20, scale="none").propagate(frames, mask))
    whole = np.stack([naive.bilinear(one.numpy().astype(float), SIZE) for one in soft[2]["labels"]])
    order = np.sort(whole, 0)
    sure = order[-1] - order[-2] > 1e-4
    np.testing.assert_array_equal(found[2][sure], np.array([0, 3, 9, 250])[whole.argmax(0)][sure])
    stretched = list(LabelPropagator(radius=3, top_k=20).propagate(frames, mask))
    assert (stretched[2] != found[2]).any()


def test_padding_and_crops_are_background():
    """A wide picture in the middle of a square input, and one of which the sides are cut off."""
    draw = np.random.default_rng(0)
    frames = draw.standard_normal((2, 5, 8, 8)).astype(np.float32)
    mask = np.ones((32, 64), np.uint8)
    padded = maps_of(frames, (32, 64), input_size=(64, 64), placement=(1, 0, 1, 16))
    labels = next(LabelPropagator().propagate_maps(padded, lambda maps: _first(maps, mask)))
    np.testing.assert_array_equal(labels["labels"][1].numpy()[:, 0], [0, 0, 1, 1, 1, 1, 0, 0])
    cut = maps_of(frames, (32, 64), input_size=(32, 32), placement=(1, -16, 1, 0))
    found = list(LabelPropagator().propagate(cut, mask))[1]
    assert found[:, 16:48].all()
    assert not found[:, :16].any()
    assert not found[:, 48:].any()


def _first(maps, mask):
    from probes.propagation.labels import at_sites

    return at_sites(mask, [0, 1], maps)


def test_labels_that_were_given_out_are_not_looked_at_again():
    frames, labels = maps_of(clip(3)), sites_of(mask_of(), [0, 3])
    expected = [maps["labels"].clone() for maps in LabelPropagator().propagate_maps(frames, labels)]
    for maps, known in zip(LabelPropagator().propagate_maps(frames, labels), expected, strict=True):
        torch.testing.assert_close(maps["labels"], known)
        maps["labels"].zero_()


def test_frames_are_asked_for_one_by_one():
    asked = []

    def frames():
        for place, maps in enumerate(maps_of(clip(5))):
            asked.append(place)
            yield maps

    found = LabelPropagator().propagate(frames(), mask_of())
    assert asked == [0]
    for place in range(5):
        next(found)
        assert asked == list(range(place + 1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_other_precisions(dtype):
    frames, labels = clip(3).astype(dtype), sites_of(mask_of(), [0, 3])
    expected = naive.propagated(frames, labels, last=28, first=True, radius=2, k=4, temperature=0.2)
    found = list(LabelPropagator(radius=2, top_k=4).propagate_maps(maps_of(frames), labels))
    np.testing.assert_allclose(found[2]["labels"], expected[2],
                               atol=1e-10 if dtype == np.float64 else 2e-5)  # fmt: skip


@pytest.mark.parametrize("sigma", [0.5, None])
def test_key_points_are_labels_of_their_own(sigma):
    frames = clip(4)
    points = np.array([[40.0, 20.0], [63.3, 31.1], [12.0, 3.0], [200.0, 10.0]])  # one is outside
    h, w = GRID
    column, row = ((points + 0.5) * [w / SIZE[1], h / SIZE[0]] - 0.5).T
    labels = np.zeros((4, h, w))
    for n, v, u in itertools.product(range(3), range(h), range(w)):
        if sigma:
            labels[n, v, u] = np.exp(-((u - column[n]) ** 2 + (v - row[n]) ** 2) / (2 * sigma**2))
        else:
            labels[n, v, u] = (round(column[n]), round(row[n])) == (u, v)
    soft = naive.propagated(frames, labels, last=28, first=True, radius=2, k=4, temperature=0.2)
    propagator = LabelPropagator(radius=2, top_k=4)
    found = list(propagator.propagate_points(maps_of(frames), points, sigma=sigma, top=3))
    np.testing.assert_array_equal(found[0].points, points)
    assert found[0].valid.tolist() == [True, True, True, False]
    for n in range(3):
        most = np.argsort(-soft[3][n].ravel(), kind="stable")[:3]
        shares = soft[3][n].ravel()[most] / soft[3][n].ravel()[most].sum()
        at = np.array([(most % w * shares).sum(), (most // w * shares).sum()])
        expected = (at + 0.5) * [SIZE[1] / w, SIZE[0] / h] - 0.5
        np.testing.assert_allclose(found[3].points[n], expected, atol=0.01)
        assert found[3].score[n] == pytest.approx(soft[3][n].max(), abs=1e-5)
    assert found[3].valid.tolist() == [True, True, True, False]


BAD_MASKS = [
    (np.zeros((45, 77), np.uint8), {}, "77 × 45 pixels and the first frame 78 × 45"),
    (np.zeros(SIZE, np.uint8), {}, "shows no object"),
    (np.zeros(SIZE, np.float32), {}, "dtype float32"),
    (np.full(SIZE, 300), {}, "300 to 300"),
    (np.full(SIZE, -1), {}, "-1 to -1"),
    (mask_of(), {"objects": [3, 4]}, r"ask for \[4\]; expected some of \[3, 9, 250\]"),
    (mask_of(), {"objects": []}, "ask for none"),
    (mask_of(), {"objects": [0, 3]}, "0, the background"),
]


@pytest.mark.parametrize(("mask", "options", "said"), BAD_MASKS)
def test_masks_that_are_refused(mask, options, said):
    with pytest.raises(ValueError, match=said):
        LabelPropagator().propagate(maps_of(clip(2)), mask, **options)


BAD_FRAMES = [
    (lambda a: Maps({KEY: a[:-1]}, SIZE, SIZE), "frame 1 has channels"),
    (lambda a: Maps({KEY: a[:, :-1]}, SIZE, SIZE), "frame 1 has grids"),
    (lambda a: Maps({("mid", 0.0): a}, SIZE, SIZE), "frame 1 has cells"),
    (lambda a: Maps({KEY: a}, (45, 80), SIZE), "frame 1 has size"),
    (lambda a: Maps({KEY: a}, SIZE, SIZE, (1, 3, 1, 0)), "frame 1 has placement"),
    (lambda a: Maps({KEY: a * np.nan}, SIZE, SIZE), "nan or inf"),
]


@pytest.mark.parametrize(("changed", "said"), BAD_FRAMES)
def test_frames_unlike_the_first_are_refused(changed, said):
    a, b = clip(2)
    frames = [*maps_of([a]), changed(b)]
    found = LabelPropagator().propagate(frames, mask_of())
    next(found)
    with pytest.raises(ValueError, match=said):
        next(found)


def test_what_is_no_clip_is_refused():
    with pytest.raises(ValueError, match="no frames"):
        LabelPropagator().propagate([], mask_of())
    with pytest.raises(ValueError, match="a frame is a ndarray"):
        LabelPropagator().propagate(clip(2), mask_of())
    a = clip(1)[0]
    with pytest.raises(ValueError, match="expected one grid"):
        LabelPropagator().propagate([Maps({"a": a, "b": a[:, ::2, ::2]}, SIZE, SIZE)], mask_of())
    with pytest.raises(ValueError, match=r"expected \(K, 9, 13\)"):
        LabelPropagator().propagate_maps(maps_of([a]), np.zeros((2, 9, 12)))
    with pytest.raises(ValueError, match="below 0"):
        LabelPropagator().propagate_maps(maps_of([a]), np.full((2, *GRID), -1.0))


BAD_OPTIONS = [
    {"last": -1}, {"last": 1.5}, {"last": 0, "first": False},
    {"free_first": True, "first": False}, {"radius": -1}, {"radius": 1.5}, {"top_k": 0},
    {"temperature": 0}, {"scale": "max"}, {"low_pass": 0}, {"weights": [1, 2]},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_that_are_refused(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        LabelPropagator(**options).propagate(maps_of(clip(2)), mask_of())


def test_bad_points():
    with pytest.raises(ValueError, match="sigma"):
        LabelPropagator().propagate_points(maps_of(clip(2)), [[1, 2]], sigma=0)
    with pytest.raises(ValueError, match="top"):
        LabelPropagator().propagate_points(maps_of(clip(2)), [[1, 2]], top=0)
    with pytest.raises(ValueError, match="no points"):
        LabelPropagator().propagate_points(maps_of(clip(2)), [])
