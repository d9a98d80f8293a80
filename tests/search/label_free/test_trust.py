"""Rank correlations with scores, against SciPy, and planted ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffeat.errors import SpecError
from diffeat.search.label_free import trust as whole_trust
from diffeat.search.measure import Measure

CELLS = [(f"b{block}", t) for block in range(6) for t in (10, 50, 90)]
ACCURACY, ERROR = Measure("accuracy"), Measure("abs rel", "", False)


def trust(*args, **how):
    return whole_trust(*args, **how, draws=200)


def random(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return dict(zip(CELLS, rng.random(len(CELLS)).tolist(), strict=True))


def listed(values: dict) -> list:
    return [values[cell] for cell in CELLS]


def test_it_is_spearmans():
    number, score = random(0), random(1)
    found = trust("lds", number, "horses", score, ACCURACY)
    expected = stats.spearmanr(listed(number), listed(score)).statistic
    assert found.rho == pytest.approx(expected)
    assert found.low < found.rho < found.high
    by_t = [stats.spearmanr([number[c] for c in CELLS if c[1] == t],
                            [score[c] for c in CELLS if c[1] == t]).statistic
            for t in (10, 50, 90)]  # fmt: skip
    assert found.within_t == pytest.approx(np.mean(by_t))
    by_block = [stats.spearmanr([number[c] for c in CELLS if c[0] == f"b{k}"],
                                [score[c] for c in CELLS if c[0] == f"b{k}"]).statistic
                for k in range(6)]  # fmt: skip
    assert found.within_block == pytest.approx(np.mean(by_block))


def test_errors_are_turned_round():
    number, score = random(0), random(1)
    plain, error = (trust("x", number, "y", score, one) for one in (ACCURACY, ERROR))
    assert error.rho == pytest.approx(-plain.rho)
    best = min(score.values())
    assert error.lost == pytest.approx(score[max(number, key=number.get)] - best)


def test_what_it_chooses_and_what_is_lost():
    number, score = random(0), random(1)
    up, down = (trust("x", number, "y", score, ACCURACY, higher) for higher in (True, False))
    assert up.cell == max(number, key=number.get)
    assert down.cell == min(number, key=number.get)
    assert up.lost == pytest.approx(max(score.values()) - score[up.cell])
    perfect = trust("x", score, "y", score, ACCURACY)
    assert (perfect.rho, perfect.lost) == (pytest.approx(1), 0)


def test_a_number_that_knows_the_shape_alone():
    """Wide blocks are better; the number tells wide from narrow and nothing else."""
    rng = np.random.default_rng(0)
    wide = {cell: int(cell[0] > "b2") for cell in CELLS}
    score = {cell: wide[cell] + 0.1 * rng.random() for cell in CELLS}
    number = {cell: wide[cell] + 0.1 * rng.random() for cell in CELLS}
    found = trust("x", number, "y", score, ACCURACY, shapes=wide)
    assert found.rho > 0.6
    inside = [stats.spearmanr([number[c] for c in CELLS if wide[c] == k],
                              [score[c] for c in CELLS if wide[c] == k]).statistic
              for k in (0, 1)]  # fmt: skip
    assert found.within_shape == pytest.approx(np.mean(inside))
    assert abs(found.within_shape) < 0.5


def test_the_interval_draws_whole_blocks():
    """Copies of one t say nothing new: cells alone would make the interval narrower."""
    number, score = random(0), random(1)
    one = {cell: values for cell, values in number.items() if cell[1] == 10}
    same = {(block, t): number[block, 10] for block, t in CELLS}
    good = {(block, t): score[block, 10] for block, t in CELLS}
    alone = trust("x", one, "y", {cell: score[cell] for cell in one}, ACCURACY)
    copied = trust("x", same, "y", good, ACCURACY)
    assert (copied.rho, copied.low, copied.high) == pytest.approx(
        (alone.rho, alone.low, alone.high)
    )


def test_where_nothing_can_be_said():
    flat = dict.fromkeys(CELLS, 0.0)
    found = trust("massive", flat, "y", random(1), ACCURACY)
    assert (found.rho, found.low, found.within_t) == (None, None, None)
    assert str(found) == "not defined"
    one = {cell: value for cell, value in random(0).items() if cell[0] == "b0"}
    found = trust("x", one, "y", random(1), ACCURACY)
    assert found.low is None
    assert found.cells == 3
    with pytest.raises(SpecError, match="have 1 cells in common; expected at least 3"):
        trust("x", {CELLS[0]: 1.0}, "y", random(1), ACCURACY)
