"""Heads over whole maps: what they learn beyond single pixels, and what they keep and refuse."""

from __future__ import annotations

import json
import os
import signal
import warnings

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import jaccard_score
from torch.nn import functional as F

import probes
from probes import Cells
from probes.aggregate import HyperfeatureMixer, SpatialFusion
from probes.augment import mirror_crop_scale
from probes.dense import DPTHead, FPNHead, NearestMean, PixelLinear, published
from probes.dense.dpt import DPT
from probes.dense.fpn import FPN
from probes.dense.levels import levels_of
from probes.fitted import HeadError
from probes.saved import digest, digest_of
from tests.probes.dense.toys import KEYS, MIXER, SHAPES, SIZE, masks_of, pictures, scenes
from tests.probes.interrupted import Stop, same

HEADS = (FPNHead, DPTHead)
SHORT = {"steps": 6, "epochs": 3, "width": 8}


def head(kind=FPNHead, **options):
    given = {"width": 16, "steps": 60, "epochs": 3, "learning_rate": 8e-3, "dropout": 0.0,
             "random_state": 0, "progress": False}  # fmt: skip
    return kind(**{**given, **options})


@pytest.fixture(scope="module")
def data():
    return scenes(40)


@pytest.fixture(scope="module")
def test_data():
    return scenes(12, seed=1)


@pytest.fixture(scope="module")
def short(data):
    return head(**SHORT).fit(*data)


# what they learn


@pytest.fixture(scope="module")
def linear_score(data, test_data):
    best = PixelLinear(kind="logistic").fit(*data).score(*test_data)
    return max(best, NearestMean().fit(*data).score(*test_data))


@pytest.mark.parametrize("kind", HEADS)
def test_what_stands_beside_a_pixel(kind, data, test_data, linear_score):
    fitted = head(kind).fit(*data)
    found = fitted.score(*test_data)
    assert linear_score < 0.45
    assert found > linear_score + 0.2
    cells, masks = test_data
    said = np.stack(list(fitted.predict(cells)))
    known = masks != 255
    by_sklearn = jaccard_score(masks[known], said[known], average="macro")
    assert found == pytest.approx(by_sklearn)
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]


@pytest.mark.parametrize("mixer", [HyperfeatureMixer(**MIXER), SpatialFusion(**MIXER)])
def test_a_mixer_in_front(mixer, data, test_data, linear_score):
    fitted = head(mixer=mixer).fit(*data)
    assert fitted.score(*test_data) > linear_score + 0.2
    if isinstance(mixer, SpatialFusion):
        with pytest.raises(AttributeError, match="call mixer_weights_of"):
            fitted.mixer_weights_  # noqa: B018
        weights = fitted.mixer_weights_of(test_data[0].maps(0))
        assert sum(weights.values()) == pytest.approx(np.ones((12, 12)), abs=1e-5)
        weights = {key: one.mean() for key, one in weights.items()}
    else:
        weights = fitted.mixer_weights_
        assert sum(weights.values()) == pytest.approx(1)
    assert max(weights, key=weights.get) == ("a", 5)
    assert not hasattr(mixer, "module_")  # it is not fitted itself


def test_mixing_over_t(data, test_data, linear_score):
    fitted = head(over_t="mix").fit(*data)
    assert fitted.score(*test_data) > linear_score + 0.2
    weights = fitted.mixer_weights_
    assert weights["a", 1] + weights["a", 5] == pytest.approx(1)
    assert weights["b", 1] + weights["b", 5] == pytest.approx(1)
    assert weights["a", 5] > 0.8


def test_other_objectives(data, test_data, linear_score):
    fitted = head(objective="focal + dice", class_weights="balanced").fit(*data)
    assert fitted.score(*test_data) > linear_score + 0.15


def test_class_weights(data):
    cells, masks = data
    masks = np.where((masks == 1) & (np.arange(40) % 8 > 0)[:, None, None], 0, masks)  # rarer
    counts = np.bincount(masks[masks != 255])
    balanced = head(**SHORT, class_weights="balanced").fit(cells, masks)
    assert balanced.class_weights_ == pytest.approx(counts.sum() / (2 * counts))
    heads = [head(steps=30, class_weights=weights).fit(cells, masks)
             for weights in (None, "balanced")]  # fmt: skip
    shares = [np.mean([one.mean() for one in fitted.predict(cells)]) for fitted in heads]
    assert shares[1] > shares[0] + 0.05
    with pytest.raises(ValueError, match="expected 2 numbers"):
        head(**SHORT, class_weights=(1, 2, 3)).fit(cells, masks)
    with pytest.raises(ValueError, match="class_weights='even'"):
        head(**SHORT, class_weights="even").fit(cells, masks)


def test_augmentation_moves_masks_along(data, test_data, linear_score):
    cells, masks = data
    same_twice = [head(**SHORT, augment=mirror_crop_scale).fit(cells, masks) for _ in range(2)]
    same(*same_twice)
    # only zooms: what is mirrored stands on the other side
    zoomed = head(steps=90, augment=probes.augment.random_crop_scale).fit(cells, masks)
    assert zoomed.score(*test_data) > linear_score + 0.1


# modules


def test_levels():
    shapes = [(3, 4, 4), (5, 8, 8), (2, 4, 4), (1, 8, 6)]
    found = levels_of(shapes)
    assert [(one.size, one.members, one.channels) for one in found] == [
        ((8, 8), (1,), 5), ((8, 6), (3,), 1), ((4, 4), (0, 2), 5),
    ]  # fmt: skip
    a, b = torch.rand(1, 3, 4, 4), torch.rand(1, 2, 4, 4)
    assert torch.equal(found[2].joined([a, None, b]), torch.cat([a, b], 1))


def test_the_pyramid_by_hand():
    """One level: W·relu(norm(S(L f))), by torch's own functions."""
    net = FPN([(3, 6, 6)], 2, 6).eval()
    f = torch.randn(2, 3, 6, 6)
    p = F.conv2d(f, net.laterals[0].weight, net.laterals[0].bias)
    norm = net.smooth[0][1]
    z = F.group_norm(F.conv2d(p, net.smooth[0][0].weight, padding=1), norm.num_groups,
                     norm.weight, norm.bias)  # fmt: skip
    torch.testing.assert_close(net(f), F.conv2d(z.relu(), net.last[1].weight, net.last[1].bias))
    net = FPN([(3, 6, 6), (4, 12, 8)], 2, 6)
    assert net(f, torch.randn(2, 4, 12, 8)).shape == (2, 2, 12, 8)
    assert net(torch.randn(1, 3, 7, 5), torch.randn(1, 4, 14, 9)).shape == (1, 2, 14, 9)


def test_stages_of_a_transformer():
    keys = [(f"block.{k}", t) for k in range(6) for t in (1, 5)]
    net = DPT(keys, [(3, 4, 4)] * 12, 2, 8)
    assert [stage.members for stage in net.stages] == [
        (0, 1, 2, 3), (4, 5, 6, 7), (8, 9), (10, 11),
    ]  # fmt: skip
    sizes = [tuple(make(torch.zeros(1, stage.channels, 4, 4)).shape[2:])
             for make, stage in zip(net.reassemble, net.stages, strict=True)]  # fmt: skip
    assert sizes == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert net(*[torch.randn(1, 3, 4, 4) for _ in keys]).shape == (1, 2, 32, 32)
    unet = DPT([("a", 1), ("b", 1)], [(3, 4, 4), (3, 9, 9)], 2, 8)
    assert unet(torch.randn(1, 3, 4, 4), torch.randn(1, 3, 9, 9)).shape == (1, 2, 18, 18)


def test_channels_are_standardised(data):
    cells, masks = data
    scaled = {key: cells[key] * 300 + 5000 for key in KEYS}
    options = {**SHORT, "standardize": True}
    one = head(**options).fit(cells, masks)
    x = torch.from_numpy(cells["a", 5]).double()
    torch.testing.assert_close(one.module_.scales[2].mean.double(), x.mean((0, 2, 3)),
                               rtol=1e-5, atol=1e-6)  # fmt: skip
    torch.testing.assert_close(one.module_.scales[2].deviation.double(),
                               x.std((0, 2, 3), correction=0), rtol=1e-5, atol=1e-6)  # fmt: skip
    other = head(**options).fit(Cells(scaled, sizes=cells.sizes), masks)
    assert other.history_[-1]["loss"] == pytest.approx(one.history_[-1]["loss"], rel=1e-3)


# pixels


def test_scores_are_read_at_pixels(short, data):
    cells = data[0]
    arrays = [torch.from_numpy(cells[key][:3]) for key in KEYS]
    with torch.no_grad():
        scores = short.module_.grid(*arrays)
    expected = F.interpolate(scores, SIZE, mode="bilinear")
    for found, wanted in zip(short.predict_proba(cells[:3]), expected, strict=True):
        np.testing.assert_allclose(found, wanted.softmax(0).numpy(), rtol=1e-4, atol=1e-6)
    found = np.stack(list(short.predict(cells[:3])))
    assert (found == expected.argmax(1).numpy()).mean() > 0.999
    assert found.shape == (3, *SIZE)
    doubt = next(short.uncertainty(cells[:1]))
    assert doubt.shape == SIZE
    assert 0 <= doubt.min() <= doubt.max() <= 0.5


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_placements_are_followed(fit, short):
    """A picture of which the input is a crop, or that is padded: pixels are read where they lie."""
    size = (24, 48)
    if fit == "crop":  # columns 12 … 36
        numbers, left, width = (1.0, -12.0, 1.0, 0.0), -12, 24
    else:  # rows 6 … 18 of the input, at half the scale
        numbers = (0.5, 0.0, 0.5, 6.0)
    cells = Cells({key: np.random.default_rng(5).normal(size=(1, *SHAPES[key[0]])) for key in KEYS},
                  sizes=[size], placements=[numbers], input_size=(24, 24))  # fmt: skip
    (found,) = short.predict_proba(cells)
    with torch.no_grad():
        scores = short.module_.grid(*(torch.from_numpy(cells[key]).float() for key in KEYS))
    if fit == "crop":
        expected = F.interpolate(scores, (24, 24), mode="bilinear").softmax(1)[0].numpy()
        np.testing.assert_allclose(found[:, :, -left : -left + width], expected, rtol=1e-4,
                                   atol=1e-6)  # fmt: skip
        assert np.allclose(found[:, :, :12], found[:, :, 12:13], atol=1e-6)  # goes on
    else:
        expected = F.interpolate(scores, (48, 48), mode="bilinear").softmax(1)[0].numpy()
        np.testing.assert_allclose(found, expected[:, 12:36], rtol=1e-4, atol=1e-6)


def test_labels_that_no_input_shows_do_not_count():
    cells, classes = pictures(8, size=(24, 48), placements=[(1.0, -12.0, 1.0, 0.0)] * 8,
                              input_size=(24, 24))  # fmt: skip
    masks = np.random.default_rng(0).integers(0, 2, (8, 24, 48)).astype(np.uint8)
    masks[..., 12:36] = masks_of(classes)
    other = masks.copy()
    other[..., :12], other[..., 36:] = 1 - masks[..., :12], 255
    same(head(**SHORT).fit(cells, masks), head(**SHORT).fit(cells, other))
    wrong = masks.copy()
    wrong[..., 12:24] = 1 - wrong[..., 12:24].clip(0, 1)
    lost = [head(**SHORT).fit(cells, one).history_[0]["loss"] for one in (masks, wrong)]
    assert lost[0] != lost[1]


def test_sizes_of_labels(data):
    cells, masks = data
    assert head(**SHORT).fit(cells, masks).train_size_ == (24, 24)  # no more than pixels
    assert head(**SHORT, train_size=(7, 9)).fit(cells, masks).train_size_ == (7, 9)


# validation, interruption, files


def test_validation(data):
    cells, masks = data
    groups = np.arange(40) // 4
    found = head(steps=24, epochs=6, patience=2).fit(cells, masks, 0.3, groups=groups)
    assert found.history_[0].keys() >= {"validation_loss", "validation_mean_iou"}
    scores = [seen["validation_mean_iou"] for seen in found.history_]
    assert found.best_epoch_ == 1 + int(np.argmax(scores))
    given = head(**SHORT).fit(cells[:30], masks[:30], (cells[30:], masks[30:]))
    matrix = jaccard_score(
        masks[30:][masks[30:] != 255], np.stack(list(given.predict(cells[30:])))[masks[30:] != 255],
        average="macro",
    )  # fmt: skip
    # labels and logits of the last epoch on the same grid, which is that of the pixels here
    assert given.history_[-1]["validation_mean_iou"] == pytest.approx(matrix)
    with pytest.raises(ValueError, match="validation masks"):
        head(**SHORT).fit(cells[:30], masks[:30], (cells[30:], masks[30:, :20]))
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\), or"):
        head(**SHORT).fit(cells, masks, 2.0)
    with pytest.raises(ValueError, match="1 members"):
        head(**SHORT).fit(cells, masks, (cells,))


@pytest.mark.parametrize("kind", HEADS)
def test_it_goes_on_to_the_same_bits(kind, data, tmp_path):
    cells, masks = data
    options = {**SHORT, "augment": mirror_crop_scale, "dropout": 0.1}
    if kind is FPNHead:
        options["mixer"] = HyperfeatureMixer(**MIXER)
    whole = head(kind, **options).fit(cells, masks, 0.2)
    with pytest.raises(KeyboardInterrupt):
        head(kind, **options, checkpoint=tmp_path, progress=Stop(24)).fit(cells, masks, 0.2)
    rest = Stop(1000)
    found = head(kind, **options, checkpoint=tmp_path, progress=rest).fit(cells, masks, 0.2)
    assert rest.rows == 1000 - 32  # two epochs of two steps of eight; the first was kept
    same(found, whole)
    with pytest.raises(ValueError, match="train_size was"):
        head(kind, **options, checkpoint=tmp_path, train_size=(5, 5)).fit(cells, masks, 0.2)
    with pytest.raises(ValueError, match="objective was"):
        head(kind, **options, checkpoint=tmp_path, objective="dice").fit(cells, masks, 0.2)


def die(path):
    torch.set_num_threads(1)
    deadly = Stop(24, lambda: os.kill(os.getpid(), signal.SIGKILL))
    head(**SHORT, checkpoint=path, progress=deadly).fit(*scenes(40), 0.2)


@pytest.mark.slow  # an error in the same place leaves the same, and starts no process
def test_a_real_kill(data, tmp_path, server):
    process = server.Process(target=die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found = head(**SHORT, checkpoint=tmp_path).fit(*data, 0.2)
    same(found, head(**SHORT).fit(*data, 0.2))


def test_a_file_larger_than_memory(data, tmp_path):
    cells, masks = data
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for key in KEYS:
            file[str(key)] = cells[key]
        lazy = Cells({key: file[str(key)] for key in KEYS}, sizes=cells.sizes)
        found = head(steps=30, memory_mb=0.05).fit(lazy, masks)
        assert found.history_[-1]["loss"] < found.history_[0]["loss"] - 0.1
        whole = head(**SHORT).fit(lazy, masks)
    same(whole, head(**SHORT).fit(cells, masks))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FPNHead, {"mixer": HyperfeatureMixer(**MIXER)}),
        (FPNHead, {"over_t": "mix", "class_weights": (1, 2), "augment": mirror_crop_scale}),
        (DPTHead, {"mixer": SpatialFusion(**MIXER), "standardize": False, "train_size": (9, 9)}),
        (DPTHead, {}),
    ],
)
def test_it_comes_back_from_a_file(kind, options, data, tmp_path):
    cells, masks = data
    fitted = head(kind, **SHORT, **options).fit(cells, masks, 0.2, classes=["sky", "road"])
    probes.save(fitted, tmp_path / "h.safetensors", {"a": 1})
    back = probes.load(tmp_path / "h.safetensors")
    for one, other in zip(fitted.predict_proba(cells[:3]), back.predict_proba(cells[:3]),
                          strict=True):  # fmt: skip
        assert one.tobytes() == other.tobytes()
    assert back.classes_.tolist() == ["sky", "road"]
    assert digest(back) == digest(fitted)
    assert repr(clone(back)) == repr(clone(fitted).set_params(progress=False))
    same(clone(back).fit(cells, masks, 0.2, classes=["sky", "road"]), fitted)


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ({"estimator": "LinearProbe", "parameters": {}}, "is no parameter"),
        ({"estimator": ["SpatialFusion"], "parameters": {}}, "is no parameter"),
        ({"estimator": "SpatialFusion", "parameters": {"shell": 1}}, "has none such"),
        ({"estimator": "SpatialFusion", "parameters": {"checkpoint": "/x"}}, "has none such"),
        ({"estimator": "SpatialFusion", "parameters": {"width": 16}}, "expected torch.float32"),
    ],
)
def test_a_file_with_another_mixer(mixer, message, data, tmp_path):
    path = tmp_path / "h.safetensors"
    probes.save(head(**SHORT, mixer=SpatialFusion(**MIXER)).fit(*data), path)
    with safe_open(path, "pt") as file:
        text = json.loads(file.metadata()["head"])
    text["parameters"]["mixer"] = mixer
    text.pop("blake2b")
    tensors = load_file(path)
    text["blake2b"] = digest_of(text, tensors)
    save_file(tensors, path, {"head": json.dumps(text)})
    with pytest.raises(HeadError, match=message):
        probes.load(path)


def test_published_heads():
    fpn = published("vpd-segmentation", epochs=3)
    assert (type(fpn), fpn.width, fpn.epochs) == (FPNHead, 256, 3)
    depth = published("vpd-depth")
    assert (depth.width, depth.filters, depth.last, depth.lambda_) == (1536, (32, 32, 32), 192, 0.5)
    for name in probes.dense.PUBLISHED:
        found = published(name)
        assert clone(found).get_params() == found.get_params()
    with pytest.raises(ValueError, match="expected one of vpd-segmentation"):
        published("vpd")


# what they refuse


def test_a_class_that_training_lacks(data):
    cells, masks = data
    with pytest.warns(UserWarning, match=r"1 of 3 classes .*bicycle.* never predicted"):
        fitted = head(**SHORT).fit(cells, masks, classes=["sky", "road", "bicycle"])
    assert fitted.seen_.tolist() == [True, True, False]
    assert max(one.max() for one in fitted.predict(cells)) == 1
    assert max(one[2].max() for one in fitted.predict_proba(cells)) == 0


def test_some_pictures_say_nothing(data):
    cells, masks = data
    masks = masks.copy()
    masks[:36] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = head(**SHORT, batch_size=4).fit(cells, masks)
    assert all(np.isfinite(seen["loss"]) for seen in fitted.history_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 7}, r"train_size=7; expected \(H, W\)"),
        ({"train_size": (0, 7)}, r"train_size=\(0, 7\)"),
        ({"train_size": (3.5, 7)}, r"train_size=\(3.5, 7\)"),
        ({"mixer": "hyperfeatures"}, "expected a HyperfeatureMixer or"),
        ({"mixer": HyperfeatureMixer(width=2)}, "width=2"),
        ({"over_t": "sum"}, "expected one of concat, mix"),
        ({"width": 0}, "width=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"steps": 0}, "steps=0"),
        ({"objective": "hinge"}, "expected one of cross-entropy, focal, dice"),
        ({"gamma": -1.0, "objective": "focal"}, "gamma=-1.0"),
        ({"optimizer": "rmsprop"}, "optimizer='rmsprop'"),
        ({"patience": 2}, "patience=2 without validation"),
        ({"checkpoint": "x", "random_state": None}, "random_state=None"),
        ({"learning_rate": 1e30}, "the loss became"),
    ],
)
def test_parameters(options, message, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        head(**{**SHORT, **options}).fit(*data)


def test_targets_and_features(data, short):
    cells, masks = data
    vectors = Cells({("a", 1): np.zeros((40, 3))}, sizes=cells.sizes)
    with pytest.raises(ValueError, match=r"expected maps \(C, h, w\)"):
        head().fit(vectors, masks)
    with pytest.raises(ValueError, match="every pixel"):
        head().fit(cells, np.full_like(masks, 255))
    with pytest.raises(ValueError, match="every pixel is ignored"):
        head().fit(cells, np.full_like(masks, 255), classes=2)
    with pytest.raises(ValueError, match="39 masks for 40 pictures"):
        head().fit(cells, masks[1:], classes=2)
    with pytest.raises(ValueError, match=r"20×24, its picture 24×24"):
        head().fit(cells, masks[:, :20], classes=2)
    with pytest.raises(ValueError, match=r"has the labels \[1\]"):
        head().fit(cells, masks, classes=1)
    with pytest.raises(ValueError, match="sizes of the pictures are not known"):
        head().fit(Cells({key: cells[key] for key in KEYS}), masks)
    with pytest.raises(ValueError, match=r"missing; expected"):
        short.predict(Cells({("a", 1): cells["a", 1]}, sizes=cells.sizes))
    with pytest.raises(NotFittedError):
        head().predict(cells)
    with pytest.raises(AttributeError, match="no cells are mixed"):
        short.mixer_weights_  # noqa: B018
    nan = {key: cells[key].copy() for key in KEYS}
    nan["b", 1][3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="contains nan"):
        head(**SHORT).fit(Cells(nan, sizes=cells.sizes), masks)
