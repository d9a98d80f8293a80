"""What the claimed device refuses, and what it lets pass, as torch does with a real one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.device.claims import CUDA, Waited, claimed


@pytest.fixture
def there(mode) -> torch.Tensor:
    return torch.arange(6.0, device="cuda").view(2, 3)


def here() -> torch.Tensor:
    return torch.ones(2, 3)


# --- the three faults -----------------------------------------------------------------------------

CONSTANTS = {
    "sum": lambda x: x + torch.arange(3),
    "in place": lambda x: x.add_(here()),
    "product": lambda x: x @ torch.eye(3),
    "list": lambda x: torch.cat([x, here()]),
    "keyword": lambda x: F.linear(x, weight=torch.eye(3)),
    "python": lambda x: F.layer_norm(x, (3,), torch.ones(3)),
    "index": lambda x: x.index_select(1, torch.tensor([0])),
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "module": lambda x: nn.Linear(3, 3)(x),
    "no dimensions": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "values at an index": lambda x: x.__setitem__(torch.tensor([0]), torch.ones(1, 3)),
    "index of the CPU's": lambda x: here()[(x[:, 0] * 0).long()],
    "scalar that is written": lambda x: torch.tensor(0.0).add_(x),
    "out": lambda x: torch.add(x, x, out=here()),
}


@pytest.mark.parametrize("fault", CONSTANTS)
def test_a_constant_on_the_cpu_raises(fault, there):
    with pytest.raises(RuntimeError, match="on the same device"):
        CONSTANTS[fault](there)


DRAWS = {
    "randn": lambda g: torch.randn(2, generator=g, device="cuda"),
    "rand": lambda g: torch.rand(2, generator=g, device=torch.device("cuda")),
    "randint": lambda g: torch.randint(0, 9, (2,), generator=g, device="cuda"),
    "randperm": lambda g: torch.randperm(4, generator=g, device="cuda:0"),
    "normal_": lambda g: torch.empty(2, device="cuda").normal_(generator=g),
    "multinomial": lambda g: torch.ones(3, device="cuda").multinomial(1, generator=g),
    "bernoulli": lambda g: torch.bernoulli(torch.ones(3, device="cuda"), generator=g),
    "dropout": lambda g: torch.empty(2, device="cuda").bernoulli_(0.5, generator=g),
}


@pytest.mark.parametrize("fault", DRAWS)
def test_a_generator_of_the_cpu_raises(fault, mode):
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        DRAWS[fault](torch.Generator())


READS = {
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
    "result": lambda x: (x * 2).mean(1).numpy(),
    "numpy's function": np.sqrt,
    "forced by detach": lambda x: x.requires_grad_().sum().detach().numpy(),
}


@pytest.mark.parametrize("fault", READS)
def test_numpy_without_cpu_raises(fault, there):
    with pytest.raises(TypeError, match="can't convert cuda"):
        READS[fault](there)


# --- what passes ----------------------------------------------------------------------------------


def test_what_is_made_or_moved_lies_on_the_device(mode):
    made = [
        torch.zeros(2, device="cuda"), torch.tensor([1.0], device="cuda"), here().to("cuda"),
        here().cuda(), torch.as_tensor(np.ones(2), device="cuda:0"), torch.arange(2, device=CUDA),
        here().to(torch.float64).to(here().to("cuda")), torch.zeros_like(here(), device="cuda"),
        torch.empty(0, device="cuda").new_ones(3), torch.randn(2, device="cuda"),
    ]  # fmt: skip
    for tensor in made:
        assert tensor.device == CUDA
        assert tensor.is_cuda
        assert not tensor.is_cpu
        assert tensor.get_device() == 0


def test_what_is_computed_there_stays_there(there):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU()).to("cuda")
    found = [there.T, there[0], there[:, [0]], *there.unbind(), there.max(1).values, there.half(),
             module(there), F.softmax(there, 1), torch.stack([there, there]), there + 1,
             2.0 * there, there * torch.tensor(2.0), there.data, there.clone(), there == there,
             torch.linalg.svd(there).S, there.expand_as(torch.ones(4, 2, 3))]  # fmt: skip
    assert all(tensor.device == CUDA for tensor in found)
    module(there).sum().backward()
    assert all(weight.grad.device == CUDA for weight in module.parameters())


def test_the_way_back_gives_plain_tensors(there):
    for back in (there.cpu(), there.to("cpu"), there.to(torch.device("cpu"), torch.float64)):
        assert back.device.type == "cpu"
        assert (back.numpy() == np.arange(6).reshape(2, 3)).all()
        assert (back + here()).device.type == "cpu"
    there += 1
    assert there[0, 0].item() == 1
    assert back[0, 0] == 0, "a copy, not the same memory"


def test_modules_move_there_and_back(mode):
    module = nn.Linear(3, 2)
    weight, before = module.weight, module.weight.detach().clone()
    module.to("cuda")
    assert module.weight is weight
    twin = copy.deepcopy(module)
    assert all(claimed(value) for value in (*twin.parameters(), nn.Parameter(weight.detach())))
    assert claimed(weight)
    assert all(claimed(value) for value in module.state_dict().values())
    module.cpu()
    assert not claimed(weight)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "LBFGS"])
def test_optimizers_step_there(name, mode):
    """The same steps as on the CPU; there torch takes its "foreach" form of them."""
    results = []
    for device in ("cpu", "cuda"):
        module = nn.Linear(3, 2)
        nn.init.constant_(module.weight, 0.1)
        nn.init.constant_(module.bias, 0.0)
        module.to(device)
        optimizer = getattr(torch.optim, name)(module.parameters(), lr=0.1)
        x = torch.arange(6.0).view(2, 3).to(device)

        def closure(module=module, optimizer=optimizer, x=x):
            optimizer.zero_grad()
            loss = module(x).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        assert claimed(module.weight) == (device == "cuda")
        results.append(module.weight.detach().cpu())
    torch.testing.assert_close(*results)


# --- waiting --------------------------------------------------------------------------------------

WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "float": lambda x: float(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 2],
    "cpu": lambda x: x.cpu(),
    "tensor": lambda x: torch.tensor([1.0], device="cuda"),
    "pageable": lambda x: here().to("cuda", non_blocking=True),
    "copy_": lambda x: torch.empty(2, 3, pin_memory=True).copy_(x),
    "index on the CPU": lambda x: x[torch.tensor([0])],
    "into the CPU's": lambda x: here().__setitem__(0, x[0]),
}


@pytest.mark.parametrize("what", WAITS)
def test_waiting_is_seen(what, there, mode):
    mode.waits.clear()
    WAITS[what](there)
    assert mode.waits
    with pytest.raises(Waited), mode.no_waiting():
        WAITS[what](there)


def test_queued_copies_arrive_when_they_are_waited_for(there, mode):
    target = torch.empty(2, 3, pin_memory=True)
    mode.waits.clear()
    with mode.no_waiting():
        up = here().pin_memory().to("cuda", non_blocking=True)
        target.copy_(there + up, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream())
        there.zero_()  # behind the copy
    assert target.isnan().all()
    event.synchronize()
    assert torch.equal(target, torch.arange(6.0).view(2, 3) + 1)


def test_an_event_waits_for_what_was_queued_before_it(there, mode):
    first, second = (torch.empty(2, 3, pin_memory=True) for _ in range(2))
    first.copy_(there, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    second.copy_(there, non_blocking=True)
    event.synchronize()
    assert torch.isfinite(first).all()
    assert second.isnan().all()
    later = torch.cuda.Event()
    later.record()
    third = torch.empty(2, 3, pin_memory=True)
    third.copy_(there, non_blocking=True)
    later.synchronize()
    assert torch.isfinite(second).all()
    assert third.isnan().all()
