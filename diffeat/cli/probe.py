"""`diffeat probe`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.options import (
    allow_conditioned_option,
    duplicates_option,
    json_option,
    option,
    positive_numbers,
    print_json,
    split_shares,
    threads_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command
from diffeat.errors import SpecError


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
    default="0.0001,0.001,0.01,0.1,1",
    show_default=True,
    callback=positive_numbers,
    help="Inverse penalties to choose from on validation.",
)
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the table as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write a heat map.")
@option("--device", default="cpu", show_default=True, help="Where the probes are fitted.")
@allow_conditioned_option
@duplicates_option
@json_option
@threads_option
def probe(
    file, test_file, split, seed, penalties, csv_path, png_path, device, as_json, **choices
) -> None:
    """Fit and score a linear probe for every (block, t) of FILE.

    Without TEST_FILE the pictures are split by a stable hash of their ids; with it, FILE gives
    training and validation (80 to 20) and TEST_FILE the test. The table shows validation
    accuracy, on which everything is chosen; the chosen cells are scored on test once.
    """
    from contextlib import ExitStack

    from tqdm import tqdm

    from diffeat.backbones.devices import pick_device
    from diffeat.search import probe_surface, task_from_store
    from diffeat.search.intervals import few_text
    from diffeat.store import FeatureStore
    from diffeat.viz import heat_map

    if abs(sum(split) - 1) > 1e-6:
        raise SpecError(f"--split {split}; expected three shares that sum to 1")
    device = str(pick_device(device))
    with ExitStack() as stack:
        store = stack.enter_context(FeatureStore(file))
        test = stack.enter_context(FeatureStore(test_file)) if test_file else None
        task = task_from_store(store, split, seed, test, **choices)
        surface = probe_surface(
            task, penalties, lambda cells: tqdm(cells, desc="probe", disable=None), device
        )
    if as_json:
        print_json(surface.to_dict())
    else:
        _tell(surface)
    if few := few_text(surface.name, surface.counts[2]):
        click.echo(f"warning: {few}", err=True)
    if csv_path:
        surface.write_csv(csv_path)
    if png_path:
        heat_map([surface], png_path, title=f"linear probe, {file.name}")


def _tell(surface) -> None:
    """What was found, for people."""
    from diffeat.noise import shown_t
    from diffeat.search.intervals import accuracy_text

    train, held, tested = surface.counts
    split = f", split class by class ({surface.how})" if surface.how else ""
    click.echo(
        f"{surface.name}: linear probe, validation accuracy in %, {surface.classes} classes, "
        f"{train} training and {held} validation pictures{split}"
    )
    click.echo(surface.table())
    best = surface.best
    click.echo(f"best on validation: {best.block}{shown_t(best.t, ' at t=')}, C={best.C:g}; "
               f"refitted on both, {accuracy_text(best.test, tested)}")  # fmt: skip
