"""(i) The default number of threads against every other, idle and beside a busy process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed.common import ratios, rounded
from benchmarks.speed.settings import Settings
from benchmarks.speed.thread_child import TASKS
from diffeat.errors import DiffeatError
from diffeat.threads import VARIABLE, WAITING, usable_cpus

TARGETS = {"best": 1.3, "before": 1.0}
DEFAULT, BEFORE = "default", "spinning"
SPINNING = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}
"""What the libraries do by themselves: how it was before diffeat let waiting threads sleep."""
Times = dict[str, dict[str, list[float]]]
"""Who → {"seconds", "cpu_seconds"} of every round."""


def measure(settings: Settings) -> dict[str, Any]:
    """Extraction, probes and a small demo, each by processes that differ in their threads.

    Every process stays and does each piece of work once to warm up; then all of them take
    turns, and nobody else works meanwhile, but for the neighbour: as many endless loops as
    there are CPUs. CPU time is that of all threads of the process. What spins is left out
    beside the neighbour, where a round of it would take as long as all others together.
    """
    cpus = usable_cpus()
    numbers = sorted({1, *(2**k for k in range(cpus.bit_length()) if 2**k < cpus), cpus})
    rounds = settings.by_length(5, 2)
    result = {
        "cpus": cpus, "numbers": numbers, "rounds": rounds, "targets": TARGETS, "conditions": {},
    }  # fmt: skip
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        hands = {name: stack.enter_context(_hand(given, Path(folder) / name, settings))
                 for name, given in _environments(numbers, cpus).items()}  # fmt: skip
        for hand in hands.values():
            for task in TASKS:
                _ask(hand, task)
        result["conditions"]["idle"] = _in_turn(hands, rounds)
        del hands[BEFORE]
        with _neighbour(cpus):
            result["conditions"]["busy"] = _in_turn(hands, rounds)
    return result


def _environments(numbers: list[int], cpus: int) -> dict[str, dict[str, str]]:
    return {
        DEFAULT: {},
        **{str(number): {VARIABLE: str(number)} for number in numbers},
        BEFORE: {**SPINNING, VARIABLE: str(cpus)},
    }


@contextmanager
def _hand(given: dict[str, str], folder: Path, settings: Settings) -> Iterator[subprocess.Popen]:
    """A process that does what it is told, with nothing said of threads but what is given."""
    folder.mkdir()
    unset = {VARIABLE, *(name for variables in WAITING for name in variables)}
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speed.thread_child", str(folder),
         "quick" if settings.quick else "whole"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**clean, **given, "PYTHONPATH": paths},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):  # what it was not told any more
            process.stdin.close()


def _ask(hand: subprocess.Popen, task: str) -> dict[str, float]:
    """Seconds and CPU seconds of a piece of work."""
    with suppress(BrokenPipeError):  # then there is no answer, either
        hand.stdin.write(task + "\n")
        hand.stdin.flush()
    answer = hand.stdout.readline()
    if not answer:
        raise DiffeatError(f"the process for {task!r} ended; expected its times (see above)")
    return json.loads(answer)


@contextmanager
def _neighbour(cpus: int) -> Iterator[None]:
    """Endless loops, one per CPU."""
    with ExitStack() as stack:
        for _ in range(cpus):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        yield


def _in_turn(hands: dict[str, subprocess.Popen], rounds: int) -> dict[str, Any]:
    """The times of every task, and how the default stands to the others."""
    times: dict[str, Times] = {
        task: {name: {"seconds": [], "cpu_seconds": []} for name in hands} for task in TASKS
    }
    for _ in range(rounds):
        for task in TASKS:
            for name, hand in hands.items():
                for key, value in _ask(hand, task).items():
                    times[task][name][key].append(value)
    return {task: compared(found) for task, found in times.items()}


def compared(times: Times) -> dict[str, Any]:
    """The default against the number with the least median of seconds, and against before."""
    numbers = [name for name in times if name not in (DEFAULT, BEFORE)]
    best = min(numbers, key=lambda name: statistics.median(times[name]["seconds"]))
    result = {
        "times": {
            name: {key: rounded(values) for key, values in one.items()}
            for name, one in times.items()
        },
        "best": best,
    }
    for name, other in (("best", best), ("before", BEFORE)):
        if other in times:
            result[f"ratio_{name}"] = ratios(times[DEFAULT]["seconds"], times[other]["seconds"])
            result[f"cpu_ratio_{name}"] = ratios(
                times[DEFAULT]["cpu_seconds"], times[other]["cpu_seconds"]
            )
    return result
