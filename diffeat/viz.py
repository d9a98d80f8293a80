"""Pictures of results: feature maps in colours, and heat maps over (t, block)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from diffeat.noise import shown_t

if TYPE_CHECKING:
    from diffeat.search.grid import Grid

LETTERS = 11
"""Of a title, on an inch."""


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


def feature_sheet(
    originals: Sequence[np.ndarray],
    columns: dict[str, np.ndarray],
    names: Sequence[str],
    path: str | Path,
    title: str = "",
) -> None:
    """Write a PNG with one row per picture: the original, then each block in colours.

    Args:
        originals: N pictures (H, W, 3) uint8.
        columns: heading → (N, C, H, W) maps.
        names: N picture names.
        path: the picture; its suffix says the format (PNG without one).
        title: headline.
    """
    height, width = originals[0].shape[:2]
    columns_wide, cell = 1 + len(columns), (2.0, 2.0 * height / width + 0.1)
    size = (cell[0] * columns_wide, cell[1] * len(originals) + 0.9)
    figure, axes = _subplots(len(originals), columns_wide, size)
    for row, (picture, name) in enumerate(zip(originals, names, strict=True)):
        axes[row, 0].imshow(picture)
        axes[row, 0].set_ylabel(_shorten(name), fontsize=8)
    for column, (heading, maps) in enumerate(columns.items(), start=1):
        for row, colours in enumerate(pca_rgb(maps)):
            axes[row, column].imshow(colours, interpolation="nearest")
        axes[0, column].set_title(
            f"{heading}\n{maps.shape[1]}@{maps.shape[2]}×{maps.shape[3]}", fontsize=8
        )
    axes[0, 0].set_title("picture", fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def heat_map(grids: Sequence[Grid], path: str | Path, title: str = "", shared: bool = True) -> None:
    """Write a PNG with one heat map per grid.

    Rows are blocks in the order of execution, columns noise levels; each cell carries its number,
    the best is framed, and where lower is better the colours run the other way. A warning that
    marks a grid stands below the title.

    Args:
        grids: one or many.
        path: the picture; its suffix says the format (PNG without one).
        title: headline.
        shared: all in a row on one colour scale, for numbers of one kind; or each on its own, at
            most three in a row.

    Raises:
        ValueError: one scale for numbers of several kinds.
    """
    (_draw_shared if shared else _draw_apart)(grids, path, title)


def _draw_shared(grids: Sequence[Grid], path: str | Path, title: str) -> None:
    kinds = {(grid.measure.unit, grid.measure.higher_is_better) for grid in grids}
    if len(kinds) > 1:
        raise ValueError("grids of other units or directions have no scale in common: shared=False")
    rows = max(len(grid.blocks) for grid in grids)
    widths = [0.75 * len(grid.timesteps) + 1.6 for grid in grids]
    title, added = _marked_title(title, grids, sum(widths) + 1)
    size = (sum(widths) + 1, 0.32 * rows + 1.7 + 0.16 * added)
    figure, axes = _subplots(1, len(grids), size, width_ratios=widths)
    shown = [grid.measure.factor * grid.array() for grid in grids]
    span = min(map(np.nanmin, shown)), max(map(np.nanmax, shown))
    for axis, grid in zip(axes[0], grids, strict=True):
        image = _grid_panel(axis, grid, span)
        axis.set_title(grid.title, fontsize=9)
    label = f"{grids[0].heading}\n{grids[0].measure.direction.strip()}".rstrip()
    figure.colorbar(image, ax=list(axes[0]), label=label, pad=0.02)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _draw_apart(grids: Sequence[Grid], path: str | Path, title: str) -> None:
    across = min(3, len(grids))
    down = -(-len(grids) // across)
    panel = 0.75 * len(grids[0].timesteps) + 2.4, 0.32 * len(grids[0].blocks) + 1.2
    title, added = _marked_title(title, grids, panel[0] * across)
    size = panel[0] * across, panel[1] * down + 0.5 + 0.16 * added
    figure, axes = _subplots(down, across, size)
    for axis in axes.flat[len(grids) :]:
        axis.set_axis_off()
    for axis, grid in zip(axes.flat, grids, strict=False):
        shown = grid.measure.factor * grid.array()
        image = _grid_panel(axis, grid, (float(np.nanmin(shown)), float(np.nanmax(shown))))
        axis.set_title(grid.title + grid.measure.direction, fontsize=9)
        figure.colorbar(image, ax=axis, label=grid.heading if grid.what else "", pad=0.02)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _marked_title(title: str, grids: Sequence[Grid], inches: float) -> tuple[str, int]:
    """The headline with the marks of all grids below it, and how many lines these take."""
    marks = dict.fromkeys(grid.mark for grid in grids if grid.mark)
    lines = [line for mark in marks for line in wrap(mark, int(LETTERS * inches))]
    return "\n".join([*filter(None, [title]), *lines]), len(lines)


def _grid_panel(axis, grid: Grid, span: tuple[float, float]):
    """Draw (blocks, timesteps) values with their numbers and a frame round the best."""
    shown, lower = grid.measure.factor * grid.array(), not grid.measure.higher_is_better
    colours = "viridis_r" if lower else "viridis"
    image = axis.imshow(shown, vmin=span[0], vmax=span[1], cmap=colours, aspect="auto")
    axis.set_xticks(range(len(grid.timesteps)), [shown_t(t) for t in grid.timesteps])
    axis.set_yticks(range(len(grid.blocks)), grid.blocks, fontsize=8)
    axis.set_xlabel("t")
    for (i, j), value in np.ndenumerate(shown):
        cell = grid.blocks[i], grid.timesteps[j]
        dark = (value < sum(span) / 2) != lower
        where = {"ha": "center", "va": "center", "fontsize": 7}
        text = grid.measure.show(grid.values[cell], 3) if cell in grid.values else ""
        axis.text(j, i, text, color="white" if dark else "black", **where)
    block, t = grid.best
    corner = grid.timesteps.index(t) - 0.5, grid.blocks.index(block) - 0.5
    frame = {"fill": False, "edgecolor": "red", "linewidth": 2}
    axis.add_patch(_rectangle(corner, 1, 1, **frame))
    return image


def _subplots(rows: int, columns: int, size: tuple[float, float], width_ratios=None):
    # not pyplot: it keeps global state, and may look for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=width_ratios)
    return figure, axes


def _rectangle(*args, **kwargs):
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **kwargs)


def _save(figure, path: str | Path) -> None:
    kind = Path(path).suffix[1:].lower() or "png"
    metadata = {"Software": "diffeat"} if kind == "png" else None
    figure.savefig(path, dpi=120, format=kind, metadata=metadata)


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]
