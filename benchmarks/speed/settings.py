"""What the user asked of the speed suite, and the defaults of a whole and of a quick run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """One run of the suite.

    Attributes:
        parts: letters, in order.
        device: as `diffeat.load` takes it.
        model: takes the place of the model that a part measures by itself.
        quick: everything small, to see that it works; the figures mean little.
        timesteps, blocks: of part a, with another model.
        size: (H, W) in pixels of the pictures of a, b, c and f.
        pictures: how many a, b and c take.
        features: a feature file for h, in place of an extraction.
        batch: rows of one forward in a, b and c.
        alone: whether the parts were named by the user, and not just all of them meant.
        seed: of noise, pictures and random weights.
    """

    parts: tuple[str, ...] = tuple("abcdefghijkl")
    device: str = "auto"
    model: str | None = None
    quick: bool = False
    timesteps: tuple = ()
    blocks: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    pictures: int | None = None
    features: Path | None = None
    batch: int | None = None
    alone: bool = False
    seed: int = 0

    def by_length(self, whole: Value, quick: Value) -> Value:
        """One of two defaults."""
        return quick if self.quick else whole
