"""Systems that are trained through the backbone, on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffeat
from benchmarks.bench import Bench, Kind, Trained, only
from diffeat import adapt
from diffeat.search import TEST, TRAIN, VALIDATION
from diffeat.search.tasks import CellKey
from probes.attention import AttentionHead


def train_adapted(name: str) -> Kind:
    """Fine-tuning or DifFeed at one cell, in float32; "Frozen" trains the head alone.

    Arguments of the recipe are those of the class; `attention`, a table of the options of
    `AttentionHead`, takes that head in place of the linear one.
    """

    def train(
        bench: Bench, cells: Sequence[CellKey], arguments: dict[str, Any], seed: int
    ) -> Trained:
        block, t = only(cells)
        backbone = diffeat.load(bench.recipe.model, bench.device, "float32")
        if options := arguments.pop("attention", None):
            arguments["head"] = lambda shape, classes: AttentionHead([shape], classes, **options)
        kind = adapt.DifFeed if name == "DifFeed" else adapt.FineTuning
        if name == "Frozen":
            arguments["unfreeze"] = None
        model = kind(backbone, block, t, random_state=seed, **arguments)
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

    return train
