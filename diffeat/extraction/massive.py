"""Massive channels: a few fixed channels of transformers that swamp all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction.api import extract
from diffeat.specs import ExtractSpec


@dataclass(frozen=True)
class MassiveChannels:
    """What was found for one tensor.

    Attributes:
        block: its name.
        t: native timestep.
        channels: massive channels, the largest first.
        ratios: their mean magnitude over the median channel's.
    """

    block: str
    t: float
    channels: tuple[int, ...]
    ratios: tuple[float, ...]


def massive_channels(
    backbone: Backbone, images, spec: ExtractSpec, ratio: float = 10.0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[MassiveChannels]:  # fmt: skip
    """Find the channels whose magnitude is far above that of the others.

    A channel c is massive where mean |x_c| > ratio · median over channels of mean |x_c|, the
    mean taken over pictures and tokens. They are fixed per model and block, so a few pictures
    will do; write them into `ExtractSpec.discard`.

    Args:
        backbone: a transformer, though any model will do.
        images: as for `extract`.
        spec: which tensors: those that enter blocks, such as "block.9:in".
        ratio: how far above the median.
        progress: wraps the numbers of the pictures, such as a progress bar.

    Returns:
        One entry per (block, t).

    Raises:
        SpecError: a ratio that is not above 1.

    Source: Gan et al. 2025 (DiTF); Sun et al. 2024 (massive activations).
    """
    if not ratio > 1:
        raise SpecError(f"ratio={ratio}; expected a number above 1")
    spec = replace(spec, pool="none", dtype="float32")
    images = images if isinstance(images, (torch.Tensor, np.ndarray)) else list(images)
    sums: dict[tuple[str, float], torch.Tensor] = {}
    for index in progress(range(len(images))):  # one picture's maps at a time
        one = images[index : index + 1]
        features = extract(backbone, one, spec, ids=None if _named(one) else [str(index)])
        for key, maps in features.items():
            axes = (0, 1) if maps.ndim == 3 else (0, 2, 3)  # text tokens; or cells
            size = maps.abs().mean(axes)
            sums[key] = sums[key] + size if key in sums else size
    found = []
    for (block, t), size in sums.items():
        over = size / size.median().clamp(min=torch.finfo(size.dtype).tiny)
        order = [int(c) for c in over.argsort(descending=True) if over[c] > ratio]
        ratios = tuple(float(over[c]) for c in order)
        found.append(MassiveChannels(block, t, tuple(order), ratios))
    return found


def _named(images) -> bool:
    """Whether the pictures are paths, which are their own ids."""
    return isinstance(images, list) and isinstance(images[0], (str, Path))
