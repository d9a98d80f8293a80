"""Features of the same pictures from several inputs, laid in the frame of the first.

With p the share of an input's side at which a place lies, from 0 to 1 between its edges, each input
has p = s·(x + .5) + t with numbers of its own, so p of one input is a·p + b of another. Where a = 1
and b = 0 for all pictures the maps stay as they are; where a = −1 and b = 1 along x they are
flipped, which is exact; elsewhere they are read at the sites of the first's grid, bilinear, rows
and columns one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from probes.aggregate.grids import Grid, grid_of
from probes.axes import Axis
from probes.cells import Cells, cells_of
from probes.checks import check_choice
from probes.lazy import Deferred, Rows, as_numpy, as_tensor
from probes.maps import Maps

SAME = 1e-6
"""Share of an input's side by which frames may differ and count as one."""


@dataclass(frozen=True, eq=False)
class Lines:
    """p = s·(x + .5) + t of N inputs, for x and for y.

    Attributes:
        s, t: (N, 2) float64.
        sides: (N, 2) float64 W, H of the pictures in pixels.
    """

    s: np.ndarray
    t: np.ndarray
    sides: np.ndarray


def together(
    groups: Sequence[Any],
    names: Sequence[str] | None = None,
    *,
    size: Grid | None = None,
    outside: str = "refuse",
) -> Cells:
    """The cells of several features of the same pictures, all in the frame of the first.

    Args:
        groups: `probes.Cells` of the same pictures in the same order; placements, input sizes and
            grids may differ.
        names: what the blocks of each are preceded by, as in "name/up.1", so that equal blocks of
            two models are told apart; None: "1", "2", ….
        size: (h, w) of maps that have to be read in another frame; None: the first's finest grid.
            Maps that lie in the first's frame already keep their own.
        outside: of a place that the first's input shows of its picture and another's does not:
            "refuse" it, or go on with that map's outermost sites ("edge").

    Returns:
        `Cells` of all, read when asked for; they lie where the first's lie.

    Raises:
        ValueError: fewer than one group, names that do not fit or repeat; other numbers of
            pictures, or pictures of other sizes; features that are no maps; places that are not
            shown; a placement without sizes.
    """
    check_choice("outside", outside, ("refuse", "edge"))
    groups = [cells_of(group) for group in groups]
    names = _names(names, len(groups))
    _check_pictures(groups)
    first, arrays = groups[0], {}
    base = lines_of(first, groups)
    grid = grid_of(size, [_maps(first, key).shape for key in first.keys])
    for name, group in zip(names, groups, strict=True):
        here = lines_of(group, groups)
        for key in group.keys:
            rows = _maps(group, key)
            arrays[f"{name}/{key[0]}", key[1]] = (
                rows.values if group is first else _laid(rows, base, here, grid)
            )
        if group is not first and outside == "refuse":
            _check_shown(name, base, here, grid)
    sizes = next((group.sizes for group in groups if group.sizes is not None), None)
    return Cells(arrays, sizes=sizes, placements=first.placements, input_size=first.input_size)


def one_row(maps: Maps) -> Cells:
    """One picture's maps as `Cells` of one row."""
    arrays = {key: as_numpy(values)[None] for key, values in maps.values.items()}
    placement = None if maps.placement is None else [maps.placement]
    return Cells(arrays, sizes=[maps.size], placements=placement, input_size=maps.input_size)


def lines_of(cells: Cells, others: Sequence[Cells] = ()) -> Lines:
    """How a `Cells` lies in its pictures; sizes that it lacks are taken from the others.

    Raises:
        ValueError: a placement without the sizes of the pictures.
    """
    sizes = next((one.sizes for one in (cells, *others) if one.sizes is not None), None)
    if cells.placements is None:
        sides = np.ones((len(cells), 2)) if sizes is None else sizes[:, ::-1].astype(np.float64)
        return Lines(1 / sides, np.zeros_like(sides), sides)
    known = Cells({key: cells[key] for key in cells.keys}, sizes=sizes,
                  placements=cells.placements, input_size=cells.input_size)  # fmt: skip
    frames = [known.frame(row) for row in range(len(cells))]
    numbers = np.array([frame.numbers for frame in frames]).reshape(-1, 4)
    inputs = np.array([frame.input_size[::-1] for frame in frames], np.float64).reshape(-1, 2)
    return Lines(numbers[:, [0, 2]] / inputs, numbers[:, [1, 3]] / inputs,
                 sizes[:, ::-1].astype(np.float64))  # fmt: skip


def _laid(rows: Rows, base: Lines, here: Lines, grid: Grid) -> Any:
    """(N, C, …) maps of one frame, in another."""
    a = here.s / base.s
    b = here.t - base.t * a
    if _near(a, 1) and _near(b, 0):
        return rows.values
    shape, read = rows.shape, partial(_read, rows, a, b, grid)
    if _near(a, [-1, 1]) and _near(b, [1, 0]):
        return Deferred(shape, partial(_flipped, rows), np.float32)
    return Deferred((*shape[:2], *grid), read, np.float32)


def _near(found: np.ndarray, wanted: Any) -> bool:
    return bool((np.abs(found - wanted) < SAME).all())


def _flipped(rows: Rows, which: Any) -> np.ndarray:
    return np.ascontiguousarray(rows[which][..., ::-1])


def _read(rows: Rows, a: np.ndarray, b: np.ndarray, grid: Grid, which: Any) -> np.ndarray:
    """Some rows at the sites of another frame's grid."""
    which = np.arange(len(rows))[which]
    values = as_tensor(rows[which])
    found = values.new_empty((*values.shape[:2], *grid))
    cells = values.shape[:1:-1]  # w, h
    for place, row in enumerate(which):
        across, down = (
            Axis((a[row, k] * _shares(to) + b[row, k]) * cells[k] - 0.5, cells[k], values).matrix
            for k, to in enumerate(grid[::-1])
        )
        torch.matmul(down @ values[place], across.T, out=found[place])
    return found.numpy()


def _shares(cells: int) -> np.ndarray:
    """Where the centres of sites lie between the edges of an input, 0 to 1."""
    return (np.arange(cells) + 0.5) / cells


def _check_shown(name: str, base: Lines, here: Lines, grid: Grid) -> None:
    """ValueError where the first's input shows what another's does not."""
    shown, seen = np.ones(len(base.s)), np.ones(len(base.s))
    for k, cells in enumerate(grid[::-1]):
        p = _shares(cells)
        place = (p - base.t[:, k, None]) / base.s[:, k, None]  # x + .5
        inside = (place >= 0) & (place <= base.sides[:, k, None])
        other = here.s[:, k, None] * place + here.t[:, k, None]
        shown *= inside.sum(1)
        seen *= (inside & (other >= -SAME) & (other <= 1 + SAME)).sum(1)
    if (bad := np.flatnonzero(seen < shown)).size:
        row = bad[0]
        raise ValueError(
            f"{name}: of {len(bad)} of {len(shown)} pictures its input does not show all that the "
            f"first's does, of the picture in row {row} {1 - seen[row] / shown[row]:.0%} less; "
            "expected inputs that show as much, or outside='edge'"
        )


def _check_pictures(groups: Sequence[Cells]) -> None:
    """ValueError where features cannot be of the same pictures."""
    counts = [len(group) for group in groups]
    if len(set(counts)) != 1:
        raise ValueError(
            f"features of {counts} pictures; expected the same pictures in the same order"
        )
    known = [(at, group.sizes) for at, group in enumerate(groups) if group.sizes is not None]
    for at, sizes in known[1:]:
        if (bad := np.flatnonzero((sizes != known[0][1]).any(1))).size:
            (h, w), (height, width) = known[0][1][bad[0]].tolist(), sizes[bad[0]].tolist()
            raise ValueError(
                f"{len(bad)} of {len(sizes)} pictures have other sizes in features {at + 1} than "
                f"in {known[0][0] + 1}, the first in row {bad[0]}: {width} × {height} and {w} × "
                f"{h} pixels; expected the same pictures in the same order"
            )


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    found = [str(k + 1) for k in range(count)] if names is None else list(names)
    if not count or len(found) != count or len(set(found)) != count:
        raise ValueError(
            f"{count} features with the names {found}; expected at least one, each with its own"
        )
    return found


def _maps(cells: Cells, key: Any) -> Rows:
    rows = cells.rows(key)
    if len(rows.shape) != 4:
        raise ValueError(f"{key} has rows of shape {rows.shape[1:]}; expected maps (C, h, w), "
                         "which are extracted without a pool")  # fmt: skip
    return rows
