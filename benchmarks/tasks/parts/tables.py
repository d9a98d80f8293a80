"""What a run of parts prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Picture, Section, Table, Text, printed
from diffeat.noise import format_t

NAMES = {
    "set, one-to-one": "over the set, one-to-one",
    "set, many-to-one": "over the set, many-to-one",
    "set, matched on train": "matched on training pictures",
    "picture, one-to-one": "per picture, one-to-one",
    "picture, many-to-one": "per picture, many-to-one",
}
FLOORS = ("floor", "pixels", "twin", "vision")


def summary(result: dict[str, Any]) -> str:
    """All tables, and what is said of them."""
    return "\n".join(printed(sections(result), texts=True))


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine, sets = result["benchmark"], result["environment"], result["sets"]
    train, test = sets["train"], sets["test"]
    frame = "×".join(map(str, sets["frame"])) or "each picture's own size"
    return (
        f"{test['pictures']:,} test pictures of {test['groups']:,} groups ({test['name']}), "
        f"scored at {frame}. Clusters of a set are found on {train['pictures']:,} training "
        f"pictures ({train['name']}) without labels; the labels of "
        f"{min(one['select'], train['pictures'])} of them choose block, t and argument, and match "
        "clusters to classes in the column that says so; test is scored once. All other columns "
        "match with the labels of test, as published protocols do: upper bounds. mIoU of "
        f"{len(sets['classes'])} classes over sums of all pictures, classes that nobody has left "
        "out; 95 % intervals, groups of test pictures drawn anew, matchings as they are. "
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."
    )


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """Scores, what leading rows gain, classes, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield _scores(result)
    for lead in _leads(result):
        yield _gains(result, lead)
        yield Text(plain_line(result, lead))
    yield _classes(result)
    yield Picture("mIoU of all rows, and by how much they differ from the leading one")
    yield from notes.ending(result)


def _leads(result: dict[str, Any]) -> list[str]:
    found = result["benchmark"]["lead"] or [result["benchmark"]["systems"][0]["name"]]
    there = {row["label"] for row in result["rows"]}
    return [name for name in found if name in there]


def _scores(result: dict[str, Any]) -> Table:
    heading = ["system", "block and t", "parts a picture", *NAMES.values(), "s"]
    rows = []
    for row in result["rows"]:
        line = [row["label"], _place(row["chosen"]), f"{row['parts']:.1f}"]
        for name in NAMES:
            one = row["scores"].get(name)
            line.append("" if one is None else _ends(one, 1))
        rows.append([*line, f"{row['seconds']:.0f}"])
    return Table(heading, rows, "mIoU in % (95 % interval), by how parts are matched to classes:",
                 "Scores")  # fmt: skip


def _place(chosen: dict[str, Any]) -> str:
    said = [f"{name} {value}" for name, value in chosen["arguments"].items()]
    if chosen["block"]:
        said.insert(0, f"{chosen['block']}, t={format_t(chosen['t'])}")
    return "; ".join(said)


def _gains(result: dict[str, Any], lead: str) -> Table:
    first = next(row["first"] for row in result["rows"] if row["label"] == lead)
    rows = []
    for row in result["rows"]:
        gain = row["lead_gains"].get(lead)
        if gain is not None:
            rows.append([row["label"], _ends(gain, 1, "+"), _verdict(gain)])
    text = f"{lead}, mIoU {NAMES[first]}, minus that of other rows, on the same draws:"
    return Table(["against", "difference", ""], rows, text, f"What {lead} gains")


def plain_line(result: dict[str, Any], lead: str) -> str:
    """Which rows without the model's features a leading one is above."""
    sides: dict[str, list[str]] = {"better than": [], "worse than": [], "no different from": []}
    words = {"better": "better than", "worse": "worse than", "neither": "no different from"}
    for row in result["rows"]:
        gain = row["lead_gains"].get(lead)
        if gain is not None and row["kind"] in FLOORS:
            sides[words[_verdict(gain)]].append(row["label"])
    said = [f"{side} {', '.join(labels)}" for side, labels in sides.items() if labels]
    return f"By the interval of the difference, {lead} is {'; '.join(said) or 'alone'}."


def _classes(result: dict[str, Any]) -> Table:
    names = result["sets"]["classes"]
    rows = []
    for row in result["rows"]:
        iou = row["scores"][row["first"]]["iou"]
        said = ["–" if value is None else f"{100 * value:.1f}" for value in iou]
        rows.append([row["label"], NAMES[row["first"]], *said])
    return Table(["system", "matched", *names], rows, "IoU in % of each class:", "Classes")


def _verdict(gain: dict[str, float]) -> str:
    return "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "neither"


def _ends(one: dict[str, float], digits: int, sign: str = "") -> str:
    value, low, high = (f"{100 * one[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def write_dots(result: dict[str, Any], path: Path, title: str) -> None:
    """Numbers of rows that the first leading one can be compared with, and the differences."""
    from diffeat.viz.dots import Dot, dot_plot

    leads = _leads(result)
    if not leads:
        return
    lead = leads[0]
    first = next(row["first"] for row in result["rows"] if row["label"] == lead)
    dots = []
    for row in result["rows"]:
        one = row["scores"].get(first)
        if one is None:
            continue
        gain, ends = row["lead_gains"].get(lead), (100 * one["low"], 100 * one["high"])
        faint = row["kind"] in FLOORS
        if gain is None:
            dots.append(Dot(row["label"], 100 * one["value"], ends, faint=faint))
            continue
        turned = (-100 * gain["high"], -100 * gain["low"])
        verdict = {"better": -1, "worse": 1}.get(_verdict(gain), 0)
        dots.append(Dot(row["label"], 100 * one["value"], ends, -100 * gain["value"], turned,
                        verdict, faint))  # fmt: skip
    dot_plot(dots, path, f"mIoU {NAMES[first]}, %", lead, title)
