"""Heat maps of numbers of attention heads."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from diffeat.noise import shown_t
from diffeat.search.label_free.table import TITLES, head_of
from diffeat.viz.figures import new_figure, save, shorten
from diffeat.viz.scales import Scale, colour_bar, ink

if TYPE_CHECKING:
    from diffeat.search.label_free.table import FreeTable

LONGEST = 30
"""Letters of a tensor's name that are shown."""
LETTER = 0.075
"""Inches that a letter of 8 pt takes."""
WIDEST = 11.0
"""Inches that the cells of a row of panels may take with numbers in them."""
TALL, LOW, TALLEST = 0.21, 0.06, 9.0
"""Inches of a row that has room, and at least; what the rows of a panel take before they shrink."""


def head_map(
    table: FreeTable, path: str | Path | IO[bytes], title: str = "", scores: Any = None
) -> None:
    """Write a picture of heads: a row of panels for each score, a panel for each t.

    Rows of a panel are tensors in the order of execution, columns their heads. The panels of a
    score share a scale; yellow is what its authors call good. Numbers stand in the cells where
    there is room; grey is a head that a tensor has not. A score that is the same everywhere is
    told in the headline instead.

    Args:
        table: of `head_scores`.
        path: the picture; its suffix says the format, or an open file.
        title: headline.
        scores: only these; None takes all of the table.
    """
    scores, same = _apart(table, tuple(scores or table.scores))
    title = "\n".join([title, *same])
    heads = {cell: head_of(cell[0]) for cell in table.cells}
    rows = list(dict.fromkeys(block for block, _ in heads.values()))
    steps = sorted({t for _, t in table.cells})
    across = 1 + max(head or 0 for _, head in heads.values())
    high = max(LOW, min(TALL, TALLEST / len(rows)))
    numbers = len(steps) * across * 0.46 <= WIDEST and high > 0.15
    every = max(1, round(0.13 / high))  # names of rows that are shown
    side = 0.46 if numbers else max(0.12, WIDEST / (len(steps) * across))
    names = LETTER * max(len(shorten(row, LONGEST)) for row in rows)
    wide = max(side * across, 0.9) * len(steps) + names + 1.6
    tall = len(scores) * (max(high * len(rows), 1.1) + 0.65) + 0.4
    figure = new_figure((wide, tall))
    axes = figure.subplots(len(scores), len(steps), squeeze=False)
    for score, line in zip(scores, axes, strict=True):
        measure = table.measure(score)
        values = np.full((len(steps), len(rows), across), np.nan)
        for cell, (block, head) in heads.items():
            place = steps.index(cell[1]), rows.index(block), head or 0
            values[place] = table.cells[cell][score] * measure.factor
        scale = Scale.of(values, measure.higher_is_better)
        for k, (axis, t) in enumerate(zip(line, steps, strict=True)):
            shown = {place: shorten(rows[place], LONGEST) for place in range(0, len(rows), every)}
            _panel(axis, values[k], scale, shown if k == 0 else {}, numbers)
            axis.set_title(shown_t(t, "t = ") or TITLES[score], fontsize=9)
        label = TITLES[score] + (f", {measure.unit}" if measure.unit else "") + measure.direction
        colour_bar(figure, list(line), scale, label, _text, ranked=False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, path)


def _apart(table: FreeTable, scores: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """The scores that differ between heads, one at least, and a line for each of the others."""
    drawn = tuple(score for score in scores if table.varies(score)) or scores[:1]
    one = next(iter(table.cells.values()))
    return drawn, [
        f"{TITLES[score]}: {table.measure(score).say(one[score])} everywhere"
        for score in scores
        if score not in drawn
    ]


def _panel(
    axis: Any, values: np.ndarray, scale: Scale, names: dict[int, str], numbers: bool
) -> None:
    """One t: (tensors, heads) values; `names` of rows by their places."""
    colours = scale.colours(values)
    axis.imshow(colours, aspect="auto", interpolation="nearest")
    axis.set_yticks(list(names), list(names.values()), fontsize=8)
    heads = range(0, values.shape[1], 1 if numbers else max(1, values.shape[1] // 6))
    axis.set_xticks(list(heads), [f"h{k}" for k in heads], fontsize=7)
    axis.tick_params(length=2, left=bool(names))
    for (row, column), value in np.ndenumerate(values) if numbers else ():
        if np.isfinite(value):
            axis.text(column, row, _text(value), color=ink(colours[row, column]), ha="center",
                      va="center", fontsize=7)  # fmt: skip


def _text(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
