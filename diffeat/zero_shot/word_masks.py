"""Masks of words from their heat: at every pixel the word with the most heat, or background.

    k(x) = argmax_k h_k(x);    background where max_k h_k(x) is below a threshold,
                               or where k is one of the background's words

h is the heat between its smallest and largest value in the picture: of each word by itself, or
of all words together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import SpecError
from diffeat.search.applied import Piece
from diffeat.search.dense.applied import Seen
from diffeat.words.vocabulary import Vocabulary
from probes.maps import Maps

BACKGROUND = "background"
"""Name of the class that is no word."""
HEAT = "heat"
"""Key of heat among the arrays of a piece."""
NORMALISE = ("word", "picture", "none")
"""Heat between 0 and 1: each word by itself, all words together, or as it is."""
OTSU = "otsu"
WHOLE = 255
"""Classes of a mask of bytes, beside the label that does not count."""
BINS = 256
"""Of the histogram that Otsu's threshold is looked for in."""


@dataclass(frozen=True)
class Background:
    """What is none of the words.

    Attributes:
        threshold: heat below which a pixel is background; None: none is.
        otsu: the threshold is Otsu's of each picture's largest heat.
        words: further words of the prompt, whose pixels are background.
    """

    threshold: float | None = None
    otsu: bool = False
    words: Vocabulary | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise SpecError(f"background={self.threshold:g}; expected a threshold between 0 and 1 "
                            "of a word's heat, otsu, none, or words such as sky,grass")  # fmt: skip

    @classmethod
    def of(cls, text: str) -> Background:
        """From what a user writes: "0.4", "otsu", "none", or words "sky,grass"."""
        if text in (OTSU, "none"):
            return cls(otsu=text == OTSU)
        try:
            number = float(text)
        except ValueError:
            return cls(words=Vocabulary.of(text))
        return cls(threshold=number)

    @property
    def there(self) -> bool:
        """Whether a pixel can be background."""
        return self.threshold is not None or self.otsu or self.words is not None

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"{self.threshold:g}"
        return OTSU if self.otsu else ",".join(self.words.names) if self.words else "none"


@dataclass
class WordMasks:
    """Classes of pixels from heat, in the manner of a kept segmentation head.

    Args:
        vocabulary: of the K classes.
        background: see `Background`; where there is one it is class 0.
        normalise: one of `NORMALISE`.
        input_size: (H, W) in pixels of what the heat covers.

    Attributes:
        names: of all classes, by index.
    """

    vocabulary: Vocabulary
    background: Background = field(default_factory=lambda: Background(0.4))
    normalise: str = "word"
    input_size: tuple[int, int] | None = None
    kind: str = field(init=False, default="masks")
    names: tuple[str, ...] = field(init=False)
    ignore: int = field(init=False)
    palette: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISE:
            raise SpecError(f"normalise={self.normalise!r}; expected {', '.join(NORMALISE)}")
        if self.normalise == "none" and self.background.threshold is not None:
            raise SpecError(
                "normalise=none leaves heat as it is, on no scale that a threshold is of; expected "
                "normalise=word or picture, or background=otsu, none or words"
            )
        words = self.vocabulary.names
        if self.background.there and BACKGROUND in (word.casefold() for word in words):
            raise SpecError(f"{BACKGROUND!r} is one of the words; leave it out, or say "
                            "background=none")  # fmt: skip
        self.names = (BACKGROUND,) * self.background.there + words
        self.ignore = 255 if len(self.names) <= WHOLE else 65535

    @property
    def classes(self) -> tuple[Any, ...]:
        """Classes that heat is of: the words, then those of the background."""
        more = () if self.background.words is None else self.background.words.classes
        return (*Vocabulary((*self.vocabulary.classes, *more), "the words and background").classes,)

    @property
    def dtype(self) -> np.dtype:
        """Of masks."""
        return np.dtype(np.uint8 if len(self.names) <= WHOLE else np.uint16)

    def predict(self, piece: Piece, uncertain: bool = False) -> Iterator[Seen]:
        """Masks of the pictures of a piece, one after another.

        Args:
            piece: `arrays[HEAT]` is (n, K', h, w); -inf of words that a picture does not have.
        """
        for place, row in enumerate(piece.rows.tolist()):
            size = tuple(int(side) for side in piece.sizes[place])
            yield self.seen(row, piece.arrays[HEAT][place], size, piece.placements[place])

    def seen(
        self, row: int, heat: np.ndarray, size: tuple[int, int], placement: Any = None
    ) -> Seen:
        """The mask of one picture.

        Args:
            heat: (K', h, w), the words' and then those of the background's words.
            size: (H, W) of the upright picture.
            placement: (4,) of its input; None: it was squashed.

        Returns:
            Classes; where the picture has none of the words, background, or `ignore` without one.
        """
        best, most, shown = None, None, None
        limits = self._limits(heat, size, placement)
        for k, (values, seen) in enumerate(self._each(heat, size, placement)):
            if values is None:
                continue
            shown = seen
            low, high = limits[k]
            values = (values - low) / (high - low) if high > low else np.zeros_like(values)
            if best is None:
                best, most = np.full(size, k, np.int64), values
            else:
                better = values > most
                best, most = np.where(better, k, best), np.where(better, values, most)
        if best is None:  # none of its words is in its prompt
            none = 0 if self.background.there else self.ignore
            return Seen(row, np.full(size, none, self.dtype), np.ones(size, bool))
        return Seen(row, self._labels(best, most, shown).astype(self.dtype), shown)

    def _labels(self, best: np.ndarray, most: np.ndarray, shown: np.ndarray) -> np.ndarray:
        if not self.background.there:
            return best
        behind = best >= len(self.vocabulary)  # a word of the background
        if self.background.otsu:
            behind |= most <= otsu(most[shown])
        elif self.background.threshold is not None:
            behind |= most < self.background.threshold
        return np.where(behind, 0, best + 1)

    def _each(self, heat: np.ndarray, size: tuple[int, int], placement: Any) -> Iterator[tuple]:
        """((H, W) heat at every pixel or None, (H, W) bool shown) of each word, one at a time."""
        for one in heat:
            if not np.isfinite(one).all():
                yield None, None
                continue
            maps = Maps({HEAT: one[None]}, size, self.input_size or size, placement)
            values, shown = maps.resize(HEAT)
            yield values[0], shown

    def _limits(self, heat: np.ndarray, size: tuple[int, int], placement: Any) -> list[tuple]:
        """What becomes 0 and 1 of each word's heat, over pixels that the input shows."""
        if self.normalise == "none":
            return [(0.0, 1.0)] * len(heat)
        ends = []
        for values, shown in self._each(heat, size, placement):
            inside = values[shown] if values is not None else np.zeros(0)
            ends.append((inside.min(), inside.max()) if inside.size else (0.0, 0.0))
        known = [end for end, one in zip(ends, heat, strict=True) if np.isfinite(one).all()]
        if self.normalise == "word" or not known:
            return ends
        low, high = zip(*known, strict=True)
        return [(min(low), max(high))] * len(heat)


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold: the two sides of it differ the most.

        argmax over thresholds of n_0·n_1·(mean_0 - mean_1)²

    Args:
        values: any numbers.

    Returns:
        A threshold; what is above it is one side.

    Source: Otsu 1979, on a histogram of 256 bins.
    """
    count, ends = np.histogram(values, BINS)
    middle = (ends[1:] + ends[:-1]) / 2
    below, total = np.cumsum(count), np.cumsum(count * middle)
    above = below[-1] - below
    means = total / np.maximum(below, 1) - (total[-1] - total) / np.maximum(above, 1)
    return float(ends[1:][int(np.argmax(below * above * means**2))])


def heat_on(
    heat: np.ndarray, size: tuple[int, int], input_size: tuple[int, int], placement: Any = None
) -> np.ndarray:
    """Heat between 0 and 1 at every pixel of a picture, each word by itself.

    Args:
        heat: (K, h, w) on the input's grid.
        size: (H, W) of the upright picture in pixels.
        input_size: (H, W) of the input in pixels.
        placement: (4,) of the input in the picture; None: it was squashed.

    Returns:
        (K, H, W) float32; nan of a word whose heat is not finite.
    """
    found: list[np.ndarray] = []
    for one in heat:
        if not np.isfinite(one).all():
            found.append(np.full(size, np.nan, np.float32))
            continue
        values, shown = Maps({HEAT: one[None]}, size, input_size, placement).resize(HEAT)
        inside = values[0][shown]
        low, high = (inside.min(), inside.max()) if inside.size else (0.0, 0.0)
        found.append((values[0] - low) / (high - low or 1.0))
    return np.stack(found)
