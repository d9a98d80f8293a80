"""Dot plots: every row is drawn where its numbers say, whatever it is called."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffeat.viz.curves import BLUE, GREEN, ORANGE
from diffeat.viz.dots import Dot, dot_plot

DOTS = (
    Dot("plain", 40.0, (35.0, 45.0)),
    Dot("a_b$c$ " * 9, 80.0, (70.0, 90.0), 40.0, (30.0, 50.0), 1),
    Dot("floor", 10.0, None, -30.0, (-40.0, -20.0), -1, True),
)


def places(pixels: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in which pixels of a picture have a colour."""
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    same = (np.abs(pixels.astype(int) - wanted) < 8).all(2)
    return np.flatnonzero(same.any(1)), np.flatnonzero(same.any(0))


def test_colours_stand_in_the_order_of_the_rows(tmp_path):
    dot_plot(DOTS, tmp_path / "d.png", "accuracy, %", "plain", "a title of $many$ words " * 12)
    with Image.open(tmp_path / "d.png") as picture:
        found = {one: places(np.asarray(picture.convert("RGB")), one)
                 for one in (BLUE, GREEN, ORANGE)}  # fmt: skip
    rows = [rows for rows, _ in found.values()]
    assert rows[0].max() < rows[1].min() < rows[1].max() < rows[2].min()
    gaps = [int((np.diff(columns) > 100).sum()) for _, columns in found.values()]
    assert gaps == [0, 1, 1]  # the reference has no difference; the others stand in both halves
