"""What the results of classification look like: the summary of a run, the report's sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.published import Notes, left_out
from benchmarks.sections import Beside, Curve, Heat, Picture, Section, Table, Text
from diffeat.noise import format_t

SYSTEMS = (
    "Heads, each fitted on the training part alone, with what it chooses (C, epoch, set) chosen on "
    "validation; seconds are those of one training, without the extraction:"
)


def summary(result: dict[str, Any]) -> str:
    """The grid of every surface over t, then the closing tables."""
    from benchmarks.searching import surface_text

    lines = []
    for stored in filter(has_t, result["surfaces"]):
        if mark := stored.get("conditioned"):
            lines += ["", mark]
        lines += ["", f"{stored['name']}: linear probe, validation accuracy in %", ""]
        lines.append(surface_text(stored))
    return "\n".join([*lines, "", closing(result)])


def closing(result: dict[str, Any]) -> str:
    """Each kind of features at its best cell, and the systems."""
    marks = [s["conditioned"] for s in result["surfaces"] if s.get("conditioned")]
    width = max(13, *(len(surface["best"]["block"]) for surface in result["surfaces"]))
    lines = list(dict.fromkeys(marks))
    lines += [f"{'features':<24} {'block':<{width}} {'t':>5} {'validation':>11} {'test':>7}"]
    lines.append("-" * len(lines[-1]))
    for surface in result["surfaces"]:
        best = surface["best"]
        t = format_t(best["t"]) if has_t(surface) else ""
        lines.append(
            f"{surface['name']:<24} {best['block']:<{width}} {t:>5} "
            f"{100 * best['validation']:10.1f}% {100 * best['test']:6.1f}%"
        )
    lines.append(f"{'chance':<24} {'':<{width}} {'':>5} {'':>11} {100 * result['chance']:6.1f}%")
    if result["systems"]:
        wide = max(len(system["name"]) for system in result["systems"])
        lines += ["", f"{'system':<{wide}} {'cells':>5} {'validation':>11} {'test':>7}"]
        lines.append("-" * len(lines[-1]))
    for system in result["systems"]:
        cells = system["runs"][0].get("set", system["cells"])
        lines.append(
            f"{system['name']:<{wide}} {len(cells):>5} "
            f"{100 * system['validation']:10.1f}% {100 * system['test']:6.1f}%"
        )
    return "\n".join(lines)


def set_up(result: dict[str, Any]) -> str:
    """Pictures, features, protocol and cost in a few sentences."""
    benchmark, spec, machine = result["benchmark"], result["spec"], result["environment"]
    train, held, test = result["surfaces"][0]["counts"]
    pool = spec["pool"]
    if benchmark.get("probe_pool"):
        pool += f" (averaged to {benchmark['probe_pool']} for the linear probes)"
    cost = ""
    if "stages" in result:
        cost = (
            " in this benchmark's runs, without what others had made before, "
            f"{result['peak_memory_mb']:,.0f} MiB at most"
        )
    twin = "".join(
        f" The random twin was given {name} {', '.join(map(str, values))} only."
        for name, values in benchmark.get("twin", {}).items()
    )
    marks = dict.fromkeys(s["conditioned"] for s in result["surfaces"] if s.get("conditioned"))
    told = "".join(f"{mark[0].upper()}{mark[1:]}. " for mark in marks)
    copies = " Copies of pictures were left out." * (benchmark.get("duplicates") == "drop")
    return (
        f"{told}{train:,} training, {held:,} validation and {test:,} test pictures; pool {pool}, "
        f"noise {spec['noise']}, seed {spec['seed']}, size {spec['size'][0]}×{spec['size'][1]}. "
        f"Linear probe; block, t and penalty chosen on validation, refitted on training and "
        f"validation, test scored once.{copies}{twin} {result['seconds']:.0f} s on "
        f"{machine['cores']} cores ({machine['processor']}){cost}."
    )


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """Features with their baselines, the surface, heads, and what there is to say of them."""
    notes = Notes(result["benchmark"]["published"])
    yield features_table(result, notes)
    yield Beside(_heats(result["surfaces"]))
    model, twin = result["surfaces"][:2]
    if len({cell["t"] for cell in model["cells"]}) == 1 and len(model["cells"]) > 8:
        yield by_tensor_table(model, twin)
    else:
        yield by_t_table(model)
    if result.get("systems"):
        yield systems_table(result, notes)
        yield Beside([_curve(one) for one in result["systems"] if len(_history(one)) > 1])
    yield Picture("validation accuracy by block and t")
    for line in (*left_out(result), *preset_notes(result)):
        yield Text(line)
    yield from notes.sections()


def features_table(result: dict[str, Any], notes: Notes) -> Table:
    """Each kind of features at its best cell, chance, papers."""
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
    return Table(*_without_empty(heading, rows))


def has_t(surface: dict[str, Any]) -> bool:
    """Whether the features of a surface have noise levels: those of pixels have not."""
    return surface["best"]["block"] not in ("pixels", "pooled")


def by_t_table(model: dict[str, Any]) -> Table:
    """The best block at each t."""
    rows = []
    for t in dict.fromkeys(cell["t"] for cell in model["cells"]):
        cells = [cell for cell in model["cells"] if cell["t"] == t]
        best = max(cells, key=lambda cell: cell["validation"])
        rows.append([best["block"], format_t(t), percent(best["validation"]),
                     percent(best["test"])])  # fmt: skip
    heading = ["block", "t", "validation %", "test %"]
    return Table(heading, rows, f"Best block of {model['name']} at each t:")


def by_tensor_table(model: dict[str, Any], twin: dict[str, Any]) -> Table:
    """Validation accuracy of every tensor, best first, beside its random twin's."""
    random = {cell["block"]: cell["validation"] for cell in twin["cells"]}
    t = format_t(model["cells"][0]["t"])
    rows = [
        [cell["block"], percent(cell["validation"]), percent(random[cell["block"]])]
        for cell in sorted(model["cells"], key=lambda cell: -cell["validation"])
    ]
    heading = ["tensor", model["name"], twin["name"]]
    return Table(heading, rows, f"Every tensor at t = {t}, validation %:")


def systems_table(result: dict[str, Any], notes: Notes) -> Table:
    """Heads and adapted models."""
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
    return Table(*_without_empty(heading, rows), SYSTEMS, "Heads")


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


def cells_text(cells: Sequence[tuple[str, float]]) -> str:
    """ "mid, up.0 × t = 5, 20" for a full grid, else every cell."""
    blocks, steps = (list(dict.fromkeys(cell[k] for cell in cells)) for k in (0, 1))
    if len(blocks) * len(steps) == len(cells):
        return f"{', '.join(blocks)} × t = {', '.join(map(format_t, steps))}"
    return "; ".join(f"{block} t = {format_t(t)}" for block, t in cells)


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


def _heats(surfaces: Sequence[dict[str, Any]]) -> list[Heat]:
    """Maps of the surfaces with several cells, on one colour scale."""
    shown = [surface for surface in surfaces if len(surface["cells"]) > 1]
    values = [100 * cell["validation"] for surface in shown for cell in surface["cells"]]
    return [
        Heat(
            f"{surface['name']}: validation accuracy, %",
            {_place(cell): 100 * cell["validation"] for cell in surface["cells"]},
            _place(surface["best"]), min(values), max(values),
        )
        for surface in shown
    ]  # fmt: skip


def _place(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["block"], f"t={format_t(cell['t'])}"


def _history(system: dict[str, Any]) -> list[dict[str, Any]]:
    return system["runs"][0].get("history") or []


def _curve(system: dict[str, Any]) -> Curve:
    """Validation accuracy (or, without it, the loss) by epoch, of the first seed."""
    history = _history(system)
    name = next((key for key in ("validation_accuracy", "validation") if key in history[0]), "loss")
    values = [epoch[name] for epoch in history]
    ends = max(values), min(values)
    shown = tuple(f"{v:.2f}" if name == "loss" else f"{100 * v:.0f}%" for v in ends)
    best = min(system["runs"][0].get("best_epoch", len(values)), len(values))
    what = "training loss" if name == "loss" else "validation accuracy"
    return Curve(system["name"], what, values, best, shown)
