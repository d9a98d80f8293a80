"""Confusion matrices: which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from diffeat.errors import SpecError
from diffeat.viz.figures import new_figure, save, shorten
from diffeat.viz.scales import colour_map, ink

BOTH, COUNTS = 12, 24
"""Up to so many classes cells show counts and shares; counts alone."""
FAINTEST = 0.5
"""Power of the colour scale: one picture in a hundred is seen beside ninety."""
MARKS = (0, 1, 5, 10, 25, 50, 75, 100)
"""Per cent on the colour bar."""
LISTED = 5
"""Confusions that are listed as text."""
LONGEST = 22
"""Letters of a class name."""


class Confusion(NamedTuple):
    """How often a class was taken for another one; `share` is of the pictures of the true one."""

    true: str
    predicted: str
    count: int
    share: float


def largest_confusions(
    matrix: np.ndarray, names: Sequence[str], most: int = LISTED
) -> list[Confusion]:
    """The pairs of classes that are mixed up most, by count, then by share.

    Args:
        matrix: (K, K) counts, truth in rows (`probes.metrics.confusion_matrix`).
        names: of the K classes.
        most: at most so many.
    """
    matrix = _checked(matrix, names)
    shares = row_shares(matrix)
    pairs = [(i, j) for i, j in np.argwhere(matrix > 0).tolist() if i != j]
    pairs.sort(key=lambda pair: (-matrix[pair], -shares[pair], pair))
    return [
        Confusion(names[i], names[j], int(matrix[i, j]), float(shares[i, j]))
        for i, j in pairs[:most]
    ]


def confusion_lines(matrix: np.ndarray, names: Sequence[str], most: int = LISTED) -> list[str]:
    """`largest_confusions` as text, a line each; one line that there are none."""
    found = largest_confusions(matrix, names, most)
    if not found:
        return ["no picture was taken for another class"]
    return [
        f"{one.true} taken for {one.predicted}: {one.count:,} ({100 * one.share:.1f} % of "
        f"{one.true})"
        for one in found
    ]


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """(K, K) of counts: shares of the true class; nan in rows without a picture."""
    totals = matrix.sum(1, keepdims=True)
    return np.where(totals > 0, matrix / np.maximum(totals, 1), np.nan)


def confusion_picture(
    matrix: np.ndarray,
    names: Sequence[str],
    path: str | Path | IO[bytes],
    title: str = "",
) -> None:
    """Write a picture of a confusion matrix: true classes down, predicted ones across.

    The colour is the share of the true class; its scale is finer at the low end, where confusions
    are. Up to 12 classes each cell has count and share, up to 24 the count alone. Classes without
    a picture are grey.

    Args:
        matrix: (K, K) counts, truth in rows.
        names: of the K classes.
        path: the picture; its suffix says the format (PNG without one), or an open file.
        title: headline.

    Raises:
        SpecError: no square matrix of K rows.
    """
    matrix = _checked(matrix, names)
    count, shares = len(matrix), row_shares(matrix)
    side = 0.56 if count <= BOTH else 0.34 if count <= COUNTS else max(0.1, 8.0 / count)
    labels = [shorten(name, LONGEST) for name in names]
    letters = 0.08 * max(map(len, labels)) + 0.4
    wide = max(side * count, 2.2)
    figure = new_figure((wide + letters + 1.1, wide + letters + (0.5 if title else 0.2)))
    axis = figure.subplots()
    colours = colour_map("cividis")(np.ma.masked_invalid(shares**FAINTEST))
    axis.imshow(colours, interpolation="nearest")
    # letters are 8 pt, or smaller where rows are closer than that
    size = min(9.0, max(4.5, 72 * side * 0.85))
    turned = 0.08 * max(map(len, labels)) + 0.05 > side
    axis.set_xticks(range(count), labels, fontsize=size, rotation=90 * turned)
    axis.set_yticks(range(count), labels, fontsize=size)
    axis.tick_params(length=2)
    axis.set_xlabel("predicted", fontsize=9)
    axis.set_ylabel("true", fontsize=9)
    for text in [*axis.get_xticklabels(), *axis.get_yticklabels()]:
        text.set_parse_math(False)
    _write_cells(axis, matrix, shares, colours)
    _bar(figure, axis)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save(figure, path)


def _checked(matrix: np.ndarray, names: Sequence[str]) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.shape != (len(names), len(names)) or not len(names):
        raise SpecError(f"a confusion matrix of shape {matrix.shape} with {len(names)} names; "
                        "expected (K, K) counts and K names")  # fmt: skip
    return matrix


def _write_cells(axis: Any, matrix: np.ndarray, shares: np.ndarray, colours: np.ndarray) -> None:
    """Counts, and shares below them, where there is room; nothing in cells of 0."""
    if len(matrix) > COUNTS:
        return
    for i, j in np.argwhere(matrix > 0):
        text = f"{matrix[i, j]:,}"
        if len(matrix) <= BOTH:
            text += f"\n{100 * shares[i, j]:.0f} %"
        axis.text(j, i, text, ha="center", va="center", color=ink(colours[i, j]), linespacing=1.0,
                  fontsize=8 if len(matrix) <= BOTH else 7)  # fmt: skip


def _bar(figure: Any, axis: Any) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mapped = ScalarMappable(Normalize(0, 1), colour_map("cividis"))
    bar = figure.colorbar(mapped, ax=axis, fraction=0.05, pad=0.02, aspect=24)
    bar.set_ticks([(mark / 100) ** FAINTEST for mark in MARKS], labels=map(str, MARKS), fontsize=8)
    bar.set_label("of the pictures of the true class, %", fontsize=9)
