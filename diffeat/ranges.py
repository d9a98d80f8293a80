"""Ranges of noise levels: "0:1000:100" is start:stop:step like Python's range."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from diffeat.errors import SpecError

MOST = 1000
"""No range means more levels: as many as a schedule of 1000 steps has."""
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"\s*({NUMBER})\s*:\s*({NUMBER})\s*(?::\s*({NUMBER})\s*)?")


def expand_ranges(levels: Iterable[Any]) -> tuple[Any, ...]:
    """Noise levels with every range among them spelled out.

        start:stop:step → start, start + step, … as long as it is below stop (above, for step < 0)

    Whole numbers give whole numbers, which are native t's; if one of the three has a fraction, all
    are fractions: flow times, or sigmas of EDM models. They are added up in decimals, so "0:1:0.1"
    holds 0.3 itself. Without a step it is 1, for whole numbers alone.

    Args:
        levels: what a spec holds; everything but a text with ":" is passed on.

    Raises:
        SpecError: no such range, an empty one, or more than `MOST` levels.
    """
    found: list[Any] = []
    for level in levels:
        found += _range(level) if isinstance(level, str) and ":" in level else [level]
    return tuple(found)


def _range(text: str) -> list[int] | list[float]:
    match = RANGE.fullmatch(text)
    if match is None:
        raise SpecError(
            f"t={text!r} is no range; expected start:stop:step like Python's range, such as "
            "0:1000:100 (the stop is left out), or 0:1:0.1 for flow models"
        )
    start, stop, step = (Decimal(word or "1") for word in match.groups())
    whole = all(re.fullmatch(r"[-+]?\d+", word) for word in match.groups() if word)
    if not whole and match[3] is None:
        raise SpecError(f"t={text!r} has no step; expected one for fractions, such as {text}:0.1")
    if step == 0:
        raise SpecError(f"t={text!r}: a step of 0 gets nowhere; expected another")
    try:
        steps = (stop - start) / step
    except ArithmeticError:
        raise SpecError(f"t={text!r} goes beyond all numbers; expected smaller ones") from None
    if steps <= 0:
        raise SpecError(
            f"t={text!r} is an empty range; expected a stop that lies in the step's direction"
        )
    if steps > MOST:
        count = f"{math.ceil(steps):,}" if steps < 1e15 else f"{steps:.3g}"
        raise SpecError(
            f"t={text!r} means {count} noise levels, more than {MOST:,}; expected a larger step"
        )
    values = [start + k * step for k in range(math.ceil(steps))]
    return [int(value) if whole else float(value) for value in values]
