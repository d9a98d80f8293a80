"""Which device and precision; tensors on their way there without waiting, back without a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import nn

from diffeat.backbones.request import DTYPE_NAMES
from diffeat.errors import DeviceError, SpecError

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def pick_device(device: str) -> torch.device:
    """The torch device that a user means; DeviceError if this machine has no such device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device {device!r} is unknown; expected auto, cpu or cuda[:N]") from None
    if target.type not in ("cpu", "cuda", "meta"):
        try:
            torch.empty(0, device=target)
        except Exception as error:  # a backend that is not built in may raise anything
            raise DeviceError(
                f"device {device!r} is not usable here ({str(error)[:80]}…); "
                "expected auto, cpu or cuda[:N]"
            ) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if target.type == "cuda" and (target.index or 0) >= count:
        raise DeviceError(
            f"device {device!r} was asked for, but torch sees {count} CUDA devices here; "
            "use --device cpu, or check the driver and torch's CUDA build"
        )
    return target


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    dtype = DTYPE_NAMES.get(dtype, dtype)
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in TORCH_DTYPES:
        raise SpecError(f"dtype {dtype!r} is unknown; expected auto or {', '.join(TORCH_DTYPES)}")
    return TORCH_DTYPES[dtype]


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`. The host does not wait for a CUDA device: the copy is queued, from
    pinned memory that torch keeps until it is done."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=256)
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small tensor of given numbers, uploaded once; do not change it in place."""
    return torch.tensor(values, dtype=dtype, device=device)


@contextmanager
def visiting(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The module on `device` for the moment in which it runs; its weights are only read."""
    if device.type == "cpu":
        yield module
        return
    homes = move(module, device)
    try:
        yield module
    finally:
        restore(homes)


def move(module: nn.Module, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copy a module's weights to `device`; what `restore` needs to drop the copies again.

    Where that fails, as for lack of memory, all of them are at home again.
    """
    homes = [(tensor, tensor.data) for tensor in _weights(module)]
    try:
        for tensor, home in homes:
            tensor.data = copied(home, device)
    except BaseException:
        restore(homes)
        raise
    return homes


def copied(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A weight on the device where it visits."""
    return weight.to(device)


def restore(homes: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Put back the weights that `move` replaced. Nothing is copied: they did not change."""
    for tensor, home in homes:
        tensor.data = home


def _weights(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
