"""Pictures of results: feature maps in colours, and heat maps over (t, block)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from diffeat.conditioned import marked
from diffeat.noise import shown_t

if TYPE_CHECKING:
    from diffeat.search import Surface
    from diffeat.search.analysis import AlignmentTable


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


def heat_map(surfaces: Sequence[Surface], path: str | Path, title: str = "") -> None:
    """Write a PNG with one heat map per surface, all on one colour scale.

    Rows are blocks in the order of execution, columns noise levels; each cell carries its
    validation accuracy in per cent, and the best is framed. Features that were told their targets
    are marked in the title.
    """
    rows = max(len(surface.blocks) for surface in surfaces)
    widths = [0.75 * len(surface.timesteps) + 1.6 for surface in surfaces]
    marks = dict.fromkeys(marked(s.conditioned) for s in surfaces if s.conditioned)
    told = [line for mark in marks for line in wrap(mark, int(LETTERS * (sum(widths) + 1)))]
    title = "\n".join([*filter(None, [title]), *told])
    size = (sum(widths) + 1, 0.32 * rows + 1.7 + 0.16 * len(told))
    figure, axes = _subplots(1, len(surfaces), size, width_ratios=widths)
    grids = [100 * surface.grid() for surface in surfaces]
    low, high = min(map(np.nanmin, grids)), max(map(np.nanmax, grids))
    for axis, surface, grid in zip(axes[0], surfaces, grids, strict=True):
        best = surface.blocks.index(surface.best.block), surface.timesteps.index(surface.best.t)
        image = _grid_panel(axis, grid, surface, (low, high), best, "{:.1f}".format)
        axis.set_title(surface.name, fontsize=9)
    figure.colorbar(image, ax=list(axes[0]), label="validation accuracy, %", pad=0.02)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def metric_maps(table: AlignmentTable, path: str | Path, title: str = "") -> None:
    """Write a PNG with one heat map per metric, each on its own colour scale.

    Rows are blocks in the order of execution, columns noise levels; the best cell of each
    metric is framed, and where lower is better the scale runs the other way.
    """
    from diffeat.search.analysis.table import short

    count = len(table.metrics)
    across = min(3, count)
    down = -(-count // across)
    panel = 0.75 * len(table.timesteps) + 2.4, 0.32 * len(table.blocks) + 1.2
    figure, axes = _subplots(down, across, (panel[0] * across, panel[1] * down + 0.5))
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis, metric in zip(axes.flat, table.metrics, strict=False):
        grid, best, lower = table.grid(metric), table.best(metric), metric in table.lower
        place = table.blocks.index(best.block), table.timesteps.index(best.t)
        span = float(grid.min()), float(grid.max())
        image = _grid_panel(axis, grid, table, span, place, partial(short, digits=3), lower)
        axis.set_title(table.titles[metric] + (" (lower is better)" if lower else ""), fontsize=9)
        figure.colorbar(image, ax=axis, pad=0.02)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _grid_panel(
    axis,
    grid: np.ndarray,
    shown: Surface | AlignmentTable,
    span: tuple[float, float],
    best: tuple[int, int],
    form: Callable[[float], str],
    lower: bool = False,
):
    """Draw (blocks, timesteps) values with their numbers and a frame round the best."""
    colours = "viridis_r" if lower else "viridis"
    image = axis.imshow(grid, vmin=span[0], vmax=span[1], cmap=colours, aspect="auto")
    axis.set_xticks(range(len(shown.timesteps)), [shown_t(t) for t in shown.timesteps])
    axis.set_yticks(range(len(shown.blocks)), shown.blocks, fontsize=8)
    axis.set_xlabel("t")
    for (i, j), value in np.ndenumerate(grid):
        dark = (value < sum(span) / 2) != lower
        where = {"ha": "center", "va": "center", "fontsize": 7}
        axis.text(j, i, form(value), color="white" if dark else "black", **where)
    frame = {"fill": False, "edgecolor": "red", "linewidth": 2}
    axis.add_patch(_rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, **frame))
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
