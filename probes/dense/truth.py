"""What pixels are told by: label maps and depth maps of the pictures' own size, checked as read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from probes.cells import Cells
from probes.lazy import as_numpy


class Masks:
    """N label maps of the pictures' size: class indices, and `ignore` where nothing is said.

    Args:
        values: a sequence of (H, W) whole numbers, an (N, H, W) array, or what reads like one row
            by row; read when asked for.
        cells: the pictures' features; labels of pixels that an input does not show become
            `ignore`.
        classes: K; labels are 0 … K − 1.
        ignore: label of pixels that do not count; it may be any number outside 0 … K − 1.
        name: for errors.

    Raises:
        ValueError: another number of masks than pictures; when one is read: another size than its
            picture, no whole numbers, labels that are neither a class nor `ignore`.
    """

    def __init__(
        self, values: Any, cells: Cells, classes: int, ignore: int = 255, name: str = "masks"
    ):
        if len(values) != len(cells):
            raise ValueError(
                f"{len(values)} {name} for {len(cells)} pictures; expected one a picture"
            )
        if 0 <= ignore < classes:
            raise ValueError(
                f"ignore={ignore} is one of {classes} classes, 0 … {classes - 1}; expected another "
                "number, such as 255"
            )
        self.values, self.cells, self.classes = values, cells, classes
        self.ignore, self.name = ignore, name

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> np.ndarray:
        """(H, W) int64 of one picture."""
        found, size = read_mask(self.values, row, self.name), self._size(row)
        if found.shape != size:
            raise ValueError(
                f"{self.name}[{row}] is {_text(found.shape)}, its picture {_text(size)}; expected "
                "one label a pixel"
            )
        labels = found.astype(np.int64)
        known = (labels >= 0) & (labels < self.classes)
        odd = np.unique(labels[~known & (labels != self.ignore)])
        if len(odd):
            raise ValueError(
                f"{self.name}[{row}] has the labels {odd[:5].tolist()}; expected 0 … "
                f"{self.classes - 1}, and {self.ignore} where nothing is said"
            )
        across, down = self.cells.frame(row).shown()
        if not (across.all() and down.all()):
            labels[~(down[:, None] & across)] = self.ignore
        return labels

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def like(self, values: Any, cells: Cells) -> Masks:
        """Other masks by the same rule, such as those of validation."""
        return Masks(values, cells, self.classes, self.ignore, f"validation {self.name}")

    def take(self, rows: np.ndarray, cells: Cells) -> Masks:
        """Some of the masks, in the order of `rows`; `cells` are these pictures'."""
        return Masks(Some(self.values, rows), cells, self.classes, self.ignore, self.name)

    def _size(self, row: int) -> tuple[int, int]:
        return self.cells.frame(row).size


class DepthMaps:
    """N depth maps of the pictures' size in metres, nan where depth is not known.

    Args:
        values: a sequence of (H, W) real numbers, or what reads like one; read when asked for.
        cells: the pictures' features; pixels that an input does not show become nan.
        name: for errors.

    Raises:
        ValueError: another number than of pictures; when one is read: another size than its
            picture, whole numbers (whose unit nobody says), depths that are infinite, 0 or less.
    """

    def __init__(self, values: Any, cells: Cells, name: str = "depth"):
        if len(values) != len(cells):
            raise ValueError(f"{len(values)} {name} maps for {len(cells)} pictures; expected one a "
                             "picture")  # fmt: skip
        self.values, self.cells, self.name = values, cells, name

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> np.ndarray:
        """(H, W) float32 of one picture."""
        found, frame = np.asarray(as_numpy(self.values[row])), self.cells.frame(row)
        where = f"{self.name}[{row}]"
        if found.ndim != 2 or found.dtype.kind != "f":
            raise ValueError(f"{where} is {found.dtype} of shape {found.shape}: the unit is not "
                             "known; expected (H, W) real numbers in metres (such as "
                             "millimetres / 1000)")  # fmt: skip
        if found.shape != frame.size:
            raise ValueError(f"{where} is {_text(found.shape)}, its picture {_text(frame.size)}; "
                             "expected one depth a pixel")  # fmt: skip
        known = ~np.isnan(found)
        if not ((found[known] > 0) & np.isfinite(found[known])).all():
            odd = found[known & ~((found > 0) & np.isfinite(found))]
            raise ValueError(f"{where} holds {odd[0]:g}; expected metres above 0, and nan where "
                             "depth is not known (np.where(depth > 0, depth, np.nan), if 0 says so)"
                             )  # fmt: skip
        found, (across, down) = found.astype(np.float32), frame.shown()
        if not (across.all() and down.all()):
            found[~(down[:, None] & across)] = np.nan
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def like(self, values: Any, cells: Cells) -> DepthMaps:
        """Other maps by the same rule, such as those of validation."""
        return DepthMaps(values, cells, f"validation {self.name}")

    def take(self, rows: np.ndarray, cells: Cells) -> DepthMaps:
        """Some of the maps, in the order of `rows`; `cells` are these pictures'."""
        return DepthMaps(Some(self.values, rows), cells, self.name)


class Some:
    """Some rows of a sequence, which are read when asked for."""

    def __init__(self, values: Any, rows: np.ndarray):
        self.values, self.rows = values, np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.values[int(self.rows[row])]


def read_mask(values: Any, row: int, name: str = "masks") -> np.ndarray:
    """(H, W) whole numbers of one row, as they are; ValueError where they are none."""
    found = np.asarray(as_numpy(values[row]))
    if found.ndim != 2 or found.dtype.kind not in "iub":
        raise ValueError(
            f"{name}[{row}] is {found.dtype} of shape {found.shape}; expected (H, W) whole numbers"
        )
    return found


def count_classes(values: Any, ignore: int, name: str = "masks") -> int:
    """K, where nobody says it: one more than the largest label that is not `ignore`.

    Raises:
        ValueError: every pixel of all masks is ignored.
    """
    most = -1
    for row in range(len(values)):
        found = read_mask(values, row, name)
        kept = found[found != ignore]
        most = max(most, int(kept.max()) if kept.size else -1)
    if most < 0:
        raise ValueError(f"every pixel of {len(values)} {name} is ignored (label {ignore})")
    return most + 1


def _text(size: Any) -> str:
    return "×".join(map(str, size))
