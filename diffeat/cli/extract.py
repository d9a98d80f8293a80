"""`diffeat extract`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from diffeat.cli.options import (
    batch_rows,
    class_label,
    comma_list,
    index_list,
    json_option,
    model_fields,
    model_options,
    open_pictures,
    option,
    pixel_size,
    print_json,
    spec_of,
    speed_options,
    threads_option,
)
from diffeat.cli.outputs import OutputPath, command
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
@option(
    "-t",
    "--timesteps",
    callback=comma_list,
    help="Noise levels: 20,60 or sigma=0.3 or snr=10; flow models also 0.25; vision models "
    "(timm:…, transformers:…) need none.",
)
@option(
    "-b",
    "--blocks",
    callback=comma_list,
    help="Names (up.1, up.1.attn.0:cross.q), wildcards (up.*, up.*.res.*, up.**), groups (all, "
    "encoder, decoder, stages) or a paper's names (dift:1).",
)
@option("--recipe", help="Fields of a published system (see `diffeat recipes`).")
@option(
    "--spec",
    "spec_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML or JSON file of spec fields, over the recipe's; options win over both.",
)
@option("--pool", help="none (maps, the default), 1x1, 2x2, …")
@option("--ensemble", type=int, help="Noise samples averaged per picture (default 1).")
@option("--seed", type=int, help="Seed of the noise (default 0).")
@option("--noise", help="per-image (default), shared, uniform, none, inversion or "
              "generation.")  # fmt: skip
@option("--steps", type=int, help="Steps of an inversion or generation (default 50).")
@option("--prompt", help="For text-conditional models (default empty); {class} is the "
              "picture's class.")  # fmt: skip
@option("--captions", help="CSV, TSV or JSONL file with a prompt per picture, or 'pictures' "
              "for those that came with them.")  # fmt: skip
@option("--embeddings", help=".safetensors file with text embeddings.")
@option("--label", callback=class_label, help="For class-conditional models: an index, "
              "or 'class' for each picture's own (default the null class).")  # fmt: skip
@option("--label-map", help="With --label class: a CSV, TSV or JSON file, picture class → "
              "model's class (name or number).")  # fmt: skip
@option("--latent", help="VAE posterior: mean (default) or sample.")
@option("--scale-latent/--raw-latent", default=None,
              help="With the VAE's shift and scale (default), or without.")  # fmt: skip
@option("--size", callback=pixel_size, help="Picture size, 512 or 480x640 (default: the model's).")
@option("--fit", help="squash (default), crop, box-crop (guided-diffusion's), pad or native "
              "(own size; needs --pool).")  # fmt: skip
@option("--resample", help="nearest, bilinear, bicubic (default) or lanczos.")
@option("--tile", callback=pixel_size, help="Run in tiles of this size, averaged where they "
              "overlap; none undoes a recipe's.")  # fmt: skip
@option("--tile-noise", help="picture (default): a tile has its part of the picture's; tile: "
              "every tile has the same.")  # fmt: skip
@option("--tile-layout", help="even (default), or shifted: side by side, the last shifted back.")
@option("--flip/--no-flip", default=None, help="Average with the mirrored picture.")
@option("--mirror/--no-mirror", default=None, help="The mirrored picture alone.")
@option("--heads", callback=index_list, help="Heads of attention maps to keep apart.")
@option("--tokens", callback=index_list, help="Keys of attention maps to keep.")
@option("--discard", callback=index_list, help="Channels set to 0 before …:adaln (see "
              "`diffeat channels`).")  # fmt: skip
@option("--dtype", help="Stored precision: float16 (default), float32, or int8 with scales.")
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
    """
    import diffeat
    from diffeat.backbones import ModelRequest
    from diffeat.vision.names import defaults_for

    spec = spec_of(recipe, spec_file, values, defaults_for(model))
    source = open_pictures(pictures)
    source = source.limit(limit) if limit else source
    _note_targets(spec)
    request = ModelRequest(model, **model_fields(values))
    options = {name: values[name] for name in JOB_OPTIONS}
    try:
        result = diffeat.extract_to_file(request, source, spec, output, **options)
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    except KeyboardInterrupt:
        click.echo("interrupted: finished batches are kept; run the same command again", err=True)
        sys.exit(1)
    if result is None:  # a rank of torchrun; the first tells
        return
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
