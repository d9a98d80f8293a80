"""Panoptic quality: how well segments were found, and how well they lie.

A predicted and a true segment of one class match where their IoU is above ½; then no other does.

    PQ = sum of the matches' IoU / (TP + ½ FP + ½ FN) = SQ · RQ
    SQ = sum of the matches' IoU / TP              RQ = TP / (TP + ½ FP + ½ FN)

by class, over all pictures; PQ, SQ and RQ of several classes are each the mean over those of them
that occur (TP + FP + FN > 0). What has no true segment (void) is taken out of unions; a predicted
segment that is no match and lies by more than half in void, or in a crowd of its class, is no
false one; a true segment that nothing matches is always a missed one, unless it is a crowd.

torchmetrics counts otherwise where a prediction leaves pixels without a segment: it takes them out
of unions too, and forgives a true segment of which more than half was left so. Who predicts nothing
would miss nothing there. It also knows no crowds. So counting is ours.

Source: Kirillov et al. 2019, "Panoptic Segmentation", section 4, and COCO's code.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from probes.checks import check_choice
from probes.lazy import as_numpy
from probes.metrics.intervals import DRAWS, Groups, Interval, group_interval, systems_of
from probes.metrics.segmentation import class_names

NUMBERS = ("pq", "sq", "rq")
PARTS = ("all", "things", "stuff")
COUNTS = 4
"""Of a class: sum of IoU, TP, FP, FN."""
Segmented = tuple[Any, Sequence[Mapping[str, Any]]]
"""(H, W) ids of segments, 0 where there is none; and "id", "class" and, if at all, "crowd" of
each."""


class PanopticQuality:
    """PQ, SQ and RQ of pictures that come one by one. Memory is 4·K numbers a picture.

    Args:
        classes: K, or K names.
        things: classes that are countable; the others are stuff.

    Attributes:
        names: (K,) of the classes.
        things: (K,) bool.
        groups: of the pictures, in the order they came.

    Raises:
        ValueError: no classes; things that are none of them.
    """

    def __init__(self, classes: int | Sequence[Any], things: Collection[int]):
        self.names = class_names(classes, None)
        self.things = np.zeros(len(self.names), bool)
        for thing in things:
            if not 0 <= thing < len(self.names):
                raise ValueError(f"thing {thing} is none of {len(self.names)} classes")
            self.things[thing] = True
        self.groups, self._counts = Groups(), array("d")

    def __len__(self) -> int:
        return len(self.groups)

    def update(self, found: Segmented, truth: Segmented, group: Any = None) -> float:
        """Count one picture.

        Args:
            found: (H, W) whole numbers and the segments, as `probes.open_vocabulary.merging` gives
                them; pixels of 0 belong to none.
            truth: the same; pixels of 0 are void, segments with "crowd" are many things at once.
            group: what it belongs to, for intervals; None: a group of its own.

        Returns:
            Its own PQ, the mean over classes that occur; nan where none does.

        Raises:
            ValueError: other shapes, ids without a segment, segments without pixels (of `found`),
                ids twice, classes outside 0 … K − 1.
        """
        count = len(self.names)
        counts = counted(_checked("found", found, count), _checked("truth", truth, count), count)
        self._counts.extend(counts.ravel().tolist())
        self.groups.add(group)
        return float(_mean(_by_class(counts, "pq")))

    def merge(self, other: PanopticQuality) -> PanopticQuality:
        """Count another's pictures behind these.

        Raises:
            ValueError: other classes.
        """
        self._same_classes(other)
        self._counts.extend(other._counts)
        self.groups.extend(other.groups)
        return self

    @property
    def counts(self) -> np.ndarray:
        """(P, 4, K) float64 of each picture: sum of IoU, TP, FP, FN."""
        return np.array(self._counts, np.float64).reshape(-1, COUNTS, len(self.names))

    def by_class(self, number: str = "pq") -> np.ndarray:
        """(K,) PQ, SQ or RQ of each class; nan of one that does not occur, 0 for SQ of one without
        a match."""
        check_choice("number", number, NUMBERS)
        return _by_class(self.counts.sum(0), number)

    def quality(self, number: str = "pq", part: str = "all") -> float:
        """Mean over the classes that occur; nan where none of the part does.

        Args:
            number: "pq", "sq" or "rq".
            part: "all", "things" or "stuff".

        Raises:
            ValueError: nothing was counted; unknown names.
        """
        self._check(number, part)
        return float(_mean(self.by_class(number)[self._part(part)]))

    def compute(self) -> dict[str, float]:
        """PQ, SQ and RQ, and the same of things and of stuff: "pq", "sq_things", …, in [0, 1]."""
        return {
            number if part == "all" else f"{number}_{part}": self.quality(number, part)
            for part in PARTS for number in NUMBERS
        }  # fmt: skip

    def interval(
        self,
        number: str = "pq",
        part: str = "all",
        *,
        other: PanopticQuality | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> Interval:
        """The 95 % interval of a number, groups drawn anew.

        Args:
            number, part: of `quality`.
            other: of another system on the same pictures: the interval is that of this one's
                minus the other's, over the same draws.
            seed, draws: of the bootstrap.

        Raises:
            ValueError: fewer than two groups; nothing of the part was counted; other pictures.
        """
        self._check(number, part)
        if other is not None:
            self._same_classes(other)
        sums = [one.groups.sums(one.counts) for one in systems_of(self, other)]  # (G, 4, K) each
        inside = self._part(part)

        def drawn(weights: np.ndarray) -> np.ndarray:
            found = [_mean(_by_class(np.tensordot(weights, one, 1), number)[..., inside])
                     for one in sums]  # fmt: skip
            return found[0] if other is None else found[0] - found[1]

        return group_interval(drawn, len(self.groups.names), seed, draws, COUNTS * len(self.names))

    def lines(self) -> list[str]:
        """A table in plain text: the three numbers of all, things and stuff; then each class."""
        found = [f"{'':12}  PQ %   SQ %   RQ %  classes"]
        for part in PARTS:
            seen = int(np.isfinite(self.by_class()[self._part(part)]).sum())
            values = "  ".join(_text(self.quality(number, part)) for number in NUMBERS)
            found.append(f"{part:12} {values}  {seen:7}")
        each = zip(self.names, *(self.by_class(number) for number in NUMBERS), strict=True)
        for name, *values in each:
            if np.isfinite(values[0]):
                found.append(f"{name!s:12} {'  '.join(map(_text, values))}")
        return found

    def _part(self, part: str) -> np.ndarray:
        return {"all": np.ones_like(self.things), "things": self.things, "stuff": ~self.things}[
            part
        ]

    def _check(self, number: str, part: str) -> None:
        check_choice("number", number, NUMBERS)
        check_choice("part", part, PARTS)
        if not len(self):
            raise ValueError("no picture was counted; update with one first")

    def _same_classes(self, other: PanopticQuality) -> None:
        if list(self.names) != list(other.names) or not np.array_equal(self.things, other.things):
            raise ValueError(f"classes are {len(self.names)} and {len(other.names)}, things "
                             f"{int(self.things.sum())} and {int(other.things.sum())}; expected "
                             "the same")  # fmt: skip


def counted(found: Segmented, truth: Segmented, count: int) -> np.ndarray:
    """(4, K) sum of IoU, TP, FP and FN of one picture that was checked."""
    ids, segments = found
    true_ids, true_segments = truth
    if ids.shape != true_ids.shape:
        raise ValueError(f"found is {ids.shape}, truth {true_ids.shape}; expected one shape")
    area, true_area = _areas(ids), _areas(true_ids)
    both = _areas(true_ids.astype(np.int64) << 32 | ids.astype(np.int64))
    shared = {(pair >> 32, pair & 0xFFFFFFFF): pixels for pair, pixels in both.items()}
    counts = np.zeros((COUNTS, count))
    matched, true_matched = set(), set()
    of = {one["id"]: one for one in segments}
    for (true_id, own_id), pixels in shared.items():
        true, own = true_segments.get(true_id), of.get(own_id)
        if true is None or own is None or true.get("crowd") or own["class"] != true["class"]:
            continue
        union = area[own_id] + true_area[true_id] - pixels - shared.get((0, own_id), 0)
        if pixels > 0.5 * union:
            counts[:2, own["class"]] += pixels / union, 1
            matched.add(own_id)
            true_matched.add(true_id)
    crowds: dict[int, list[int]] = {}
    for true_id, true in true_segments.items():
        if true.get("crowd"):
            crowds.setdefault(true["class"], []).append(true_id)
        elif true_id not in true_matched:
            counts[3, true["class"]] += 1
    for own_id, own in of.items():
        beside = (0, *crowds.get(own["class"], ()))
        forgiven = sum(shared.get((one, own_id), 0) for one in beside)
        if own_id not in matched and forgiven <= 0.5 * area[own_id]:
            counts[2, own["class"]] += 1
    return counts


def _checked(name: str, one: Segmented, count: int) -> Segmented:
    """Ids as an array, and segments; by id of the truth, which may lack pixels."""
    ids, segments = np.asarray(as_numpy(one[0])), list(one[1])
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} is {ids.dtype} of shape {ids.shape}; expected (H, W) whole "
                         "numbers, ids of segments")  # fmt: skip
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < 1 << 31:
        raise ValueError(f"{name} has ids from {ids.min()} to {ids.max()}; expected 0 (none) and "
                         "up, below 2³¹")  # fmt: skip
    known = {int(segment["id"]): segment for segment in segments}
    if len(known) < len(segments) or 0 in known:
        raise ValueError(f"{name} names a segment's id twice, or 0; expected different ones")
    for segment in segments:
        if not 0 <= segment["class"] < count:
            raise ValueError(f"{name} has a segment of class {segment['class']}; expected 0 … "
                             f"{count - 1}")  # fmt: skip
    there = set(np.unique(ids).tolist()) - {0}
    if odd := sorted(there - set(known)):
        raise ValueError(f"{name} has pixels of {odd[0]}, which is no segment's id")
    if odd := sorted(set(known) - there):
        if name == "found":
            raise ValueError(f"found has the segment {odd[0]}, and no pixel of it")
        known = {key: value for key, value in known.items() if key in there}
    return ids, (list(known.values()) if name == "found" else known)


def _areas(ids: np.ndarray) -> dict[int, int]:
    names, counts = np.unique(ids, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _by_class(counts: np.ndarray, number: str) -> np.ndarray:
    """(…, 4, K) → (…, K); nan where the class does not occur."""
    iou, right, false, missed = np.moveaxis(counts, -2, 0)
    of = right + 0.5 * false + 0.5 * missed
    above, below = {"pq": (iou, of), "rq": (right, of), "sq": (iou, right)}[number]
    zero = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return np.where(of > 0, zero, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """(…, K) → (…,) over those that are there; nan where none is."""
    there = np.isfinite(values)
    many = there.sum(-1)
    total = np.where(there, values, 0).sum(-1)
    return np.divide(total, many, out=np.full(np.shape(total), np.nan), where=many > 0)


def _text(share: float) -> str:
    return "    –" if np.isnan(share) else f"{100 * share:5.1f}"
