"""The noise levels of a feature file, found again by whatever they were asked for by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from diffeat.cells import level_text
from diffeat.errors import SpecError, brief
from diffeat.noise import NoiseLevel, NoLevel, format_t, parse_level, snr_of

NEAR = 3
"""Levels that a message names."""


class StoredLevel(NamedTuple):
    """A level, and what was written for it where that was not native t."""

    level: NoiseLevel
    asked: str | None


def readable(asked: str | None) -> str | None:
    """What a file says was asked for; None where that is no way to ask, as in a damaged file."""
    with suppress(SpecError):
        if asked is not None and parse_level(asked):
            return asked
    return None


def find_level(name: str, levels: Sequence[StoredLevel], wanted: Any) -> NoiseLevel:
    """The level that `wanted` means: native t, or what the extraction was asked for.

    A ratio (sigma=0.3, snr=10) also finds a level that has exactly this ratio, and a flow time
    that of a straight path. How a model rounds ratios to its steps, a file does not know, so no
    other value finds anything.

    Args:
        name: of the file, for messages.

    Raises:
        SpecError: the file has no such level; says what it has.
    """
    wanted = wanted.item() if getattr(wanted, "shape", None) == () else wanted
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float, str)):
        raise SpecError(f"t={brief(wanted)} is no noise level; expected 20, 'sigma=0.3', …")
    kind, value = parse_level(wanted) if isinstance(wanted, str) else (None, wanted)
    for one in levels:
        if _means(one, kind, value):
            return one.level
    asked = f"t={format_t(value)}" if kind is None else wanted.strip()
    if isinstance(levels[0].level.t, NoLevel):
        raise SpecError(f"{name} has no {asked}: a vision model's features have no noise levels")
    raise SpecError(f"{name} has no {asked}; {_instead(levels, kind, value)}")


def _means(one: StoredLevel, kind: str | None, value: float) -> bool:
    level, asked = one
    if kind is None:
        flows = math.isclose(level.alpha + level.sigma, 1, abs_tol=1e-9) and level.sigma > 0
        time = flows and isinstance(value, float) and math.isclose(value, level.sigma)
        return value == level.t or asked == format_t(value) or time
    snrs = [math.exp(level.log_snr)] if math.isfinite(level.log_snr) else []
    if asked is not None and (parsed := parse_level(asked))[0] is not None:
        snrs.append(snr_of(*parsed))
    return any(math.isclose(snr_of(kind, value), snr, rel_tol=1e-9) for snr in snrs)


def _instead(levels: Sequence[StoredLevel], kind: str | None, value: float) -> str:
    """What there is; near a ratio, the nearest in log-SNR."""
    if kind is None:
        return "it has " + ", ".join(format_t(one.level.t) for one in levels)
    wanted = np.log(snr_of(kind, value))
    near = sorted(levels, key=lambda one: abs(one.level.log_snr - wanted))[:NEAR]
    named = [
        f"t={format_t(level.t)} ({level_text(level)}" + (f", asked as {asked})" if asked else ")")
        for level, asked in near
    ]
    return f"it was not asked for that; nearest are {', '.join(named)}"
