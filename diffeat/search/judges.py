"""The tasks that `diffeat search --task` knows: how each makes its judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffeat.errors import SpecError, nearest
from diffeat.search.classification import Classification
from diffeat.search.judge import Judge
from diffeat.search.live import LiveFeatures, live_task
from diffeat.search.scores import score_of
from diffeat.search.stored import task_from_store
from diffeat.store import FeatureStore


@dataclass(frozen=True)
class Choices:
    """What all tasks are asked with; each takes what it needs.

    Attributes:
        split: shares of training, validation and test.
        seed: of the split.
        blocks, timesteps: only these; None means all.
        allow_conditioned: also features that were told their targets.
        duplicates: "warn" of copies of a picture, or "drop" them.
        score, penalties, device: the probe, its settings, where it is fitted.
    """

    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0
    blocks: Sequence[str] | None = None
    timesteps: Sequence[float] | None = None
    allow_conditioned: bool = False
    duplicates: str = "warn"
    score: str = "logistic"
    penalties: Sequence[float] | None = None
    device: str = "cpu"

    @property
    def probe(self):
        """The `Score` of classification."""
        return score_of(self.score, self.penalties, self.device)


@dataclass(frozen=True)
class TaskKind:
    """A task of the command line.

    Attributes:
        from_files: (store, test store or None, choices) → judge.
        from_model: (features, choices) → judge.
    """

    from_files: Callable[[FeatureStore, FeatureStore | None, Choices], Judge]
    from_model: Callable[[LiveFeatures, Choices], Judge]


def _classes_of_files(store: FeatureStore, test: FeatureStore | None, c: Choices) -> Judge:
    task = task_from_store(
        store, c.split, c.seed, test, c.blocks, c.timesteps, c.allow_conditioned, c.duplicates
    )
    return Classification(task, c.probe)


def _classes_of_model(features: LiveFeatures, c: Choices) -> Judge:
    task = live_task(features, c.split, c.seed, c.allow_conditioned, c.duplicates)
    return Classification(task, c.probe)


TASKS = {"classification": TaskKind(_classes_of_files, _classes_of_model)}


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
