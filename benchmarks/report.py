"""Recorded results as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.table import markdown as faults_table
from benchmarks.speed.table import markdown as speed_table
from diffeat.errors import SpecError
from diffeat.noise import format_t


def markdown(folder: Path) -> str:
    """All result files of a folder as one Markdown page; figures come from the files alone."""
    parts = ["# Results", "", "Printed by `python -m benchmarks report` from the JSON beside it."]
    for path, result in results_in(folder):
        kind = _recipe if "recipe" in result else KINDS[result["suite"]]
        parts += ["", *kind(path, result)]
    return "\n".join(parts)


def results_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The result files of a folder; other JSON files are passed over.

    Raises:
        SpecError: a file that is damaged.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(f"{path} is no JSON ({error}); run its benchmark again") from error
        if isinstance(result, dict) and ("recipe" in result or result.get("suite") in KINDS):
            found.append((path, result))
    return found


def _recipe(path: Path, result: dict[str, Any]) -> list[str]:
    recipe = result["recipe"]
    notes = Notes(recipe["published"])
    lines = [f"## {recipe['title']}", "", _how(path, result), ""]
    lines += table(*features_table(result, notes))
    model, twin = result["surfaces"][:2]
    if len({cell["t"] for cell in model["cells"]}) == 1 and len(model["cells"]) > 8:
        lines += _by_tensor(model, twin)
    else:
        lines += ["", f"Best block of {model['name']} at each t:", "", *table(*by_t_table(model))]
    if result.get("systems"):
        lines += ["", SYSTEMS, "", *table(*systems_table(result, notes))]
    picture = path.with_suffix(".png")
    if picture.is_file():
        lines += ["", f"![validation accuracy by block and t]({picture.name})"]
    for line in (*left_out(result), *preset_notes(result)):
        lines += ["", line]
    return lines + notes.lines()


def left_out(result: dict[str, Any]) -> list[str]:
    """A line per baseline that could not be had; the JSON has the whole reason."""
    missing = result.get("missing", {})
    return [f"Left out: {name}: {why.partition(' (')[0]}." for name, why in missing.items()]


def preset_notes(result: dict[str, Any]) -> list[str]:
    """A line per head that follows a published protocol: what is changed or not verified."""
    from probes import PRESETS

    lines = []
    for system in result.get("systems", ()):
        if system["head"] in PRESETS:
            changes = ", ".join(f"{k} = {v}" for k, v in system["arguments"].items())
            preset = PRESETS[system["head"]]
            lines.append(
                f"{system['name']}: preset {system['head']}"
                f"{' with ' + changes if changes else ''}. {preset.notes.strip()}"
            )
    return lines


SYSTEMS = (
    "Heads, each fitted on the training part alone, with what it chooses (C, epoch, set) chosen on "
    "validation; seconds are those of one training, without the extraction:"
)


def _how(path: Path, result: dict[str, Any]) -> str:
    name = result["recipe"]["name"]
    return f"`python -m benchmarks run {name}`; [{path.name}]({path.name}). {set_up(result)}"


def set_up(result: dict[str, Any]) -> str:
    """Pictures, features, protocol and cost in a few sentences."""
    recipe, spec, machine = result["recipe"], result["spec"], result["environment"]
    train, held, test = result["surfaces"][0]["counts"]
    pool = spec["pool"]
    if recipe.get("probe_pool"):
        pool += f" (averaged to {recipe['probe_pool']} for the linear probes)"
    cost = ""
    if "stages" in result:
        cost = (
            " in this recipe's runs, without what others had made before, "
            f"{result['peak_memory_mb']:,.0f} MiB at most"
        )
    twin = "".join(
        f" The random twin was given {name} {', '.join(map(str, values))} only."
        for name, values in recipe.get("twin", {}).items()
    )
    marks = dict.fromkeys(s["conditioned"] for s in result["surfaces"] if s.get("conditioned"))
    told = "".join(f"{mark[0].upper()}{mark[1:]}. " for mark in marks)
    return (
        f"{told}{train:,} training, {held:,} validation and {test:,} test pictures; pool {pool}, "
        f"noise {spec['noise']}, seed {spec['seed']}, size {spec['size'][0]}×{spec['size'][1]}. "
        f"Linear probe; block, t and penalty chosen on validation, refitted on training and "
        f"validation, test scored once.{twin} {result['seconds']:.0f} s on {machine['cores']} "
        f"cores ({machine['processor']}){cost}."
    )


class Notes:
    """Figures of papers beside our rows, each with a number that leads to its set-up."""

    def __init__(self, published: Sequence[dict[str, Any]]):
        self.published = list(published)

    def beside(self, row: str) -> str:
        """ "90.1 [1]" for a row of a table, or ""."""
        found = [
            f"{one['value']:.2f} [{number}]"
            for number, one in enumerate(self.published, start=1)
            if one["beside"] == row and one["value"] is not None
        ]
        return ", ".join(found)

    def rows(self) -> list[tuple[str, str]]:
        """(what, figure) of those that stand beside none of our rows."""
        return [
            (f"{one['source']}: {one['setup']}", f"{one['value']:.2f} [{number}]")
            for number, one in enumerate(self.published, start=1)
            if not one["beside"] and one["value"] is not None
        ]

    def lines(self) -> list[str]:
        found = []
        for number, one in enumerate(self.published, start=1):
            found += ["", f"[{number}] {published_line(one)}"]
        return found


def published_line(one: dict[str, Any]) -> str:
    """A figure of a paper with its source, set-up and what differs."""
    value = "" if one["value"] is None else f": {one['value']:.2f} %"
    return (
        f"{one['source']}: {one['setup']}{value}. Not comparable: other "
        f"{', other '.join(one['differs'])}."
    )


def features_table(result: dict[str, Any], notes: Notes) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: each kind of features at its best cell, chance, papers."""
    heading = ["features", "block", "t", "validation %", "test %", "paper %"]
    rows = []
    for place, surface in enumerate(result["surfaces"]):
        best = surface["best"]
        t = format_t(best["t"]) if has_t(surface) else ""
        beside = notes.beside("surface") if place == 0 else notes.beside(surface["name"])
        rows.append([surface["name"], best["block"], t, percent(best["validation"]),
                     percent(best["test"]), beside])  # fmt: skip
    rows.append(["chance", "", "", "", percent(result["chance"]), ""])
    rows += [[f"*{what}*", "", "", "", "", figure] for what, figure in notes.rows()]
    return _without_empty(heading, rows)


def has_t(surface: dict[str, Any]) -> bool:
    """Whether the features of a surface have noise levels: those of pixels have not."""
    return surface["best"]["block"] not in ("pixels", "pooled")


def by_t_table(model: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: the best block at each t."""
    rows = []
    for t in dict.fromkeys(cell["t"] for cell in model["cells"]):
        cells = [cell for cell in model["cells"] if cell["t"] == t]
        best = max(cells, key=lambda cell: cell["validation"])
        rows.append([best["block"], format_t(t), percent(best["validation"]),
                     percent(best["test"])])  # fmt: skip
    return ["block", "t", "validation %", "test %"], rows


def systems_table(result: dict[str, Any], notes: Notes) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: heads and adapted models."""
    heading = ["head", "cells", "parameters", "seeds", "validation %", "test %", "s", "MiB",
               "paper %"]  # fmt: skip
    rows = []
    for system in result["systems"]:
        runs = system["runs"]
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        count = runs[0].get("parameters")
        rows.append([
            system["name"], cells_text(runs[0].get("set", system["cells"])),
            "" if count is None else f"{count:,}", str(len(runs)),
            _spread([run["validation"] for run in runs]), _spread([run["test"] for run in runs]),
            f"{seconds:.0f}", f"{max(run['peak_memory_mb'] for run in runs):,.0f}",
            notes.beside(system["name"]),
        ])  # fmt: skip
    return _without_empty(heading, rows)


def cells_text(cells: Sequence[tuple[str, float]]) -> str:
    """ "mid, up.0 × t = 5, 20" for a full grid, else every cell."""
    blocks, steps = (list(dict.fromkeys(cell[k] for cell in cells)) for k in (0, 1))
    if len(blocks) * len(steps) == len(cells):
        return f"{', '.join(blocks)} × t = {', '.join(map(format_t, steps))}"
    return "; ".join(f"{block} t = {format_t(t)}" for block, t in cells)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(heading)} |", f"|{'|'.join('---' for _ in heading)}|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _spread(values: Sequence[float]) -> str:
    """Mean, and with several the half range."""
    mean = percent(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ± {percent((max(values) - min(values)) / 2)}"


def _without_empty(heading: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A last column that says nothing is left out."""
    if any(row[-1] for row in rows):
        return heading, rows
    return heading[:-1], [row[:-1] for row in rows]


def _by_tensor(model: dict[str, Any], twin: dict[str, Any]) -> list[str]:
    """Validation accuracy of every tensor, best first, beside its random twin's."""
    random = {cell["block"]: cell["validation"] for cell in twin["cells"]}
    t = format_t(model["cells"][0]["t"])
    rows = [
        [cell["block"], percent(cell["validation"]), percent(random[cell["block"]])]
        for cell in sorted(model["cells"], key=lambda cell: -cell["validation"])
    ]
    heading = ["tensor", model["name"], twin["name"]]
    return ["", f"Every tensor at t = {t}, validation %:", "", *table(heading, rows)]


def _speed(path: Path, result: dict[str, Any]) -> list[str]:
    title = ["## Speed", "", f"`python -m benchmarks run speed`; [{path.name}]({path.name}).", ""]
    return [*title, speed_table(result)]


def _faults(path: Path, result: dict[str, Any]) -> list[str]:
    title = ["## Faults", "", f"`python -m benchmarks run faults`; [{path.name}]({path.name}).", ""]
    return [*title, faults_table(result)]


KINDS = {"speed": _speed, "faults": _faults}
