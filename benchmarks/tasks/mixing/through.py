"""Systems that are learned through the backbone: prompts for all pairs, and for each point."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import diffeat
from benchmarks.searching import Journal
from benchmarks.tasks.matching.models import Row
from diffeat.adapt import PointPrompts, PromptTuning
from diffeat.hashing import fingerprint
from diffeat.targets.pairs import PairTargets

OPTIONS = ("latent", "noise", "size", "fit", "resample")
"""Fields of a spec that hold while a prompt is learned too."""


def _options(row: Row) -> dict[str, Any]:
    return {name: row.fields[name] for name in OPTIONS if name in row.fields}


def learned_prompt(
    row: Row, device: str, arguments: dict[str, Any], seed: int, path: Path,
    trains: PairTargets, chooses: PairTargets | None,
) -> tuple[Row, dict[str, Any]]:  # fmt: skip
    """A prompt that is learned on pairs, kept at `path`.

    Args:
        row: the model, with one block of maps.
        arguments: of `PromptTuning`; `t` is that of training, features have their own.

    Returns:
        The row that extracts features with it, and what is said of the training.
    """
    arguments, backbone = dict(arguments), diffeat.load(row.name, device, "float32")
    t, folder = arguments.pop("t", row.fields["timesteps"][0]), path.with_suffix("")
    tuning = PromptTuning(
        backbone, row.fields["blocks"][0], t, options=_options(row), random_state=seed,
        checkpoint=folder, **arguments,
    ).fit(trains, chooses)  # fmt: skip
    tuning.save(path)
    shutil.rmtree(folder, ignore_errors=True)
    fields = {key: value for key, value in row.fields.items() if key != "prompt"}
    said = {"history": tuning.history_, "best_epoch": tuning.best_epoch_,
            "start": getattr(tuning, "start_", None),
            "parameters": sum(one.numel() for one in tuning.prompt_.parameters())}  # fmt: skip
    return Row(row.label, row.kind, row.name, {**fields, "embeddings": str(path)}), said


def found_by_prompts(
    row: Row, device: str, arguments: dict[str, Any], seed: int, targets: PairTargets,
    journal: Journal, key: str,
) -> Iterator[np.ndarray]:  # fmt: skip
    """(n, 2) x, y of every pair, each point by prompts that were optimised for it alone.

    Each pair is kept as soon as it is found.

    Args:
        row: the model, with cross-attention maps; its t is that at which points are looked for.
        arguments: of `PointPrompts`, and `crops`.
        key: names all that they depend on, but the pair.
    """
    arguments, pictures = dict(arguments), targets.pictures()
    crops, place = arguments.pop("crops", 20), {name: k for k, name in enumerate(pictures.ids)}
    backbone = None
    for pair in range(len(targets)):
        mine = fingerprint(key, pair)
        kept = journal.read("point-prompts", mine, lambda stored: "points" in stored)
        if kept is None:
            backbone = backbone or diffeat.load(row.name, device, "float32")
            prompts = PointPrompts(
                backbone, tuple(row.fields["blocks"]), options=_options(row), random_state=seed,
                progress=False, **arguments,
            )  # fmt: skip
            source, target = (pictures.load(place[name])
                              for name in (targets.source[pair], targets.target[pair]))  # fmt: skip
            prompts.fit(source, targets.truth(pair).source_points)
            found = prompts.locate(target, row.fields["timesteps"][0], crops)
            kept = journal.write("point-prompts", mine, {"points": found.points.tolist()})
        yield np.asarray(kept["points"], np.float64).reshape(-1, 2)
