"""Regression and several labels: numbers against scikit-learn, every strategy, heads."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diffeat.errors import SpecError
from diffeat.search import TEST, TRAIN, VALIDATION, Classification, Mix, SearchOptions, run_search
from diffeat.search.intervals import resampled
from diffeat.search.multilabel import Multilabel
from diffeat.search.regression import Regression
from tests.search.common import task_of

COUNT, WIDTH = 300, 6
NOISE = {("a", 10): 3.0, ("a", 50): 6.0, ("b", 10): 0.3, ("b", 50): 2.0}
BEST = ("b", 10)
ALPHAS = (100.0, 10.0, 1.0)  # of equals, the stronger


def arrays() -> tuple[dict, np.ndarray]:
    """Cells that hide (N, 3) numbers under noise."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(COUNT, 3))
    mixing = rng.normal(size=(3, WIDTH))
    return {
        cell: (hidden @ mixing + noise * rng.normal(size=(COUNT, WIDTH))).astype(np.float32)
        for cell, noise in NOISE.items()
    }, hidden


def judge_of(kind, **changes):
    cells, hidden = arrays()
    labels = 20 + 5 * hidden[:, 0] if kind is Regression else (hidden > 0.8).astype(np.int64)
    return kind(task_of(COUNT, arrays=cells, labels=labels, **changes), ALPHAS)


def targets(judge) -> np.ndarray:
    y = judge.task.labels
    return y if isinstance(judge, Regression) else 2.0 * y - 1


def number(judge, rows, found) -> float:
    truth = judge.task.labels[rows]
    if isinstance(judge, Regression):
        return r2_score(truth, found)
    return float(np.mean(average_precision_score(truth, found, average=None)))


def expected(judge, X, train, scored, alpha) -> float:
    ridge = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X[train], targets(judge)[train])
    return number(judge, scored, ridge.predict(X[scored]))


KINDS = pytest.mark.parametrize("kind", [Regression, Multilabel])


@KINDS
def test_numbers_are_those_of_scikit_learn(kind):
    judge = judge_of(kind)
    surface = run_search(judge, SearchOptions()).findings["surface"]
    part = judge.part
    for cell in surface.cells:
        X = judge.read(*cell.key).astype(np.float64)
        scores = [expected(judge, X, part == TRAIN, part == VALIDATION, a) for a in ALPHAS]
        assert cell.validation == pytest.approx(max(scores), abs=1e-6)
        assert ALPHAS[int(np.argmax(scores))] == cell.C
        if cell.test is not None:
            tested = expected(judge, X, part != TEST, part == TEST, cell.C)
            assert cell.test == pytest.approx(tested, abs=1e-6)
            low, high = surface.interval_of(cell)
            assert low < cell.test < high
    assert surface.best.key == BEST


@KINDS
def test_draws_score_as_repeated_pictures_do(kind):
    judge = judge_of(kind)
    found, tested = judge.test(BEST, 1.0), judge.part == TEST
    truth = judge.task.labels[tested]
    groups = [f"g{k // 3}" for k in range(len(truth))]
    times = next(resampled(groups, draws=5))
    assert {len(set(row[k : k + 3])) for row in times for k in range(0, len(truth) - 3, 3)} == {1}
    scores = judge.scores_of_draws(truth, found, times)
    for row, score in zip(times, scores, strict=True):
        drawn = np.repeat(np.arange(len(truth)), row)
        if kind is Regression:
            wanted = r2_score(truth[drawn], found[drawn, 0])
        else:
            wanted = np.mean(average_precision_score(truth[drawn], found[drawn], average=None))
        assert score == pytest.approx(wanted, abs=1e-9)


@KINDS
def test_a_set_and_weights(kind):
    judge = judge_of(kind)
    pair, part = (BEST, ("b", 50)), judge.part
    X = np.concatenate([judge.read(*cell) for cell in pair], 1).astype(np.float64)
    [outcome] = judge.validate([Mix(pair)], part)
    scores = [expected(judge, X, part == TRAIN, part == VALIDATION, a) for a in ALPHAS]
    assert outcome.validation == pytest.approx(max(scores), abs=1e-6)
    weights = np.repeat([0.9, 0.1], WIDTH)
    Z = StandardScaler().fit(X[part == TRAIN]).transform(X) * weights
    plain = Ridge(10.0).fit(Z[part == TRAIN], targets(judge)[part == TRAIN])
    wanted = number(judge, part == VALIDATION, plain.predict(Z[part == VALIDATION]))
    [weighed] = kind(judge.task, (10.0,)).validate([Mix(pair, (0.9, 0.1))], part)
    assert weighed.validation == pytest.approx(wanted, abs=1e-5)
    head = judge.head(Mix(pair), outcome.setting)
    said = judge.foretold(head, X[part == TEST].astype(np.float32))
    np.testing.assert_allclose(said, judge.test(Mix(pair), outcome.setting), rtol=1e-6)


@KINDS
def test_constants_and_what_stands_aside(kind):
    judge = judge_of(kind)
    known, tested = judge.part != TEST, judge.part == TEST
    y = judge.task.labels
    if kind is Regression:
        constant = np.full(tested.sum(), y[known].mean())
        assert judge.floor[0] == pytest.approx(r2_score(y[tested], constant))
        aside = judge.aside(BEST, 1.0)
        assert aside["mean absolute error"] == pytest.approx(
            mean_absolute_error(y[tested], judge.test(BEST, 1.0)[:, 0])
        )
        assert aside["mean absolute error of a constant"] == pytest.approx(
            mean_absolute_error(y[tested], constant)
        )
    else:
        assert judge.floor[0] == pytest.approx(y[tested].mean(0).mean())


def test_the_constant_of_classes():
    task = task_of()
    value, _ = Classification(task).floor
    most = np.bincount(task.labels[task.part != TEST]).argmax()
    assert value == (task.labels[task.part == TEST] == most).mean()


@KINDS
@pytest.mark.parametrize(
    "options",
    [{"sets": 2, "pairs": True, "bandit": 6, "selectors": True}, {"repeats": 3}, {"halving": True}],
    ids=lambda options: next(iter(options)),
)
def test_every_strategy_and_finished_work(kind, options, tmp_path):
    options = SearchOptions(**options, out=tmp_path / "kept")
    first = run_search(judge_of(kind), options)
    assert first.best.key == BEST
    assert judge_of(kind).name in "\n".join(first.lines()) or not options.selectors
    second = run_search(judge_of(kind), options)
    assert second.made[1] == 0
    assert second.best == first.best
    groups = tuple(f"g{k // 2}" for k in range(COUNT))
    other = run_search(judge_of(kind, groups=groups), options)
    assert other.made[0] == 0  # the parts are the same, the intervals are not
    narrow, wide = (np.diff(report.interval)[0] for report in (first, other))
    assert wide != narrow


@KINDS
def test_targets_of_another_kind_and_wrong_penalties(kind):
    other = Multilabel if kind is Regression else Regression
    with pytest.raises(SpecError, match=f"take --task {kind.task_name}"):
        other(judge_of(kind).task)
    with pytest.raises(SpecError, match=f"take --task {kind.task_name}"):
        Classification(judge_of(kind).task)
    with pytest.raises(SpecError, match="positive"):
        kind(judge_of(kind).task, (0.0,))


class TestParts:
    def test_pictures_without_a_target_play_no_part(self):
        cells, hidden = arrays()
        y = hidden[:, 0].copy()
        part = task_of(COUNT, arrays=cells).part.copy()
        out = np.arange(COUNT) % 7 == 0
        y[out], part[out] = np.nan, -1
        spoilt = {cell: np.where(out[:, None], np.nan, X) for cell, X in cells.items()}
        judge = Regression(task_of(COUNT, arrays=spoilt, labels=y, part=part), ALPHAS)
        few = {cell: X[~out] for cell, X in cells.items()}
        ids = tuple(f"p{k}" for k in np.flatnonzero(~out))
        alone = task_of(int((~out).sum()), arrays=few, labels=y[~out], part=part[~out], ids=ids)
        one, two = (run_search(j, SearchOptions()) for j in (judge, Regression(alone, ALPHAS)))
        assert one.best == two.best
        assert f", {out.sum()} without a label left out" in judge.headline

    def test_a_part_without_anything_to_tell(self):
        cells, hidden = arrays()
        flat = task_of(COUNT, arrays=cells, labels=hidden[:, 0]).part
        y = np.where(flat == VALIDATION, 1.0, hidden[:, 0])
        with pytest.raises(SpecError, match="fewer than two different numbers in the validation"):
            task_of(COUNT, arrays=cells, labels=y)
        none = np.where((flat == TEST)[:, None], 0, (hidden > 0).astype(int))
        with pytest.raises(SpecError, match="no picture with a label in the test part"):
            task_of(COUNT, arrays=cells, labels=none)
