"""`diffeat extract`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from diffeat.cli.ending import note, resumable
from diffeat.cli.options import (
    batch_rows,
    comma_list,
    json_option,
    model_fields,
    model_options,
    on_error_option,
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
@option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="A table with the "
              "pictures' labels and targets, by id or file name: .csv, .tsv, .json, .jsonl, a list "
              "or tars (docs/targets.md).")  # fmt: skip
@option("--column", "columns", callback=comma_list, metavar="NAME,…", help="Of the table or list "
              "only these: the first of classes becomes the labels, others targets.")  # fmt: skip
@option("--no-labels", is_flag=True, help="Take no labels or targets, whatever is there.")
@option("--limit", type=click.IntRange(1),
              help="Only so many pictures, class-balanced, by a stable hash.")  # fmt: skip
@option("--batch-size", callback=batch_rows, help="Rows of one forward, or auto: measured "
              "once and remembered (default by size).")  # fmt: skip
@option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Decoding threads.")
@on_error_option
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
def extract(
    model, pictures, output, recipe, spec_file, labels, columns, no_labels, limit, as_json, **values
) -> None:
    """Extract features of PICTURES with MODEL into an HDF5 file.

    All blocks of one (picture, t) come from one forward, which stops after the last of them.
    Run again after an interruption, the command continues; when all is done, it does nothing.
    Pictures that have come since are added to the file, and they alone are computed.
    """
    from diffeat.backbones import ModelRequest
    from diffeat.jobs import extract_to_file
    from diffeat.vision.names import defaults_for

    spec = spec_of(recipe, spec_file, values, defaults_for(model))
    if no_labels and (labels or columns):
        raise click.UsageError("--no-labels with --labels or --column; expected one of them")
    source = open_pictures(pictures, True, labels, columns or (), no_labels, limit)
    _note_targets(spec)
    request = ModelRequest(model, **model_fields(values))
    options = {name: values[name] for name in JOB_OPTIONS}
    try:
        with resumable("finished batches are kept; run the same command again"):
            result = extract_to_file(request, source, spec, output, **options)
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    if result is not None:  # else a rank of torchrun; the first tells
        _tell(result, model, output, as_json)


def _tell(result, model: str, output: Path, as_json: bool) -> None:
    """What was done, and what was noticed on the way."""
    if result.converted:
        text = "picture had an ICC profile and was" if result.converted == 1 else (
            "pictures had an ICC profile and were"
        )  # fmt: skip
        note(f"{result.converted:,} {text} converted to sRGB")
    if result.classes:
        note(f"classes of {model} {result.classes}")
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
        note(
            f"these features are conditioned on their own targets ({why}): good for "
            "matching, but they cannot be probed or searched for these classes"
        )
