"""Judges of planes and surfaces: against arithmetic that knows neither matchers nor judges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from diffeat.errors import SpecError
from diffeat.images import ArraySource
from diffeat.search import Journal, search_surface
from diffeat.search.matching import BoundPairs, DenseRecall, HomographyAccuracy
from diffeat.search.matching.geometry import key_points_of, unmoved
from diffeat.search.splits import TEST, VALIDATION
from diffeat.specs import ExtractSpec
from diffeat.targets.pairs import HomographyPairs, open_depth
from probes.matching import MutualMatcher
from probes.pairs import Pairs
from tests.targets.rooms import (
    COLOUR_FOCAL,
    POSES,
    all_pixels,
    colour_pose,
    first_hit,
    rays_of,
    write_room,
)

GOOD, BLIND = ("places", 1), ("noise", 1)
WAVES = np.random.default_rng(5).normal(size=(3, 48))
SIZE, INPUT = (80, 96), (40, 48)


class Files:
    """What a bound set of pairs asks of a feature file."""

    def __init__(self, arrays, input_size):
        self.arrays, self.path, self.count = arrays, "toy.h5", len(next(iter(arrays.values())))
        blocks = tuple(block for block, _ in arrays)
        self.spec = ExtractSpec((1,), blocks, pool="none", size=input_size)
        self.model, self.pictures, self.digests = {"name": "toy"}, {"count": 0}, None

    def __getitem__(self, key):
        return self.arrays[key]

    def __len__(self):
        return self.count


def coded(places: np.ndarray) -> np.ndarray:
    """(…, 3) places → (…, 96): what only the same place has."""
    phase = places @ WAVES
    return np.concatenate([np.cos(phase), np.sin(phase)], -1)


def bound_of(targets, arrays, sizes, input_size, ids) -> BoundPairs:
    truths = [targets.truth(pair) for pair in range(len(targets))]
    source, target = targets.rows(ids)
    points = ([t.source_points for t in truths], [t.target_points for t in truths])
    scale = [[input_size[1] / w, 0, input_size[0] / h, 0] for h, w in sizes]
    return BoundPairs(
        targets, (Files(arrays, input_size),), tuple(arrays),
        Pairs(source, target, *points, groups=targets.groups), np.full((len(truths), 4), np.nan),
        np.array(sizes), np.array(scale, float), {},
    )  # fmt: skip


# planes


def homographies() -> np.ndarray:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(6):
        moved = np.eye(3)
        moved[:2, :2] += rng.normal(0, 0.06, (2, 2))
        moved[:2, 2] = rng.normal(0, 3, 2)
        moved[2, :2] = rng.normal(0, 3e-4, 2)
        found.append(moved)
    return np.array(found)


def onto(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    ends = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return ends[:, :2] / ends[:, 2:]


def site_centres() -> np.ndarray:
    """(40, 48, 2) x, y in pixels of pictures of 80 × 96."""
    y, x = np.mgrid[: INPUT[0], : INPUT[1]]
    return np.stack([2 * x + 0.5, 2 * y + 0.5], -1).astype(float)


@pytest.fixture(scope="module")
def planes():
    """Two scenes of three pairs each: the first chooses, the second is the test."""
    matrices, ids, maps = homographies(), [], []
    names = {"source": [], "target": [], "groups": []}
    for scene in range(2):
        first = f"v_{scene}/1.png"
        for k in range(3):
            names["source"].append(first)
            names["target"].append(f"v_{scene}/{k + 2}.png")
            names["groups"].append((f"v_{scene}", f"v_{scene}"))
        ids += [first, *names["target"][-3:]]
        moves = [np.eye(3), *matrices[3 * scene : 3 * scene + 3]]
        centres = site_centres()
        for move in moves:
            back = onto(np.linalg.inv(move), centres.reshape(-1, 2)) / 9
            places = np.column_stack([back, np.full(len(back), scene)])
            maps.append(coded(places).T.reshape(-1, *INPUT))
    maps = np.array(maps, np.float32)
    noise = np.random.default_rng(0).normal(size=maps.shape).astype(np.float32)
    pixels = np.random.default_rng(1).integers(0, 255, (len(ids), *SIZE, 3), np.uint8)
    source = ArraySource("planes", tuple(ids), pixels=pixels)
    targets = HomographyPairs(
        "planes", tuple(names["source"]), tuple(names["target"]), matrices, ((SIZE, SIZE),) * 6,
        lambda: source, tuple(names["groups"]), ("viewpoint",) * 6,
    )  # fmt: skip
    arrays = {GOOD: maps, BLIND: noise}
    return bound_of(targets, arrays, [SIZE] * len(ids), INPUT, ids), ids


@pytest.fixture(scope="module")
def points(planes):
    """Key points of each picture: places of the source and where they went, and others."""
    bound, ids = planes
    rng, found = np.random.default_rng(7), {}
    for scene in range(2):
        here = rng.uniform((12, 12), (84, 68), (60, 2))
        found[ids[4 * scene]] = here
        for k in range(3):
            there = onto(bound.targets.homography(3 * scene + k), here)
            others = rng.uniform((0, 0), (95, 79), (25, 2))
            found[ids[4 * scene + 1 + k]] = np.concatenate([there.clip(0, (95, 79)), others])
    return found


PART = np.array([VALIDATION] * 3 + [TEST] * 3)


def read_at(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, C) unit vectors, bilinear between the centres of sites, by torch's grid_sample."""
    grid = torch.from_numpy((points + 0.5) / (SIZE[1], SIZE[0]) * 2 - 1).float()[None, None]
    found = torch.nn.functional.grid_sample(
        torch.from_numpy(values)[None], grid, padding_mode="border", align_corners=False
    )[0, :, 0].T
    return torch.nn.functional.normalize(found, dim=1).numpy()


def by_hand(bound, ids, points, cell, pair) -> tuple[float, np.ndarray]:
    """Corner error in pixels, and how far each mutual match is off, by numpy and OpenCV."""
    names = bound.targets.source[pair], bound.targets.target[pair]
    a, b = (read_at(bound.read(*cell)[ids.index(n)], points[n]) for n in names)
    alike = a @ b.T
    best = alike.argmax(1)
    rows = np.flatnonzero(alike.argmax(0)[best] == np.arange(len(a)))
    here, there = points[names[0]][rows], points[names[1]][best[rows]]
    matrix, _ = cv2.findHomography(here, there, cv2.RANSAC, 3.0)
    truth = bound.targets.homography(pair)
    off = np.linalg.norm(onto(truth, here) - there, axis=1)
    if matrix is None:
        return np.inf, off
    corners = np.array([[0, 0], [95, 0], [95, 79], [0, 79]], float)
    return float(np.linalg.norm(onto(matrix, corners) - onto(truth, corners), axis=1).mean()), off


class TestHomographyAccuracy:
    def test_numbers_are_those_of_opencv(self, planes, points):
        bound, ids = planes
        judge = HomographyAccuracy(bound, PART, detector=points)
        found = judge.planes(GOOD, np.arange(6))
        blind = judge.planes(BLIND, np.arange(6))
        for pair in range(6):
            error, off = by_hand(bound, ids, points, GOOD, pair)
            assert error < 1.5  # a good cell finds the plane
            assert found[pair].error == pytest.approx(error, abs=0.7)  # other draws of RANSAC
            assert sorted(found[pair].distances) == pytest.approx(sorted(off), abs=1e-6)
            assert found[pair].share(3) > 0.9
            error, off = by_hand(bound, ids, points, BLIND, pair)
            assert sorted(blind[pair].distances) == pytest.approx(sorted(off), abs=1e-6)
            assert min(error, blind[pair].error) > 5

    def test_a_search_finds_the_better_cell(self, planes, points, tmp_path):
        bound, _ = planes
        judge = HomographyAccuracy(bound, PART, detector=points)
        surface = search_surface(judge, Journal(tmp_path))
        scores = {cell.key: cell.validation for cell in surface.cells}
        assert scores == {GOOD: 1.0, BLIND: 0.0}
        assert surface.best.test == 1.0
        again = Journal(tmp_path)
        search_surface(HomographyAccuracy(bound, PART, detector=points), again)
        assert again.computed == 0
        another = Journal(tmp_path)
        search_surface(HomographyAccuracy(bound, PART, threshold=1, detector=points), another)
        assert another.computed > 0

    def test_matches_are_another_number(self, planes, points):
        bound, ids = planes
        judge = HomographyAccuracy(bound, PART, 2, "percent", "matches", points)
        [one] = judge.validate([BLIND], judge.part)
        shares = [(by_hand(bound, ids, points, BLIND, k)[1] <= 0.02 * 96).mean() for k in range(3)]
        assert one.validation == pytest.approx(np.mean(shares))
        assert judge.name == "right matches within 2 % of the side"

    def test_what_stands_beside(self, planes, points):
        bound, _ = planes
        judge = HomographyAccuracy(bound, PART, detector=points)
        aside = judge.aside(GOOD, None)
        assert aside["within 5 px"] == 1
        assert aside["no homography found"] == 0
        assert aside["within 1 px"] <= aside["within 3 px"]
        corners = np.array([[0, 0], [95, 0], [95, 79], [0, 79]], float)
        ends = [onto(bound.targets.homography(k), corners) for k in range(3, 6)]
        errors = [np.linalg.norm(one - corners, axis=1).mean() for one in ends]
        assert judge.floor[0] == np.mean(np.array(errors) <= 3)
        assert [unmoved(bound.targets, k).error for k in range(3, 6)] == pytest.approx(errors)
        assert "3 validation and 3 test pairs" in judge.headline

    def test_too_few_matches_are_a_failure(self, planes):
        bound, ids = planes
        few = {name: np.array([[10.0, 10.0], [40, 40], [80, 20]]) for name in ids}
        judge = HomographyAccuracy(bound, PART, detector=few)
        assert judge.test(GOOD, None).tolist() == [0, 0, 0]
        assert judge.aside(GOOD, None)["no homography found"] == 1

    def test_sites_are_key_points(self, planes):
        bound, _ = planes
        judge = HomographyAccuracy(bound, PART, detector="sites", most=500)
        assert judge.test(GOOD, None).mean() == 1
        assert judge.test(BLIND, None).mean() == 0
        here, _ = MutualMatcher().mutual(*(bound.cells([GOOD]).maps(k) for k in (0, 1)), most=500)
        grid = {tuple(one) for one in site_centres().reshape(-1, 2)}
        assert len(here) <= 500
        assert {tuple(one) for one in here} <= grid

    def test_sift_is_the_detector_without_others(self, planes):
        bound, _ = planes
        judge = HomographyAccuracy(bound, PART, most=40)
        judge.planes(GOOD, np.array([0]))
        picture = bound.targets.pictures().load(0)
        np.testing.assert_array_equal(judge._key_points(0), key_points_of(picture, 40))

    def test_what_cannot_be_meant(self, planes, points):
        bound, ids = planes
        for wrong in ({"unit": "miles"}, {"by": "luck"}, {"detector": "orb"}, {"threshold": 0},
                      {"most": 3}):  # fmt: skip
            with pytest.raises(SpecError, match="expected"):
                HomographyAccuracy(bound, PART, **wrong)
        lacking = {name: found for name, found in points.items() if name != ids[5]}
        with pytest.raises(SpecError, match="no key points of"):
            HomographyAccuracy(bound, PART, detector=lacking).test(GOOD, None)
        with pytest.raises(SpecError, match="kind 'homography'; --task depth asks for 'depth'"):
            DenseRecall(bound, PART)


# surfaces


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = write_room(tmp_path_factory.mktemp("room") / "kitchen")
    targets = open_depth(folder, "all", 12)
    ids = list(targets.pictures().ids)
    maps = []
    for name in ids:
        pose = colour_pose(POSES[int(name[6:12])])
        start, rays = pose[:3, 3], rays_of(all_pixels(), pose, COLOUR_FOCAL)
        places = start + first_hit(start, rays)[:, None] * rays
        whole = torch.from_numpy(coded(places * 2.5).T.reshape(1, -1, 120, 160)).float()
        maps.append(interpolate(whole, (30, 40), mode="area")[0].numpy())
    maps = np.array(maps)
    noise = np.random.default_rng(0).normal(size=maps.shape).astype(np.float32)
    bound = bound_of(targets, {GOOD: maps, BLIND: noise}, [(120, 160)] * len(ids), (120, 160), ids)
    held = [max(int(n[6:12]) for n in both) >= 700 for both in targets.groups]
    return bound, np.where(held, TEST, VALIDATION)


def naive_right(bound, cell, pair, alpha) -> int:
    """Right points of a pair, features upsampled to every pixel by torch."""
    values = bound.read(*cell)
    rows = bound.pairs.source[pair], bound.pairs.target[pair]
    here, there = (
        torch.nn.functional.normalize(
            interpolate(torch.from_numpy(values[row])[None], (120, 160), mode="bilinear")[0], dim=0
        ) for row in rows
    )  # fmt: skip
    right = 0
    truth = bound.targets.truth(pair)
    for (x, y), at in zip(truth.source_points.astype(int), truth.target_points, strict=True):
        best = int(torch.einsum("c,chw->hw", here[:, y, x], there).argmax())
        right += np.hypot(best % 160 - at[0], best // 160 - at[1]) <= alpha * 160
    return right


class TestDenseRecall:
    def test_numbers_are_those_of_upsampled_features(self, room):
        bound, part = room
        judge = DenseRecall(bound, part)
        for cell in (GOOD, BLIND):
            [one] = judge.validate([cell], part)
            rows = np.flatnonzero(part == VALIDATION)
            right = sum(naive_right(bound, cell, row, 0.02) for row in rows)
            points = sum(len(bound.targets.truth(row).source_points) for row in rows)
            assert one.validation == pytest.approx(right / points, abs=2 / points)

    def test_a_search_and_what_stands_beside(self, room):
        bound, part = room
        judge = DenseRecall(bound, part)
        surface = search_surface(judge)
        assert surface.best.key == GOOD
        assert surface.best.test > 0.8
        low, high = surface.interval
        assert low <= surface.best.test <= high
        aside = judge.aside(GOOD, None)
        assert aside["recall@0.01"] <= surface.best.test <= aside["recall@0.04"]
        tested = np.flatnonzero(part == TEST)
        angles = bound.targets.angles[tested]
        near = tested[angles < 10]
        assert 0 < len(near) < len(tested)
        right = sum(naive_right(bound, GOOD, row, 0.02) for row in near)
        assert aside["recall@0.02, 0 to 10°"] == pytest.approx(right / 200 / len(near), abs=0.01)
        assert judge.floor[0] < 0.2

    def test_other_pairs_are_refused(self, room):
        with pytest.raises(SpecError, match="asks for 'homography'"):
            HomographyAccuracy(room[0], room[1])


class TestCommand:
    """Straight from a model, with pairs of a folder."""

    ASKED = ("search", "unet-cifar10", "-t", "20", "-b", "up.1", "--size", "32", "--task")

    def test_depth(self, diffeat, room, tmp_path):
        folder = room[0].targets.frames.folder
        pairs = ("--pair-list", f"{folder}:trn", "--test-pairs", f"{folder}:val")
        asked = (*self.ASKED, "depth", *pairs, "--out", tmp_path)
        answer = diffeat(*asked)
        assert answer.code == 0, answer.err
        assert "validation recall@0.02 in %" in answer.out
        assert "recall@0.04" in answer.out
        wrong = diffeat(*asked, "--reference", "box")
        assert wrong.code == 2
        assert "leave --reference and --aggregate out" in wrong.err

    def test_pairs_of_another_kind(self, diffeat, room, tmp_path):
        folder = room[0].targets.frames.folder
        pairs = ("--pair-list", f"{folder}:trn", "--test-pairs", f"{folder}:val")
        answer = diffeat(*self.ASKED, "homography", *pairs, "--out", tmp_path)
        assert answer.code == 2
        assert "--task homography asks for 'homography'" in answer.err
