"""What a run of mixing prints and the report shows: the tables of matching, and what beats what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.sections import Beside, Heat, Section, Table, Text, padded_lines
from benchmarks.tasks.matching import tables as matching
from diffeat.noise import format_t


def summary(result: dict[str, Any]) -> str:
    """The tables of matching, then what every system gains over its parts."""
    lines = [matching.summary(result)]
    for name in result["pairs"]:
        table = _gains(result, name)
        if table is None:
            continue
        lines += ["", table.text, *padded_lines(table)]
    return "\n".join([*lines, "", *_training_lines(result)])


def set_up(result: dict[str, Any]) -> str:
    """Pairs, protocol and cost in a few sentences."""
    trained = result["trained_on"]
    text = "Nothing is trained. "
    if trained:
        text = (f"Trained on {trained['pairs']:,} pairs of {trained['groups']:,} groups "
                f"({trained['name']}), which neither choose nor are reported on; several seeds are "
                "counted together. ")  # fmt: skip
    return text + matching.set_up(result)


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """Those of matching, behind the first table what every system gains, and what was learnt."""
    first = True
    for section in matching.sections(result):
        yield section
        if first and isinstance(section, Table):
            first = False
            for name in result["pairs"]:
                if table := _gains(result, name):
                    yield table
            for line in _training_lines(result):
                yield Text(line)
            if heats := [heat for row in result["rows"] if (heat := _weights(row))]:
                yield Beside(heats)


def _gains(result: dict[str, Any], name: str) -> Table | None:
    """A line for each system and what it is compared with; PCK differences with intervals."""
    alphas, rows = list(result["benchmark"]["alphas"]), []
    for row in result["rows"]:
        for other, found in row["against"].get(name, {}).items():
            if row["kind"] != "mixed" or not found:
                continue
            rows.append([row["label"], other, *(_gain(one) for one in found), _verdict(found[0])])
    if not rows:
        return None
    heading = ["system", "against", *(f"@{alpha:g} difference" for alpha in alphas),
               f"@{alphas[0]:g}"]  # fmt: skip
    text = f"{name}, differences per point in points of PCK, on the same draws of groups:"
    return Table(heading, rows, text, f"{name}: what systems gain")


def _gain(one: dict[str, Any]) -> str:
    value, low, high = (100 * one[key] for key in ("difference", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _verdict(one: dict[str, Any]) -> str:
    return "better" if one["low"] > 0 else "worse" if one["high"] < 0 else "neither"


def _training_lines(result: dict[str, Any]) -> list[str]:
    """What each system took, and how far its seeds lie apart."""
    lines = []
    alpha, name = result["benchmark"]["alphas"][0], result["report"]
    for row in result["rows"]:
        if row["kind"] != "mixed":
            continue
        said = [f"{_seconds(row['seconds'])} s a run"]
        if row["learns"] == "pairs":
            kept = ", ".join(str(one.get("best_epoch")) for one in row["fits"])
            said.append(f"{row['fits'][0].get('parameters', 0):,} parameters, epochs kept {kept}")
        if len(row["alone"]) > 1:
            values = [_value(one, alpha) for one in row["alone"]]
            said.append(f"PCK@{alpha:g} per point of its seeds on {name} "
                        f"{', '.join(f'{100 * value:.1f}' for value in values)} %")  # fmt: skip
        for chosen in row["chosen"][:1]:
            said += [f"{key} = {value} by the pairs that choose" for key, value in chosen.items()]
        lines.append(f"{row['label']}: {'; '.join(said)}.")
    return lines


def _seconds(values: list[float]) -> str:
    return f"{sum(values) / len(values):.0f}"


def _value(numbers: list[dict[str, Any]], alpha: float) -> float:
    return next(one["value"] for one in numbers
                if (one["aggregate"], one["alpha"]) == ("point", alpha))  # fmt: skip


def _weights(row: dict[str, Any]) -> Heat | None:
    """The learned weights of a mixer's first seed over (block, t)."""
    found = (row.get("fits") or [{}])[0].get("weights")
    if not found:
        return None
    values = {(block, f"t={format_t(t)}"): 100 * weight for block, t, weight in found}
    best = max(values, key=values.get)
    return Heat(f"{row['label']}: softmax weights, %", values, best, min(values.values()),
                max(values.values()))  # fmt: skip
