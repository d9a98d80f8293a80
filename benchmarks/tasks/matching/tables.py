"""What a run of matching prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Beside, Heat, Picture, Section, Table, Text, padded_lines
from diffeat.noise import format_t

READ_OUT = (
    "All rows with features are read out in one way: the pixel whose feature, interpolated to the "
    "picture's own size, has the largest cosine with that of the point."
)
OTHERS = ("floor", "pixels")
SHOWN = 4
"""Cells that are named one by one."""


def summary(result: dict[str, Any]) -> str:
    """The grid of every surface, then a table for each set of pairs and what is above its floor."""
    from benchmarks.searching import surface_text

    lines = []
    for stored in result["surfaces"]:
        what = f"PCK@{_alphas(result)[0]:g} per point on the pairs that choose, in %"
        lines += ["", f"{stored['name']}: {what}", "", surface_text(stored)]
    for name in result["pairs"]:
        table = _table(result, name, Notes(()))
        lines += ["", name, *padded_lines(table)]
        lines += ["", *above_lines(result, name)]
    return "\n".join(lines)


def set_up(result: dict[str, Any]) -> str:
    """Pairs, protocol and cost in a few sentences."""
    machine, chosen = result["environment"], result["chosen_on"]
    told = sorted({row["told"] for row in result["rows"] if row.get("told")})
    parts = [f"{one['pairs']:,} pairs with {one['points']:,} points of {one['groups']:,} groups "
             f"({name})" for name, one in result["pairs"].items()]  # fmt: skip
    text = "; ".join(parts) + ". "
    if chosen:
        text += (
            f"Block and t, and sets of them, chosen by {chosen['pairs']:,} pairs of "
            f"{chosen['groups']:,} other groups ({chosen['name']}; {chosen['apart']:,} pairs of "
            "groups on two sides left out). "
        )
    text += f"{READ_OUT} {result['conventions'][0]}; 95 % intervals, groups drawn anew. "
    text += "".join(f"The model was told: {one}. " for one in told)
    return f"{text}{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """A table for each set of pairs, what is above the floor, the surfaces, papers."""
    notes = Notes(result["benchmark"]["published"])
    for place, name in enumerate(result["pairs"]):
        yield _table(result, name, notes if place == 0 else Notes(()))
        for line in above_lines(result, name):
            yield Text(line)
    if len(result["conventions"]) > 2:
        yield _conventions_table(result)
    yield Beside(
        [heat(stored, result, f"PCK@{_alphas(result)[0]:g}") for stored in result["surfaces"]]
    )
    yield Picture("PCK on the pairs that choose, by block and t")
    yield from notes.ending(result)


def above_lines(result: dict[str, Any], name: str) -> list[str]:
    """Which rows find more than an untrained method that sees no picture, and which do not."""
    rows = [row for row in result["rows"] if name in row["above"] and row["kind"] != "floor"]
    if not any(row["above"][name] for row in rows):
        return ["The pairs are of one group: nothing can be said of what is above the floor."]
    lines = []
    for place, alpha in enumerate(_alphas(result)):
        found = {row["label"]: row["above"][name][place] for row in rows if row["above"][name]}
        floor = next(row for row in result["rows"] if row["label"] == result["floor"])
        value = _number(floor, name, "point", alpha)["value"]
        lines.append(f"PCK@{alpha:g} of {result['floor']}, which sees no picture, is "
                     f"{_percent(value)} per point. {sides_text(found)}.")  # fmt: skip
    return lines


def sides_text(found: Mapping[str, Mapping[str, float]]) -> str:
    """Which rows lie above, below and at something, by the intervals of their differences to it.

    Args:
        found: label → low and high.
    """
    kinds = {
        "Above it": [label for label, one in found.items() if one["low"] > 0],
        "below it": [label for label, one in found.items() if one["high"] < 0],
        "neither, by the interval of the difference": [
            label for label, one in found.items() if one["low"] <= 0 <= one["high"]],
    }  # fmt: skip
    return "; ".join(f"{kind}: {', '.join(labels) or 'none'}" for kind, labels in kinds.items())


def _table(result: dict[str, Any], name: str, notes: Notes) -> Table:
    """A row each, best first within its kind, floors and pixels last."""
    alphas, about = _alphas(result), result["pairs"][name]
    chosen = any(row["selected"] is not None for row in result["rows"])
    heading = ["features", "block and t", *(["chosen at %"] if chosen else [])]
    heading += [f"@{alpha:g} {what} %" for what in ("per point", "per pair") for alpha in alphas]
    rows = []
    for row in sorted(result["rows"], key=lambda row: row["kind"] in OTHERS):
        if name not in row["scores"]:
            continue
        line = [row["label"], cells_text(row["cells"])]
        line += [_percent(row["selected"])] if chosen else []
        line += [_shown(_number(row, name, what, alpha), what == "point")
                 for what in ("point", "pair") for alpha in alphas]  # fmt: skip
        beside = row.get("published", "")
        rows.append([*line, notes.beside(beside) if beside else ""])
    heading, rows = notes.column(heading, rows)
    text = f"{name}, {about['pairs']:,} pairs, {about['groups']:,} groups:"
    return Table(heading, rows, text, name)


def _conventions_table(result: dict[str, Any]) -> Table:
    """Every convention of the first set of pairs beside each other."""
    name = next(iter(result["pairs"]))
    rows = [[row["label"]] for row in result["rows"] if name in row["scores"]]
    shown = [row for row in result["rows"] if name in row["scores"]]
    for line, row in zip(rows, shown, strict=True):
        line += [_percent(one["value"]) for one in row["scores"][name]]
    numbers = shown[0]["scores"][name]
    heading = ["features", *(f"@{one['alpha']:g} {one['reference']}, per {one['aggregate']}"
                             for one in numbers)]  # fmt: skip
    said = "; ".join(result["conventions"])
    return Table(heading, rows, f"The same points counted in other ways ({said}), %:")


def cells_text(cells: list[list[Any]]) -> str:
    """ "up.0.res.0, t = 20"; several with a plus between them, of many how many there are."""
    if len(cells) > SHOWN:
        blocks, steps = ({cell[k] for cell in cells} for k in (0, 1))
        return f"{len(cells)} cells: {len(blocks)} blocks, {len(steps)} t"
    return " + ".join(block if block == "pixels" else f"{block}, t = {format_t(t)}"
                      for block, t in cells)  # fmt: skip


def _number(row: dict[str, Any], name: str, aggregate: str, alpha: float) -> dict[str, Any]:
    """The number by the first reference."""
    return next(one for one in row["scores"][name]
                if (one["aggregate"], one["alpha"]) == (aggregate, alpha))  # fmt: skip


def _shown(number: dict[str, Any], interval: bool) -> str:
    text = _percent(number["value"])
    if interval and "low" in number:
        text += f" ({_percent(number['low'])} to {_percent(number['high'])})"
    return text


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _alphas(result: dict[str, Any]) -> list[float]:
    return list(result["benchmark"]["alphas"])


def heat(stored: dict[str, Any], result: dict[str, Any], what: str) -> Heat:
    """The surface of one row; all of a result share a scale.

    Args:
        what: the numbers are, such as "PCK@0.1".
    """
    values = [100 * cell["validation"] for one in result["surfaces"] for cell in one["cells"]]
    return Heat(
        f"{stored['name']}: {what} on the pairs that choose, %",
        {_place(cell): 100 * cell["validation"] for cell in stored["cells"]},
        _place(stored["best"]), min(values), max(values),
    )  # fmt: skip


def _place(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["block"], f"t={format_t(cell['t'])}"
