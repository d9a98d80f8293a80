"""Parts found in pictures, one after another: files, a table, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.cli.dense import DenseRun


@dataclass
class PartsRun(DenseRun):
    """A `DenseRun` of parts, whose table says how many there are and how large the largest is.

    Attributes:
        applied: an `AppliedParts`.
        faults: always told.
    """

    faults: bool = True

    @property
    def columns(self) -> list[str]:
        """Of the table."""
        return ["id", "file", "parts", "largest", *["mIoU"][: self.tally is not None], "error"]

    def _said(self, seen: Any) -> list[str]:
        pixels = np.bincount(seen.values.ravel())
        found = [str(int((pixels > 0).sum())), f"{pixels.max() / pixels.sum():.7g}"]
        if self.tally is not None:
            score = self.tally.update(seen)
            found.append("" if score is None else f"{score:.7g}")
        return found

    def facts(self, count: int) -> dict[str, Any]:
        """Plain values of all that was done."""
        found = {"pictures": count, "predicted": self.done, "skipped": self.skipped}
        if many := self.applied.parts:
            found["parts a picture"] = sum(many) / len(many)
        if self.tally is not None:
            found["scores"] = self.tally.scores()
        return found
