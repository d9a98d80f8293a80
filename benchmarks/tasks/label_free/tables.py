"""What a run of label-free numbers prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Beside, Heat, Picture, Section, Table, Text, printed
from diffeat.noise import format_t

NAMES = {
    "frequency": "high-frequency ratio", "lds": "LDS", "rank": "effective rank",
    "massive": "massive-channel share", "largest_channel": "largest channel's share",
    "agreement": "agreement of two noisings", "t": "t alone", "depth": "depth of the block alone",
    "channels": "channels alone", "sites": "sites alone",
}  # fmt: skip
"""Number → what tables call it; the last four need no picture at all."""
WITHOUT = ("t", "depth", "channels", "sites")


def summary(result: dict[str, Any]) -> str:
    """The correlations, and what the numbers would choose."""
    return "\n".join(printed(sections(result, cells=False), texts=True))


def set_up(result: dict[str, Any]) -> str:
    """Tasks, protocol and cost in a few sentences."""
    one, machine = result["benchmark"], result["environment"]
    trained = [row for row in result["rows"] if not row["random"]]
    by = {task["name"]: task for task in one["tasks"]}
    tasks = "; ".join(
        f"{row['task']} ({by[row['task']]['train']}, {row['counts'][0]} + {row['counts'][1]}, "
        f"{row['label']}, {row['measure']['name']})"
        for row in trained
    )
    count = len(trained[0]["cells"])
    return (
        f"{tasks}: pictures (pairs of matching) of training + validation. A probe of every one of "
        f"{count} cells is scored on validation; the label-free numbers are of {one['pictures']} "
        "pictures of the same set. rho is Spearman's rank correlation over cells; its interval "
        "draws blocks anew, all t of a block together, so it says nothing of other pictures or "
        f"models. {result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."
    )


def sections(result: dict[str, Any], cells: bool = True) -> Iterator[Section]:
    """Correlations, where they come from, choices; the picture; every cell; papers."""
    notes = Notes(result["benchmark"]["published"])
    rows = result["rows"]
    trained, random = ([row for row in rows if row["random"] == kind] for kind in (False, True))
    yield _rho_table(trained, "Rank correlation of each number with the score on validation:")
    yield Text(plain_line(trained))
    yield _within_table(trained)
    yield _lost_table(trained)
    if random:
        yield _rho_table(random, "The same with random weights: what shapes alone give:")
    yield Picture("Rank correlations of label-free numbers with scores on validation")
    yield Beside([_heat(row) for row in trained])
    for row in trained if cells else ():
        yield _cells_table(row)
    yield from notes.ending(result)


def plain_line(rows: list[dict[str, Any]]) -> str:
    """For each task the number that goes with it best, and what needs no picture."""
    said = []
    for row in rows:
        found = [one for one in row["trust"] if one["rho"] is not None]
        free = [one for one in found if one["score"] not in WITHOUT]
        plain = [one for one in found if one["score"] in WITHOUT]
        if not free:
            continue
        best = max(free, key=lambda one: abs(one["rho"]))
        text = f"{row['task']}: {NAMES[best['score']]} {_text(best)}"
        if plain:
            floor = max(plain, key=lambda one: abs(one["rho"]))
            text += f", beside {NAMES[floor['score']]} {_text(floor)}"
        said.append(text)
    return ("The largest correlation by task (the largest of several, so read it with doubt), "
            "beside the largest of what needs no picture: " + "; ".join(said) + ".")  # fmt: skip


def _rho_table(rows: list[dict[str, Any]], text: str) -> Table:
    body = [[NAMES[one["score"]], *(_text(row["trust"][k]) for row in rows)]
            for k, one in enumerate(rows[0]["trust"])]  # fmt: skip
    return Table(["number", *_heads(rows)], body, text, "Rank correlations")


def _within_table(rows: list[dict[str, Any]]) -> Table:
    parts = ("within_t", "within_block", "within_shape")
    body = [
        [NAMES[one["score"]],
         *(", ".join(_signed(row["trust"][k][part]) for part in parts) for row in rows)]
        for k, one in enumerate(rows[0]["trust"])
    ]  # fmt: skip
    text = ("Does it choose the block, does it choose t, and is it more than a block's shape? Mean "
            "over t of the correlation over blocks at that t; mean over blocks of that over t; "
            "mean of that over cells of equally many channels and sites:")  # fmt: skip
    return Table(["number", *_heads(rows)], body, text, "Within t, block, shape")


def _lost_table(rows: list[dict[str, Any]]) -> Table:
    body = []
    for k, one in enumerate(rows[0]["trust"]):
        if one["score"] in WITHOUT:
            continue
        line = [NAMES[one["score"]]]
        for row in rows:
            found = row["trust"][k]
            block, t = found["cell"]
            where = f": {block}, t = {format_t(t)}"
            alike = _alike(row, one["score"], found["cell"])
            said = _number(row, found["lost"]) + where
            line.append(f"chooses none: {alike} cells alike" if alike > 1 else said)
        body.append(line)
    best = [f"{_number(row, row['validation'])}: {row['best'][0]}, t = {format_t(row['best'][1])}"
            for row in rows]  # fmt: skip
    mean = [_number(row, _mean_lost(row)) for row in rows]
    body = [["the best cell (its score)", *best], ["a random cell (mean)", *mean], *body]
    text = ("What is lost on validation where the number chooses the cell (its largest; of massive "
            "channels and the largest channel the smallest), against the best cell:")  # fmt: skip
    return Table(["number", *_heads(rows)], body, text, "Lost")


def _alike(row: dict[str, Any], score: str, chosen: list[Any]) -> int:
    """How many cells have the number of the one that it would choose."""
    value = next(c[score] for c in row["cells"] if [c["block"], c["t"]] == chosen)
    return sum(cell[score] == value for cell in row["cells"])


def _mean_lost(row: dict[str, Any]) -> float:
    found = [cell["validation"] for cell in row["cells"]]
    return abs(row["validation"] - sum(found) / len(found))


def _cells_table(row: dict[str, Any]) -> Table:
    names = [name for name in NAMES if name in row["cells"][0]]
    body = [
        [cell["block"], format_t(cell["t"]), _number(row, cell["validation"]),
         *(f"{cell[name]:.4g}" for name in names)]
        for cell in row["cells"]
    ]  # fmt: skip
    heading = ["block", "t", row["measure"]["name"], *(NAMES[name] for name in names)]
    title = f"{row['task']}, {row['label']}: every cell"
    return Table(heading, body, f"{title}:", title)


def _heads(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{row['task']}, {row['label']}" for row in rows]


def _number(row: dict[str, Any], value: float) -> str:
    return f"{100 * value:.1f}" if row["measure"]["unit"] == "%" else f"{value:.3f}"


def _text(one: dict[str, Any]) -> str:
    if one["rho"] is None:
        return "not defined"
    if one["low"] is None:
        return _signed(one["rho"])
    return f"{one['rho']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _heat(row: dict[str, Any]) -> Heat:
    values = {(cell["block"], format_t(cell["t"])): cell["validation"] for cell in row["cells"]}
    factor = 100 if row["measure"]["unit"] == "%" else 1
    values = {key: factor * value for key, value in values.items()}
    title = f"{row['task']}, {row['label']}: validation {row['measure']['name']}"
    best = row["best"][0], format_t(row["best"][1])
    return Heat(title, values, best, min(values.values()), max(values.values()))
