"""Features of a few pictures, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from diffeat.backbones.base import Backbone
from diffeat.coords import fit_numbers
from diffeat.errors import PictureError, SpecError
from diffeat.extraction.batch import Batch
from diffeat.extraction.batches import run_batch
from diffeat.extraction.conditions import PLACEHOLDERS, Conditions, prompts_of
from diffeat.extraction.features import Features, Key
from diffeat.extraction.noising import explicit_noise
from diffeat.extraction.plan import Plan
from diffeat.extraction.views import extractor_for
from diffeat.images import (
    Source,
    captions_for,
    decode,
    fit_and_place,
    nfc,
    read_captions,
    to_rgb,
)
from diffeat.images.sources import regular
from diffeat.noise import CLEAN_FAMILIES
from diffeat.specs import CLASS_LABEL, ExtractSpec


def extract(
    backbone: Backbone,
    images: torch.Tensor | np.ndarray | Sequence[Image.Image | str | Path] | Source,
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
        images: (N, 3, H, W) in [0, 1] (torch or numpy), taken at their own size; or PIL
            pictures; or paths; or a source from `diffeat.open_source`, with its ids, and with
            its labels and captions where the spec asks for them.
        spec: what to extract.
        noise: explicit noise, (N, …) or (N, ensemble, …) in latent shape; replaces the
            policy of the spec.
        ids: N picture ids that seed the noise, brought to Unicode NFC. By default paths as
            they were written, and "0", "1", … for tensors and PIL pictures.
        batch_size: rows of one forward; by default chosen by the latent's size, with "auto" by
            measuring. It is halved when memory runs out.
        prompts: N texts, which take the place of the spec's prompt.
        labels: N class indices, which take the place of the spec's label.
        embeddings: the denoiser's own text tensors (see `Backbone.embedding_shapes`), (1, …) or
            (N, …), in place of prompts.

    Returns:
        Features: (block, t) → (N, C, H, W) or (N, C·k·k) in the spec's dtype, on the CPU.

    Raises:
        SpecError: the spec, the sizes or the noise do not fit.
        PictureError: a picture cannot be read.
        DeviceError: memory ran out with a single row.
        NumericsError: inf or nan in the stored dtype.
    """
    if not isinstance(backbone, Backbone):
        raise SpecError(f"{backbone!r} is no backbone; load one with diffeat.load(...)")
    if isinstance(images, (str, Path)):
        raise SpecError(
            f"pictures are one name, {str(images)!r}; expected a list of paths (a folder or data "
            "set goes through diffeat.open_source and diffeat.extract_to_file)"
        )
    source = None
    if isinstance(images, Source):
        source, ids = images, images.ids if ids is None else ids
        images = [_Loaded(source, index) for index in range(len(source))]
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    if isinstance(images, torch.Tensor):
        spec = _with_size_of(images, spec)
    if spec.dtype == "int8":
        raise SpecError("int8 is a form of files; in memory choose float16 or float32")
    images = images if isinstance(images, torch.Tensor) else _listed(images)
    if len(images) == 0:
        raise SpecError("no pictures given; expected at least one")
    names = _ids(images, ids)
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
        noise = explicit_noise(noise, len(images), spec.ensemble, shape)
    values: dict[Key, torch.Tensor] = {}
    placed, step = [], extractor.pictures
    for start in range(0, len(images), step):
        span = slice(start, start + step)
        pixels, where = _pixels(images[span], names[span], plan)
        placed += where
        rows = range(len(names))[span]
        eps = None if noise is None else noise[span]
        batch = Batch.of(pixels, names[span], rows, eps)
        for key, part in run_batch(extractor, batch).items():
            if key not in values:
                values[key] = torch.empty(len(images), *part.shape[1:], dtype=part.dtype)
            values[key][span] = part
    boxes, sizes, placements = zip(*placed, strict=True)
    fitted = not isinstance(images, torch.Tensor)
    return Features(
        plan,
        values,
        np.array(boxes, np.int32) if fitted else None,
        np.array(sizes, np.int32),
        np.array(placements, np.float64),
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
    if prompts is not None and embeddings is not None:
        raise SpecError("prompts and embeddings are given; expected one of them")
    if prompts is not None and (isinstance(prompts, str) or len(prompts) != len(names)):
        raise SpecError(f"prompts: expected {len(names)} texts, one per picture")
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


def _with_size_of(images: torch.Tensor, spec: ExtractSpec) -> ExtractSpec:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise SpecError(
            f"pictures are {tuple(images.shape)} {images.dtype}; expected a float tensor "
            "(N, 3, H, W) in [0, 1]"
        )
    if images.numel() and not (images.min() >= -1e-4 and images.max() <= 1 + 1e-4):
        raise SpecError(
            f"pictures range from {images.min():.3g} to {images.max():.3g}; expected [0, 1]"
        )
    size = (int(images.shape[2]), int(images.shape[3]))
    if spec.fit == "native":
        return replace(spec, size=size, fit="squash")
    if spec.size not in (None, size):
        raise SpecError(
            f"tensors are taken at their own size {size}, but the spec says {spec.size}; "
            "resize them, or leave the spec's size out"
        )
    return replace(spec, size=size)


def _ids(images, ids: Sequence[str] | None) -> list[str]:
    if ids is None:
        if isinstance(images, list) and all(isinstance(item, (str, Path)) for item in images):
            return [nfc(Path(item).as_posix()) for item in images]
        return [str(index) for index in range(len(images))]
    if len(ids) != len(images):
        raise SpecError(f"{len(ids)} ids for {len(images)} pictures; expected one each")
    return [nfc(str(name)) for name in ids]


class _Loaded(NamedTuple):
    """One picture of a source, decoded when its batch is made."""

    source: Source
    index: int


def _listed(images) -> list:
    """Pictures one by one; SpecError unless each is of a kind that can be read."""
    kinds = (Image.Image, str, Path, _Loaded)
    try:
        images = list(images)
    except TypeError:
        images = [images]
    wrong = [type(item).__name__ for item in images if not isinstance(item, kinds)]
    if wrong:
        raise SpecError(
            f"pictures of type {wrong[0]}; expected a float array (N, 3, H, W) in "
            "[0, 1], a list of PIL pictures or of paths, or a source from diffeat.open_source(...)"
        )
    return images


def _pixels(images, names: list[str], plan: Plan):
    """Pixels as the extractor takes them, and box, size and placement of each picture."""
    spec = plan.spec
    if isinstance(images, torch.Tensor):
        size = int(images.shape[2]), int(images.shape[3])
        where = (0, 0, *size), size, fit_numbers(size, size, mirror=spec.mirror)
        return images.flip(3) if spec.mirror else images, [where] * len(images)
    how = (plan.size, spec.fit, spec.resample, spec.mirror, plan.backbone.step)
    fitted = [
        fit_and_place(_picture(item, name), *how) for item, name in zip(images, names, strict=True)
    ]
    arrays = [pixels for pixels, *_ in fitted]
    where = [tuple(known) for _, *known in fitted]
    return arrays if plan.size is None else np.stack(arrays), where


def _picture(item: Image.Image | str | Path, name: str) -> Image.Image:
    if isinstance(item, _Loaded):
        return item.source.load(item.index)
    if not isinstance(item, Image.Image):
        return decode(lambda: regular(item), name)
    try:
        return to_rgb(item, picture=name)
    except ValueError as error:
        raise PictureError(name, str(error)) from error
