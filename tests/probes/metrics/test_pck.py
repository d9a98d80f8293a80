"""PCK against counting by hand, and against the published ways written out as loops."""

from __future__ import annotations

import numpy as np
import pytest

from probes.metrics import PCK, PRESETS, Convention, conventions_of, pck
from probes.metrics.conventions import AGGREGATES


def some_pairs(count: int = 40, seed: int = 0) -> list[dict]:
    """Pairs of three classes of different sizes, with points near their truth."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        size = (int(rng.integers(60, 200)), int(rng.integers(60, 200)))
        truth = rng.uniform(0, 1, (int(rng.integers(2, 9)), 2)) * (size[1] - 1, size[0] - 1)
        x1, y1 = truth.min(0)
        x2, y2 = truth.max(0) + 3
        pairs.append({
            "found": truth + rng.normal(0, 8, truth.shape), "truth": truth, "size": size,
            "box": (x1, y1, x2, y2), "picture": f"picture {rng.integers(9)}",
            "category": ("cat", "dog", "dog", "boat")[int(rng.integers(4))],
            "groups": (f"g{rng.integers(8)}", f"g{rng.integers(8)}"),
        })  # fmt: skip
    return pairs


def counted(pairs: list[dict], *args, **options) -> PCK:
    metric = PCK(*args, **options)
    for pair in pairs:
        metric.update(**pair)
    return metric


class TestPoints:
    def test_by_hand(self):
        found = [[0, 0], [3, 4], [0, 5.01], [6, 0]]
        truth = np.zeros((4, 2))
        assert pck(found, truth, 50, 0.1).tolist() == [True, True, False, False]
        assert pck(found, truth, 50, 0.1, strict=True).tolist() == [True, False, False, False]

    @pytest.mark.parametrize(
        ("found", "truth", "reference", "message"),
        [
            ([[0, 0]], [[0, 0], [1, 1]], 5, "1 points found for 2"),
            ([[0, np.nan]], [[0, 0]], 5, "expected finite x and y"),
            ([[0, 0]], [[0, 0]], 0, "reference=0; expected pixels, more than 0"),
            ([[0, 0]], [[0, 0]], np.nan, "more than 0"),
        ],
    )
    def test_what_is_refused(self, found, truth, reference, message):
        with pytest.raises(ValueError, match=message):
            pck(found, truth, reference, 0.1)


def published_dift(pairs: list[dict], alpha: float) -> dict[str, float]:
    """ "per image" and "per point" over all classes, in original pixels, ≤."""
    per_pair, correct, total = [], 0, 0
    for pair in pairs:
        x1, y1, x2, y2 = pair["box"]
        threshold, here = max(y2 - y1, x2 - x1), 0
        for (x, y), (u, v) in zip(pair["found"], pair["truth"], strict=True):
            here += ((x - u) ** 2 + (y - v) ** 2) ** 0.5 / threshold <= alpha
        per_pair.append(here / len(pair["truth"]))
        correct, total = correct + here, total + len(pair["truth"])
    return {"pair": sum(per_pair) / len(per_pair), "point": correct / total}


def published_sd_dino(pairs: list[dict], alpha: float) -> dict[str, float]:
    """Per point of a class in a padded frame of 840 pixels, <; plain, and weighted by pairs."""
    classes: dict[str, list] = {}
    for pair in pairs:
        scale = 840 / max(pair["size"])
        x1, y1, x2, y2 = np.array(pair["box"]) * scale
        error = np.linalg.norm((pair["found"] - pair["truth"]) * scale, axis=1)
        classes.setdefault(pair["category"], []).append(error < alpha * max(x2 - x1, y2 - y1))
    each = [np.concatenate(hits).mean() for hits in classes.values()]
    weights = [len(hits) for hits in classes.values()]
    return {"class": np.mean(each), "class-weighted": np.average(each, weights=weights)}


class TestPublishedWays:
    @pytest.mark.parametrize(
        ("preset", "by_loops"),
        [("dift", published_dift), ("sd-dino", published_sd_dino)],
    )
    def test_equal_to_loops(self, preset, by_loops):
        pairs = some_pairs()
        found = counted(pairs, (0.1, 0.2), PRESETS[preset]).table()
        for convention, shares in found.items():
            for alpha in (0.1, 0.2):
                expected = by_loops(pairs, alpha)[convention.aggregate]
                assert shares[alpha] == pytest.approx(expected, abs=1e-12)
        assert len(found) == 2

    def test_geoaware_weighs_classes_so_that_all_are_pooled(self):
        pairs = some_pairs()
        metric = counted(pairs, (0.1,), PRESETS["geoaware"])
        per_class = metric.by_category()
        points = {
            name: sum(len(p["truth"]) for p in pairs if p["category"] == name) for name in per_class
        }
        weighted = np.average([per_class[n][0.1] for n in points], weights=list(points.values()))
        assert metric.compute()[0.1] == pytest.approx(weighted)
        per_pair = metric.by_category(aggregate="pair")
        many = [sum(p["category"] == name for p in pairs) for name in per_pair]
        weighted = np.average([share[0.1] for share in per_pair.values()], weights=many)
        assert metric.table()[PRESETS["geoaware"][1]][0.1] == pytest.approx(weighted)

    def test_hyperfeatures_with_the_pictures_side(self):
        pairs = some_pairs()
        metric = counted(pairs, (0.05,), PRESETS["hyperfeatures"])
        errors = [np.linalg.norm(p["found"] - p["truth"], axis=1) for p in pairs]
        hits = [e <= 0.05 * max(p["size"]) for e, p in zip(errors, pairs, strict=True)]
        by_picture = metric.table()[PRESETS["hyperfeatures"][1]]
        assert by_picture[0.05] == pytest.approx(np.concatenate(hits).mean())

    def test_means_over_pictures_and_over_classes_of_pairs(self):
        pairs = some_pairs()
        metric = counted(pairs, (0.1,))
        hits = [pck(p["found"], p["truth"], Convention().reference_of(box=p["box"]), 0.1)
                for p in pairs]  # fmt: skip

        def mean_of(kind: str, share) -> float:
            names = sorted({p[kind] for p in pairs})
            return np.mean([share([h for h, p in zip(hits, pairs, strict=True) if p[kind] == name])
                            for name in names])  # fmt: skip

        pooled = mean_of("picture", lambda some: np.concatenate(some).mean())
        assert metric.compute("picture")[0.1] == pytest.approx(pooled)
        each = mean_of("category", lambda some: np.mean([hit.mean() for hit in some]))
        assert metric.compute("class-pair")[0.1] == pytest.approx(each)

    def test_unknown_preset(self):
        with pytest.raises(ValueError, match="no convention 'dft'; expected one of dift, sd-dino"):
            conventions_of("dft")
        assert conventions_of("dift") is PRESETS["dift"]


class TestConvention:
    def test_a_line(self):
        assert Convention().line((0.1,)) == (
            "PCK@0.1, larger side of the target's box, per point, ≤, original pixels"
        )
        padded = Convention("image", "pair", True, "padded", 840, "a patch's centre")
        assert str(padded) == (
            "PCK, larger side of the target picture, per pair: the mean over pairs of each one's "
            "share, <, padded to 840×840 pixels; a patch's centre"
        )

    def test_frames(self):
        squashed = Convention(frame="resized", side=100)
        padded = Convention(frame="padded", side=100)
        corners = [[-0.5, -0.5], [199.5, 49.5]]  # of a picture of 200×50
        np.testing.assert_allclose(squashed.to_frame(corners, (50, 200)), [[-0.5] * 2, [99.5] * 2])
        found = padded.to_frame(corners, (50, 200))  # 100×25, below 37 rows
        np.testing.assert_allclose(found, [[-0.5, 36.5], [99.5, 61.5]])
        np.testing.assert_array_equal(Convention().to_frame(corners), corners)

    def test_references(self):
        box, points = (10, 10, 50, 30), [[0, 0], [20, 30], [8, 8]]
        for frame, expected in (
            (Convention("box"), 40), (Convention("image"), 200), (Convention("extent"), 30),
            (Convention("box", frame="resized", side=100), 40),  # 20 wide, 40 high
            (Convention("image", frame="resized", side=100), 100),
            (Convention("extent", frame="padded", side=100), 15),
            (Convention("box", frame="padded", side=100), 20),
        ):  # fmt: skip
            assert frame.reference_of((50, 200), box, points) == expected, str(frame)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"reference": "head"}, "reference='head'; expected one of"),
            ({"aggregate": "image"}, "aggregate='image'"),
            ({"frame": "resized"}, "side=None; expected pixels for 'resized'"),
            ({"side": 5}, "None for 'original'"),
            ({"frame": "padded", "side": 0}, "at least one pixel"),
        ],
    )
    def test_what_is_no_convention(self, options, message):
        with pytest.raises(ValueError, match=message):
            Convention(**options)

    def test_what_a_reference_lacks(self):
        with pytest.raises(ValueError, match="target's box; expected a box"):
            Convention().reference_of((10, 10))
        with pytest.raises(ValueError, match="key points is 0; expected > 0"):
            Convention("extent").reference_of(points=[[3, 3]])
        with pytest.raises(ValueError, match=r"padded frame without a picture's size"):
            Convention(frame="padded", side=9).reference_of(box=(0, 0, 1, 1))


class TestAccumulator:
    def test_what_is_not_valid_is_wrong(self):
        metric = PCK((0.1,))
        found = [[0, 0], [np.nan, np.nan], [2, 2]]
        hits = metric.update(found, [[0, 0], [1, 1], [2, 2]], 10, valid=[True, False, False])
        assert hits.tolist() == [[True], [False], [False]]
        assert metric.compute() == {0.1: pytest.approx(1 / 3)}
        with pytest.raises(ValueError, match="expected finite"):
            metric.update(found, [[0, 0], [1, 1], [2, 2]], 10)

    def test_a_squashed_frame_changes_distances(self):
        squashed = Convention("image", frame="resized", side=100)
        metric = PCK((0.1,), (Convention("image"), squashed))
        metric.update([[15, 0], [0, 15]], np.zeros((2, 2)), size=(100, 200))
        assert metric.table() == {Convention("image"): {0.1: 1.0}, squashed: {0.1: 0.5}}

    def test_in_parts_and_resumed(self, tmp_path):
        pairs, ways = some_pairs(), (*PRESETS["dift"], *PRESETS["sd-dino"])
        whole = counted(pairs, (0.1, 0.05), ways)
        first, second = (counted(some, (0.1, 0.05), ways) for some in (pairs[:15], pairs[15:]))
        np.savez(tmp_path / "state.npz", **first.state)
        with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
            again = PCK((0.1, 0.05), ways).load(dict(state))
        for joined in (first.merge(second), counted_on(again, pairs[15:])):
            assert joined.table() == whole.table()
            assert len(joined) == 40
            for aggregate in AGGREGATES:
                assert joined.compute(aggregate) == whole.compute(aggregate)

    def test_other_ways_are_not_joined(self):
        with pytest.raises(ValueError, match=r"alphas are \[0.2\]; expected \[0.1, 0.05\]"):
            PCK().merge(PCK((0.2,)))
        with pytest.raises(ValueError, match=r"counted are .*; expected"):
            PCK().merge(PCK(conventions=(Convention("image"),)))
        state = {**PCK().state, "points": np.array([1]), "right": np.full((1, 1, 2), 2),
                 "picture": [""], "category": [""], "groups": [["", ""]]}  # fmt: skip
        with pytest.raises(ValueError, match="more points than there are"):
            PCK().load(state)

    @pytest.mark.parametrize(
        ("pairs", "aggregate", "message"),
        [
            ([], "point", "0 pairs with no points"),
            ([(0, "a")], "point", "1 pairs with no points"),
            ([(2, "a"), (0, "a")], "pair", r"1 pairs have no points \(the first: pair 1\)"),
            ([(2, "a"), (0, "b")], "class", "no points of category 'b'"),
            ([(2, "a"), (1, "")], "class", r"1 pairs have no category \(the first: pair 1\)"),
            ([(2, "a")], "picture", "1 pairs have no picture"),
            ([(2, "a")], "image", "aggregate='image'; expected one of"),
        ],
    )
    def test_nothing_to_average(self, pairs, aggregate, message):
        metric = PCK((0.1,))
        for count, category in pairs:
            points = np.zeros((count, 2))
            metric.update(points, points, 5, category=category)
        with pytest.raises(ValueError, match=message):
            metric.compute(aggregate)

    def test_a_class_that_must_be_there(self):
        metric = PCK((0.1,), categories=("cat", "cow"))
        metric.update([[0, 0]], [[0, 0]], 5, category="cat")
        assert metric.compute() == {0.1: 1.0}
        with pytest.raises(ValueError, match="no points of category 'cow'"):
            metric.compute("class")

    def test_one_reference_does_not_serve_several(self):
        metric = PCK((0.1,), (Convention("box"), Convention("image")))
        with pytest.raises(ValueError, match="give size and box"):
            metric.update([[0, 0]], [[0, 0]], 5)
        with pytest.raises(ValueError, match=r"not counted: .*extent"):
            metric.compute(convention=Convention("extent"))

    def test_a_reference_in_a_padded_frame_is_scaled(self):
        padded = Convention(frame="padded", side=400)
        metric = PCK((0.1,), (padded,))
        hits = metric.update([[10, 0], [11, 0]], np.zeros((2, 2)), 100, size=(50, 100))
        assert hits.ravel().tolist() == [True, False]

    def test_memory_is_a_few_numbers_a_pair(self):
        pairs = some_pairs(3)
        metric = PCK()
        for _ in range(1000):
            for pair in pairs:
                metric.update(**pair)
        held = [metric._right, metric._points, metric._codes]
        assert sum(len(one) * one.itemsize for one in held) == 3000 * 4 * (2 + 1 + 4)


def counted_on(metric: PCK, pairs: list[dict]) -> PCK:
    for pair in pairs:
        metric.update(**pair)
    return metric
