"""Matrices of what is lost where another task chose the cell, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.viz.figures import new_figure, save
from diffeat.viz.scales import colour_map, ink

CELL, SIDE = 0.85, 2.1
"""Inches of a cell, and of the names beside a matrix."""


def draw(matrices: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """A matrix for each model: rows are tasks, columns who chose; per cent of the own score."""
    rows, columns = len(matrices[0]["tasks"]), len(matrices[0]["tasks"][0]["scores"])
    size = SIDE + columns * CELL, len(matrices) * (SIDE + rows * CELL * 0.6) + 0.4
    figure = new_figure(size)
    figure.suptitle(title, fontsize=10)
    colours, most = colour_map("magma"), _most(matrices)
    for place, one in enumerate(matrices, start=1):
        axes = figure.add_subplot(len(matrices), 1, place)
        values = np.array([[_share(score) for score in task["scores"]] for task in one["tasks"]])
        shown = np.clip(values / most, 0, 1)
        axes.imshow(shown, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8,
                      color=ink(colours(shown[row, column])))  # fmt: skip
        axes.set_yticks(range(rows), [f"{task['name']}" for task in one["tasks"]], fontsize=8)
        names = [f"{score['by']}\n{score['cell'][0]}, {score['cell'][1]:g}"
                 for score in one["tasks"][0]["scores"]]  # fmt: skip
        axes.set_xticks(range(columns), names, fontsize=6, rotation=30, ha="right")
        axes.set_title(f"{one['label']}: lost on test, % of the task's own cell, by who chose",
                       fontsize=9)  # fmt: skip
    save(figure, path)


def _share(score: dict[str, Any]) -> float:
    return 100 * (score["share"] or 0.0)


def _most(matrices: Sequence[dict[str, Any]]) -> float:
    found = [_share(score) for one in matrices for task in one["tasks"] for score in task["scores"]]
    return max(*found, 1e-9)
