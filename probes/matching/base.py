"""What all matchers share: their parameters, checks, chunks of points, pictures kept in a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from probes.cells import Cells
from probes.checks import check_choice, check_number
from probes.maps import EDGE, Maps
from probes.matching.flow import Flow
from probes.matching.placed import Held, Placed, Rule
from probes.matching.regions import Window, window_of
from probes.matching.surfaces import STRIP, Surfaces
from probes.pairs import Matches, Pairs, as_points
from probes.threads import sized

CHOICES = {
    "metric": ("cosine", "l2"),
    "combine": ("sum", "concat"),
    "normalise": ("after", "before"),
    "resolution": ("picture", "similarity", "site"),
    "outside": ("refuse", "wrong"),
}
CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Numbers that are held for a chunk of points, where memory allows more; of whole surfaces, which
no cache holds anyway, `SURFACES` times as many."""
SURFACES = 8


@dataclass(eq=False, repr=False, kw_only=True)
class Matcher(BaseEstimator):
    """Finds points of a source picture in a target picture; nothing is learnt.

    Features are read bilinearly between sites, clamped at the borders, each map straight from its
    own grid at the pixels of the upright picture, whatever fit its input had. Features are never
    upsampled: dots are (they are linear), and |f|² of every pixel follows from five Gram maps in
    float64. That is equal up to rounding: the same pixel, or similarities within 1e-5.

    Args:
        metric: "cosine", or "l2": minus the Euclidean distance.
        combine: of several cells: "sum", similarities add, each map normalised by its own norm;
            "concat", their vectors are one.
        weights: of the cells, by cell or in order, >= 0: of the similarity ("sum") or of the
            vectors ("concat"). None: 1 each.
        normalise: "after", what was read at a pixel is normalised; "before", the vectors of sites
            are scaled to length 1 first, which is another matcher.
        resolution: "picture", features are compared at every pixel; "similarity", at the sites of
            the target's finest grid, and their similarities are read at every pixel; "site",
            at sites alone, also of the source's point, and a match is the centre of one.
        low_pass: sigma, in sites, of a Gaussian that smooths every map of both pictures first.
        outside: points of the picture that a crop does not show: "refuse" them, or "wrong":
            their matches are not valid.
        refine: "bilinear": the four sites around a point (of the source's finest grid) are matched
            in its place, and their answers are averaged with bilinear weights, as a flow is read
            between sites. None: the point itself is matched.
        device: "auto" is where the maps lie.
        memory_mb: for what is held at a time; `match_pairs` keeps pictures in half of it.
    """

    metric: str = "cosine"
    combine: str = "sum"
    weights: Mapping[Any, float] | Sequence[float] | None = None
    normalise: str = "after"
    resolution: str = "picture"
    low_pass: float | None = None
    outside: str = "refuse"
    refine: str | None = None
    device: str = "auto"
    memory_mb: float = 512

    def ready(self, maps: Maps) -> Placed:
        """A picture's maps made ready, for `match` to take several times."""
        return Placed(maps, self._rule(maps))

    def match(
        self,
        source: Maps | Placed,
        target: Maps | Placed,
        points: Any,
        *,
        region: Any = None,
        check: Any = None,
    ) -> Matches:
        """Find points of the source in the target.

        Args:
            source, target: maps of the same cells; sizes, placements and grids may differ. What
                `ready` made of maps is taken, too.
            points: (n, 2) x, y in pixels of the upright source.
            region: where to look in the target: (4,) x1, y1, x2, y2 in pixels, or an (H, W)
                bool mask; None is everywhere.
            check: pixels by which a match, matched back, may miss its point; None checks nothing.

        Returns:
            Matches in the order of the points. Pixels that the target's input does not show are
            never among them.

        Raises:
            ValueError: points outside the source, maps of other cells or channels, an empty
                region.
        """
        source = source if isinstance(source, Placed) else self.ready(source)
        if not isinstance(target, Placed):
            target = Placed(target, source.rule)
        return self._match(source, target, points, region, check)

    def match_pairs(self, cells: Cells, pairs: Pairs, *, check: Any = None) -> Iterator[Matches]:
        """`match` of every pair, in order; pictures are read once while memory holds them.

        Raises:
            ValueError: as `match`, naming the pair's rows; rows that are none of the pictures.
        """
        rule: list[Rule] = []

        def placed(row: int) -> Placed:
            maps = cells.maps(row)
            rule[:] = rule or [self._rule(maps)]
            return Placed(maps, rule[0])

        def matched(source: Placed, target: Placed, points: Any) -> Matches:
            return self._match(source, target, points, None, check)

        yield from matches_of(cells, pairs, Held(placed, self.memory_mb * 2**20 / 2), matched)

    def similarity(self, source: Maps, target: Maps, point: Any) -> np.ndarray:
        """(H, W) float32 over the target: how like each pixel is to one point of the source.

        nan where the target's input does not show a pixel. With `resolution="site"` pixels have
        the similarity of the site nearest to them.
        """
        rule = self._rule(source)
        a, b = Placed(source, rule), Placed(target, rule)
        points = self._checked(a, b, [point])[0]
        window = Window.whole(b.answers)
        found = Surfaces(b, a.vectors(points), window).whole()[0].float().cpu().numpy()
        shown, whole = b.pixels, np.full(b.maps.size, np.nan, np.float32)
        at = [np.abs(line[:, None] - places).argmin(1)
              for line, places in ((shown.y, b.answers.y), (shown.x, b.answers.x))]  # fmt: skip
        whole[np.ix_(shown.y.astype(int), shown.x.astype(int))] = found[np.ix_(*at)]
        return whole

    def flow(
        self,
        source: Maps,
        target: Maps,
        stride: int | str = 1,
        *,
        region: Any = None,
        check: Any = None,
    ) -> Flow:
        """Match a grid of the source's pixels, or its sites.

        Time is that of as many matches: of all pixels of a large picture, minutes.

        Args:
            source, target, region, check: as `match` takes them.
            stride: every so many-th pixel along x and y, from 0; "site": the centres of the sites
                of the finest grid that lie in the picture.

        Returns:
            Where they were found; what the source's input does not show is not valid.

        Raises:
            ValueError: as `match`; another stride.
        """
        rule = self._rule(source)
        a, b = Placed(source, rule), Placed(target, rule)
        _check_cells(a, b)
        grid = a.grid(stride)
        window = window_of(region, b.answers, b.maps.size)
        points = grid.points()
        found = self._confirmed(a, b, points, a.maps.valid(points), window, check)
        shape = len(grid.y), len(grid.x)
        return Flow(found.points.reshape(*shape, 2), found.score.reshape(shape),
                    found.valid.reshape(shape), grid.x, grid.y)  # fmt: skip

    @abstractmethod
    def _read(self, surfaces: Surfaces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n, 2) x, y; (n,) scores; (n,) bool, whether they mean anything."""

    def _numbers(self, target: Placed, window: Window) -> int:
        """How many numbers `_read` needs for one point."""
        return window.shape[0] * window.shape[1]

    def _match(
        self, source: Placed, target: Placed, points: Any, region: Any, check: Any
    ) -> Matches:
        points, shown = self._checked(source, target, points)
        window = window_of(region, target.answers, target.maps.size)
        return self._confirmed(source, target, points, shown, window, check)

    def _confirmed(self, source: Placed, target: Placed, points: np.ndarray, shown: np.ndarray,
                   window: Window, check: Any) -> Matches:  # fmt: skip
        """Matches, of which those are valid that the source shows and the check confirms."""
        found = self._find(source, target, points, window)
        valid = found.valid & shown
        if check is not None:
            check_number("check", check, check >= 0, ">= 0, in pixels")
            back = self._find(target, source, found.points, Window.whole(source.answers))
            valid &= back.valid & (np.linalg.norm(back.points - points, axis=1) <= check + EDGE)
        return Matches(found.points, found.score, valid)

    def _find(self, source: Placed, target: Placed, points: np.ndarray, window: Window) -> Matches:
        """Match points; whether the source shows them is not asked."""
        if self.refine is None:
            return self._in_chunks(source, target, points, window)
        corners, shares = source.corners(points)  # (n, 4, 2), (n, 4)
        found = self._in_chunks(source, target, corners.reshape(-1, 2), window)
        places, score = found.points.reshape(corners.shape), found.score.reshape(shares.shape)
        valid = (found.valid.reshape(shares.shape) | (shares == 0)).all(1)
        return Matches((places * shares[..., None]).sum(1), (score * shares).sum(1), valid)

    def _in_chunks(
        self, source: Placed, target: Placed, points: np.ndarray, window: Window
    ) -> Matches:
        """Match points, so many at a time as fit memory."""
        each, device = self._numbers(target, window), target.device
        room = CHUNK.get(device.type, CHUNK["cuda"]) * (SURFACES if each else 1)
        for cell in target.cells:
            h, w = target.maps.grid(cell)
            each += h * (w + window.shape[1])
        size = max(1, int(min(room, self.memory_mb * 2**20 / 16) / each))
        found = []
        for first in range(0, len(points), size):
            vectors = source.vectors(points[first : first + size])
            with sized(min(size, len(points)) * target.numbers, device):
                surfaces = Surfaces(target, vectors, window)
            with sized(STRIP["cpu"], device):
                found.append(self._read(surfaces))
        if not found:
            return Matches(np.zeros((0, 2)), np.zeros(0), np.zeros(0, bool))
        if len(found) == 1:
            return Matches(*found[0])
        return Matches(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _rule(self, maps: Maps) -> Rule:
        """The parameters, checked; those of the weights by the cells of a picture."""
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        if self.refine is not None:
            check_choice("refine", self.refine, ("bilinear",))
        check_number("memory_mb", self.memory_mb, self.memory_mb > 0, "> 0")
        if self.low_pass is not None:
            check_number("low_pass", self.low_pass, self.low_pass > 0, "> 0, in sites, or None")
        names = ("metric", "combine", "normalise", "resolution", "low_pass", "device")
        options = {name: getattr(self, name) for name in names}
        return Rule(weights=weights_of(self.weights, tuple(maps.values)), **options)

    def _checked(
        self, source: Placed, target: Placed, points: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) points, and (n,) bool which of them the source's input shows."""
        _check_cells(source, target)
        points = as_points(points)
        height, width = source.maps.size
        shown = source.maps.valid(points)
        if shown.all():
            return points, shown
        inside = Maps(source.maps.values, (height, width), (height, width)).valid(points)
        what = f"the source, {width} × {height} pixels"
        _refuse(points, inside, f"outside {what}", "points of the upright picture")
        if self.outside == "refuse":
            _refuse(points, shown, f"cut off from the input of {what}",
                    "points that the crop shows, or outside='wrong'")  # fmt: skip
        return points, shown


def matches_of(
    cells: Cells, pairs: Pairs, held: Held, match: Callable[[Any, Any, Any], Matches]
) -> Iterator[Matches]:
    """Match pair by pair, in order.

    Args:
        held: gives the pictures of two rows.
        match: (source, target, points of the source) → where they were found.

    Raises:
        ValueError: as `match`, naming the pair's rows; rows that are none of the pictures.
    """
    rows = zip(pairs.source.tolist(), pairs.target.tolist(), pairs.source_points, strict=True)
    for source, target, points in rows:
        if not (0 <= source < len(cells) and 0 <= target < len(cells)):
            raise ValueError(f"a pair is of rows {source} and {target}; expected 0 to "
                             f"{len(cells) - 1}, rows of the pictures")  # fmt: skip
        pictures = held(source, target)
        try:
            found = match(*pictures, points)
        except ValueError as error:
            raise ValueError(f"the pair of rows {source} and {target}: {error}") from error
        yield found


def _refuse(points: np.ndarray, good: np.ndarray, what: str, expected: str) -> None:
    bad = np.flatnonzero(~good)
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(points)} points are {what}, the first of them point "
                         f"{bad[0]}: {points[bad[0]].tolist()}; expected {expected}")  # fmt: skip


def _check_cells(source: Placed, target: Placed) -> None:
    if set(source.cells) != set(target.cells):
        raise ValueError(f"the source has the cells {list(source.cells)} and the target "
                         f"{list(target.cells)}; expected the same")  # fmt: skip
    for cell in source.cells:
        a, b = (len(one.maps[cell]) for one in (source, target))
        if a != b:
            raise ValueError(f"cell {cell} has {a} channels in the source and {b} in the target; "
                             "expected equally many")  # fmt: skip


def weights_of(weights: Any, cells: tuple[Any, ...]) -> dict[Any, float] | None:
    """Cell → weight, checked; None where there are none."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        if set(weights) != set(cells):
            raise ValueError(f"weights of {list(weights)}; expected those of {list(cells)}")
        weights = [weights[cell] for cell in cells]
    found = np.asarray(weights, np.float64)
    if found.shape != (len(cells),) or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"weights={weights!r}; expected {len(cells)} numbers >= 0, one a cell")
    if not found.any():
        raise ValueError("all weights are 0; expected one above 0")
    return dict(zip(cells, found.tolist(), strict=True))
