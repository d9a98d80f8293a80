"""DDPM-Seg's ensemble against ten MLPs of plain torch, one after the other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

import probes
from probes import Cells
from probes.dense import DDPM_SEG, PixelMLPEnsemble, PixelPool
from probes.dense.early_stop import EarlyStop
from probes.dense.ensemble import divergence, top_mean
from probes.dense.ensemble_net import EnsembleNet, MemberLoss, ensemble_objective, vote
from probes.optimizers import make_optimizer

SIZE = (16, 20)


def plain(net: EnsembleNet, member: int) -> nn.Sequential:
    """One member as modules of torch, with its weights."""
    layers = []
    for k, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        layer = nn.Linear(weight.shape[2], weight.shape[1])
        layer.weight.data, layer.bias.data = (
            weight.data[member].clone(),
            bias.data[member, 0].clone(),
        )
        layers.append(layer)
        if k < len(net.norms):
            norm, ours = nn.BatchNorm1d(weight.shape[1]), net.norms[k]
            norm.weight.data, norm.bias.data = (
                ours.scale.data[member].clone(),
                ours.shift.data[member].clone(),
            )
            norm.running_mean.copy_(ours.running_mean[member])
            norm.running_var.copy_(ours.running_var[member])
            layers += [nn.ReLU(), norm]
    return nn.Sequential(*layers)


def trained(
    member: nn.Sequential, x: list, y: list, weight=None, rate: float = 1e-3
) -> list[float]:
    """Steps of Adam; the losses."""
    optimizer, losses = torch.optim.Adam(member.parameters(), lr=rate), []
    for features, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(member(features), labels, weight=weight)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same(net: EnsembleNet, members: list[nn.Sequential]) -> None:
    for k, member in enumerate(members):
        again = plain(net, k).state_dict()
        for name, value in member.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(again[name], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 3.0])])
def test_steps_are_those_of_ten_trained_alone(weight):
    torch.manual_seed(0)
    net, steps = EnsembleNet(10, 24, (9, 5), 3).train(), 12
    members = [plain(net, k) for k in range(10)]
    x, y = torch.randn(steps, 16, 10, 24), torch.randint(3, (steps, 16, 10))
    objective = ensemble_objective(3, weight)
    optimizer = make_optimizer([{"params": list(net.parameters())}], "adam", 1e-3, 0, 0, True)
    losses = []
    for features, labels in zip(x, y, strict=True):
        loss = objective.loss(net(features), labels, "mean")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert float(objective.loss.last.mean()) == pytest.approx(losses[-1], rel=1e-5)
    alone = [trained(one, list(x[:, :, k]), list(y[:, :, k]), weight)
             for k, one in enumerate(members)]  # fmt: skip
    np.testing.assert_allclose(losses, np.mean(alone, 0), rtol=1e-5)
    assert_same(net, members)


def test_gradients_add_up():
    """Two backward passes without a step between them: as autograd has it."""
    net = EnsembleNet(3, 5, (4,), 2)
    x = torch.randn(7, 3, 5)
    expected = 2 * torch.autograd.grad(net(x).square().sum(), net.biases[1])[0]
    for _ in range(2):
        net(x).square().sum().backward()
    torch.testing.assert_close(net.biases[1].grad, expected)
    first = net.weights[0].grad.clone()
    net.zero_grad(set_to_none=True)
    (2 * net(x).square().sum()).backward()
    torch.testing.assert_close(net.weights[0].grad, first)


def toy(count: int = 6, noise: float = 0.3, seed: int = 0) -> tuple[Cells, np.ndarray]:
    """Blocks of two classes; one map shows them, one is noise; a border is ignored."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 2, (count, 2, 2))
    masks = blocks.repeat(8, 1).repeat(10, 2)
    shown = blocks.repeat(2, 1).repeat(2, 2) + noise * rng.normal(size=(count, 4, 4))
    values = {("a", 20): np.stack([shown, rng.normal(size=(count, 4, 4))], 1).astype(np.float32),
              ("b", 20): rng.normal(size=(count, 3, 8, 10)).astype(np.float16)}  # fmt: skip
    masks[:, 0] = 255
    return Cells(values, sizes=[SIZE] * count), masks


def head(**how) -> PixelMLPEnsemble:
    given = {"members": 3, "steps": 60, "epochs": 3, "random_state": 0, "hidden": (8, 4)} | how
    return PixelMLPEnsemble(**given)


@pytest.fixture(scope="module")
def fitted():
    return head(steps=200).fit(*toy(), classes=["sky", "ground"])


def test_fit_is_what_every_member_would_learn_alone(monkeypatch):
    """All batches of a fit are noted, and given to plain modules with the same first weights."""
    batches, start, shuffled, build = [], [], PixelPool.shuffled, PixelMLPEnsemble._build

    def noting(self, rng):
        for (x,), y in shuffled(self, rng):
            batches.append((x.clone(), y.clone()))
            yield [x], y

    def building(self, *given):
        start.append(build(self, *given))
        start.append([plain(start[0], k) for k in range(3)])
        return start[0]

    monkeypatch.setattr(PixelPool, "shuffled", noting)
    monkeypatch.setattr(PixelMLPEnsemble, "_build", building)
    found = head(standardize=False).fit(*toy())
    assert len(batches) == 60
    assert not torch.equal(batches[0][0][:, 0], batches[0][0][:, 1])
    members = start[1]
    for k, member in enumerate(members):
        trained(member, [x[:, k] for x, _ in batches], [y[:, k] for _, y in batches])
    assert_same(found.module_, members)


def built(cells: Cells, row: int) -> torch.Tensor:
    """(H·W, C) hypercolumn by torch's own resize."""
    maps = cells.maps(row)
    ups = [F.interpolate(torch.as_tensor(maps[key])[None].float(), maps.size, mode="bilinear")[0]
           for key in cells.keys]  # fmt: skip
    return torch.cat(ups).flatten(1).T


def test_prediction_is_that_of_members_on_the_built_hypercolumn(fitted):
    cells, _ = toy(2, seed=1)
    net = fitted.module_
    x = (built(cells, 1) - net.mean) / net.deviation
    with torch.no_grad():
        logits = torch.stack([plain(net, k).eval()(x) for k in range(3)])
    shares = logits.softmax(2).numpy().astype(np.float64)
    mean = shares.mean(0)
    found = list(fitted.predict_proba(cells))[1]
    np.testing.assert_allclose(found.reshape(2, -1).T, mean, rtol=1e-4, atol=1e-6)
    votes = logits.argmax(2).numpy()
    expected = np.array([np.bincount(one, minlength=2).argmax() for one in votes.T])
    assert np.array_equal(list(fitted.predict(cells))[1].ravel(), expected)
    js = entropy(mean, axis=1) - np.mean([entropy(one, axis=1) for one in shares], 0)
    uncertainty = list(fitted.uncertainty(cells))
    np.testing.assert_allclose(uncertainty[1].ravel(), js, rtol=1e-3, atol=1e-6)
    top = np.sort(js)[-32:].mean()  # a tenth of 320
    assert fitted.picture_uncertainty(cells)[1] == pytest.approx(top, rel=1e-3)


def test_votes_and_ties():
    found = torch.tensor([[2, 1, 0], [1, 1, 3], [2, 0, 2], [1, 0, 1]])
    assert vote(found, 4).tolist() == [1, 0, 0]


def test_divergence_has_its_bounds():
    certain = torch.eye(4)[:, :, None]  # four members, each sure of another class
    assert divergence(certain).item() == pytest.approx(np.log(4))
    assert divergence(certain[:1].expand(4, -1, -1)).item() == 0
    assert top_mean(np.array([[3.0, 1.0, 2.0]])) == 3


def test_learns(fitted):
    cells, masks = toy(4, seed=3)
    assert fitted.score(cells, masks) > 0.8
    assert fitted.classes_.tolist() == ["sky", "ground"]
    assert len(fitted.history_) == 3
    assert fitted.history_[-1]["loss"] < fitted.history_[0]["loss"]


def test_hidden_widths_by_the_number_of_classes():
    for classes, widths in ((29, [128, 32]), (30, [256, 128])):
        net = PixelMLPEnsemble(members=2)._build([(5, 2, 2)], classes, None)
        assert [one.shape[1] for one in net.weights] == [*widths, classes]
    assert net.weights[0].std().item() == pytest.approx(0.02, rel=0.1)


def test_the_same_seed_gives_the_same_bits():
    one, again, other = (head(random_state=seed).fit(*toy()) for seed in (0, 0, 1))
    for name, value in one.module_.state_dict().items():
        assert torch.equal(value, again.module_.state_dict()[name])
    assert not torch.equal(one.module_.weights[0], other.module_.weights[0])


@pytest.mark.parametrize("how", [{}, {"stop_after": 18, "stop_from": 2, "batch_size": 4}])
def test_goes_on_to_the_same_bits(tmp_path, monkeypatch, how):
    cells, masks = toy()
    whole = head(epochs=4, **how).fit(cells, masks)
    shuffled, calls = PixelPool.shuffled, []

    def third_fails(self, rng):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return shuffled(self, rng)

    monkeypatch.setattr(PixelPool, "shuffled", third_fails)
    with pytest.raises(KeyboardInterrupt):
        head(epochs=4, checkpoint=tmp_path, **how).fit(cells, masks)
    monkeypatch.setattr(PixelPool, "shuffled", shuffled)
    again = head(epochs=4, checkpoint=tmp_path, **how).fit(cells, masks)
    for name, value in whole.module_.state_dict().items():
        assert torch.equal(value, again.module_.state_dict()[name]), name
    with pytest.raises(ValueError, match="of another training: sampling was 'uniform'"):
        head(epochs=4, checkpoint=tmp_path, sampling="balanced", **how).fit(cells, masks)


class TestEarlyStop:
    """The published rule, member by member, against a loop over each one's losses."""

    def expected(self, losses: np.ndarray, patience: int) -> int | None:
        best, waited = 1e7, 0
        for step, loss in enumerate(losses):
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            if waited > patience:
                return step
        return None

    def test_members_end_by_themselves_and_stay(self):
        losses = np.random.default_rng(0).random((200, 4)).astype(np.float32)
        net = EnsembleNet(4, 2, (3,), 2).stoppable()
        loss = MemberLoss()
        stop = EarlyStop(net, loss, 7, 5)
        loss.last = torch.zeros(4)
        assert not stop(3)  # the fourth epoch
        ends, over = [self.expected(losses[:, k], 7) for k in range(4)], None
        for step, row in enumerate(losses):
            with torch.no_grad():
                net.weights[0].fill_(step)  # what a step does
            loss.last = torch.from_numpy(row)
            if stop(4):
                over = step
                break
        assert len(set(ends)) > 1
        assert over == max(ends)
        assert net.weights[0][:, 0, 0].tolist() == ends

    def test_a_training_ends(self):
        cells, masks = toy(3, noise=1.0)
        how = {**DDPM_SEG, "members": 2, "hidden": (8, 4), "epochs": 30, "stop_after": 15}
        found = head(**how).fit(cells, masks)
        assert 5 <= len(found.history_) < 30
        assert found.module_.stop_ended.all()
        assert found.score(cells, masks) > 0.5

    def test_published_settings(self):
        found = PixelMLPEnsemble(**DDPM_SEG)
        assert (found.members, found.batch_size, found.learning_rate) == (10, 64, 1e-3)
        assert (found.stop_after, found.stop_from, found.fewest) == (50, 5, 20)
        assert (found.optimizer, found.steps, found.standardize) == ("adam", None, False)


class TestValidation:
    def test_a_share_of_the_groups(self):
        cells, masks = toy(8)
        found = head(patience=1, epochs=5).fit(cells, masks, 0.5, groups=[0, 0, 0, 0, 1, 1, 1, 1])
        assert {"validation_loss", "validation_mean_iou"} <= set(found.history_[0])
        best = max(found.history_, key=lambda seen: seen["validation_mean_iou"])
        assert found.best_epoch_ == best["epoch"]

    def test_given_pictures(self):
        cells, masks = toy()
        other = toy(3, seed=5)
        found = head().fit(cells, masks, other)
        assert 0 < found.history_[-1]["validation_mean_iou"] <= 1
        with pytest.raises(ValueError, match=r"validation masks\[0\]"):
            head().fit(cells, masks, (other[0], other[1][:, :5]))
        with pytest.raises(ValueError, match="patience=1 without validation rows"):
            head(patience=1).fit(cells, masks)


class TestBadInput:
    def test_a_class_that_training_lacks(self):
        cells, masks = toy()
        with pytest.warns(UserWarning, match="1 of 3 classes have no pixel in training .void."):
            found = head().fit(cells, masks, classes=["sky", "ground", "void"])
        assert found.seen_.tolist() == [True, True, False]
        assert {*np.unique(next(found.predict(cells)))} <= {0, 1}
        assert (next(found.predict_proba(cells))[2] == 0).all()
        assert np.isfinite(next(found.uncertainty(cells))).all()

    def test_what_cannot_be(self, fitted):
        cells, masks = toy()
        with pytest.raises(ValueError, match="all are ignored"):
            head().fit(cells, np.full_like(masks, 255), classes=2)
        with pytest.raises(ValueError, match="expected maps"):
            head().fit(Cells({("a", 0): np.zeros((6, 4))}, sizes=[SIZE] * 6), masks)
        with pytest.raises(ValueError, match=r"expected one label a pixel"):
            head().fit(cells, masks[:, 1:])
        with pytest.raises(ValueError, match="hidden="):
            head(hidden=(8, 0)).fit(cells, masks)
        with pytest.raises(ValueError, match="expected a number >= 0 for each of 2"):
            head(class_weight=[1.0]).fit(cells, masks)
        wide = Cells({key: np.zeros((1, 7, 4, 4)) for key in cells.keys}, sizes=[SIZE])
        with pytest.raises(ValueError, match="expected maps of 2 channels, as in fit"):
            list(fitted.predict(wide))

    def test_class_weights(self):
        cells, masks = toy()
        masks[masks == 0] = 1
        masks[0, 3:8, 3:8] = 0
        plain, weighed = (head(class_weight=one).fit(cells, masks) for one in (None, "balanced"))
        shares = [np.mean([one[0].mean() for one in found.predict_proba(cells)])
                  for found in (plain, weighed)]  # fmt: skip
        assert shares[1] > shares[0]


@pytest.mark.parametrize("how", [{}, {"stop_after": 3, "stop_from": 2}])
def test_kept_and_loaded(tmp_path, how):
    cells, masks = toy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = head(**how).fit(cells, masks, classes=3)
    probes.save(found, tmp_path / "head.safetensors")
    again = probes.load(tmp_path / "head.safetensors")
    for one, other in zip(found.predict_proba(cells), again.predict_proba(cells), strict=True):
        assert np.array_equal(one, other)
    assert again.get_params() == clone(found).get_params()
