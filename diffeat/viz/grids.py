"""Heat maps over (t, block)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from diffeat.noise import shown_t
from diffeat.viz.figures import RED, new_figure, save, shorten, subplots
from diffeat.viz.scales import Scale, colour_bar, ink

if TYPE_CHECKING:
    from diffeat.search.grid import Grid

LETTERS = 11
"""Of a title, on an inch."""
LETTER = 0.078
"""Inches that a letter of 9 pt takes."""
WIDEST = 9.0
"""Inches that the cells of a row of grids may take with numbers in them."""
TALLEST = 50
"""Rows up to which there are numbers."""
LONGEST = 28
"""Letters of a block's name that are shown."""


def heat_map(
    grids: Sequence[Grid], path: str | Path | IO[bytes], title: str = "", shared: bool = True
) -> None:
    """Write a PNG with one heat map per grid.

    Rows are blocks in the order of execution, columns noise levels. The colours run from the
    worst number that is shown to the best one, the yellow end, whichever way better is, and are
    finer where most numbers are (see `Scale`); the bar says which numbers they are. Each cell
    carries its number, in black or white, if there is room for all; the best is framed; grey cells
    have none. A warning that marks a grid stands below the title.

    Args:
        grids: one or many.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        title: headline.
        shared: all in a row on one colour scale, for numbers of one kind; or each on its own, at
            most three in a row.

    Raises:
        ValueError: one scale for numbers of several kinds.
    """
    (_draw_shared if shared else _draw_apart)(grids, path, title)


@dataclass(frozen=True)
class _Cells:
    """How large the cells of a picture are.

    Attributes:
        width, height: inches of one.
        numbers: whether there is room for them.
    """

    width: float
    height: float
    numbers: bool

    @classmethod
    def of(cls, grids: Sequence[Grid], across: int) -> _Cells:
        """For grids of which `across` columns stand side by side."""
        texts = [_text(grid, value) for grid in grids for value in grid.values.values()]
        width = max(0.46, LETTER * max(map(len, texts), default=1) + 0.12)
        rows = max(len(grid.blocks) for grid in grids)
        numbers = across * width <= WIDEST and rows <= TALLEST
        if not numbers:
            width = max(0.13, min(width, WIDEST / across))
        return cls(width, 0.27 if rows <= 30 else 0.17, numbers)


def _text(grid: Grid, value: float) -> str:
    return grid.measure.show(value, 3) if np.isfinite(value) else "nan"


def _shown(grid: Grid) -> np.ndarray:
    """(blocks, timesteps) numbers as they are shown."""
    return grid.measure.factor * grid.array()


def _names_width(grid: Grid) -> float:
    """Inches that the names of blocks take."""
    return 0.3 + LETTER * max(len(shorten(block, LONGEST)) for block in grid.blocks)


def _draw_shared(grids: Sequence[Grid], path: str | Path | IO[bytes], title: str) -> None:
    measure = grids[0].measure
    if any((g.measure.unit, g.measure.higher_is_better) != (measure.unit, measure.higher_is_better)
           for g in grids):  # fmt: skip
        raise ValueError("grids of other units or directions have no scale in common: shared=False")
    cells = _Cells.of(grids, sum(len(grid.timesteps) for grid in grids))
    # neighbours with the same blocks are named once
    named = [k == 0 or grid.blocks != grids[k - 1].blocks for k, grid in enumerate(grids)]
    heads = [_headline(grid, cells) for grid in grids]
    widths = [
        max(cells.width * len(grid.timesteps), LETTER * max(map(len, head.split("\n"))))
        for grid, head in zip(grids, heads, strict=True)
    ]
    names = sum(
        _names_width(grid) if first else 0.15 for grid, first in zip(grids, named, strict=True)
    )
    wide = max(sum(widths) + names + 1.3, 3.2)
    title, added = _marked_title(title, grids, wide)
    rows = max(len(grid.blocks) for grid in grids)
    size = (wide, cells.height * rows + 1.45 + 0.17 * added)
    figure, axes = subplots(1, len(grids), size, width_ratios=widths)
    scale = Scale.of(
        np.concatenate([_shown(grid).ravel() for grid in grids]), measure.higher_is_better
    )
    for axis, grid, first, head in zip(axes[0], grids, named, heads, strict=True):
        _grid_panel(axis, grid, scale, cells, first)
        axis.set_title(head, fontsize=9, parse_math=False)
    _bar(figure, list(axes[0]), grids[0], scale)
    figure.suptitle(title, fontsize=10, parse_math=False)
    _frame_best(figure, axes.flat, grids)
    save(figure, path)


def _draw_apart(grids: Sequence[Grid], path: str | Path | IO[bytes], title: str) -> None:
    across = min(3, len(grids))
    down = -(-len(grids) // across)
    most = max(len(grid.timesteps) for grid in grids)
    cells = _Cells.of(grids, across * most)
    heads = [_headline(grid, cells) + grid.measure.direction for grid in grids]
    wide = max(cells.width * most, LETTER * max(len(x) for h in heads for x in h.split("\n")) - 0.6)
    panel = (
        wide + max(map(_names_width, grids)) + 1.2,
        cells.height * max(len(grid.blocks) for grid in grids) + 1.05,
    )
    title, added = _marked_title(title, grids, panel[0] * across)
    figure = new_figure((panel[0] * across, panel[1] * down + 0.5 + 0.17 * added))
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(grids) :]:
        axis.set_axis_off()
    for axis, grid, head in zip(axes.flat, grids, heads, strict=False):
        scale = Scale.of(_shown(grid), grid.measure.higher_is_better)
        _grid_panel(axis, grid, scale, cells)
        axis.set_title(head, fontsize=9, parse_math=False)
        _bar(figure, axis, grid, scale)
    figure.suptitle(title, fontsize=10, parse_math=False)
    _frame_best(figure, axes.flat, grids)
    save(figure, path)


def _bar(figure: Any, axes: Any, grid: Grid, scale: Scale) -> None:
    label = grid.heading + grid.measure.direction
    factor = grid.measure.factor
    if np.isnan(scale.best):
        return
    show, ranked = (lambda value: _text(grid, value / factor)), grid.measure.ranked
    colour_bar(figure, axes, scale, label, show, ranked)


def _headline(grid: Grid, cells: _Cells) -> str:
    """Of what a grid is; and what is best where no number says it."""
    if cells.numbers or not np.isfinite(list(grid.values.values())).any():
        return grid.title
    block, t = grid.best
    best = grid.measure.say(grid.values[block, t])
    return f"{grid.title}\nbest {best}: {block}{shown_t(t, ', t=')}".lstrip("\n")


def _marked_title(title: str, grids: Sequence[Grid], inches: float) -> tuple[str, int]:
    """The headline with the marks of all grids below it, and how many lines these take."""
    marks = dict.fromkeys(grid.mark for grid in grids if grid.mark)
    heading = wrap(title, int(LETTERS * inches))
    lines = [line for mark in marks for line in wrap(mark, int(LETTERS * inches))]
    return "\n".join([*heading, *lines]), len(lines) + max(0, len(heading) - 1)


def _grid_panel(axis: Any, grid: Grid, scale: Scale, cells: _Cells, named: bool = True) -> None:
    """Draw (blocks, timesteps) values with their numbers and a frame round the best."""
    colours = scale.colours(_shown(grid))
    axis.imshow(colours, aspect="auto", interpolation="nearest")
    steps, blocks = [shown_t(t) for t in grid.timesteps], [shorten(b, LONGEST) for b in grid.blocks]
    turned = LETTER * max(map(len, steps)) + 0.05 > cells.width
    every = 1 if not turned or cells.width >= 0.12 else 2
    axis.set_xticks(range(0, len(steps), every), steps[::every], fontsize=8, rotation=90 * turned)
    axis.set_yticks(range(len(blocks)), blocks if named else [], fontsize=8)
    axis.tick_params(length=2, left=named)
    if any(steps):
        axis.set_xlabel("t", fontsize=9)
    if cells.numbers:
        for i, block in enumerate(grid.blocks):
            for j, t in enumerate(grid.timesteps):
                if (block, t) in grid.values:
                    text = _text(grid, grid.values[block, t])
                    axis.text(j, i, text, color=ink(colours[i, j]), ha="center", va="center",
                              fontsize=9)  # fmt: skip


def _frame_best(figure: Any, axes: Sequence[Any], grids: Sequence[Grid]) -> None:
    """A red frame inside each best cell, a white one in it: seen on light and on dark."""
    from matplotlib.patches import Rectangle

    figure.draw_without_rendering()  # now it is known how large cells are
    for axis, grid in zip(axes, grids, strict=False):
        if not np.isfinite(list(grid.values.values())).any():
            continue
        block, t = grid.best
        row, column = grid.blocks.index(block), grid.timesteps.index(t)
        box = axis.get_window_extent()
        sides = box.width / len(grid.timesteps), box.height / len(grid.blocks)
        for points, inset, colour in ((3.0, 2.0, "white"), (2.0, 1.0, RED)):
            dx, dy = (min(0.3, inset * figure.dpi / 72 / side) for side in sides)
            axis.add_patch(
                Rectangle((column - 0.5 + dx, row - 0.5 + dy), 1 - 2 * dx, 1 - 2 * dy, fill=False,
                          edgecolor=colour, linewidth=points, joinstyle="miter")
            )  # fmt: skip
