"""How well depth was estimated, with cap, crop, alignment and average named.

With d the depth that was found and d* the true one, over the n pixels that count:

    abs rel   mean |d − d*|/d*               RMSE       sqrt(mean (d − d*)²)
    sq rel    mean (d − d*)²/d*              RMSE log   sqrt(mean g²),  g = ln d − ln d*
    log10     mean |log10 d − log10 d*|      SILog      100·sqrt(mean g² − (mean g)²)
    delta k   share of pixels with max(d/d*, d*/d) < 1.25^k

Sources: Eigen, Puhrsch & Fergus 2014; the KITTI depth benchmark (SILog); the evaluation of Lee et
al. 2019 (BTS), which most later codes share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from probes.checks import check_choice
from probes.lazy import as_numpy
from probes.metrics.intervals import DRAWS, Groups, Interval, group_interval, systems_of

MIN_DEPTH = 1e-3
ALIGNMENTS = (None, "median", "scale-shift")
AVERAGES = MappingProxyType(
    {"picture": "mean over pictures", "pixel": "over the pixels of all pictures"}
)
CROPS: Mapping[str, tuple[tuple[int, int], tuple[int, int, int, int]]] = MappingProxyType(
    {"eigen": ((480, 640), (45, 471, 41, 601))}
)
"""Name → (H, W) that it is of, and its top, bottom, left, right; bottom and right are outside."""
ERRORS = ("abs rel", "sq rel", "RMSE", "RMSE log", "log10", "SILog", "delta 1", "delta 2",
          "delta 3")  # fmt: skip
_SUMS = 10
"""Of a picture: pixels, |e|/d*, e²/d*, e², g², |g|, g, and those within each delta."""


def depth_errors(
    found: Any,
    truth: Any,
    *,
    cap: float | None = None,
    min_depth: float = MIN_DEPTH,
    crop: str | Sequence[int] | None = None,
    align: str | None = None,
) -> dict[str, float]:
    """Errors of one depth map.

    Pixels count whose truth is finite and strictly between `min_depth` and `cap`, within the crop.
    What was found is aligned first, then clipped to `min_depth` … `cap`.

    Args:
        found: (H, W) in the unit of truth, such as metres; it may be nan where no pixel counts.
        truth: (H, W); nan, inf and 0 are unknown.
        cap: largest true depth that counts; None: all do.
        min_depth: above 0.
        crop: "eigen", rows 45 to 470 and columns 41 to 600 of 480×640 (bottom 471 and right 601
            are outside); or (top, bottom, left, right) in pixels, bottom and right outside.
        align: None; "median", multiplied by median d* / median d; "scale-shift", s·d + b of least
            squares. Over the pixels that count, and it uses the truth: say so beside the numbers.

    Returns:
        Name of `ERRORS` → number. RMSE is in the unit of truth, sq rel too; SILog ×100; deltas are
        shares in [0, 1].

    Raises:
        ValueError: different shapes, no pixel counts, nan or inf where a pixel counts, a crop
            that does not fit, a median of what was found that is not above 0.
    """
    how = _how(cap, min_depth, crop, align)
    return dict(zip(ERRORS, _errors(_sums(found, truth, *how)).tolist(), strict=True))


class DepthErrors:
    """Errors of depth maps that come one by one, by both averages.

    Memory is ten numbers a picture.

    Args:
        cap, min_depth, crop, align: as `depth_errors` takes them.
        average: "picture", the mean over pictures of each one's error (as the codes since Lee et
            al. 2019 have it); "pixel", over the pixels of all pictures (Eigen et al. 2014).

    Raises:
        ValueError: a value that cannot be meant.
    """

    def __init__(
        self,
        *,
        cap: float | None = None,
        min_depth: float = MIN_DEPTH,
        crop: str | Sequence[int] | None = None,
        align: str | None = None,
        average: str = "picture",
    ):
        self.cap, self.min_depth, self.crop, self.align = _how(cap, min_depth, crop, align)
        check_choice("average", average, tuple(AVERAGES))
        self.average, self.groups, self._rows = average, Groups(), []

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, found: Any, truth: Any, group: Any = None) -> dict[str, float]:
        """Count one picture; its own errors. `group` is for intervals; None: one of its own.

        Raises:
            ValueError: as `depth_errors`.
        """
        row = _sums(found, truth, self.cap, self.min_depth, self.crop, self.align)
        self._rows.append(row)
        self.groups.add(group)
        return dict(zip(ERRORS, _errors(row).tolist(), strict=True))

    def merge(self, other: DepthErrors) -> DepthErrors:
        """Count another's pictures behind these; ValueError where it counts in another way."""
        if self._way != other._way:
            raise ValueError(f"counted as {other._way}; expected {self._way}, as here")
        self._rows.extend(other._rows)
        self.groups.extend(other.groups)
        return self

    def compute(self, average: str | None = None) -> dict[str, float]:
        """Name of `ERRORS` → number, by an average; None: that it was made with.

        Raises:
            ValueError: nothing was counted.
        """
        values, weigh = self._parts(average)
        return dict(zip(ERRORS, weigh(np.ones((1, len(values))), values)[0].tolist(), strict=True))

    def by_picture(self, name: str) -> np.ndarray:
        """(P,) float64 of one error."""
        check_choice("name", name, ERRORS)
        return _errors(np.array(self._rows).reshape(-1, _SUMS))[:, ERRORS.index(name)]

    def interval(
        self,
        name: str = "RMSE",
        average: str | None = None,
        *,
        other: DepthErrors | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> Interval:
        """The 95 % interval of an error, groups drawn anew; or of how much larger it is than that
        of another system on the same pictures.

        Raises:
            ValueError: fewer than two groups; nothing was counted; other pictures.
        """
        check_choice("name", name, ERRORS)
        systems = systems_of(self, other)
        parts = [system._parts(average) for system in systems]
        sums = [system.groups.sums(values)
                for system, (values, _) in zip(systems, parts, strict=True)]  # fmt: skip

        def drawn(weights: np.ndarray) -> np.ndarray:
            found = [weigh(weights, one)[:, ERRORS.index(name)]
                     for (_, weigh), one in zip(parts, sums, strict=True)]  # fmt: skip
            return found[0] if other is None else found[0] - found[1]

        return group_interval(drawn, len(self.groups.names), seed, draws, _SUMS)

    @property
    def convention(self) -> str:
        """What the numbers are, in words."""
        box = self.crop if isinstance(self.crop, str) else f"{self.crop}"
        return ", ".join([
            AVERAGES[self.average],
            f"true depth above {self.min_depth:g}"
            + (", no cap" if self.cap is None else f" and below {self.cap:g}"),
            "whole pictures" if self.crop is None else f"crop {box}",
            "not aligned" if self.align is None else f"aligned by {self.align}, with the truth",
        ])  # fmt: skip

    @property
    def _way(self) -> tuple[Any, ...]:
        return self.cap, self.min_depth, self.crop, self.align

    def _parts(self, average: str | None) -> tuple[np.ndarray, Any]:
        """(P, …) numbers that add up over pictures, and how weighed sums give the errors."""
        average = average or self.average
        check_choice("average", average, tuple(AVERAGES))
        if not self._rows:
            raise ValueError("no depth maps were counted; expected at least one")
        rows = np.array(self._rows)
        if average == "pixel":
            return rows, lambda weights, sums: _errors(weights @ sums)
        each = np.concatenate([_errors(rows), np.ones((len(rows), 1))], 1)

        def means(weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
            found = weights @ sums
            return found[:, :-1] / found[:, -1:]

        return each, means


def _how(cap: Any, min_depth: Any, crop: Any, align: Any) -> tuple[Any, ...]:
    """The arguments, checked."""
    if not (np.isfinite(min_depth) and min_depth > 0):
        raise ValueError(f"min_depth={min_depth}; expected a depth above 0")
    if cap is not None and not (np.isfinite(cap) and cap > min_depth):
        raise ValueError(f"cap={cap}; expected a depth above min_depth={min_depth:g}, or None")
    if align not in ALIGNMENTS:
        raise ValueError(f"align={align!r}; expected one of {ALIGNMENTS}")
    if isinstance(crop, str):
        check_choice("crop", crop, tuple(CROPS))
    elif crop is not None:
        crop = tuple(int(side) for side in crop)
        if len(crop) != 4 or not (0 <= crop[0] < crop[1] and 0 <= crop[2] < crop[3]):
            raise ValueError(f"crop={crop}; expected top < bottom, left < right in pixels, or one "
                             f"of {', '.join(CROPS)}")  # fmt: skip
    return cap, float(min_depth), crop, align


def _sums(found, truth, cap, min_depth, crop, align) -> np.ndarray:
    """(10,) sums over the pixels of one picture that count."""
    found, truth = (np.asarray(as_numpy(one), np.float64) for one in (found, truth))
    if found.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"found has shape {found.shape} and truth {truth.shape}; expected the "
                         "same (H, W)")  # fmt: skip
    box = _box(crop, truth.shape)
    found, truth = found[box], truth[box]
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(truth) & (truth > min_depth)
        if cap is not None:
            counts &= truth < cap
    if not counts.any():
        most = "" if cap is None else f" and {cap:g}"
        raise ValueError(f"no pixel has a known depth above {min_depth:g}{most}; expected some, in "
                         "the unit of these bounds")  # fmt: skip
    found, truth = found[counts], truth[counts]
    if not np.isfinite(found).all():
        raise ValueError(f"found has {(~np.isfinite(found)).sum()} pixels of nan or inf where the "
                         "depth is known; expected a depth at each")  # fmt: skip
    found = np.clip(_aligned(found, truth, align), min_depth, cap)
    error, logs = found - truth, np.log(found) - np.log(truth)
    off = np.maximum(found / truth, truth / found)
    within = ((off < 1.25**k).sum() for k in (1, 2, 3))
    return np.array([
        len(truth), (np.abs(error) / truth).sum(), (error**2 / truth).sum(), (error**2).sum(),
        (logs**2).sum(), np.abs(logs).sum(), logs.sum(), *within,
    ])  # fmt: skip


def _box(crop: Any, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a crop; ValueError where the picture is not what it is of."""
    if crop is None:
        return slice(None), slice(None)
    named = isinstance(crop, str)
    wanted, (top, bottom, left, right) = CROPS[crop] if named else (None, crop)
    if (named and size != wanted) or bottom > size[0] or right > size[1]:
        expected = "{}×{}".format(*wanted) if named else f"at least {bottom}×{right}"
        raise ValueError(f"crop={crop!r} of a depth map of {size[0]}×{size[1]}; expected "
                         f"{expected}, or another crop=(top, bottom, left, right)")  # fmt: skip
    return slice(top, bottom), slice(left, right)


def _aligned(found: np.ndarray, truth: np.ndarray, align: str | None) -> np.ndarray:
    """(n,) depths, brought to the truth's scale."""
    if align == "median":
        middle = np.median(found)
        if not middle > 0:
            raise ValueError(f"the median of what was found is {middle:g}, so nothing can be "
                             "scaled by it; expected depths above 0")  # fmt: skip
        return found * (np.median(truth) / middle)
    if align == "scale-shift":
        centred = found - found.mean()
        spread = (centred**2).sum()
        scale = (centred * (truth - truth.mean())).sum() / spread if spread > 0 else 0.0
        return truth.mean() + scale * centred
    return found


def _errors(sums: np.ndarray) -> np.ndarray:
    """(…, 10) sums → (…, 9) in the order of `ERRORS`; nan where no pixel counts."""
    sums = np.asarray(sums, np.float64)
    count = sums[..., :1]
    means = np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)
    _, rel, square_rel, square, logs, log, shift, *deltas = np.moveaxis(means, -1, 0)
    spread = np.sqrt(np.maximum(logs - shift**2, 0))
    return np.stack([rel, square_rel, np.sqrt(square), np.sqrt(logs), log / np.log(10),
                     100 * spread, *deltas], -1)  # fmt: skip
