"""PCK of pairs is what naive upsampling finds, whatever the order, the memory or the pieces."""

from __future__ import annotations

import csv
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffeat.errors import SpecError
from diffeat.search import Journal, Mix
from diffeat.search.matching import bind, score_pairs, scored
from diffeat.search.matching.stream import order_of
from probes.matching import NearestMatcher
from probes.metrics.conventions import Convention
from probes.pairs import Pairs
from tests.search.matching.common import BEST, NOISE, maps_of, size_of, write_file

NOISY = ("a", 10)
WAYS = (Convention(), Convention("image", "pair"), Convention("extent", strict=True))


def upsampled(number: int, cell) -> torch.Tensor:
    """(C, H, W) float32 map of a picture, as stored."""
    maps = maps_of(range(number, number + 1), NOISE[cell], list(NOISE).index(cell))
    half = torch.from_numpy(maps.astype(np.float16)).float()
    return F.interpolate(half, size=size_of(number), mode="bilinear", align_corners=False)[0]


def naive(targets, pair: int, cells, weights=None) -> np.ndarray:
    """(n, 2) x, y of the largest sum of cosines, the points being at whole pixels or between."""
    source, target = (int(one[pair][6:8]) for one in (targets.source, targets.target))
    points = targets.truth(pair).source_points
    height, width = size_of(source)
    total = 0
    for cell, weight in zip(cells, weights or [1] * len(cells), strict=True):
        maps = maps_of(range(source, source + 1), NOISE[cell], list(NOISE).index(cell))
        # the source is read at its points: grid_sample clamps at borders as upsampling does
        at = (torch.from_numpy(points).float() + 0.5) / torch.tensor([width, height]) * 2 - 1
        half = torch.from_numpy(maps.astype(np.float16)).float()
        wanted = F.grid_sample(half, at[None, None], "bilinear", "border", False)[0, :, 0]
        there = F.normalize(upsampled(target, cell), dim=0)
        total = total + weight * torch.einsum("cn,chw->nhw", F.normalize(wanted, dim=0), there)
    best = total.flatten(1).argmax(1).numpy()
    return np.stack([best % total.shape[2], best // total.shape[2]], 1).astype(float)


def rights(targets, cells, weights=None) -> np.ndarray:
    """(P,) points within .1 of the box's larger side, 30."""
    found = []
    for pair in range(len(targets)):
        error = naive(targets, pair, cells, weights) - targets.truth(pair).target_points
        found.append((np.hypot(*error.T) <= 3.0).sum())
    return np.array(found)


@pytest.fixture
def some(bound):
    return bound.take(slice(0, None, 3))


class TestNumbers:
    @pytest.mark.parametrize("cell", [BEST, NOISY])
    def test_a_cell(self, cell, some):
        found = score_pairs(None, some, cell, progress=False)
        right, points = found.pck.counts()
        np.testing.assert_array_equal(right[:, 0], rights(some.targets, [cell]))
        assert (points == 5).all()

    @pytest.mark.parametrize("weights", [None, (0.2, 1.5)])
    def test_a_mix_is_a_sum_of_cosines(self, weights, some):
        cells = (NOISY, ("b", 50))
        found = score_pairs(None, some, Mix(cells, weights), progress=False)
        expected = rights(some.targets, cells, weights)
        np.testing.assert_array_equal(found.pck.counts()[0][:, 0], expected)
        assert found.name == "a t=10 + b t=50"

    def test_all_cells_by_default(self, some):
        whole = score_pairs(None, some, progress=False)
        mix = score_pairs(None, some, Mix(some.keys), progress=False)
        np.testing.assert_array_equal(whole.pck.counts()[0], mix.pck.counts()[0])

    def test_every_convention_from_one_match(self, some):
        both = score_pairs(None, some, NOISY, WAYS, (0.1, 0.2), progress=False)
        for way in WAYS:
            alone = score_pairs(None, some, NOISY, [way], (0.1, 0.2), progress=False)
            assert both.pck.compute(convention=way) == alone.pck.compute()

    def test_little_memory(self, some):
        few, many = (score_pairs(NearestMatcher(memory_mb=size), some, NOISY, progress=False)
                     for size in (0.02, 64))  # fmt: skip
        np.testing.assert_array_equal(few.pck.counts()[0], many.pck.counts()[0])


def reads(pairs: Pairs, order: np.ndarray, most: int) -> int:
    """Pictures that are read where the last `most` are held."""
    held, count = OrderedDict(), 0
    for pair in order.tolist():
        for row in (int(pairs.source[pair]), int(pairs.target[pair])):
            count += row not in held
            held[row] = held.pop(row, None)
            while len(held) > most:
                held.popitem(last=False)
    return count


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("most", [2, 3, 5, 12, 100])
def test_every_picture_is_read_few_times(most, share):
    rng = np.random.default_rng(0)
    sources, targets = 20, 30
    rows = [(a, 100 + b) for a in range(sources) for b in range(targets) if rng.random() < share]
    source, target = np.array(rows)[rng.permutation(len(rows))].T
    pairs = Pairs(source, target, [np.zeros((1, 2))] * len(rows))
    order = order_of(pairs, most)
    assert sorted(order.tolist()) == list(range(len(rows)))
    blocks = -(-sources // max(1, most - 2))
    found = reads(pairs, order, most)
    if share == 1:
        assert found == sources + blocks * targets
    assert found <= reads(pairs, np.arange(len(rows)), most) / (1 if most > 49 else 1.5)


class Stopped(NearestMatcher):
    """A matcher that is stopped after some pairs, and counts them."""

    pairs, after = 0, None

    def match_pairs(self, cells, pairs, **options):
        for found in super().match_pairs(cells, pairs, **options):
            if Stopped.pairs == Stopped.after:
                raise KeyboardInterrupt
            Stopped.pairs += 1
            yield found


class TestPieces:
    @pytest.fixture(autouse=True)
    def pieces(self, monkeypatch):
        monkeypatch.setattr(scored, "CHUNK", 25)
        monkeypatch.setattr(Stopped, "pairs", 0)

    def test_what_was_stopped_goes_on(self, bound, tmp_path, monkeypatch):
        whole = score_pairs(NearestMatcher(), bound, NOISY, progress=False)
        monkeypatch.setattr(Stopped, "after", 60)
        with pytest.raises(KeyboardInterrupt):
            score_pairs(Stopped(), bound, NOISY, journal=Journal(tmp_path), progress=False)
        monkeypatch.setattr(Stopped, "after", None)
        journal = Journal(tmp_path)
        found = score_pairs(Stopped(), bound, NOISY, journal=journal, progress=False)
        assert (journal.found, journal.computed) == (2, 3)  # of 120 pairs
        assert Stopped.pairs == 60 + 70
        np.testing.assert_array_equal(found.pck.counts()[0], whole.pck.counts()[0])
        assert found.pck.interval() == whole.pck.interval()

    @pytest.mark.parametrize(
        "other",
        [
            {"conventions": [Convention("image")]},
            {"alphas": (0.1, 0.2)},
            {"candidate": ("b", 50)},
            {"matcher": Stopped(resolution="site")},
            {"candidate": Mix((NOISY, BEST), (1.0, 2.0))},
        ],
    )
    def test_nothing_else_is_taken_for_it(self, other, some, tmp_path):
        first = {"matcher": Stopped(), "candidate": NOISY}
        for options in (first, {**first, **other}):
            journal = Journal(tmp_path)
            score_pairs(bound=some, journal=journal, progress=False, **options)
            assert (journal.found, journal.computed) == (0, 2)  # of 40 pairs


class TestShown:
    @pytest.fixture
    def found(self, some):
        return score_pairs(None, some, NOISY, WAYS[:2], progress=False)

    def test_the_table_says_every_convention(self, found):
        table = found.table()
        assert table.startswith("a t=10: 40 pairs, 200 points, 12 groups\nNearestMatcher(metric=")
        value = 100 * found.pck.compute()[0.1]
        assert f"{value:.1f}" in next(line for line in table.splitlines() if "[1]" in line)
        for place, way in enumerate(WAYS[:2]):
            assert f"[{place + 1}] {way.line((0.1, 0.05))}" in table

    def test_json(self, found, some):
        values = json.loads(json.dumps(found.to_dict()))
        assert (values["pairs"], values["points"], values["unsaid"]) == (40, 200, 0)
        first = values["values"][0]
        right = found.pck.counts()[0][:, 0].sum()
        assert first["pck"] == pytest.approx(right / 200)
        assert first["interval_95"][0] <= first["pck"] <= first["interval_95"][1]
        assert (first["reference"], first["alpha"], first["strict"]) == ("box", 0.1, False)
        assert values["classes"] == [{"class": "thing", "pairs": 40, "points": 200,
                                      "pck": values["classes"][0]["pck"]}]  # fmt: skip

    def test_a_row_per_pair_and_per_class(self, found, some, tmp_path):
        found.write_csv(tmp_path / "p.csv")
        found.write_csv(tmp_path / "c.csv", rows="class")
        with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["source"] for row in rows] == list(some.targets.source)
        counted = [int(row["right@0.1"]) for row in rows]
        assert counted == found.pck.counts()[0][:, 0].tolist()
        assert rows[0]["convention"] == WAYS[0].line()
        with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
            [row] = csv.DictReader(file)
        assert float(row["pck@0.1"]) == pytest.approx(sum(counted) / 200, abs=1e-6)
        with pytest.raises(SpecError, match="expected pair or class"):
            found.write_csv(tmp_path / "x.csv", rows="point")

    def test_a_prompt_that_names_the_category_is_said(self, targets, folder, tmp_path):
        spec = {"prompt": "a photo of a {class}"}
        with write_file(tmp_path / "t.h5", folder, noise={BEST: 0.0}, spec=spec) as store:
            found = score_pairs(None, bind(targets, [store]), BEST, progress=False)
        assert "the prompt names the category, as DIFT's does" in found.table()
        assert found.to_dict()["told"] == "{class} in the prompt"
        found.write_csv(tmp_path / "p.csv")
        assert "{class} in the prompt" in (tmp_path / "p.csv").read_text()


def test_no_box(some):
    from dataclasses import replace

    boxes = some.boxes.copy()
    boxes[3] = np.nan
    with pytest.raises(SpecError, match=r"pair 3, .*expected a box; take another reference"):
        score_pairs(None, replace(some, boxes=boxes), BEST, progress=False)
    score_pairs(None, replace(some, boxes=boxes), BEST, [Convention("image")], progress=False)


def test_what_the_matcher_refuses_is_said_of_the_pairs(some):
    with pytest.raises(SpecError, match=r"things:trn: resolution.*'sites'"):
        score_pairs(NearestMatcher(resolution="sites"), some, BEST, progress=False)
