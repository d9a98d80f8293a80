"""Where points of one picture were found in another: lines, heat maps, what was carried over."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.viz.figures import save, shorten
from diffeat.viz.maps import DPI, GAP, HEAD, TOP, Tile, resized, sheet_of, tile_size
from diffeat.viz.scales import Scale, ink

if TYPE_CHECKING:
    from probes.pairs import Matches

RIGHT, WRONG, LOST = "#0072b2", "#d55e00", "#8c8c8c"
"""Blue, vermilion and grey, which nobody's eyes mix up; what is wrong is dashed as well."""
LABELS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442")
"""Of masks' labels from 1 on, over and over. Source: Okabe & Ito 2008, "Color universal design"."""
BACKGROUND, IGNORED = 0, 255
"""Labels through which the picture is seen."""
SIDE = 448
"""Pixels of a picture's longer side."""
ACROSS = 4
"""Heat maps in one line; more are wrapped."""
NUMBERED = 40
"""Points beyond which numbers would lie on one another."""
GREY, MASKED = 0.35, 0.6
"""What is seen of the picture under a heat map, and of a mask's colour over it."""
BELOW = 34
"""Pixels of what colours mean, at the bottom."""
LETTER, BOLD, LINE = 8, 9, 17
"""Pixels of a letter's width, of one of the headline's, and of a line of it."""


def match_lines(
    source: np.ndarray,
    target: np.ndarray,
    points: Any,
    matches: Matches,
    path: str | Path | IO[bytes],
    *,
    right: Any = None,
    truth: Any = None,
    title: str = "",
    names: tuple[str, str] = ("source", "target"),
    side: int = SIDE,
) -> None:
    """Write two pictures side by side with a line from each point to where it was found.

    Where it is known what is right, lines are blue, those that are wrong vermilion and dashed, with
    a ring where the point should have been found; elsewhere colours are scores, as the bar below
    says. What is not valid is a grey cross in the source. Up to `NUMBERED` points are numbered,
    from 1.

    Args:
        source, target: (H, W, 3) uint8, upright, of any two sizes.
        points: (n, 2) x, y in pixels of the source.
        matches: of these points, in pixels of the target.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        right: (n,) bool, such as a column of what `probes.metrics.PCK.update` returns.
        truth: (n, 2) where they should have been found; needs `right`.
        title: headline.
        names: of the two pictures.
        side: pixels at which their longer sides are shown.

    Raises:
        SpecError: arrays that do not fit together; a truth without `right`.
    """
    points, truth = _points(points, "points"), None if truth is None else _points(truth, "truth")
    right = None if right is None else np.asarray(right, bool)
    for what, values in (("matches", matches), ("right", right), ("truth", truth)):
        if values is not None and len(values) != len(points):
            raise SpecError(f"{len(values)} {what} for {len(points)} points; expected one for each")
    if truth is not None and right is None:
        raise SpecError("a truth without `right`; say which of the points are right")
    pair = _Pair(source, target, names, side, title)
    figure = sheet_of(pair.tiles, pair.title, BELOW)
    axis = sheet_axes(figure)
    found = np.flatnonzero(matches.valid)
    scale = Scale.of(matches.score[found])
    colours = scale.colours(matches.score)
    if right is not None:
        colours = [RIGHT if good else WRONG for good in right]
    starts, ends = pair.to_source(points), pair.to_target(matches.points)
    # the best on top
    for k in found[np.argsort(matches.score[found], kind="stable")]:
        wrong = right is not None and not right[k]
        _line(axis, starts[k], ends[k], colours[k], wrong, len(points))
        if wrong and truth is not None:
            _ring(axis, pair.to_target(truth[k : k + 1])[0], colours[k], count=len(points))
    for k, point in enumerate(starts):
        if matches.valid[k]:
            spot(axis, point, colours[k], k, len(points))
            spot(axis, ends[k], colours[k], k, len(points))
        else:
            _cross(axis, point, len(points))
    _legend(axis, pair.height, matches.valid, right, scale)
    save(figure, path, DPI)


def similarity_sheet(
    source: np.ndarray,
    target: np.ndarray,
    points: Any,
    maps: Any,
    path: str | Path | IO[bytes],
    *,
    truth: Any = None,
    title: str = "",
    names: tuple[str, str] = ("source", "target"),
    side: int = 256,
    across: int = ACROSS,
) -> None:
    """Write the source with points, and for each the target under its similarity to that point.

    All maps are on one scale, from dark to the yellow of the most like; a circle lies at each
    one's largest value, a ring where the point truly is.

    Args:
        source, target: (H, W, 3) uint8, upright.
        points: (n, 2) x, y in pixels of the source, at least one.
        maps: n arrays (H, W) of the target's size, such as `Matcher.similarity` gives; nan where
            nothing is known.
        path, title, names, side: as `match_lines` takes them.
        truth: (n, 2) x, y in pixels of the target.
        across: maps in one line.

    Raises:
        SpecError: arrays that do not fit together, no points.
    """
    points, truth = _points(points, "points"), None if truth is None else _points(truth, "truth")
    size, maps = target.shape[:2], [np.asarray(one) for one in maps]
    if not len(points) or any(
        values is not None and len(values) != len(points) for values in (maps, truth)
    ):
        raise SpecError(f"{len(points)} points, {len(maps)} maps; expected at least one point, "
                        "and a map (and a truth) for each")  # fmt: skip
    if wrong := [one.shape for one in maps if one.shape != size]:
        raise SpecError(f"a map is {wrong[0]}; expected {size}, the target's pixels")
    pair = _Pair(source, target, names, side, title, min(across, len(maps)))
    scale = Scale.of(np.concatenate([one.ravel() for one in maps]))
    tiles, spots = [pair.tiles[0]], []
    tile, step = pair.tiles[1], max(pair.tiles[1].pixels.shape[1], 150) + GAP
    grey = np.repeat(tile.pixels.mean(-1, keepdims=True), 3, -1)
    for k, one in enumerate(maps):
        down, right = divmod(k, across)
        best = _largest(one)
        head = f"{shorten(names[1], step // LETTER - 10)}, point {k + 1}"
        tiles.append(_heated(tile, grey, one, scale, head, best, right * step,
                             down * (tile.pixels.shape[0] + HEAD + GAP)))  # fmt: skip
        spots.append(None if best is None else np.array([best[::-1]], np.float64))
    figure = sheet_of(tiles, pair.title, BELOW)
    axis = sheet_axes(figure)
    for k, point in enumerate(pair.to_source(points)):
        spot(axis, point, RIGHT, k, len(points))
        if truth is not None:
            _ring(axis, _place(truth[k : k + 1], size, tiles[k + 1])[0], "white", "black")
        if spots[k] is not None:
            spot(axis, _place(spots[k], size, tiles[k + 1])[0], RIGHT, k, len(points))
    bottom = max(one.top + one.pixels.shape[0] for one in tiles)
    _bar(axis, GAP, bottom + GAP, scale, "similarity")
    save(figure, path, DPI)


def warp_sheet(
    source: np.ndarray,
    target: np.ndarray,
    path: str | Path | IO[bytes],
    *,
    warped: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    carried: np.ndarray | None = None,
    title: str = "",
    names: tuple[str, str] = ("source", "target"),
    side: int = SIDE,
) -> None:
    """Write two pictures, the source warped onto the target, and a mask that was carried over.

    Args:
        source, target: (H, W, 3) uint8, upright.
        path, title, names, side: as `match_lines` takes them.
        warped: (H, W, 3) uint8, the source's colours at the target's pixels.
        seen: (H, W) bool, where `warped` says anything; None: everywhere.
        labels: (h, w) whole numbers of the source's pixels, laid over it; 0 and 255 are not drawn.
        carried: (H, W) whole numbers of the target's pixels, laid over it.

    Raises:
        SpecError: arrays of other sizes than their pictures, nothing that was warped.
    """
    if warped is None and carried is None:
        raise SpecError("nothing to show; give `warped`, `carried` or both")
    for what, values, picture in (
        ("warped", warped, target), ("seen", seen, target),
        ("labels", labels, source), ("carried", carried, target),
    ):  # fmt: skip
        if values is not None and values.shape[:2] != picture.shape[:2]:
            raise SpecError(f"{what} is {values.shape[:2]}; expected {picture.shape[:2]}, the "
                            "pixels of its picture")  # fmt: skip
    more = 1 + (warped is not None) + (carried is not None)
    under = source if labels is None else mask_over(source, labels)
    pair = _Pair(under, target, names, side, title, more)
    shown: list[tuple[str, np.ndarray]] = []
    if warped is not None:
        hidden = np.zeros(target.shape[:2], bool) if seen is None else ~np.asarray(seen, bool)
        shown.append(("the source's colours\nat the target's pixels",
                      np.where(hidden[..., None], np.uint8(235), warped)))  # fmt: skip
    if carried is not None:
        shown.append(("the mask carried\nfrom source to target", mask_over(target, carried)))
    tiles, left = list(pair.tiles), pair.right
    for head, picture in shown:
        tile = pair.tiles[1].pixels.shape[:2]
        tiles.append(Tile(resized(picture, tile), head, left, pair.tiles[1].top))
        left += max(tile[1], 150) + GAP
    save(sheet_of(tiles, pair.title), path, DPI)


def mask_over(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A mask laid over its picture: colours of labels, through which the picture is seen.

    Args:
        picture: (H, W, 3) uint8.
        labels: (H, W) whole numbers or bool; 0 and 255 are not drawn.

    Returns:
        (H, W, 3) uint8.
    """
    labels = np.asarray(labels).astype(np.int64)
    drawn = (labels != BACKGROUND) & (labels != IGNORED)
    colours = np.array([_rgb(LABELS[k % len(LABELS)]) for k in range(len(LABELS))])
    laid = (1 - MASKED) * picture + MASKED * 255 * colours[(labels - 1) % len(LABELS)]
    return np.where(drawn[..., None], np.round(laid), picture).astype(np.uint8)


class _Pair:
    """Two pictures side by side, and where their pixels lie in the sheet.

    Args:
        source, target, names, side, title: as `match_lines` takes them.
        more: how often a picture of the target's size stands beside the source.
    """

    def __init__(self, source: np.ndarray, target: np.ndarray, names, side: int, title: str,
                 more: int = 1):  # fmt: skip
        for name, picture in (("source", source), ("target", target)):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise SpecError(f"the {name} is {picture.shape} of {picture.dtype}; expected "
                                "(H, W, 3) uint8")  # fmt: skip
        tiles = [tile_size(picture.shape[:2], side) for picture in (source, target)]
        steps = [max(tile[1], 150) + GAP for tile in tiles]
        lines = wrap(title, (steps[0] + more * steps[1]) // BOLD) or [""]
        self.title, top = "\n".join(lines), TOP + HEAD + LINE * (len(lines) - 1)
        self.tiles, self.right = [], GAP
        for name, picture, tile, step in zip(names, (source, target), tiles, steps, strict=True):
            head = f"{shorten(name, step // LETTER)}\n{picture.shape[1]}×{picture.shape[0]} pixels"
            self.tiles.append(Tile(resized(picture, tile), head, self.right, top))
            self.right += step
        self.sizes = source.shape[:2], target.shape[:2]

    @property
    def height(self) -> int:
        """Where the pictures end."""
        return max(tile.top + tile.pixels.shape[0] for tile in self.tiles)

    def to_source(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) pixels of the source → of the sheet."""
        return _place(points, self.sizes[0], self.tiles[0])

    def to_target(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) pixels of the target → of the sheet."""
        return _place(points, self.sizes[1], self.tiles[1])


def _place(points: np.ndarray, size: tuple[int, int], tile: Tile) -> np.ndarray:
    """(n, 2) pixels of a picture → of the sheet, from the edge of its first pixel."""
    scale = np.array([tile.pixels.shape[1] / size[1], tile.pixels.shape[0] / size[0]])
    return (points + 0.5) * scale + (tile.left, tile.top)


def _points(values: Any, name: str) -> np.ndarray:
    from probes.pairs import as_points

    try:
        return as_points(values)
    except ValueError as error:
        raise SpecError(f"{name}: {error}") from error


def sheet_axes(figure: Any) -> Any:
    """Axes over a whole sheet, in its pixels."""
    axis = figure.add_axes((0, 0, 1, 1), zorder=2)
    width, height = figure.get_size_inches() * DPI
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    axis.patch.set_visible(False)
    return axis


def _edge(width: float, colour: str = "white") -> dict[str, Any]:
    """White behind a line, so that it is seen on dark and on light."""
    from matplotlib.patheffects import Normal, Stroke

    return {"path_effects": [Stroke(linewidth=width, foreground=colour), Normal()]}


def _line(axis: Any, start, end, colour, wrong: bool, count: int) -> None:
    """Of many lines each is thin, so that the pictures are still seen."""
    looks = {"linewidth": 1.8, **_edge(3.4)} if count <= NUMBERED else {"linewidth": 0.6}
    style = (0, (4, 2)) if wrong else "solid"
    axis.plot(*zip(start, end, strict=True), color=colour, linestyle=style,
              alpha=1 if count <= NUMBERED else 0.4, solid_capstyle="butt", **looks)  # fmt: skip


def _cross(axis: Any, point, count: int = 1) -> None:
    size, width = (7, 2) if count <= NUMBERED else (3, 0.8)
    axis.plot(*point, "x", color=LOST, markersize=size, markeredgewidth=width, **_edge(width + 1.5))


def _ring(axis: Any, point, colour, edge: str = "white", count: int = 1) -> None:
    size, width = (13, 2) if count <= NUMBERED else (5, 0.8)
    axis.plot(*point, "o", markersize=size, markerfacecolor="none", markeredgecolor=colour,
              markeredgewidth=width, **_edge(1.8 * width, edge))  # fmt: skip


def spot(axis: Any, point, colour, place: int, count: int) -> None:
    """A dot, with its number from 1 if there are few."""
    size = 11 if count <= NUMBERED else 3
    axis.plot(*point, "o", markersize=size, markerfacecolor=colour, markeredgecolor="white",
              markeredgewidth=1 if count <= NUMBERED else 0.5)  # fmt: skip
    if count <= NUMBERED:
        axis.text(*point, str(place + 1), color=ink(_rgb(colour)), fontsize=6.5, weight="bold",
                  ha="center", va="center_baseline")  # fmt: skip


def _rgb(colour: Any) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.array(to_rgb(colour))


def _heated(tile: Tile, grey, values, scale: Scale, name: str, best, left: int, top: int) -> Tile:
    """The target under one map, moved within the sheet."""
    pixels = np.round(255 * scale.colours(values)[..., :3]).astype(np.uint8)
    laid = GREY * grey + (1 - GREY) * resized(pixels, tile.pixels.shape[:2])
    told = "nothing known"
    if best is not None:
        told = f"{values[best]:.3g} at {best[1]}, {best[0]}"
    return Tile(
        np.round(laid).astype(np.uint8), f"{name}\n{told}", tile.left + left, tile.top + top
    )


def _largest(values: np.ndarray) -> tuple[int, ...] | None:
    """Row and column of the largest; None where all are nan."""
    known = np.where(np.isfinite(values), values, -np.inf)
    best = np.unravel_index(int(known.argmax()), values.shape)
    return tuple(int(k) for k in best) if np.isfinite(known[best]) else None


def _legend(axis: Any, bottom: int, valid: np.ndarray, right, scale: Scale) -> None:
    """What the colours mean, and how many there are of each."""
    left, middle = GAP, bottom + GAP + 10
    parts: list[tuple[str, str, Any]] = []
    if right is None:
        if valid.any():
            left = _bar(axis, left, bottom + GAP, scale, "score")
    else:
        good, bad = int((right & valid).sum()), int((~right & valid).sum())
        parts = [(RIGHT, f"{good} right", "solid"), (WRONG, f"{bad} wrong", (0, (4, 2)))]
    for colour, text, style in parts:
        axis.plot([left, left + 28], [middle] * 2, color=colour, linewidth=2, linestyle=style)
        axis.text(left + 33, middle, text, fontsize=9, va="center")
        left += 50 + 7 * len(text)
    if lost := int((~valid).sum()):
        _cross(axis, (left + 8, middle))
        axis.text(left + 18, middle, f"{lost} not valid", fontsize=9, va="center")


def _bar(axis: Any, left: float, top: float, scale: Scale, what: str) -> float:
    """A scale as a strip with its ends and middle; where it ends."""
    axis.text(left, top + 6, what, fontsize=9, va="center")
    left += 7 * len(what) + 8
    places = [1.0] if scale.constant else [0.0, 0.5, 1.0]
    strip = Scale(0, 1).colours(np.linspace(0, 1, 128))[None]
    axis.imshow(strip[:, -1:] if scale.constant else strip, aspect="auto", zorder=1,
                extent=(left, left + 160, top + 12, top), interpolation="nearest")  # fmt: skip
    for place in places:
        axis.text(left + 160 * place, top + 15, f"{scale.value(place):.3g}", fontsize=7.5,
                  va="top", ha="center")  # fmt: skip
    width, height = axis.figure.get_size_inches() * DPI
    axis.set(xlim=(0, width), ylim=(height, 0))
    return left + 190
