"""What the speed suite's tables are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Lines = list[str]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Lines:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]


def spread(ratio: dict[str, Any], digits: int = 2) -> str:
    low, high = ratio["min"], ratio["max"]
    return f"{ratio['median']:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def sides(values: Sequence[int]) -> str:
    return " × ".join(map(str, values))
