"""How much memory a network's activations take at once, found on torch's meta device.

Every tensor that an operation makes is followed until it is freed; the most that lives at once is
the peak. Attention counts as fused kernels do it: its output alone, never the map of all keys.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


@torch.no_grad()
def peak_bytes(work: Callable[[], Any]) -> int:
    """Most bytes of tensors made by `work`, on the meta device, that live at once."""
    with _Fused(), _Living() as living:
        kept = work()
        del kept
    return living.peak


class _Fused(TorchFunctionMode):
    """Attention without its map."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, value = given["query"], given["value"]
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class _Living(TorchDispatchMode):
    """Bytes of the storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(each.untyped_storage()) for each in _tensors((args, kwargs or {}))}
        found = func(*args, **(kwargs or {}))
        for each in _tensors(found):
            self._note(each.untyped_storage(), given)
        self.peak = max(self.peak, self.now)
        return found

    def _note(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = id(storage)
        if key in self._known or key in given:  # a view, or changed in place
            return
        size = storage.nbytes()
        self.now += size

        def forget(_ref: weakref.ref) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, forget)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [each for each in tree_flatten(values)[0] if isinstance(each, torch.Tensor)]
