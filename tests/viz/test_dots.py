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


def rows_of(pixels: np.ndarray, colour: str, columns: slice) -> np.ndarray:
    """Rows of a picture in which pixels have a colour."""
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return np.flatnonzero((np.abs(pixels[:, columns].astype(int) - wanted) < 8).all(2).any(1))


def test_colours_stand_in_the_order_of_the_rows(tmp_path):
    dot_plot(DOTS, tmp_path / "d.png", "accuracy, %", "plain", "a title of $many$ words " * 12)
    with Image.open(tmp_path / "d.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    half = pixels.shape[1] // 2
    blue, green, orange = (rows_of(pixels, one, slice(0, half)) for one in (BLUE, GREEN, ORANGE))
    assert blue.max() < green.min() < green.max() < orange.min()
    assert not len(rows_of(pixels, BLUE, slice(half + 40, None)))  # the reference has no difference
    assert len(rows_of(pixels, GREEN, slice(half, None)))
