"""Texts that a word is put into, so that a text encoder is asked of more than one wording."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffeat.errors import SpecError, nearest
from diffeat.images.tables import text_of

HOLE = "{}"
"""Where the word goes."""
PLAIN = ("{}",)
"""The word alone."""
PHOTO = ("a photo of a {}.",)
"""One sentence."""
_BOTH = (
    "bad photo of {}", "bright photo of {}", "dark photo of {}", "good photo of {}",
    "blurry photo of {}", "cropped photo of {}", "close-up photo of {}", "pixelated photo of {}",
    "low resolution photo of {}", "jpeg corrupted photo of {}", "black and white photo of {}",
    "rendering of {}", "rendition of {}", "sculpture of {}", "painting of {}", "drawing of {}",
    "sketch of {}", "doodle of {}", "tattoo of {}",
)  # fmt: skip
_ADJECTIVES = ("clean", "dirty", "cool", "nice", "weird", "small", "large", "hard to see")
_MADE = ("cartoon", "embroidered", "origami", "plastic", "plushie", "toy")


def _imagenet() -> tuple[str, ...]:
    """80 templates: most of them with the definite and the indefinite article."""
    found = [f"a {text.format(article + ' {}')}." for text in _BOTH for article in ("a", "the")]
    found += [f"a photo of {article} {word} {{}}." for word in _ADJECTIVES
              for article in ("a", "the")]  # fmt: skip
    found += [f"{article} {word} {{}}." for word in _MADE for article in ("a", "the")]
    found += [f"{what} of {article} {{}}." for what in ("art", "graffiti", "a photo", "itap")
              for article in ("a", "the")]  # fmt: skip
    found += ["a photo of my {}.", "itap of my {}.", "a photo of one {}.", "a photo of many {}.",
              "a {} in a video game.", "the {} in a video game."]  # fmt: skip
    return tuple(found)


IMAGENET = _imagenet()
"""The 80 templates that CLIP was evaluated with on ImageNet (Radford et al. 2021), which VPD and
ODISE take over."""
NAMED = {"plain": PLAIN, "photo": PHOTO, "imagenet-80": IMAGENET}
"""Lists that have a name."""


def templates_of(said: str | Path | Iterable[str]) -> tuple[str, ...]:
    """Templates from whatever somebody has.

    Args:
        said: a key of `NAMED`; a .txt file with one a line; or the texts themselves.

    Raises:
        SpecError: an unknown name, no text, or one that has not exactly one {}.
        SourceError: a file that cannot be read.
    """
    source = "templates"
    if isinstance(said, Path) or (isinstance(said, str) and said.lower().endswith(".txt")):
        source = str(said)
        lines = text_of(Path(said), "a list of templates").splitlines()
        said = [line.strip() for line in lines if line.strip()]
    elif isinstance(said, str):
        if said not in NAMED:
            raise SpecError(f"templates={said!r}{nearest(said, NAMED)}; expected one of "
                            f"{', '.join(NAMED)}, a .txt file, or texts with {HOLE}")  # fmt: skip
        return NAMED[said]
    found = tuple(said)
    for text in found:
        if not isinstance(text, str) or text.count(HOLE) != 1:
            raise SpecError(f"{source}: {text!r}; expected texts with one {HOLE}, where the word "
                            "goes")  # fmt: skip
    if not found:
        raise SpecError(f"{source}: no text; expected some with {HOLE}, where the word goes")
    return found


def texts_of(words: Iterable[str], templates: Iterable[str]) -> list[str]:
    """Every word in every template, word by word."""
    templates = tuple(templates)
    return [text.replace(HOLE, word) for word in words for text in templates]
