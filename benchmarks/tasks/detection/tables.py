"""What a run of detection prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Section, Table, padded_lines
from benchmarks.tasks.classification.tables import percent


def summary(result: dict[str, Any]) -> str:
    """The table, padded."""
    return "\n".join(["", *padded_lines(_table(result, Notes(())))])


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine = result["benchmark"], result["environment"]
    train, test = result["pictures"]
    seeds = len(one["seeds"])
    return (
        f"{train:,} training and {test:,} test pictures ({one['train']}, {one['test']}) with "
        f"{result['boxes'][0]:,} and {result['boxes'][1]:,} boxes of {len(result['classes'])} "
        f"{'class' if len(result['classes']) == 1 else 'classes'}. "
        f"torchvision's FCOS on a pyramid of the frozen maps; {one['validation']:.0%} of the "
        f"training pictures end each training. AP as COCO counts it, mean of {seeds} trainings; "
        f"95 % interval of the first, pictures drawn anew. {result['seconds']:.0f} s on "
        f"{machine['cores']} cores ({machine['processor']})."
    )


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """The table, what was left out, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield _table(result, notes)
    yield from notes.ending(result)


def _table(result: dict[str, Any], notes: Notes) -> Table:
    heading = ["features", *(f"{one['name']} %" for one in result["rows"][0]["scores"])]
    rows = []
    for row in result["rows"]:
        line = [row["label"], *(_value(one) for one in row["scores"])]
        rows.append([*line, notes.beside(row["published"]) if row.get("published") else ""])
    heading, rows = notes.column(heading, rows)
    return Table(heading, rows, f"{result['benchmark']['test']}:", result["benchmark"]["test"])


def _value(one: dict[str, Any]) -> str:
    text = percent(one["value"])
    if "low" not in one:
        return text
    return f"{text} ({percent(one['low'])} to {percent(one['high'])})"
