"""Which number goes with which task, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks.label_free.tables import NAMES
from diffeat.viz.figures import new_figure, save
from diffeat.viz.scales import colour_map, ink

CELL, SIDE = 1.15, 1.7
"""Inches of a cell, and of the names beside it."""


def draw(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """A matrix: numbers down, tasks across; trained weights left, random ones right."""
    kinds = [kind for kind in (False, True) if any(row["random"] == kind for row in rows)]
    names = [NAMES[one["score"]] for one in rows[0]["trust"]]
    across = [[row for row in rows if row["random"] == kind] for kind in kinds]
    wide = SIDE + 0.9 + CELL * sum(map(len, across)) + 0.3 * len(kinds)
    figure = new_figure((wide, 1.9 + 0.36 * len(names)))
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(kinds), squeeze=False,
                             width_ratios=[len(found) for found in across])[0]  # fmt: skip
    colours = colour_map("RdBu")
    for axes, found, kind in zip(panels, across, kinds, strict=True):
        values = np.array([[_rho(row["trust"][k]) for row in found] for k in range(len(names))])
        shown = colours(np.ma.masked_invalid((values + 1) / 2))
        axes.imshow(shown, aspect="auto")
        for (line, column), value in np.ndenumerate(values):
            one = found[column]["trust"][line]
            text = "not defined" if np.isnan(value) else f"{value:+.2f}"
            if one["low"] is not None:
                text += f"\n{one['low']:+.2f} to {one['high']:+.2f}"
            axes.text(column, line, text, ha="center", va="center", fontsize=7,
                      color=ink(shown[line, column]))  # fmt: skip
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [], fontsize=8)
        heads = [f"{row['task']}\n{row['label'].partition('@')[0]}" for row in found]
        axes.set_xticks(range(len(found)), heads, fontsize=7)
        axes.set_title("random weights" if kind else "trained weights", fontsize=9)
    bar = figure.colorbar(_mapped(colours), ax=list(panels), pad=0.02, fraction=0.03)
    bar.set_label("Spearman's rho over cells, 95 % over blocks", fontsize=8)
    save(figure, path)


def _mapped(colours: Any) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-1, 1), colours)


def _rho(one: dict[str, Any]) -> float:
    return np.nan if one["rho"] is None else one["rho"]
