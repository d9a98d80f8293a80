"""Objectives of pixels, against torch's and torchvision's losses, NumPy and least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from probes.objectives import pixel_cross_entropy
from probes.pixel_objectives import (
    combined,
    cross_entropy,
    dice,
    focal,
    log_error,
    of_classes,
    of_depth,
    scale_shift_invariant,
    silog,
)

NAN = float("nan")


def scores(classes=3, ignored=0.3, seed=0):
    """(2, K, 4, 5) outputs, float64, and (2, 4, 5) labels of which some are ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (2, 4, 5))
    labels[rng.random(labels.shape) < ignored] = 255
    return torch.from_numpy(rng.normal(0, 2, (2, classes, 4, 5))), torch.from_numpy(labels)


def depths(seed=0):
    """(3, 4, 5) depths found and true, float64, some of the latter unknown, the last's all."""
    rng = np.random.default_rng(seed)
    found, truth = np.exp(rng.normal(0, 0.5, (2, 3, 4, 5)))
    truth[rng.random(truth.shape) < 0.3] = NAN
    truth[2] = NAN
    return torch.from_numpy(found), torch.from_numpy(truth)


# classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 3.0)])
def test_cross_entropy(weights, smoothing):
    output, target = scores()
    known = target != 255
    flat = output.movedim(1, -1)[known]
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(flat, target[known], weight, label_smoothing=smoothing)
    objective = cross_entropy(3, weights=weights, smoothing=smoothing)
    torch.testing.assert_close(objective.loss(output, target, "mean"), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_of_two_classes(gamma):
    torchvision = pytest.importorskip("torchvision")
    x, target = scores(2, ignored=0)
    difference = x[:, 1] - x[:, 0]
    expected = torchvision.ops.sigmoid_focal_loss(
        difference, target.double(), alpha=-1, gamma=gamma, reduction="mean"
    )
    torch.testing.assert_close(focal(2, gamma).loss(x, target, "mean"), expected)


def test_focal_of_several_classes():
    output, target = scores()
    plain = pixel_cross_entropy(3).loss(output, target, "mean")
    torch.testing.assert_close(focal(3, 0.0).loss(output, target, "mean"), plain)
    p, weights = output.softmax(1).numpy(), (1.0, 0.0, 2.0)
    total = [weights[k] * (1 - p[i, k, r, c]) ** 2 * -np.log(p[i, k, r, c])
             for (i, r, c), k in np.ndenumerate(target.numpy()) if k != 255]  # fmt: skip
    found = focal(3, 2.0, weights=weights).loss(output, target, "mean")
    assert float(found) == pytest.approx(np.mean(total))


def test_dice():
    output, target = scores(ignored=0.5)
    p, each = output.softmax(1).numpy(), []
    for shares, labels in zip(p, target.numpy(), strict=True):
        known = labels != 255
        overlaps = []
        for k in np.unique(labels[known]):
            a, b = shares[k][known], (labels == k)[known]
            overlaps.append(2 * (a * b).sum() / (a.sum() + b.sum()))
        each.append(1 - np.mean(overlaps))
    assert float(dice(3).loss(output, target, "mean")) == pytest.approx(np.mean(each))
    right = F.one_hot(torch.where(target == 255, 0, target), 3).movedim(3, 1) * 100.0
    assert float(dice(3).loss(right, target, "mean")) == pytest.approx(0, abs=1e-6)


def test_sums_of_objectives():
    output, target = scores()
    parts = [cross_entropy(3).loss(output, target, "mean"), dice(3).loss(output, target, "mean")]
    for how in ("cross-entropy + 0.5*dice", "cross-entropy+0.5·dice"):
        found = of_classes(how, 3).loss(output, target, "mean")
        torch.testing.assert_close(found, parts[0] + 0.5 * parts[1])
    assert of_classes("focal", 3, gamma=1.0).name == "focal 1"
    for how, message in (("hinge", "expected one of cross-entropy, focal, dice"),
                         ("x*dice", "'x' is no number"), ("-1*dice", "weight=-1.0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            of_classes(how, 3)
    with pytest.raises(ValueError, match="different targets"):
        combined((1, dice(3)), (1, silog()))


# depth


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_silog(share):
    found, truth = depths()
    d = np.log(found.numpy()) - np.log(truth.numpy())
    each = [np.sqrt((x**2).mean() - share * x.mean() ** 2)
            for x in (one[~np.isnan(one)] for one in d) if len(x)]  # fmt: skip
    loss = silog(share).loss(found, truth, "mean")
    assert float(loss) == pytest.approx(np.mean(each))
    x = d[~np.isnan(d)]
    batch = silog(share, per="batch").loss(found, truth, "mean")
    assert float(batch) == pytest.approx(np.sqrt((x**2).mean() - share * x.mean() ** 2))
    if share == 1:  # it does not mind the scale
        assert float(silog(1).loss(7 * found, truth, "mean")) == pytest.approx(float(loss))


def test_scale_and_shift():
    found, truth = depths()
    each = []
    for d, true in zip(found.numpy(), truth.numpy(), strict=True):
        d, true = d[~np.isnan(true)], true[~np.isnan(true)]
        if len(d):
            columns = np.stack([d, np.ones_like(d)], 1)
            solution, *_ = np.linalg.lstsq(columns, true, rcond=None)
            each.append(np.abs(columns @ solution - true).mean())
    objective = scale_shift_invariant()
    loss = objective.loss(found, truth, "mean")
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(objective.loss(3 * found + 2, truth, "mean")) == pytest.approx(float(loss))
    perfect = torch.nan_to_num(truth, 1.0) * 4 - 1
    assert float(objective.loss(perfect, truth, "mean")) == pytest.approx(0, abs=1e-6)


def test_medians_and_trimming():
    d, true = torch.tensor([[[1.0, 2, 3, 4, 20]]]), torch.tensor([[[2.0, 1, 5, 3, 4]]])
    # medians 3 and 3; mean deviations 21/5 and 6/5
    apart = np.abs(np.array([-2, -1, 0, 1, 17]) / 4.2 - np.array([-1, -2, 2, 0, 1]) / 1.2)
    objective = scale_shift_invariant("median")
    assert float(objective.loss(d, true, "mean")) == pytest.approx(apart.mean())
    trimmed = scale_shift_invariant("median", trim=0.4)
    assert float(trimmed.loss(d, true, "mean")) == pytest.approx(np.sort(apart)[:3].mean())


@pytest.mark.parametrize(("power", "reference"), [(1, F.l1_loss), (2, F.mse_loss)])
def test_logarithms(power, reference):
    found, truth = depths()
    known = ~truth.isnan()
    expected = reference(found[known].log(), truth[known].log())
    torch.testing.assert_close(log_error(power).loss(found, truth, "mean"), expected)


# all


CLASSES = [cross_entropy(3), cross_entropy(3, weights=(1, 2, 1), smoothing=0.1), focal(3), dice(3),
           of_classes("cross-entropy + dice", 3)]  # fmt: skip
DEPTHS = [silog(), silog(per="batch"), scale_shift_invariant(), scale_shift_invariant("median"),
          log_error(1), log_error(2), of_depth("silog + 0.1*log-l1")]  # fmt: skip
EVERY = [*((one, scores) for one in CLASSES), *((one, depths) for one in DEPTHS)]
NAMES = [one.name for one, _ in EVERY]


@pytest.mark.parametrize(("objective", "made"), EVERY, ids=NAMES)
def test_slopes_and_sums(objective, made):
    output, target = made()
    output.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, target, "mean"), output)
    mean, total = (float(objective.loss(output, target, how).detach()) for how in ("mean", "sum"))
    assert total == pytest.approx(mean * int(objective.terms(target)))


@pytest.mark.parametrize(("objective", "made"), EVERY, ids=NAMES)
def test_nothing_known(objective, made):
    output, target = made()
    target = torch.full_like(target, objective.unknown)
    output.requires_grad_(True)
    loss = objective.loss(output, target, "mean")
    loss.backward()
    assert (float(loss.detach()), float(output.grad.abs().sum())) == (0, 0)


def test_the_number_of_validation():
    found, truth = depths()
    measure = silog().measure()
    measure.update(found[:1], truth[:1]).update(found[1:], truth[1:])
    error = (found - truth).abs() / truth
    expected = np.mean([one[~one.isnan()].mean() for one in error[:2]])
    assert measure.compute() == pytest.approx(expected)
    assert not silog().better(2.0, 1.0)
    aligned = scale_shift_invariant().measure().update(5 * truth + 1, truth)
    assert aligned.compute() == pytest.approx(0, abs=1e-9)
    assert np.isnan(silog().measure().update(found[2:], truth[2:]).compute())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: focal(3, -1.0), "gamma=-1.0"),
        (lambda: cross_entropy(3, smoothing=1.0), "smoothing=1.0"),
        (lambda: cross_entropy(3, weights=(1, 2)), "expected 3 numbers >= 0"),
        (lambda: focal(2, weights=(1, NAN)), "expected 2 numbers >= 0"),
        (lambda: silog(1.5), r"lambda_=1.5; expected a number in \[0, 1\]"),
        (lambda: silog(per="set"), "expected one of picture, batch"),
        (lambda: scale_shift_invariant("mean"), "expected one of least-squares, median"),
        (lambda: scale_shift_invariant(trim=1), "trim=1"),
        (lambda: log_error(3), "power=3"),
        (lambda: of_depth("rmse"), "expected one of silog, scale-shift"),
        (lambda: combined(), "no objectives"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_depths_of_another_shape():
    found, truth = depths()
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) for targets \(3, 4, 5\)"):
        silog().loss(found[..., :4], truth, "mean")
