"""Heads of recorded results are those of the benchmarks now, to their journals' keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import diffeat
from benchmarks.catalogue import open_benchmark
from benchmarks.tasks.classification.heads import head_of

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
HEADS = ("AttentionProbe", "DifFormerProbe")
EVERY = [
    (path.stem, system)
    for path in sorted(RESULTS.glob("*.json"))
    for system in json.loads(path.read_text("utf-8")).get("systems", ())
    if system["head"] in HEADS
]
# results from before the argument say nothing of it
RECORDED = [(name, system) for name, system in EVERY if "qkv_bias" not in system["arguments"]]
SINCE = [(name, system) for name, system in EVERY if "qkv_bias" in system["arguments"]]


def parameters(channels, sides, steps, classes, *, width, depth=2, bias, **_):
    """By arithmetic: LayerNorms, 1×1 convolutions and token, layers, the linear layer."""
    start = sum(2 * C * side**2 + (C + 1) * width for C, side in zip(channels, sides, strict=True))
    attention = 4 * width**2 + width + 3 * width * bias
    mlp = 2 * 4 * width**2 + 5 * width
    return (start + width + depth * (attention + mlp + 4 * width)
            + (steps * width + 1) * classes)  # fmt: skip


@pytest.fixture(scope="module")
def channels():
    blocks = diffeat.load("unet-cifar10", device="meta").blocks
    return {block.name: block.channels for block in blocks}


def keyed(system):
    return head_of(system).keyed(system.arguments)


def current(name, wanted):
    """The system of the benchmark as it is now."""
    (found,) = (one for one in open_benchmark(name).systems if one.name == wanted["name"])
    return found


def test_there_are_ten():
    assert len(RECORDED) == 10


@pytest.mark.parametrize(
    ("name", "system"), RECORDED, ids=[f"{n}, {s['name']}" for n, s in RECORDED]
)
def test_the_benchmark_still_makes_the_recorded_head(name, system, channels):
    """What was recorded had a bias of queries, keys and values; the benchmark says so now."""
    found = current(name, system)
    assert found.arguments == {**system["arguments"], "qkv_bias": True}
    assert keyed(found) == system["arguments"]  # so that its journal is read
    blocks = list(dict.fromkeys(block for block, _ in system["cells"]))
    steps = len({t for _, t in system["cells"]})
    side = int(open_benchmark(name).extract["pool"][0])
    limit = min(side, found.arguments.get("limit", 16))
    expected = {
        bias: parameters([channels[block] for block in blocks], [limit] * len(blocks), steps, 10,
                         bias=bias, **system["arguments"])
        for bias in (True, False)
    }  # fmt: skip
    assert {run["parameters"] for run in system["runs"]} == {expected[True]}


def test_what_was_recorded_since_tells_it():
    assert SINCE
    for name, system in SINCE:
        assert current(name, system).arguments == system["arguments"]


def test_a_head_without_the_bias_has_a_key_of_its_own():
    _, system = RECORDED[0]
    found = current(*RECORDED[0])
    plain = {k: v for k, v in found.arguments.items() if k != "qkv_bias"}
    for arguments in (plain, {**plain, "qkv_bias": False}):
        told = keyed(replace(found, arguments=arguments))
        assert told == {**system["arguments"], "qkv_bias": False}
    assert keyed(replace(found, head="gdc-attention", arguments={})) == {"qkv_bias": False}
    table = {"attention": {"width": 128}, "epochs": 3}
    told = keyed(replace(found, head="DifFeed", arguments=table))
    assert told == {"attention": {"width": 128, "qkv_bias": False}, "epochs": 3}
    table["attention"]["qkv_bias"] = True
    told = keyed(replace(found, head="DifFeed", arguments=table))
    assert told == {"attention": {"width": 128}, "epochs": 3}
