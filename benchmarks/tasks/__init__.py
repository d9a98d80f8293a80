"""What benchmarks measure: one table of tasks."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.classification import Classification
from benchmarks.tasks.clusters import Clusters
from benchmarks.tasks.dense import Depth, Segmentation
from benchmarks.tasks.detection import Detection
from benchmarks.tasks.geometry import Geometry
from benchmarks.tasks.label_free import LabelFree
from benchmarks.tasks.matching import Matching
from benchmarks.tasks.mixing import Mixing
from benchmarks.tasks.open_vocabulary import OpenVocabularyTask
from benchmarks.tasks.parts import Parts
from benchmarks.tasks.regret import Regret
from benchmarks.tasks.robustness import Robustness
from benchmarks.tasks.video import Video
from benchmarks.tasks.words import Words
from diffeat.errors import SpecError, nearest

__all__ = ["TASKS", "Place", "Task", "task_named"]

TASKS: dict[str, Task] = {
    "classification": Classification(), "matching": Matching(), "geometry": Geometry(),
    "mixing": Mixing(), "video": Video(), "segmentation": Segmentation(), "depth": Depth(),
    "regret": Regret(), "robustness": Robustness(), "detection": Detection(),
    "label-free": LabelFree(),
    "open-vocabulary": OpenVocabularyTask(), "words": Words(),
    "parts": Parts(), "clusters": Clusters(),
}  # fmt: skip
"""Name in a benchmark file → what measures it and makes its tables."""


def task_named(name: Any) -> Task:
    """A task by its name; SpecError where there is none."""
    if not isinstance(name, str) or name not in TASKS:
        like = nearest(name, TASKS) if isinstance(name, str) else ""
        raise SpecError(f"task {name!r} is unknown{like}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
