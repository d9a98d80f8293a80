"""Feature maps in colours, beside and on the pictures that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.coords import Placement, to_input, to_picture, to_site
from diffeat.viz.figures import new_figure, save, shorten
from diffeat.viz.scales import colour_map

SIDE = 192
"""Pixels of a picture's longer side: 2^6 · 3, so that the cells of most maps are whole pixels."""
ACROSS = 6
"""Maps in one line of a sheet; more are wrapped."""
GAP, HEAD, TOP = 10, 32, 28
"""Pixels between tiles, of the two lines of text above each, and of the headline."""
DPI = 100
FAINT = 0.3
"""What stays of a picture where the network did not see it."""
STATIC = 0.3
"""Maps whose neighbouring cells agree less than this show noise and no picture."""


def pca_rgb(maps: np.ndarray) -> np.ndarray:
    """Show feature maps as colours: their first three principal components as R, G and B.

    The components are fitted on the cells of all maps together, so that one colour means the
    same in every picture; each is scaled so that its 1st to 99th percentile fills [0, 1].

    Args:
        maps: (N, C, H, W) floating point.

    Returns:
        (N, H, W, 3) float32 in [0, 1].
    """
    from sklearn.decomposition import PCA

    count, channels, height, width = maps.shape
    cells = maps.astype(np.float32).transpose(0, 2, 3, 1).reshape(-1, channels)
    colours = np.full((len(cells), 3), 0.5, np.float32)
    if np.ptp(cells, axis=0).max() == 0:  # nothing varies, so there are no components
        return colours.reshape(count, height, width, 3)
    wanted = min(3, channels, len(cells))
    solver = "full" if min(cells.shape) < 500 else "covariance_eigh"
    parts = PCA(wanted, svd_solver=solver).fit_transform(cells)
    # signs of components are arbitrary: the longer tail is made positive
    parts *= np.where(np.abs(parts.max(0)) >= np.abs(parts.min(0)), 1, -1)
    low, high = np.percentile(parts, [1, 99], axis=0)
    scaled = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    colours[:, :wanted] = scaled
    return colours.reshape(count, height, width, 3)


def channel_rgb(maps: np.ndarray, channel: int) -> np.ndarray:
    """Show one channel, its 1st to 99th percentile over all maps from dark to yellow.

    Args:
        maps: (N, C, H, W) floating point.
        channel: which, from 0.

    Returns:
        (N, H, W, 3) float32 in [0, 1].
    """
    values = maps[:, channel].astype(np.float32)
    low, high = np.percentile(values, [1, 99])
    places = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return colour_map()(places)[..., :3].astype(np.float32)


def agreement(colours: np.ndarray) -> float:
    """How far neighbouring cells agree: 1 in a smooth picture, 0 in static; nan of single cells.

        1 - mean (a - b)^2 / (2 · variance)   over pairs of neighbours a, b, mean over colours

    Args:
        colours: (N, H, W, 3), such as `pca_rgb` gives.
    """
    variance = colours.var((0, 1, 2))  # (3,)
    steps = [np.diff(colours, axis=axis).reshape(-1, 3) ** 2 for axis in (1, 2)]
    pairs = np.concatenate(steps)
    if not len(pairs) or not variance.max() > 0:
        return float("nan")
    seen = variance > 1e-12
    return float((1 - pairs.mean(0)[seen] / (2 * variance[seen])).mean())


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, with its two lines of text and where it stands in the figure.

    Attributes:
        pixels: (H, W, 3) uint8.
        head: the lines above it.
        left, top: pixels of its corner in the sheet.
    """

    pixels: np.ndarray
    head: str
    left: int
    top: int


def feature_sheet(
    originals: Sequence[np.ndarray | None],
    columns: dict[str, np.ndarray],
    names: Sequence[str],
    path: str | Path,
    title: str = "",
    saw: Sequence[np.ndarray | None] | None = None,
    placements: Sequence[Placement | None] | None = None,
    smooth: bool = False,
    colours: Callable[[np.ndarray], np.ndarray] = pca_rgb,
    across: int = ACROSS,
    side: int = SIDE,
) -> None:
    """Write a picture with a row per picture: as it is, as the network saw it, then each map.

    A map lies on its picture: cell k covers what its pixels of the input show, so the same place
    is at the same place of every tile. What a crop cut off is faint; padding is cut away. Cells
    stay squares with edges, unless `smooth`.

    Args:
        originals: N pictures (H, W, 3) uint8, at their own resolution; None of what is not there.
        columns: heading → (N, C, H, W) maps.
        names: N picture names.
        path: the picture; its suffix says the format (PNG without one).
        title: headline.
        saw: N inputs of the network (H, W, 3) uint8; None leaves them out.
        placements: of N inputs in their pictures; None: the whole picture, squashed.
        smooth: whether maps are interpolated between the centres of their cells.
        colours: (N, C, H, W) maps → (N, H, W, 3) in [0, 1].
        across: maps in one line.
        side: pixels of a picture's longer side.
    """
    shown = {heading: colours(maps) for heading, maps in columns.items()}
    tiles, top = [], TOP
    rows = zip(originals, names, saw or [None] * len(names), placements or [None] * len(names),
               strict=True)  # fmt: skip
    for row, (picture, name, given, placement) in enumerate(rows):
        maps = [(_heading(head, columns[head]), one[row]) for head, one in shown.items()]
        line = list(_line(picture, name, given, placement, maps, smooth, across, side))
        tiles += [Tile(t.pixels, t.head, t.left, t.top + top) for t in line]
        top = max(tile.top + tile.pixels.shape[0] for tile in tiles) + GAP
    save(sheet_of(tiles, title), path, DPI)


def _heading(heading: str, maps: np.ndarray) -> str:
    """Two lines: block and t, then channels and cells."""
    return f"{shorten(heading, 27)}\n{maps.shape[1]}@{maps.shape[2]}×{maps.shape[3]}"


def _line(
    picture, name: str, given, placement, maps, smooth: bool, across: int, side: int
) -> Iterator[Tile]:
    """The tiles of one picture, from the top left corner of its row."""
    size = _shape(picture, given, placement, maps)
    tile = tile_size(size, side)
    under = None if picture is None else resized(picture, tile)
    left, step = GAP, max(tile[1], 150) + GAP
    told = (
        f"{size[1]}×{size[0]} pixels" if picture is not None or given is not None else "not found"
    )
    head = f"{shorten(name, step // 7)}\n{told}"
    if under is not None or given is None:
        yield Tile(_blank(tile) if under is None else under, head, left, HEAD)
        left += step
    if given is not None:
        own = tile_size(given.shape[:2], side)
        if own[0] > tile[0]:  # no higher than its neighbours
            own = tile_size(given.shape[:2], max(1, side * tile[0] // own[0]))
        seen = f"the network saw\n{given.shape[1]}×{given.shape[0]} pixels"
        yield Tile(resized(given, own), head if under is None else seen, left, HEAD)
        left += max(own[1], 150) + GAP
    for k, (text, cells) in enumerate(maps):
        down, right = divmod(k, across)
        at = left + right * step, HEAD + down * (tile[0] + HEAD + GAP)
        yield Tile(laid(cells, tile, size, placement, under, smooth), text, *at)


def _shape(picture, given, placement, maps) -> tuple[int, int]:
    """(H, W) of a picture, as far as anything tells."""
    if picture is not None:
        return picture.shape[:2]
    if placement is not None:
        return placement.picture_size
    return given.shape[:2] if given is not None else maps[0][1].shape[:2]


def tile_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(H, W) at which a picture is shown: a whole multiple of a small one."""
    longest = max(size)
    if longest <= side:
        times = side // longest
        return size[0] * times, size[1] * times
    height, width = (max(1, round(one * side / longest)) for one in size)
    return height, width


def _blank(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 235, np.uint8)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another size: pixels as squares where it grows by a whole number."""
    from PIL import Image

    whole = all(new % old == 0 for new, old in zip(size, picture.shape[:2], strict=True))
    method = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), method))


def laid(
    colours: np.ndarray,
    tile: tuple[int, int],
    size: tuple[int, int],
    placement: Placement | None = None,
    under: np.ndarray | None = None,
    smooth: bool = False,
) -> np.ndarray:
    """A map at the place of its picture where its input was.

    Args:
        colours: (h, w, 3) of the map's cells, in [0, 1].
        tile: (H, W) of the result in pixels; it shows the whole picture.
        size: (H, W) of the picture in pixels.
        placement: of the input in the picture; None: the whole picture, squashed.
        under: (H, W, 3) uint8, the picture at that size, faint where the input does not reach.
        smooth: interpolated between centres of cells, linearly.

    Returns:
        (H, W, 3) uint8.
    """
    placement = placement or Placement.of_fit(size, size)
    sides = (
        (tile[0], size[0], placement.sy, placement.ty, placement.input_size[0], colours.shape[0]),
        (tile[1], size[1], placement.sx, placement.tx, placement.input_size[1], colours.shape[1]),
    )
    (down, row_seen), (across, column_seen) = (_weights(*side, smooth) for side in sides)
    found = np.einsum("yi,ijc,xj->yxc", down, colours, across, optimize=True)
    pixels = np.round(255 * np.clip(found, 0, 1)).astype(np.uint8)
    behind = _blank(tile) if under is None else (255 - FAINT * (255.0 - under)).astype(np.uint8)
    return np.where((row_seen[:, None] & column_seen)[..., None], pixels, behind)


def _weights(
    pixels: int, side: int, s: float, t: float, inputs: int, cells: int, smooth: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, cells) weights of one side of a tile, and which of its pixels the input shows."""
    per_pixel = abs(s) * side / pixels * cells / inputs
    parts = max(1, int(np.ceil(per_pixel)))  # of a pixel, so that a finer map is averaged
    # a tile is its picture, scaled
    x = to_picture((np.arange(pixels * parts) + 0.5) / parts - 0.5, pixels / side, 0.0)
    u = to_input(x, s, t)
    k = np.clip(to_site(u, inputs, cells), 0, cells - 1)
    weights, rows = np.zeros((len(k), cells), np.float32), np.arange(len(k))
    if smooth:
        low = np.floor(k).astype(int)
        weights[rows, low] += 1 - (k - low)
        weights[rows, np.minimum(low + 1, cells - 1)] += k - low
    else:
        weights[rows, np.floor(k + 0.5).astype(int)] = 1
    seen = (u >= -0.5) & (u <= inputs - 0.5)
    weights = weights.reshape(pixels, parts, cells).mean(1)
    return weights, seen.reshape(pixels, parts).mean(1) >= 0.5


def sheet_of(tiles: Sequence[Tile], title: str, below: int = 0) -> Any:
    """A figure that is one raster, pixel by pixel at `DPI`, with letters on it.

    Args:
        tiles: at least one.
        title: headline.
        below: pixels of room at the bottom.
    """
    width = max(tile.left + max(tile.pixels.shape[1], 150) for tile in tiles) + GAP
    height = max(tile.top + tile.pixels.shape[0] for tile in tiles) + GAP + below
    sheet = np.full((height, width, 3), 255, np.uint8)
    for tile in tiles:
        rows, columns = tile.pixels.shape[:2]
        sheet[tile.top : tile.top + rows, tile.left : tile.left + columns] = tile.pixels
    figure = new_figure((width / DPI, height / DPI))
    figure.set_layout_engine("none")
    figure.figimage(sheet, 0, 0, origin="upper")
    for tile in tiles:
        figure.text(tile.left / width, 1 - (tile.top - 4) / height, tile.head, fontsize=9,
                    va="bottom", linespacing=1.1, parse_math=False)  # fmt: skip
    figure.text(GAP / width, 1 - 8 / height, title, fontsize=10.5, va="top", weight="bold",
                parse_math=False)  # fmt: skip
    return figure
