"""`diffeat probe`."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.options import (
    allow_conditioned_option,
    json_option,
    positive_numbers,
    print_json,
    split_shares,
)
from diffeat.errors import SpecError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("test_file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--split",
    default="0.6,0.2,0.2",
    show_default=True,
    callback=split_shares,
    help="Training, validation and test shares, by a stable hash of the ids.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the split.")
@click.option(
    "-C",
    "penalties",
    default="0.0001,0.001,0.01,0.1,1",
    show_default=True,
    callback=positive_numbers,
    help="Inverse penalties to choose from on validation.",
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the table as CSV.")
@click.option("--png", "png_path", type=click.Path(path_type=Path), help="Write a heat map.")
@click.option("--device", default="cpu", show_default=True, help="Where the probes are fitted.")
@allow_conditioned_option
@json_option
def probe(
    file, test_file, split, seed, penalties, csv_path, png_path, device, allow_conditioned, as_json
) -> None:
    """Fit and score a linear probe for every (block, t) of FILE.

    Without TEST_FILE the pictures are split by a stable hash of their ids; with it, FILE gives
    training and validation (80 to 20) and TEST_FILE the test. The table shows validation
    accuracy, on which everything is chosen; the chosen cells are scored on test once.
    """
    from contextlib import ExitStack

    from tqdm import tqdm

    from diffeat.backbones.loading import pick_device
    from diffeat.noise import format_t
    from diffeat.search import probe_surface, task_from_store
    from diffeat.store import FeatureStore
    from diffeat.viz import heat_map

    if abs(sum(split) - 1) > 1e-6:
        raise SpecError(f"--split {split}; expected three shares that sum to 1")
    device = str(pick_device(device))
    with ExitStack() as stack:
        store = stack.enter_context(FeatureStore(file))
        test = stack.enter_context(FeatureStore(test_file)) if test_file else None
        task = task_from_store(store, split, seed, test, allow_conditioned=allow_conditioned)
        surface = probe_surface(
            task, penalties, lambda cells: tqdm(cells, desc="probe", disable=None), device
        )
    if csv_path:
        surface.write_csv(csv_path)
    if png_path:
        heat_map([surface], png_path, title=f"linear probe, {file.name}")
    if as_json:
        print_json(surface.to_dict())
        return
    train, held, tested = surface.counts
    click.echo(
        f"{surface.name}: linear probe, validation accuracy in %, {surface.classes} classes, "
        f"{train} training and {held} validation pictures"
    )
    click.echo(surface.table())
    best = surface.best
    click.echo(f"best on validation: {best.block} at t={format_t(best.t)}, C={best.C:g}; "
               f"refitted on both, {100 * best.test:.1f} % on {tested} test pictures")  # fmt: skip
