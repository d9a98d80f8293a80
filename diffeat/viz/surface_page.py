"""One HTML page of a surface: a heat map over (t, block), and what is known of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import shown_t
from diffeat.search.finding import cell_text
from diffeat.search.intervals import accuracy_interval
from diffeat.search.repeats import Repeats
from diffeat.viz.html import facts_table, part, plain, quoted, table, write_document
from diffeat.viz.scales import Scale, ink
from diffeat.viz.thumbnails import Picture, Thumbnails

if TYPE_CHECKING:
    from diffeat.search.finding import Finding
    from diffeat.search.grid import Grid
    from diffeat.search.mistakes import Mistake
    from diffeat.search.tasks import CellKey

STEPS = 32
"""Colours of the heat map."""
KNOWN = ("features", "block", "t", "validation", "test", "test_low", "test_high", "conditioned")
"""Columns of findings that are said in another way here."""
INTERVAL = "95 % interval"
INTERVALS = (
    "Wilson's, of {} validation {}, for each cell by itself: the best of many was chosen for being "
    "high, which its interval does not know, and its score on test does"
)
"""What a reader must know of them."""
WORDS = {"half_width_95": "± (95 %, of the splits)", "wins": "best in so many splits"}
"""Other columns that need more than their name."""


def write_surface_page(
    path: str | Path,
    grid: Grid,
    cells: Mapping[CellKey, Mapping[str, str]] | None = None,
    *,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    lines: Sequence[str] = (),
    mistakes: Mapping[CellKey, tuple[int, Sequence[tuple[str, Mistake]]]] | None = None,
    picture: Picture | None = None,
) -> None:
    """Write one HTML file that needs nothing else: no network, no server, opened as a file.

    The heat map has the colours of `heat_map`; a cell under the pointer, or chosen by the arrow
    keys, says what is known of it. All of it stands in a table below, also where no script runs.

    Args:
        path: the file; it is written whole or not at all.
        grid: a number for each cell.
        cells: what else is said of a cell, by name, such as `cell_facts` gives.
        title: headline.
        facts: what is what, such as features and judge, in lines of a table.
        notes: sentences below the headline.
        lines: text as it stands on a terminal.
        mistakes: of a cell, how many pictures it gets wrong, and (id, mistake) of some of them.
        picture: gives the pictures of these ids; None shows none.

    Raises:
        SpecError: a grid without a number.
    """
    if not np.isfinite(grid.array()).any():
        raise SpecError(f"{grid.title or 'the grid'} holds no number to show")
    known = {cell: _facts_of(grid, cell, (cells or {}).get(cell, {})) for cell in grid.values}
    thumbs = Thumbnails(picture)
    shown, images = _pictures(mistakes or {}, thumbs)
    data = {
        "cells": [{"name": cell_text(cell), "facts": known[cell], **shown.get(cell, {})}
                  for cell in grid.values],
        "thumbnails": images,
    }  # fmt: skip
    notes = [*notes, *([grid.mark] if grid.mark else []), *thumbs.told()]
    body = _body(grid, known, title, facts or {}, notes, lines)
    style = part("surface_page.css") + "\n" + _colours()
    write_document(path, title, body, style=style, script=part("surface_page.js"), data=data)


def cell_facts(findings: Sequence[Finding]) -> dict[CellKey, dict[str, str]]:
    """What findings say of single cells, for people.

    Args:
        findings: the first is about single cells; others add columns, such as a guess.

    Returns:
        Cell → name → text: the interval of the score where pictures are counted one by one, the
        score on test with its interval where the cell was chosen, the setting, and columns.
    """
    findings = [part for one in findings for part in one.parts().values()]
    first, repeated = findings[0], any(isinstance(one, Repeats) for one in findings)
    columns = {name: one for finding in findings for name, one in finding.columns().items()}
    found = {}
    for cell, row in first.rows():
        text = dict(_tested(first, cell, repeated))
        values = {**row, **{name: values.get(cell) for name, values in columns.items()}}
        for name, value in values.items():
            if name not in KNOWN and value not in (None, ""):
                text[WORDS.get(name, name)] = _said(first.measure, name, value)
        found[cell] = text
    return found


def _tested(surface: Any, cell: CellKey, repeated: bool) -> Iterator[tuple[str, str]]:
    """Intervals of a cell's scores; a mean over splits is no share of so many pictures."""
    measure, own = surface.measure, {one.key: one for one in getattr(surface, "cells", ())}
    if cell not in own:
        return
    held = surface.counts[1]
    # groups that are single pictures in test are so in validation, too
    alone = measure.counted and measure.groups == measure.pictures
    if alone and held and not repeated:
        low, high = accuracy_interval(own[cell].validation, held)
        yield INTERVAL, f"{measure.show(low)} to {measure.say(high)}"
    if own[cell].test is not None:
        yield "on test", measure.say_test(own[cell].test, surface.interval_of(own[cell]))


def _said(measure: Any, name: str, value: Any) -> str:
    if name == "half_width_95":
        return measure.say(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts_of(grid: Grid, cell: CellKey, more: Mapping[str, str]) -> dict[str, str]:
    """What is said of a cell, its score and rank first."""
    value, measure = grid.values[cell], grid.measure
    score = measure.say(value) if np.isfinite(value) else "nan"
    others = np.array([one for one in grid.values.values() if np.isfinite(one)])
    found = {(grid.what or measure.name): score}
    if np.isfinite(value):
        better = measure.goodness(others) > measure.goodness([value])[0]
        found["rank"] = f"{int(better.sum()) + 1} of {len(others)}{measure.direction}"
    return {**found, **more}


def _pictures(
    mistakes: Mapping[CellKey, tuple[int, Sequence[tuple[str, Mistake]]]], thumbs: Thumbnails
) -> tuple[dict[CellKey, dict[str, Any]], list[dict[str, Any]]]:
    """What the script shows of each cell, and the pictures themselves, each once."""
    places: dict[str, int] = {}
    found, images = {}, []
    for cell, (count, some) in mistakes.items():
        figures = []
        for name, one in some:
            if name not in places and (image := thumbs.data(name)) is not None:
                places[name] = len(images)
                images.append(image)
            figures.append({"id": str(name), "said": one.said, "value": f"{one.value:.3g}",
                            "truth": one.true, "thumbnail": places.get(name)})  # fmt: skip
        surest = f"; the {len(some)} surest:" if count > len(some) else ":" if some else ""
        told = f"{count:,} validation pictures wrong{surest}"
        found[cell] = {"wrong": told, "pictures": figures}
    return found, images


def _body(
    grid: Grid, known: Mapping[CellKey, Mapping[str, str]], title: str, facts: Mapping[str, str],
    notes: Sequence[str], lines: Sequence[str],
) -> Iterator[str]:  # fmt: skip
    yield f"<h1>{plain(title)}</h1>"
    for note in notes:
        yield f'<p class="note">{plain(note)}</p>'
    best = grid.best
    yield (f'<p class="large">Best: {plain(cell_text(best))}, '
           f"{plain(grid.measure.say(grid.values[best]))}</p>")  # fmt: skip
    scale = Scale.of(grid.measure.factor * grid.array(), grid.measure.higher_is_better)
    yield f'<div class="beside"><div class="wide">{_map(grid, scale)}{_key(grid, scale)}</div>'
    yield ('<section aria-live="polite"><h2 id="cell"></h2><table id="facts"></table>'
           '<p id="wrong"></p><div class="row" id="pictures"></div></section></div>')  # fmt: skip
    yield "<h2>All cells</h2>"
    names = list(dict.fromkeys(name for one in known.values() for name in one))
    rows = ((cell[0], shown_t(cell[1]), *(one.get(name, "") for name in names))
            for cell, one in known.items())  # fmt: skip
    yield table(("block", "t", *names), rows, range(1, 4))
    if lines:
        yield f"<h2>In words</h2><pre>{plain(chr(10).join(lines))}</pre>"
    if facts:
        yield f"<h2>What was judged</h2>{facts_table(facts)}"


def _map(grid: Grid, scale: Scale) -> str:
    """The heat map as a table of buttons, blocks down and t across."""
    heads = "".join(f'<th scope="col">{plain(shown_t(t, "t="))}</th>' for t in grid.timesteps)
    numbers = {cell: k for k, cell in enumerate(grid.values)}
    rows = []
    for block in grid.blocks:
        cells = ""
        for t in grid.timesteps:
            cell = block, t
            inner = _button(grid, scale, cell, numbers[cell]) if cell in numbers else ""
            cells += f"<td>{inner}</td>"
        rows.append(f'<tr><th scope="row"><bdi>{plain(block)}</bdi></th>{cells}</tr>')
    head = f'<thead><tr><th><span class="note">block</span></th>{heads}</tr></thead>'
    return f'<table id="map">{head}<tbody>{"".join(rows)}</tbody></table>'


def _button(grid: Grid, scale: Scale, cell: CellKey, number: int) -> str:
    value = grid.values[cell]
    place = scale.places(grid.measure.factor * value)
    known = np.isfinite(place)
    colour = f"c{int(np.rint(place * (STEPS - 1)))}" if known else "none"
    text = grid.measure.show(value, 3) if known else "nan"
    told = f"{cell_text(cell)}: {grid.measure.say(value) if known else 'nan'}"
    best = ' data-best="yes"' if cell == grid.best else ""
    return (f'<button type="button" class="{colour}" data-cell="{number}"{best} '
            f"aria-label={quoted(told)}>{plain(text)}</button>")  # fmt: skip


def _key(grid: Grid, scale: Scale) -> str:
    """What the colours mean."""
    what = plain(grid.heading + grid.measure.direction)
    if scale.constant:
        return f'<p class="note">{what}</p>'
    worst, best = (grid.measure.show(scale.value(place) / grid.measure.factor, 3)
                   for place in (0, 1))  # fmt: skip
    bar = "".join(f'<i class="c{k}"></i>' for k in range(STEPS))
    return (f'<p class="key"><span>{plain(worst)}</span><span class="bar">{bar}</span>'
            f"<span>{plain(best)}</span><span>{what}</span></p>")  # fmt: skip


def _colours() -> str:
    """A class for each step of the scale, with ink that is read on it."""
    steps = Scale(0, 1).colours(np.linspace(0, 1, STEPS))
    rules = ["#map .none { background: #c8c8c8; color: black; }"]
    for k, colour in enumerate(steps):
        shown = "#" + "".join(f"{round(255 * float(one)):02x}" for one in colour[:3])
        rules.append(f".c{k} {{ background: {shown}; color: {ink(colour)}; }}")
    return "\n".join(rules)
