"""`diffeat extract`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from diffeat.cli.options import (
    batch_rows,
    json_option,
    model_fields,
    model_options,
    open_pictures,
    option,
    print_json,
    speed_options,
    threads_option,
)
from diffeat.cli.outputs import OutputPath, command
from diffeat.cli.spec_options import recipe_option, spec_file_option, spec_of, spec_options
from diffeat.errors import PictureError

COMPRESSIONS = ("none", "lzf", "gzip", "zstd")
ENGINES = ("auto", "local", "torchrun", "ray")
JOB_OPTIONS = ("batch_size", "workers", "on_error", "overwrite", "compression", "engine",
               "processes", "address")  # fmt: skip
"""Options that go to `diffeat.extract_to_file` as they are."""


@command()
@click.argument("model")
@click.argument("pictures")
@option(
    "-o",
    "--output",
    required=True,
    type=OutputPath((".h5", ".hdf5"), hint="export it afterwards: diffeat export F.h5 -o F.npz"),
    help="The .h5 file.",
)
@recipe_option
@spec_file_option
@spec_options()
@option("--limit", type=click.IntRange(1),
              help="Only so many pictures, class-balanced, by a stable hash.")  # fmt: skip
@option("--batch-size", callback=batch_rows, help="Rows of one forward, or auto: measured "
              "once and remembered (default by size).")  # fmt: skip
@option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Decoding threads.")
@option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with an unreadable picture.",
)
@option("--overwrite", is_flag=True, help="Replace an existing output.")
@option("--compression", type=click.Choice(COMPRESSIONS), default="none", show_default=True,
              help="Of the file; lossless.")  # fmt: skip
@option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True,
              help="Where it runs; auto is torchrun where that started us, else this "
              "machine.")  # fmt: skip
@option("--processes", type=click.IntRange(1), help="Copies of the model, each in a process "
              "of its own (default 1; with ray one per accelerator or node).")  # fmt: skip
@option("--address", help="Of a running Ray cluster: auto, or ray://HOST:PORT (default: one "
              "on this machine).")  # fmt: skip
@model_options
@speed_options
@json_option
@threads_option
def extract(model, pictures, output, recipe, spec_file, limit, as_json, **values) -> None:
    """Extract features of PICTURES with MODEL into an HDF5 file.

    All blocks of one (picture, t) come from one forward, which stops after the last of them.
    Run again after an interruption, the command continues; when all is done, it does nothing.
    Pictures that have come since are added to the file, and they alone are computed.
    """
    from diffeat.backbones import ModelRequest
    from diffeat.jobs import extract_to_file
    from diffeat.vision.names import defaults_for

    spec = spec_of(recipe, spec_file, values, defaults_for(model))
    source = open_pictures(pictures)
    source = source.limit(limit) if limit else source
    _note_targets(spec)
    request = ModelRequest(model, **model_fields(values))
    options = {name: values[name] for name in JOB_OPTIONS}
    try:
        result = extract_to_file(request, source, spec, output, **options)
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    except KeyboardInterrupt:
        click.echo("interrupted: finished batches are kept; run the same command again", err=True)
        sys.exit(1)
    if result is not None:  # else a rank of torchrun; the first tells
        _tell(result, model, output, as_json)


def _tell(result, model: str, output: Path, as_json: bool) -> None:
    """What was done, and what was noticed on the way."""
    if result.converted:
        text = "picture had an ICC profile and was" if result.converted == 1 else (
            "pictures had an ICC profile and were"
        )  # fmt: skip
        click.echo(f"{result.converted:,} {text} converted to sRGB", err=True)
    if result.classes:
        click.echo(f"classes of {model} {result.classes}", err=True)
    if as_json:
        print_json({**vars(result), "path": str(result.path)})
    elif result.status == "already complete":
        lacking = f" ({result.skipped} pictures skipped)" if result.skipped else ""
        click.echo(f"{output}: already complete{lacking}, nothing to do")
    else:
        skipped = f", {result.skipped} skipped (see `diffeat info`)" if result.skipped else ""
        click.echo(
            f"{output}: {result.pictures} pictures{skipped}, {result.computed} computed now, "
            f"{result.seconds:.1f} s on {result.where}"
        )


def _note_targets(spec) -> None:
    """Say it if the pictures' own targets go into their features."""
    from diffeat.conditioned import EMBEDDING_ROWS, conditioned
    from diffeat.extraction.conditions import embedding_rows

    if spec.embeddings and not Path(spec.embeddings).is_file():
        return  # which the extraction will say
    rows = spec.embeddings and {EMBEDDING_ROWS: embedding_rows(spec.embeddings)}
    if (why := conditioned(spec, rows)) and os.environ.get("RANK", "0") == "0":  # of torchrun
        click.echo(
            f"note: these features are conditioned on their own targets ({why}): good for "
            "matching, but they cannot be probed or searched for these classes",
            err=True,
        )
