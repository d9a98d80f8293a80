"""`diffeat probe --masks` and `--depth`: one head on all cells together, and few labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import warn
from diffeat.cli.options import option, print_json
from diffeat.cli.search_pairs import check_pairs_options

FEW = ("few", "draws", "together")
"""Options of heads that say something at every pixel."""


def _counts(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "1,5,all" → (1, 5, "all")."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts or not all(one == "all" or (one.isdecimal() and int(one)) for one in parts):
        raise click.BadParameter(f"{value!r}; expected numbers of pictures such as 1,5,20,all")
    return tuple(one if one == "all" else int(one) for one in parts)


def dense_probe_options(command: Callable) -> Callable:
    """--together, --few and --draws."""
    for each in (
        option("--draws", type=click.IntRange(1), default=5, show_default=True,
               help="--few: how often labelled pictures are drawn."),
        option("--few", callback=_counts, metavar="1,5,…,all", help="masks, depth: with so many "
               "labelled pictures, drawn again and again; one head on all cells together."),
        option("--together", is_flag=True, help="masks, depth: one head on all cells side by side "
               "(always so of ensemble, fpn, dpt and vpd), in place of one for each."),
    ):  # fmt: skip
        command = each(command)
    return command


def check_dense(kind: Any, values: dict[str, Any]) -> None:
    """UsageError for options that the task has no use for."""
    check_pairs_options(kind)
    context = click.get_current_context()
    given = [f"--{name}" for name in FEW
             if context.get_parameter_source(name).name == "COMMANDLINE"]  # fmt: skip
    if given and kind.takes not in ("masks", "depth"):
        raise click.UsageError(f"{', '.join(given)}: with --masks or --depth")
    if "--draws" in given and not values["few"]:
        raise click.UsageError("--draws is for --few")


def is_together(values: dict[str, Any]) -> bool:
    """Whether one head is asked for on all cells."""
    from diffeat.search.dense.heads import TOGETHER

    return bool(values["together"] or values["few"] or values["head"] in TOGETHER)


def probe_dense(
    judge: Any, values: dict[str, Any], save_path: Path | None, csv_path: Path | None,
    drawn: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Train one head on all cells of a judge, and say what it is worth."""
    if drawn is not None:
        raise click.UsageError(f"{drawn}: heat maps are of single cells, and one head on all of "
                               "them has none; leave it out")  # fmt: skip
    if values["few"]:
        return _few(judge, values, save_path, csv_path, as_json)
    if csv_path:
        raise click.UsageError("--csv: a table is of single cells, or of --few; --json prints the "
                               "numbers of one head")  # fmt: skip
    return _together(judge, save_path, as_json)


def _few(judge: Any, values: dict, save_path: Any, csv_path: Any, as_json: bool) -> None:
    from diffeat.progress import track
    from diffeat.search.dense.labels import few_labels

    if save_path:
        raise click.UsageError("--save: of --few there are many heads; leave --few out")
    found = few_labels(
        judge.bound, counts=values["few"], draws=values["draws"], seed=values["seed"], judge=judge,
        progress=lambda plan: track(plan, desc="few labels", unit="fits"),
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo("\n".join([judge.headline, *found.lines()]))
    if judge.few:
        warn(judge.few)
    if csv_path:
        found.write_csv(csv_path)


def _together(judge: Any, save_path: Path | None, as_json: bool) -> None:
    from diffeat.search.asking import ask_test
    from diffeat.search.beside import beside, beside_lines
    from diffeat.search.finding import Choice, cell_text
    from diffeat.search.judge import Mix
    from diffeat.search.kept import keep_head

    cells = judge.cells
    candidate = cells[0] if len(cells) == 1 else Mix(cells)
    judge.check()
    judge.check_memory(candidate, MOST)
    [outcome] = judge.validate([candidate], judge.part)
    test, interval = ask_test(judge, candidate, outcome.setting, MOST)
    choice = Choice(candidate, outcome.setting, outcome.validation, test)
    if save_path:
        keep_head(judge, choice, save_path)
    more, number = beside(judge, choice), judge.number
    if as_json:
        print_json({
            "name": judge.source, "head": judge.choice.name,
            "cells": [{"block": block, "t": t} for block, t in cells],
            "validation": outcome.validation, "setting": outcome.setting, "test": test,
            "test_interval_95": interval, "counts": judge.counts, "measure": number.to_dict(),
            **more,
        })  # fmt: skip
    else:
        setting = "" if outcome.setting is None else f" (setting {outcome.setting:g})"
        click.echo("\n".join([
            judge.headline,
            f"{judge.choice.name} on {' + '.join(map(cell_text, cells))}{setting}: validation "
            f"{number.say(outcome.validation)}; refitted on both, "
            f"{number.say_test(test, interval)}",
            *beside_lines(judge, more),
        ]))  # fmt: skip
    if judge.few:
        warn(judge.few)
    if save_path:
        click.echo(f"{save_path}: {judge.choice.name}, fitted on both", err=as_json)


MOST = 8 << 30
"""Bytes that one head on all cells may take."""
