"""Masks of classes: their colours, laid over pictures, with a legend; sheets of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.viz.figures import save, shorten
from diffeat.viz.maps import DPI, GAP, TOP, Tile, resized, sheet_of, tile_size
from diffeat.viz.matches import GREY, LABELS, LETTER, LINE
from diffeat.viz.scales import colour_map

BACKGROUNDS = ("background", "unlabeled", "unlabelled", "void")
"""Names of classes that are no thing: they are grey, and the picture is seen through them."""
BEHIND, UNKNOWN = (96, 96, 96), (255, 255, 255)
"""Colour of such a class, and of what is ignored."""
SHARE, HEATED = 0.55, 0.65
"""What a class's colour, or a number's, counts beside the picture under it."""
LEVELS = 11
"""Of red, green and blue, of which further colours are chosen."""
LIGHTNESS = (28.0, 92.0)
"""CIE L* of these: neither black nor white, which say something else."""
COLOUR_BLIND = (
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
     (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
     (-0.011820, 0.042940, 0.968881)),
)  # fmt: skip
"""What eyes without red and without green cones make of linear RGB. Source: Machado, Oliveira and
Fernandes 2009, severity 1."""
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
          (0.0193339, 0.1191920, 0.9503041))  # fmt: skip
WHITE = (0.95047, 1.0, 1.08883)
BOX, TEXT = 12, 12
"""Pixels of a legend's boxes and letters."""
HEADING, TITLE, NARROWEST = 13, 15, 150
"""Pixels of a sheet's letters, of those of its headline, and of its columns at least."""
Columns = Mapping[str, np.ndarray]


def distinct_colours(count: int) -> np.ndarray:
    """(K, 3) uint8 colours that are told apart, also by those who lack red or green cones.

    The first seven are Okabe and Ito's. Each further one is that of a grid of RGB which lies
    farthest from all before it, by the smallest of three distances in CIE Lab: as most see them,
    and as those without red or green cones do. So those of fewer classes are those of more,
    cut off. Where the grid is used up, they begin again.

    Args:
        count: K, at least 0.
    """
    found = _distinct(256 if count <= 256 else 1024)
    return found[np.arange(count) % len(found)]


@lru_cache(maxsize=2)
def _distinct(count: int) -> np.ndarray:
    first = np.array([[int(code[k : k + 2], 16) for k in (1, 3, 5)] for code in LABELS], np.uint8)
    steps = np.linspace(0, 255, LEVELS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    light = _seen(grid)[0, :, 0]
    grid = grid[(light > LIGHTNESS[0]) & (light < LIGHTNESS[1])]
    places = _seen(grid)  # (3, n, 3)
    behind = np.array([BEHIND], np.uint8)
    near = _apart(places, _seen(np.concatenate([first, behind])))
    chosen = list(first)
    while len(chosen) < count and near.max() > 0:
        best = int(near.round(3).argmax())
        chosen.append(grid[best])
        near = np.minimum(near, _apart(places, places[:, best : best + 1]))
    return np.array(chosen[:count], np.uint8)


def _seen(colours: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 → (3, n, 3) CIE Lab: as most see them, without red, without green cones."""
    plain = colours / 255.0
    linear = np.where(plain <= 0.04045, plain / 12.92, ((plain + 0.055) / 1.055) ** 2.4)
    views = [np.clip(linear @ np.array(matrix).T, 0, 1) for matrix in COLOUR_BLIND]
    xyz = np.stack([linear, *views]) @ np.array(TO_XYZ).T / WHITE
    cubes = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(cubes, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _apart(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) smallest distance to any of some others, by the view in which it is smallest."""
    return np.sqrt(np.square(places[:, :, None] - others[:, None]).sum(-1)).min((0, 2))


def class_colours(names: Sequence[str], given: Any = None) -> np.ndarray:
    """(K, 3) uint8 colours of classes: those of their data set, where it has any.

    Args:
        names: K names; those of `BACKGROUNDS` are grey.
        given: (K, 3) whole numbers in 0 … 255; None chooses them (`distinct_colours`).

    Raises:
        SpecError: another number of colours than of classes, or no colours.
    """
    if given is not None:
        found = np.asarray(given)
        good = found.shape == (len(names), 3) and found.dtype.kind in "iu"
        if not good or found.min(initial=0) < 0 or found.max(initial=0) > 255:
            raise SpecError(f"a palette of shape {found.shape}; expected {len(names)} colours of "
                            "three whole numbers in 0 … 255")  # fmt: skip
        return found.astype(np.uint8)
    behind = np.array([str(name).lower() in BACKGROUNDS for name in names], bool)
    found = np.empty((len(names), 3), np.uint8)
    found[behind] = BEHIND
    found[~behind] = distinct_colours(int((~behind).sum()))
    return found


def coloured(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(H, W) class indices → (H, W, 3) uint8; what is no class is white."""
    labels = np.asarray(labels).astype(np.int64)
    table = np.concatenate([colours, [UNKNOWN]]).astype(np.uint8)
    return table[np.where((labels >= 0) & (labels < len(colours)), labels, len(colours))]


def class_overlay(
    picture: np.ndarray,
    labels: np.ndarray,
    colours: np.ndarray,
    clear: Iterable[int] = (),
    share: float = SHARE,
) -> np.ndarray:
    """A picture under the colours of its classes, with their edges in full colour.

    Args:
        picture: (H, W, 3) uint8.
        labels: (H, W) class indices; what is no class is not drawn.
        colours: (K, 3) uint8.
        clear: classes through which the picture is seen as it is.
        share: what a colour counts beside the picture.

    Returns:
        (H, W, 3) uint8.

    Raises:
        SpecError: labels of another size than the picture.
    """
    labels = _fitting(labels, picture, "mask").astype(np.int64)
    drawn = (labels >= 0) & (labels < len(colours)) & ~np.isin(labels, list(clear))
    solid = coloured(labels, colours)
    width = max(1, round(max(labels.shape) / 500))
    weight = np.where(edges(labels, width), 1.0, share)[..., None] * drawn[..., None]
    return np.round(picture + weight * (solid.astype(np.float32) - picture)).astype(np.uint8)


def edges(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """(H, W) bool: which pixels have another label within so many pixels right, left, above or
    below."""
    found = np.zeros(labels.shape, bool)
    for step in range(1, width + 1):
        down = labels[step:] != labels[:-step]
        across = labels[:, step:] != labels[:, :-step]
        found[step:] |= down
        found[:-step] |= down
        found[:, step:] |= across
        found[:, :-step] |= across
    return found


def heat(
    values: np.ndarray, low: float, high: float, picture: np.ndarray | None = None,
    colours: str = "magma",
) -> np.ndarray:  # fmt: skip
    """(H, W) numbers as colours from dark to light, over a grey picture where one is given.

    Args:
        values: (H, W) floating point; nan is grey.
        low, high: what the ends of the scale stand for.
        picture: (H, W, 3) uint8.
        colours: a colour map of matplotlib.

    Returns:
        (H, W, 3) uint8.
    """
    values = np.asarray(values, np.float32)
    places = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    found = 255 * colour_map(colours)(np.ma.masked_invalid(places))[..., :3]
    if picture is not None:
        grey = _fitting(picture, values, "picture").mean(-1, keepdims=True)
        found = HEATED * found + GREY * grey
    return np.round(found).astype(np.uint8)


def _fitting(one: np.ndarray, other: np.ndarray, name: str) -> np.ndarray:
    if one.shape[:2] != other.shape[:2]:
        raise SpecError(f"the {name} is {one.shape[0]}×{one.shape[1]}; expected "
                        f"{other.shape[0]}×{other.shape[1]}")  # fmt: skip
    return one


def legend(entries: Sequence[tuple[Any, str]], width: int, scale: float = 1.0) -> np.ndarray:
    """Boxes of colours with what they stand for, in as many lines as they need.

    Args:
        entries: pairs of three numbers in 0 … 255, or None for no box, and text.
        width: pixels.
        scale: of boxes and letters.

    Returns:
        (h, width, 3) uint8, white; h is 0 of no entries.
    """
    from PIL import Image, ImageDraw

    font, box, gap = _font(round(TEXT * scale)), round(BOX * scale), round(6 * scale)
    line, spots, x, y = box + 2 * gap, [], gap, gap
    for colour, text in entries:
        text = _cut(text, font, width - box - 4 * gap)
        wide = round(font.getlength(text)) + gap + (0 if colour is None else box + gap)
        if x > gap and x + wide > width:
            x, y = gap, y + line
        spots.append((x, y, colour, text))
        x += wide + gap
    if not spots:
        return np.empty((0, width, 3), np.uint8)
    image = Image.new("RGB", (width, y + box + gap), "white")
    draw = ImageDraw.Draw(image)
    for x, y, colour, text in spots:
        if colour is not None:
            fill = tuple(int(part) for part in colour)
            draw.rectangle((x, y, x + box, y + box), fill=fill, outline="black")
            x += box + gap
        draw.text((x, y + box / 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(image)


def _cut(text: str, font: Any, width: float) -> str:
    """A text, cut off where it is wider than there is room."""
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """Lines of words that fit a width; a word that is wider by itself is cut off."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += [_cut(word, font, width)]
    return lines if lines[0] else lines[1:] or lines


@lru_cache(maxsize=16)
def _font(size: int, bold: bool = False) -> Any:
    """The letters of matplotlib's figures, which know more scripts than Pillow's own."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = f"DejaVuSans{'-Bold' * bold}.ttf"
    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf" / name, max(6, size))


def with_legend(picture: np.ndarray, entries: Sequence[tuple[Any, str]]) -> np.ndarray:
    """A picture over what its colours mean, at least 200 pixels wide."""
    height, width = picture.shape[:2]
    wide = max(width, 200)
    below = legend(entries, wide, max(1.0, max(height, width) / 640))
    sheet = np.full((height + len(below), wide, 3), 255, np.uint8)
    sheet[:height, :width] = picture
    sheet[height:] = below
    return sheet


def class_entries(
    shares: Sequence[float], names: Sequence[str], colours: np.ndarray, least: float = 0.0005
) -> list[tuple[Any, str]]:
    """A legend's entries of the classes that are there, the largest first: "car 31.2 %".

    Args:
        shares: (K,) of the picture.
        least: share below which a class is left out.
    """
    shares = np.asarray(shares, np.float64)
    order = np.argsort(-shares, kind="stable")
    return [(colours[k], f"{names[k]} {100 * shares[k]:.1f} %") for k in order
            if shares[k] >= least]  # fmt: skip


def mask_sheet(
    rows: Sequence[Columns],
    path: str | Path | IO[bytes],
    *,
    names: Sequence[str] = (),
    colours: Any = None,
    heads: Sequence[str] = (),
    limits: Mapping[str, tuple[float, float]] | None = None,
    units: Mapping[str, str] | None = None,
    notes: Sequence[Mapping[str, str]] = (),
    title: str = "",
    side: int = 240,
) -> None:
    """Write a row per picture: what was put in, what is true, what was predicted, how sure.

    What an array is says how it is drawn: (H, W, 3) uint8 is a picture, (H, W) whole numbers are
    classes, (H, W) floating-point numbers are colours from dark to light, on one scale for a
    column (nan is grey).

    Args:
        rows: for each picture heading → array, such as input, truth, prediction, uncertainty.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        names: of the K classes, for the legend; of those that occur.
        colours: (K, 3); None chooses them.
        heads: names of the pictures.
        limits: heading → ends of its scale; None: those of its numbers.
        units: heading → what its numbers are in, such as "m".
        notes: for each picture heading → a word over that tile, such as "mIoU 61.0 %".
        title: headline.
        side: pixels at which longer sides are shown.

    Raises:
        SpecError: no rows, or arrays that are none of these.
    """
    if not rows or not all(rows):
        raise SpecError("no pictures to show; expected one row at least")
    table = class_colours(names, colours) if len(names) else np.empty((0, 3), np.uint8)
    limits = {**_limits(rows), **(limits or {})}
    units, used, tiles = units or {}, set(), []
    columns = list(dict.fromkeys(heading for row in rows for heading in row))
    sizes = [tile_size(next(iter(row.values())).shape[:2], side) for row in rows]
    wide = max(NARROWEST, *(width for _, width in sizes))
    lines = _wrapped(title, _font(TITLE, bold=True), len(columns) * (wide + GAP) - GAP)
    top = TOP + LINE * (len(lines) - 1)
    for k, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        heads_of = {}
        for heading in row:
            named = heading == columns[0] and k < len(heads) and shorten(heads[k], wide // LETTER)
            note = named or (notes[k].get(heading, "") if k < len(notes) else "")
            scale = _scale_text(limits.get(heading), units.get(heading, ""))
            heads_of[heading] = [line for text in (note, heading, scale) if text
                                 for line in _wrapped(text, _font(HEADING), wide)]  # fmt: skip
        top += LINE * max(map(len, heads_of.values()))
        for at, heading in enumerate(columns):
            if heading in row:
                pixels = _drawn(row[heading], table, limits.get(heading), used)
                head, left = "\n".join(heads_of[heading]), GAP + at * (wide + GAP)
                tiles.append(Tile(resized(pixels, size), head, left, top))
        top += size[0] + GAP
    if used:
        below = legend([(table[k], names[k]) for k in sorted(used)], len(columns) * (wide + GAP))
        tiles.append(Tile(below, "", GAP, top))
    save(sheet_of(tiles, "\n".join(lines)), path, DPI)


def _limits(rows: Sequence[Columns]) -> dict[str, tuple[float, float]]:
    """Heading → smallest and largest number of its column, where it holds numbers."""
    found: dict[str, tuple[float, float]] = {}
    for row in rows:
        for heading, values in row.items():
            values = np.asarray(values)
            if values.dtype.kind != "f" or not np.isfinite(values).any():
                continue
            low, high = float(np.nanmin(values)), float(np.nanmax(values))
            old = found.get(heading, (low, high))
            found[heading] = min(low, old[0]), max(high, old[1])
    return found


def _drawn(values: Any, colours: np.ndarray, limits: Any, used: set[int]) -> np.ndarray:
    """(H, W, 3) uint8 of one tile; notes which classes occur."""
    values = np.asarray(values)
    if values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8:
        return values
    if values.ndim == 2 and values.dtype.kind in "iub":
        used |= {int(k) for k in np.unique(values) if 0 <= k < len(colours)}
        return coloured(values, colours)
    if values.ndim == 2 and values.dtype.kind == "f":
        return heat(values, *(limits or (0.0, 1.0)))
    raise SpecError(f"an array of {values.dtype}, shape {values.shape}; expected a picture "
                    "(H, W, 3) uint8, classes or numbers (H, W)")  # fmt: skip


def _scale_text(limits: tuple[float, float] | None, unit: str) -> str:
    """What the ends of a column's colours stand for; nothing of a column without numbers."""
    return "" if limits is None else f"{limits[0]:.3g} … {limits[1]:.3g} {unit}".rstrip()
