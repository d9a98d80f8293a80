"""Open vocabularies: whole runs on tiny sets, against what must come out of true and no masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.catalogue import open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.open_vocabulary import measure
from benchmarks.tasks.open_vocabulary.file import System
from benchmarks.tasks.open_vocabulary.measure import vocabulary_of
from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.targets.panoptic import open_panoptic
from tests.mask2former import save_clip, save_mask2former
from tests.panoptic_sets import ade20k, coco

RECIPES = ("odise-coco", "odise-ade", "panoptic-horses")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    coco(root / "coco", "train2017", range(100, 106))
    coco(root / "coco", "val2017", range(4))
    ade20k(root / "ADEChallengeData2016", "train", range(100, 103))
    ade20k(root / "ADEChallengeData2016", "val")
    save_mask2former(root / "m2f")
    save_clip(root / "clip")
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(name="odise-coco", **changes):
    plain = {"proposals": "./m2f", "clip": "./clip", "test_limit": 3}
    return replace(open_benchmark(name), **{**plain, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(data, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small(), folder, "cpu")


def measured(result) -> list[str]:
    """Ids of the pictures that a limit of three leaves."""
    found = measure.opened("./coco:val2017")
    order = sorted(found.ids, key=lambda one: unit_interval("open", one))
    return sorted(order[: result["pictures"][1]])


def numbers(result, label) -> dict[str, float]:
    (row,) = (one for one in result["rows"] if one["label"] == label)
    return {one["name"]: one["value"] for one in row["scores"]}


class TestARun:
    def test_true_masks_with_drawn_names(self, result, data):
        """By hand: a thing is right where its name is; of stuff, all masks of a name are one."""
        truth = open_panoptic(f"{data}/coco:val2017").of(measured(result))
        iou, of = np.zeros(4), np.zeros(4)
        for row in range(3):
            segments = truth[row].segments
            drawn = np.random.default_rng([0, row]).integers(0, 4, len(segments))
            area = np.array([one["area"] for one in segments])
            for one, name in zip(segments, drawn, strict=True):
                of[one["class"]] += 0.5
                together = area[drawn == name].sum() if name > 1 else one["area"]
                if name == one["class"] and one["area"] > 0.5 * together:
                    iou[name] += one["area"] / together
            of += 0.5 * np.bincount(drawn[drawn < 2], minlength=4)
            of[sorted(set(drawn[drawn > 1]))] += 0.5
        found = numbers(result, "true masks, chance")
        there = of > 0
        assert found["PQ"] == pytest.approx((iou[there] / of[there]).mean())
        assert 0 < found["PQ"] < 1

    def test_the_commonest_class_over_all(self, result, data):
        """Grass; its IoU is its share of the pixels that are known."""
        assert result["commonest"] == "grass"
        truth = open_panoptic(f"{data}/coco:val2017").of([f"{k:012d}.jpg" for k in range(4)])
        found = numbers(result, "one segment of the commonest class")
        assert found["AP"] == 0
        assert found["PQ of things"] == 0
        shares = [(truth.labels(row) == 3).sum() / (truth.labels(row) < 255).sum()
                  for row in range(4)]  # fmt: skip
        assert min(shares) / 4 <= found["mIoU"] <= max(shares) / 4

    def test_a_head_that_is_not_there_is_left_out(self, result):
        assert list(result["missing"]) == ["ODISE's head on Mask2Former's masks"]

    def test_tables_and_pages(self, result, folder):
        text = task_named("open-vocabulary").summary(result)
        assert "one segment of the commonest class" in text
        shown = markdown(folder)
        assert "55.40 [1]" in shown
        assert "Left out: ODISE's head on Mask2Former's masks:" in shown
        assert "PQ − that of Mask2Former's masks and classes" in shown
        assert "55.40 [1]" in page(folder)

    def test_differences_are_to_the_first_row(self, result):
        first, *others = result["rows"]
        assert "beside" not in first["scores"][0]
        for row in others:
            score = row["scores"][0]
            wanted = score["value"] - first["scores"][0]["value"]
            assert score["beside"]["value"] == pytest.approx(wanted)


def test_right_names_on_true_masks_are_perfect(data, tmp_path, monkeypatch):
    """A namer that reads the truth: PQ, AP and mIoU are 1."""

    def told(self, system):
        def named(row, picture, found):
            segments = self.test.segmented(row).segments
            return np.eye(len(self.test.classes))[[one["class"] for one in segments]]

        return named

    monkeypatch.setattr(measure.Run, "_by_chance", told)
    systems = (System("told", "truth", "chance"),)
    found = numbers(run_benchmark(small("odise-ade", systems=systems), tmp_path, "cpu"), "told")
    assert found == pytest.approx(dict.fromkeys(found, 1))
    assert len(found) == 7


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_can_be_meant(name):
    benchmark = open_benchmark(name)
    assert benchmark.task == "open-vocabulary"
    kinds = {(one.masks, one.names) for one in benchmark.systems}
    assert {("truth", "chance"), ("whole", "frequent")} <= kinds
    assert "random" in {masks for masks, _ in kinds}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"systems": (System("a", "mine", "clip"),)}, "masks = 'mine'; expected proposals"),
        ({"systems": (System("a", "truth", "own"),)}, "names = 'own' are those of proposals"),
        ({"systems": (System("a", "truth", "odise"),)}, "head goes with names = 'odise'"),
        ({"systems": ()}, "no systems"),
        ({"clip": ""}, "expected model and clip, of the head"),
        ({"clip": "", "systems": (System("a", "truth", "clip"),)}, "a: expected clip, a CLIP"),
        ({"proposals": ""}, "expected proposals, a Mask2Former"),
        ({"templates": ("a photo",)}, "where the word goes"),
    ],
)
def test_files_that_cannot_be_meant(changes, said):
    with pytest.raises(SpecError, match=said):
        small(**changes)


def test_a_vocabulary_has_the_classes_of_the_set():
    assert vocabulary_of("", ["cat", "dog"]).names == ("cat", "dog")
    assert vocabulary_of("kitten,puppy", ["cat", "dog"]).names == ("kitten", "puppy")
    with pytest.raises(SpecError, match="2 classes, the set has 3"):
        vocabulary_of("cat,dog", ["cat", "dog", "sky"])
