"""What dense heads minimise: classes and depth at every pixel, where they are known.

Classes: outputs (n, K, H, W), targets (n, H, W) class indices and `ignore`. Depth: outputs and
targets (n, H, W) in metres above 0, nan where nothing is known. Every objective says how many terms
its mean is over, so that a mean over batches of any size is that over all terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from probes.checks import check_choice, check_number
from probes.metrics.depth import DepthErrors
from probes.objectives import Objective, pixel_cross_entropy

ALIGNS = ("least-squares", "median")
PER = ("picture", "batch")
TINY = 1e-12
"""Below a square root, whose slope at 0 is none."""

Loss = Callable[..., torch.Tensor]


# classes


def cross_entropy(
    classes: int, ignore: int = 255, weights: Sequence[float] | None = None, smoothing: float = 0.0
) -> Objective:
    """As `pixel_cross_entropy`, with classes weighed and labels smoothed.

        sum over pixels of w[y]·CE / sum of w[y]

    Args:
        classes: K.
        weights: (K,) >= 0; None: 1 each.
        smoothing: share of each label that is spread over all classes, in [0, 1).

    Source: Szegedy et al. 2016, section 7 (smoothing).
    """
    check_number("smoothing", smoothing, 0 <= smoothing < 1, "in [0, 1)")
    weights = _weights(weights, classes)
    loss = partial(_cross_entropy, ignore=ignore, weights=weights, smoothing=smoothing)
    terms = partial(_count, ignore=ignore)
    name = f"pixel cross-entropy{_about(weights=weights, smoothing=smoothing)}"
    return _of_classes(name, loss, terms, classes, ignore)


def focal(
    classes: int,
    gamma: float = 2.0,
    ignore: int = 255,
    weights: Sequence[float] | None = None,
) -> Objective:
    """Focal loss: sure pixels count little.

        mean over pixels of w[y]·(1 − p[y])^gamma·(−log p[y]),    p = softmax(output)

    Args:
        classes: K.
        gamma: >= 0; 0 is cross-entropy.
        weights: (K,) >= 0; None: 1 each. The mean is over pixels, whatever they are.

    Source: Lin et al. 2017, eq. 5, for K classes.
    """
    check_number("gamma", gamma, 0 <= gamma < math.inf, ">= 0")
    weights = _weights(weights, classes)
    loss = partial(_focal, gamma=gamma, ignore=ignore, weights=weights)
    name = f"focal {gamma:g}{_about(weights=weights)}"
    return _of_classes(name, loss, partial(_count, ignore=ignore), classes, ignore)


def dice(classes: int, ignore: int = 255) -> Objective:
    """1 − the mean over classes of the soft overlap, picture by picture.

        dice_k = 2·sum p_k·y_k / sum (p_k + y_k)

    over a picture's known pixels, with p = softmax(output) and the mean over the classes that occur
    in it; the mean over pictures of which something is known.

    Source: Milletari et al. 2016 (whose denominator has squares), for K classes.
    """
    terms = partial(_pictures_known, ignore=ignore)
    return _of_classes("dice", partial(_dice, ignore=ignore), terms, classes, ignore)


def combined(*parts: tuple[float, Objective]) -> Objective:
    """A weighted sum of objectives of the same targets, validated as the first.

    Args:
        parts: (weight > 0, objective).

    Returns:
        An objective whose terms are the pictures of a batch; each part is its own mean over it.
    """
    if not parts:
        raise ValueError("no objectives; expected at least one")
    for weight, _ in parts:
        check_number("weight", weight, 0 < weight < math.inf, "> 0")
    first = parts[0][1]
    if any(one.dtype != first.dtype or not one.maps for _, one in parts):
        raise ValueError("objectives of different targets; expected all of classes or all of depth")
    if len(parts) == 1 and parts[0][0] == 1:
        return first
    losses = tuple((weight, one.loss) for weight, one in parts)
    name = " + ".join(f"{weight:g}·{one.name}" for weight, one in parts)
    return replace(first, name=name, loss=partial(_combined, parts=losses), terms=len)


def of_classes(
    how: str,
    classes: int,
    ignore: int = 255,
    *,
    weights: Sequence[float] | None = None,
    gamma: float = 2.0,
    smoothing: float = 0.0,
) -> Objective:
    """An objective by its name.

    Args:
        how: "cross-entropy", "focal" or "dice"; or several, as "cross-entropy + 0.5·dice" (a star
            does for the point).
        weights, gamma, smoothing: of those that have them.

    Raises:
        ValueError: another name or weight.
    """
    made = {
        "cross-entropy": partial(cross_entropy, classes, ignore, weights, smoothing),
        "focal": partial(focal, classes, gamma, ignore, weights),
        "dice": partial(dice, classes, ignore),
    }
    return combined(*((weight, made[name]()) for weight, name in read_sum(how, made)))


def read_sum(how: str, known: Mapping[str, Any]) -> list[tuple[float, str]]:
    """ "a + 0.5·b" → [(1, "a"), (0.5, "b")]."""
    found = []
    for part in str(how).replace("·", "*").split("+"):
        weight, star, name = part.strip().rpartition("*")
        check_choice("objective", name.strip(), tuple(known))
        try:
            found.append((float(weight) if star else 1.0, name.strip()))
        except ValueError:
            raise ValueError(f"objective={how!r}: {weight!r} is no number") from None
    return found


def _of_classes(name: str, loss: Loss, terms: Any, classes: int, ignore: int) -> Objective:
    plain = pixel_cross_entropy(classes, ignore)
    return replace(plain, name=name, loss=loss, terms=terms)


def _weights(weights: Sequence[float] | None, classes: int) -> tuple[float, ...] | None:
    if weights is None:
        return None
    found = tuple(float(weight) for weight in weights)
    good = all(0 <= weight < math.inf for weight in found) and sum(found) > 0
    if len(found) != classes or not good:
        raise ValueError(f"weights={found!r:.60}; expected {classes} numbers >= 0, one a class")
    return found


def _about(**what: Any) -> str:
    """Of a name: what is not as usual."""
    said = [f"{name} {value if isinstance(value, float) else list(value)}"
            for name, value in what.items() if value]  # fmt: skip
    return f" ({', '.join(said)})" if said else ""


def _count(target: torch.Tensor, ignore: int) -> torch.Tensor:
    return (target != ignore).sum()


def _pictures_known(target: torch.Tensor, ignore: int) -> torch.Tensor:
    return (target != ignore).flatten(1).any(1).sum()


def _cross_entropy(output, target, reduction: str, ignore: int, weights, smoothing: float):
    known = target != ignore
    if not known.any():
        return output.sum() * 0
    weight = None if weights is None else output.new_tensor(weights)
    loss = F.cross_entropy(output, target, weight, ignore_index=ignore, label_smoothing=smoothing)
    loss = torch.nan_to_num(loss) if weights is not None else loss  # all pixels of weight 0
    return loss if reduction == "mean" else loss * known.sum()


def _focal(output, target, reduction: str, gamma: float, ignore: int, weights) -> torch.Tensor:
    known = target != ignore
    place = torch.where(known, target, 0)
    logs = output.log_softmax(1).gather(1, place[:, None])[:, 0]  # (n, H, W)
    terms = -logs * (-torch.expm1(logs)).clamp_min(0) ** gamma if gamma else -logs
    if weights is not None:
        terms = terms * output.new_tensor(weights)[place]
    total = (terms * known).sum()
    return total if reduction == "sum" else total / known.sum().clamp(min=1)


def _dice(output, target, reduction: str, ignore: int) -> torch.Tensor:
    known = target != ignore
    place = torch.where(known, target, 0)
    truth = F.one_hot(place, output.shape[1]).movedim(3, 1).to(output.dtype) * known[:, None]
    found = output.softmax(1) * known[:, None]
    both, sizes = (found * truth).sum((2, 3)), (found + truth).sum((2, 3))  # (n, K)
    occurs = truth.sum((2, 3)) > 0
    share = (2 * both / sizes.clamp_min(TINY) * occurs).sum(1) / occurs.sum(1).clamp(min=1)
    some = occurs.any(1)
    total = ((1 - share) * some).sum()
    return total if reduction == "sum" else total / some.sum().clamp(min=1)


def _combined(output, target, reduction: str, parts) -> torch.Tensor:
    total = sum(weight * loss(output, target, "mean") for weight, loss in parts)
    return total if reduction == "mean" else total * len(target)


# depth


def silog(lambda_: float = 0.5, per: str = "picture") -> Objective:
    """The scale-invariant logarithmic error.

        sqrt(mean d² − λ·(mean d)²),    d = log output − log target, over known pixels

    Args:
        lambda_: in [0, 1]: 0 is the RMSE of logarithms, 1 does not mind the scale.
        per: "picture": of each picture's pixels, the mean over pictures; "batch": of those of a
            whole batch, as in VPD, so that it depends on the batch.

    Returns:
        The objective, validated by the mean absolute relative error.

    Source: Eigen, Puhrsch & Fergus 2014, eq. 4, with the root that BTS (Lee et al. 2019) and VPD
    have; VPD: λ = .5.
    """
    check_number("lambda_", lambda_, 0 <= lambda_ <= 1, "in [0, 1]")
    check_choice("per", per, PER)
    terms = known_pictures if per == "picture" else len
    return _of_depth(f"silog {lambda_:g} per {per}", partial(_silog, share=lambda_, per=per), terms)


def scale_shift_invariant(align: str = "least-squares", trim: float = 0.0) -> Objective:
    """The absolute error after each picture's own scale and shift.

        least-squares:  mean |s·d + b − d*|,  s and b least squares over known pixels
        median:         mean |n(d) − n(d*)|,  n(x) = (x − median x)/mean |x − median x|

    over a picture's known pixels, then over pictures. The first is in the unit of the targets.

    Args:
        align: which of these.
        trim: share of a picture's pixels with the largest errors that are left out, in [0, 1).

    Returns:
        The objective, validated by the mean absolute relative error after alignment by least
        squares. What is learnt is depth up to a scale and a shift of its own in every picture.

    Source: Ranftl et al. 2020 (MiDaS), eq. 3 to 7; on depth here, there on its inverse.
    """
    check_choice("align", align, ALIGNS)
    check_number("trim", trim, 0 <= trim < 1, "in [0, 1)")
    loss = partial(_aligned_error, align=align, trim=trim)
    name = f"scale and shift invariant ({align}{f', trim {trim:g}' if trim else ''})"
    found = _of_depth(name, loss, known_pictures)
    return replace(found, metric="aligned_abs_rel", measure=partial(AbsRel, "scale-shift"))


def log_error(power: int = 1) -> Objective:
    """Mean |d|^power over known pixels, d = log output − log target; power is 1 or 2."""
    check_number("power", power, power in (1, 2), "1 or 2")
    return _of_depth(f"L{power} of logarithms", partial(_log_error, power=power), _known_pixels)


DEPTH = {
    "silog": silog, "scale-shift": scale_shift_invariant, "log-l1": partial(log_error, 1),
    "log-l2": partial(log_error, 2),
}  # fmt: skip
"""Objectives of depth by name."""


def of_depth(how: str, **options: Any) -> Objective:
    """An objective of depth by its name, see `DEPTH`; or a sum, as in `of_classes`.

    Args:
        options: of "silog".
    """
    parts = read_sum(how, DEPTH)
    return combined(*((weight, DEPTH[name](**(options if name == "silog" else {})))
                      for weight, name in parts))  # fmt: skip


class AbsRel:
    """The mean over pictures of the mean |d − d*|/d*; pictures of which nothing is known are left
    out.

    Args:
        align: as `probes.metrics.DepthErrors` has it.
    """

    def __init__(self, align: str | None = None):
        self.errors = DepthErrors(align=align)

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> AbsRel:
        """Count (n, H, W) depths."""
        for one, known in zip(found, truth, strict=True):
            if (known > self.errors.min_depth).any():
                self.errors.update(one, known)
        return self

    def compute(self) -> float:
        """>= 0; nan of no pictures."""
        return self.errors.compute()["abs rel"] if len(self.errors) else float("nan")


def _of_depth(name: str, loss: Loss, terms: Any) -> Objective:
    return Objective(
        name, loss, terms, "abs_rel", AbsRel, False, _same, _same, "float32", gaps=True, maps=True,
        unknown=float("nan"),
    )  # fmt: skip


def _same(output: torch.Tensor) -> torch.Tensor:
    return output


def known_depth(target: torch.Tensor) -> torch.Tensor:
    """Where depth is known: a number above 0."""
    return target > 0


def known_pictures(target: torch.Tensor) -> torch.Tensor:
    """How many pictures have a known pixel."""
    return known_depth(target).flatten(1).any(1).sum()


def _known_pixels(target: torch.Tensor) -> torch.Tensor:
    return known_depth(target).sum()


def _log_ratio(output, target) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, H·W) log output − log target, 0 where nothing is known; and where it is."""
    if output.shape != target.shape:
        raise ValueError(
            f"depths of shape {tuple(output.shape)} for targets {tuple(target.shape)}; expected "
            "the same"
        )
    known = known_depth(target)
    ratio = torch.where(known, output, 1.0).log() - torch.where(known, target, 1.0).log()
    return ratio.flatten(1), known.flatten(1)


def _silog(output, target, reduction: str, share: float, per: str) -> torch.Tensor:
    d, known = _log_ratio(output, target)
    if per == "batch":
        d, known = d.view(1, -1), known.view(1, -1)
    count = known.sum(1).clamp(min=1)
    square, mean = d.square().sum(1) / count, d.sum(1) / count
    found = (square - share * mean**2).clamp_min(TINY).sqrt() * known.any(1)
    if per == "batch":
        return found[0] if reduction == "mean" else found[0] * len(target)
    return found.sum() if reduction == "sum" else found.sum() / known.any(1).sum().clamp(min=1)


def _log_error(output, target, reduction: str, power: int) -> torch.Tensor:
    d, known = _log_ratio(output, target)
    total = (d.abs() if power == 1 else d.square()).sum()
    return total if reduction == "sum" else total / known.sum().clamp(min=1)


def _aligned_error(output, target, reduction: str, align: str, trim: float) -> torch.Tensor:
    total, pictures = output.sum() * 0, 0
    for one, truth in zip(output, target, strict=True):
        known = known_depth(truth)
        if not known.any():
            continue
        d, true = one[known], truth[known]
        if align == "median":
            errors = (_normalised(d) - _normalised(true)).abs()
        else:
            errors = (_fitted(d, true) - true).abs()
        if trim:
            errors = errors.sort().values[: max(1, math.ceil(len(errors) * (1 - trim)))]
        total, pictures = total + errors.mean(), pictures + 1
    return total if reduction == "sum" else total / max(1, pictures)


def _normalised(x: torch.Tensor) -> torch.Tensor:
    middle = x.median()
    return (x - middle) / (x - middle).abs().mean().clamp_min(1e-6)


def _fitted(d: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """s·d + b, least squares."""
    apart = d - d.mean()
    scale = (apart * (true - true.mean())).sum() / apart.square().sum().clamp_min(1e-6)
    return scale * apart + true.mean()
