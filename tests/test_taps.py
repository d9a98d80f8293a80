"""Taps on inputs, chosen outputs and calls; edits on inputs and chosen outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffeat.errors import HookError
from diffeat.hooks import Call, HookManager, Tap

X = torch.tensor([1.0, -2.0])


class Step(nn.Module):
    """Multiplies by a constant and counts its calls."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x, temb=None):
        self.calls += 1
        return x * self.factor


class Net(nn.Module):
    """×2, ×3, ×5; the second by keyword, behind tensors that are no activations."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(Step(k) for k in (2.0, 3.0, 5.0))

    def forward(self, x):
        x = self.steps[0](x, torch.zeros(7))
        x = self.steps[1](temb=torch.ones(7), x=x)
        return self.steps[2](x)


class Split(nn.Module):
    """Returns its input ×1, ×10 and ×100, as `kind`."""

    def __init__(self, kind=tuple):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        parts = (x, 10 * x, 100 * x)
        return dict(zip("abc", parts, strict=True)) if self.kind is dict else self.kind(parts)


class Wrap(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.fixture
def net():
    return Net()


def calls(net):
    return [step.calls for step in net.steps]


# --- what a tap may be ----------------------------------------------------------------------


@pytest.mark.parametrize("side", ["inside", "", "Input", None])
def test_an_unknown_side(side):
    with pytest.raises(HookError, match=r"side=.*; expected one of output, input, attention, call"):
        Tap("steps.0", side)


def test_a_path_is_a_tap_on_the_output(net):
    assert Tap("steps.1") == Tap("steps.1", "output", 0)
    with HookManager(net, {"path": "steps.1", "tap": Tap("steps.1")}) as hooks:
        net(X)
    assert torch.equal(hooks["path"], hooks["tap"])


@pytest.mark.parametrize("side", ["output", "input", "attention", "call"])
def test_an_unknown_path_on_every_side(net, side):
    with pytest.raises(HookError, match=r"no submodule 'step\.1' .did you mean 'steps\.1'"):
        HookManager(net, {"a": Tap("step.1", side)})


# --- inputs ---------------------------------------------------------------------------------


def test_inputs_by_place_and_by_keyword(net):
    taps = {f"in {k}": Tap(f"steps.{k}", "input") for k in range(3)} | {"whole": Tap("", "input")}
    with HookManager(net, taps) as hooks:
        output = net(X)
    assert torch.equal(hooks["whole"], X)
    assert torch.equal(hooks["in 0"], X)
    assert torch.equal(hooks["in 1"], 2 * X)
    assert torch.equal(hooks["in 2"], 6 * X)
    assert torch.equal(output, 30 * X)


def test_an_input_is_a_copy_that_the_module_cannot_change():
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with HookManager(model, {"a": Tap("1", "input")}) as hooks:
        model(torch.tensor([-1.0, 1.0]))
    assert hooks["a"].tolist() == [-1, 1]


def test_the_module_itself_does_not_run_for_its_input(net):
    with HookManager(net, {"a": Tap("steps.1", "input")}, stop_after_last=True) as hooks:
        assert hooks.run(X) is None
    assert torch.equal(hooks["a"], 2 * X)
    assert calls(net) == [1, 0, 0]


@pytest.mark.parametrize("text", ["temb", "encoder_hidden_states"])
def test_conditions_are_no_activations(text):
    class Reads(nn.Module):
        def forward(self, **tensors):
            return sum(tensors.values())

    model = Wrap(Reads())
    with HookManager(model, {"a": Tap("inner", "input")}) as hooks:
        model(**{text: torch.ones(2), "hidden_states": X})
    assert torch.equal(hooks["a"], X)


def test_a_call_without_a_tensor():
    class Blind(nn.Module):
        def forward(self, number, temb=None):
            return torch.zeros(1)

    model = Wrap(Blind())
    with pytest.raises(HookError, match="Blind was called without a tensor"):  # noqa: SIM117
        with HookManager(model, {"a": Tap("inner", "input")}):
            model(3, temb=X)


# --- one of several outputs -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [tuple, list, dict])
@pytest.mark.parametrize("item", [0, 1, 2])
def test_an_output_can_be_chosen(kind, item):
    model = Wrap(Split(kind))
    taps = {"chosen": Tap("inner", item=item), "whole": Tap("", item=item)}
    with HookManager(model, taps) as hooks:
        model(X)
    assert torch.equal(hooks["chosen"], 10**item * X)
    assert torch.equal(hooks["whole"], 10**item * X)


def test_an_output_that_is_not_there():
    with (
        pytest.raises(HookError, match="returned tuple; expected a tensor"),
        HookManager(Wrap(Split()), {"a": Tap("inner", item=3)}) as hooks,
    ):
        hooks.module(X)


def test_a_single_tensor_has_no_items(net):
    with HookManager(net, {"a": Tap("steps.0", item=1)}) as hooks:
        net(X)
    assert torch.equal(hooks["a"], 2 * X)


# --- calls ----------------------------------------------------------------------------------


def test_a_call_can_be_made_again(net):
    with HookManager(net, {"a": Tap("steps.1", "call")}, stop_after_last=True) as hooks:
        net(X)
    call = hooks["a"]
    assert calls(net) == [1, 0, 0]
    assert (call.module, call.args, set(call.kwargs)) == (net.steps[1], (), {"temb", "x"})
    assert call.slot == "x"
    assert torch.equal(call.tensor, 2 * X)
    assert torch.equal(call.module(*call.args, **call.kwargs), 6 * X)


@pytest.mark.parametrize(
    ("args", "kwargs", "slot"),
    [
        ((X, 1), {}, 0),
        ((None, X), {"temb": 2 * X}, 1),
        ((), {"temb": 2 * X, "hidden_states": X}, "hidden_states"),
        ((), {"encoder_hidden_states": 2 * X, "x": X}, "x"),
    ],
)
def test_another_activation_in_the_same_call(args, kwargs, slot):
    call = Call(nn.Identity(), args, kwargs)
    assert call.slot == slot
    assert call.tensor is X
    other = call.replace(5 * X)
    assert (other.module, other.slot) == (call.module, slot)
    assert torch.equal(other.tensor, 5 * X)
    assert call.tensor is X  # the call itself stays what it was
    rest = [value for where, value in (*enumerate(args), *kwargs.items()) if where != slot]
    kept = [value for where, value in (*enumerate(other.args), *other.kwargs.items())
            if where != slot]  # fmt: skip
    assert all(a is b for a, b in zip(rest, kept, strict=True))


def test_modules_that_a_transform_runs_fire_no_hook(net):
    seen = []

    def again(name, call):
        seen.append(name)
        changed = call.replace(call.tensor + 1)
        return changed.module(*changed.args, **changed.kwargs)

    taps = {"a": Tap("steps.1", "call"), "b": Tap("steps.2", "call")}
    with HookManager(net, taps, transform=again) as hooks:
        assert torch.equal(net(X), 30 * X)
    assert seen == ["a", "b"]
    assert torch.equal(hooks["a"], 3 * (2 * X + 1))
    assert torch.equal(hooks["b"], 5 * (6 * X + 1))
    assert calls(net) == [1, 2, 2]


def test_a_transform_may_run_the_whole_model(net):
    with HookManager(
        net, {"a": "steps.0", "b": Tap("steps.1", "input")}, transform=lambda _, x: net(x)
    ) as hooks:
        net(X)
    assert torch.equal(hooks["a"], 60 * X)
    assert torch.equal(hooks["b"], 60 * X)


# --- edits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 2])
def test_adding_to_an_input(net, k):
    factors = [2.0, 3.0, 5.0]
    with HookManager(net, {}, edits={Tap(f"steps.{k}", "input"): lambda x: x + 100}):
        output = net(X)
    behind = math.prod(factors[k:])
    assert torch.equal(output, 30 * X + 100 * behind)
    assert torch.equal(net(X), 30 * X)  # and no longer


@pytest.mark.parametrize("side", ["input", "output"])
def test_replacing_a_tensor(net, side):
    other = torch.tensor([7.0, 8.0])
    with HookManager(net, {"last": "steps.2"}, edits={Tap("steps.1", side): lambda x: other}) as h:
        output = net(X)
    assert torch.equal(output, (15 if side == "input" else 5) * other)
    assert torch.equal(h["last"], output)


def test_the_models_own_input_and_output(net):
    edits = {Tap("", "input"): lambda x: x + 1, Tap(""): lambda x: -x}
    with HookManager(net, {"in": Tap("", "input"), "out": ""}, edits=edits) as hooks:
        output = net(X)
    assert torch.equal(output, -30 * (X + 1))
    assert torch.equal(hooks["in"], X + 1)
    assert torch.equal(hooks["out"], output)


def test_taps_see_what_was_edited(net):
    edits = {Tap("steps.1", "input"): lambda x: x + 1, "steps.1": lambda x: x + 10}
    taps = {"in": Tap("steps.1", "input"), "call": Tap("steps.1", "call"), "out": "steps.1"}
    with HookManager(net, taps, edits=edits) as hooks:
        output = net(X)
    assert torch.equal(hooks["in"], 2 * X + 1)
    assert torch.equal(hooks["call"].tensor, 2 * X + 1)
    assert torch.equal(hooks["out"], 3 * (2 * X + 1) + 10)
    assert torch.equal(output, 5 * hooks["out"])


def test_an_input_edit_that_returns_none_changes_nothing(net):
    seen = []
    with HookManager(net, {}, edits={Tap("steps.1", "input"): seen.append}):
        assert torch.equal(net(X), 30 * X)
    assert torch.equal(seen[0], 2 * X)


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("item", [0, 1, 2])
def test_one_of_several_outputs_is_edited(kind, item):
    model = Wrap(Split(kind))
    with HookManager(model, {}, edits={Tap("inner", item=item): lambda x: x + 1}):
        output = model(X)
    assert type(output) is kind
    for k, value in enumerate(output):
        assert torch.equal(value, 10**k * X + (k == item))


def test_what_cannot_be_edited(net):
    with pytest.raises(HookError, match=r"steps\.1.*cannot be edited; expected an output, an in"):
        HookManager(net, {}, edits={Tap("steps.1", "call"): lambda x: x})


def test_an_unknown_path_of_an_edit(net):
    with pytest.raises(HookError, match=r"no submodule 'steps\.7'"):
        HookManager(net, {}, edits={Tap("steps.7", "input"): lambda x: x})


def test_edits_leave_alone_what_a_transform_runs(net):
    taps = {"a": Tap("steps.1", "call")}
    again = lambda _, call: call.module(*call.args, **call.kwargs)  # noqa: E731
    with HookManager(net, taps, transform=again, edits={"steps.1": lambda x: x + 100}) as hooks:
        net(X)
    assert torch.equal(hooks["a"], 6 * X)
