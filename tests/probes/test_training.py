"""The training loop against hand-written ones, and what it reads of a file."""

from __future__ import annotations

import math
import tracemalloc

import h5py
import numpy as np
import pytest
import torch

from probes import BatchNormProbe, MLPProbe
from probes.batches import Batches, moments
from probes.held_out import stratified
from probes.lazy import Rows
from probes.optimizers import LARS, SCHEDULES
from probes.training import mirror

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def blobs():
    """400 rows of 3 overlapping classes, and 200 further ones."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    X = (rng.normal(size=(3, 6))[y] + rng.normal(size=(600, 6))).astype(np.float32)
    return X[:400], y[:400], X[400:], y[400:]


class TestSchedules:
    def test_step_divides_by_ten_each_7_of_28_epochs(self):
        found = [SCHEDULES["step"](epoch, 1, 28) for epoch in range(28)]
        np.testing.assert_allclose(found, np.repeat([1, 0.1, 0.01, 0.001], 7))

    def test_cosine_is_that_of_torch(self):
        weight = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
        for epoch in range(15):
            assert 0.3 * SCHEDULES["cosine"](epoch, 1, 15) == pytest.approx(
                scheduler.get_last_lr()[0]
            )
            optimizer.step()
            scheduler.step()

    def test_a_schedule_by_step_is_that_of_torch(self, blobs):
        """3 epochs of 4 steps, as an optimizer meets them."""
        weight = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        expected = []
        for _ in range(12):
            expected.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        X, y, *_ = blobs
        rates = []

        class Watching(torch.optim.SGD):
            def step(self, closure=None):
                rates.append(self.param_groups[0]["lr"])
                return super().step(closure)

        options = {"learning_rate": 0.3, "schedule": "cosine-by-step", "optimizer": "sgd"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("probes.optimizers.OPTIMIZERS", {"sgd": Watching})
            head = MLPProbe(hidden=(), epochs=3, batch_size=100, **options).fit(X, y)
        assert rates == pytest.approx(expected)
        found = [seen["learning_rate"] for seen in head.history_]
        assert found == pytest.approx(expected[::4])

    def test_the_history_holds_the_rates(self, blobs):
        X, y, *_ = blobs
        for schedule in ("constant", "cosine", "step"):
            probe = MLPProbe(hidden=(), schedule=schedule, epochs=8, learning_rate=0.01)
            rates = [seen["learning_rate"] for seen in probe.fit(X, y).history_]
            expected = {
                "constant": [0.01] * 8,
                "cosine": [0.005 * (1 + math.cos(math.pi * k / 8)) for k in range(8)],
                "step": [0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5],
            }[schedule]
            np.testing.assert_allclose(rates, expected)


class TestSteps:
    def test_full_batches_are_plain_gradient_descent_with_momentum(self, blobs):
        """Two epochs of one batch each, in float64 by hand, from the same initial weights."""
        X, y, *_ = blobs
        options = {
            "hidden": (), "standardize": False, "optimizer": "sgd", "momentum": 0.9,
            "weight_decay": 0.01, "schedule": "constant", "batch_size": len(X), "random_state": 3,
        }  # fmt: skip
        # one step that moves nothing shows the initial weights
        start = MLPProbe(epochs=1, learning_rate=1e-30, **options).fit(X, y).module_[-1]
        W, b = (v.detach().double().numpy() for v in (start.weight, start.bias))
        X64, one_hot, losses = X.astype(np.float64), np.eye(3)[y], []
        v_W, v_b = 0.0, 0.0
        for _ in range(2):
            logits = X64 @ W.T + b
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            losses.append(-np.log(p[np.arange(len(y)), y]).mean())
            wrong = (p - one_hot) / len(y)
            v_W = 0.9 * v_W + wrong.T @ X64 + 0.01 * W
            v_b = 0.9 * v_b + wrong.sum(0) + 0.01 * b
            W, b = W - 0.5 * v_W, b - 0.5 * v_b
        probe = MLPProbe(epochs=2, learning_rate=0.5, **options).fit(X, y)
        np.testing.assert_allclose(probe.module_[-1].weight.detach(), W, atol=1e-6)
        np.testing.assert_allclose(probe.module_[-1].bias.detach(), b, atol=1e-6)
        np.testing.assert_allclose([seen["loss"] for seen in probe.history_], losses, rtol=1e-6)

    def test_lars_by_hand(self):
        weights = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        biases = torch.nn.Parameter(torch.tensor([1.0]))
        optimizer = LARS([weights, biases], lr=2.0, weight_decay=0.1, momentum=0.5, trust=0.01)
        w, b, v, u = np.array([3.0, 4.0]), 1.0, np.zeros(2), 0.0
        for _ in range(3):
            weights.grad, biases.grad = torch.tensor([[0.5, -1.0]]), torch.tensor([0.25])
            optimizer.step()
            d = np.array([0.5, -1.0]) + 0.1 * w
            v = 0.5 * v + d * 0.01 * np.sqrt(w @ w) / np.sqrt(d @ d)
            u = 0.5 * u + 0.25
            w, b = w - 2 * v, b - 2 * u
        np.testing.assert_allclose(weights.detach().numpy()[0], w, rtol=1e-5)
        assert biases.item() == pytest.approx(b)

    def test_lars_moves_weights_of_zero_by_the_plain_gradient(self):
        weights = torch.nn.Parameter(torch.zeros(1, 2))
        weights.grad = torch.ones(1, 2)
        LARS([weights], lr=0.5, weight_decay=0.0, momentum=0.9).step()
        np.testing.assert_array_equal(weights.detach(), [[-0.5, -0.5]])

    def test_a_loss_that_explodes_says_what_to_do(self, blobs):
        X, y, *_ = blobs
        probe = MLPProbe(
            optimizer="sgd", learning_rate=1e30, momentum=0.0, schedule="constant", epochs=5
        )
        with pytest.raises(ValueError, match=r"loss became.*lower learning_rate"):
            probe.fit(X, y)

    def test_augmentation_sees_every_row_of_every_epoch(self, blobs):
        X, y, *_ = blobs
        seen = []

        def keep(parts, rng):
            seen.append(len(parts[0]))
            return [part * 0 for part in parts]

        probe = MLPProbe(epochs=3, batch_size=150, augment=keep, standardize=False, hidden=())
        probe.fit(X, y)
        assert seen == [150, 150, 100] * 3
        assert np.isclose(probe.history_[0]["loss"], np.log(3), atol=0.5)

    def test_mirror_turns_the_same_half_of_all_maps(self):
        x = torch.arange(4000.0).reshape(1000, 1, 2, 2)
        maps, vectors, other = mirror([x, x[:, 0, 0], x + 1], np.random.default_rng(0))
        turned = (maps == x.flip(-1)).flatten(1).all(1)
        assert ((maps == x).flatten(1).all(1) | turned).all()
        assert 400 < turned.sum() < 600
        assert torch.equal(vectors, x[:, 0, 0])
        assert torch.equal(other, maps + 1)


class TestStopping:
    def test_the_best_epoch_comes_back(self, blobs):
        X, y, Xv, yv = blobs
        options = {"hidden": (64,), "learning_rate": 0.03, "schedule": "constant"}
        options |= {"random_state": 0, "batch_size": 64}
        probe = MLPProbe(epochs=60, patience=4, **options).fit(X, y, Xv, yv)
        curve = [seen["validation_accuracy"] for seen in probe.history_]
        best = int(np.argmax(curve)) + 1
        assert probe.best_epoch_ == best
        assert probe.n_epochs_ == best + 4 < 60
        assert probe.score(Xv, yv) == pytest.approx(max(curve))
        assert max(curve) > curve[-1]
        # the weights are those of a training that ended there
        short = MLPProbe(epochs=best, **options).fit(X, y)
        np.testing.assert_array_equal(probe.predict_proba(Xv), short.predict_proba(Xv))

    def test_of_equal_epochs_the_first_stays(self):
        y = np.arange(60) % 3
        X = np.eye(3, dtype=np.float32)[y]
        probe = MLPProbe(epochs=99, patience=5, learning_rate=0.1, random_state=0).fit(X, y, X, y)
        curve = [seen["validation_accuracy"] for seen in probe.history_]
        assert probe.best_epoch_ == curve.index(1.0) + 1
        assert curve[probe.best_epoch_ - 1 :] == [1.0] * 6

    def test_without_patience_the_last_epoch_stays(self, blobs):
        X, y, Xv, yv = blobs
        probe = MLPProbe(epochs=7, random_state=0).fit(X, y, Xv, yv)
        assert probe.n_epochs_ == probe.best_epoch_ == 7
        assert probe.score(Xv, yv) == pytest.approx(probe.history_[-1]["validation_accuracy"])
        losses = -np.log(probe.predict_proba(Xv)[np.arange(len(yv)), yv])
        assert losses.mean() == pytest.approx(probe.history_[-1]["validation_loss"], rel=1e-5)

    def test_a_share_of_each_class_is_held_back(self):
        targets = np.repeat([0, 1, 2, 3], [100, 40, 60, 1])
        rows, kept = stratified(targets, 0.2, np.random.default_rng(1))
        assert sorted([*rows, *kept]) == list(range(201))
        counts = np.bincount(targets[kept], minlength=4)
        np.testing.assert_allclose(counts[:3], [20, 8, 12], atol=1)
        assert 3 in targets[rows]


class Counted:
    """A data set that notes the rows of every access."""

    dtype = np.dtype(np.float32)

    def __init__(self, values):
        self.values, self.shape, self.read = values, values.shape, []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        found = self.values[key]
        self.read.append(len(found))
        return found


def in_file(values, memory_rows: int, size: int = 7) -> tuple[Batches, Counted]:
    data = Counted(values)
    memory = memory_rows * values[0].nbytes
    rows, targets = np.arange(len(values)), np.arange(len(values))
    return Batches([Rows(data)], targets, rows, size, memory, CPU), data


class TestReading:
    def test_every_row_of_a_file_comes_once_per_epoch_in_full_batches(self):
        values = np.arange(3000, dtype=np.float32).reshape(1000, 3)
        batches, data = in_file(values, 320)
        rng = np.random.default_rng(0)
        for _ in range(2):
            data.read.clear()
            epoch = list(batches.shuffled(rng))
            targets = torch.cat([targets for _, targets in epoch])
            found = torch.cat([parts[0] for parts, _ in epoch])
            assert sorted(targets.tolist()) == list(range(1000))
            np.testing.assert_array_equal(found, values[targets])
            assert [len(t) for _, t in epoch] == [7] * 142 + [6]
            assert data.read == [10] * 100  # blocks of memory/32

    def test_rows_of_a_group_are_mixed_and_epochs_differ(self):
        batches, _ = in_file(np.zeros((1000, 3), np.float32), 320)
        rng = np.random.default_rng(0)
        first, second = (
            torch.cat([targets for _, targets in batches.shuffled(rng)]).numpy() for _ in range(2)
        )
        assert (first != second).mean() > 0.9
        assert np.abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.3
        assert (np.abs(np.diff(first)) == 1).mean() < 0.05

    def test_what_fits_is_read_once_and_mixed_as_an_array_would_be(self):
        values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
        batches, data = in_file(values, 100)
        plain = Batches(
            [Rows(values)], np.arange(100), np.arange(100), 7, 0, CPU
        )  # in memory, random rows
        one, two = np.random.default_rng(5), np.random.default_rng(5)
        for _ in range(2):
            for (a, ta), (b, tb) in zip(batches.shuffled(one), plain.shuffled(two), strict=True):
                assert torch.equal(a[0], b[0])
                assert torch.equal(ta, tb)
        assert sum(data.read) == 100

    def test_order_is_kept_without_shuffling_and_rows_can_be_left_out(self):
        values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
        rows = np.flatnonzero(np.arange(100) % 3)
        for memory in (0, 10**6):
            batches = Batches([Rows(Counted(values))], np.arange(100), rows, 8, memory, CPU)
            found = list(batches.ordered())
            np.testing.assert_array_equal(torch.cat([p[0] for p, _ in found]), values[rows])
            np.testing.assert_array_equal(torch.cat([t for _, t in found]), rows)
            assert max(len(t) for _, t in found) <= 8

    def test_moments_are_those_of_numpy(self):
        values = np.random.default_rng(0).normal(1000, 0.5, size=(500, 3, 2, 2))
        values = values.astype(np.float32)
        values[:, 1] = 0.1
        batches, _ = in_file(values, 64)
        mean, deviation = moments(batches)
        expected = values.astype(np.float64)
        np.testing.assert_allclose(mean, expected.mean((0, 2, 3)), rtol=1e-6)
        spread = expected.std((0, 2, 3))
        np.testing.assert_allclose(deviation, [spread[0], 1, spread[2]], rtol=1e-5)

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [((), "int64"), ((3,), "int64"), ((2,), "float32"), ((4, 5), "int64"), ((6, 2), "float32")],
        ids=["labels", "several labels", "numbers", "maps", "points"],
    )
    @pytest.mark.parametrize("memory_rows", [0, 100, 10**6])
    def test_targets_of_any_kind_are_read_with_their_rows(
        self, shape, dtype, memory_rows, tmp_path
    ):
        values = np.arange(600, dtype=np.float32).reshape(300, 2)
        y = np.arange(300 * math.prod(shape)).reshape(300, *shape) % 7
        with h5py.File(tmp_path / "y.h5", "w") as file:
            stored = file.create_dataset("y", data=y.astype(np.uint8))
            for targets in (stored, torch.from_numpy(y), y):
                batches = Batches(
                    [Rows(Counted(values))], Rows(targets, "y", dtype), np.arange(0, 300, 2), 8,
                    memory_rows * (8 + 4 * math.prod(shape)), CPU,
                )  # fmt: skip
                for epoch in (batches.ordered(), batches.shuffled(np.random.default_rng(0))):
                    seen = []
                    for (x,), found in epoch:
                        rows = (x[:, 0] / 2).long().numpy()
                        assert found.numpy().dtype == dtype
                        np.testing.assert_array_equal(found, y[rows])
                        seen += rows.tolist()
                    assert sorted(seen) == list(range(0, 300, 2))

    def test_memory_of_a_fit_from_a_file_is_bounded(self, tmp_path):
        N, D = 16000, 512  # 32 MiB
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, N)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            X = file.create_dataset("X", (N, D), np.float16)
            for k in range(0, N, 2000):
                X[k : k + 2000] = rng.normal(size=(2000, D)) + y[k : k + 2000, None] * 0.1
            probe = MLPProbe(
                hidden=(), epochs=1, memory_mb=4, random_state=0, batch_size=128, patience=1,
                validation_fraction=0.1, learning_rate=1e-2,
            )  # fmt: skip
            tracemalloc.start()
            probe.fit(X, y)
            accuracy = probe.score(X, y)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert accuracy > 0.8
        assert peak < 12 * 2**20  # of 32: 4 of memory_mb, and what is on its way

    def test_larger_than_memory_learns_as_well_as_in_memory(self, blobs):
        X, y, Xt, yt = blobs
        options = {"random_state": 0, "learning_rate": 0.01, "batch_size": 32}
        small = BatchNormProbe(memory_mb=2e-3, **options).fit(Counted(X), y)
        assert abs(small.score(Xt, yt) - BatchNormProbe(**options).fit(X, y).score(Xt, yt)) < 0.03
