"""How what is said of a picture's pixels looks: masks, uncertainty and depth, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.viz.masks import (
    BACKGROUNDS,
    class_entries,
    class_overlay,
    heat,
    with_legend,
)
from diffeat.viz.scales import colour_map


@dataclass(frozen=True, eq=False)
class Looks:
    """Drawings of the results of one head.

    Attributes:
        names: of the K classes; () of depth.
        colours: (K, 3) uint8.
    """

    names: Sequence[str] = ()
    colours: Any = ()

    def mask(self, picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """A picture under its classes, seen through background; the legend has what occurs.

        Args:
            picture: (H, W, 3) uint8.
            labels: (H, W) class indices.

        Returns:
            (h, w, 3) uint8, the picture in the top left corner.
        """
        clear = [k for k, name in enumerate(self.names) if str(name).lower() in BACKGROUNDS]
        laid = class_overlay(picture, labels, self.colours, clear)
        count = np.bincount(labels.ravel(), minlength=len(self.names))[: len(self.names)]
        return with_legend(laid, class_entries(count / labels.size, self.names, self.colours))

    def uncertainty(self, picture: np.ndarray, values: np.ndarray, most: float) -> np.ndarray:
        """A grey picture under (H, W) uncertainties, dark at 0.

        It is lightest from where only a hundredth of the picture is less sure, since `most`, the
        largest that can be, is hardly ever met; the legend says the numbers.
        """
        top = min(most, max(float(np.quantile(values, 0.99)), most / 256))
        laid = heat(values, 0, top, picture)
        return with_legend(laid, _scale((0, top / 2, top), "magma", "uncertainty "))

    def depth(self, values: np.ndarray) -> np.ndarray:
        """(H, W) metres as colours, the nearest the lightest; what is not known is grey."""
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        shown = heat(-values, -high, -low, colours="viridis")
        ends = (-low, -(low + high) / 2, -high)
        return with_legend(shown, _scale(ends, "viridis", "", " m", -1))


def _scale(
    values: Sequence[float], colours: str, before: str = "", after: str = "", sign: int = 1
) -> list[tuple[Any, str]]:
    """A legend's entries of numbers on a colour map, whose ends are their extremes."""
    low, high = min(values), max(values)
    found = []
    for k, value in enumerate(values):
        place = (value - low) / max(high - low, 1e-12)
        colour = np.round(255 * np.array(colour_map(colours)(place)[:3]))
        found.append((colour, f"{before if k == 0 else ''}{sign * value:.3g}{after}"))
    return found
