"""The winner as a spec file, and everything that was found as CSV and JSON."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.search import (
    Classification,
    FrequencyGuess,
    SearchOptions,
    Surface,
    run_search,
    write_best_spec,
)
from diffeat.specs import ExtractSpec
from tests.search.common import BEST, task_of
from tests.search.test_classification import centroid
from tests.search.test_strategies import halves


class TestBestSpec:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"prompt": 'a "photo"\\ of\n{class} \x7f é 😀', "label": "class", "heads": (0, 3)},
            {"size": (32, 48), "tile": 16, "flip": True, "label": 5, "pool": "2x2"},
        ],
    )
    def test_what_is_written_is_read(self, tmp_path, changes):
        spec = ExtractSpec((20, 60, 90), ("a", "b", "c"), **changes)
        cells = [("c", 60), ("a", 20), ("c", 20)]
        written = write_best_spec(tmp_path / "b.toml", spec, cells, ["best\nof all"])
        assert ExtractSpec.from_file(tmp_path / "b.toml") == written
        expected = {**spec.to_dict(), "blocks": ["c", "a"], "timesteps": [60, 20]}
        assert written.to_dict() == expected
        text = (tmp_path / "b.toml").read_text("utf-8")
        assert text.startswith("# best of all\n# chosen: c at t=60, a at t=20, c at t=20\n")

    def test_flow_times_stay_flow_times(self, tmp_path):
        # a file calls s = 0.2505 t=250.5, which as a number would mean no flow time
        spec = ExtractSpec((0.2505, 500), ("a",))
        written = write_best_spec(tmp_path / "b.toml", spec, [("a", 250.5), ("a", 500)])
        assert written.timesteps == (0.2505, 500)


class TestReport:
    def test_everything_at_once(self, tmp_path):
        ratios = {cell: 0.1 * k for k, cell in enumerate(task_of().cells)}
        options = SearchOptions(repeats=3, sets=2, pairs=True, bandit=4, out=tmp_path / "o")
        labels = []

        def progress(label, items):
            labels.append(label)
            return iter(items)

        report = run_search(
            Classification(task_of(), centroid), options, [FrequencyGuess(ratios, 0.5, 9)], progress
        )
        assert labels == ["search", "sets", "pairs", "bandit"]
        found = json.loads(json.dumps(report.to_dict()))
        assert set(found) >= {"surface", "repeats", "sets", "pairs", "frequency", "bandit", "best"}
        assert (found["best"]["block"], found["best"]["t"]) == BEST
        assert found["computed"] == sum(1 for _ in (tmp_path / "o").iterdir())
        assert found["bandit"]["regret"] == sorted(found["bandit"]["regret"])
        text = "\n".join(report.lines())
        for words in ("3 splits", "greedy sets", "best pairs", "Spearman", "bandit: t="):
            assert words in text
        report.write_csv(tmp_path / "a.csv")
        with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["block"], int(row["t"])) for row in rows] == list(task_of().cells)
        assert sum(int(row["wins"]) for row in rows) == 3
        for row, mean in zip(rows, report.findings["repeats"].mean, strict=True):
            assert float(row["validation"]) == pytest.approx(mean, abs=5e-5)

    def test_a_set_is_best_only_where_it_beats_the_best_cell(self):
        report = run_search(Classification(halves()), SearchOptions(sets=2))
        assert set(report.best_cells) == {("a", 1), ("b", 1)}
        alone = run_search(Classification(task_of(), centroid), SearchOptions())
        assert alone.best_cells == (BEST,)
        assert isinstance(alone.findings["surface"], Surface)

    def test_repeats_do_not_lend_a_set_a_gain(self):
        """Sets are compared with the best cell of their own split, not with means over others."""
        strength = {("a", 1): 0.6, ("b", 1): 0.0, ("b", 2): 0.0}
        task = task_of(60, strength=strength)
        for seed in range(4):
            report = run_search(
                Classification(task, "ridge"), SearchOptions(repeats=5, sets=2, seed=seed)
            )
            gained = (
                report.findings["sets"].best.validation
                > report.findings["sets"].steps[0].validation
            )
            assert (len(report.best_cells) > 1) is gained
            assert report.findings["sets"].single == report.findings["sets"].steps[0].validation

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"bandit": 1}, "at least one for each"),
            ({"pairs": True}, "pairs; expected at most"),
        ],
    )
    def test_what_cannot_be_done_is_told_before_the_grid(self, options, words):
        def never(*_):
            raise AssertionError("a cell was scored")

        arrays = dict.fromkeys(((f"b{k}", t) for k in range(40) for t in (1, 2)), np.ones((400, 2)))
        with pytest.raises(SpecError, match=words):
            run_search(Classification(task_of(arrays=arrays), never), SearchOptions(**options))

    @pytest.mark.parametrize(
        "options", [{"sets": 2}, {"pairs": True}, {"halving": True}, {"bandit": 9}]
    )
    def test_what_comes_back_to_every_t_wants_them_all(self, options):
        groups = tuple((cell,) for cell in task_of().cells)
        with pytest.raises(SpecError, match="do not fit in memory together"):
            run_search(Classification(task_of(together=groups), centroid), SearchOptions(**options))

    def test_a_function_without_a_name_keeps_nothing(self, tmp_path):
        judge = Classification(task_of(), lambda *_: 0.5)
        with pytest.raises(SpecError, match=r"<lambda>.*give no folder"):
            run_search(judge, SearchOptions(out=tmp_path / "o"))
        assert run_search(judge, SearchOptions()).best.validation == 0.5

    def test_halving_has_rounds_in_place_of_a_grid(self, tmp_path):
        report = run_search(Classification(task_of(), centroid), SearchOptions(halving=True))
        assert report.best.key == BEST
        assert "cells never fitted on all" in report.lines()[0]
        report.write_csv(tmp_path / "a.csv")
        lines = (tmp_path / "a.csv").read_text().splitlines()
        assert len(lines) == 1 + report.findings["halving"].fits
        with pytest.raises(SpecError, match="choose one"):
            SearchOptions(halving=True, repeats=3)
