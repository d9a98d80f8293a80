"""Mixers trained by labels and depths of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch.nn import functional as F

import probes
from probes import Cells
from probes.aggregate import HyperfeatureMixer, SpatialFusion
from probes.augment import mirror_crop_scale
from probes.metrics.depth import DepthErrors
from probes.pixel_objectives import focal, log_error
from tests.probes.dense.toys import KEYS, SIZE, metres_of, scenes
from tests.probes.interrupted import Stop

MIXERS = (HyperfeatureMixer, SpatialFusion)
SHORT = {"steps": 6, "epochs": 3}


def mixer(kind=HyperfeatureMixer, **options):
    given = {"width": 12, "size": 12, "sharpness": 10.0, "steps": 60, "epochs": 3, "batch_size": 8,
             "learning_rate": 8e-3, "random_state": 0, "progress": False}  # fmt: skip
    return kind(**{**given, **options})


@pytest.fixture(scope="module")
def data():
    return scenes(40)


@pytest.fixture(scope="module")
def test_data():
    return scenes(12, seed=1)


@pytest.mark.parametrize("kind", MIXERS)
def test_classes(kind, data, test_data):
    fitted = mixer(kind).fit(*data, objective="segmentation", classes=["no", "yes"])
    cells, masks = test_data
    said, known = np.stack(list(fitted.predict(cells))), masks != 255
    score = jaccard_score(masks[known], said[known], average="macro")
    assert score > 0.6
    assert fitted.score(cells, masks) == pytest.approx(score)
    assert fitted.classes_.tolist() == ["no", "yes"]
    if kind is HyperfeatureMixer:
        assert max(fitted.weights_, key=fitted.weights_.get) == ("a", 5)
    else:
        weights = fitted.weights_of(cells.maps(0))
        assert max(weights, key=lambda key: weights[key].mean()) == ("a", 5)
    mixed = fitted.transform(cells)
    assert mixed.rows(fitted.key).shape == (12, 12, 12, 12)
    # what is said is the 1×1 layer on what transform gives, read at the pixels
    layer = fitted.module_.head
    scores = F.conv2d(torch.from_numpy(mixed.rows(fitted.key)[:]), layer.weight, layer.bias)
    expected = F.interpolate(scores, SIZE, mode="bilinear").argmax(1).detach().numpy()
    assert (said == expected).mean() > 0.999


def test_depth(test_data):
    cells, masks = scenes(120, seed=2)
    fitted = mixer().fit(cells, metres_of(masks), objective="depth", validation=0.2)
    assert "validation_abs_rel" in fitted.history_[0]
    cells, truth = test_data[0], metres_of(test_data[1])
    errors = DepthErrors()
    for found, known in zip(fitted.predict(cells), truth, strict=True):
        errors.update(found, known)
    assert fitted.score(cells, truth) == pytest.approx(-errors.compute()["abs rel"])
    assert errors.compute()["SILog"] < 55  # of a constant 69


def test_objectives_of_ones_own(data):
    cells, masks = data
    found = mixer(**SHORT, augment=mirror_crop_scale).fit(cells, masks, objective=focal(2))
    assert found.objective_ == "segmentation"
    again = mixer(**SHORT).fit(cells, metres_of(masks), objective=log_error(2))
    assert again.objective_ == "depth"
    # it begins at the mean logarithm of what is known
    known = metres_of(masks)
    start = mixer(steps=1, epochs=1, learning_rate=1e-12).fit(cells, known, objective="depth")
    middle = np.exp(np.nanmean(np.log(known.astype(float))))
    assert next(start.predict(cells)) == pytest.approx(np.full(SIZE, middle), rel=1e-4)


@pytest.mark.parametrize("objective", ["segmentation", "depth"])
def test_it_goes_on_and_comes_back(objective, data, tmp_path):
    cells, targets = data[0], data[1] if objective == "segmentation" else metres_of(data[1])
    how = {"objective": objective, "validation": 0.2, "groups": np.arange(40) // 2}
    whole = mixer(**SHORT).fit(cells, targets, **how)
    with pytest.raises(KeyboardInterrupt):
        mixer(**SHORT, checkpoint=tmp_path, progress=Stop(24)).fit(cells, targets, **how)
    found = mixer(**SHORT, checkpoint=tmp_path).fit(cells, targets, **how)
    for name, value in found.module_.state_dict().items():
        assert torch.equal(value, whole.module_.state_dict()[name])
    probes.save(found, tmp_path / "m.safetensors")
    back = probes.load(tmp_path / "m.safetensors")
    for one, other in zip(found.predict(cells[:3]), back.predict(cells[:3]), strict=True):
        assert one.tobytes() == other.tobytes()
    assert np.array_equal(
        back.transform(cells).rows(back.key)[:2], found.transform(cells).rows(found.key)[:2]
    )
    refitted = back.fit(cells, np.arange(40) % 2, objective="classification")  # nothing of pixels
    assert not {"ignore_", "seen_", "train_size_"} & vars(refitted).keys()


def test_classes_that_training_lacks(data):
    with pytest.warns(UserWarning, match="without a pixel in training .*2"):
        found = mixer(**SHORT).fit(*data, objective="segmentation", classes=3)
    assert found.seen_.tolist() == [True, True, False]
    assert max(one.max() for one in found.predict(data[0])) == 1


@pytest.mark.parametrize(
    ("targets", "how", "message"),
    [
        (lambda masks: masks[1:], {}, "39 masks for 40 pictures"),
        (lambda masks: masks[:, 1:], {}, "23×24, its picture 24×24"),
        (lambda masks: masks * 0 + 255, {}, "every pixel"),
        (lambda masks: masks * 0 + 255, {"classes": 2}, "no pixel of the training pictures"),
        (lambda masks: masks, {"classes": 1}, "has the labels"),
        (lambda masks: masks, {"objective": "depth"}, "the unit is not known"),
        (lambda masks: masks * np.nan, {"objective": "depth"}, "no pixel of the training"),
        (lambda masks: masks, {"validation": (1, 2, 3)}, "3 members"),
        (lambda masks: masks, {"groups": [1], "validation": 0.2}, "inconsistent numbers"),
    ],
)  # fmt: skip
def test_what_is_refused(targets, how, message, data):
    cells, masks = data
    how = {"objective": "segmentation", **how}
    with pytest.raises(ValueError, match=message):
        mixer(**SHORT).fit(cells, targets(masks), **how)


def test_pictures_of_unknown_size(data):
    cells, masks = data
    bare = Cells({key: cells[key] for key in KEYS})
    with pytest.raises(ValueError, match="sizes of the pictures are not known"):
        mixer(**SHORT).fit(bare, masks, objective="segmentation")
