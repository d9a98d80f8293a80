"""The order of classes."""

from __future__ import annotations

from collections.abc import Iterable


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names of classes: as numbers where all are whole numbers, else as text."""
    found = set(names)
    if all(name.isascii() and name.isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))
