"""Part k of the speed suite: that both sides carry the same labels, and what the tables say."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import propagation, propagation_child
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import DETAILS, SUMMARIES

QUICK = Settings(("k",), quick=True)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Works in this process, so that the peak is whatever it is."""
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)

    def in_process(module, order, what):
        assert module == "propagation_child"
        return propagation_child.propagate(order)

    monkeypatch.setattr(propagation, "in_process", in_process)


def test_the_part_and_its_tables():
    part = propagation.measure(QUICK)
    against = part["against"]
    assert against["same_label"] == against["sites"] == 9 * 13
    assert against["apart"] <= 1e-5
    each = [a / b for a, b in zip(against["dense_seconds"], against["seconds"], strict=True)]
    assert against["ratio"]["each"] == pytest.approx(each, rel=1e-3)
    for run in (part["whole"], *part["growth"]["runs"]):
        assert 0 < run["labelled"] < run["frames"] * 64 * run["shape"][1] * run["shape"][2]
    summary = SUMMARIES["k"](part)
    assert [row[2] for row in summary] == ["≥ 3", "≤ 0.001", "≤ 1,024", "≤ 1.05"]
    lines = "\n".join(DETAILS["k"](part))
    assert "One frame of 8 × 9 × 13 after a context of 3" in lines
    assert "117 of 117 sites got the same label" in lines


def test_what_differs_is_told(monkeypatch):
    """A dense side that looks further than it should."""
    monkeypatch.setattr(propagation, "within",
                        lambda grid, radius, count: torch.ones(count, 117, 117))  # fmt: skip
    against = propagation.measure(QUICK)["against"]
    assert against["same_label"] < 117
    assert against["apart"] > 0.1
