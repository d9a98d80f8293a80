"""Compiled blocks: the same features, with hooks, early stop, edits and maps as ever."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import diffeat
from diffeat import compiled
from diffeat.backbones.units import units
from diffeat.compiled import compile_forward, compiled_forward
from diffeat.hooks import HookManager, Tap
from tests.extraction.common import spec
from tests.pipelines import levels, pictures


@pytest.fixture(autouse=True)
def dynamo(tmp_path_factory, monkeypatch):
    """A compiler that starts afresh, and leaves nothing in the user's folders."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    before = getattr(config, limit)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    setattr(config, limit, before)


@pytest.fixture
def quick(monkeypatch):
    """Trace, but generate no code; that takes no time to speak of."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")


def load(folder):
    return diffeat.load(str(folder), device="cpu", dtype="float32", compile=True)


def features(backbone, name, blocks, batch_size=None, count=3, **options):
    asked = spec(name, blocks, levels(name)[0], **options)
    return dict(diffeat.extract(backbone, pictures(count), asked, batch_size=batch_size))


def close(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert (found[key] - values).norm() <= 1e-5 * values.norm(), key


class Counted(nn.Module):
    """Counts how often it is run as it was written."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.runs = 0

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.runs += 1
        return self.inner(x).relu()


def network():
    torch.manual_seed(0)
    net = nn.Sequential(Counted(), Counted(), Counted())
    for module in net:
        compile_forward(module)
    return net


X = torch.linspace(-1, 1, 6).view(2, 3)


def runs(net):
    """How often each block was run as it was written since the last time."""
    found = [module.runs for module in net]
    for module in net:
        module.runs = 0
    return found


# --- which blocks run compiled --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taps", "written"),
    [
        ({"a": "1"}, [0, 0, 0]),
        ({"a": Tap("1", "input"), "b": Tap("2", "call")}, [0, 0, 0]),
        ({"a": "1.inner"}, [0, 1, 0]),
        ({"a": Tap("2.inner", "input"), "b": "0.inner"}, [1, 0, 1]),
        ({"a": Tap("0", "attention"), "b": "2"}, [1, 0, 0]),
        ({}, [0, 0, 0]),
    ],
)
def test_only_blocks_that_hold_a_tap_run_as_written(taps, written, quick):
    net, plain = network(), nn.Sequential(*(Counted() for _ in range(3)))
    plain.load_state_dict(net.state_dict())
    fires = {name: tap for name, tap in taps.items() if Tap("0", "attention") != tap}
    with torch.no_grad():
        with HookManager(net, taps) as hooks:
            hooks.run(X)
        assert runs(net) == written
        with HookManager(plain, fires) as expected:
            expected.run(X)
        assert torch.allclose(net(X), plain(X))
        assert runs(net) == [0, 0, 0]  # as soon as the hooks are gone
    for name, tap in fires.items():
        if not isinstance(tap, Tap) or tap.side != "call":
            assert torch.allclose(hooks[name], expected[name])


def test_edits_inside_a_block_are_made(quick):
    net = network()
    with (
        torch.no_grad(),
        HookManager(net, {"a": "2"}, edits={"1.inner": torch.ones_like}) as hooks,
    ):
        net(X)
    assert runs(net) == [0, 1, 0]
    with torch.no_grad(), HookManager(net, {"b": "2"}, edits={"1": torch.ones_like}) as others:
        net(X)
    assert runs(net) == [0, 0, 0]
    assert torch.allclose(hooks["a"], others["b"])
    with torch.no_grad(), HookManager(net, {"c": "2"}) as plain:
        net(X)
    assert not torch.allclose(hooks["a"], plain["c"])


def test_managers_around_managers(quick):
    net = network()
    with HookManager(net, {"a": "1.inner"}), HookManager(net, {"b": "1.inner", "c": "0"}):
        with torch.no_grad():
            net(X)
        assert runs(net) == [0, 1, 0]
    forwards = [compiled_forward(module) for module in net]
    assert [forward.paused for forward in forwards] == [0, 0, 0]


def test_a_manager_that_fails_leaves_blocks_compiled(quick):
    net = network()
    with pytest.raises(KeyError), HookManager(net, {"a": "1.inner"}):
        raise KeyError
    assert compiled_forward(net[1]).paused == 0


# --- whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [pytest.param("sd1", marks=pytest.mark.slow),
                                   "pixart-alpha", "flux"])  # fmt: skip
def test_every_tensor_of_a_compiled_model(model, folder_of, backbone_of, quick):
    backbone, plain = load(folder_of(model)), backbone_of(model)
    assert all(compiled_forward(block) for block in units(backbone.denoiser).values())
    every = [block.name for block in plain.tensors if not block.of_vae]
    outputs = [block.name for block in plain.blocks]
    for blocks in (outputs[-1:], outputs[:1], every, every[-8:]):
        close(features(backbone, model, blocks), features(plain, model, blocks))


def test_channels_discarded_before_a_compiled_norm(folder_of, backbone_of, quick):
    both = [
        features(backbone, "dit", ("block.1:adaln", "block.2"), discard=(1, 3))
        for backbone in (load(folder_of("dit")), backbone_of("dit"))
    ]
    close(*both)


def test_a_trajectory_of_a_compiled_model(folder_of, backbone_of, quick):
    asked = spec("dit-pixels", "block.1", 400, noise="inversion", steps=5)
    found, expected = (
        dict(diffeat.extract(backbone, pictures(2), asked))
        for backbone in (load(folder_of("dit-pixels")), backbone_of("dit-pixels"))
    )
    close(found, expected)


@pytest.mark.slow
def test_other_batch_sizes_compile_once_more_and_no_further(folder_of, quick):
    backbone, seen = load(folder_of("dit")), []

    def counting(graph, inputs):
        seen.append(graph)
        return graph

    for block in units(backbone.denoiser).values():
        forward = compiled_forward(block)
        forward.compiled = torch.compile(forward.eager, backend=counting)
    features(backbone, "dit", "block.2", batch_size=4, count=4)
    first = len(seen)
    assert first > 0
    features(backbone, "dit", "block.2", batch_size=4, count=7)  # a last batch of 3
    second = len(seen)
    assert second <= 2 * first
    for size in (2, 5, 6, 7):
        features(backbone, "dit", "block.2", batch_size=size, count=size)
    assert len(seen) == second
    features(backbone, "dit", "block.2", batch_size=1, count=1)  # torch takes it for another case
    third = len(seen)
    assert third <= second + 2 * first
    for size in (3, 1, 8, 1):
        features(backbone, "dit", "block.2", batch_size=size, count=size)
    assert len(seen) == third


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_generated_code_gives_the_same_features(backend, folder_of, backbone_of, monkeypatch):
    assert compiled.BACKEND == "inductor"
    monkeypatch.setattr(compiled, "BACKEND", backend)
    backbone, plain = load(folder_of("dit-pixels")), backbone_of("dit-pixels")
    close(*(features(model, "dit-pixels", ("block.1", "block.2")) for model in (backbone, plain)))
