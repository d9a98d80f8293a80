"""Systems that are trained through the backbone, on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffeat
from benchmarks.bench import Bench, Trained, only
from benchmarks.recipes import Recipe
from diffeat.adapt import DifFeed, FineTuning
from diffeat.search import TEST, TRAIN, VALIDATION
from diffeat.search.tasks import CellKey
from probes.attention import AttentionHead

ADAPTED = ("Frozen", "FineTuning", "DifFeed")
OPTIONS = ("latent", "noise", "prompt", "label", "size", "fit", "resample")
"""Fields of an extraction that a training takes too."""


def adapted(head: str, backbone: Any, block: str, t: float, **arguments: Any) -> Any:
    """The classifier, not trained yet; "Frozen" trains the head alone, as its baseline.

    Args:
        head: one of ADAPTED.
        arguments: of the class; `attention`, a table of options of `AttentionHead`, takes that
            head in place of the linear one.
    """
    if options := arguments.pop("attention", None):
        arguments["head"] = lambda shape, classes: AttentionHead([shape], classes, **options)
    if head == "DifFeed":
        return DifFeed(backbone, block, t, **arguments)
    if head == "Frozen":
        arguments["unfreeze"] = None
    return FineTuning(backbone, block, t, **arguments)


def adapted_options(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's extraction says of pictures, latents and conditions."""
    return {name: recipe.extract[name] for name in OPTIONS if name in recipe.extract}


def train_adapted(
    head: str, bench: Bench, cells: Sequence[CellKey], arguments: dict[str, Any], seed: int
) -> Trained:
    """Train at one cell, in float32, on the pictures as they were extracted."""
    block, t = only(cells)
    backbone = diffeat.load(bench.recipe.model, bench.device, "float32")
    options = {**adapted_options(bench.recipe), **arguments.pop("options", {})}
    model = adapted(head, backbone, block, t, random_state=seed, options=options, **arguments)
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
