"""The order of classes that are known by their names alone, such as folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from diffeat.images.reading import READING

WHOLE = re.compile("[0-9]{1,18}")


def sort_classes(names: Iterable[str], reading: int = READING) -> tuple[str, ...]:
    """Distinct names in order: as numbers if all are whole numbers (1, 2, 10), else as texts.

    Args:
        names: of classes.
        reading: rule of reading; by rule 1 all are texts (1, 10, 2).
    """
    found = set(names)
    if reading > 1 and all(WHOLE.fullmatch(name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def numbered(names: Sequence[str], reading: int = READING) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 class of each picture, -1 for the name "", and the names of the classes in order.

    Args:
        names: of each picture's class.
        reading: of `sort_classes`.
    """
    classes = sort_classes((name for name in names if name), reading)
    index = {name: k for k, name in enumerate(classes)}
    return np.array([index.get(name, -1) for name in names], np.int64), classes
