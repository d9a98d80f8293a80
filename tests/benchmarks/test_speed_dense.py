"""Part l of the speed suite: that both sides compute the same, and what the tables say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.speed import dense, dense_child, dense_plain
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import DETAILS, SUMMARIES
from probes import Maps

QUICK = Settings(("l",), quick=True)


def in_process(module, order, what):
    """In this process, so that the peak is whatever it is."""
    assert module == "dense_child"
    return dense_child.WORKS[order["work"]](order)


@pytest.fixture(scope="module", autouse=True)
def here():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.set_num_threads", lambda threads: None)
        patch.setattr(dense, "in_process", in_process)
        yield


@pytest.fixture(scope="module")
def part(here):
    return dense.measure(QUICK)


def test_both_sides_compute_the_same(part):
    found = part["prediction"]
    assert found["apart"] <= 1e-5
    assert found["same_class"] == found["pixels"] == 16 * 24
    (steps,) = part["steps"]
    assert (steps["channels"], steps["steps"]) == (12, 3)
    assert steps["weights_apart"] <= 1e-4
    each = [a / b for a, b in zip(found["built_seconds"], found["seconds"], strict=True)]
    assert found["ratio"]["each"] == pytest.approx(each, rel=1e-3)
    runs = part["memory"]["runs"]
    assert [(run["pictures"], run["steps"]) for run in runs] == [(4, 6), (8, 6)]
    assert all(0 < run["loss"] < 3 for run in runs)


def test_tables(part):
    summary = SUMMARIES["l"](part)
    assert [row[2] for row in summary] == ["≥ 10", "≤ 200", "≤ 1e-05", "≥ 2", "≥ 4", "≤ 1,024",
                                           "≤ 1.1"]  # fmt: skip
    assert "3 members one after the other ÷ at once, a step of 12 channels" in summary[3][0]
    lines = "\n".join(DETAILS["l"](part))
    assert "At 384 of 384 pixels all members say the same class both ways" in lines
    assert "3 members d → 6 → 4 → 4" in lines


def test_what_differs_is_told(monkeypatch):
    """A built side whose columns lie a pixel further."""
    plain = dense_plain.between
    monkeypatch.setattr(dense_plain, "between", lambda *sides: plain(*sides).roll(1, 0))
    order = {"seed": 0, "shapes": dense.SMALL, "members": 2, "hidden": [4], "classes": 3,
             "size": [16, 24], "threads": 1}  # fmt: skip
    assert dense._prediction(order, QUICK)["apart"] > 1e-3


def test_the_built_side_is_torchs_own_resize():
    maps = Maps(dense_child.maps_of(dense.SMALL, 0), (16, 24), (16, 24))
    built = torch.cat([F.interpolate(torch.from_numpy(one)[None], (16, 24), mode="bilinear")[0]
                       for one in maps.values.values()]).flatten(1).T  # fmt: skip
    found = torch.cat(list(dense_plain.hypercolumns(maps)))
    torch.testing.assert_close(found, built, rtol=1e-5, atol=1e-6)
    one = nn.Linear(12, 3)
    torch.testing.assert_close(dense_plain.logits(maps, [one])[0], one(built).detach())
