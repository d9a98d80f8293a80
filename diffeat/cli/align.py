"""`diffeat align`."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import click

from diffeat.cli.options import (
    comma_list,
    duplicates_option,
    json_option,
    open_pictures,
    option,
    print_json,
    threads_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath, command

CELL = re.compile(r"(?P<file>.+\.(?:h5|hdf5))(?::(?P<block>[^@]+)(?:@(?P<t>[^@]+))?)?")
"""FILE.h5:BLOCK@T; a block may hold a colon, too, and of a file with one t it can be left out."""


@command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("pictures", required=False)
@option("--with", "other", help="A vision model (timm:NAME, a folder, a hub id; with "
              "PICTURES by default facebook/dinov2-base), or a cell of a file "
              "(FILE.h5:BLOCK@T; FILE.h5:BLOCK where it has one t).")  # fmt: skip
@option("--again", type=click.Path(path_type=Path), help="The same pictures with another "
              "noise seed, for DDAE's alignment.")  # fmt: skip
@option("--metrics", callback=comma_list, help="cka, cka-debiased, knn, cknna, cknna-public, "
              "uniformity, alignment; by default all that can be had.")  # fmt: skip
@option("-k", "neighbours", type=click.IntRange(1), default=10, show_default=True,
              help="Neighbours, of knn and cknna.")  # fmt: skip
@option(
    "-t",
    "--timesteps",
    callback=comma_list,
    help="Only these t: native, or as they were asked for (sigma=0.3, snr=10).",
)
@option("-b", "--blocks", callback=comma_list, help="Only these blocks.")
@option("--limit", type=click.IntRange(1), default=2000, show_default=True,
              help="Most pictures, class-balanced by a hash of their ids.")  # fmt: skip
@option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of --limit.")
@option("--pool", type=click.Choice(("default", "cls", "mean")), default="default",
              show_default=True, help="Vector of the vision model.")  # fmt: skip
@option("--keep", type=OutputPath((".safetensors",)), help="Keep the vision "
              "model's features in this .safetensors file; a second run reads them.")  # fmt: skip
@option("--batch-size", type=click.IntRange(1), default=64, show_default=True,
              help="Pictures of one forward of the vision model.")  # fmt: skip
@option("--workers", type=click.IntRange(1), default=2, show_default=True,
              help="Decoding threads.")  # fmt: skip
@option("--device", default="auto", show_default=True, help="Where the vision model runs.")
@option("--model-dtype", default="auto", show_default=True, help="Precision of the vision model.")
@option("--allow-pickle", is_flag=True, help="Also load pickled weights, which can run code.")
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write the table as CSV.")
@option("--png", "png_path", type=OutputPath(PICTURES, strict=True), help="Write heat maps.")
@duplicates_option
@json_option
@threads_option
def align(file, pictures, other, again, csv_path, png_path, as_json, **values) -> None:
    """Compare every (block, t) of FILE with another representation.

    \b
    diffeat align F.h5 cifar10                               DINOv2
    diffeat align F.h5 cifar10 --with timm:resnet50          another vision model
    diffeat align F.h5 --with G.h5:block.7@60                a cell of another model
    diffeat align F.h5 --with V.h5:blocks.11                 a block of a vision model's file
    diffeat align F.h5 --again F-seed1.h5                    alignment and uniformity

    A vision model sees the PICTURES that FILE was made from; without them they are looked for
    where FILE says. Maps are averaged over places.
    Without all these: uniformity alone.
    """
    from diffeat.noise import parse_level
    from diffeat.progress import track
    from diffeat.search.analysis import (
        align_features,
        cell_of,
        check_request,
        choose_rows,
        pictures_of,
    )
    from diffeat.store import FeatureStore, find_originals
    from diffeat.vision import DEFAULT
    from diffeat.viz import heat_map

    if pictures and not other:
        other = DEFAULT
    cell = CELL.fullmatch(other or "")
    _check_usage(pictures, other, cell, values)
    if cell and cell["t"]:
        parse_level(cell["t"])  # before anything is opened
    with ExitStack() as stack:
        store = stack.enter_context(FeatureStore(file))
        options = {
            "metrics": values["metrics"],
            "k": values["neighbours"],
            "rows": choose_rows(store, values["limit"], values["seed"], values["duplicates"]),
            "blocks": values["blocks"],
            "timesteps": store.native(values["timesteps"]),
            "again": stack.enter_context(FeatureStore(again)) if again else None,
        }
        # what cannot be computed is told before a model runs
        asked = {**options, "count": len(options["rows"])}
        del asked["rows"]
        check_request(store, other is not None, **asked)
        partner = None
        if cell:
            with FeatureStore(cell["file"]) as second:
                t = second.level(cell["t"]).t if cell["t"] else _only_t(second, other)
                partner = cell_of(second, cell["block"], t, store, options["rows"])
        elif other:
            source = (
                open_pictures(pictures)
                if pictures
                else find_originals(store, store.ids, option="PICTURES")[0]
            )
            source = pictures_of(store, options["rows"], source)
            partner = _seen(other, source, values)
        table = align_features(
            store, partner, other_name=other or "",
            progress=lambda cells: track(cells, desc="align", unit="cells"), **options,
        )  # fmt: skip
    if as_json:
        print_json(table.to_dict())
    else:
        click.echo(_headline(table))
        click.echo(table.table())
    if csv_path:
        table.write_csv(csv_path)
    if png_path:
        heat_map(table.grids, png_path, title=_headline(table), shared=False)


def _check_usage(pictures: str | None, other: str | None, cell, values: dict) -> None:
    """UsageError unless PICTURES and options go together."""
    if cell and cell["block"] is None:
        raise click.UsageError(f"--with {other}: say which cell of the file: {other}:BLOCK@T")
    if pictures and cell:
        raise click.UsageError("PICTURES are for a vision model, not for a cell of a file")
    if values["keep"] and (cell or not other):
        raise click.UsageError("--keep is for the features of a vision model (--with MODEL)")


def _only_t(second, name: str) -> int | float:
    """The t of a file that has but one, as a vision model's has."""
    if len(second.timesteps) > 1:
        steps = ", ".join(map(str, second.timesteps))
        raise click.UsageError(f"--with {name}: say which t ({steps}): {name}@T")
    return second.timesteps[0]


def _seen(name: str, source, values: dict):
    """(n, D) features of the pictures by a vision model."""
    from diffeat.vision import load_vision

    model = load_vision(
        name, values["device"], values["model_dtype"], values["pool"], values["allow_pickle"]
    )
    return model.features(source, values["batch_size"], values["workers"], keep=values["keep"])


def _headline(table) -> str:
    text = f"{table.name}: {table.pictures} pictures"
    if table.other:
        text += f", against {table.other}"
    if table.again:
        text += f", again {Path(table.again).name}"
    return text + (f", k={table.k}" if any("nn" in name for name in table.metrics) else "")
