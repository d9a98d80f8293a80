"""The tasks that `diffeat search --task` knows: how each makes its judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from diffeat.errors import SpecError, nearest
from diffeat.search.asking import MEMORY
from diffeat.search.by_ridge import ByRidge
from diffeat.search.classification import Classification
from diffeat.search.judge import Judge
from diffeat.search.live import LiveFeatures, live_task
from diffeat.search.multilabel import Multilabel
from diffeat.search.regression import Regression
from diffeat.search.scores import score_of
from diffeat.search.stored import task_from_store
from diffeat.search.targeted import TASK_OF, TargetChoice, targets_of
from diffeat.search.tasks import Task
from diffeat.store import FeatureStore
from diffeat.targets import Labelled

if TYPE_CHECKING:
    from diffeat.search.dense.task import DenseChoice
    from diffeat.search.matching.task import PairChoice

SHARES = (0.6, 0.2, 0.2)
"""Of training, validation and test."""


@dataclass(frozen=True)
class Choices:
    """What all tasks are asked with; each takes what it needs.

    Attributes:
        split: shares of training, validation and test; None is the task's own.
        seed: of the split.
        blocks, timesteps: only these; None means all.
        allow_conditioned: also features that were told their targets.
        duplicates: "warn" of copies of a picture, or "drop" them.
        score, penalties, device: the probe, its settings, where it is fitted; None is that of the
            task, and its own settings.
        targets: where they come from.
        pairs: of matching.
        dense: of segmentation and depth estimation.
        memory: bytes that features may take.
    """

    split: tuple[float, float, float] | None = None
    seed: int = 0
    blocks: Sequence[str] | None = None
    timesteps: Sequence[float] | None = None
    allow_conditioned: bool = False
    duplicates: str = "warn"
    score: str | None = None
    penalties: Sequence[float] | None = None
    device: str = "cpu"
    targets: TargetChoice = field(default_factory=TargetChoice)
    pairs: PairChoice | None = None
    dense: DenseChoice | None = None
    memory: int = MEMORY


@dataclass(frozen=True)
class TaskKind:
    """A task of the command line.

    Attributes:
        from_files: (store, test store or None, choices) → judge.
        from_model: (features, choices, their targets or None for the pictures' own) → judge.
        takes: kind of the targets: "class", "number", "labels"; "pairs"; "masks", "depth".
        maps: whether it asks for places, so that the maps of a model go through a feature file;
            `from_model` is then None.
    """

    from_files: Callable[[FeatureStore, FeatureStore | None, Choices], Judge]
    from_model: Callable[[LiveFeatures, Choices, Sequence[Labelled] | None], Judge] | None
    takes: str = "class"
    maps: bool = False


def _task_kind(kind: str, judged: Callable[[Task, Choices], Judge]) -> TaskKind:
    """A task whose features and targets lie row by row."""

    def from_files(store: FeatureStore, test: FeatureStore | None, c: Choices) -> Judge:
        stores = [store] if test is None else [store, test]
        labels = targets_of(stores, kind, c.targets, c.duplicates)
        task = task_from_store(
            store, c.split or SHARES, c.seed, test, c.blocks, c.timesteps, c.allow_conditioned,
            c.duplicates, labels=labels,
        )  # fmt: skip
        return judged(task, c)

    def from_model(
        features: LiveFeatures, c: Choices, labels: Sequence[Labelled] | None = None
    ) -> Judge:
        labels = labels or targets_of(features.sources, kind, None, c.duplicates)
        task = live_task(
            features, c.split or SHARES, c.seed, c.allow_conditioned, c.duplicates, labels=labels
        )
        return judged(task, c)

    return TaskKind(from_files, from_model, kind)


def _classes(task: Task, c: Choices) -> Judge:
    return Classification(task, score_of(c.score or "logistic", c.penalties, c.device))


def _by_ridge(kind: type[ByRidge]) -> Callable[[Task, Choices], Judge]:
    def judged(task: Task, c: Choices) -> Judge:
        if c.score not in (None, "ridge"):
            raise SpecError(f"--score {c.score} is of classes; --task {kind.task_name} is scored "
                            "by ridge, leave --score out")  # fmt: skip
        return kind(task, c.penalties, c.device)

    return judged


def _pairs_of_files(task: str, store: FeatureStore, test: FeatureStore | None, c: Choices) -> Judge:
    """Pairs within one file, or from one file to another."""
    from diffeat.search.matching.task import PairChoice, matching_judge

    stores = [store] if test is None else [store, test]
    return matching_judge(
        c.pairs or PairChoice(), stores, c.split, c.seed, c.memory, c.device, blocks=c.blocks,
        timesteps=c.timesteps, task=task,
    )  # fmt: skip


def _pixels_of_files(
    kind: str, store: FeatureStore, test: FeatureStore | None, c: Choices
) -> Judge:
    """Pictures whose pixels are known, of one file or of a training and a test file."""
    from diffeat.search.dense.task import DenseChoice, dense_judge

    stores = [[store]] if test is None else [[store], [test]]
    return dense_judge(
        c.dense or DenseChoice(kind), stores, c.split, c.seed, c.duplicates, c.allow_conditioned,
        blocks=c.blocks, timesteps=c.timesteps,
    )  # fmt: skip


JUDGES = {
    "class": _classes,
    "number": _by_ridge(Regression),
    "labels": _by_ridge(Multilabel),
}
TASKS = {TASK_OF[kind]: _task_kind(kind, judged) for kind, judged in JUDGES.items()}
TASKS |= {
    name: TaskKind(partial(_pairs_of_files, name), None, "pairs", maps=True)
    for name in ("matching", "homography", "depth")
}
TASKS |= {
    name: TaskKind(partial(_pixels_of_files, kind), None, kind, maps=True)
    for name, kind in (("segmentation", "masks"), ("depth-estimation", "depth"))
}
PIXELS = ("masks", "depth")
"""Kinds of targets that are known at every pixel."""


def task_kind(name: str) -> TaskKind:
    """A task by its name.

    Raises:
        SpecError: there is none; lists those that there are.
    """
    if name not in TASKS:
        raise SpecError(
            f"--task {name!r} is unknown{nearest(name, TASKS)}; expected {', '.join(TASKS)}"
        )
    return TASKS[name]
