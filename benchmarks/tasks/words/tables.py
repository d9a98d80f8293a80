"""What a run of words prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Section, Table, Text, padded_lines
from benchmarks.tasks.classification.tables import percent


def summary(result: dict[str, Any]) -> str:
    """The table, padded."""
    return "\n".join(["", *padded_lines(_table(result, Notes(())))])


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine = result["benchmark"], result["environment"]
    train, test = result["pictures"]
    return (
        f"{test:,} test pictures ({one['test']}), {len(result['words'])} words. No mask teaches "
        f"anything but the mean mask ({train:,} pictures of {one['train']}). Mean IoU over sums of "
        "all pictures, background a class among them, with 95 % intervals of pictures drawn anew. "
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."
    )


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """The table, what is marked, what was left out, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield _table(result, notes)
    for row in result["rows"]:
        if row["told"]:
            yield Text(f"*{row['label']}*: {row['told']}.")
    yield from notes.ending(result)


def _table(result: dict[str, Any], notes: Notes) -> Table:
    first = result["rows"][0]["label"]
    heading = ["system", "mIoU %", f"− that of {first}", "background IoU %", "pixel accuracy %"]
    rows = []
    for row in result["rows"]:
        text = percent(row["value"])
        if "low" in row:
            text += f" ({percent(row['low'])} to {percent(row['high'])})"
        behind = row["IoU"].get("background")
        rows.append([row["label"] + "*" * bool(row["told"]), text, _gain(row.get("beside")),
                     "" if behind is None else percent(behind), percent(row["pixel accuracy"]),
                     notes.beside(row["label"])])  # fmt: skip
    heading, rows = notes.column(heading, rows)
    name = result["benchmark"]["test"]
    return Table(heading, rows, f"{name}:", name)


def _gain(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    value, low, high = (f"{100 * one[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
