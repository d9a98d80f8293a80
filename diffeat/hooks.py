"""Read and replace activations of any torch module, without patching it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from diffeat.attention import AttentionInputs, AttentionWatch
from diffeat.compiled import CompiledForward, compiled_forward
from diffeat.errors import HookError, nearest

Edit = Callable[[torch.Tensor], torch.Tensor | None]
SIDES = ("output", "input", "attention", "call")


@dataclass(frozen=True)
class Tap:
    """Where something is read, or edited.

    Attributes:
        path: path of a submodule, as in `module.get_submodule`; "" is the module itself.
        side: "output"; "input", its first tensor argument; "attention", the queries and keys
            of the scaled dot product inside it (an `AttentionInputs`, whose map is kept by
            default); "call", the module and its arguments, before it runs (a `Call`).
        item: which tensor, where the output is a tuple.
    """

    path: str
    side: str = "output"
    item: int = 0

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise HookError(f"side={self.side!r}; expected one of {', '.join(SIDES)}")


@dataclass(frozen=True)
class Call:
    """A submodule about to run: `module(*args, **kwargs)`."""

    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]

    @property
    def slot(self) -> int | str:
        """Where the activation stands among the arguments: an index, or a keyword."""
        for where, value in (*enumerate(self.args), *self.kwargs.items()):
            if isinstance(value, torch.Tensor) and where not in ("temb", "encoder_hidden_states"):
                return where
        raise HookError(f"{type(self.module).__name__} was called without a tensor")

    @property
    def tensor(self) -> torch.Tensor:
        slot = self.slot
        return self.args[slot] if isinstance(slot, int) else self.kwargs[slot]

    def replace(self, tensor: torch.Tensor) -> Call:
        """The same call with another activation."""
        slot = self.slot
        if isinstance(slot, int):
            args = (*self.args[:slot], tensor, *self.args[slot + 1 :])
            return Call(self.module, args, self.kwargs)
        return Call(self.module, self.args, {**self.kwargs, slot: tensor})


class _StopForward(BaseException):
    """Leaves a forward once every tap has fired; no `except Exception` on the way catches it."""


class HookManager:
    """Captures activations of submodules during a forward pass.

        with HookManager(model, {"a": "blocks.3"}, stop_after_last=True) as hooks:
            model(x)
        hooks["a"]

    A stopped forward leaves the `with` block. To run several forwards in one block, or to get
    the model's output when nothing stopped, call `hooks.run(x)` instead of `model(x)`.
    Captures are cleared when a new forward begins, so a stale tensor is never served.

    Args:
        module: the model that is run.
        taps: tap name → `Tap`, or the path of a submodule whose output is meant.
        stop_after_last: stop the forward as soon as every tap has fired.
        transform: called as transform(tap name, what was tapped) inside the hook; what it
            returns is kept. By default a detached copy is kept, because later layers may work
            in place. Modules that it runs fire no hook of this manager.
        edits: path or `Tap` (output, input or attention) → function that gets the activation and
            returns the tensor to go on with (or None to leave it): adding to it, replacing it,
            feedback, injection, ablation. A tap on the same place sees the edited tensor. Of
            "attention" it gets the probabilities (N, heads, L, M) in fp32, and the module goes
            on with probabilities · v: they are held whole, 4·N·heads·L·M bytes, and about three
            times that while they are made, where fused attention holds none.

    Raises:
        HookError: a path that names no submodule; in the forward, edited probabilities of
            another shape, or of a module that runs without torch's scaled dot product.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Mapping[str, str | Tap],
        stop_after_last: bool = False,
        transform: Callable[[str, Any], Any] | None = None,
        edits: Mapping[str | Tap, Edit] | None = None,
    ):
        self.module = module
        self.taps = {name: _as_tap(tap) for name, tap in taps.items()}
        self.stop_after_last = stop_after_last
        self.transform = transform or _detached_copy
        self.edits = [(_as_tap(place), edit) for place, edit in (edits or {}).items()]
        self._captured: dict[str, Any] = {}
        self._handles: list[Any] = []
        self._watching: list[str] = []
        self._watch: AttentionWatch | None = None
        self._attending: set[str] = set()
        self._paused: list[CompiledForward] = []
        self._busy = False
        for tap in self._places:
            if _submodule(module, tap.path) is None:
                known = dict(module.named_modules(remove_duplicate=False))
                raise HookError(f"no submodule {tap.path!r}{nearest(tap.path, known)}")
        for place, _ in self.edits:
            if place.side == "call":
                raise HookError(
                    f"{place} cannot be edited; expected an output, an input or attention"
                )

    @property
    def _places(self) -> tuple[Tap, ...]:
        """Wherever something is read or edited."""
        return (*self.taps.values(), *(place for place, _ in self.edits))

    def __enter__(self) -> HookManager:
        self._captured.clear()
        try:
            self._pause()
            self._handles.append(self.module.register_forward_pre_hook(self._begin))
            for place, edit in self.edits:
                if place.side != "attention":
                    self._handles.append(self._attach_edit(place, edit))
            # one watch for all that is wanted of a module, such as each of its heads
            watched = [tap.path for tap in self._places if tap.side == "attention"]
            for path in dict.fromkeys(watched):
                self._handles += self._attach_watch(path)
            for name, tap in self.taps.items():
                if tap.side != "attention":
                    self._handles.append(self._attach_tap(name, tap))
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _trace: Any) -> bool:
        self._detach()
        if error is not None and not self._is_mine(error):
            self._captured.clear()  # nobody may want the memory more than whoever handles this
        return self._is_mine(error)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; its output, or None when the forward was stopped early."""
        try:
            return self.module(*args, **kwargs)
        except _StopForward as stop:
            if not self._is_mine(stop):
                raise
            return None
        finally:
            self._leave_watches()

    def _is_mine(self, error: BaseException | None) -> bool:
        """Whether this manager stopped the forward, and not another one around or inside it."""
        return isinstance(error, _StopForward) and error.args[0] is self

    def __getitem__(self, name: str) -> Any:
        if name not in self.taps:
            raise HookError(f"no tap {name!r}{nearest(name, self.taps)}")
        if name not in self._captured:
            raise HookError(
                f"tap {name!r} ({self.taps[name].path}) did not fire in the last forward; it was "
                "skipped (layer skipping, caching), or no forward has run yet"
            )
        return self._captured[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)

    def _detach(self) -> None:
        self._leave_watches()
        while self._handles:
            self._handles.pop().remove()
        while self._paused:
            self._paused.pop().paused -= 1

    def _pause(self) -> None:
        """Run as it was written what holds a tap or an edit: compiled code fires no hooks."""
        for place in self._places:
            for path in _around(place):
                module = _submodule(self.module, path)
                if module is not None and (forward := compiled_forward(module)) is not None:
                    forward.paused += 1
                    self._paused.append(forward)

    def _leave_watches(self) -> None:
        self._watching.clear()
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.__exit__(None, None, None)

    def _begin(self, *_: Any) -> None:
        if not self._busy:
            self._captured.clear()

    def _attach_tap(self, name: str, tap: Tap) -> Any:
        """The hook of one tap; the handle that removes it."""
        module = self.module.get_submodule(tap.path)
        if tap.side == "output":
            read = lambda _m, _i, output: self._keep(name, nth_tensor(output, tap.item))  # noqa: E731
            return module.register_forward_hook(read)

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            call = Call(module, args, kwargs)
            self._keep(name, call if tap.side == "call" else call.tensor)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _attach_watch(self, path: str) -> list[Any]:
        """Hooks around a module whose attention is tapped or edited."""
        module = self.module.get_submodule(path)
        enter = module.register_forward_pre_hook(lambda *_: self._begin_watch(path))
        # leaves the watch before any other hook of the module may stop the forward
        leave = module.register_forward_hook(
            lambda *_: self._end_watch(), prepend=True, always_call=True
        )
        if not any(place == Tap(path, "attention") for place, _ in self.edits):
            return [enter, leave]

        def check(*_: Any) -> None:
            if path not in self._attending and not self._busy:
                raise HookError(
                    f"{path!r} ran without torch's scaled_dot_product_attention, so its attention "
                    "was not edited; expected an attention module that runs with it"
                )

        return [enter, leave, module.register_forward_hook(check)]

    def _attach_edit(self, place: Tap, edit: Edit) -> Any:
        module, ours = self.module.get_submodule(place.path), edit

        def edit(tensor: torch.Tensor) -> torch.Tensor | None:
            return None if self._busy else ours(tensor)

        if place.side == "output":
            return module.register_forward_hook(_output_editor(edit, place.item))
        return module.register_forward_pre_hook(_input_editor(edit), with_kwargs=True)

    def _begin_watch(self, path: str) -> None:
        if self._busy:
            return
        self._watching.append(path)
        self._attending.discard(path)
        if self._watch is None:
            self._watch = AttentionWatch(self._attended)
            self._watch.__enter__()

    def _end_watch(self) -> None:
        """A watched module has run: modules end in the reverse order of their beginning."""
        if self._watching and not self._busy:
            self._watching.pop()
            if not self._watching:
                self._leave_watches()

    def _attended(self, inputs: AttentionInputs) -> torch.Tensor | None:
        """A scaled dot product within watched modules: its result, where that was edited."""
        if self._busy:
            return None
        self._attending.update(self._watching)
        for place, edit in self.edits:
            if place.side == "attention" and place.path in self._watching:
                inputs = _edited(place, edit, inputs)
        for name, tap in self.taps.items():
            if tap.side == "attention" and tap.path in self._watching:
                self._keep(name, inputs)
        return None if inputs.edited is None else inputs.output()

    def _keep(self, name: str, value: Any) -> None:
        if self._busy:  # a forward that `transform` runs is none of ours
            return
        self._busy = True
        try:
            self._captured[name] = self.transform(name, value)
        finally:
            self._busy = False
        if self.stop_after_last and len(self._captured) == len(self.taps):
            raise _StopForward(self)


def _edited(place: Tap, edit: Edit, inputs: AttentionInputs) -> AttentionInputs:
    """The same attention with edited probabilities."""
    found = inputs.probabilities(range(inputs.query.shape[1]))
    replacement = edit(found)
    if replacement is None:
        return inputs
    if replacement.shape != found.shape:
        raise HookError(
            f"the edit of {place.path!r} returned probabilities of shape "
            f"{tuple(replacement.shape)}; expected {tuple(found.shape)}, (rows, heads, queries, "
            "keys)"
        )
    return replace(inputs, edited=replacement.float())


def _as_tap(tap: str | Tap) -> Tap:
    return tap if isinstance(tap, Tap) else Tap(tap)


def _around(place: Tap) -> Iterator[str]:
    """Paths of the modules inside whose forward something is read or edited."""
    if place.side == "attention":
        yield place.path
    path = place.path
    while path:
        path = path.rpartition(".")[0]
        yield path


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    """What a path names, if it names a submodule; no others are looked at."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def nth_tensor(output: Any, item: int = 0) -> torch.Tensor:
    """The activation in a module's output: the tensor itself, or one of a tuple's or a dict's."""
    while not isinstance(output, torch.Tensor):
        if isinstance(output, Mapping):
            output = tuple(output.values())
        if not isinstance(output, (tuple, list)) or len(output) <= item:
            raise HookError(f"a tapped module returned {type(output).__name__}; expected a tensor")
        output, item = output[item], 0
    return output


def _detached_copy(_name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value if isinstance(value, Call) else value.probabilities().detach()


def _input_editor(edit: Edit) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        call = Call(module, args, kwargs)
        replacement = edit(call.tensor)
        if replacement is None:
            return None
        call = call.replace(replacement)
        return call.args, call.kwargs

    return hook


def _output_editor(edit: Edit, item: int) -> Callable:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        replacement = edit(nth_tensor(output, item))
        if replacement is None:
            return None
        if isinstance(output, torch.Tensor):
            return replacement
        if type(output) in (tuple, list):
            return type(output)([*output[:item], replacement, *output[item + 1 :]])
        raise HookError(
            f"cannot replace the activation inside a {type(output).__name__}; expected the "
            "module to return a tensor or a tuple (call it with return_dict=False)"
        )

    return hook
