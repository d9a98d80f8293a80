"""Recorded results as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.report import (
    SYSTEMS,
    Notes,
    by_t_table,
    features_table,
    left_out,
    preset_notes,
    published_line,
    results_in,
    set_up,
    systems_table,
)
from diffeat.noise import format_t

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; border-top: 1px solid #d0d7de;
     padding-top: 1rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e4e8ec; }
th:first-child, td:first-child { text-align: left; }
.heat td { border: 0; padding: .25rem .5rem; } .heat .best { outline: 3px solid #d1242f;
     outline-offset: -3px; font-weight: 600; }
.beside { display: flex; flex-wrap: wrap; gap: 2.5rem; align-items: flex-start; }
.note { color: #57606a; font-size: .9rem; } code { background: #f3f4f6; padding: 0 .25rem; }
svg text { font: 10px system-ui, sans-serif; fill: #57606a; }
"""
WIDTH, HEIGHT, EDGE = 240, 110, 36
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Stops of matplotlib's colour map."""


def page(folder: Path) -> str:
    """The recipes' results of a folder; figures come from its JSON files alone."""
    parts = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width">',
             f"<title>diffeat: results</title><style>{STYLE}</style></head><body>",
             "<h1>Results</h1>",
             '<p class="note">Every figure is read from the JSON file of a run. Figures of papers '
             "stand in a column of their own; the number leads to their set-up.</p>"]  # fmt: skip
    recipes = [(path, result) for path, result in results_in(folder) if "recipe" in result]
    parts.append("<ul>")
    for path, result in recipes:
        parts.append(
            f'<li><a href="#{escape(path.stem)}">{escape(result["recipe"]["title"])}</a></li>'
        )
    parts.append("</ul>")
    for path, result in recipes:
        parts += _recipe(path, result)
    return "\n".join([*parts, "</body></html>\n"])


def _recipe(path: Path, result: dict[str, Any]) -> list[str]:
    recipe = result["recipe"]
    notes = Notes(recipe["published"])
    lines = [
        f'<h2 id="{escape(path.stem)}">{escape(recipe["title"])}</h2>',
        f'<p class="note"><code>python -m benchmarks run {escape(recipe["name"])}</code>. '
        f"{escape(set_up(result))}</p>",
        _table(*features_table(result, notes)),
        '<div class="beside">',
    ]
    maps = [surface for surface in result["surfaces"] if len(surface["cells"]) > 1]
    values = [cell["validation"] for surface in maps for cell in surface["cells"]]
    for surface in maps:
        lines += [f"<div><h3>{escape(surface['name'])}: validation accuracy, %</h3>",
                  _heat(surface, min(values), max(values)), "</div>"]  # fmt: skip
    lines += ["</div>", "<h3>Best block at each t</h3>", _table(*by_t_table(result["surfaces"][0]))]
    if result.get("systems"):
        lines += ["<h3>Heads</h3>", f'<p class="note">{escape(SYSTEMS)}</p>',
                  _table(*systems_table(result, notes)), '<div class="beside">']  # fmt: skip
        lines += [_curves(system) for system in result["systems"] if len(_history(system)) > 1]
        lines.append("</div>")
    for number, one in enumerate(recipe["published"], start=1):
        lines.append(f'<p class="note">[{number}] {escape(published_line(one))}</p>')
    for line in (*left_out(result), *preset_notes(result)):
        lines.append(f'<p class="note">{escape(line)}</p>')
    return lines


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(map(_data, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _data(cell: str) -> str:
    """A cell of a table; without Markdown's emphasis."""
    return f"<td>{escape(cell.strip('*'))}</td>"


def _heat(surface: dict[str, Any], low: float, high: float) -> str:
    """Blocks down, t across; the best cell is framed."""
    cells = {(cell["block"], cell["t"]): cell for cell in surface["cells"]}
    blocks, steps = (list(dict.fromkeys(key[k] for key in cells)) for k in (0, 1))
    best = (surface["best"]["block"], surface["best"]["t"])
    rows = []
    for block in blocks:
        row = [f"<td>{escape(block)}</td>"]
        for t in steps:
            if (block, t) not in cells:
                row.append("<td></td>")
                continue
            value = cells[block, t]["validation"]
            share = (value - low) / (high - low) if high > low else 1.0
            ink = "#fff" if share < 0.55 else "#000"
            mark = ' class="best"' if (block, t) == best else ""
            row.append(
                f'<td{mark} style="background:{_colour(share)};color:{ink}">{100 * value:.1f}</td>'
            )
        rows.append(f"<tr>{''.join(row)}</tr>")
    head = "".join(f"<th>t={format_t(t)}</th>" for t in steps)
    return f'<table class="heat"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _colour(share: float) -> str:
    """Viridis at a place in [0, 1]."""
    at = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    k = min(int(at), len(VIRIDIS) - 2)
    mixed = [round(a + (b - a) * (at - k)) for a, b in zip(VIRIDIS[k], VIRIDIS[k + 1], strict=True)]
    return f"rgb({','.join(map(str, mixed))})"


def _history(system: dict[str, Any]) -> list[dict[str, Any]]:
    return system["runs"][0].get("history") or []


def _curves(system: dict[str, Any]) -> str:
    """Validation accuracy (or, without it, the loss) by epoch, of the first seed."""
    history = _history(system)
    name = next((key for key in ("validation_accuracy", "validation") if key in history[0]), "loss")
    values = [epoch[name] for epoch in history]
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(len(values) - 1, 1)
    points = [
        (EDGE + (WIDTH - EDGE - 8) * k / last, 10 + (HEIGHT - 30) * (high - value) / span)
        for k, value in enumerate(values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[min(system["runs"][0].get("best_epoch", len(values)), len(values)) - 1]
    shown = [f"{v:.2f}" if name == "loss" else f"{100 * v:.0f}%" for v in (high, low)]
    what = "training loss" if name == "loss" else "validation accuracy"
    return (
        f"<figure style='margin:0'><svg width='{WIDTH}' height='{HEIGHT}' role='img' "
        f"aria-label='{escape(system['name'], quote=True)}: {what} by epoch'>"
        f"<polyline points='{path}' fill='none' stroke='#0969da' stroke-width='1.5'/>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#d1242f'/>"
        f"<text x='0' y='14'>{shown[0]}</text><text x='0' y='{HEIGHT - 18}'>{shown[1]}</text>"
        f"<text x='{EDGE}' y='{HEIGHT - 4}'>epoch 1</text>"
        f"<text x='{WIDTH - 8}' y='{HEIGHT - 4}' text-anchor='end'>{len(values)}</text></svg>"
        f"<figcaption class='note'>{escape(system['name'])}: {what}</figcaption></figure>"
    )
