"""Where an input lies in its picture: picture pixels ↔ input pixels ↔ sites of a map.

Pixels have their centres at whole numbers, so a picture of W columns spans −.5 … W−.5 (upright,
after EXIF). For one side, and likewise for the other:

    u = sx·(x + .5) + tx − .5        picture pixel x → input pixel u; sx < 0 is mirrored
    k = (u + .5)·g/U − .5            input pixel u → site k of a map with g columns over U pixels

Every fit keeps to it; (sx, tx, sy, ty) and the two sizes are all that must be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.errors import SpecError

FITS = ("squash", "crop", "box-crop", "pad", "native")
EDGE = 1e-6
"""Pixels by which a point may lie outside an edge and still count as on it: rounding errors."""
Size = tuple[int, int]
"""(H, W)."""


# the rule, for one side; numbers or arrays


def to_input(x: Any, s: float, t: float) -> Any:
    """Picture pixel → input pixel: u = s·(x + .5) + t − .5.

    Args:
        x: pixels of the picture, from 0 at a pixel's centre; s, t: of its placement.

    Returns:
        Pixels of the input.
    """
    return s * (x + 0.5) + t - 0.5


def to_picture(u: Any, s: float, t: float) -> Any:
    """Input pixel → picture pixel: x = (u + .5 − t)/s − .5.

    Args:
        u: pixels of the input; s, t: of its placement.

    Returns:
        Pixels of the picture.
    """
    return (u + 0.5 - t) / s - 0.5


def to_site(u: Any, pixels: int, cells: int) -> Any:
    """Input pixel → site of a map: k = (u + .5)·cells/pixels − .5.

    Args:
        u: pixels of the input; pixels, cells: sides of the input and of the map.

    Returns:
        Sites of the map, from 0 at a site's centre.
    """
    return (u + 0.5) * cells / pixels - 0.5


def from_site(k: Any, pixels: int, cells: int) -> Any:
    """Site of a map → input pixel: u = (k + .5)·pixels/cells − .5.

    Args:
        k: sites of the map; pixels, cells: sides of the input and of the map.

    Returns:
        Pixels of the input.
    """
    return (k + 0.5) * pixels / cells - 0.5


def _real_cells(start: int, length: int, pixels: int, cells: int) -> np.ndarray:
    """(cells,) bool: start − .5 ≤ from_site(k) ≤ start + length − .5.

    In whole numbers, because strides such as 50/7 are not exact.
    """
    centres = (2 * np.arange(cells, dtype=np.int64) + 1) * pixels  # in pixels / (2·cells)
    return (2 * cells * start <= centres) & (centres <= 2 * cells * (start + length))


# placements


@dataclass(frozen=True)
class Placement:
    """Where one input lies in its picture.

    Attributes:
        sx, tx, sy, ty: picture pixel (x, y) lies at input pixel (sx·(x+.5)+tx−.5,
            sy·(y+.5)+ty−.5); sx < 0 where the input is mirrored, sy > 0.
        input_size: (H, W) of the input in pixels.
        picture_size: (H, W) of the upright picture in pixels.
    """

    sx: float
    tx: float
    sy: float
    ty: float
    input_size: Size
    picture_size: Size

    @classmethod
    def of_fit(
        cls, picture_size: Size, input_size: Size, fit: str = "squash", mirror: bool = False
    ) -> Placement:
        """The placement that `diffeat.images.fit_picture` brings about; see `fit_numbers`."""
        numbers = fit_numbers(picture_size, input_size, fit, mirror)
        return cls.of_numbers(numbers, input_size, picture_size)

    @classmethod
    def of_numbers(cls, numbers: Any, input_size: Size | None, picture_size: Size) -> Placement:
        """That of (4,) sx, tx, sy, ty, such as a row of a file's `/placements`.

        Without an input size the input has one of its own, and shows the whole picture (fit
        "native").
        """
        if input_size is None:
            input_size = np.rint(np.asarray(picture_size) * np.abs(np.asarray(numbers)[[2, 0]]))
        sizes = (tuple(int(side) for side in size) for size in (input_size, picture_size))
        return cls(*(float(number) for number in numbers), *sizes)

    @property
    def numbers(self) -> np.ndarray:
        """(4,) float64: sx, tx, sy, ty."""
        return np.array([self.sx, self.tx, self.sy, self.ty])

    def to_input(self, points: Any) -> np.ndarray:
        """Picture pixels → input pixels.

        Args:
            points: (n, 2) x, y.

        Returns:
            (n, 2) float64 x, y; also of points that the input does not show (see `valid`).

        Raises:
            SpecError: `points` is no (n, 2) array of numbers.
        """
        x, y = _columns(points)
        return np.stack([to_input(x, self.sx, self.tx), to_input(y, self.sy, self.ty)], 1)

    def to_picture(self, points: Any) -> np.ndarray:
        """(n, 2) x, y in input pixels → picture pixels, float64; the inverse of `to_input`."""
        u, v = _columns(points)
        return np.stack([to_picture(u, self.sx, self.tx), to_picture(v, self.sy, self.ty)], 1)

    def to_map(self, points: Any, grid: Size) -> np.ndarray:
        """Picture pixels → sites of a map over the whole input.

        Args:
            points: (n, 2) x, y in picture pixels.
            grid: (h, w) of the map in cells.

        Returns:
            (n, 2) float64: column and row, cells having their centres at whole numbers.
        """
        u, v = self.to_input(points).T
        height, width = self.input_size
        return np.stack([to_site(u, width, grid[1]), to_site(v, height, grid[0])], 1)

    def from_map(self, sites: Any, grid: Size) -> np.ndarray:
        """(n, 2) columns and rows of a map → x, y in picture pixels; the inverse of `to_map`."""
        columns, rows = _columns(sites)
        height, width = self.input_size
        found = [from_site(columns, width, grid[1]), from_site(rows, height, grid[0])]
        return self.to_picture(np.stack(found, 1))

    def valid(self, points: Any) -> np.ndarray:
        """Which points lie in the picture and in what the input shows of it.

        A point in the picture that a crop cut off is not valid. Edges belong to it.

        Args:
            points: (n, 2) x, y in picture pixels.

        Returns:
            (n,) bool; False for nan.
        """
        x, y = _columns(points)
        u, v = self.to_input(points).T
        (rows, columns), (height, width) = self.picture_size, self.input_size
        sides = ((x, columns), (y, rows), (u, width), (v, height))
        inside = [(at >= -0.5 - EDGE) & (at <= side - 0.5 + EDGE) for at, side in sides]
        return np.logical_and.reduce(inside)

    def view(self, top: int, left: int, size: Size, mirrored: bool = False) -> Placement:
        """The placement of a part of this input, such as a tile, mirrored where that is asked.

        Args:
            top, left: where the part begins, in pixels of this input.
            size: (H, W) of the part in pixels.
            mirrored: whether the part is mirrored, left and right, after it is cut out.
        """
        sx, tx = self.sx, self.tx - left
        if mirrored:  # u → W − 1 − u
            sx, tx = -sx, size[1] - tx
        return Placement(sx, tx, self.sy, self.ty - top, (size[0], size[1]), self.picture_size)


def fit_numbers(
    picture_size: Size, size: Size, fit: str = "squash", mirror: bool = False
) -> np.ndarray:
    """sx, tx, sy, ty of what `diffeat.images.fit_picture` makes of a picture.

    Args:
        picture_size: (H, W) of the upright picture in pixels; not Pillow's order.
        size: (H, W) of the input in pixels.
        fit: as in `fit_picture`.
        mirror: whether the picture is mirrored before it is fitted.

    Returns:
        (4,) float64.

    Raises:
        SpecError: unknown `fit`.
    """
    check_fit(fit)
    (rows, columns), (height, width) = picture_size, size
    if fit == "pad":
        top, left, inner_height, inner_width = content_box((columns, rows), size, fit)
        sx, tx, sy, ty = inner_width / columns, left, inner_height / rows, top
    elif fit == "crop":
        left, top, right, bottom = crop_box(picture_size, size)
        sx, sy = width / (right - left), height / (bottom - top)
        tx, ty = -left * sx, -top * sy
    elif fit == "box-crop":  # a halving that drops half a pixel squashes all of them a little
        _, whole, (top, left) = box_crop_steps(picture_size, size)
        sx, tx, sy, ty = whole[1] / columns, -left, whole[0] / rows, -top
    else:
        sx, tx, sy, ty = width / columns, 0, height / rows, 0
    if mirror:  # x → W − 1 − x
        sx, tx = -sx, tx + sx * columns
    return np.array([sx, tx, sy, ty], np.float64)


def grid_points(size: Size, along: int) -> np.ndarray:
    """(n, 2) x, y: centres of equal squares, `along` of them on the longer side.

    Args:
        size: (H, W) of the picture in pixels.
    """
    step = max(size) / along
    rows, columns = (max(1, round(side / step)) for side in size)
    y = (np.arange(rows) + 0.5) * size[0] / rows - 0.5
    x = (np.arange(columns) + 0.5) * size[1] / columns - 0.5
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _columns(points: Any) -> tuple[np.ndarray, np.ndarray]:
    """(n,) x and (n,) y of (n, 2) points."""
    found = np.asarray(points, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise SpecError(f"points have shape {found.shape}; expected (n, 2), x and y in pixels")
    return found[:, 0], found[:, 1]


# the fits, as numbers; `diffeat.images.decode` carries them out


def check_fit(fit: str) -> None:
    """SpecError unless it is one of FITS."""
    if fit not in FITS:
        raise SpecError(f"fit={fit!r} is unknown; expected one of {', '.join(FITS)}")


def content_box(original: tuple[int, int], size: Size, fit: str) -> tuple[int, int, int, int]:
    """The part of the model's input that shows the picture; the rest of it is black padding.

    Args:
        original: (width, height) of the upright picture in pixels, as Pillow's `image.size`.
        size: (H, W) of the model's input in pixels.
        fit: as in `fit_picture`; only "pad" leaves a part of the input without picture.

    Returns:
        (top, left, height, width) in pixels of the input.

    Raises:
        SpecError: unknown `fit`.
    """
    check_fit(fit)
    height, width = size
    if fit != "pad":
        return 0, 0, height, width
    scale = min(width / original[0], height / original[1])
    # unlike in ImageOps.pad, no side ever vanishes
    inner_width = max(1, round(original[0] * scale))
    inner_height = max(1, round(original[1] * scale))
    return (height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width


def crop_box(picture_size: Size, size: Size) -> tuple[float, float, float, float]:
    """The largest centred part of a picture with the aspect ratio of `size`; it is fractional.

    The part that Pillow's `ImageOps.fit` takes, by the same arithmetic.

    Args:
        picture_size: (H, W) of the picture in pixels.
        size: (H, W) of the input in pixels.

    Returns:
        (left, top, right, bottom), from the picture's corner, as Pillow's boxes.
    """
    rows, columns = picture_size
    have, want = columns / rows, size[1] / size[0]
    width, height = float(columns), float(rows)
    if have > want:
        width = want * rows
    elif have < want:
        height = columns / want
    left, top = (columns - width) * 0.5, (rows - height) * 0.5
    return left, top, left + width, top + height


def box_crop_steps(picture_size: Size, size: Size) -> tuple[list[Size], Size, Size]:
    """What "box-crop" does, step by step.

    Args:
        picture_size: (H, W) of the picture in pixels.
        size: (H, W) of the input in pixels.

    Returns:
        (H, W) after every halving; (H, W) that the last of these is resized to; (top, left) of
        the part that is cut out of it.

    Source: Dhariwal & Nichol 2021 (guided-diffusion).
    """
    (rows, columns), (height, width), halvings = picture_size, size, []
    while columns >= 2 * width and rows >= 2 * height:
        rows, columns = rows // 2, columns // 2
        halvings.append((rows, columns))
    scale = max(width / columns, height / rows)
    whole = max(height, round(rows * scale)), max(width, round(columns * scale))
    return halvings, whole, ((whole[0] - height) // 2, (whole[1] - width) // 2)


def native_size(original: tuple[int, int], multiple: int = 1) -> Size:
    """The picture's own size, each side at the nearest multiple of `multiple`, at least one.

    A side in the middle between two multiples becomes the larger one.

    Args:
        original: (width, height) in pixels, as Pillow's `image.size`.
        multiple: pixels, at least 1.

    Returns:
        (H, W) in pixels.

    Raises:
        SpecError: `multiple` is no whole number of at least 1.
    """
    if not isinstance(multiple, (int, np.integer)) or isinstance(multiple, bool) or multiple < 1:
        raise SpecError(f"multiple={multiple!r}; expected a whole number of pixels, at least 1")
    step = int(multiple)
    width, height = (max(1, (2 * side + step) // (2 * step)) * step for side in original)
    return height, width


def real_mask(box: Sequence[int] | np.ndarray, size: Size, grid: Size) -> np.ndarray:
    """Which cells of a feature map show the picture and not its padding.

    Cell k of a side is real when its centre, (k + 1/2)·stride - 1/2 in coordinates in which
    pixel i has its centre at i, lies in the box or on its edge, top - 1/2 … top + height - 1/2.
    The edge counts on both sides, so that a centred picture has a symmetric mask. A picture
    that is thinner than a cell can fall between all centres: then no cell is real.

    Args:
        box: (top, left, height, width) in pixels, from `content_box`.
        size: (H, W) of the model's input in pixels.
        grid: (h, w) of the feature map in cells; the stride is H/h, W/w.

    Returns:
        (h, w) bool.
    """
    top, left, height, width = (int(value) for value in box)
    rows = _real_cells(top, height, size[0], grid[0])
    return rows[:, None] & _real_cells(left, width, size[1], grid[1])
