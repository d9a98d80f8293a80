"""Part i of the speed suite: who is compared with whom, and what the tables say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.speed import threads
from benchmarks.speed.settings import Settings
from benchmarks.speed.table import DETAILS, SUMMARIES
from benchmarks.speed.thread_child import TASKS
from diffeat.errors import DiffeatError

ECHO = """
import json, os, sys
names = ("DIFFEAT_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT")
given = {name: os.environ.get(name) for name in names}
for line in sys.stdin:
    print(json.dumps({"task": line.strip(), **given}), flush=True)
"""


def times(**seconds: list[float]) -> threads.Times:
    """Every process used two CPUs all the time."""
    return {
        name.removeprefix("n"): {"seconds": values, "cpu_seconds": [2 * v for v in values]}
        for name, values in seconds.items()
    }


def test_the_default_is_compared_with_the_best_number_and_with_before():
    found = threads.compared(
        times(default=[2.0, 3.0, 9.0], n1=[2.0, 4.0, 5.0], n2=[5.0, 5.0, 1.0], spinning=[4.0] * 3)
    )
    assert found["best"] == "1"  # its median is 4, that of 2 is 5; never the default itself
    assert found["ratio_best"]["each"] == [1.0, 0.75, 1.8]
    assert found["ratio_best"]["median"] == 1.0
    assert found["ratio_before"]["each"] == [0.5, 0.75, 2.25]
    assert found["cpu_ratio_best"] == found["ratio_best"]
    assert "ratio_before" not in threads.compared(times(default=[1.0], n1=[1.0]))


@pytest.fixture
def echoing(monkeypatch):
    """Processes that say what their environment is, in place of working."""
    start = subprocess.Popen
    started = []

    def popen(command, **given):
        if "benchmarks.speed.thread_child" in command:
            command = [sys.executable, "-c", ECHO]
        process = start(command, **given)
        started.append(process)
        return process

    monkeypatch.setattr(threads.subprocess, "Popen", popen)
    return started


def test_processes_differ_in_their_environment_alone(echoing, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # as `import diffeat` or a user leaves it
    monkeypatch.setenv("DIFFEAT_THREADS", "7")
    settings = Settings(quick=True)
    found = {}
    for name, given in threads._environments([1, 2], 2).items():
        with threads._hand(given, tmp_path / name, settings) as hand:
            found[name] = threads._ask(hand, "probe")
    spins = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}
    names = ("DIFFEAT_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT")
    plain = {"task": "probe", **dict.fromkeys(names)}
    assert found == {
        "default": plain,
        "1": {**plain, "DIFFEAT_THREADS": "1"},
        "2": {**plain, "DIFFEAT_THREADS": "2"},
        "spinning": {**plain, **spins, "DIFFEAT_THREADS": "2"},
    }
    assert all(process.poll() is not None for process in echoing)


def test_a_process_that_ends_is_told(echoing, tmp_path):
    with threads._hand({}, tmp_path / "one", Settings(quick=True)) as hand:
        hand.kill()
        hand.wait()
        with pytest.raises(DiffeatError, match="the process for 'demo' ended"):
            threads._ask(hand, "demo")


def test_all_take_turns_and_the_neighbour_ends(echoing, monkeypatch):
    asked = []

    def ask(hand, task):
        asked.append(task)
        return {"seconds": 1.0 + len(asked), "cpu_seconds": 1.0}

    monkeypatch.setattr(threads, "_ask", ask)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 3)
    part = json.loads(json.dumps(threads.measure(Settings(quick=True))))
    assert (part["cpus"], part["numbers"], part["rounds"]) == (3, [1, 2, 3], 2)
    assert list(part["conditions"]) == ["idle", "busy"]
    first = [task for task in TASKS for _ in range(5)]  # default, 1, 2, 3 and spinning
    warm_up = list(TASKS) * 5
    assert asked[: len(warm_up) + len(first)] == warm_up + first
    assert set(part["conditions"]["idle"]["probe"]["times"]) == {
        "default", "1", "2", "3", "spinning",
    }  # fmt: skip
    assert "spinning" not in part["conditions"]["busy"]["probe"]["times"]
    assert len(echoing) == 5 + 3  # as many loops as CPUs
    assert all(process.poll() is not None for process in echoing)

    rows, lines = SUMMARIES["i"](part), "\n".join(DETAILS["i"](part))
    assert len(rows) == 2 * len(TASKS) + len(TASKS)
    ratio = part["conditions"]["idle"]["probe"]["ratio_best"]["median"]
    assert any(f"{ratio:.2f} (" in row[1] and row[2] == "≤ 1.3" for row in rows)
    best = part["conditions"]["busy"]["demo"]["best"]
    assert f"| a neighbour on every CPU | demo | {best} (best) |" in lines
