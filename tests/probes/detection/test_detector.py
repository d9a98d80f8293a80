"""A detector on maps in which the place of a thing is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

import probes
from probes import Cells
from probes.detection import BoxDetector, Boxes
from probes.detection.boxes import packed, to_input, to_picture
from probes.detection.network import Levels
from probes.maps import Maps
from probes.training import mirror

KEYS = ("up.1", 20.0), ("up.0", 20.0)
SHAPES = (6, 16, 16), (4, 8, 8)


def planted(count: int, seed: int = 0):
    """Pictures of 96×80 pixels, squashed to 64×64, with one box of two classes each."""
    rng = np.random.default_rng(seed)
    fine = rng.normal(0, 0.3, (count, *SHAPES[0])).astype(np.float32)
    coarse = rng.normal(0, 0.3, (count, *SHAPES[1])).astype(np.float32)
    known = []
    for row in range(count):
        x, y = rng.integers(0, 9, 2)
        w, h = rng.integers(4, 8, 2)
        label = row % 2
        fine[row, label, y : y + h, x : x + w] += 3
        coarse[row, label, y // 2 : (y + h) // 2, x // 2 : (x + w) // 2] += 3
        box = np.array([[x * 5, y * 6, (x + w) * 5, (y + h) * 6]], float)  # a site is 5×6 pixels
        known.append(Boxes(box, [label]))
    cells = Cells(dict(zip(KEYS, (fine, coarse), strict=True)), sizes=[(96, 80)] * count,
                  placements=[(0.8, 0, 64 / 96, 0)] * count, input_size=(64, 64))  # fmt: skip
    return cells, known


@pytest.fixture(scope="module")
def fitted():
    cells, known = planted(48)
    head = BoxDetector(width=16, depth=1, epochs=20, batch_size=8, random_state=0, progress=False,
                       learning_rate=5e-3)  # fmt: skip
    return head.fit(cells, known, classes=("cat", "dog"))


def test_planted_boxes_are_found(fitted):
    cells, known = planted(16, seed=1)
    assert fitted.score(cells, known) > 0.8
    found = list(fitted.predict(cells))
    best = np.stack([one.boxes[0] for one in found])
    truth = np.stack([one.boxes[0] for one in known])
    assert np.median(np.abs(best - truth)) < 6
    assert np.mean([one.labels[0] == two.labels[0] for one, two in zip(found, known)]) > 0.8  # noqa: B905


def test_labels_of_others_are_not_found(fitted):
    """The same pictures with boxes of other pictures: no better than their common places."""
    cells, known = planted(16, seed=1)
    assert fitted.score(cells, known[3:] + known[:3]) < 0.4


def test_kept_and_loaded(fitted, tmp_path):
    probes.save(fitted, tmp_path / "head.safetensors")
    loaded = probes.load(tmp_path / "head.safetensors")
    cells, _ = planted(4, seed=2)
    for one, two in zip(fitted.predict(cells), loaded.predict(cells), strict=True):
        assert np.array_equal(one.boxes, two.boxes)
        assert np.array_equal(one.scores, two.scores)


def test_anchors_are_those_of_a_whole_detector():
    """A level's anchors as torchvision's own detector makes them for a picture of that size."""
    levels = Levels([(3, 16, 16), (3, 8, 8)], (64, 64), 2)
    assert levels.grids == [(16, 16), (8, 8), (4, 4)]
    strides = [(one[2] - one[0]).item() for one in levels.anchors[[0, 256, 320]]]
    assert strides == [4, 8, 16]
    centres = (levels.anchors[:, :2] + levels.anchors[:, 2:]) / 2
    assert centres[:3].tolist() == [[0, 0], [4, 0], [8, 0]]


def test_loss_is_torchvisions():
    """On the outputs of a whole detector of torchvision, by its own `compute_loss`."""
    torch.manual_seed(0)
    levels = Levels([(3, 8, 8)], (64, 64), 3)
    output = torch.randn(2, sum(levels.counts), 3 + 5)
    targets = torch.full((2, 2, 5), -1.0)
    targets[0, 0] = torch.tensor([4, 8, 40, 60, 2.0])
    whole = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    known = [{"boxes": targets[0, :1, :4], "labels": torch.tensor([2])},
             {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}]  # fmt: skip
    parts = {"cls_logits": output[..., :3], "bbox_regression": output[..., 3:7],
             "bbox_ctrness": output[..., 7:]}  # fmt: skip
    expected = whole.compute_loss(known, parts, [levels.anchors] * 2, levels.counts)
    assert levels.loss(output, targets).item() == pytest.approx(sum(expected.values()).item())


@pytest.mark.parametrize("placement", [(0.8, 0, 0.5, 3), (-0.8, 64, 0.5, 3)])
def test_boxes_go_to_the_input_and_back(placement):
    maps = Maps({}, (96, 80), (64, 64), placement)
    boxes = np.array([[10.0, 20, 30, 50]])
    moved = to_input(boxes, maps)
    u = sorted(placement[0] * x + placement[1] for x in (10, 30))
    assert moved[0] == pytest.approx([u[0], 13, u[1], 28])
    assert to_picture(moved, maps)[0] == pytest.approx(boxes[0])


def test_boxes_that_an_input_does_not_show():
    cells = Cells({KEYS[0]: np.zeros((2, 1, 4, 4))}, sizes=[(100, 100)] * 2,
                  placements=[(1, -20, 1, -20)] * 2, input_size=(60, 60))  # fmt: skip
    known = [Boxes([[0, 0, 10, 10], [10, 10, 50, 40]], [0, 1]),
             Boxes([[30, 30, 60, 60]], [0], crowd=[True])]  # fmt: skip
    found = packed(known, cells, 2)
    assert found.tolist() == [[[0, 0, 30, 20, 1]], [[-1] * 5]]


def test_refusals(fitted):
    cells, known = planted(4)
    with pytest.raises(ValueError, match="boxes without extent"):
        Boxes([[3, 3, 3, 5]], [0])
    with pytest.raises(ValueError, match=r"has the label 1; expected 0 … 0"):
        BoxDetector().fit(cells, known, classes=1)
    with pytest.raises(ValueError, match="boxes of 3 pictures for 4"):
        BoxDetector().fit(cells, known[:3], classes=2)
    with pytest.raises(ValueError, match="expected maps"):
        BoxDetector().fit(Cells({KEYS[0]: np.zeros((4, 3))}, sizes=[(9, 9)] * 4), known, classes=2)
    with pytest.raises(ValueError, match="none of 4 pictures has a box"):
        BoxDetector().fit(cells, [Boxes(np.zeros((0, 4)), [])] * 4, classes=2)
    sizes = [(96, 80), (96, 81), (90, 80), (96, 80)]
    unsaid = Cells({key: cells[key] for key in KEYS}, sizes=sizes)
    with pytest.raises(ValueError, match=r"inputs of 3 sizes .*input_size=\(H, W\)"):
        BoxDetector().fit(unsaid, known, classes=2)
    other = Cells({key: cells[key] for key in KEYS}, sizes=[(96, 80)] * 4, input_size=(32, 32))
    with pytest.raises(ValueError, match="as in fit"):
        list(fitted.predict(other))
    with pytest.raises(ValueError, match="boxes of 3 pictures for 4"):
        fitted.score(cells, known[:3])
    for more in ({"scores": [0.5, 0.5]}, {"crowd": [True, False]}, {"scores": [np.nan]}):
        with pytest.raises(ValueError, match=r"one a box|finite"):
            Boxes([[0, 0, 3, 5]], [0], **more)


def test_boxes_are_not_moved_by_augmentation():
    with pytest.raises(ValueError, match="not the boxes on them"):
        BoxDetector(augment=mirror).fit(*planted(4), classes=2)


@pytest.mark.parametrize("name", ["min_score", "overlap"])
def test_shares(name):
    with pytest.raises(ValueError, match=rf"{name}=3; expected a number in \[0, 1\]"):
        BoxDetector(**{name: 3}).fit(*planted(4), classes=2)


def test_what_validates_lies_as_in_fit(fitted):
    """Boxes are compared in pixels of the input, and levels are made for these grids."""
    cells, known = planted(4)
    arrays = {key: cells[key] for key in KEYS}
    larger = Cells(arrays, sizes=[(96, 80)] * 4, input_size=(128, 128))
    finer = Cells({key: values.repeat(2, 2).repeat(2, 3) for key, values in arrays.items()},
                  sizes=[(96, 80)] * 4, input_size=(64, 64))  # fmt: skip
    expected = {r"is \(128, 128\); expected \(64, 64\), as in fit": larger,
                r"\(6, 32, 32\); expected \(6, 16, 16\), as in fit": finer}  # fmt: skip
    for message, others in expected.items():
        with pytest.raises(ValueError, match=message):
            BoxDetector(epochs=1).fit(cells, known, (others, known), classes=2)
        with pytest.raises(ValueError, match=message):
            next(fitted.predict(others))


def test_a_number_of_classes_may_be_numpys():
    head = BoxDetector(epochs=1, width=8, depth=1, progress=False)
    assert head.fit(*planted(4), classes=np.int64(2)).classes_.tolist() == [0, 1]
