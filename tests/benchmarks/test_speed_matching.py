"""Part j of the speed suite: that both sides match the same, and what the tables say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speed import match_child, matching
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import DETAILS, SUMMARIES

ORDER = {"threads": 1, "seed": 0, "size": [20, 30], "shape": [8, 5, 6], "pairs": 2, "points": 4}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Works in this process, so that the peak is whatever it is."""
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)

    def in_process(module, order, what):
        assert module == "match_child"
        return match_child.WORKS[order["work"]](order)

    monkeypatch.setattr(matching, "in_process", in_process)


def test_both_sides_find_the_same():
    ours = match_child.ours(ORDER)
    theirs = match_child.upsampled({**ORDER, "asked": ours["found"]})
    assert theirs["found"] == ours["found"]
    np.testing.assert_allclose(theirs["score"], ours["score"], atol=1e-5)
    np.testing.assert_allclose(theirs["others"], ours["score"], atol=1e-5)
    assert ours["points"] == theirs["points"] == 8
    assert ours["points_per_s"] == pytest.approx(8 / ours["seconds"], rel=0.05)


def test_what_differs_is_told(monkeypatch):
    """A matcher that answers with a corner, and says that it is sure."""
    real = match_child.ours

    def wrong(order):
        found = real(order)
        return {**found, "found": [[0, 0]] * len(found["found"]), "score": [1.0] * 30}

    monkeypatch.setitem(match_child.WORKS, "ours", wrong)
    part = matching.measure(Settings(("j",), quick=True))
    assert part["against"]["same_pixel"] == 0
    assert part["against"]["apart"] > 0.1


def test_the_part_and_its_tables():
    part = matching.measure(Settings(("j",), quick=True))
    against, file = part["against"], part["file"]
    assert against["apart"] <= part["targets"]["apart"]
    expected = against["ours"]["points_per_s"] / against["upsampled"]["points_per_s"]
    assert against["ratio"] == pytest.approx(expected, abs=0.01)
    for run in (*file["rates"].values(), *file["growth"]):
        assert run["valid"] == run["points"] == 15 * run["pairs"]
    summary = SUMMARIES["j"](part)
    assert summary[0][1:] == (f"{against['ratio']:,.0f}", "≥ 300")
    assert [row[2] for row in summary[1:]] == ["≥ 20", "≤ 1e-05", "≥ 20,000", "≥ 800", "≤ 1.05"]
    lines = "\n".join(DETAILS["j"](part))
    assert f"{against['same_pixel']} of 3 points" in lines
    assert "Pictures of 36 × 48; maps of 16 × 6 × 6" in lines
