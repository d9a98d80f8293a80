"""What a run of regret prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Beside, Heat, Picture, Section, Table, Text, printed
from diffeat.noise import format_t


def summary(result: dict[str, Any]) -> str:
    """Both tables of every model."""
    return "\n".join(printed(sections(result), texts=True))


def set_up(result: dict[str, Any]) -> str:
    """Tasks, protocol and cost in a few sentences."""
    one, machine = result["benchmark"], result["environment"]
    tasks = "; ".join(
        f"{task['name']} ({told['train']} {told['counts'][0]} + {told['counts'][1]}, "
        f"{told['test']} {told['counts'][2]})"
        for task, told in zip(one["tasks"], _told(result), strict=True)
    )
    return (
        f"{tasks}: pictures (pairs of matching) of training + validation, and of test. Every task "
        "chooses its (block, t) on validation; every task is scored on test at each chosen cell, "
        "with a head of its own. What is lost is the task's score at its own cell minus that at "
        "the other's; below 0 the other's cell was better on test. \"all tasks\" is the cell with "
        f"the smallest mean loss on validation. {result['seconds']:.0f} s on {machine['cores']} "
        f"cores ({machine['processor']})."
    )  # fmt: skip


def _told(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each task its sets and how many pictures each part has."""
    tasks, found = result["benchmark"]["tasks"], result["matrices"][0]["tasks"]
    return [{"train": task["train"], "test": task["test"], "counts": one["counts"]}
            for task, one in zip(tasks, found, strict=True)]  # fmt: skip


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """Of every model scores and what is lost, in words, as a heat map; papers."""
    notes = Notes(result["benchmark"]["published"])
    for one in result["matrices"]:
        yield _scores_table(one)
        yield _lost_table(one)
        yield Text(plain_line(one))
    most = max(_share(score) for one in result["matrices"] for task in one["tasks"]
               for score in task["scores"])  # fmt: skip
    yield Beside([_heat(one, max(most, 1e-9)) for one in result["matrices"]])
    yield Picture("What is lost where another task chose the cell")
    yield from notes.ending(result)


def plain_line(one: dict[str, Any]) -> str:
    """How much is lost on average by who chose, and at worst."""
    names = list(one["chosen"])
    means, worst = {}, {}
    for name in names:
        lost = {
            task["name"]: _share(score)
            for task in one["tasks"]
            for score in task["scores"]
            if score["by"] == name and task["name"] != name
        }
        means[name] = sum(lost.values()) / len(lost)
        worst[name] = max(lost, key=lost.get), max(lost.values())
    said = "; ".join(f"{name} {means[name]:.1f} % (at worst {worst[name][1]:.1f} %, of "
                     f"{worst[name][0]})" for name in names)  # fmt: skip
    return f"{one['label']}: mean loss of the other tasks by who chose the cell: {said}."


def _scores_table(one: dict[str, Any]) -> Table:
    rows = []
    for task in one["tasks"]:
        rows.append([f"{task['name']}, {task['measure']['name']}",
                     *(_score(task, score) for score in task["scores"])])  # fmt: skip
    text = f"{one['label']}, on test with the cell that a task chose on validation:"
    return Table(["task", *_columns(one)], rows, text, f"{one['label']}: scores")


def _lost_table(one: dict[str, Any]) -> Table:
    rows = [[task["name"], *(f"{_share(score):.1f}" for score in task["scores"])]
            for task in one["tasks"]]  # fmt: skip
    text = f"{one['label']}, lost in % of what the task has at its own cell:"
    return Table(["task", *_columns(one)], rows, text, f"{one['label']}: lost")


def _columns(one: dict[str, Any]) -> list[str]:
    return [f"{name}: {block}, t = {format_t(t)}" for name, (block, t) in one["chosen"].items()]


def _score(task: dict[str, Any], score: dict[str, Any]) -> str:
    factor, digits = (100, 1) if task["measure"]["unit"] == "%" else (1, 3)
    text = f"{factor * score['value']:.{digits}f}"
    if score["low"] is not None:
        text += f" ({factor * score['low']:.{digits}f} to {factor * score['high']:.{digits}f})"
    return text


def _share(score: dict[str, Any]) -> float:
    return 100 * (score["share"] or 0.0)


def _heat(one: dict[str, Any], most: float) -> Heat:
    values = {(task["name"], score["by"]): _share(score) for task in one["tasks"]
              for score in task["scores"]}  # fmt: skip
    best = min(values, key=values.get)
    return Heat(f"{one['label']}: lost, % of the task's own cell", values, best,
                min(0.0, *values.values()), most)  # fmt: skip
