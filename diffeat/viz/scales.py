"""Colours of numbers: a scale that is chosen by the data, and ink that is read on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np

COLOURS = "viridis"
"""Even steps to the eye, also of those who tell red and green apart badly."""
MISSING = "#c8c8c8"
"""Of cells without a number."""
STEEPEST = 12.0
"""Largest power of a scale."""
STRAIGHT = 1.2
"""Largest power of a scale that a reader may take for a linear one."""
LETTERS = 11
"""Of a label, on an inch."""
BENT = "\n(finer steps near the best)"
"""What the bar of a bent scale says of it."""
Colour = Sequence[float]


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour in [0, 1]: 0 black, 1 white.

    Source: WCAG 2.1, "relative luminance".
    """
    parts = np.asarray(colour[:3], np.float64)
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio of two colours, (lighter + 0.05)/(darker + 0.05) in luminance: 1 to 21.

    Source: WCAG 2.1, "contrast ratio"; text of any size is readable from 4.5 on.
    """
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink(colour: Colour) -> str:
    """Black or white, which of them is read better on a colour; the contrast is at least 4.5."""
    black, white = contrast(colour, (0, 0, 0)), contrast(colour, (1, 1, 1))
    return "black" if black >= white else "white"


@dataclass(frozen=True)
class Scale:
    """Where numbers stand between the worst and the best that are shown.

        place = ((value − worst) / (best − worst))^power

    The power puts the median at the middle of the scale where most numbers crowd at the good end:
    99 and 96 per cent are two colours even if another cell has 30. It is 1, a plain linear scale,
    where the median lies below the middle anyway: what is bad needs no fine steps.

    Attributes:
        worst, best: ends, in shown units; nan of no numbers.
        power: at least 1.
    """

    worst: float
    best: float
    power: float = 1.0

    @classmethod
    def of(cls, values: Any, higher_is_better: bool = True) -> Scale:
        """The scale of some numbers; nan among them plays no part."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(np.nan, np.nan)
        worst, best = values.min(), values.max()
        if not higher_is_better:
            worst, best = best, worst
        if worst == best:
            return cls(float(worst), float(best))
        median = float(np.median((values - worst) / (best - worst)))
        power = STEEPEST if median >= 1 else np.log(0.5) / np.log(max(median, 1e-9))
        return cls(float(worst), float(best), float(np.clip(power, 1.0, STEEPEST)))

    @property
    def constant(self) -> bool:
        """Whether there is nothing to tell apart."""
        return self.worst == self.best or not np.isfinite(self.worst)

    def places(self, values: Any) -> np.ndarray:
        """Places in [0, 1] of numbers; 1 is the best. nan stays nan."""
        values = np.asarray(values, np.float64)
        if self.constant:
            return np.where(np.isfinite(values), 1.0, np.nan)
        share = np.clip((values - self.worst) / (self.best - self.worst), 0, 1)
        return share**self.power

    def value(self, place: float) -> float:
        """The number at a place; the inverse of `places`."""
        return self.worst + (self.best - self.worst) * place ** (1 / self.power)

    def colours(self, values: Any) -> np.ndarray:
        """(…, 4) RGBA in [0, 1] of numbers; grey of nan."""
        return colour_map()(np.ma.masked_invalid(self.places(values)))


def colour_map(name: str = COLOURS) -> Any:
    """A colour map of matplotlib, in which what is missing is grey."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=MISSING)


def colour_bar(
    figure: Any, axes: Any, scale: Scale, label: str, show: Any, ranked: bool = True
) -> None:
    """A bar beside axes with the ends and three numbers between them, evenly spaced in colour.

    Args:
        label: what the numbers are, with their unit.
        show: number → its text.
        ranked: whether more is better, or worse; the ends then say so.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mapped = ScalarMappable(Normalize(0, 1), colour_map())
    places = [1.0] if scale.constant else [0.0, 0.25, 0.5, 0.75, 1.0]
    texts = [show(scale.value(place)) for place in places]
    if len(texts) > 1 and ranked:
        texts[0], texts[-1] = f"{texts[0]} worst", f"{texts[-1]} best"
    bar = figure.colorbar(mapped, ax=axes, pad=0.02, fraction=0.05, aspect=24)
    bar.set_ticks(places, labels=texts, fontsize=8)
    bent = scale.power > STRAIGHT and not scale.constant
    first = np.ravel(axes)[0]
    inches = figure.get_figheight() / first.get_subplotspec().get_gridspec().nrows
    lines = "\n".join(wrap(label, int(LETTERS * inches)))
    bar.set_label(lines + BENT * bent, fontsize=9)
