"""What a source of pictures holds, in a line or two for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffeat.images.classes import WHOLE
from diffeat.images.columns import lacks
from diffeat.images.sources import Source

ALL, FIRST = 10, 5
"""Up to ALL classes are named, of more the FIRST."""
MANY, FEW = 20, 10
"""More whole numbers than MANY, each of fewer pictures than FEW on average, may be no classes."""
AS_NUMBERS = "; whole numbers count as classes, unless --task regression takes them as numbers"
NO_LABELS = (
    "no labels (one folder per class, a list `path,label`, or --labels FILE would give some)"
)


def found_text(source: Source, whole: int | None = None) -> str:
    """ "36 pictures, 3 classes: cat 12, dog 12, owl 12", and a line for each further target.

    Args:
        whole: how many pictures there were before some were chosen.
    """
    count = f"{len(source):,}"
    if whole is not None and whole != len(source):
        count += f" of {whole:,}"
    first = f"{count} picture{'s' * (len(source) != 1)}"
    if source.labels is not None:
        first += f", {column_text('class', source.class_names, source.labels)}"
    elif source.targets:
        first += ", no labels (--column NAME makes a column of classes the labels)"
    else:
        first += f", {NO_LABELS}"
    lines = [
        f"  {name}: {column_text(one.kind, one.names, one.values)}"
        for name, one in source.targets.items()
    ]
    return "\n".join([first, *lines])


def column_text(kind: str, names: Sequence[str], values: np.ndarray) -> str:
    """ "3 classes: cat 12, dog 12, owl 11, 1 picture without".

    Args:
        kind, names, values: of a `TargetColumn`.
    """
    missing = lacks(kind, np.asarray(values))
    lacking = int(missing.sum())
    without = f", {lacking:,} picture{'s' * (lacking != 1)} without" if lacking else ""
    if kind == "number":
        known = values[~missing]
        span = f", {known.min():g} to {known.max():g}" if len(known) else ""
        return f"numbers{span}{without}"
    if kind == "class":
        counts = np.bincount(values[values >= 0], minlength=len(names))
        what = "class" if np.count_nonzero(counts) == 1 else "classes"
    else:
        counts = np.maximum(values, 0).sum(0)
        what = "label" if np.count_nonzero(counts) == 1 else "labels"
    there = [(name, n) for name, n in zip(names, counts.tolist(), strict=True) if n]
    shown = there if len(there) <= ALL else there[:FIRST]
    told = ", ".join([f"{name} {n:,}" for name, n in shown] + ["…"] * (len(there) > ALL))
    of = f" of {len(names):,}" if len(there) < len(names) else ""
    hint = AS_NUMBERS if kind == "class" and _like_numbers(there) else ""
    return f"{len(there):,}{of} {what}{': ' * bool(told)}{told}{without}{hint}"


def _like_numbers(classes: Sequence[tuple[str, int]]) -> bool:
    """Whether classes look like ages or counts: many whole numbers, each of few pictures."""
    few = sum(n for _, n in classes) < FEW * len(classes)
    return len(classes) > MANY and few and all(WHOLE.fullmatch(name) for name, _ in classes)
