"""Tensors on their way to a device: without waiting for it, and back without a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import nn


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
