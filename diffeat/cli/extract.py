"""`diffeat extract`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from diffeat.cli.ending import note, resumable
from diffeat.cli.job_options import JOB_OPTIONS, asked_job, job_options
from diffeat.cli.options import json_option, model_fields, option, print_json, threads_option
from diffeat.cli.outputs import OutputPath, command
from diffeat.cli.plan import show_plan
from diffeat.errors import PictureError


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
@job_options
@option("--dry-run", is_flag=True, help="Only say what it takes, as `diffeat plan` does.")
@json_option
@threads_option
def extract(model, pictures, output, recipe, spec_file, limit, dry_run, as_json, **values) -> None:
    """Extract features of PICTURES with MODEL into an HDF5 file.

    All blocks of one (picture, t) come from one forward, which stops after the last of them.
    Run again after an interruption, the command continues; when all is done, it does nothing.
    Pictures that have come since are added to the file, and they alone are computed. PICTURES may
    be a video, too, and clips:FOLDER are folders of frames (docs/video.md).
    """
    from diffeat.backbones import ModelRequest
    from diffeat.jobs import extract_to_file

    if dry_run:
        asked = model, pictures, recipe, spec_file, limit, values
        show_plan(*asked, output=output, as_json=as_json)
        return
    spec, source = asked_job(model, pictures, recipe, spec_file, limit, values)
    _note_targets(spec)
    request = ModelRequest(model, **model_fields(values))
    options = {name: values[name] for name in JOB_OPTIONS}
    try:
        with resumable("finished batches are kept; run the same command again"):
            result = extract_to_file(request, source, spec, output, announce=True, **options)
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
    from diffeat.extraction.learned_prompts import embedding_rows

    if spec.embeddings and not Path(spec.embeddings).is_file():
        return  # which the extraction will say
    rows = spec.embeddings and {EMBEDDING_ROWS: embedding_rows(spec.embeddings)}
    if (why := conditioned(spec, rows)) and os.environ.get("RANK", "0") == "0":  # of torchrun
        note(
            f"these features are conditioned on their own targets ({why}): good for "
            "matching, but they cannot be probed or searched for these classes"
        )
