"""`diffeat explain`: what a kept linear head goes by."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import (
    allow_conditioned_option,
    json_option,
    labels_options,
    option,
    print_json,
    target_choice,
    threads_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command

DRAWN = 24
"""Pictures that are drawn where --limit says nothing."""
SPELT = 20
"""Scores up to which the mean of each stands in CSV and JSON."""
OF_FILE = ("model", "batch_size", "lora", "denoiser")
"""Options of pictures that are computed now, which this command does not have."""


@command()
@click.argument("head", type=click.Path(path_type=Path), metavar="HEAD")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@option(
    "--class",
    "which",
    default="predicted",
    show_default=True,
    metavar="NAME|predicted|true",
    help="Which score is explained: a class, each picture's predicted one, or its true one.",
)
@option("--by", type=click.Choice(["cell", "block", "t", "channel", "site"]), default="cell",
        show_default=True, help="What the table puts features together by.")  # fmt: skip
@option("--background", type=click.Path(path_type=Path), metavar="FILE", help="Features that "
        "pictures are compared with, such as those of training (default: FILE).")  # fmt: skip
@option("--top", type=click.IntRange(1), default=10, show_default=True,
        help="Lines of the table; --csv and --json have all.")  # fmt: skip
@option("-o", "--output", type=OutputPath(folder=True), metavar="FOLDER", help="Pictures with what "
        "their places add, red for the score and blue against it.")  # fmt: skip
@option("--pictures", "pictures_at", metavar="PICTURES", help="-o: where the pictures lie, if not "
        "where they were extracted from.")  # fmt: skip
@option("--limit", type=click.IntRange(1), help=f"-o: only so many pictures (default {DRAWN}).")
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the table as CSV, of up to 20 "
        "scores with the mean of each.")  # fmt: skip
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write a heat map of the "
        "shares of every (block, t) of HEAD.")  # fmt: skip
@labels_options
@allow_conditioned_option
@json_option
@threads_option
def explain(
    head, file, which, by, background, top, output, csv_path, png_path, as_json, **values
) -> None:
    """What a linear HEAD goes by, on the features of FILE: exact Shapley values.

    \b
    diffeat explain head.safetensors F.h5                          by block and t
    diffeat explain head.safetensors F.h5 --by channel --top 20    the channels that count most
    diffeat explain head.safetensors F.h5 --class cat -o why/      pictures, place by place

    The score of a linear head is a sum over features, so what a feature adds is its weight times
    its distance from the background's mean, exactly; groups of features add up, and all of them
    give the score less its mean. Heads with probabilities are explained in their logits. HEAD is
    one that diffeat probe --save or diffeat search --save kept, of vectors (--pool 1x1, 2x2, …).
    Features of one place (1x1) have no places to draw.
    """
    from diffeat.cli.applying import from_file
    from diffeat.cli.ending import warn
    from diffeat.conditioned import check_targets
    from diffeat.search.analysis.explained import Explanation, Features
    from diffeat.search.applied import Applied, pieces_of_file
    from diffeat.search.kept import load_head

    choice = target_choice(values)
    estimator, note = load_head(head, "cpu")
    _check(head, estimator)
    check_targets(str(head), note.told, values["allow_conditioned"])
    options = {**dict.fromkeys(OF_FILE), **values, "limit": None}
    with ExitStack() as stack:
        _, store, count, _ = from_file(stack, str(file), note, options)
        behind = store
        if background is not None:
            _, behind, _, _ = from_file(stack, str(background), note, options)
        applied = Applied(estimator, note)
        shapes = [store[cell].shape for cell in note.cells]
        if any(len(shape) != 2 for shape in shapes):
            raise click.ClickException(f"{file} holds maps; a head of vectors takes those of "
                                       "--pool 1x1, 2x2, …")  # fmt: skip
        widths = [shape[1] for shape in shapes]
        truth = _truth(applied, store, choice) if which == "true" else None
        found = Explanation(applied, Features.of(note, widths), which, truth)
        found.look(pieces_of_file(behind, note.cells, len(behind)))
        shares = found.summary(pieces_of_file(store, note.cells, count), by)
        drawn = 0
        if output is not None:
            drawn = _draw(found, store, note, output, values)
        if png_path is not None:
            cells = found.summary(pieces_of_file(store, note.cells, count), "cell")
            _heat(cells, note.cells, png_path, f"{head.name}: what each cell adds to {which!r}")
    rows = shares.rows(each=len(found.names) <= SPELT)
    if csv_path is not None:
        _write(csv_path, rows)
    facts = {
        "head": str(head), "of": str(file), "background": str(background or file), "class": which,
        "by": by, "pictures": found.rows, "drawn": drawn, "output": output and str(output),
        "groups": rows,
    }  # fmt: skip
    if found.features.grid == (1, 1) and (output is not None or by == "site"):
        warn("these features are means over the picture, which have one place; extract with "
             "--pool 2x2 or finer to see where")  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        _print(facts, rows[:top], len(rows) - top)


def _check(head: Path, estimator: Any) -> None:
    """UsageError for heads of pixels, whose masks say themselves where."""
    from diffeat.cli.depth import is_dense

    if is_dense(estimator):
        raise click.UsageError(
            f"{head} holds a {type(estimator).__name__}, which says something of every pixel; "
            "expected a linear head of whole pictures"
        )


def _truth(applied: Any, store: Any, choice: Any) -> Any:
    """(N,) index among the head's classes of each picture's label; −1 where it has none."""
    import numpy as np

    from diffeat.search.compared import truth_of

    known = truth_of(applied, store, choice)
    if known is None or applied.kind != "classes":
        raise click.ClickException("--class true: no classes are known of these pictures; give "
                                   "--labels TABLE, or name a class")  # fmt: skip
    names = [str(name) for name in known.class_names]
    places = {name: k for k, name in enumerate(applied.names)}
    index = np.array([places.get(name, -1) for name in names])
    labels = np.asarray(known.labels).astype(np.int64)
    return np.where(labels >= 0, index[np.clip(labels, 0, None)], -1)


def _draw(found: Any, store: Any, note: Any, output: Path, values: dict[str, Any]) -> int:
    """Pictures with what their places add; how many."""
    import numpy as np

    from diffeat.cli.dense import loader
    from diffeat.cli.outputs import make_ready
    from diffeat.search.applied import pieces_of_file
    from diffeat.search.dense.written import file_names, write_picture
    from diffeat.viz.explained import explained_sheet, sites_on

    count = min(len(store), values["limit"] or DRAWN)
    load = loader(store, count, values["pictures_at"])
    make_ready(output, folder=True)
    names, made = file_names(store.ids[:count]), []
    for phi, scores, rows in found.values(pieces_of_file(store, note.cells, count)):
        made += list(zip(rows.tolist(), scores.tolist(), found.sites(phi), strict=True))
    most = max((float(np.abs(sites).max()) for _, _, sites in made), default=1.0)
    for row, score, sites in made:
        picture = load(row)
        size = picture.shape[:2]
        input_size = note.spec.size or size
        where = None if store.placements is None else store.placements[row]
        shown = sites_on(sites, size, tuple(input_size), where)
        title = f"{found.names[score]} {sites.sum():+.2f}"
        write_picture(explained_sheet(picture, shown, most, title), output / f"{names[row]}.png")
    return len(made)


def _heat(shares: Any, cells: Any, path: Path, title: str) -> None:
    """Shares of cells, which lie in the head's order."""
    from diffeat.search import Grid, Measure
    from diffeat.viz import heat_map

    values = dict(zip(cells, shares.share.tolist(), strict=True))
    heat_map([Grid("share", values, Measure("share of mean |phi|", "%"))], path, title=title)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _print(facts: dict[str, Any], rows: list[dict[str, Any]], left: int) -> None:
    """For people."""
    by = facts["by"]
    said = {"predicted": "the predicted class", "true": "the true class"}.get(facts["class"])
    click.echo(f"{facts['head']}: Shapley values of {said or repr(facts['class'])} on "
               f"{facts['pictures']:,} pictures, by {by}")  # fmt: skip
    wide = max(len(by), *(len(row[by]) for row in rows))
    most = max(8, *(len(row["most for"]) for row in rows))
    click.echo(f"{by:<{wide}}  share %  mean |phi|  mean phi  {'most for':<{most}}".rstrip())
    click.echo("-" * (wide + 34 + most))
    for row in rows:
        click.echo(f"{row[by]:<{wide}}  {100 * row['share']:7.1f}  {row['mean |phi|']:10.4f}  "
                   f"{row['mean phi']:+8.4f}  {row['most for']}")  # fmt: skip
    if left > 0:
        click.echo(f"… {left:,} more (--top, --csv)")
    if facts["output"]:
        click.echo(
            f"{facts['output']}: {facts['drawn']:,} pictures, red for the score, blue against"
        )
