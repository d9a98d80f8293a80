"""Read and replace activations of any torch module, without patching it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from diffeat.errors import HookError, nearest

Edit = Callable[[torch.Tensor], torch.Tensor | None]


class _StopForward(BaseException):
    """Leaves a forward once every tap has fired; no `except Exception` on the way catches it."""


class HookManager:
    """Captures the outputs of submodules during a forward pass.

        with HookManager(model, {"a": "blocks.3"}, stop_after_last=True) as hooks:
            model(x)
        hooks["a"]

    A stopped forward leaves the `with` block. To run several forwards in one block, or to get
    the model's output when nothing stopped, call `hooks.run(x)` instead of `model(x)`.
    Captures are cleared when a new forward begins, so a stale tensor is never served.

    Args:
        module: the model that is run.
        taps: tap name → path of a submodule, as in `module.get_submodule`.
        stop_after_last: stop the forward as soon as every tap has fired.
        transform: called as transform(tap name, tensor) inside the hook; what it returns is
            kept. By default a detached copy is kept, because later layers may work in place.
        edits: path → function that gets the submodule's output tensor and returns the tensor
            to go on with (or None to leave it): feedback, injection, ablation. A tap on the
            same path sees the edited tensor.

    Raises:
        HookError: a path that names no submodule.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Mapping[str, str],
        stop_after_last: bool = False,
        transform: Callable[[str, torch.Tensor], Any] | None = None,
        edits: Mapping[str, Edit] | None = None,
    ):
        self.module = module
        self.taps = dict(taps)
        self.stop_after_last = stop_after_last
        self.transform = transform or _detached_copy
        self.edits = dict(edits or {})
        self._captured: dict[str, Any] = {}
        self._handles: list[Any] = []
        known = _modules(module)
        for path in (*self.taps.values(), *self.edits):
            if path not in known:
                raise HookError(f"no submodule {path!r}{nearest(path, known)}")

    def __enter__(self) -> HookManager:
        modules = _modules(self.module)
        self._captured.clear()
        try:
            self._handles.append(self.module.register_forward_pre_hook(self._begin))
            for path, edit in self.edits.items():
                self._handles.append(modules[path].register_forward_hook(_editor(edit)))
            for name, path in self.taps.items():
                self._handles.append(modules[path].register_forward_hook(self._tap(name)))
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _trace: Any) -> bool:
        self._detach()
        return self._is_mine(error)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; its output, or None when the forward was stopped early."""
        try:
            return self.module(*args, **kwargs)
        except _StopForward as stop:
            if not self._is_mine(stop):
                raise
            return None

    def _is_mine(self, error: BaseException | None) -> bool:
        """Whether this manager stopped the forward, and not another one around or inside it."""
        return isinstance(error, _StopForward) and error.args[0] is self

    def __getitem__(self, name: str) -> Any:
        if name not in self.taps:
            raise HookError(f"no tap {name!r}{nearest(name, self.taps)}")
        if name not in self._captured:
            raise HookError(
                f"tap {name!r} ({self.taps[name]}) did not fire in the last forward; it was "
                "skipped (layer skipping, caching), or no forward has run yet"
            )
        return self._captured[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, *_: Any) -> None:
        self._captured.clear()

    def _tap(self, name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._captured[name] = self.transform(name, first_tensor(output))
            if self.stop_after_last and len(self._captured) == len(self.taps):
                raise _StopForward(self)

        return hook


def _modules(module: nn.Module) -> dict[str, nn.Module]:
    """Path → submodule, with every path of a module that is shared."""
    return dict(module.named_modules(remove_duplicate=False))


def first_tensor(output: Any) -> torch.Tensor:
    """The activation in a module's output: the tensor itself, or the first of a tuple or dict."""
    while not isinstance(output, torch.Tensor):
        if isinstance(output, Mapping):
            output = next(iter(output.values()), None)
        elif isinstance(output, (tuple, list)) and output:
            output = output[0]
        else:
            raise HookError(f"a tapped module returned {type(output).__name__}; expected a tensor")
    return output


def _detached_copy(_name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def _editor(edit: Edit) -> Callable:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        replacement = edit(first_tensor(output))
        if replacement is None:
            return None
        if isinstance(output, torch.Tensor):
            return replacement
        if type(output) in (tuple, list):
            return type(output)([replacement, *output[1:]])
        raise HookError(
            f"cannot replace the activation inside a {type(output).__name__}; expected the "
            "module to return a tensor or a tuple (call it with return_dict=False)"
        )

    return hook
