"""Numbers with their intervals, one line each: dots on whiskers, differences beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import IO, Any

from diffeat.viz.curves import BLUE, GREEN, GREY, ORANGE
from diffeat.viz.figures import save, shorten, subplots

Interval = tuple[float, float]
ROW, ACROSS = 0.34, 100
"""Inches of a line; letters of a title's line."""


@dataclass(frozen=True)
class Dot:
    """One line.

    Attributes:
        name: at its left.
        value, ends: the number and its interval, in shown units.
        difference, difference_ends: to the reference; None of the reference itself.
        verdict: 1 better, -1 worse, 0 neither.
        faint: whether it is no system but a floor.
    """

    name: str
    value: float
    ends: Interval | None
    difference: float | None = None
    difference_ends: Interval | None = None
    verdict: int = 0
    faint: bool = False


def dot_plot(
    dots: Sequence[Dot], path: str | Path | IO[bytes], label: str, against: str, title: str = ""
) -> None:
    """Write a picture of numbers and of their differences to one of them, side by side.

    What is better or worse than the reference is drawn in its own colour, with another mark; floors
    have open ones.

    Args:
        dots: one or more, the first on top.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        label: what the numbers are: "accuracy, %".
        against: name of the reference.
        title: headline.
    """
    size = (9.0, 1.35 + ROW * len(dots) + 0.16 * len(wrap(title, ACROSS)))
    figure, axes = subplots(1, 2, size)
    left, right = axes[0]
    for row, dot in enumerate(dots):
        _mark(left, row, dot.value, dot.ends, dot)
        if dot.difference is not None:
            _mark(right, row, dot.difference, dot.difference_ends, dot)
    right.axvline(0, color=GREY, linewidth=1, linestyle="--")
    names = [shorten(dot.name, 34) for dot in dots]
    left.set_yticks(range(len(dots)), names, fontsize=8, parse_math=False)
    right.set_yticks(range(len(dots)), [""] * len(dots))
    for axis, text in ((left, label), (right, f"difference to {shorten(against, 30)}")):
        axis.set_ylim(len(dots) - 0.5, -0.5)
        axis.set_xlabel(text, fontsize=9, parse_math=False)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(wrap(title, ACROSS)), fontsize=9, parse_math=False)
    save(figure, path)


def _mark(axis: Any, row: int, value: float, ends: Interval | None, dot: Dot) -> None:
    """A mark on its whisker."""
    colour = {1: GREEN, -1: ORANGE, 0: GREY if dot.faint else BLUE}[dot.verdict]
    shape = {1: "^", -1: "v", 0: "o"}[dot.verdict]
    if ends is not None:
        axis.plot(ends, (row, row), color=colour, linewidth=1.8, solid_capstyle="butt")
    axis.plot([value], [row], shape, color=colour, markersize=6,
              markerfacecolor="white" if dot.faint else colour)  # fmt: skip
