"""Recorded results as Markdown tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.faults.table import markdown as faults_table
from benchmarks.speed.table import markdown as speed_table
from diffeat.noise import format_t


def markdown(folder: Path) -> str:
    """All result files of a folder as one Markdown page; figures come from the files alone."""
    parts = ["# Results", "", "Printed by `python -m benchmarks report` from the JSON beside it."]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        kind = _recipe if "recipe" in result else KINDS[result["suite"]]
        parts += ["", *kind(path, result)]
    return "\n".join(parts)


def _recipe(path: Path, result: dict[str, Any]) -> list[str]:
    recipe, spec, machine = result["recipe"], result["spec"], result["environment"]
    train, held, test = result["surfaces"][0]["counts"]
    lines = [
        f"## {recipe['title']}",
        "",
        f"`python -m benchmarks run {recipe['name']}`; [{path.name}]({path.name}). "
        f"{train:,} training, {held:,} validation and {test:,} test pictures; pool {spec['pool']}, "
        f"noise {spec['noise']}, seed {spec['seed']}, size {spec['size'][0]}×{spec['size'][1]}. "
        f"Linear probe; block, t and penalty chosen on validation, refitted on training and "
        f"validation, test scored once. {result['seconds']:.0f} s on {machine['cores']} cores "
        f"({machine['processor']}).",
        "",
        "| features | block | t | validation % | test % |",
        "|---|---|---|---|---|",
    ]
    for surface in result["surfaces"]:
        lines.append(_row(surface["name"], surface["best"], surface["name"] == "raw pixels"))
    lines.append(f"| chance | | | | {100 * result['chance']:.1f} |")
    model, twin = result["surfaces"][:2]
    if len({cell["t"] for cell in model["cells"]}) == 1:
        return lines + _by_tensor(model, twin) + _published(recipe)
    lines += ["", f"Best block of {model['name']} at each t:", "",
              "| block | t | validation % | test % |", "|---|---|---|---|"]  # fmt: skip
    for t in dict.fromkeys(cell["t"] for cell in model["cells"]):
        cells = [cell for cell in model["cells"] if cell["t"] == t]
        best = max(cells, key=lambda cell: cell["validation"])
        lines.append(_row(None, best, False))
    return lines + _published(recipe)


def _by_tensor(model: dict[str, Any], twin: dict[str, Any]) -> list[str]:
    """Validation accuracy of every tensor, best first, beside its random twin's."""
    random = {cell["block"]: cell["validation"] for cell in twin["cells"]}
    t = format_t(model["cells"][0]["t"])
    lines = ["", f"Every tensor at t = {t}, validation %:", "",
             f"| tensor | {model['name']} | {twin['name']} |", "|---|---|---|"]  # fmt: skip
    for cell in sorted(model["cells"], key=lambda cell: -cell["validation"]):
        lines.append(f"| {cell['block']} | {100 * cell['validation']:.1f} | "
                     f"{100 * random[cell['block']]:.1f} |")  # fmt: skip
    return lines


def _published(recipe: dict[str, Any]) -> list[str]:
    lines = []
    for published in recipe["published"]:
        lines += ["", f"Published, with other weights and set-up, not comparable: {published}."]
    return lines


def _row(name: str | None, cell: dict[str, Any], without_t: bool) -> str:
    first = f"| {name} " if name else ""
    t = "" if without_t else format_t(cell["t"])
    return (
        f"{first}| {cell['block']} | {t} | {100 * cell['validation']:.1f} | "
        f"{100 * cell['test']:.1f} |"
    )


def _speed(path: Path, result: dict[str, Any]) -> list[str]:
    title = ["## Speed", "", f"`python -m benchmarks run speed`; [{path.name}]({path.name}).", ""]
    return [*title, speed_table(result)]


def _faults(path: Path, result: dict[str, Any]) -> list[str]:
    title = ["## Faults", "", f"`python -m benchmarks run faults`; [{path.name}]({path.name}).", ""]
    return [*title, faults_table(result)]


KINDS = {"speed": _speed, "faults": _faults}
