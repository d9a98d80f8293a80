"""Recorded results as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.faults.table import markdown as faults_table
from benchmarks.files import Benchmark
from benchmarks.sections import markdown_lines
from benchmarks.speed.table import markdown as speed_table
from benchmarks.tasks import Task, task_named
from diffeat.errors import SpecError


def markdown(folder: Path) -> str:
    """All result files of a folder as one Markdown page; figures come from the files alone."""
    parts = ["# Results", "", "Printed by `python -m benchmarks report` from the JSON beside it."]
    for path, result in results_in(folder):
        kind = _benchmark if "benchmark" in result else SUITES[result["suite"]]
        parts += ["", *kind(path, result)]
    return "\n".join(parts)


def results_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The result files of a folder; other JSON files are passed over.

    Files from before 0.8 have the fields of their benchmark under "recipe".

    Returns:
        Path and contents of each, in the order of their names.

    Raises:
        SpecError: a file that is damaged.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(f"{path} is no JSON ({error}); run its benchmark again") from error
        if not isinstance(result, dict):
            continue
        if "recipe" in result:
            result["benchmark"] = result.pop("recipe")
        if "benchmark" in result or result.get("suite") in SUITES:
            found.append((path, result))
    return found


def task_of(path: Path, result: dict[str, Any]) -> Task:
    """The task of a result; files from before 0.8 are all of classification.

    Args:
        path: of the result, for errors; result: its contents.

    Returns:
        The object that measures and reports such results.
    """
    try:
        return task_named(result["benchmark"].get("task", Benchmark.task))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _benchmark(path: Path, result: dict[str, Any]) -> list[str]:
    benchmark, task = result["benchmark"], task_of(path, result)
    how = f"`python -m benchmarks run {benchmark['name']}`; [{path.name}]({path.name})."
    picture = path.with_suffix(".png")
    shown = picture.name if picture.is_file() else None
    lines = [f"## {benchmark['title']}", "", f"{how} {task.set_up(result)}"]
    for section in task.sections(result):
        lines += markdown_lines(section, shown)
    return lines


def _speed(path: Path, result: dict[str, Any]) -> list[str]:
    parts = path.stem.partition("-")[2]  # of some parts alone, such as speed-matching
    title = f"## Speed: {parts}" if parts else "## Speed"
    how = f"`python -m benchmarks run speed`; [{path.name}]({path.name})."
    return [title, "", how, "", speed_table(result)]


def _faults(path: Path, result: dict[str, Any]) -> list[str]:
    title = ["## Faults", "", f"`python -m benchmarks run faults`; [{path.name}]({path.name}).", ""]
    return [*title, faults_table(result)]


SUITES = {"speed": _speed, "faults": _faults}
"""Results that no benchmark file makes → their part of the page."""
