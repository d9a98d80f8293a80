"""A kept head applied to features, batch by batch: of a file, or of pictures that are run now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.backbones import Backbone
from diffeat.errors import NumericsError, SpecError
from diffeat.images import PictureBatch, Source
from diffeat.search.kept import HeadNote
from diffeat.search.live import batches_of
from diffeat.search.tasks import CellKey, cell_name
from diffeat.store import FeatureStore
from diffeat.work import Job, Worker, errors_of

SLAB_BYTES = 32 << 20
"""Of features that are read of a file at a time, as float32."""
PREDICT = ("classification", "regression", "multilabel")
"""What a mixer that also predicts was trained for."""
Arrays = Mapping[CellKey, np.ndarray]


@dataclass(frozen=True)
class Piece:
    """Features of some pictures that follow each other, and what could not be read of them.

    Attributes:
        arrays: (block, t) → (n, …) rows; empty where n is 0.
        rows: (n,) int64 of the pictures, ascending.
        errors: row → why it has no features.
        sizes: (n, 2) int64 H, W of the upright pictures; None where a file does not know.
        placements: (n, 4) float64 of the inputs in them; likewise.
    """

    arrays: Arrays
    rows: np.ndarray
    errors: Mapping[int, str] = field(default_factory=dict)
    sizes: np.ndarray | None = None
    placements: np.ndarray | None = None


def pieces_of_file(store: FeatureStore, cells: Sequence[CellKey], count: int) -> Iterator[Piece]:
    """The first `count` rows of some cells, in slabs."""
    width = sum(int(np.prod(store[cell].shape[1:], dtype=np.int64)) for cell in cells)
    step = max(1, SLAB_BYTES // (4 * max(1, width)))
    known = store.sizes, store.placements
    for start in range(0, count, step):
        span = slice(start, min(start + step, count))
        arrays = {cell: np.asarray(store[cell][span]) for cell in cells}
        where = (None if one is None else one[span] for one in known)
        yield Piece(arrays, np.arange(span.start, span.stop), {}, *where)


def pieces_of_pictures(
    backbone: Backbone,
    source: Source,
    note: HeadNote,
    batch_size: Any = None,
    workers: int = 2,
    on_error: str = "fail",
) -> tuple[Worker, Iterator[Piece]]:
    """Features that are computed now; nothing is stored, and memory is that of a few batches.

    Args:
        on_error: "skip" notes pictures that cannot be read; "fail" ends there.

    Returns:
        The worker, whose request says what the features are, and the pieces.
    """
    spec = note.spec  # a job names its file; none is made
    nowhere = Path(f"{source.name}.predict")
    job = Job(backbone.request, source, spec, nowhere, batch_size, workers, on_error)
    worker = Worker(job, backbone)
    return worker, (_piece(found, batch) for found, batch in batches_of(worker, source))


def _piece(found: Arrays, batch: PictureBatch) -> Piece:
    rows = np.array(batch.indices, np.int64)
    return Piece(found, rows, dict(errors_of(batch)), batch.sizes, batch.placements)


@dataclass
class Predicted:
    """What a head says of some pictures.

    Attributes:
        values: (n, K) probabilities or scores of classes or labels; (n, M) numbers.
        classes: (n,) index of the predicted class, of a classifier.
    """

    values: np.ndarray
    classes: np.ndarray | None = None


@dataclass
class Applied:
    """A head that is given features by cell.

    Attributes:
        head: a fitted estimator of `probes`.
        note: what it takes.
        kind: "classes", "labels" or "numbers".
        names: of the classes, labels or numbers, by column.
        unit: "probability", "score" where the head has none, or "value" of numbers.

    Raises:
        SpecError: of many probes at once, which are no one head; of what makes maps of maps.
    """

    head: Any
    note: HeadNote
    kind: str = field(init=False)
    names: list[str] = field(init=False)
    unit: str = field(init=False)

    def __post_init__(self) -> None:
        from probes.aggregate.base import Aggregator
        from probes.many import ManyProbes
        from probes.multilabel import Multilabel

        head, known = self.head, self.note.class_names
        if isinstance(head, ManyProbes):
            raise SpecError(f"{type(head).__name__} holds many probes; keep one of them, with "
                            "many.probe(g)")  # fmt: skip
        if isinstance(head, Aggregator) and getattr(head, "objective_", None) not in PREDICT:
            raise SpecError(f"{type(head).__name__} makes maps of maps and predicts nothing; apply "
                            "it with diffeat aggregate --mixer")  # fmt: skip
        several = isinstance(head, Multilabel) or getattr(head, "objective_", "") == "multilabel"
        self.kind = "labels" if several else "numbers"
        self.unit = "probability" if hasattr(head, "predict_proba") else "score"
        if hasattr(head, "classes_"):
            self.kind, self.names = "classes", [_named(one, known) for one in head.classes_]
            return
        count = len(head.intercept_) if hasattr(head, "intercept_") else head.n_outputs_
        if self.kind == "numbers":
            self.unit = "value"
        self.names = list(known) if len(known) == count else [str(k) for k in range(count)]

    def predict(self, arrays: Arrays) -> Predicted:
        """What the head says of (n, …) rows by cell.

        Raises:
            NumericsError: nan or inf among them.
            SpecError: features of other shapes than the head was fitted on.
        """
        for cell, values in arrays.items():
            if not np.isfinite(values).all():
                raise NumericsError(f"the features of {cell_name(cell)} contain nan or inf; "
                                    "extract them again")  # fmt: skip
        given = self._given(arrays)
        try:
            return self._predict(*given)
        except ValueError as error:
            raise SpecError(f"these features do not fit the head: {error}") from error

    def _given(self, arrays: Arrays) -> tuple[Any, ...]:
        """X as the head takes it, and t of a head that is told it."""
        from probes import Cells, NoiseConditionalProbe

        head, cells = self.head, self.note.cells
        rows = [np.asarray(arrays[cell], np.float32) for cell in cells]
        if hasattr(head, "cells_"):
            return (Cells(dict(zip(cells, rows, strict=True))),)
        maps = any(len(shape) > 1 for shape in getattr(head, "shapes_", ()))
        X = rows[0] if maps else np.concatenate([x.reshape(len(x), -1) for x in rows], axis=1)
        return (X, cells[0][1]) if isinstance(head, NoiseConditionalProbe) else (X,)

    def _predict(self, *given: Any) -> Predicted:
        head = self.head
        if self.kind == "numbers":
            found = np.asarray(head.predict(*given))
            return Predicted(found.reshape(len(found), -1))
        scores = head.predict_proba if self.unit == "probability" else head.decision_function
        values = np.asarray(scores(*given))
        if self.kind == "labels":
            return Predicted(values)
        if values.ndim == 1:  # scikit-learn's way with two classes: that of the second
            values = np.stack([-values, values], 1)
        return Predicted(values, np.searchsorted(head.classes_, head.predict(*given)))


def _named(label: Any, names: Sequence[str]) -> str:
    """A class by its name, where labels are indices of names."""
    if isinstance(label, np.integer) and 0 <= label < len(names):
        return names[int(label)]
    return str(label)
