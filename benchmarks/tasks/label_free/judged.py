"""A task's pictures, and who judges the cells of their features: on validation alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import diffeat
from benchmarks.features import Pictures
from benchmarks.searching import (
    DENSE_JUDGES,
    LEFT_OUT,
    TRAIN,
    VALIDATION,
    Classification,
    Judge,
    Logistic,
    Matching,
    bind,
    bind_dense,
    inner_split,
    task_of,
)
from benchmarks.tasks.dense.sets import KINDS, Draws, limited
from benchmarks.tasks.label_free.file import FreeTask
from benchmarks.tasks.matching.sets import few, opened, touched
from diffeat.errors import SpecError
from diffeat.images import Source
from diffeat.store import FeatureStore
from diffeat.targets.dense import open_dense

SPARED = 0.1
"""Share of the held pictures with classes that is not looked at: tasks of classes have a test part,
and nothing is chosen here that it could be a test of."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One task.

    Attributes:
        task: of the file.
        source: its pictures.
        targets: masks, depth or pairs; None of classification, whose pictures have labels.
        alpha: of PCK.
    """

    task: FreeTask
    source: Source
    targets: Any = None
    alpha: float = 0.1

    @classmethod
    def open(cls, task: FreeTask, alpha: float) -> Asked:
        """The pictures and targets that a task names.

        Raises:
            SpecError: a set of another kind.
        """
        if task.kind == "classification":
            found = diffeat.open_source(task.train)
            return cls(task, found.limit(task.limit) if task.limit else found)
        if task.kind == "matching":
            pairs = few(opened(task.train), task.limit)
            return cls(task, touched(pairs, set()), pairs, alpha)
        targets = limited(open_dense(task.train), task.limit)
        if targets.kind != KINDS[task.kind]:
            raise SpecError(f"task {task.name!r}: {targets.name} holds {targets.kind}; expected "
                            f"{KINDS[task.kind]}")  # fmt: skip
        return cls(task, targets.pictures(), targets)

    @property
    def pictures(self) -> Pictures:
        return Pictures((self.source,))

    def judge(self, stores: Sequence[FeatureStore], source: str) -> Judge:
        """Who judges the cells of the feature file of the pictures."""
        held = self.task.held
        if self.task.kind == "classification":
            shares = (1 - held, held * (1 - SPARED), held * SPARED)
            return Classification(task_of(stores, shares, False, "drop"), Logistic())
        if self.task.kind == "matching":
            bound = bind(self.targets, stores)
            part = np.full(len(bound.groups), VALIDATION)
            return Matching(bound, part, alphas=(self.alpha,), source=source)
        bound = bind_dense(self.targets, stores, frame=tuple(self.task.frame) or None)
        order = Draws.of(bound, len(bound.groups), 1).orders[0]
        chooses = inner_split([bound.groups[row] for row in order], held)
        if not chooses.any():
            raise SpecError(f"task {self.task.name!r}: all pictures are of one group; expected two "
                            "groups at least")  # fmt: skip
        part = np.full(len(bound.groups), LEFT_OUT)
        part[order] = np.where(chooses, VALIDATION, TRAIN)
        return DENSE_JUDGES[bound.kind](bound, part, "ridge", source=source)
