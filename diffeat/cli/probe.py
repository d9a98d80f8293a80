"""`diffeat probe`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.dense_options import dense_choice, dense_options, task_of
from diffeat.cli.ending import warn
from diffeat.cli.options import (
    allow_conditioned_option,
    cell_options,
    duplicates_option,
    json_option,
    option,
    positive_numbers,
    print_json,
    save_option,
    split_shares,
    target_choice,
    targets_options,
    task_option,
    threads_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.cli.probe_dense import check_dense, dense_probe_options, is_together, probe_dense
from diffeat.cli.search_pairs import missing_option
from diffeat.cli.shown import confusion_option, tested_confusion, write_confusion
from diffeat.cli.surface_shown import html_option, write_surface_html


@command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("test_file", type=click.Path(path_type=Path), required=False)
@option(
    "--split",
    default="0.6,0.2,0.2",
    show_default=True,
    callback=split_shares,
    help="Training, validation and test shares, by a stable hash of the ids.",
)
@option("--seed", default=0, show_default=True, help="Seed of the split.")
@option(
    "-C",
    "penalties",
    callback=positive_numbers,
    help="To choose from on validation: inverse penalties (default 0.0001,0.001,0.01,0.1,1); of "
    "regression and multilabel penalties of ridge (default 0.01,0.1, … 100000).",
)
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the table as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write a heat map.")
@html_option
@confusion_option
@option("--device", default="cpu", show_default=True, help="Where the probes are fitted.")
@save_option
@task_option
@cell_options
@targets_options
@dense_options
@dense_probe_options
@missing_option
@allow_conditioned_option
@duplicates_option
@json_option
@threads_option
def probe(
    file,
    test_file,
    split,
    seed,
    penalties,
    csv_path,
    png_path,
    html_path,
    confusion,
    save_path,
    device,
    as_json,
    task,
    **choices,
) -> None:
    """Fit and score a linear probe for every (block, t) of FILE.

    \b
    diffeat probe F.h5                                    classes that the file has
    diffeat probe F.h5 --labels T.csv --groups person     of a table; no person on two sides
    diffeat probe F.h5 --task regression --column age     numbers: R²
    diffeat probe F.h5 --task multilabel --labels T.csv   several labels: mean average precision
    diffeat probe F.h5 --masks DIR|NAME                   classes of pixels: mean IoU
    diffeat probe F.h5 --masks NAME --head ensemble -b mid,up.0 -t 20,100   one head on all cells
    diffeat probe F.h5 --masks NAME --few 1,5,20,all -b mid,up.0 -t 20      few labelled pictures

    Without TEST_FILE the pictures are split by a stable hash of their ids; with it, FILE gives
    training and validation (80 to 20) and TEST_FILE the test. The table shows validation
    accuracy (R², mean average precision), on which everything is chosen; the chosen cells are
    scored on test once.
    """
    from contextlib import ExitStack

    from diffeat.backbones.devices import pick_device
    from diffeat.progress import track
    from diffeat.search import search_surface
    from diffeat.search.beside import beside, beside_lines
    from diffeat.search.judges import PIXELS, Choices, task_kind
    from diffeat.search.kept import keep_head
    from diffeat.store import FeatureStore
    from diffeat.viz import heat_map

    choices |= {"task": task, "penalties": penalties, "device": device, "seed": seed}
    kind = task_kind(task_of(choices))
    if kind.takes == "pairs":
        raise click.UsageError(f"--task {task} trains no probe; ask diffeat search --task {task}")
    check_dense(kind, choices)
    dense = dense_choice(choices, kind.takes) if kind.takes in PIXELS else None
    if confusion and dense is not None:
        raise click.UsageError("--confusion shows classes of pictures, and --masks has classes of "
                               "pixels")  # fmt: skip
    with ExitStack() as stack:
        store = stack.enter_context(FeatureStore(file))
        test = stack.enter_context(FeatureStore(test_file)) if test_file else None
        asked = Choices(
            split, seed, choices["blocks"] or None, store.native(choices["timesteps"]) or None,
            choices["allow_conditioned"], choices["duplicates"], penalties=penalties,
            device=str(pick_device(device)), targets=target_choice(choices), dense=dense,
        )  # fmt: skip
        judge = kind.from_files(store, test, asked)
        if save_path:
            judge.check_head()
        if dense is not None and is_together(choices):
            return probe_dense(judge, choices, save_path, csv_path, png_path or html_path, as_json)
        surface = search_surface(
            judge, progress=lambda cells: track(cells, desc="probe", unit="cells")
        )
        if save_path:
            keep_head(judge, surface.best.choice, save_path)
        more = beside(judge, surface.best.choice)
        if html_path:
            lines = [*_lines(surface, judge), *beside_lines(judge, more)]
            write_surface_html(html_path, judge, [surface], lines, str(file), as_json)
        confused = tested_confusion(judge, surface.best.choice) if confusion else None
    if as_json:
        print_json({**surface.to_dict(), **more})
    else:
        click.echo("\n".join([*_lines(surface, judge), *beside_lines(judge, more)]))
    if confused:
        write_confusion(confusion, confused, as_json)
    if judge.few:
        warn(judge.few)
    if save_path:
        click.echo(f"{save_path}: {surface.best}, fitted on both", err=as_json)
    if csv_path:
        surface.write_csv(csv_path)
    if png_path:
        rule = "linear probe" if surface.score == "logistic" else surface.score
        heat_map([surface.grid], png_path, title=f"{rule}, {file.name}")


def _lines(surface, judge) -> list[str]:
    """What was found, for people."""
    from diffeat.noise import shown_t

    best = surface.best
    setting = "" if best.setting is None else f" (setting {best.setting:g})"
    tested = surface.measure.say_test(best.test, surface.interval)
    chosen = (
        f"best on validation: {best.block}{shown_t(best.t, ' at t=')}{setting}; "
        f"refitted on both, {tested}"
    )
    return [judge.headline, *surface.lines(), chosen]
