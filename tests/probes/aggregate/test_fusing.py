"""Features in the frame of others, and their fusion, against reading every site in float64."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.coords import Placement
from probes import Cells
from probes.aggregate import CoPCA, Fusion, together
from tests.probes.aggregate.test_reductions import up

SIZES = [(30, 40), (50, 33), (28, 28)]


def placed(shapes, fit, inputs, seed=0, mirror=False, sizes=SIZES) -> Cells:
    """Random maps of pictures that were fitted to an input size."""
    rng = np.random.default_rng(seed)
    arrays = {key: rng.normal(size=(len(sizes), *shape)) for key, shape in shapes.items()}
    places = [Placement.of_fit(size, inputs, fit, mirror).numbers for size in sizes]
    return Cells(arrays, sizes=sizes, placements=places, input_size=inputs)


SD = {"s4": (4, 6, 6), "s3": (3, 12, 12)}
SD = {(name, 100): shape for name, shape in SD.items()}
DINO = {("block.11", 0): (5, 8, 10)}


def read(cells: Cells, row: int, key, x: float, y: float) -> np.ndarray:
    """(C,) of one place of a picture, from its four neighbours, in float64."""
    sx, tx, sy, ty = cells.placements[row]
    (height, width), values = cells.input_size, np.asarray(cells[key][row], np.float64)
    _, h, w = values.shape
    column = np.clip((sx * (x + 0.5) + tx) * w / width - 0.5, 0, w - 1)
    line = np.clip((sy * (y + 0.5) + ty) * h / height - 0.5, 0, h - 1)
    found = 0.0
    for r in {int(line), min(int(line) + 1, h - 1)}:
        for c in {int(column), min(int(column) + 1, w - 1)}:
            share = max(0, 1 - abs(line - r)) * max(0, 1 - abs(column - c))
            found = found + share * values[:, r, c]
    return found


def naive(sd: Cells, dino: Cells, weights, grid=(12, 12)) -> np.ndarray:
    found = []
    for row in range(len(sd)):
        own = [up(np.asarray(sd[key][row])[None], grid)[0] for key in sd.keys]
        vectors, other = np.concatenate(own), np.zeros((5, *grid))
        sx, tx, sy, ty = sd.placements[row]
        for r in range(grid[0]):
            for c in range(grid[1]):
                x = ((c + 0.5) * sd.input_size[1] / grid[1] - tx) / sx - 0.5
                y = ((r + 0.5) * sd.input_size[0] / grid[0] - ty) / sy - 0.5
                other[:, r, c] = read(dino, row, ("block.11", 0), x, y)
        parts = [w * v / np.linalg.norm(v, axis=0) for w, v in zip(weights, (vectors, other),
                                                                   strict=True)]  # fmt: skip
        found.append(np.concatenate(parts))
    return np.stack(found)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_two_models_with_other_inputs_and_grids(fit, mirror):
    sd = placed(SD, "pad", (48, 48))
    dino = placed(DINO, fit, (32, 40), seed=1, mirror=mirror)
    found = Fusion(weights=(1, 0.6)).fit([sd, dino])
    made = found.transform([sd, dino])
    assert made.keys == (("fused", 0.0),)
    assert found.groups_.tolist() == [0, 0, 1]
    np.testing.assert_allclose(made["fused", 0.0][:], naive(sd, dino, (1, 0.6)), atol=1e-5)
    assert (made.placements == sd.placements).all()
    assert made.input_size == (48, 48)
    maps = found.transform_maps([sd.maps(1), dino.maps(1)])
    np.testing.assert_allclose(maps["fused", 0.0], made["fused", 0.0][1:2][0], atol=1e-6)
    part = found.transform([sd[[2, 0]], dino[[2, 0]]]).rows(("fused", 0.0))[:]
    np.testing.assert_allclose(part, made.rows(("fused", 0.0))[[2, 0]], atol=1e-6)


def test_the_cosine_is_the_weighted_mean_of_the_cosines():
    sd, dino = placed(SD, "squash", (48, 48)), placed(DINO, "squash", (48, 48), seed=1)
    made = Fusion(weights=(2, 3), size=(8, 10)).fit([sd, dino]).transform([sd, dino])
    sites = made["fused", 0.0][:].transpose(0, 2, 3, 1).reshape(-1, 12)
    both = together([sd, dino], size=(8, 10))
    first = np.concatenate([up(both[key], (8, 10)) for key in both.keys[:2]], 1)
    parts = [part.transpose(0, 2, 3, 1).reshape(len(sites), -1)
             for part in (first, both[both.keys[2]])]  # fmt: skip
    found = []
    for part in [sites, *parts]:
        part = part / np.linalg.norm(part, axis=1, keepdims=True)
        found.append(part @ part[7])
    np.testing.assert_allclose(found[0], (4 * found[1] + 9 * found[2]) / 13, atol=1e-6)


def test_maps_that_lie_in_the_frame_already_stay_as_they_are():
    first, other = placed(SD, "squash", (48, 48)), placed(DINO, "squash", (96, 70), seed=1)
    both = together([first, other], ["sd", "dino"])
    assert both.keys == (("sd/s4", 100), ("sd/s3", 100), ("dino/block.11", 0))
    assert both["dino/block.11", 0] is other["block.11", 0]
    assert both["sd/s3", 100] is first["s3", 100]


def test_mirrored_inputs_are_flipped_exactly():
    first, other = placed(SD, "pad", (48, 48)), placed(SD, "pad", (48, 48), 1, mirror=True)
    found = together([first, other]).rows(("2/s3", 100))[1:]
    np.testing.assert_array_equal(found, other.rows(("s3", 100))[1:][..., ::-1])


def test_squashed_pictures_of_unknown_sizes():
    sd = Cells({("a", 1): np.random.default_rng(0).normal(size=(2, 3, 4, 4))})
    other = Cells({("a", 1): np.random.default_rng(1).normal(size=(2, 2, 4, 4))}, input_size=(9, 9))
    found = Fusion().fit([sd, other]).transform([sd, other])
    assert found["fused", 0.0].shape == (2, 5, 4, 4)
    assert found.sizes is None
    np.testing.assert_allclose(np.linalg.norm(found["fused", 0.0][:], axis=1), 2**0.5, rtol=1e-6)


def test_places_that_another_input_does_not_show():
    whole, cut = placed(SD, "squash", (48, 48)), placed(DINO, "crop", (32, 32), seed=1)
    with pytest.raises(ValueError, match=r"2: of 2 of 3 pictures .* in row 0 17% less.*outside="):
        Fusion().fit([whole, cut])
    found = Fusion(outside="edge").fit([whole, cut]).transform([whole, cut])
    np.testing.assert_allclose(found["fused", 0.0][:], naive(whole, cut, (1, 1)), atol=1e-5)
    together([cut, whole])  # the other way round all is shown


@pytest.mark.parametrize("scope", ["set", "pair"])
def test_reduced_before_it_is_fused(scope):
    sd, dino = placed(SD, "pad", (48, 48)), placed(DINO, "pad", (48, 48), seed=1)
    found = Fusion(weights=(1, 2), reduce=CoPCA(components=2, scope=scope)).fit([sd, dino])
    both = together([sd, dino])
    a, b, points = found.pair(both.maps(0), both.maps(2), "p")
    assert points == "p"
    alone = CoPCA(components=2, scope=scope).fit(sd)
    parts = alone.pair(sd.maps(0), sd.maps(2))
    for made, part, row in ((a, parts[0], 0), (b, parts[1], 2)):
        reduced = part["co_pca", 0.0][None].astype(np.float64)
        other = up(np.asarray(dino["block.11", 0][row])[None], (12, 12))
        want = [w * v / np.linalg.norm(v, axis=1, keepdims=True)
                for w, v in ((1, reduced), (2, other))]  # fmt: skip
        np.testing.assert_allclose(made["fused", 0.0], np.concatenate(want, 1)[0], atol=1e-5)
    if scope == "set":
        made = found.transform([sd, dino])
        np.testing.assert_allclose(made["fused", 0.0][0:1][0], a["fused", 0.0], atol=1e-6)
    else:
        with pytest.raises(ValueError, match="axes of two pictures"):
            found.transform([sd, dino])


class TestRefused:
    def test_other_pictures(self):
        sd = placed(SD, "pad", (48, 48))
        with pytest.raises(ValueError, match=r"features of \[3, 2\] pictures"):
            Fusion().fit([sd, placed(DINO, "pad", (48, 48), sizes=SIZES[:2])])
        other = placed(DINO, "pad", (48, 48), sizes=[SIZES[0], SIZES[2], SIZES[1]])
        with pytest.raises(ValueError, match=r"2 of 3 pictures have other sizes.*row 1: 28 × 28"):
            Fusion().fit([sd, other])

    def test_weights_groups_and_names(self):
        sd, dino = placed(SD, "pad", (48, 48)), placed(DINO, "pad", (48, 48))
        with pytest.raises(ValueError, match="expected 2 numbers >= 0, one a group"):
            Fusion(weights=(1, 1, 1)).fit([sd, dino])
        with pytest.raises(ValueError, match="3 groups of features; expected 2"):
            Fusion().fit([sd, dino]).transform([sd, dino, dino])
        with pytest.raises(ValueError, match="each with its own"):
            together([sd, dino], ["a", "a"])
        with pytest.raises(ValueError, match="0 features"):
            together([])

    def test_vectors(self):
        with pytest.raises(ValueError, match="expected maps"):
            Fusion().fit([Cells({("a", 1): np.zeros((3, 4))}), Cells({("a", 1): np.zeros((3, 4))})])

    def test_a_placement_without_sizes(self):
        sd = placed(SD, "pad", (48, 48))
        bare = Cells({key: sd[key] for key in sd.keys}, placements=sd.placements)
        with pytest.raises(ValueError, match="sizes of the pictures are not known"):
            together([bare, bare])
