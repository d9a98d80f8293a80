"""Systems that are trained through the backbone, on pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffeat
from benchmarks.searching import TEST, TRAIN, VALIDATION, CellKey
from benchmarks.tasks.classification.bench import Bench, Trained, only
from benchmarks.tasks.classification.file import ClassificationBenchmark
from diffeat.adapt import FineTuning
from probes.attention import AttentionHead

OPTIONS = ("latent", "noise", "prompt", "label", "size", "fit", "resample")
"""Fields of an extraction that a training takes too."""


def frozen(backbone: Any, block: str, t: float, **arguments: Any) -> FineTuning:
    """The head alone, the baseline of all that is trained through the backbone."""
    return FineTuning(backbone, block, t, unfreeze=None, **arguments)


def adapted(make: Callable[..., Any], backbone: Any, block: str, t: float, **arguments: Any) -> Any:
    """The classifier, not trained yet.

    Args:
        make: its class.
        arguments: of the class; `attention`, a table of options of `AttentionHead`, takes that
            head in place of the linear one.
    """
    if options := arguments.pop("attention", None):
        arguments["head"] = lambda shape, classes: AttentionHead([shape], classes, **options)
    return make(backbone, block, t, **arguments)


def adapted_options(benchmark: ClassificationBenchmark) -> dict[str, Any]:
    """What the benchmark's extraction says of pictures, latents and conditions."""
    return {name: benchmark.extract[name] for name in OPTIONS if name in benchmark.extract}


def train_adapted(
    make: Callable[..., Any],
    bench: Bench,
    cells: Sequence[CellKey],
    arguments: dict[str, Any],
    seed: int,
) -> Trained:
    """Train at one cell, in float32, on the pictures as they were extracted."""
    block, t = only(cells)
    backbone = diffeat.load(bench.benchmark.model, bench.device, "float32")
    options = {**adapted_options(bench.benchmark), **arguments.pop("options", {})}
    model = adapted(make, backbone, block, t, random_state=seed, options=options, **arguments)
    part = bench.task.part
    training, held, test = (
        bench.pictures.source_of(part == which) for which in (TRAIN, VALIDATION, TEST)
    )
    model.fit(training, held)
    return {
        "validation": model.score(held),
        "test": model.score(test),
        "parameters": model.parameters_,
        "best_epoch": model.best_epoch_,
        "history": model.history_,
    }
