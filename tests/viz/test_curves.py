"""Learning curves and confusion matrices as pictures, and what is said of them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from diffeat.errors import SpecError
from diffeat.viz import (
    confusion_lines,
    confusion_picture,
    ink,
    largest_confusions,
    learning_curve,
    score_curves,
)
from diffeat.viz.confusion import FAINTEST
from diffeat.viz.scales import colour_map

ROWS = [
    {"epoch": k, "loss": 2.0 / k, "validation_loss": 1 + 1 / k, "validation_accuracy": 0.9 - 1 / k}
    for k in range(1, 7)
]


def drawn(draw) -> np.ndarray:
    file = BytesIO()
    draw(file)
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    """(n, 2) row and column of pixels of a colour."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return np.argwhere((np.abs(pixels - wanted) < 12).all(-1))


class TestLearningCurve:
    def test_a_panel_for_each_kind_of_number(self):
        whole = drawn(lambda file: learning_curve(ROWS, file))
        plain = [{k: row[k] for k in ("epoch", "loss")} for row in ROWS]
        alone = drawn(lambda file: learning_curve(plain, file))
        assert whole.shape[0] > 1.5 * alone.shape[0]
        assert len(near(whole, "#d55e00")) > 50 > len(near(alone, "#d55e00"))

    def test_the_kept_epoch_is_marked_where_it_is(self):
        pictures = [
            drawn(lambda file, k=chosen: learning_curve(ROWS, file, k))
            for chosen in (None, 2, 5, 2)
        ]
        upper = slice(0, pictures[0].shape[0] // 3)
        assert (pictures[1] == pictures[3]).all()
        other = (pictures[1] != pictures[2]).any(-1)[upper].sum(0)
        early, late = np.flatnonzero(other > 0.3 * other.max())[[0, -1]]
        assert late - early > 200  # three epochs of five, of a picture of 780 pixels
        assert (pictures[0] != pictures[1]).any(-1)[upper, early].sum() > 50

    def test_the_loss_falls_on_the_picture(self):
        pixels = drawn(lambda file: learning_curve(ROWS, file))[:, 60:]
        blue = near(pixels[: pixels.shape[0] // 2], "#0072b2")
        left = blue[blue[:, 1] < 60, 0].mean()
        right = blue[blue[:, 1] > np.percentile(blue[:, 1], 90), 0].mean()
        assert right > left + 20

    def test_logs_count_steps_and_may_have_gaps(self, tmp_path):
        rows = [{"step": str(k), "loss": "0.5", "running_loss": "" if k else "1"} for k in (0, 50)]
        learning_curve(rows, tmp_path / "log.png", step="step")
        assert (tmp_path / "log.png").stat().st_size > 1000

    @pytest.mark.parametrize("rows", [[], [{"epoch": 1}], [{"loss": 1.0}]])
    def test_rows_without_a_curve(self, tmp_path, rows):
        with pytest.raises(SpecError, match="needs rows with epoch and loss"):
            learning_curve(rows, tmp_path / "a.png")

    def test_several_heads_on_one_picture(self, tmp_path):
        plain = [{"epoch": 1, "loss": 1.0}]
        assert not score_curves({"a": (plain, 1)}, tmp_path / "a.png")
        assert not (tmp_path / "a.png").exists()
        assert score_curves({"a": (plain, 1), "b": (ROWS, 6)}, tmp_path / "a.png")
        pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
        assert len(near(pixels, "#d55e00")) > 100 > len(near(pixels, "#0072b2"))


TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
SAID = np.array([0, 0, 1, 1, 1, 1, 0, 2, 2, 0])
MATRIX = confusion_matrix(TRUTH, SAID)
NAMES = ["cat", "dog", "owl"]


class TestConfusion:
    def test_the_largest_by_count_then_share(self):
        found = largest_confusions(MATRIX, NAMES)
        assert [(one.true, one.predicted, one.count) for one in found] == [
            ("cat", "dog", 2), ("dog", "cat", 1), ("owl", "cat", 1),
        ]  # fmt: skip
        assert [one.share for one in found] == [0.5, pytest.approx(1 / 3), pytest.approx(1 / 3)]
        assert confusion_lines(MATRIX, NAMES, 1) == ["cat taken for dog: 2 (50.0 % of cat)"]
        assert confusion_lines(np.eye(3, dtype=int), NAMES) == [
            "no picture was taken for another class"
        ]

    def test_cells_have_the_colour_of_their_share(self):
        pixels = drawn(lambda file: confusion_picture(MATRIX, NAMES, file))
        for share in (0, 0.5, 1 / 3, 2 / 3):
            colour = np.round(255 * np.array(colour_map("cividis")(share**FAINTEST)[:3]))
            assert (np.abs(pixels - colour) <= 1).all(-1).sum() > 1000, share

    def test_one_in_a_hundred_is_seen(self):
        colours = colour_map("cividis")(np.array([0, 0.01]) ** FAINTEST)[:, :3]
        assert np.abs(np.subtract(*colours)).sum() > 0.1
        assert ink(colours[0]) == "white"

    @pytest.mark.parametrize(("count", "most"), [(2, 600), (40, 1500)])
    def test_few_classes_and_many(self, tmp_path, count, most):
        rng = np.random.default_rng(0)
        matrix = np.diag(rng.integers(1, 40, count)) + rng.integers(0, 2, (count, count))
        names = [f"$class_{{{k}" + "long" * (k % 9) for k in range(count)]
        confusion_picture(matrix, names, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert 200 < picture.width < most
            assert abs(picture.width - picture.height) < 200

    def test_a_class_without_pictures_is_grey(self):
        matrix = np.array([[3, 1], [0, 0]])
        pixels = drawn(lambda file: confusion_picture(matrix, ["a", "b"], file))
        assert len(near(pixels, "#c8c8c8")) > 1000

    @pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((0, 0)), np.eye(3)])
    def test_no_square(self, tmp_path, matrix):
        with pytest.raises(SpecError, match="confusion matrix of shape"):
            confusion_picture(matrix, ["a", "b"][: len(matrix)], tmp_path / "a.png")
