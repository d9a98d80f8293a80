"""PCK: the share of key points that are found, counted in every published way at once."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.metrics.conventions import Convention
from probes.metrics.intervals import DRAWS, Interval, interval_of, pair_weights
from probes.pairs import as_points

ALPHAS = (0.1, 0.05)


def pck(found: Any, truth: Any, reference: float, alpha: float, strict: bool = False) -> np.ndarray:
    """(n,) bool: |found − truth| ≤ alpha·reference (`strict`: <).

    Args:
        found, truth: (n, 2) x, y in one frame's pixels.
        reference: pixels, such as the larger side of the target's box.
        alpha: share of it, such as .1.
        strict: whether a distance of exactly alpha·reference is wrong.

    Raises:
        ValueError: different numbers of points, points that are not finite, a reference that is
            no positive number.

    Source: Yang & Ramanan, "Articulated human detection with flexible mixtures of parts", 2013.
    """
    found, truth = as_points(found), as_points(truth)
    if found.shape != truth.shape:
        raise ValueError(f"{len(found)} points found for {len(truth)}; expected equally many")
    if not (np.isfinite(reference) and reference > 0):
        raise ValueError(f"reference={reference}; expected pixels, more than 0")
    distance = np.linalg.norm(found - truth, axis=1)
    return distance < alpha * reference if strict else distance <= alpha * reference


def shares(
    aggregate: str, right: np.ndarray, points: np.ndarray, names: Any = None, weights: Any = None
) -> np.ndarray:
    """Averages of what was found in pairs, however often each pair counts.

        point:  sum w·right / sum w·points        pair:  sum w·(right/points) / sum w

    of all pairs, or of those of a picture or class, of which the mean is taken: plainly over
    classes; weighted by sum w (`class-weighted`) or by the mean of w (`picture`).

    Args:
        aggregate: a key of `conventions.AGGREGATES`.
        right: (P, A) points of each pair that are right.
        points: (P,) points of each pair.
        names: (P,) of the pictures or classes, where these are averaged over.
        weights: (B, P) how often each pair counts, of B draws; None: once, B = 1.

    Returns:
        (B, A) float64; nan of draws that lack a class, or have no pair.
    """
    weights = np.ones((1, len(points))) if weights is None else np.asarray(weights, np.float64)
    below = points.astype(np.float64)
    above = right.astype(np.float64)
    if aggregate in ("pair", "class-pair"):
        above, below = above / below[:, None], np.ones(len(points))
    if aggregate in ("point", "pair"):
        return _divide(weights @ above, (weights @ below)[:, None])
    from scipy.sparse import csr_array

    _, place = np.unique(names, return_inverse=True)
    which = csr_array((np.ones(len(place)), (np.arange(len(place)), place)))  # (P, groups)
    each = _divide(
        np.stack([(weights * one) @ which for one in above.T], -1),
        ((weights * below) @ which)[..., None],
    )  # (B, groups, A)
    whole = weights @ which  # (B, groups)
    whole = {"picture": whole / np.bincount(place), "class-weighted": whole}.get(
        aggregate, np.ones_like(whole)
    )
    # what weighs nothing has no share either
    summed = np.where(whole[..., None] > 0, whole[..., None] * each, 0).sum(1)
    return _divide(summed, whole.sum(1)[:, None])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """nan where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


class PCK:
    """PCK of pairs that come one by one, by several conventions at once.

    Memory is a few whole numbers a pair: no points are kept.

    Args:
        alphas: A shares of the reference.
        conventions: ways of counting; one is enough. See `conventions.PRESETS`.
        categories: classes that there must be; a mean over classes without one of them is refused.

    Raises:
        ValueError: no alphas or conventions, alphas that are not above 0.
    """

    def __init__(
        self,
        alphas: Sequence[float] = ALPHAS,
        conventions: Sequence[Convention] = (Convention(),),
        categories: Sequence[str] = (),
    ):
        self.alphas = tuple(float(alpha) for alpha in alphas)
        self.conventions, self.categories = tuple(conventions), tuple(categories)
        if not self.alphas or not self.conventions or not min(self.alphas) > 0:
            raise ValueError(f"alphas={self.alphas}, {len(self.conventions)} conventions; expected "
                             "at least one of each, alphas above 0")  # fmt: skip
        # averages of one count are counted once
        self._counted = list(dict.fromkeys(map(_plain, self.conventions)))
        self._right, self._points = array("i"), array("i")
        self._codes, self._names = array("i"), {"": 0}

    def __len__(self) -> int:
        return len(self._points)

    def update(
        self,
        found: Any,
        truth: Any,
        reference: float | None = None,
        *,
        size: tuple[int, int] | None = None,
        box: Any = None,
        picture: str = "",
        category: str = "",
        groups: tuple[str, str] | None = None,
        valid: Any = None,
    ) -> np.ndarray:
        """Count one pair.

        Args:
            found, truth: (n, 2) x, y in pixels of the upright target.
            reference: pixels that errors are measured in, if it is known already: in place of what
                the conventions' one reference is, in original pixels.
            size: (H, W) of the target picture.
            box: (4,) x1, y1, x2, y2 of the target.
            picture: the target's name.
            category: what is shown.
            groups: names of what the two pictures belong to, for intervals.
            valid: (n,) bool; what is not valid is wrong, and may be nan. None: all are.

        Returns:
            (n, A) bool: what is right, by the first convention.

        Raises:
            ValueError: different numbers of points, points that are not finite, no reference.
        """
        truth, found = as_points(truth), np.asarray(found, np.float64)
        valid = np.ones(len(truth), bool) if valid is None else np.asarray(valid, bool)
        if valid.shape != (len(truth),):
            raise ValueError(f"valid has shape {valid.shape}; expected ({len(truth)},)")
        if found.shape == truth.shape:
            found = np.where(valid[:, None], found, 0)
        hits = [self._hits(way, found, truth, reference, size, box) & valid[:, None]
                for way in self._counted]  # fmt: skip
        self._right.extend(int(count) for hit in hits for count in hit.sum(0))
        self._points.append(len(truth))
        self._codes.extend(self._names.setdefault(str(name), len(self._names))
                           for name in (picture, category, *(groups or ("", ""))))  # fmt: skip
        return hits[0]

    def _hits(self, way: Convention, found, truth, reference, size, box) -> np.ndarray:
        """(n, A) bool by one convention."""
        if reference is None:
            measured = way.reference_of(size, box, truth)
        else:
            if way.frame == "resized" or len({one.reference for one in self._counted}) > 1:
                raise ValueError("one reference in pixels does not serve squashed frames, nor "
                                 "conventions with several; give size and box")  # fmt: skip
            measured = reference * way.scale_of(size)[0][0]
        found, truth = way.to_frame(found, size), way.to_frame(truth, size)
        hits = [pck(found, truth, measured, alpha, way.strict) for alpha in self.alphas]
        return np.stack(hits, 1)

    # what was counted

    def counts(self, convention: Convention | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(P, A) points of each pair that are right, and (P,) its points, both int64."""
        place = self._counted.index(_plain(self._one(convention)))
        right = np.array(self._right, np.int64).reshape(-1, len(self._counted), len(self.alphas))
        return right[:, place], np.array(self._points, np.int64)

    def names(self, which: str) -> np.ndarray:
        """(P,) names of the pairs' "picture" or "category", or (P, 2) of their "groups"."""
        columns = {"picture": 0, "category": 1, "groups": slice(2, 4)}
        codes = np.array(self._codes, np.int64).reshape(-1, 4)
        return np.array(list(self._names))[codes[:, columns[which]]]

    def compute(
        self, aggregate: str | None = None, convention: Convention | None = None
    ) -> dict[float, float]:
        """Alpha → share in [0, 1].

        Args:
            aggregate: in place of the convention's own.
            convention: one of those counted; None: the first.

        Raises:
            ValueError: no pairs, pairs without points or names where these are averaged over, a
                class without points, a convention that was not counted.
        """
        found = shares(*self._averaged(aggregate, convention))[0]
        return dict(zip(self.alphas, found.tolist(), strict=True))

    def _averaged(self, aggregate: str | None, convention: Convention | None) -> tuple:
        """What `shares` takes, checked."""
        one = self._one(convention)
        aggregate = dataclasses.replace(one, aggregate=aggregate or one.aggregate).aggregate
        right, points = self.counts(one)
        if not points.sum():
            raise ValueError(f"{len(points)} pairs with no points; expected at least one point")
        if "pair" in aggregate and not points.all():
            empty = np.flatnonzero(points == 0)
            raise ValueError(f"{len(empty)} pairs have no points (the first: pair {empty[0]}), so "
                             "that they have no share; leave them out")  # fmt: skip
        if aggregate in ("point", "pair"):
            return aggregate, right, points
        kind = "picture" if aggregate == "picture" else "category"
        names = self.names(kind)
        if len(none := np.flatnonzero(names == "")):
            raise ValueError(f"{len(none)} pairs have no {kind} (the first: pair {none[0]}); "
                             f"expected one for a mean over them ({aggregate!r})")  # fmt: skip
        wanted = self.categories if kind == "category" else ()
        there = {str(name) for name in np.unique(names[points > 0])}
        if missing := sorted(({str(name) for name in np.unique(names)} | set(wanted)) - there):
            raise ValueError(f"no points of {kind} {', '.join(map(repr, missing[:5]))}; "
                             "expected some, or leave it out")  # fmt: skip
        return aggregate, right, points, names

    def table(self) -> dict[Convention, dict[float, float]]:
        """Every convention → alpha → share; its line stands beside it wherever it is shown."""
        return {one: self.compute(convention=one) for one in self.conventions}

    def by_category(
        self, convention: Convention | None = None, aggregate: str = "point"
    ) -> dict[str, dict[float, float]]:
        """Category → alpha → share, of "point" or "pair", in order of names."""
        right, points = self.counts(convention)
        names = self.names("category")
        found = {}
        for name in np.unique(names).tolist():
            here = names == name
            if not (points[here].all() if aggregate == "pair" else points[here].any()):
                raise ValueError(f"category {name!r} has pairs without points; leave them out")
            share = shares(aggregate, right[here], points[here])[0]
            found[name] = dict(zip(self.alphas, share.tolist(), strict=True))
        return found

    def interval(
        self,
        aggregate: str | None = None,
        convention: Convention | None = None,
        *,
        other: PCK | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> dict[float, Interval]:
        """Alpha → its 95 % interval, the pairs' groups drawn anew; see `probes.metrics.intervals`.

        Args:
            aggregate, convention: as `compute` takes them.
            other: PCK of another system on the same pairs: intervals of the difference, this one's
                minus the other's.
            seed, draws: of the bootstrap.

        Raises:
            ValueError: as `compute`; fewer than two groups; other pairs.
        """
        systems = [one._averaged(aggregate, convention)
                   for one in ((self,) if other is None else (self, other))]  # fmt: skip
        if other is not None and not self._same_pairs(other):
            raise ValueError("the two systems did not count the same pairs in the same order")
        groups = self.names("groups")

        def number(weights: np.ndarray | None) -> np.ndarray:
            found = [shares(*system, *(None,) * (4 - len(system)), weights) for system in systems]
            return found[0] if other is None else found[0] - found[1]

        value = number(None)[0]
        drawn = np.concatenate([number(w) for w in pair_weights(groups, seed, draws)])
        return {alpha: interval_of(float(value[k]), drawn[:, k])
                for k, alpha in enumerate(self.alphas)}  # fmt: skip

    def _same_pairs(self, other: PCK) -> bool:
        return self.alphas == other.alphas and self._points == other._points and all(
            np.array_equal(self.names(which), other.names(which))
            for which in ("picture", "category", "groups")
        )  # fmt: skip

    def _one(self, convention: Convention | None) -> Convention:
        convention = convention or self.conventions[0]
        if _plain(convention) not in self._counted:
            raise ValueError(f"not counted: {convention}; counted: "
                             f"{'; '.join(map(str, self.conventions))}")  # fmt: skip
        return convention

    # to be joined and kept

    def merge(self, other: PCK) -> PCK:
        """Add another's pairs behind these.

        Raises:
            ValueError: other alphas or conventions.
        """
        return self.load(other.state)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Everything counted, as plain arrays that `load` takes; text as numpy's own."""
        right = np.array(self._right, np.int32)
        return {
            "alphas": np.array(self.alphas),
            "counted": np.array([json.dumps(dataclasses.asdict(way)) for way in self._counted]),
            "right": right.reshape(-1, len(self._counted), len(self.alphas)),
            "points": np.array(self._points, np.int32),
            **{which: self.names(which) for which in ("picture", "category", "groups")},
        }

    def load(self, state: dict[str, Any]) -> PCK:
        """Add the pairs of a `state` behind these; of an empty one, go on where it stopped.

        Raises:
            ValueError: other alphas or conventions, arrays that do not fit together.
        """
        own = self.state
        for name in ("alphas", "counted"):
            if not np.array_equal(np.asarray(state[name]), own[name]):
                raise ValueError(f"{name} are {np.asarray(state[name]).tolist()}; expected "
                                 f"{own[name].tolist()}, as here")  # fmt: skip
        right, points = np.asarray(state["right"]), np.asarray(state["points"])
        names = [np.asarray(state[which]).reshape(len(points), -1)
                 for which in ("picture", "category", "groups")]  # fmt: skip
        if (
            right.shape != (len(points), *own["right"].shape[1:])
            or ((right < 0) | (right > points[:, None, None])).any()
        ):
            raise ValueError(f"right has shape {right.shape} for {len(points)} pairs, or more "
                             "points than there are; expected counts of pairs")  # fmt: skip
        self._right.extend(right.ravel().tolist())
        self._points.extend(points.tolist())
        self._codes.extend(self._names.setdefault(str(name), len(self._names))
                           for name in np.concatenate(names, 1).ravel())  # fmt: skip
        return self


def _plain(convention: Convention) -> Convention:
    """What decides how points are counted, without how shares are averaged."""
    return dataclasses.replace(convention, aggregate="point", reading="")
