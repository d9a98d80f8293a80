"""What a run of videos prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Beside, Picture, Section, Table, Text, padded_lines
from benchmarks.tasks.classification.tables import percent
from benchmarks.tasks.matching.tables import cells_text, heat, sides_text

WHAT = {
    "masks": "J (overlap) and F (contours within .008 of the diagonal), means over objects; the "
    "first and the last frame do not count.",
    "joints": "PCK: a joint is right within alpha times .6 of the diagonal of the person's joints; "
    "mean over joints, of all frames but each clip's first.",
}


def summary(result: dict[str, Any]) -> str:
    """The grid of every surface, the table, and what is above its floor."""
    from benchmarks.searching import surface_text

    lines = []
    for stored in result["surfaces"]:
        lines += ["", f"{stored['name']}: {result['measures'][0]} of all clips, in %", "",
                  surface_text(stored)]  # fmt: skip
    for table in (_table(result, Notes(())), _clip_table(result)):
        lines += ["", *padded_lines(table)]
    return "\n".join([*lines, "", *above_lines(result)])


def set_up(result: dict[str, Any]) -> str:
    """Clips, protocol and cost in a few sentences."""
    one, machine, clips = result["benchmark"], result["environment"], result["clips"]
    frames = sum(clip["frames"] for clip in clips)
    objects = sum(clip["objects"] for clip in clips)
    of = f" with {objects:,} objects" if objects else ""
    radius = f"{one['radius']:g} sites" if one["radius"] >= 1 else (
        f"{one['radius']:g} of the map's larger side"
    )  # fmt: skip
    told = sorted({row["told"] for row in result["rows"] if row.get("told")})
    several = any(row["selected"] is not None for row in result["rows"])
    name = result["clips_name"]
    parts = [
        f"{len(clips):,} clips, {frames:,} frames{of} ({name}). Labels of the first "
        f"frame are carried by the {one['top_k']} most similar sites of the first and the last "
        f"{one['last']} frames within {radius}, T = {one['temperature']:g}.",
        WHAT[result["kind"]],
        "Block and t of each clip are those that are best on all other clips." if several else "",
        "95 % intervals, clips drawn anew." if len(clips) > 1 else "",
        *(f"The model was told: {one}." for one in told),
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']}).",
    ]
    return " ".join(part for part in parts if part)


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """The table, each clip, what is above the floor, the surfaces, papers."""
    notes = Notes(result["benchmark"]["published"])
    yield _table(result, notes)
    for line in above_lines(result):
        yield Text(line)
    yield _clip_table(result)
    first = result["measures"][0]
    yield Beside([heat(stored, result, f"{first}, mean of all clips")
                  for stored in result["surfaces"]])  # fmt: skip
    yield Picture(f"{first} over all clips, by block and t")
    yield from notes.ending(result)


def above_lines(result: dict[str, Any]) -> list[str]:
    """Which rows find more than labels that do not move, and which do not."""
    rows = {row["label"]: row["above"][0] for row in result["rows"]
            if row["kind"] != "floor" and row["above"]}  # fmt: skip
    if not rows:
        return ["There is one clip: nothing can be said of what is above the floor."]
    floor = next(row for row in result["rows"] if row["label"] == result["floor"])
    name, value = result["measures"][0], floor["scores"][0]["value"]
    return [f"{name} of labels that stay where they are, which sees no picture, is "
            f"{percent(value)} %. {sides_text(rows)}."]  # fmt: skip


def _table(result: dict[str, Any], notes: Notes) -> Table:
    chosen = any(row["selected"] is not None for row in result["rows"])
    heading = ["features", "block and t", *(["chosen at %"] if chosen else [])]
    heading += [f"{name} %" for name in result["measures"]]
    rows = []
    for row in result["rows"]:
        line = [row["label"], _cells(row)]
        line += [percent(row["selected"]) if row["selected"] is not None else ""] * chosen
        line += [_value(one, place == 0) for place, one in enumerate(row["scores"])]
        rows.append([*line, notes.beside(row["published"]) if row.get("published") else ""])
    heading, rows = notes.column(heading, rows)
    return Table(heading, rows, f"{result['clips_name']}, all clips:", result["clips_name"])


MOST = 12
"""Clips of a set that has a column for each."""


def _clip_table(result: dict[str, Any]) -> Table:
    """The first number of each clip; of many clips how many are above the floor's."""
    name, clips = result["measures"][0], [clip["name"] for clip in result["clips"]]
    floor = next(row for row in result["rows"] if row["label"] == result["floor"])["clips"]
    if len(clips) <= MOST:
        rows = [[row["label"], *(percent(row["clips"][clip][0]) for clip in clips)]
                for row in result["rows"]]  # fmt: skip
        return Table(["features", *clips], rows, f"{name} of each clip, %:", "By clip")
    rows = [[row["label"], str(sum(row["clips"][clip][0] > floor[clip][0] for clip in clips))]
            for row in result["rows"]]  # fmt: skip
    heading = ["features", f"clips of {len(clips)} above the floor"]
    return Table(heading, rows, f"In how many clips {name} is above the floor's:", "By clip")


def _cells(row: dict[str, Any]) -> str:
    """The cells that were chosen, the most frequent first, with how often where they differ."""
    if not row["cells"]:
        return ""
    counts = Counter(tuple(cell) for cell in row["cells"].values()).most_common()
    if row["kind"] == "vision":  # which has no t
        texts = [(block, count) for (block, _), count in counts]
    else:
        texts = [(cells_text([list(cell)]), count) for cell, count in counts]
    if len(texts) == 1:
        return texts[0][0]
    return "; ".join(f"{text} ({count}×)" for text, count in texts)


def _value(one: dict[str, Any], interval: bool) -> str:
    text = percent(one["value"])
    if interval and "low" in one:
        text += f" ({percent(one['low'])} to {percent(one['high'])})"
    return text
