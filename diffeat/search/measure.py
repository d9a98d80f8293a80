"""What kind of number a judge gives: its name, its unit, which way is better, how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.search.intervals import accuracy_interval, accuracy_text

SHARE = "%"
"""Unit of numbers in [0, 1] that are shown in per cent."""
DIGITS = {SHARE: 1, "px": 2}


def short(value: float, digits: int = 4) -> str:
    """A number as tables show it: 0.1234, but 1.23e-05 where that would be zeros."""
    if 0 < abs(value) < 0.01:
        return f"{value:.{digits - 2}e}"
    return f"{value:.{digits}f}"


@dataclass(frozen=True)
class Measure:
    """A kind of number.

    Attributes:
        name: of the number, such as "accuracy".
        unit: "%" (of shares in [0, 1]), "px", …; "" for none.
        higher_is_better: the direction.
        pictures: test pictures (or pairs) that a test score is of.
        groups: of how many groups these are; intervals count groups, which alone are independent.
        counted: whether it is the share of test pictures that are right, whose interval is
            Wilson's.
        rows: what the number is of: "pictures" or "pairs".
        ranked: whether more is better, or worse, and not only more.
    """

    name: str = "accuracy"
    unit: str = SHARE
    higher_is_better: bool = True
    pictures: int = 0
    groups: int = 0
    counted: bool = False
    rows: str = "pictures"
    ranked: bool = True

    # which way is better is decided in these four and nowhere else

    def goodness(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Numbers of which higher is better."""
        values = np.asarray(values, np.float64)
        return values if self.higher_is_better else -values

    def best(self, values: Sequence[float] | np.ndarray) -> int:
        """Place of the best value; the first of equals. nan is never the best."""
        return int(np.nanargmax(self.goodness(values)))

    def order(self, values: Sequence[float] | np.ndarray) -> list[int]:
        """Places from the best value to the worst; equals stay in order."""
        return np.argsort(-self.goodness(values), kind="stable").tolist()

    def gain(self, new: float, old: float) -> float:
        """By how much `new` is better than `old`; negative where it is worse."""
        return new - old if self.higher_is_better else old - new

    def to_dict(self) -> dict[str, Any]:
        """Name, unit and direction."""
        names = ("name", "unit", "higher_is_better")
        return {name: getattr(self, name) for name in names}

    # how numbers are said

    @property
    def factor(self) -> float:
        """Of shown numbers to kept ones."""
        return 100.0 if self.unit == SHARE else 1.0

    @property
    def direction(self) -> str:
        """ "" or " (lower is better)"."""
        return "" if self.higher_is_better else " (lower is better)"

    def show(self, value: float, digits: int = 4) -> str:
        """A number without its unit; `digits` where the unit has none of its own."""
        if self.unit in DIGITS:
            return f"{self.factor * value:.{DIGITS[self.unit]}f}"
        return short(value, digits)

    def say(self, value: float) -> str:
        """ "91.2 %", "3.20 px", "0.1234"."""
        return f"{self.show(value)} {self.unit}".rstrip()

    def change(self, gain: float) -> str:
        """A gain with its sign: "+1.2"."""
        return f"+{self.show(gain)}" if gain >= 0 else self.show(gain)

    def interval(self, test: float | None) -> tuple[float, float] | None:
        """95 % Wilson interval of a test score that counts right ones; None for other scores."""
        if test is None or not self._counts(test):
            return None
        return accuracy_interval(test, self.groups)

    def _counts(self, test: float) -> bool:
        """Whether a score counts right ones; a function of the user's may give anything."""
        return self.counted and 0 <= test <= 1

    def say_test(self, test: float, interval: tuple[float, float] | None = None) -> str:
        """A test score with its interval and what it is of."""
        if self._counts(test):
            return accuracy_text(test, self.pictures, self.groups)
        text = self.say(test)
        if interval is not None:
            low, high = map(self.show, interval)
            text += f" (95 % interval {low} to {high}, bootstrap of {self.groups} groups)"
        return f"{text} on {self.pictures} test {self.rows}"
