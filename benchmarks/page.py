"""Recorded results as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.report import results_in, task_of
from benchmarks.sections import Beside, Curve, Heat, Section, Table, Text

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
    """The benchmarks' results of a folder; figures come from its JSON files alone."""
    parts = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width">',
             f"<title>diffeat: results</title><style>{STYLE}</style></head><body>",
             "<h1>Results</h1>",
             '<p class="note">Every figure is read from the JSON file of a run. Figures of papers '
             "stand in a column of their own; the number leads to their set-up.</p>"]  # fmt: skip
    found = [(path, result) for path, result in results_in(folder) if "benchmark" in result]
    parts.append("<ul>")
    for path, result in found:
        title = escape(result["benchmark"]["title"])
        parts.append(f'<li><a href="#{escape(path.stem)}">{title}</a></li>')
    parts.append("</ul>")
    for path, result in found:
        parts += _benchmark(path, result)
    return "\n".join([*parts, "</body></html>\n"])


def _benchmark(path: Path, result: dict[str, Any]) -> list[str]:
    benchmark, task = result["benchmark"], task_of(path, result)
    lines = [
        f'<h2 id="{escape(path.stem)}">{escape(benchmark["title"])}</h2>',
        f'<p class="note"><code>python -m benchmarks run {escape(benchmark["name"])}</code>. '
        f"{escape(task.set_up(result))}</p>",
    ]
    for section in task.sections(result):
        lines += _section(section)
    return lines


def _section(section: Section) -> list[str]:
    """A section as HTML; none for the picture, in whose place stand heat maps."""
    match section:
        case Table(heading, rows, text, title):
            above = [f"<h3>{escape(title)}</h3>"] if title else []
            above += [f'<p class="note">{escape(text)}</p>'] if text else []
            return [*above, _table(heading, rows)]
        case Text(text):
            return [f'<p class="note">{escape(text)}</p>']
        case Beside(parts) if parts:
            inner = [_heat(one) if isinstance(one, Heat) else _curve(one) for one in parts]
            return ['<div class="beside">', *inner, "</div>"]
    return []


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(map(_data, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _data(cell: str) -> str:
    """A cell of a table; without Markdown's emphasis."""
    return f"<td>{escape(cell.strip('*'))}</td>"


def _heat(heat: Heat) -> str:
    """Rows down, columns across; the best cell is framed."""
    blocks, steps = (list(dict.fromkeys(key[k] for key in heat.values)) for k in (0, 1))
    span = heat.high - heat.low
    rows = []
    for block in blocks:
        row = [f"<td>{escape(block)}</td>"]
        for step in steps:
            value = heat.values.get((block, step))
            if value is None:
                row.append("<td></td>")
                continue
            share = (value - heat.low) / span if span > 0 else 1.0
            ink = "#fff" if share < 0.55 else "#000"
            mark = ' class="best"' if (block, step) == heat.best else ""
            row.append(
                f'<td{mark} style="background:{_colour(share)};color:{ink}">{value:.1f}</td>'
            )
        rows.append(f"<tr>{''.join(row)}</tr>")
    head = "".join(f"<th>{escape(step)}</th>" for step in steps)
    table = f'<table class="heat"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f"<div><h3>{escape(heat.title)}</h3>\n{table}\n</div>"


def _colour(share: float) -> str:
    """Viridis at a place in [0, 1]."""
    at = min(max(share, 0.0), 1.0) * (len(VIRIDIS) - 1)
    k = min(int(at), len(VIRIDIS) - 2)
    mixed = [round(a + (b - a) * (at - k)) for a, b in zip(VIRIDIS[k], VIRIDIS[k + 1], strict=True)]
    return f"rgb({','.join(map(str, mixed))})"


def _curve(curve: Curve) -> str:
    """A line over the epochs, with a point at the best one."""
    values = curve.values
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(len(values) - 1, 1)
    points = [
        (EDGE + (WIDTH - EDGE - 8) * k / last, 10 + (HEIGHT - 30) * (high - value) / span)
        for k, value in enumerate(values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[curve.best - 1]
    return (
        f"<figure style='margin:0'><svg width='{WIDTH}' height='{HEIGHT}' role='img' "
        f"aria-label='{escape(curve.title, quote=True)}: {curve.what} by epoch'>"
        f"<polyline points='{path}' fill='none' stroke='#0969da' stroke-width='1.5'/>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#d1242f'/>"
        f"<text x='0' y='14'>{curve.shown[0]}</text>"
        f"<text x='0' y='{HEIGHT - 18}'>{curve.shown[1]}</text>"
        f"<text x='{EDGE}' y='{HEIGHT - 4}'>epoch 1</text>"
        f"<text x='{WIDTH - 8}' y='{HEIGHT - 4}' text-anchor='end'>{len(values)}</text></svg>"
        f"<figcaption class='note'>{escape(curve.title)}: {curve.what}</figcaption></figure>"
    )
