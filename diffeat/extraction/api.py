"""Features of a few pictures, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError, brief
from diffeat.extraction.batch import Batch
from diffeat.extraction.batches import run_batch
from diffeat.extraction.conditions import PLACEHOLDERS, Conditions, prompts_of
from diffeat.extraction.features import Features, Key
from diffeat.extraction.given import Given
from diffeat.extraction.noising import explicit_noise
from diffeat.extraction.plan import Plan
from diffeat.extraction.views import extractor_for
from diffeat.images import Source, captions_for, read_captions
from diffeat.noise import CLEAN_FAMILIES
from diffeat.specs import CLASS_LABEL, ExtractSpec

Picture = Image.Image | np.ndarray | torch.Tensor | str | Path
"""One picture, in any of its forms."""


def extract(
    backbone: Backbone,
    images: Picture | Sequence[Picture] | Source,
    spec: ExtractSpec,
    noise: torch.Tensor | None = None,
    ids: Sequence[str] | None = None,
    batch_size: int | str | None = None,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int | None] | None = None,
    embeddings: Mapping[str, torch.Tensor] | None = None,
) -> Features:
    """Extract features of a few pictures into memory.

    Args:
        backbone: from `diffeat.load`.
        images: floats (N, 3, H, W) in [0, 1] (torch or numpy), taken at their own size; or what
            is fitted to the model's size: 8-bit arrays (N, H, W, 3) or (N, H, W), PIL pictures,
            paths; or a list of such pictures, floats (3, H, W) of one size (with
            fit="native" of any); or one picture, which is N = 1; or a source from
            `diffeat.open_source`, with its ids, and with its labels and captions where the
            spec asks for them.
        spec: what to extract.
        noise: explicit noise, (N, …) or (N, ensemble, …) in latent shape; replaces the
            policy of the spec.
        ids: N picture ids that seed the noise, brought to Unicode NFC. By default paths as
            they were written, and "0", "1", … for all else; with noise="per-content" they seed
            nothing (see docs/ids.md).
        batch_size: rows of one forward; by default chosen by the latent's size, with "auto" by
            measuring. It is halved when memory runs out.
        prompts: N texts, which take the place of the spec's prompt.
        labels: N class indices, which take the place of the spec's label.
        embeddings: the denoiser's own text tensors (see `Backbone.embedding_shapes`), (1, …) or
            (N, …), in place of prompts.

    Returns:
        Features: (block, t) → (N, C, H, W) or (N, C·k·k) in the spec's dtype, on the CPU; with
            ids, and of a source with its labels and class names.

    Raises:
        SpecError: the spec, the sizes or the noise do not fit.
        PictureError: a picture cannot be read.
        DeviceError: memory ran out with a single row.
        NumericsError: inf or nan in the stored dtype.
    """
    if not isinstance(backbone, Backbone):
        raise SpecError(f"{brief(backbone)} is no backbone; load one with diffeat.load(...)")
    if not isinstance(spec, ExtractSpec):
        raise SpecError(f"{brief(spec)} is no spec; expected a diffeat.ExtractSpec")
    given = Given.of(images, ids)
    spec, names, source = given.settled(spec), given.ids, given.source
    if spec.dtype == "int8":
        raise SpecError("int8 is a form of files; in memory choose float16 or float32")
    conditions = _conditions(backbone, spec, names, prompts, labels, embeddings, source)
    plan = Plan(backbone, spec, conditions.text_length)
    extractor = extractor_for(plan, batch_size, conditions)
    if noise is not None:
        if plan.grid:
            raise SpecError(f"noise={plan.spec.noise} makes its own; leave noise= out")
        if backbone.family in CLEAN_FAMILIES:
            raise SpecError(f"{backbone.name} sees clean pictures; leave noise= out")
        if plan.size is None:
            raise SpecError("noise= needs pictures of one size; leave it out, or choose a size")
        shape = plan.noise_shape(plan.size)
        noise = explicit_noise(noise, len(names), spec.ensemble, shape)
    values: dict[Key, torch.Tensor] = {}
    placed, step = [], extractor.pictures
    for start in range(0, len(names), step):
        span = slice(start, start + step)
        pixels, where = given.pixels(span, plan)
        placed += where
        eps = None if noise is None else noise[span]
        batch = Batch.of(pixels, given.seeds(span, spec), range(len(names))[span], eps)
        for key, part in run_batch(extractor, batch).items():
            if key not in values:
                values[key] = torch.empty(len(names), *part.shape[1:], dtype=part.dtype)
            values[key][span] = part
    boxes, sizes, placements = zip(*placed, strict=True)
    return Features(
        plan,
        values,
        np.array(boxes, np.int32) if given.fitted else None,
        np.array(sizes, np.int32),
        np.array(placements, np.float64),
        names,
        None if source is None else source.labels,
        () if source is None or source.labels is None else source.class_names,
    )


def _conditions(backbone, spec, names, prompts, labels, embeddings, source=None) -> Conditions:
    """The spec's conditions, unless others are given by hand."""
    if source is not None and prompts is labels is embeddings is None:
        texts = prompts_of(spec, source)
        known = source.labels, source.class_names
        return Conditions.of_spec(backbone, spec, len(names), texts, *known)
    template = any(word in spec.prompt for word in PLACEHOLDERS)  # waits for texts from somewhere
    fixed = (spec.prompt and not template) or spec.captions or spec.embeddings
    for name, value in (("prompts", prompts), ("embeddings", embeddings)):
        if value is not None and fixed:
            raise SpecError(f"{name}= is given and the spec has a prompt too; expected one of them")
    if embeddings is not None and not isinstance(embeddings, Mapping):
        raise SpecError(f"embeddings are {brief(embeddings)}; expected name → tensor")
    if prompts is not None and embeddings is not None:
        raise SpecError("prompts and embeddings are given; expected one of them")
    if prompts is not None and (isinstance(prompts, str) or len(prompts) != len(names)):
        raise SpecError(f"prompts: expected {len(names)} texts, one per picture")
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    if labels is not None and len(labels) != len(names):
        raise SpecError(f"{len(labels)} labels for {len(names)} pictures; expected one each")
    if spec.captions == "pictures":
        raise SpecError("captions='pictures' needs a source that has them; pass prompts= instead")
    if prompts is None and spec.captions is not None:
        prompts = captions_for(names, read_captions(spec.captions), spec.captions)
    if embeddings is not None:
        spec = replace(spec, prompt="")  # a template, which they take the place of
    if labels is not None:
        spec = replace(spec, label=CLASS_LABEL)
    return Conditions.of_spec(backbone, spec, len(names), prompts, labels, embeddings=embeddings)
