"""Features on their way from the device: buffers that copies fill while the host goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from diffeat.errors import NumericsError
from diffeat.extraction.features import Key
from diffeat.extraction.plan import Plan
from diffeat.noise import format_t


class Pending(ABC):
    """Features of one batch that may still be computed."""

    _found: dict[Key, torch.Tensor] | None = None

    def result(self) -> dict[Key, torch.Tensor]:
        """(block, native t) → (P, …) in the spec's dtype, on the CPU.

        Raises:
            NumericsError: a feature is inf or nan in the dtype that it is stored in.
        """
        if self._found is None:
            self._found = self._finish()
        return self._found

    @abstractmethod
    def _finish(self) -> dict[Key, torch.Tensor]:
        """Wait for the device, and give the features."""


class Buffers(Pending):
    """Host memory for one batch's features, by block, that copies fill while the host goes on.

    With a CUDA device the memory is pinned, and copies into it are queued behind the compute.

    Args:
        plan: what is extracted.
        size: (H, W) of the pictures in pixels.
        count: P, the number of pictures.
    """

    def __init__(self, plan: Plan, size: tuple[int, int], count: int):
        self.plan, self.count = plan, count
        rows, self._device = len(plan.levels) * count, plan.backbone.device
        pin = self._device.type == "cuda"
        self._values = {
            block.name: torch.empty(
                rows, *plan.shape(block, size), dtype=plan.dtype, pin_memory=pin
            )
            for block in plan.blocks
        }
        self._peaks = {block.name: torch.empty(rows, pin_memory=pin) for block in plan.blocks}
        self._done: torch.cuda.Event | None = None

    def put(self, name: str, rows: slice, values: torch.Tensor) -> None:
        """Fill rows (t-major) of a block with features (n, …) in the dtype they were made in."""
        _copy(self._peaks[name][rows], peaks(values))
        _copy(self._values[name][rows], values)

    def put_every_level(self, name: str, values: torch.Tensor) -> None:
        """Fill a block with features (P, …) that are the same at every t."""
        for first in range(0, len(self._peaks[name]), self.count):
            self.put(name, slice(first, first + self.count), values)

    def queued(self) -> Buffers:
        """All work is queued; where there is no queue it is done, and its numbers are checked."""
        if self._device.type == "cuda":
            self._done = torch.cuda.Event(blocking=True)  # the waiting thread sleeps
            self._done.record(torch.cuda.current_stream(self._device))
        else:
            self.result()
        return self

    def _finish(self) -> dict[Key, torch.Tensor]:
        if self._done is not None:
            self._done.synchronize()
        for name, found in self._peaks.items():
            check_finite(self.plan, name, found)
        return {
            (name, level.t): values[i * self.count : (i + 1) * self.count]
            for name, values in self._values.items()
            for i, level in enumerate(self.plan.levels)
        }


def _copy(buffer: torch.Tensor, values: torch.Tensor) -> None:
    if values.device.type == "cuda":  # rounded there, so that less travels
        values = values.to(buffer.dtype)
    buffer.copy_(values, non_blocking=True)


def peaks(values: torch.Tensor) -> torch.Tensor:
    """(n,) fp32 largest magnitude in each row of (n, …); nan where a row holds nan."""
    rows = values.flatten(1)
    return torch.maximum(rows.amax(1), -rows.amin(1)).float()


def check_finite(plan: Plan, name: str, found: torch.Tensor) -> None:
    """NumericsError if a block's features are inf or nan in the dtype that they are stored in.

    Args:
        plan: what is extracted.
        name: of the block.
        found: (T·P,) fp32 `peaks` of its features, t-major, before they were rounded. Rounding
            is monotone, so the largest tells for all.
    """
    bad = ~torch.isfinite(found.to(plan.dtype))
    if not bad.any():
        return
    worst = int(bad.nonzero()[0])
    level = plan.levels[worst // (len(found) // len(plan.levels))]
    peak, computed = float(found[worst]), plan.backbone.dtype
    stored, model = (str(dtype).removeprefix("torch.") for dtype in (plan.dtype, computed))
    where = f"block {name!r} at t={format_t(level.t)}: inf or nan in {stored}"
    if torch.isfinite(found[worst]):
        raise NumericsError(
            f"{where}; the model gave {peak:.4g}, and {stored} ends at "
            f"{torch.finfo(plan.dtype).max:.4g}: store the features with --dtype float32 "
            "(dtype='float32')"
        )
    if computed == torch.float16:
        raise NumericsError(
            f"{where}; the model itself gave {peak} in {model}, which ends at 65504: compute with "
            "--model-dtype bfloat16 or float32 (load(…, dtype='bfloat16'))"
        )
    raise NumericsError(
        f"{where}; the model itself gave {peak} in {model}, so its weights, the noise or the "
        "embeddings that it was given are damaged"
        + ("" if computed == torch.float32 else ", or too large: try --model-dtype float32")
    )
