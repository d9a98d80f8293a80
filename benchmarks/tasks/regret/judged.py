"""The judge of one task on features of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import diffeat
from benchmarks.features import Pictures
from benchmarks.searching import (
    DENSE_JUDGES,
    TEST,
    VALIDATION,
    Classification,
    Judge,
    Logistic,
    Matching,
    bind,
    task_of,
)
from benchmarks.tasks.dense.sets import Draws, Sets, limited
from benchmarks.tasks.matching.sets import few, joined, names_in, opened, touched
from benchmarks.tasks.regret.file import OneTask
from diffeat.errors import SpecError
from diffeat.store import FeatureStore


@dataclass(frozen=True, eq=False)
class Asked:
    """One task: its pictures, and who judges features of them.

    Attributes:
        task: of the file.
        pictures: of training and test.
        targets: what is known of them; None of classification, whose pictures have labels.
        alpha: of PCK.
    """

    task: OneTask
    pictures: Pictures
    targets: Any = None
    alpha: float = 0.1

    @classmethod
    def open(cls, task: OneTask, alpha: float) -> Asked:
        """The pictures and targets that a task names.

        Raises:
            SpecError: groups that are trained or chosen by and reported on.
        """
        if task.kind == "classification":
            return cls(task, _labelled(task))
        if task.kind == "matching":
            chooses, report = (
                few(opened(name), limit)
                for name, limit in ((task.train, task.train_limit), (task.test, task.test_limit))
            )
            if both := names_in(chooses) & names_in(report):
                raise SpecError(f"task {task.name!r}: {len(both)} groups, such as {min(both)!r}, "
                                "are in train and in test; expected other ones")  # fmt: skip
            sources = [touched(chooses, set())]
            sources.append(touched(report, set(sources[0].ids)))
            return cls(task, Pictures(tuple(one for one in sources if one)), (chooses, report),
                       alpha)  # fmt: skip
        sets = Sets.named(f"task {task.name!r}", task.kind, task.train, task.test, task.frame)
        sets = Sets(limited(sets.train, task.train_limit), limited(sets.test, task.test_limit),
                    sets.frame)  # fmt: skip
        return cls(task, sets.pictures, sets)

    def judge(self, stores: Sequence[FeatureStore], source: str) -> Judge:
        """Who judges the cells of feature files of the pictures."""
        if self.task.kind == "classification":
            shares = (1 - self.task.held, self.task.held, 0.0)
            return Classification(task_of(stores, shares, False, "drop"), Logistic())
        if self.task.kind == "matching":
            bound = bind(joined(*self.targets), stores)
            part = np.where(np.arange(len(bound.groups)) < len(self.targets[0]), VALIDATION, TEST)
            return Matching(bound, part, alphas=(self.alpha,), source=source)
        bound, sets = self.targets.bound(stores), self.targets
        count = len(sets.train)
        part = sets.part(Draws.of(bound, count, 1), count, self.task.held)
        return DENSE_JUDGES[bound.kind](bound, part, "ridge", source=source)


def _labelled(task: OneTask) -> Pictures:
    found = [diffeat.open_source(name) for name in (task.train, task.test)]
    limits = (task.train_limit, task.test_limit)
    return Pictures(tuple(one.limit(limit) if limit else one
                          for one, limit in zip(found, limits, strict=True)))  # fmt: skip
