"""One batch after the other, with less at a time where memory runs out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence

import torch

from diffeat.errors import DeviceError
from diffeat.extraction.batch import Batch
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.features import Key
from diffeat.extraction.memory import is_out_of_memory
from diffeat.extraction.pending import Pending
from diffeat.extraction.views import ViewExtractor

AnyExtractor = Extractor | ViewExtractor


def run_batch(extractor: AnyExtractor, batch: Batch) -> dict[Key, torch.Tensor]:
    """Features of one batch, also of pictures of different sizes, size by size.

    Args:
        extractor: which; its `batch_size` is halved when memory runs out.
        batch: of P pictures.

    Raises:
        DeviceError: there is not even memory for one row of one picture.
    """
    return start_batch(extractor, batch).result()


def start_batch(extractor: AnyExtractor, batch: Batch) -> Pending:
    """Like `run_batch`, but with a CUDA device the work is only queued."""
    started: list[tuple[Sequence[int], Pending]] = []
    for places, group in batch.by_size():
        extractor.plan.check(group.size)
        first = 0
        while first < len(group):
            span = slice(first, first + extractor.pictures)
            pending = _attempt(extractor, group.part(span))
            if pending is not None:
                started.append((places[span], pending))
                first = span.stop
    if len(started) == 1 and not isinstance(batch.pixels, list):
        return started[0][1]
    return _Joined(started, len(batch))


class _Joined(Pending):
    """The features of all parts, each picture's at its place."""

    def __init__(self, parts: list[tuple[Sequence[int], Pending]], count: int):
        self._parts, self._count = parts, count

    def _finish(self) -> dict[Key, torch.Tensor]:
        found: dict[Key, torch.Tensor] = {}
        for places, pending in self._parts:
            for key, values in pending.result().items():
                if key not in found:
                    found[key] = torch.empty(self._count, *values.shape[1:], dtype=values.dtype)
                found[key][list(places)] = values
        self._parts = []
        return found


def _attempt(extractor: AnyExtractor, batch: Batch) -> Pending | None:
    """`extractor.start(batch)`, or None if memory ran out and the batch size is now smaller."""
    try:
        return extractor.start(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    # here the error is gone, and with it the frames that held what was computed
    gc.collect()
    if extractor.plan.backbone.device.type == "cuda":
        torch.cuda.empty_cache()
    _halve(extractor, batch.size, len(batch), reason)
    return None


def _halve(extractor: AnyExtractor, size: tuple[int, int], pictures: int, reason: str) -> None:
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
