"""A task is added by a judge of ten lines: every strategy, table, file and picture follows."""

from __future__ import annotations

import csv
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.search import (
    TEST,
    TRAIN,
    VALIDATION,
    Classification,
    Journal,
    Judge,
    Mix,
    SearchOptions,
    best_pairs,
    greedy_sets,
    run_search,
    search_surface,
    train_mixer,
)
from diffeat.search.judges import TASKS, TaskKind
from diffeat.viz import heat_map
from tests.command import command
from tests.search.common import write_store
from tests.test_viz import red_pixels


class Brightness(Judge):
    """How well a map's mean tells light pictures from dark ones."""

    name, unit, needs = "brightness", "%", ("maps",)

    def __init__(self, maps, light, **about):
        super().__init__(maps, **about)
        self.light = light

    def measure(self, X, fitted, scored):
        level = X.mean((1, 2, 3))
        edge = (level[fitted & self.light].mean() + level[fitted & ~self.light].mean()) / 2
        return (level[scored] > edge) == self.light[scored]


class Offset(Judge):
    """How far a map's mean is from a picture's shift, in pixels: lower is better."""

    name, unit, higher_is_better, learns = "offset", "px", False, False

    def __init__(self, maps, shift, **about):
        super().__init__(maps, **about)
        self.shift = shift

    def measure(self, X, fitted, scored):
        return float(np.abs(X.mean((1, 2, 3)) - self.shift)[scored].mean())


class SquaredError(Judge):
    """How far a map's mean is from a picture's depth, squared, in m²: lower is better."""

    name, unit, higher_is_better, learns = "squared error", "m²", False, False

    def __init__(self, maps, depth, **about):
        super().__init__(maps, **about)
        self.depth = depth

    def measure(self, X, fitted, scored):
        return ((X.mean((1, 2, 3)) - self.depth) ** 2)[scored]


COUNT = 240
NOISE = {("a", 1): 4.0, ("a", 5): 2.0, ("b", 1): 0.3, ("b", 5): 8.0}
"""How much each cell hides: ("b", 1) is the best."""
BEST, WORST = ("b", 1), ("b", 5)
LIGHT = np.random.default_rng(0).random(COUNT) < 0.5
GROUPS = [f"scene{k // 2}" for k in range(COUNT)]


def maps_of(level: np.ndarray) -> dict:
    """(N, 2, 4, 4) maps whose mean is a level under noise, which is the same all over a map."""
    rng = np.random.default_rng(1)
    found = {}
    for cell, noise in NOISE.items():
        places = rng.normal(size=(COUNT, 2, 4, 4))
        hidden = noise * rng.normal(size=(COUNT, 1, 1, 1))
        found[cell] = (level[:, None, None, None] + hidden + places - places.mean((1, 2, 3),
                       keepdims=True)).astype(np.float32)  # fmt: skip
    return found


@pytest.fixture(params=["higher", "lower"])
def judge(request) -> Judge:
    about = {"groups": GROUPS, "source": "toy", "identity": "toy maps"}
    if request.param == "higher":
        return Brightness(maps_of(2.0 * LIGHT), LIGHT, **about)
    shift = np.random.default_rng(2).normal(size=COUNT)
    return Offset(maps_of(shift), shift, **about)


def expected(judge: Judge, cell, part: int) -> float:
    """The number of a cell by arithmetic alone; test is learnt from training and validation."""
    level = judge.read(*cell).astype(np.float64).mean((1, 2, 3))
    scored = judge.part == part
    if isinstance(judge, Offset):
        return float(np.abs(level - judge.shift)[scored].mean())
    if isinstance(judge, SquaredError):
        return float(np.square(level - judge.depth)[scored].mean())
    fitted = judge.part < part
    means = [level[fitted & (judge.light == light)].mean() for light in (True, False)]
    return float(((level > np.mean(means)) == judge.light)[scored].mean())


EVERYTHING = {"sets": 3, "pairs": True, "bandit": 12, "selectors": True, "frequency": 0.5}


def test_the_grid_is_what_arithmetic_says(judge):
    surface = search_surface(judge)
    for cell in surface.cells:
        assert cell.validation == pytest.approx(expected(judge, cell.key, VALIDATION), abs=1e-6)
        if cell.test is not None:
            assert cell.test == pytest.approx(expected(judge, cell.key, TEST), abs=1e-6)
    assert surface.best.key == BEST
    assert surface.best_at(5).key == ("a", 5)
    name, first, second = surface.table().splitlines()[-1].split()
    assert (name, first[-1]) == ("b", "*")
    assert "*" not in second


@pytest.mark.parametrize("main", [{}, {"repeats": 3}])
def test_every_strategy(judge, main, tmp_path):
    report = run_search(judge, SearchOptions(**main, **EVERYTHING))
    assert report.best.key == BEST
    found = json.loads(json.dumps(report.to_dict()))
    assert {"surface", "sets", "pairs", "bandit", "mixer", "frequency", *main} <= set(found)
    assert found["surface"]["measure"] == {
        "name": judge.name, "unit": judge.unit, "higher_is_better": judge.higher_is_better,
    }  # fmt: skip
    assert BEST in report.findings["pairs"].best.cells
    assert report.findings["bandit"].best == 1
    steps = report.findings["sets"].steps
    assert steps[0].cells == (BEST,)
    assert all(step.gain > 0 for step in steps[1:])
    text = "\n".join(report.lines())
    for words in ("greedy sets", "best pairs", "bandit: t=1", "mixer", "grid search",
                  "searched mixer", "learned agent", "best on validation: b at t=1"):  # fmt: skip
        assert words in text
    report.write_csv(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["block"], int(row["t"])) for row in rows] == list(NOISE)
    for row in rows:
        value = report.grid.values[row["block"], int(row["t"])]
        assert float(row["validation"]) == pytest.approx(value, abs=5e-5)
    if main:
        assert sum(int(row["wins"]) for row in rows) == 3


def test_the_selectors_stand_side_by_side(judge):
    report = run_search(judge, SearchOptions(selectors=True))
    chosen = {one.selector: one for one in report.selections.values()}
    assert list(chosen) == ["grid search", "learned agent", "searched mixer"]
    grid, agent, mixer = chosen.values()
    assert grid.cost == 4
    assert (agent.chosen, agent.test) == (grid.chosen, grid.test)
    weights = report.findings["mixer"].weights
    assert sum(weights.values()) == pytest.approx(1, abs=1e-4)
    assert max(weights, key=weights.get) == BEST
    assert mixer.cost > grid.cost
    for one in chosen.values():
        assert one.test is not None


def test_a_set_begins_where_the_grid_ends():
    """Depths in metres are nothing that standardised features could tell."""
    depth = 20 + 5 * np.random.default_rng(2).normal(size=COUNT)
    judge = SquaredError(maps_of(depth), depth, groups=GROUPS)
    surface, sets, pairs = search_surface(judge), greedy_sets(judge, most=2), best_pairs(judge)
    assert sets.steps[0].cells == (BEST,) == (surface.best.key,)
    assert sets.steps[0].validation == sets.single == pairs.single == surface.best.validation
    assert sets.best == sets.steps[0]
    assert sets.test == surface.best.test == pytest.approx(expected(judge, BEST, TEST), rel=1e-6)


class TestNoMixes:
    @pytest.fixture
    def judge(self):
        class Alone(SquaredError):
            mixes = False

        depth = 20 + 5 * np.random.default_rng(2).normal(size=COUNT)
        return Alone(maps_of(depth), depth, groups=GROUPS)

    @pytest.mark.parametrize("options", [{"sets": 2}, {"pairs": True}])
    def test_sets_and_pairs_are_refused(self, judge, options):
        [name] = options
        flag = {"sets": "--sets", "pairs": "--cell-pairs"}[name]
        words = rf"^{name}: squared error is of single cells.*leave {flag} out"
        with pytest.raises(SpecError, match=words):
            run_search(judge, SearchOptions(**options))

    def test_functions_refuse_too(self, judge):
        for search in (partial(greedy_sets, most=2), best_pairs, train_mixer):
            with pytest.raises(SpecError, match="the best cell of the grid"):
                search(judge)

    def test_selectors_say_that_there_is_no_mixer(self, judge):
        report = run_search(judge, SearchOptions(selectors=True))
        names = [one.selector for one in report.selections.values()]
        assert names == ["grid search", "learned agent"]
        assert report.lines()[-2].startswith("no mixer: squared error is of single cells")
        assert report.to_dict()["left_out"] == report.lines()[-2]


def test_weights_of_a_mix_are_what_is_added_up():
    judge = Brightness(maps_of(2.0 * LIGHT), LIGHT, groups=GROUPS)
    fitted = judge.part == TRAIN
    X = judge.features(Mix((BEST, WORST), (0.25, 0.75)), fitted)
    for k, (cell, weight) in enumerate(((BEST, 0.25), (WORST, 0.75))):
        values = judge.read(*cell).astype(np.float64)
        mean, scale = values[fitted].mean((0, 2, 3)), values[fitted].std((0, 2, 3))
        plain = weight * (values - mean[:, None, None]) / scale[:, None, None]
        np.testing.assert_allclose(X[:, 2 * k : 2 * k + 2], plain, atol=1e-5)


def test_halving_keeps_the_best_half(judge):
    report = run_search(judge, SearchOptions(halving=True))
    halving = report.findings["halving"]
    first = halving.rounds[0].scores
    ranked = sorted(first, key=first.get, reverse=judge.higher_is_better)
    assert set(halving.rounds[1].scores) == set(ranked[:2])
    assert report.best.key == BEST
    assert report.best.test == pytest.approx(expected(judge, BEST, TEST), abs=1e-6)


def test_a_picture_is_drawn(judge, tmp_path):
    surface = search_surface(judge)
    heat_map([surface.grid], tmp_path / "a.png", "T")
    with Image.open(tmp_path / "a.png") as picture:
        size = np.array(picture.size[::-1])
    row, column = (red_pixels(tmp_path / "a.png") / size).mean(0)
    assert row > 0.5 > column  # the lower left cell is framed
    heat_map([surface.grid] * 2, tmp_path / "b.png", shared=False)
    assert len(red_pixels(tmp_path / "b.png")) > len(red_pixels(tmp_path / "a.png"))


def test_finished_work_is_found(judge, tmp_path):
    options = SearchOptions(**EVERYTHING, out=tmp_path / "kept")
    first, second = run_search(judge, options), run_search(judge, options)
    made = len(list((tmp_path / "kept").iterdir()))
    assert first.made == (0, made)
    assert second.made == (made, 0)
    assert {**second.to_dict(), "found": 0, "computed": made} == first.to_dict()


def test_parts_are_parts_of_groups_and_intervals_count_groups(judge):
    assert {len(set(judge.part[k : k + 2])) for k in range(0, COUNT, 2)} == {1}
    surface = search_surface(judge)
    tested = judge.counts[2] // 2
    assert surface.measure.groups == tested
    if isinstance(judge, Offset):
        assert surface.interval is None  # one number has no parts to draw again
    else:
        low, high = surface.interval
        assert low <= surface.best.test <= high
        assert f"bootstrap of {tested} groups" in surface.measure.say_test(0.5, (0.4, 0.6))


@pytest.mark.parametrize("options", [("--selectors", "--sets", 2), ("--halving",)])
def test_the_command_line_takes_it(options, tmp_path, monkeypatch, capsys):
    maps = maps_of(2.0 * LIGHT)
    path = tmp_path / "m.h5"
    write_store(path, maps, LIGHT.astype(np.int64), 2).close()

    def of_files(store, test, choices):
        cells = {(b, t): store[b, t] for b in store.blocks for t in store.timesteps}
        return Brightness(cells, store.labels > 0, groups=GROUPS, source=store.model["name"])

    monkeypatch.setitem(TASKS, "brightness", TaskKind(of_files, None))
    outputs = ("--csv", tmp_path / "a.csv", "--spec", tmp_path / "a.toml")
    if options[0] != "--halving":
        outputs += ("--png", tmp_path / "a.png")
    with command(monkeypatch, capsys) as diffeat:
        answer = diffeat("search", path, "--task", "brightness", *options, *outputs)
        assert answer.code == 0, answer.err
        assert answer.out.startswith("toy: validation brightness in %")
        assert "best on validation: b at t=1" in answer.out
        shown = json.loads(diffeat("search", path, "--task", "brightness", "--json").out)
        assert (shown["best"]["block"], shown["best"]["t"]) == BEST
        wrong = diffeat("search", path, "--task", "brightnes")
    assert wrong.code == 2
    assert "did you mean 'brightness'" in wrong.err
    assert "expected classification, regression, multilabel, " in wrong.err
    assert ", brightness" in wrong.err
    assert 'blocks = ["b"]' in (tmp_path / "a.toml").read_text()


class TestBadInput:
    def test_vectors_for_a_judge_of_maps(self):
        vectors = {cell: values.mean((2, 3)) for cell, values in maps_of(2.0 * LIGHT).items()}
        with pytest.raises(SpecError, match=r"needs maps, but block 'a' at t=1 .*--pool none"):
            run_search(Brightness(vectors, LIGHT, groups=GROUPS), SearchOptions())

    def test_too_little_memory(self, judge):
        with pytest.raises(SpecError, match="--memory"):
            search_surface(judge, memory=1000)

    def test_fewer_rows_than_pictures(self):
        maps = {cell: values[:-1] for cell, values in maps_of(2.0 * LIGHT).items()}
        with pytest.raises(SpecError, match=r"has 239 rows; expected 240"):
            search_surface(Brightness(maps, LIGHT, groups=GROUPS))

    def test_nothing_is_kept_of_what_has_no_identity(self, tmp_path):
        nameless = Brightness(maps_of(2.0 * LIGHT), LIGHT, groups=GROUPS)
        with pytest.raises(SpecError, match="without an identity"):
            search_surface(nameless, Journal(tmp_path))

    def test_numbers_of_other_pictures_than_the_scored_ones(self):
        class All(Brightness):
            def measure(self, X, fitted, scored):
                return X.mean((1, 2, 3))

        judge = All(maps_of(2.0 * LIGHT), LIGHT, groups=GROUPS)
        for part, ask in ((VALIDATION, lambda: judge.validate([BEST], judge.part)),
                          (TEST, lambda: judge.settle(judge.test(BEST, None)))):  # fmt: skip
            count = (judge.part == part).sum()
            with pytest.raises(SpecError, match=rf"^All gave brightness of shape \(240,\); .* "
                               rf"shape \({count},\), one number for each"):  # fmt: skip
                ask()

    def test_a_judge_that_says_nothing(self):
        with pytest.raises(TypeError, match="neither measure nor validate"):
            search_surface(Judge(maps_of(2.0 * LIGHT), GROUPS))


def test_classification_is_a_judge():
    assert issubclass(Classification, Judge)
