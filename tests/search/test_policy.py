"""A policy per picture wins where the right t can be seen, and not where it cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from diffeat.errors import SpecError
from diffeat.search import (
    TEST,
    TRAIN,
    VALIDATION,
    Classification,
    Journal,
    SearchOptions,
    Seen,
    Task,
    run_policy,
    run_search,
    split_by_hash,
    thumbnails,
)
from diffeat.search.policy import BESIDE, FOLDS, folds_of
from probes import LinearProbe
from probes.policy import PolicyHead, reinforce
from tests.search.common import arrays_of, labels_of, task_of, write_store

COUNT, CLASSES, STEPS = 900, 3, (10, 50, 90)


def planted(visible: bool, seed: int = 0):
    """A task of which each picture tells its class at one t alone, and what pictures look like.

    Red pictures tell it at t=10, green ones at t=50, blue ones at t=90; where it is not `visible`
    the colours say nothing of it.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, COUNT)
    kind, shown = rng.integers(0, 3, (2, COUNT))
    means = 3.0 * np.eye(CLASSES, 6)[labels]
    arrays = {
        ("a", t): ((kind == k)[:, None] * means + rng.normal(size=(COUNT, 6))).astype("f4")
        for k, t in enumerate(STEPS)
    }
    arrays |= {("noise", t): rng.normal(size=(COUNT, 6)).astype("f4") for t in STEPS}
    pictures = rng.random((COUNT, 3, 16, 16)).astype("f4") * 0.3
    pictures[np.arange(COUNT), kind if visible else shown] += 0.6
    ids = tuple(f"p{k}" for k in range(COUNT))
    task = Task(
        "made", labels, split_by_hash(ids), tuple(arrays), lambda b, t: arrays[b, t],
        identity=f"planted {visible} {seed}", ids=ids,
    )  # fmt: skip
    return task, pictures, kind


class TestPlanted:
    def test_it_beats_the_best_fixed_t_where_pictures_tell(self):
        task, pictures, kind = planted(True)
        found = run_policy(Classification(task), seen=Seen(pictures))
        assert found.block == "a"
        assert found.difference[1] > 0.1
        assert found.reward_difference[1] > 0
        assert found.better == "better than"
        assert found.test > found.beside["best fixed t"] > 1 / CLASSES
        right = kind[task.part == TEST]
        assert np.sum(found.chosen) == len(right)
        assert found.shares[10] == pytest.approx((right == 0).mean(), abs=0.05)

    def test_it_does_not_where_they_do_not(self, monkeypatch):
        monkeypatch.setattr("diffeat.search.policy.EPOCHS", 12)
        monkeypatch.setattr("diffeat.search.policy.ENTROPIES", (0.03,))
        gaps = []
        for seed in range(4):
            task, pictures, _ = planted(False, seed)
            found = run_policy(Classification(task), seen=Seen(pictures), seed=seed)
            gaps.append(found.difference[0])
            assert found.difference[1] < 0.05
        low, high = stats.t.interval(0.95, 3, np.mean(gaps), stats.sem(gaps))
        assert low <= 0 <= high

    def test_the_oracle_bounds_and_chance_is_the_mean(self):
        task, pictures, _ = planted(True)
        judge = Classification(task)
        found = run_policy(judge, seen=Seen(pictures))
        known, tested = task.part != TEST, task.part == TEST
        right = []
        for t in STEPS:  # the same probes, by other means
            setting = judge.validate([("a", t)], task.part)[0].setting
            X, y = task.read("a", t), task.labels
            head = LinearProbe(setting).fit(X[known], y[known])
            right.append(head.predict(X[tested]) == y[tested])
        beside = dict(zip(BESIDE, (None, np.mean(right), np.any(right, 0).mean()), strict=True))
        for name in BESIDE[1:]:
            assert found.beside[name] == pytest.approx(beside[name], abs=0.01)
        assert max(found.test, found.beside[BESIDE[0]]) <= found.beside[BESIDE[2]]

    def test_features_are_seen_where_there_are_no_pictures(self):
        found = run_policy(Classification(planted(True)[0]))
        assert found.seen == "features at t=10"
        assert found.forwards == (2, 1, 3)

    def test_nothing_of_test_is_learnt(self, monkeypatch):
        """Other labels and features of test change the score and nothing that was learnt."""
        monkeypatch.setattr("diffeat.search.policy.EPOCHS", 10)
        task, pictures, _ = planted(True)
        first = run_policy(Classification(task), seen=Seen(pictures))
        rng, tested = np.random.default_rng(3), task.part == TEST
        labels, other = task.labels.copy(), pictures.copy()
        labels[tested] = rng.permutation(labels[tested])
        other[tested] = 1 - other[tested]
        again = Task(task.name, labels, task.part, task.cells, task.read, ids=task.ids)
        second = run_policy(Classification(again), seen=Seen(other))
        assert second.history == first.history
        assert (second.fixed, second.entropy) == (first.fixed, first.entropy)
        assert second.test < first.test


class TestRewards:
    def test_they_are_of_others(self):
        """A training picture's reward is that of a probe that has not seen its group."""
        task = task_of(300)
        judge, fitted = Classification(task), []
        rewards = judge.rewards

        def watched(cell, setting, known, scored):
            fitted.append((known, scored))
            return rewards(cell, setting, known, scored)

        judge.rewards = watched
        run_policy(judge)
        assert len(fitted) == 2 * (FOLDS + 2)
        for known, scored in fitted:
            assert not (known & scored).any()
            assert not (known & (task.part == TEST)).any()
        folds = np.sum([scored for _, scored in fitted[:FOLDS]], axis=0)
        np.testing.assert_array_equal(folds, task.part == TRAIN)

    def test_log_probability_of_the_truth(self):
        task = task_of(300)
        known, scored = task.part == TRAIN, task.part == VALIDATION
        reward, right = Classification(task).rewards(("b", 10), 0.1, known, scored)
        X, y = task.read("b", 10), task.labels
        p = (
            LinearProbe(0.1, max_iter=2000, tol=1e-7)
            .fit(X[known], y[known])
            .predict_proba(X[scored])
        )
        expected = np.log(p[np.arange(len(p)), y[scored]])
        np.testing.assert_allclose(reward, expected, atol=2e-2)
        assert right.mean() == pytest.approx((p.argmax(1) == y[scored]).mean(), abs=0.02)

    @pytest.mark.parametrize("score", ["ridge", "knn"])
    def test_others_count_right_ones(self, score):
        task = task_of(300)
        judge = Classification(task, score)
        setting = judge.validate([("b", 10)], task.part)[0].setting
        reward, right = judge.rewards(
            ("b", 10), setting, task.part == TRAIN, task.part == VALIDATION
        )
        np.testing.assert_array_equal(reward, right)
        assert right.mean() == pytest.approx(
            judge.validate([("b", 10)], task.part)[0].validation, abs=0.02
        )

    def test_groups_stay_together(self):
        groups = [f"g{k % 40}" for k in range(200)]
        folds = folds_of(groups, 0)
        assert all(len(set(folds[k::40])) == 1 for k in range(40))
        assert np.bincount(folds).tolist() == [40] * FOLDS
        assert (folds != folds_of(groups, 1)).any()


class TestGradient:
    def test_draws_give_the_exact_gradient_on_average(self):
        torch.manual_seed(0)
        logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        rewards = torch.randn(4, 3, dtype=torch.float64)
        pi = logits.softmax(1)
        exact = -(pi * rewards).sum(1).mean() + 0.1 * (pi * pi.log()).sum(1).mean()
        (expected,) = torch.autograd.grad(exact, logits)
        draws = 2000
        many = logits.detach().repeat(draws, 1).requires_grad_()
        loss = reinforce(0.1, 4).loss(many, rewards.repeat(draws, 1), "mean")
        loss.backward()
        found = many.grad.reshape(draws, 4, 3)
        assert loss.item() == pytest.approx(exact.item())
        error = found.sum(0) - expected
        spread = draws * found.std(0) / draws**0.5
        assert (error.abs() < 5 * spread).all()

    def test_the_bonus_keeps_all_arms_alive(self):
        rng = np.random.default_rng(0)
        X, rewards = rng.normal(size=(200, 4)), np.tile([0.0, 0.2, 0.1], (200, 1))
        greedy, curious = (
            PolicyHead(entropy=h, epochs=30, random_state=0, progress=False, batch_size=50)
            .fit(X, rewards).predict_proba(X) for h in (0.0, 10.0)
        )  # fmt: skip
        assert curious.min() > 0.2
        assert greedy[:, 1].mean() > curious[:, 1].mean()

    def test_it_learns_and_is_the_same_again(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(400, 4))
        rewards = np.stack([X[:, 0] > 0, X[:, 0] <= 0], 1).astype(float)
        first, second = (PolicyHead(epochs=60, random_state=0, progress=False, batch_size=50)
                         .fit(X, rewards) for _ in range(2))  # fmt: skip
        assert first.score(X, rewards) > 0.95
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))

    def test_bad_input(self):
        X = np.zeros((10, 3, 8, 8), "f4")
        with pytest.raises(ValueError, match="16×16 at least"):
            PolicyHead(progress=False).fit(X, np.zeros((10, 2)))
        with pytest.raises(ValueError, match="one for each of two arms"):
            PolicyHead(progress=False).fit(np.zeros((10, 3)), np.zeros((10, 1)))
        with pytest.raises(ValueError, match="draws=1"):
            PolicyHead(progress=False, draws=1).fit(np.zeros((10, 3)), np.zeros((10, 2)))
        with pytest.raises(ValueError, match="as for training"):
            PolicyHead(progress=False).fit(
                np.zeros((10, 3)), np.zeros((10, 2)), np.zeros((4, 3)), np.zeros((4, 3))
            )


class TestSearch:
    def test_report_and_resuming(self, tmp_path):
        task, pictures, _ = planted(True)
        options = SearchOptions(policy=True, seen=Seen(pictures), out=tmp_path)
        judge = Classification(task)
        first, second = (run_search(judge, options) for _ in range(2))
        assert second.made[1] == 0
        assert second.findings["policy"] == first.findings["policy"]
        json.dumps(first.to_dict())
        text = "\n".join(first.lines())
        chosen = first.selections["policy"]
        assert (chosen.selector, chosen.test) == (
            "policy per picture", first.findings["policy"].test
        )  # fmt: skip
        assert "better than the best fixed t" in text
        journal = Journal(tmp_path)
        other = run_policy(judge, journal, seen=Seen(1 - pictures))
        assert journal.computed == 1
        assert other.history != first.findings["policy"].history

    def test_what_cannot_be(self):
        with pytest.raises(SpecError, match="has one t"):
            run_policy(Classification(task_of(strength={("a", 1): 1.0})))
        with pytest.raises(SpecError, match="expected 400, one for each row"):
            run_policy(Classification(task_of()), seen=Seen(np.zeros((3, 2), "f4")))
        with pytest.raises(SpecError, match="nothing of single pictures"):
            run_policy(Classification(task_of(), lambda *arrays: 0.5))
        task = task_of(400, groups=tuple(f"g{k % 4}" for k in range(400)))
        with pytest.raises(SpecError, match="fewer groups"):
            run_policy(Classification(task))


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path):
        labels = labels_of(150)
        write_store(tmp_path / "a.h5", arrays_of(labels), labels).close()
        return tmp_path / "a.h5"

    def test_of_a_file_whose_pictures_are_gone(self, diffeat, file, tmp_path):
        answer = diffeat("search", file, "--policy", "--policy-png", tmp_path / "p.png")
        assert answer.code == 0, answer.err
        assert "the policy sees features: " in answer.err
        assert "which sees features at t=10" in answer.out
        with Image.open(tmp_path / "p.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
        found = json.loads(diffeat("search", file, "--policy", "--json").out)["policy"]
        assert set(found["beside"]) == set(BESIDE)
        assert sum(found["labels"]) + np.sum(found["chosen"]) == 150

    def test_pictures_that_were_asked_for(self, diffeat, file):
        answer = diffeat("search", file, "--policy", "--policy-sees", "pictures")
        assert answer.code == 1
        answer = diffeat("search", file, "--policy-sees", "features")
        assert answer.code == 2
        assert "--policy-sees is of --policy" in answer.err

    def test_from_a_model(self, diffeat, tmp_path):
        from tests.search.common import dark_and_bright

        folder = dark_and_bright(tmp_path / "pictures")
        answer = diffeat("search", "unet-cifar10", folder, "-t", "20,300", "-b", "up.0.res.0",
                         "--score", "knn", "--policy")  # fmt: skip
        assert answer.code == 0, answer.err
        assert "which sees pictures of 32×32" in answer.out


def test_thumbnails_follow_the_rows():
    from diffeat.images import ArraySource

    pixels = np.zeros((3, 64, 40, 3), np.uint8)
    pixels[1, :32] = 255
    source = ArraySource("made", ("a", "b", "c"), None, (), pixels)
    found = thumbnails([source, source.take([1])])
    assert found.shape == (4, 3, 32, 32)
    assert found[0].max() == 0
    assert found[1, :, :16].min() == 1 == found[3, :, :16].min()
    assert found[1, :, 16:].max() == 0
