"""A CUDA device without one: tensors that say they lie on it, while the CPU computes.

`Claims` is a mode of torch. Inside it a tensor that is made on, or moved to, "cuda" is marked;
what is computed from marked tensors is marked, `device` of a marked tensor is cuda:0, and what
torch refuses on a real device is refused: tensors of two devices in one call, `numpy()` without
`cpu()`, a generator of the CPU that draws on the device. Values are those of the CPU, so that they
can be compared. Copies into pinned memory that do not block arrive when an event behind them is
waited for; until then the memory holds nan, so whoever does not wait is found out.

Not seen: what C++ does by itself (kernels of CUDA, memory, streams, compiled code), other threads
(the mode belongs to its own), generators that live on a device.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from diffeat.backbones.devices import constant
from tests.device.rules import (
    CUDA,
    FACTS,
    SIZES,
    SPECIAL,
    WAITS,
    Waited,
    claim,
    claimed,
    one_device,
    pinned,
    right_generator,
    tensors,
    without_device,
)

__all__ = ["CUDA", "Claims", "Waited", "claimed", "cuda"]

PARAMETER = nn.Parameter.__new__
ACTIVE: list[Claims] = []


class Claims(TorchFunctionMode):
    """The mode; see above.

    Attributes:
        waits: names of the calls for which the host had to wait.
        strict: whether such a call raises `Waited`.
        queue: copies from the device into pinned memory that have not arrived.
        arrived: how many have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.strict = False
        self.queue: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.arrived = 0

    def __torch_function__(self, func: Callable, types: Any, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func in FACTS:
            return func(*args, **kwargs)
        special = SPECIAL.get(func)
        if special is not None:
            return special(self, func, args, kwargs)
        return self.generic(func, args, kwargs)

    def generic(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Any other function: one device, and what comes out lies on it."""
        name = getattr(func, "__name__", "")
        found = list(tensors(args[:1] if name in SIZES else (args, kwargs)))
        on_device = any(map(claimed, found))
        wanted, args, kwargs = without_device(args, kwargs)
        if on_device:
            one_device(name, found, args)
            if name in WAITS:
                self.wait(name)
        if wanted is not None and wanted.type == "cuda" and on_device is False and found:
            self.wait(f"{name} of a CPU tensor")
        target = on_device if wanted is None else wanted.type == "cuda"
        right_generator(kwargs, target)
        if kwargs.pop("pin_memory", False):
            return pinned(func(*args, **kwargs))
        out = func(*args, **kwargs)
        for tensor in tensors(out) if target else ():
            claim(tensor)
        return out

    def wait(self, what: str) -> None:
        self.waits.append(what)
        if self.strict:
            raise Waited(f"the host waits for the device: {what}")

    @contextlib.contextmanager
    def no_waiting(self) -> Iterator[None]:
        """The host must not wait for the device in here."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def arrive(self, until: int | None = None) -> None:
        """The first `until` copies of all that were ever queued arrive; by default all."""
        count = None if until is None else max(0, until - self.arrived)
        arrived, self.queue[:count] = self.queue[:count], []
        self.arrived += len(arrived)
        with torch._C.DisableTorchFunction():
            for target, values in arrived:
                target.copy_(values)


@contextlib.contextmanager
def cuda() -> Iterator[Claims]:
    """The mode, with what asks torch.cuda itself: is it there, events, generators' states."""
    if ACTIVE:
        yield ACTIVE[-1]
        return
    mode = Claims()

    class Event:
        """Remembers how many copies were queued before it."""

        def __init__(self, **_options):
            self.queued = 0

        def record(self, _stream=None):
            self.queued = mode.arrived + len(mode.queue)

        def synchronize(self):
            mode.arrive(self.queued)

    patches = {
        "is_available": _only_ours(True, torch.cuda.is_available),
        "device_count": _only_ours(1, torch.cuda.device_count),
        "Event": Event,
        "current_stream": lambda _device=None: None,
        "synchronize": lambda _device=None: mode.arrive(),
        "get_rng_state": lambda _device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, _device=None: torch.set_rng_state(state),
        "empty_cache": lambda: None,
        "get_device_name": lambda _device=None: "claimed",
    }
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(nn.Parameter, "__new__", _parameter))
        stack.enter_context(mode)
        ACTIVE.append(mode)
        stack.callback(ACTIVE.pop)
        constant.cache_clear()  # what is kept by device must not outlive the claim
        stack.callback(constant.cache_clear)
        yield mode


def _parameter(cls, data=None, *args, **kwargs):
    """A parameter lies where its data does; torch makes it without a call that a mode sees."""
    made = PARAMETER(cls, data, *args, **kwargs)
    return claim(made) if claimed(data) else made


def _only_ours(answer: Any, real: Callable) -> Callable:
    """Torch's own code would go on to ask the driver."""

    def asked():
        ours = sys._getframe(1).f_globals["__name__"].startswith(("diffeat", "tests"))
        return answer if ours else real()

    return asked
