"""Label-free numbers of cells as text, CSV and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.noise import shown_t
from diffeat.search.grid import Grid, aligned, write_rows
from diffeat.search.measure import SHARE, Measure, short
from diffeat.search.tasks import CellKey

HEAD = re.compile(r"(?P<block>.+)\.h(?P<head>\d+)")
"""The name of one head of a tensor."""
TITLES = {
    "frequency": "high-frequency ratio", "lds": "LDS", "rank": "effective rank",
    "massive": "massive-channel share", "agreement": "agreement of two noisings",
}  # fmt: skip
"""Score → heading."""
UNITS = {"frequency": SHARE, "massive": SHARE}
LOWER = ("massive",)
"""Scores of which less is what their authors want."""


def head_of(block: str) -> tuple[str, int | None]:
    """("up.1.attn.0:self.q", 3) of "up.1.attn.0:self.q.h3"; None where it is no head."""
    found = HEAD.fullmatch(block)
    return (found["block"], int(found["head"])) if found else (block, None)


@dataclass
class FreeTable:
    """Label-free numbers of cells.

    Attributes:
        name: of the model.
        scores: names of the numbers.
        cells: (block, t) → name → number; further names stand beside the scores, such as
            the two parts of agreement. A head is a block of its own, "….h3".
        pictures: how many were looked at.
    """

    name: str
    scores: tuple[str, ...]
    cells: dict[CellKey, dict[str, float]]
    pictures: int

    @classmethod
    def of(
        cls, name: str, scores: Sequence[str], cells: Mapping[CellKey, dict[str, float]],
        pictures: int, order: Mapping[str, int] | None = None,
    ) -> FreeTable:  # fmt: skip
        """A table, its blocks in the order of execution where that is given.

        Args:
            order: block, without its head → its place.
        """
        keys = list(cells)
        if order is not None:
            keys.sort(key=lambda cell: (_place(cell[0], order), cell[1]))
        return cls(name, tuple(scores), {key: cells[key] for key in keys}, pictures)

    def grid(self, score: str) -> Grid:
        """One number over (block, t)."""
        values = {cell: found[score] for cell, found in self.cells.items()}
        return Grid(TITLES[score], values, self.measure(score))

    @staticmethod
    def measure(score: str) -> Measure:
        """What kind of number it is; which way is better is what its authors claim."""
        return Measure(TITLES[score], UNITS.get(score, ""), score not in LOWER)

    @property
    def grids(self) -> list[Grid]:
        """One per score."""
        return [self.grid(score) for score in self.scores]

    def best(self, score: str) -> CellKey:
        """The cell that a number would choose; the first of equals."""
        return self.grid(score).best

    def varies(self, score: str) -> bool:
        """Whether a number tells cells apart at all."""
        return len({found[score] for found in self.cells.values()}) > 1

    def ranked(self, score: str) -> list[CellKey]:
        """All cells, from the best by a number; equals stay in order."""
        cells = list(self.cells)
        order = self.measure(score).order([self.cells[cell][score] for cell in cells])
        return [cells[place] for place in order]

    def lines(self, score: str | None = None, top: int | None = None) -> list[str]:
        """A line per cell and a column per score; the best of each is starred.

        Args:
            score: what they are sorted by; None leaves them in order.
            top: only so many.
        """
        cells = list(self.cells) if score is None else self.ranked(score)
        heads = any(head_of(block)[1] is not None for block, _ in cells)
        best = {name: self.best(name) for name in self.scores if self.varies(name)}
        rows = [["block", *(["head"] if heads else []), "t", *(f"{n} " for n in self.scores)]]
        for cell in cells[:top]:
            block, head = head_of(cell[0])
            numbers = [self._shown(cell, name) + ("*" if best.get(name) == cell else " ")
                       for name in self.scores]  # fmt: skip
            shown = "" if head is None else str(head)
            rows.append([block, *([shown] if heads else []), shown_t(cell[1]), *numbers])
        return aligned(rows, range(1, len(rows[0])))

    def _shown(self, cell: CellKey, score: str) -> str:
        value, measure = self.cells[cell][score], self.measure(score)
        return measure.show(value) if measure.unit else short(value)

    def rows(self) -> list[dict[str, Any]]:
        """Plain values of every cell."""
        found = []
        for (block, t), values in self.cells.items():
            place, head = head_of(block)
            found.append({"block": place, **({} if head is None else {"head": head}), "t": t,
                          **values})  # fmt: skip
        return found

    def to_dict(self) -> dict[str, Any]:
        best = {
            score: dict(zip(("block", "t"), self.best(score), strict=True)) for score in self.scores
        }
        return {"name": self.name, "pictures": self.pictures, "scores": list(self.scores),
                "lower_is_better": [s for s in self.scores if s in LOWER], "best": best,
                "cells": self.rows()}  # fmt: skip

    def write_csv(self, path: str | Path) -> None:
        """One row per cell: block, head where it has one, t, and all numbers."""
        write_rows(path, (
            {name: shown_t(value) if name == "t" else _written(value)
             for name, value in row.items()} for row in self.rows()
        ))  # fmt: skip


def _written(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def _place(block: str, order: Mapping[str, int]) -> tuple[int, int]:
    """Where a block, or a head of one, stands in the order of execution."""
    if block in order:
        return order[block], -1
    place, head = head_of(block)
    return order.get(place, len(order)), -1 if head is None else head
