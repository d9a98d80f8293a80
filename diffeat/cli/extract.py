"""`diffeat extract`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import click

from diffeat.cli.options import comma_list, json_option, model_options, print_json
from diffeat.errors import PictureError, SpecError


def _size(_context, _option, value: str | None):
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() for part in parts):
        raise click.BadParameter("expected pixels such as 512, or height x width such as 480x640")
    return tuple(int(part) for part in (parts * 2)[:2])


@click.command()
@click.argument("model")
@click.argument("pictures")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The .h5 file."
)
@click.option(
    "-t",
    "--timesteps",
    callback=comma_list,
    help="Noise levels: 20,60 or sigma=0.3 or snr=10; flow models also 0.25.",
)
@click.option(
    "-b",
    "--blocks",
    callback=comma_list,
    help="Names, wildcards (up.*, up.*.res.*, up.**) or all, encoder, decoder, stages.",
)
@click.option(
    "--spec",
    "spec_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML or JSON file of spec fields; options on the command line win.",
)
@click.option("--pool", help="none (maps, the default), 1x1, 2x2, …")
@click.option("--ensemble", type=int, help="Noise samples averaged per picture (default 1).")
@click.option("--seed", type=int, help="Seed of the noise (default 0).")
@click.option("--noise", help="per-image (default), shared or none.")
@click.option("--prompt", help="For text-conditional models (default empty).")
@click.option("--label", type=int, help="For class-conditional models (default the null class).")
@click.option("--latent", help="VAE posterior: mean (default) or sample.")
@click.option("--size", callback=_size, help="Picture size, 512 or 480x640 (default: the model's).")
@click.option("--fit", help="squash (default), crop or pad.")
@click.option("--resample", help="nearest, bilinear, bicubic (default) or lanczos.")
@click.option("--dtype", help="Stored precision: float16 (default) or float32.")
@click.option("--limit", type=click.IntRange(1),
              help="Only so many pictures, class-balanced, by a stable hash.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), help="Rows of one forward (default by size).")
@click.option(
    "--workers", type=click.IntRange(1), default=2, show_default=True, help="Decoding threads."
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with an unreadable picture.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@model_options
@json_option
def extract(model, pictures, output, spec_file, limit, batch_size, workers, on_error, overwrite,
            device, model_dtype, allow_pickle, as_json, **values) -> None:  # fmt: skip
    """Extract features of PICTURES with MODEL into an HDF5 file.

    All blocks of one (picture, t) come from one forward, which stops after the last of them.
    Run again after an interruption, the command continues; when all is done, it does nothing.
    """
    import diffeat

    spec = _spec(spec_file, values)
    source = diffeat.open_source(pictures)
    source = source.limit(limit) if limit else source
    backbone = diffeat.load(model, device, model_dtype, allow_pickle)
    try:
        result = diffeat.extract_to_file(
            backbone, source, spec, output, batch_size, workers, on_error, overwrite
        )
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    except KeyboardInterrupt:
        click.echo("interrupted: finished batches are kept; run the same command again", err=True)
        sys.exit(1)
    if as_json:
        print_json({**vars(result), "path": str(result.path)})
    elif result.status == "already complete":
        lacking = f" ({result.skipped} pictures skipped)" if result.skipped else ""
        click.echo(f"{output}: already complete{lacking}, nothing to do")
    else:
        skipped = f", {result.skipped} skipped (see `diffeat info`)" if result.skipped else ""
        click.echo(
            f"{output}: {result.pictures} pictures{skipped}, {result.computed} computed now, "
            f"{result.seconds:.1f} s on {backbone.device}"
        )


def _spec(spec_file: Path | None, values: dict):
    """The spec of the options, over the fields of the file where there is one."""
    from diffeat.specs import ExtractSpec, read_spec_file

    known = {field.name for field in fields(ExtractSpec)}
    given = {name: value for name, value in values.items() if value is not None and name in known}
    if spec_file is not None:
        given = {**read_spec_file(spec_file), **given}
    for name, option in (("timesteps", "-t"), ("blocks", "-b")):
        if not given.get(name):
            raise SpecError(
                f"no {name} given; expected {option}, or --spec with a file that has them"
            )
    return ExtractSpec.from_dict(given)
