"""How many rows one forward takes: chosen by rule, by the user, or by measuring."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch

from diffeat.errors import SpecError
from diffeat.extraction.batch import Batch
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.memory import (
    device_use,
    host_available,
    host_peak,
    is_out_of_memory,
    own_use,
)
from diffeat.extraction.plan import Plan
from diffeat.extraction.remembered import LARGEST, recall, remember
from diffeat.hashing import fingerprint

GAIN = 1.03
"""A larger batch must be faster by this factor than the best so far."""
SHARE = 0.85
"""Most of the memory (of the device, or what the host has left) that measuring goes to."""
SECONDS = 30.0
"""Time after which no further size is tried."""
Maker = Callable[[Plan, int, Conditions], Callable[[Batch], Any]]
"""Such as `Extractor`: with an attribute `batch_size`, and called with a batch."""
UNIMPORTANT = (
    "seed",
    "prompt",
    "captions",
    "embeddings",
    "label",
    "label_map",
    "timesteps",
    "resample",
)
"""Fields of a spec that change neither time nor memory of a row."""


def resolve_batch(
    plan: Plan,
    batch_size: int | str | None,
    conditions: Conditions,
    make: Maker,
    *,
    sharing: int = 1,
) -> int:
    """Rows of one denoiser forward.

    Args:
        plan: what is extracted.
        batch_size: a number; None, by the size of the latent; "auto", by measuring, which is
            remembered (see `diffeat.extraction.remembered`). Pictures that keep sizes of their
            own go by the size of the latent.
        conditions: prompts and labels, for measuring.
        make: gives the extractor of a plan, a batch size and conditions that is measured.
        sharing: how many workers share the device; measuring goes to a part of its memory.

    Raises:
        SpecError: none of these.
    """
    if batch_size is None or (batch_size == "auto" and plan.size is None):
        return plan.default_batch()
    if batch_size == "auto":
        return _automatic(plan, conditions, make, sharing)
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral):
        raise SpecError(f"batch size {batch_size!r}; expected a whole number, or 'auto'")
    if batch_size < 1:
        raise SpecError(f"batch size {batch_size}; expected at least 1")
    if batch_size > plan.row_limit:
        warnings.warn(
            f"batch size {batch_size} would hold too many attention maps at once; "
            f"{plan.row_limit} is used",
            stacklevel=3,
        )
    return min(int(batch_size), plan.row_limit)


def _automatic(plan: Plan, conditions: Conditions, make: Maker, sharing: int) -> int:
    facts = situation(plan, conditions, sharing)
    key = fingerprint(facts)
    found = recall(key)
    if found is None:
        found = measure(plan, conditions, make, sharing=sharing)
        remember(key, found, facts)
    return min(found, plan.row_limit)


def situation(plan: Plan, conditions: Conditions, sharing: int = 1) -> dict[str, Any]:
    """All that the best batch size depends on."""
    backbone, request = plan.backbone, plan.backbone.request
    device = backbone.device
    spec = {k: v for k, v in plan.spec.to_dict().items() if k not in UNIMPORTANT}
    cuda = device.type == "cuda"
    return {
        "model": backbone.name,
        "fingerprint": backbone.fingerprint,
        "channels_last": backbone.channels_last,
        "compile": request.compile,
        "offload": request.offload,
        "spec": spec,
        "text_length": conditions.text_length,
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "sharing": sharing,
        "threads": 0 if cuda else torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure(plan: Plan, conditions: Conditions, make: Maker, *, sharing: int = 1) -> int:
    """Rows per forward that bring the most pictures per second, by doubling.

    Synthetic pictures go through one level and member each. It ends where memory runs out or
    more than `SHARE / sharing` of it would be taken, when two doublings bring less than `GAIN`,
    or after `SECONDS`.
    """
    trial = Trial(plan, conditions, make, sharing)
    largest = min(LARGEST, plan.row_limit)
    best, rate, vain, rows = 1, 0.0, 0, 1
    began = time.monotonic()
    while rows <= largest:
        seconds = trial(rows)
        if seconds is None:
            break
        if rows / seconds > rate * GAIN:
            best, rate, vain = rows, rows / seconds, 0
        else:
            vain += 1
        late = time.monotonic() - began + 2 * seconds > SECONDS
        if vain == 2 or late or trial.is_full():
            break
        rows *= 2
    return best


class Trial:
    """Runs synthetic pictures through a plan, one row each.

    Attributes:
        plan: what is run: one level, one member.
    """

    def __init__(self, plan: Plan, conditions: Conditions, make: Maker, sharing: int = 1):
        # of a trajectory, the level that is reached first
        steps = [plan.grid.index(level) for level in plan.levels] if plan.grid else [0]
        first = steps.index(max(steps) if plan.spec.noise == "generation" else min(steps))
        spec = replace(plan.spec, timesteps=(plan.spec.timesteps[first],), ensemble=1)
        self.plan = Plan(plan.backbone, spec, plan.text_length)
        self._extractor = make(self.plan, 1, conditions)
        self._device, self._share = plan.backbone.device, SHARE / sharing
        self._weights = own_use(self._device)[0] if self._device.type == "cuda" else 0.0
        self._held, _ = host_peak()
        self._available = host_available()
        if plan.backbone.request.compile:
            self(2), self(3)  # compiled for one size, then for any

    def __call__(self, rows: int) -> float | None:
        """Seconds that `rows` pictures take; None if memory ran out."""
        try:
            seconds = self._run(rows)
            return min(seconds, self._run(rows)) if seconds < 1 else seconds
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _run(self, rows: int) -> float:
        self._extractor.batch_size = rows
        seeded = torch.Generator().manual_seed(0)
        size = (rows, 3, *self._extractor.plan.size)
        pixels = torch.randint(0, 256, size, generator=seeded, dtype=torch.uint8)
        began = time.perf_counter()
        self._extractor(Batch.of(pixels, [str(row) for row in range(rows)], [0] * rows))
        return time.perf_counter() - began

    def is_full(self) -> bool:
        """Whether twice as much would take too much memory."""
        if self._device.type == "cuda":
            # the others' parts must stay free, though a batch that takes them would run now
            taken = 2 * own_use(self._device)[1] - self._weights
            crowded = self._share < SHARE and taken > self._share
            return crowded or device_use(self._device) > SHARE
        _, peak = host_peak()
        grown = peak - self._held
        return self._available is not None and 2 * grown > self._share * self._available
