"""What a source of pictures holds, in a line or two for people."""

from __future__ import annotations

import numpy as np

from diffeat.images.columns import TargetColumn
from diffeat.images.sources import Source

ALL, FIRST = 10, 5
"""Up to ALL classes are named, of more the FIRST."""
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
        labels = TargetColumn("class", source.class_names, np.asarray(source.labels))
        first += f", {column_text(labels)}"
    elif source.targets:
        first += ", no labels (--column NAME makes a column of classes the labels)"
    else:
        first += f", {NO_LABELS}"
    lines = [f"  {name}: {column_text(column)}" for name, column in source.targets.items()]
    return "\n".join([first, *lines])


def column_text(column: TargetColumn) -> str:
    """ "3 classes: cat 12, dog 12, owl 11, 1 picture without"."""
    lacking = int(column.missing.sum())
    without = f", {lacking:,} picture{'s' * (lacking != 1)} without" if lacking else ""
    if column.kind == "number":
        known = column.values[~column.missing]
        span = f", {known.min():g} to {known.max():g}" if len(known) else ""
        return f"numbers{span}{without}"
    if column.kind == "class":
        counts = np.bincount(column.values[column.values >= 0], minlength=len(column.names))
        what = "class" if np.count_nonzero(counts) == 1 else "classes"
    else:
        counts = np.maximum(column.values, 0).sum(0)
        what = "label" if np.count_nonzero(counts) == 1 else "labels"
    there = [(name, n) for name, n in zip(column.names, counts.tolist(), strict=True) if n]
    shown = there if len(there) <= ALL else there[:FIRST]
    told = ", ".join([f"{name} {n:,}" for name, n in shown] + ["…"] * (len(there) > ALL))
    of = f" of {len(column.names):,}" if len(there) < len(column.names) else ""
    return f"{len(there):,}{of} {what}{': ' * bool(told)}{told}{without}"
