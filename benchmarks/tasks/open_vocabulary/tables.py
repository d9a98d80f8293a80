"""What a run of open vocabularies prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Section, Table, padded_lines
from benchmarks.tasks.classification.tables import percent

ORDER = ("PQ", "SQ", "RQ", "PQ of things", "PQ of stuff", "AP", "mIoU")


def summary(result: dict[str, Any]) -> str:
    """The table, padded."""
    return "\n".join(["", *padded_lines(_table(result, Notes(())))])


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine = result["benchmark"], result["environment"]
    train, test = result["pictures"]
    classes, things = len(result["classes"]), len(result["things"])
    return (
        f"{test:,} test pictures ({one['test']}), {classes} classes, {things} of them things; the "
        f"commonest of {train:,} training pictures is {result['commonest']!r}. Masks are merged as "
        "Mask2Former and ODISE merge them; PQ as COCO counts it, with 95 % intervals of pictures "
        "drawn anew; AP of masks; mean IoU of the sums over queries. "
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."
    )


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """The table, what was left out, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield _table(result, notes)
    yield from notes.ending(result)


def _table(result: dict[str, Any], notes: Notes) -> Table:
    there = {one["name"] for row in result["rows"] for one in row["scores"]}
    names = [name for name in ORDER if name in there]
    first = result["rows"][0]["label"]
    heading = ["system", *(f"{name} %" for name in names), f"PQ − that of {first}"]
    rows = []
    for row in result["rows"]:
        of = {one["name"]: one for one in row["scores"]}
        line = [row["label"], *(_value(of.get(name)) for name in names)]
        rows.append([*line, _difference(of["PQ"].get("beside")), notes.beside(row["label"])])
    heading, rows = notes.column(heading, rows)
    return Table(heading, rows, f"{result['benchmark']['test']}:", result["benchmark"]["test"])


def _value(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    text = percent(one["value"])
    if "low" not in one:
        return text
    return f"{text} ({percent(one['low'])} to {percent(one['high'])})"


def _difference(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    value, low, high = (f"{100 * one[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
