"""Judges of geometry: planes whose homography is known, and surfaces whose depth is.

HomographyAccuracy(bind(open_pairs("hpatches:all"), [store]))
DenseRecall(bind(open_depth("7scenes/seq-01"), [store]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search.judge import Candidate, Judge, cells_in
from diffeat.search.matching.bound import BoundPairs, named
from diffeat.search.matching.judge import FRACTIONS, Matching
from diffeat.search.matching.scored import described, matcher_of, matcher_text, told_text
from diffeat.search.splits import TEST, Fractions
from diffeat.targets.pairs.base import PairTargets
from probes.maps import Maps
from probes.matching import MutualMatcher
from probes.matching.base import Matcher
from probes.matching.keypoints import distinct, sift
from probes.metrics.conventions import Convention
from probes.metrics.homography import corner_error, find_homography
from probes.metrics.intervals import pair_interval
from probes.metrics.pck import PCK
from probes.metrics.recall import Recall

SHARES = (0.02, 0.01, 0.04)
"""Of the larger side of the target, within which a true correspondence counts as found."""
THRESHOLD = 3.0
"""Pixels by which a match may miss the homography that is fitted to all (RANSAC)."""
DETECTORS = ("sift", "sites")
NUMBERS = ("homography", "matches")
UNITS = {"pixels": "px", "percent": "% of the side"}
HELD = 8
"""Pictures whose maps are kept while pairs go by."""


class DenseRecall(Matching):
    """The share of true correspondences of RGB-D frames that a matcher finds.

    A point counts as found within 2 % of the larger side of the target (and 1 and 4 %, aside);
    by the angle between the optical axes, too. Intervals draw the frames anew: both frames of a
    pair belong to its draw, and other rooms are another question.

    Args: see `Matching`; `bound.targets` have a kind "depth".

    Raises:
        SpecError: pairs of another kind.
    """

    task_name, trains = "depth", False

    def __init__(
        self,
        bound: BoundPairs,
        part: np.ndarray | None = None,
        alphas: Sequence[float] = SHARES,
        matcher: Matcher | None = None,
        fractions: Fractions = FRACTIONS,
        seed: int = 0,
        source: str | None = None,
    ):
        check_kind(bound.targets, "depth", self.task_name)
        way = Convention("image", "point")
        super().__init__(bound, part, way, alphas, matcher, fractions, seed, source)
        self.name = f"recall@{self.alphas[0]:g}"

    def aside(self, cell: Candidate, setting: float | None) -> dict[str, float]:
        """The other shares, and each bin of angles that test has pairs of."""
        recall = recall_of(self._tested.get(cell) or self.test(cell, setting),
                           np.asarray(self.bound.targets.angles)[self.part == TEST])  # fmt: skip
        found = {f"recall@{alpha:g}": value for alpha, value in recall.compute().items()}
        for (low, high), shares in recall.by_bin().items():
            found |= {f"recall@{alpha:g}, {low:g} to {high:g}°": value
                      for alpha, value in shares.items()}  # fmt: skip
        del found[self.name]
        return found


def recall_of(pck: PCK, angles: np.ndarray) -> Recall:
    """What was counted of pairs, by (P,) viewpoint angles in degrees."""
    recall, (right, points) = Recall(pck.alphas), pck.counts()
    for one, count, angle in zip(right, points.tolist(), angles.tolist(), strict=True):
        recall.add(one, count, angle)
    return recall


@dataclass(frozen=True)
class Plane:
    """What mutual matches of one pair of a plane are worth.

    Attributes:
        matrix: (3, 3) that was found, or None.
        error: mean distance of the corners in pixels of the target; inf without a matrix.
        side: larger side of the target in pixels.
        matches: how many there are.
        distances: (matches,) pixels by which each misses the true homography.
    """

    matrix: np.ndarray | None
    error: float
    side: int
    matches: int
    distances: np.ndarray

    def right(self, threshold: float, unit: str = "pixels") -> bool:
        """Whether the homography is found within a threshold."""
        return self.error <= self._pixels(threshold, unit)

    def share(self, threshold: float, unit: str = "pixels") -> float:
        """The share of matches within a threshold; 0 without matches."""
        return float((self.distances <= self._pixels(threshold, unit)).sum() / max(1, self.matches))

    def _pixels(self, threshold: float, unit: str) -> float:
        return threshold if unit == "pixels" else threshold / 100 * self.side


def plane_of(
    points: np.ndarray, found: np.ndarray, targets: PairTargets, pair: int, seed: int = 0
) -> Plane:
    """Fit a homography to the mutual matches of a pair, and hold it against the truth.

    Args:
        points, found: (n, 2) x, y in the source and in the target; row k is one match.
        targets: pairs of a kind "homography".
        seed: of `find_homography`.
    """
    truth, (size, other) = targets.homography(pair), targets.sizes[pair]
    matrix = find_homography(points, found, THRESHOLD, seed)
    ends = np.column_stack([points, np.ones(len(points))]) @ truth.T
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.linalg.norm(ends[:, :2] / ends[:, 2:] - found, axis=1)
    missed = np.where(np.isfinite(missed), missed, np.inf)
    return Plane(matrix, corner_error(matrix, truth, size), max(other), len(points), missed)


def match_planes(
    targets: PairTargets, rows: Mapping[int, tuple[int, int]], maps: Callable[[int], Maps],
    key_points: Callable[[int], np.ndarray | None], matcher: MutualMatcher, most: int,
) -> Iterator[tuple[int, Plane]]:  # fmt: skip
    """Mutual matches of some pairs, and what they are worth.

    Args:
        targets: of a kind "homography".
        rows: pair → rows of the source and the target.
        maps: of a row; the last ones are kept.
        key_points: (n, 2) of a row; None: its sites.
        most: matches of a pair at most.

    Yields:
        The pair, those of one source after each other; its plane.
    """
    held = lru_cache(HELD)(maps)
    for pair, sides in sorted(rows.items(), key=lambda one: (one[1], one[0])):
        points, others = map(key_points, sides)
        try:
            here, found = matcher.mutual(*map(held, sides), points=points, target_points=others,
                                         most=most)  # fmt: skip
        except ValueError as error:
            raise SpecError(f"{named(targets, pair)}: {error}") from error
        yield pair, plane_of(here, found.points, targets, pair)


class HomographyAccuracy(Matching):
    """The share of pairs of a plane whose homography is found from mutual matches.

    At most `most` key points in each picture, of which those are matches that are each other's
    nearest by their features; OpenCV's RANSAC fits a homography to them (3 px). A pair is right
    if the mean distance of the four corners is within the threshold; where none is found it is
    wrong. The interval of test draws the scenes anew.

    Args:
        bound: pairs of a kind "homography", with their features.
        part: see `Matching`.
        threshold: in `unit`.
        unit: "pixels" of the target, or "percent" of its larger side.
        by: "homography", or "matches": the mean over pairs of the share of matches that lie
            within the threshold of their true place, which says more where few homographies are
            found.
        detector: "sift" (needs OpenCV and the pictures); "sites": every site is a key point; or
            key points that were found before, picture id → (n, 2) x, y in pixels.
        most: key points of a picture, and matches of a pair, at most.
        matcher: None is `MutualMatcher()`.
        fractions, seed, source: see `Matching`.

    Raises:
        SpecError: pairs of another kind, words or numbers that cannot be meant.
    """

    task_name, trains = "homography", False

    def __init__(
        self,
        bound: BoundPairs,
        part: np.ndarray | None = None,
        threshold: float = 3.0,
        unit: str = "pixels",
        by: str = "homography",
        detector: str | Mapping[str, np.ndarray] = "sift",
        most: int = 1000,
        matcher: MutualMatcher | None = None,
        fractions: Fractions = FRACTIONS,
        seed: int = 0,
        source: str | None = None,
    ):
        check_kind(bound.targets, "homography", self.task_name)
        given = isinstance(detector, Mapping)
        for name, value, known in (("unit", unit, UNITS), ("by", by, NUMBERS),
                                   ("detector", "" if given else detector, DETECTORS)):  # fmt: skip
            if value and value not in known:
                raise SpecError(f"{name}={value!r}; expected {' or '.join(known)}")
        if threshold <= 0 or most < 4:
            raise SpecError(f"threshold={threshold}, most={most}; expected more than 0, and at "
                            "least 4 points, which fix a homography")  # fmt: skip
        matcher = MutualMatcher() if matcher is None else matcher
        super().__init__(bound, part, matcher=matcher, fractions=fractions, seed=seed,
                         source=source)  # fmt: skip
        self.threshold, self.counted, self.by = threshold, unit, by
        self.detector, self.most = detector, most
        what = "homographies" if by == "homography" else "right matches"
        self.name = f"{what} within {threshold:g} {UNITS[unit]}"
        self._planes: dict[Candidate, dict[int, Plane]] = {}
        self._points: dict[str, np.ndarray] = dict(detector) if given else {}

    # what a judge says

    def check(self, part: np.ndarray | None = None) -> None:
        Judge.check(self, part)

    def _matched(self, candidate: Candidate, rows: np.ndarray) -> dict[int, Plane]:
        return self.planes(candidate, rows)

    def _score(self, matched: dict[int, Plane], rows: np.ndarray) -> float:
        return float(self._values([matched[row] for row in rows]).mean())

    def test(self, cell: Candidate, setting: float | None) -> np.ndarray:
        """(n,) the number of each test pair."""
        return self._values(self._of_test(cell))

    def settle(self, value: np.ndarray) -> tuple[float, tuple[float, float] | None]:
        if self.tested_groups < 2:
            return float(value.mean()), None
        groups = [self.groups[row] for row in np.flatnonzero(self.part == TEST)]
        one = pair_interval(value, np.ones(len(value)), groups)
        return one.value, (one.low, one.high)

    def planes(self, candidate: Candidate, rows: np.ndarray) -> dict[int, Plane]:
        """What the matches of some pairs are worth, by pair; what is known is not matched again."""
        known, pairs = self._planes.setdefault(candidate, {}), self.bound.pairs
        new = {row: (int(pairs.source[row]), int(pairs.target[row]))
               for row in rows.tolist() if row not in known}  # fmt: skip
        cells, matcher = self.bound.cells(cells_in(candidate)), matcher_of(self.matcher, candidate)
        known.update(match_planes(self.bound.targets, new, cells.maps, self._key_points, matcher,
                                  self.most))  # fmt: skip
        return known

    def _key_points(self, row: int) -> np.ndarray | None:
        """(n, 2) of a picture; None: its sites."""
        if self.detector == "sites":
            return None
        name = self._names[row]
        if name not in self._points:
            if self.detector != "sift":
                raise SpecError(f"{self.bound.name}: no key points of {name!r} are given; expected "
                                "those of every picture")  # fmt: skip
            picture = self._source.load(self._source.ids.index(name))
            self._points[name] = key_points_of(picture, self.most)
        return self._points[name]

    @cached_property
    def _source(self) -> Any:
        return self.bound.targets.pictures()

    @cached_property
    def _names(self) -> dict[int, str]:
        """Row of the files → id of the picture."""
        pairs, targets = self.bound.pairs, self.bound.targets
        sides = ((pairs.source, targets.source), (pairs.target, targets.target))
        return {int(row): name for rows, names in sides
                for row, name in zip(rows, names, strict=True)}  # fmt: skip

    def _of_test(self, cell: Candidate) -> list[Plane]:
        rows = np.flatnonzero(self.part == TEST)
        planes = self.planes(cell, rows)
        return [planes[row] for row in rows.tolist()]

    def _values(self, planes: Sequence[Plane]) -> np.ndarray:
        kind = Plane.right if self.by == "homography" else Plane.share
        return np.array([kind(one, self.threshold, self.counted) for one in planes], np.float64)

    # what stands beside the number

    @cached_property
    def floor(self) -> tuple[float, str]:
        """Nothing moved: the source squashed to the target's size."""
        rows = np.flatnonzero(self.part == TEST).tolist()
        planes = [unmoved(self.bound.targets, row) for row in rows]
        return float(self._values(planes).mean()), "the same place of the target"

    def aside(self, cell: Candidate, setting: float | None) -> dict[str, float]:
        planes = self._of_test(cell)
        found = {
            f"within {limit:g} px": [one.right(limit) for one in planes] for limit in (1, 3, 5)
        }
        found |= {f"within {limit:g} % of the side": [one.right(limit, "percent") for one in planes]
                  for limit in (1, 3, 5)}  # fmt: skip
        found["no homography found"] = [np.isinf(one.error) for one in planes]
        found["matches within 3 px"] = [one.share(3) for one in planes]
        return {name: float(np.mean(values)) for name, values in found.items()}

    def describe(self) -> dict[str, Any]:
        where = self.detector if isinstance(self.detector, str) else fingerprint(
            {name: points.tolist() for name, points in self.detector.items()})  # fmt: skip
        return {"judge": self.name, "detector": where, "most": self.most,
                **described(self.matcher)}  # fmt: skip

    @property
    def headline(self) -> str:
        _, held, tested = self.counts
        where = self.detector if isinstance(self.detector, str) else "given"
        return (
            f"{self.source}: validation {self.name} in %, {held} validation and {tested} test "
            f"pairs; at most {self.most} key points ({where}), mutual matches, RANSAC at "
            f"{THRESHOLD:g} px; {matcher_text(self.matcher)}{told_text(self.bound.conditioned)}"
        )


def unmoved(targets: PairTargets, pair: int) -> Plane:
    """The answer that every point stays where it is, squashed to the target's size."""
    truth, ((height, width), other) = targets.homography(pair), targets.sizes[pair]
    by = np.diag([other[1] / width, other[0] / height, 1.0])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(half) @ by @ half
    error = corner_error(matrix, truth, (height, width))
    return Plane(matrix, error, max(other), 0, np.zeros(0))


def key_points_of(picture: Any, most: int) -> np.ndarray:
    """(n, 2) SIFT's key points of a picture, each place once."""
    return distinct(sift(np.asarray(picture), most)[0])


def check_kind(targets: PairTargets, kind: str, task: str) -> None:
    """SpecError where a task asks for pairs of another kind."""
    if targets.kind != kind:
        raise SpecError(f"{targets.name} has pairs of a kind {targets.kind!r}; --task {task} asks "
                        f"for {kind!r} (see diffeat.targets.pairs)")  # fmt: skip
