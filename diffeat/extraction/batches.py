"""One batch after the other, with less at a time where memory runs out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from diffeat.errors import DeviceError
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.features import Key
from diffeat.extraction.latents import draw_noise
from diffeat.extraction.memory import is_out_of_memory
from diffeat.extraction.pending import Pending
from diffeat.extraction.views import ViewExtractor

Pixels = torch.Tensor | np.ndarray | list[np.ndarray]
"""(P, 3, H, W), or P pictures (3, H, W) of sizes of their own."""
Size = tuple[int, int]
Drawn = dict[Size, tuple[torch.Tensor | None, torch.Tensor | None]]
"""(H, W) → what `draw_noise` gives for the pictures of that size, in their order."""
AnyExtractor = Extractor | ViewExtractor


def draw_batch(extractor: AnyExtractor, pixels: Pixels, ids: Sequence[str]) -> Drawn:
    """The seeded noise of one batch, which another thread may draw ahead of `start_batch`."""
    return {
        size: draw_noise(extractor.plan, [ids[place] for place in places], size)
        for size, places in _by_size(pixels)
    }


def run_batch(
    extractor: AnyExtractor,
    pixels: Pixels,
    ids: Sequence[str],
    rows: Sequence[int],
    noise: torch.Tensor | None = None,
) -> dict[Key, torch.Tensor]:
    """Features of one batch, also of pictures of different sizes (a list), size by size.

    Args:
        extractor: which; its `batch_size` is halved when memory runs out.
        pixels: of P pictures.
        ids: P picture ids.
        rows: which of the extractor's conditions are these pictures'.
        noise: explicit noise, for pictures of one size.

    Raises:
        DeviceError: there is not even memory for one row of one picture.
    """
    drawn = None if noise is None else {size: (noise, None) for size, _ in _by_size(pixels)}
    return start_batch(extractor, pixels, ids, rows, drawn).result()


def start_batch(
    extractor: AnyExtractor,
    pixels: Pixels,
    ids: Sequence[str],
    rows: Sequence[int],
    drawn: Drawn | None = None,
) -> Pending:
    """Like `run_batch`, but with a CUDA device the work is only queued.

    Args:
        drawn: from `draw_batch`.
    """
    started: list[tuple[list[int], Pending]] = []
    for size, places in _by_size(pixels):
        extractor.plan.check(size)
        noise, sample = (None, None) if drawn is None else drawn[size]
        first = 0
        while first < len(places):
            span = slice(first, first + extractor.pictures)
            part = places[span]
            pending = _attempt(
                extractor, size, _at(pixels, part), [ids[i] for i in part],
                None if noise is None else noise[span], [rows[i] for i in part],
                None if sample is None else sample[span],
            )  # fmt: skip
            if pending is not None:
                started.append((part, pending))
                first += len(part)
    if len(started) == 1 and not isinstance(pixels, list):
        return started[0][1]
    return Pending(lambda: _joined(started, len(ids)))


def _by_size(pixels: Pixels) -> Iterator[tuple[Size, list[int]]]:
    """The places of the pictures of each size, in the order in which sizes first appear."""
    sizes = [array.shape[1:] for array in pixels] if isinstance(pixels, list) else None
    if sizes is None:
        if len(pixels):
            yield tuple(int(side) for side in pixels.shape[2:]), list(range(len(pixels)))
        return
    for size in dict.fromkeys(sizes):
        yield tuple(size), [place for place, other in enumerate(sizes) if other == size]


def _at(pixels: Pixels, places: list[int]) -> torch.Tensor | np.ndarray:
    if isinstance(pixels, list):
        return np.stack([pixels[place] for place in places])
    return pixels[places[0] : places[-1] + 1]


def _joined(started: list[tuple[list[int], Pending]], count: int) -> dict[Key, torch.Tensor]:
    """The features of all parts, each picture's at its place."""
    found: dict[Key, torch.Tensor] = {}
    for places, pending in started:
        for key, values in pending.result().items():
            if key not in found:
                found[key] = torch.empty(count, *values.shape[1:], dtype=values.dtype)
            found[key][places] = values
    return found


def _attempt(
    extractor: AnyExtractor, size: Size, pixels, ids, noise, rows, sample
) -> Pending | None:
    """`extractor.start(…)`, or None if memory ran out and the batch size is now smaller."""
    try:
        return extractor.start(pixels, ids, noise, rows, sample)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    # here the error is gone, and with it the frames that held what was computed
    gc.collect()
    if extractor.plan.backbone.device.type == "cuda":
        torch.cuda.empty_cache()
    _halve(extractor, size, len(ids), reason)
    return None


def _halve(extractor: AnyExtractor, size: Size, pictures: int, reason: str) -> None:
    """Make the next attempt smaller than what `pictures` pictures of (H, W) just took."""
    plan = extractor.plan
    levels = 1 if plan.grid else len(plan.levels)  # a trajectory comes to them one by one
    rows = min(extractor.forward_rows(size), pictures * levels * plan.spec.ensemble)
    if rows <= 1 and pictures <= 1:
        raise DeviceError(
            f"{plan.backbone.device} has no memory for one row of one picture ({reason}); choose a "
            "smaller size, fewer or pooled blocks, a half-precision model or --offload"
        )
    extractor.batch_size = less = max(1, rows // 2)
    # where a forward has one row already, it was what the pictures take together, as in the VAE
    what = f"{rows} rows per forward" if rows > 1 else f"{pictures} pictures at a time"
    warnings.warn(f"out of memory with {what}; going on with {less} ({reason})", stacklevel=4)
