"""`diffeat search --free`: label-free numbers beside a search, or alone."""

from __future__ import annotations

import csv
import json

import pytest
from scipy import stats

from diffeat.search import SearchOptions, run_search, task_from_store
from diffeat.search.classification import Classification
from diffeat.search.label_free import FreeOptions, free_scores
from diffeat.search.scores import Ridge
from tests.command import command
from tests.search.common import labels_of, write_store
from tests.search.label_free.test_scores import CELLS, maps


@pytest.fixture
def diffeat(monkeypatch, capsys):
    with command(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def file(tmp_path):
    write_store(tmp_path / "m.h5", maps(count=80), labels_of(80)).close()
    return tmp_path / "m.h5"


def test_numbers_of_pictures_that_are_not_tested(file):
    from diffeat.store import FeatureStore

    with FeatureStore(file) as store:
        task = task_from_store(store)
        report = run_search(Classification(task, Ridge()), SearchOptions(free=FreeOptions()))
        found = report.findings["free"]
        plain = free_scores(store, rows=task.seen)
    assert found.numbers.pictures == len(task.seen) < 80
    scores = report.first.cell_scores
    for score in ("frequency", "lds", "rank"):
        values = [plain.cells[cell][score] for cell in CELLS]
        assert [found.numbers.cells[cell][score] for cell in CELLS] == pytest.approx(values)
        expected = stats.spearmanr(values, [scores[cell] for cell in CELLS]).statistic
        assert found.trusted[score].rho == pytest.approx(expected)


def test_beside_a_search(diffeat, file, tmp_path):
    table = tmp_path / "t.csv"
    answer = diffeat("search", file, "--score", "ridge", "--free", "--csv", table)
    assert answer.code == 0, answer.err
    assert "label-free numbers of" in answer.out
    assert "  LDS: " in answer.out
    assert "massive-channel share: not defined; would choose no cell" in answer.out
    with open(table, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {"frequency", "lds", "rank", "massive"} <= set(rows[0])
    answer = diffeat("search", file, "--score", "ridge", "--free", "--json")
    found = json.loads(answer.out)["free"]
    assert len(found["cells"]) == 4
    assert found["rank_correlations"]["lds"]["task"] == "validation"


def test_alone_where_there_are_no_labels(diffeat, tmp_path):
    write_store(tmp_path / "n.h5", maps()).close()
    answer = diffeat("search", tmp_path / "n.h5", "--free", "-b", "b")
    assert answer.code == 0, answer.err
    first, head, *lines = answer.out.splitlines()
    assert "label-free numbers of 12 pictures; no labels" in first
    assert head.split() == ["block", "t", "frequency", "lds", "rank", "massive"]
    assert [line.split()[:2] for line in lines] == [["b", "1"], ["b", "2"]]
    assert (
        len(json.loads(diffeat("search", tmp_path / "n.h5", "--free", "--json").out)["cells"]) == 4
    )
    answer = diffeat("search", tmp_path / "n.h5", "--free", "--spec", tmp_path / "s.toml")
    assert answer.code == 2
    assert "several numbers choose several cells" in answer.err


def test_straight_from_a_model(diffeat, folder_of):
    """Its maps come from forwards of their own, under two noisings."""
    run = ("search", folder_of("pixel"), "digits", "-t", "20,90", "-b", "mid,up.0", "--limit", 40)
    answer = diffeat(*run, "--score", "knn", "-C", 1, "--free", "--json", "--threads", 1)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["free"]
    assert found["scores"] == ["frequency", "lds", "rank", "massive", "agreement"]
    assert found["pictures"] == sum(json.loads(answer.out)["surface"]["counts"][:2])
    same = {(row["block"], row["t"]): row["same"] for row in found["cells"]}
    assert same["mid", 20] > same["mid", 90]
