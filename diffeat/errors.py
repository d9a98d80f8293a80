"""Every error that diffeat raises on purpose.

Each class also inherits the builtin that a caller would catch anyway, so `except ValueError`
keeps working. A message names the thing, says what was expected and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class DiffeatError(Exception):
    """Base of all errors raised by diffeat; `exit_code` is what the command line returns."""

    exit_code = 1


class SpecError(DiffeatError, ValueError):
    """A request that cannot be meant: an unknown block, a t out of range, a bad option value."""

    exit_code = 2


class ModelError(DiffeatError, OSError):
    """A model that cannot be found or loaded, or whose weights are unusable."""


class DeviceError(DiffeatError, RuntimeError):
    """A device that this machine does not have."""


class SourceError(DiffeatError, ValueError):
    """A set of pictures that is missing, empty or contradictory."""


class PictureError(DiffeatError, ValueError):
    """One picture that cannot be used.

    Args:
        picture: id of the picture.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, picture: str, reason: str):
        super().__init__(f"picture {picture!r}: {reason}")
        self.picture = picture
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.picture, self.reason)


class HookError(DiffeatError, KeyError):
    """A tap that names no module, or that never fired."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class StoreError(DiffeatError, OSError):
    """A feature file that is not ours, is damaged, or cannot be written."""


class SpecMismatch(StoreError):
    """An existing output that was made with another spec."""


class NameTaken(DiffeatError, ImportError):
    """Another module is imported under the name of a package that comes with diffeat."""


class NumericsError(DiffeatError, ArithmeticError):
    """inf or nan where finite numbers are required."""


def reason_of(error: Exception) -> str:
    """What an error says; of the system's without its number and the path, which is told anyway."""
    return getattr(error, "strerror", None) or str(error)


def brief(value: Any) -> str:
    """A value as messages show it: arrays by type, shape and dtype, never by what they hold."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (list, tuple, set, dict)) and len(value) > 8:
        return f"{kind} of {len(value)}"
    text = " ".join(repr(value).split())
    if "tensor(" in text or "array(" in text:
        return f"{kind} of {len(value)}" if hasattr(value, "__len__") else kind
    return text if len(text) <= 80 else f"{text[:77]}…"


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Say which known names look like `word`: " (did you mean 'up.1'?)", or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
    if not close:
        return ""
    return " (did you mean " + " or ".join(repr(name) for name in close) + "?)"
