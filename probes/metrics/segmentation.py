"""How well classes of pixels were found: mean IoU by a named policy, and boundaries.

IoU and mean IoU are of the whole set: intersections and unions are summed over all pictures first.

    IoU_k = sum TP_k / sum (TP_k + FP_k + FN_k)        mIoU = mean over k

Two policies make published figures differ, and every number here names both:

    absent     a class that neither truth nor prediction has: "skip", it is left out of the mean;
               "zero", it counts 0
    ignored    predictions on pixels whose truth is ignored: "drop", they do not count; "count",
               they are of the class' union, as false ones
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from probes.checks import check_choice, named_classes
from probes.lazy import as_numpy
from probes.metrics.classification import ConfusionMatrix, counts_of
from probes.metrics.intervals import DRAWS, Groups, Interval, group_interval, systems_of

CHOICES = {"absent": ("skip", "zero"), "ignored": ("drop", "count")}
POLICIES = MappingProxyType({
    "standard": {"absent": "skip", "ignored": "drop"},
    "ddpm-seg": {"absent": "zero", "ignored": "count"},
})  # fmt: skip
"""Name → policies. "ddpm-seg": Baranchuk et al. 2022, the evaluation of their code (which adds 1e-8
to unions, so that its numbers are lower by less than 1e-8 relative)."""
NUMBERS = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
TEXTS = {
    "skip": "classes that neither truth nor prediction has are left out (absent: skip)",
    "zero": "classes that neither truth nor prediction has count 0 (absent: zero)",
    "drop": "ignored pixels do not count (ignored: drop)",
    "count": "predictions on ignored pixels enter the union (ignored: count)",
}


class Confusion:
    """What was taken for what, of pictures that come one by one; and what follows from it.

    Memory is K² numbers, and 4·K a picture, which is what intervals and every measure here need.

    Args:
        classes: K, or K names; labels are 0 … K − 1.
        ignore: true label of pixels that do not count; None: all count.
        preset: a key of `POLICIES`.
        absent, ignored: in place of the preset's.

    Attributes:
        names: (K,) of the classes.
        total: `ConfusionMatrix` of all pixels that count; `total.matrix` has truth in rows.
        groups: of the pictures, in the order they came.

    Raises:
        ValueError: an unknown preset or policy; no classes; `ignore` is a class.
    """

    def __init__(
        self,
        classes: int | Sequence[Any],
        ignore: int | None = 255,
        preset: str = "standard",
        *,
        absent: str | None = None,
        ignored: str | None = None,
    ):
        self.names, self.ignore = class_names(classes, ignore), ignore
        check_choice("preset", preset, POLICIES)
        self.absent, self.ignored = POLICIES[preset].values()
        self.absent, self.ignored = self._policy(absent, ignored)
        self.total = ConfusionMatrix(len(self.names), ignore)
        self.groups, self._counts = Groups(), array("q")

    def __len__(self) -> int:
        return len(self.groups)

    def update(self, found: Any, truth: Any, group: Any = None) -> float:
        """Count one picture.

        Args:
            found: (H, W) whole numbers: classes.
            truth: (H, W) whole numbers: classes, or `ignore`.
            group: what it belongs to, such as a drive, for intervals; None: a group of its own.

        Returns:
            Its own mean IoU (see `by_picture`); nan where nothing counts.

        Raises:
            ValueError: different shapes; no whole numbers; labels outside 0 … K − 1.
        """
        found, truth = labels_of("found", found), labels_of("truth", truth)
        one = ConfusionMatrix(len(self.names), self.ignore).update(found, truth)
        beside = np.zeros(len(self.names), np.int64)
        if self.ignore is not None:
            there = found[truth == self.ignore]
            if there.size and not 0 <= there.min() <= there.max() < len(self.names):
                raise ValueError(f"found has the labels {there.min()} to {there.max()} on ignored "
                                 f"pixels; expected 0 to {len(self.names) - 1}")  # fmt: skip
            beside = np.bincount(there.astype(np.int64), minlength=len(beside))
        counts = np.stack([*counts_of(one.matrix), beside])
        self.total.matrix += one.matrix
        self._counts.extend(counts.ravel().tolist())
        self.groups.add(group)
        return float(self._mean(self._ious(counts, self.ignored), "skip"))

    def merge(self, other: Confusion) -> Confusion:
        """Count another's pictures behind these.

        Raises:
            ValueError: other classes, or another ignored label.
        """
        self._same_classes(other)
        self.total.matrix += other.total.matrix
        self._counts.extend(other._counts)
        self.groups.extend(other.groups)
        return self

    # what was counted

    @property
    def counts(self) -> np.ndarray:
        """(P, 4, K) int64 of each picture: TP, TP + FN, TP + FP, and predictions on ignored
        pixels."""
        return np.array(self._counts, np.int64).reshape(-1, 4, len(self.names))

    def iou(self, ignored: str | None = None) -> np.ndarray:
        """(K,) float64 in [0, 1]; nan of a class that neither truth nor prediction has."""
        return self._ious(self._summed(), self._policy(None, ignored)[1])

    def of_counts(self, counts: np.ndarray, number: str = "mean_iou") -> np.ndarray:
        """(…,) a number of (…, 4, K) counts, such as sums over draws of `counts`; nan where
        nothing counts. Policies are those that it was made with."""
        check_choice("number", number, NUMBERS)
        return self._number(number, counts, self.absent, self.ignored)

    def accuracies(self) -> np.ndarray:
        """(K,) float64: share of each class' true pixels that were found; nan of one without."""
        tp, true, _, _ = self._summed()
        return _divided(tp, true)

    def mean_iou(self, absent: str | None = None, ignored: str | None = None) -> float:
        """Mean of the classes' IoU, in [0, 1].

        Args:
            absent, ignored: in place of the policies that it was made with.

        Raises:
            ValueError: nothing was counted; an unknown policy.
        """
        absent, ignored = self._policy(absent, ignored)
        return float(self._number("mean_iou", self._summed(), absent, ignored))

    def pixel_accuracy(self) -> float:
        """Share of the pixels that count and are right."""
        return float(self._number("pixel_accuracy", self._summed()))

    def mean_accuracy(self) -> float:
        """Mean over the classes that truth has of `accuracies`."""
        return float(self._number("mean_accuracy", self._summed()))

    def frequency_weighted_iou(self, ignored: str | None = None) -> float:
        """Mean of the classes' IoU, weighted by their true pixels."""
        ignored = self._policy(None, ignored)[1]
        return float(self._number("frequency_weighted_iou", self._summed(), ignored=ignored))

    def by_picture(self, ignored: str | None = None) -> np.ndarray:
        """(P,) float64 mean IoU of each picture, over the classes that its truth or prediction
        has; nan where nothing counts."""
        return self._mean(self._ious(self.counts, self._policy(None, ignored)[1]), "skip")

    def picture_mean_iou(self, ignored: str | None = None) -> float:
        """Mean of `by_picture` over the pictures of which something can be said: another number
        than `mean_iou`, for small pictures count as much as large ones."""
        self._summed()
        return float(np.nanmean(self.by_picture(ignored)))

    def interval(
        self,
        number: str = "mean_iou",
        *,
        other: Confusion | None = None,
        absent: str | None = None,
        ignored: str | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> Interval:
        """The 95 % interval of a number, groups drawn anew.

        Args:
            number: "mean_iou", "pixel_accuracy", "mean_accuracy" or "frequency_weighted_iou".
            other: of another system on the same pictures: the interval is that of this one's
                minus the other's, over the same draws.
            absent, ignored: in place of the policies that it was made with.
            seed, draws: of the bootstrap.

        Raises:
            ValueError: fewer than two groups; nothing was counted; other pictures.
        """
        check_choice("number", number, NUMBERS)
        policy = self._policy(absent, ignored)
        if other is not None:
            self._same_classes(other)
        systems = systems_of(self, other)
        sums = [system.groups.sums(system.counts) for system in systems]  # (G, 4, K) each

        def drawn(weights: np.ndarray) -> np.ndarray:
            found = [self._number(number, np.tensordot(weights, one, 1), *policy) for one in sums]
            return found[0] if other is None else found[0] - found[1]

        self._summed()
        width = 4 * len(self.names)
        return group_interval(drawn, len(self.groups.names), seed, draws, width)

    @property
    def convention(self) -> str:
        """What the numbers are, in words."""
        pixels = "" if self.ignore is None else f"; {TEXTS[self.ignored]}"
        return (f"mIoU of {len(self.names)} classes over sums of all pictures; "
                f"{TEXTS[self.absent]}{pixels}")  # fmt: skip

    def lines(self) -> list[str]:
        """A table in plain text: the convention, the numbers in per cent, and each class."""
        names = [str(name) for name in self.names]
        width = max(map(len, ["class", *names]))
        means = ((name.replace("_", " "), 100 * getattr(self, name)()) for name in NUMBERS)
        found = [self.convention, ", ".join(f"{name} {value:.2f}" for name, value in means)]
        found.append(f"{'class':{width}}  IoU %  accuracy %  true pixels")
        true = self._summed()[1]
        for name, iou, right, pixels in zip(
            names, self.iou(), self.accuracies(), true, strict=True
        ):
            found.append(f"{name:{width}}  {_text(iou):>5}  {_text(right):>10}  {pixels:>11}")
        return found

    def _summed(self) -> np.ndarray:
        """(4, K) of all pictures."""
        self.total.compute()
        return self.counts.sum(0)

    def _number(self, number: str, counts: np.ndarray, absent="skip", ignored="drop"):
        """(…, 4, K) counts → (…,)."""
        tp, true, _, _ = np.moveaxis(counts, -2, 0)
        if number == "pixel_accuracy":
            return _divided(tp.sum(-1), true.sum(-1))
        if number == "mean_accuracy":
            return self._mean(_divided(tp, true), "skip")
        ious = self._ious(counts, ignored)
        if number == "mean_iou":
            return self._mean(ious, absent)
        return _divided(np.nansum(ious * true, -1), true.sum(-1))

    @staticmethod
    def _ious(counts: np.ndarray, ignored: str) -> np.ndarray:
        """(…, K); nan where there is no union."""
        tp, true, found, beside = np.moveaxis(counts, -2, 0)
        return _divided(tp, true + found - tp + (beside if ignored == "count" else 0))

    @staticmethod
    def _mean(values: np.ndarray, absent: str) -> np.ndarray:
        """(…, K) → (…,); nan where no class is there at all."""
        there = ~np.isnan(values)
        of = there.sum(-1)
        many = np.where(of > 0, values.shape[-1], 0) if absent == "zero" else of
        return _divided(np.nansum(values, -1), many)

    def _policy(self, absent: str | None, ignored: str | None) -> tuple[str, str]:
        absent, ignored = absent or self.absent, ignored or self.ignored
        for name, value in (("absent", absent), ("ignored", ignored)):
            check_choice(name, value, CHOICES[name])
        return absent, ignored

    def _same_classes(self, other: Confusion) -> None:
        if list(self.names) != list(other.names) or self.ignore != other.ignore:
            raise ValueError(f"classes are {len(self.names)} and {len(other.names)}, ignored "
                             f"labels {self.ignore} and {other.ignore}; expected the "
                             "same")  # fmt: skip


def class_names(classes: int | Sequence[Any], ignore: int | None) -> tuple[Any, ...]:
    """Names of K classes, their numbers where there are none; ValueError where there are none, or
    where `ignore` is one."""
    names = tuple(named_classes(classes).tolist())
    if ignore is not None and 0 <= ignore < len(names):
        raise ValueError(f"ignore={ignore} is one of {len(names)} classes, 0 … {len(names) - 1}; "
                         "expected another number, such as 255, or None")  # fmt: skip
    return names


def labels_of(name: str, values: Any) -> np.ndarray:
    """Whole numbers as an array; ValueError where they are none."""
    found = np.asarray(as_numpy(values))
    if found.dtype.kind not in "iub":
        raise ValueError(f"{name} is {found.dtype}; expected whole numbers, one label a pixel")
    return found


def _divided(above: Any, below: Any) -> np.ndarray:
    """nan where there is nothing to divide by."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _text(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f}"
