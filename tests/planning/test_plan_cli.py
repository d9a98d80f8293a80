"""`diffeat plan`, and `diffeat extract --dry-run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ASKED = ("-t", "0:1000:250", "-b", "up.0,up.1", "--pool", "2x2", "--device", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_what_is_printed(diffeat, tmp_path):
    answer = diffeat("plan", "unet-cifar10", "digits", *ASKED, "--no-measure")
    assert answer.code == 0
    first, *rows = answer.out.splitlines()
    assert first.startswith("plan: 1,797 pictures × 4 t = 7,188 forwards, 9.5 TFLOP, ")
    found = {row.split(maxsplit=1)[0]: row.split(maxsplit=1)[1] for row in rows}
    assert set(found) == {"pictures", "forwards", "operations", "time", "file", "disk", "memory"}
    assert found["pictures"] == "1,797 of digits, 32×32 pixels"
    assert found["forwards"] == "7,188 of the network, 64 rows at a time"
    assert "1.3 GFLOP a forward, which ends after up.1" in found["operations"]
    assert found["time"] == "not known; --gpu NAME estimates it for a GPU"
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_the_plan_of_a_gpu(diffeat):
    options = ("--gpu", "h100", "--fraction", "0.5", "--json")
    found = json.loads(diffeat("plan", "unet-cifar10", "digits", *ASKED[:-2], *options).out)
    assert found["rate"] == {"rate": 0.5 * 989e12, "from": "h100", "peak": 989e12,
                             "fraction": 0.5, "dtype": "bfloat16"}  # fmt: skip
    assert found["seconds"] == pytest.approx(found["flops"] / (0.5 * 989e12))
    assert found["effort"] == {"evaluations": 4, "walks": False, "forwards": 4, "encodes": 0,
                               "texts": 0}  # fmt: skip


def test_the_example_of_the_docs_is_what_is_printed(diffeat):
    """But for what this machine says: its disk and its program's memory."""
    text = (Path(__file__).parents[2] / "docs/plan.md").read_text(encoding="utf-8")
    shown = text.partition("$ diffeat plan sd15 ")[2].partition("```")[0].splitlines()
    found = diffeat("plan", "sd15", *shown[0].split()).out.splitlines()
    assert len(found) == len(shown) - 1 == 9
    assert "maps; --pool 1x1 would make it" in found[0]
    for line, wanted in zip(found, shown[1:], strict=True):
        name = line.split()[0]
        assert line == wanted or (name in ("disk", "memory") and name == wanted.split()[0])


def test_a_dry_run_is_a_plan(diffeat, tmp_path):
    asked = ("unet-cifar10", "digits", *ASKED, "--limit", "30")
    planned = diffeat("plan", *asked)  # measures
    assert "here, an estimate" in planned.out
    dry = diffeat("extract", *asked, "-o", "f.h5", "--dry-run")
    assert dry.code == 0
    same = [row for row in dry.out.splitlines() if row.split()[0] not in ("disk", "memory")]
    assert same == [row.replace("measured now", "measured before")
                    for row in planned.out.splitlines()
                    if row.split()[0] not in ("disk", "memory")]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"rates.json"}


def test_wrong_gpus_are_wrong_usage(diffeat):
    asked = ("plan", "unet-cifar10", "digits", *ASKED)
    assert diffeat(*asked, "--gpu", "h10").code == 2
    assert "no published peak in bfloat16" in diffeat(*asked, "--gpu", "t4").err
    assert diffeat(*asked, "--gpu", "t4", "--model-dtype", "fp16").code == 0
