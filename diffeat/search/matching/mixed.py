"""A mixer of all cells for pairs: trained on key points, judged by the matcher on its maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from diffeat.errors import SpecError
from diffeat.progress import counted
from diffeat.search.matching.bound import BoundPairs
from diffeat.search.tasks import CellKey
from probes.aggregate import HyperfeatureMixer
from probes.pairs import Pairs

PASSES = 20
"""Over the training pairs, at most."""


def default_mixer() -> HyperfeatureMixer:
    """The mixer of a search: the published one, smaller, with a softmax that moves as fast as the
    bottlenecks, at the finest grid of the cells."""
    return HyperfeatureMixer(width=128, size=None, sharpness=10.0, steps=1000, patience=5)


def train(
    template: HyperfeatureMixer, bound: BoundPairs, keys: Sequence[CellKey], rows: np.ndarray,
    held: np.ndarray | None = None, **settings: Any,
) -> HyperfeatureMixer:  # fmt: skip
    """A mixer that learned from some pairs.

    Args:
        template: its parameters.
        keys: the cells that it mixes.
        rows: training pairs.
        held: validation pairs, of which the best epoch is kept; None keeps the last one.
        settings: parameters in place of the template's.

    Raises:
        SpecError: cells or pairs that it cannot learn from.
    """
    mixer = clone(template).set_params(progress=partial(counted, delay=3), **settings)
    if mixer.steps is not None:
        most = PASSES * -(-len(rows) // mixer.batch_size)
        mixer.set_params(steps=min(mixer.steps, most))
    if held is None:
        mixer.set_params(patience=None)
    cells, pairs = bound.cells(keys), referenced(bound)
    validation = None if held is None else (cells, pairs.take(held))
    try:
        mixer.fit(cells, pairs.take(rows), objective="matching", validation=validation)
        return mixer.set_params(progress=False)  # a function could not be kept with it
    except ValueError as error:
        raise SpecError(f"{bound.name}, a mixer of {len(keys)} cells: {error}") from error


def described_mixer(mixer: HyperfeatureMixer) -> dict[str, Any]:
    """The parameters that decide what it learns."""
    apart = ("device", "progress", "checkpoint", "memory_mb", "random_state")
    return {name: value for name, value in mixer.get_params().items() if name not in apart}


def steps_of(mixer: HyperfeatureMixer) -> int:
    """Steps up to the epoch that was kept."""
    each = -(-mixer.steps // mixer.epochs)
    return each * (mixer.best_epoch_ or mixer.n_epochs_)


def referenced(bound: BoundPairs) -> Pairs:
    """The pairs, whose errors are measured by the target's box, else by its picture."""
    widths = (bound.boxes[:, 2:] - bound.boxes[:, :2]).max(1)
    sides = bound.sizes[bound.pairs.target].max(1)
    return replace(bound.pairs, reference=np.where(np.isnan(widths), sides, widths))
