"""`--html` of `search` and `probe`: the surface as a page, with pictures that a cell gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import note
from diffeat.cli.options import option
from diffeat.cli.outputs import HTML, OutputPath

WRONG = 6
"""Pictures of a cell that are shown."""
SHOWN = "of validation, judged by a probe that is fitted on training alone"
LOOKED_AT = 40
"""Cells, the best ones, whose mistakes are looked for: each is one more fit."""

html_option = option(
    "--html", "html_path", type=OutputPath(HTML, strict=True),
    help="Write a page to look at: the heat map, and of each cell its score, interval and, of "
    "classes, validation pictures that it gets wrong.",
)  # fmt: skip


def write_surface_html(
    path: Path,
    judge: Any,
    findings: Sequence[Any],
    lines: Sequence[str],
    pictures: str,
    quiet: bool,
) -> None:
    """Write the page of what a search or a probe found, while its features are at hand.

    Args:
        judge: of the task.
        findings: the first is about single cells.
        lines: as they stand on the terminal.
        pictures: file of features or name of pictures, where thumbnails come from.
        quiet: whether stdout is for JSON.
    """
    from diffeat.cli.shown import picture_of
    from diffeat.viz import cell_facts, write_surface_page

    grid, repeated = findings[0].grid, "repeats" in {one.key for one in findings}
    picture, mistakes, notes = None, {}, []
    if why := _lacks_mistakes(judge):
        notes.append(why)
    else:
        picture, lacking = picture_of(pictures, None)
        mistakes, cut = _mistakes(judge, findings[0])
        told = "Scores are means over splits; mistakes are those of one split." * repeated
        notes += filter(None, (lacking, told, cut))
    for text in notes:
        note(text)
    if judge.few:  # said on the terminal by whoever asks for the page
        notes.append(f"{judge.few[0].upper()}{judge.few[1:]}.")
    write_surface_page(
        path, grid, cell_facts(findings), title=f"{judge.source}: {grid.what}",
        facts=_facts(judge, repeated), notes=notes, lines=lines, mistakes=mistakes, picture=picture,
    )  # fmt: skip
    size = path.stat().st_size / 1e6
    click.echo(f"wrote {path}, {len(grid.values)} cells, {size:.1f} MB", err=quiet)


def _mistakes(judge: Any, surface: Any) -> tuple[dict, str]:
    """What the best cells get wrong, by cell; and a sentence where these are not all."""
    from diffeat.progress import track
    from diffeat.search.mistakes import mistakes_of

    order = surface.measure.order([cell.validation for cell in surface.cells])
    found = {}
    for k in track(order[:LOOKED_AT], desc="mistakes", unit="cells"):
        cell = surface.cells[k]
        count, some = mistakes_of(judge, cell, WRONG)
        found[cell.key] = count, [(judge.task.ids[one.row], one) for one in some]
    few = len(found) < len(order)
    return found, f"Mistakes are of the {LOOKED_AT} best of {len(order)} cells." * few


def _lacks_mistakes(judge: Any) -> str:
    """Why no pictures are shown; "" where they are."""
    from diffeat.search import Classification

    if not isinstance(judge, Classification) or not judge.score.is_accuracy:
        return f"Page without pictures: {judge.name} is not of classes that pictures are given."
    if len(judge.together) > 1:
        return ("Page without pictures: features of one t drive out those of another; allow more "
                "with --memory, or store them first.")  # fmt: skip
    if not judge.task.ids:
        return "Page without pictures: their ids are not known."
    return ""


def _facts(judge: Any, repeated: bool) -> dict[str, str]:
    from diffeat.viz.surface_page import INTERVALS

    train, held, tested = judge.counts
    told = {name: value for name, value in judge.describe().items() if value not in (None, "")}
    rule = ", ".join(f"{name} {value}" for name, value in told.items())
    number = judge.number
    alone = number.counted and number.groups == number.pictures
    return {
        "features": judge.source,
        "judged by": rule,
        judge.rows: f"{train} training, {held} validation, {tested} test",
        "chosen on": "validation; on test stands what was chosen, at each t and in all",
        **({"intervals": INTERVALS.format(held, judge.rows)} if alone and not repeated else {}),
        **({} if _lacks_mistakes(judge) else {"pictures shown": SHOWN}),
    }
