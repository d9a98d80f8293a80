"""Heat of words over sets of pictures: of a source, batch by batch, or of what a notebook has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from diffeat.backbones import Backbone
from diffeat.errors import SpecError
from diffeat.extraction import Batch, noise_names
from diffeat.extraction.conditions import fill_template, prompts_of
from diffeat.extraction.given import Given
from diffeat.extraction.noising import seeded_by_content
from diffeat.images import Source, corruption_of, load_batches
from diffeat.progress import track
from diffeat.search.applied import Piece
from diffeat.specs import PLACEHOLDERS, ExtractSpec
from diffeat.words.vocabulary import ClassWords, Vocabulary
from diffeat.work import errors_of
from diffeat.zero_shot.heat import HeatOptions, WordHeat
from diffeat.zero_shot.prompts import DEFAULT_PROMPT, WordRun, runs_of
from diffeat.zero_shot.word_masks import HEAT

KEPT = 1024
"""Prompts of which it is kept where their words stand."""
Runs = Callable[[int], Sequence[WordRun]]
"""Row of a picture → the prompts that the network is run under for it."""


def heat_maps(
    backbone: Backbone,
    images: Any,
    words: Any,
    spec: ExtractSpec,
    options: HeatOptions | None = None,
    ids: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """Heat maps of words in a few pictures.

    Args:
        backbone: a text-to-image model, from `diffeat.load`.
        images: as `diffeat.extract` takes them, N of them.
        words: as `Vocabulary.of` takes them, K classes.
        spec: levels, blocks such as ("all:cross.map",), noise, size; an empty prompt is "a photo
            of {words}".
        options: see `HeatOptions`.
        ids: N picture ids, which seed the noise.
        batch_size: rows of one forward.

    Returns:
        (N, K, h, w) float32: mean attention of the cells of a grid over the input to each word.

    Raises:
        SpecError: no text, a word that no token has, a prompt that is too long, no such block.
    """
    given, classes = Given.of(images, ids), Vocabulary.of(words).classes
    spec = given.settled(replace(spec, prompt=spec.prompt or DEFAULT_PROMPT))
    heat = WordHeat(backbone, spec, options, batch_size)
    runs = runs_of(backbone, classes, spec.prompt)
    plan, step, found = heat.forward(runs[0]).plan, heat.forward(runs[0]).batch_size, []
    for start in range(0, len(given), step):
        span = slice(start, start + step)
        pixels, _ = given.pixels(span, plan)
        batch = Batch.of(pixels, given.seeds(span, spec))
        found.append(heat(batch, [runs] * len(batch)).numpy())
    return np.concatenate(found)


def pieces_of_heat(
    heat: WordHeat, source: Source, runs: Runs, workers: int = 2, on_error: str = "fail",
) -> Iterator[Piece]:  # fmt: skip
    """Heat of the pictures of a source; memory is that of a few batches.

    Args:
        runs: of each picture.
        workers: decoding threads.
        on_error: "skip" notes pictures that cannot be read; "fail" ends there.

    Returns:
        Pieces whose `arrays["heat"]` is (n, K, h, w) float32, -inf of words that a picture's
        prompts do not have; with sizes and placements.
    """
    spec, forward = heat.spec, heat.forward(runs(0)[0])
    digests = source.digests() if seeded_by_content(spec) else None
    step = min(16, forward.batch_size)
    spans = [(k, min(k + step, len(source))) for k in range(0, len(source), step)]
    for batch in load_batches(
        source, spans, forward.plan.size, spec.fit, spec.resample, workers, on_error,
        heat.backbone.step, spec.mirror, Batch, corruption_of(spec.corrupt, spec.seed),
    ):  # fmt: skip
        rows = np.array(batch.indices, np.int64)
        arrays = {}
        if len(rows):
            named = replace(batch, ids=noise_names(spec, source.ids, digests, batch.indices))
            arrays[HEAT] = heat(named, [runs(row) for row in rows.tolist()]).numpy()
        yield Piece(arrays, rows, dict(errors_of(batch)), batch.sizes, batch.placements)


def runs_for(
    backbone: Backbone, classes: Sequence[ClassWords], spec: ExtractSpec, source: Source
) -> Runs:
    """The prompts of each picture: one for all, or its own caption or class filled in.

    Of prompts that differ, those may lack words, which are then not looked for in that picture; of
    words that none of them has there is a warning. All are read before anything runs.

    Raises:
        SpecError: see `runs_of`; classes in the prompt of pictures without; no prompt has any of
            the words.
    """
    own = prompts_of(spec, source)
    if own is None and any(word in spec.prompt for word in PLACEHOLDERS):
        if source.labels is None or not source.class_names or min(source.labels) < 0:
            raise SpecError(f"prompt {spec.prompt!r} names the class, and not all of these "
                            "pictures have one")  # fmt: skip
        own = [fill_template(spec.prompt, source.class_names[int(k)]) for k in source.labels]
    if own is None:
        runs = runs_of(backbone, classes, spec.prompt)
        return lambda row: runs

    @lru_cache(KEPT)
    def under(prompt: str) -> tuple[WordRun, ...]:
        return runs_of(backbone, classes, prompt, "leave-out")

    found: set[int] = set()
    for prompt in track(dict.fromkeys(own), desc="prompts", unit="prompts"):
        found |= {k for run in under(prompt) for k, keys in enumerate(run.keys) if keys}
    lacking = ", ".join(one.name for k, one in enumerate(classes) if k not in found)
    if not found:
        raise SpecError(
            f"no prompt of these pictures has any of the words {lacking}; expected some"
        )
    if lacking:
        warnings.warn(f"no prompt of these pictures has the words {lacking}, which are then "
                      "nowhere", stacklevel=2)  # fmt: skip
    return lambda row: under(own[row])
