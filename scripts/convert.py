"""Convert an original research checkpoint into a diffusers pipeline folder.

    python scripts/convert.py adm 256x256_diffusion_uncond.pt models/adm-256 --size 256
    python scripts/convert.py dit DiT-XL-2-256x256.pt models/dit-xl-2 --vae sd-vae-ft-ema
    python scripts/convert.py sit repa-xl-2.pt models/repa-xl-2 --vae sd-vae-ft-ema
    python scripts/convert.py edm edm-cifar10-uncond.safetensors models/edm-cifar10
    python scripts/convert.py ddae model_1999.pth models/ddae-edm --process edm

The folder holds `model_index.json`, `unet/` or `transformer/`, `scheduler/` and perhaps `vae/`,
and `diffeat.load` opens it. Weights are stored in fp32. No code in a checkpoint is ever run: one
that holds more than tensors and plain values is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import click
from convert_adm import SCHEDULES, convert_adm
from convert_ddae import convert_ddae
from convert_edm import convert_edm
from convert_files import Converted, check_output, read_checkpoint, write_pipeline
from convert_transformers import convert_dit, convert_sit
from safetensors import SafetensorError

from diffeat.cli.ending import note, run, warn
from diffeat.errors import DiffeatError


@contextmanager
def _told():
    """Show diffeat's errors, and those of a disk, as click does: one line and no traceback."""
    try:
        yield
    except DiffeatError as error:
        told = click.ClickException(str(error))
        told.exit_code = error.exit_code
        raise told from error
    except (OSError, SafetensorError) as error:
        raise click.ClickException(f"the folder cannot be written ({error})") from error


def _common(command: Callable) -> Callable:
    """What every layout takes: checkpoint, output folder, --overwrite."""
    path = click.Path(path_type=Path)
    decorators = (
        click.argument("checkpoint", type=path),
        click.argument("output", type=path, metavar="OUTPUT_FOLDER"),
        click.option("--overwrite", is_flag=True, help="Replace an older pipeline folder."),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


_weights = click.option(
    "--weights",
    type=click.Choice(["ema", "model"]),
    help="Which weights of a training checkpoint; ema where there are any.",
)


def _transformer(command: Callable) -> Callable:
    """What DiT and SiT take."""
    decorators = (
        click.option("--heads", type=click.IntRange(1), help="Heads, for unpublished widths."),
        _weights,
        click.option(
            "--vae",
            type=click.Path(path_type=Path),
            help="Folder of the AutoencoderKL that made the latents; it is copied.",
        ),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@click.group(help=__doc__.splitlines()[0])
def main() -> None:
    pass


@main.command(short_help="OpenAI guided-diffusion and improved-diffusion U-Nets.")
@_common
@click.option("--size", type=click.IntRange(1), required=True, help="Picture size in pixels.")
@click.option("--head-channels", type=click.IntRange(1), help="Channels per head (64).")
@click.option("--heads", type=click.IntRange(1), help="Heads per layer, instead.")
@click.option(
    "--new-attention-order",
    is_flag=True,
    help="Queries, keys, values in thirds; guided-diffusion's 64-pixel model.",
)
@click.option(
    "--schedule",
    type=click.Choice(list(SCHEDULES)),
    default="linear",
    show_default=True,
    help="cosine only for what was trained with it: guided-diffusion's 64-pixel model, and some of "
    "improved-diffusion.",
)
def adm(checkpoint: Path, output: Path, overwrite: bool, size, head_channels, heads,
        new_attention_order, schedule):  # fmt: skip
    """Convert an OpenAI U-Net; channels, levels and classes are read off its tensors.

    The options for guided-diffusion's published models: 64 pixels --new-attention-order --schedule
    cosine; 128 pixels --heads 4; all others none but --size. For improved-diffusion: --heads 4, and
    --schedule cosine where it was trained so; models of 4000 steps, which were told t/4, are given
    1000 steps.
    """
    if heads and head_channels:
        raise click.UsageError("--heads and --head-channels say the same in two ways; give one")
    with _told():
        check_output(output, overwrite)
        converted = convert_adm(
            read_checkpoint(checkpoint), checkpoint.name, size, heads, head_channels,
            new_attention_order, schedule,
        )  # fmt: skip
        _write(converted, output, None, overwrite)


@main.command(short_help="DiT transformers.")
@_common
@_transformer
def dit(checkpoint: Path, output: Path, overwrite: bool, heads, weights, vae):
    """Convert a DiT; its architecture is read off its tensors."""
    with _told():
        check_output(output, overwrite)
        tensors = read_checkpoint(checkpoint, weights)
        _write(convert_dit(tensors, checkpoint.name, heads), output, vae, overwrite)


@main.command(short_help="SiT transformers, also those of REPA.")
@_common
@_transformer
@click.option(
    "--reversed-time",
    is_flag=True,
    help="The network is told 1 - s, noise first, and predicts the negative velocity: "
    "SiT's own published weights, not REPA's.",
)
def sit(checkpoint: Path, output: Path, overwrite: bool, heads, weights, vae, reversed_time):
    """Convert a SiT; its architecture is read off its tensors."""
    with _told():
        check_output(output, overwrite)
        tensors = read_checkpoint(checkpoint, weights)
        converted = convert_sit(tensors, checkpoint.name, heads, reversed_time)
        _write(converted, output, vae, overwrite)


@main.command(short_help="EDM's unconditional DDPM++ U-Nets.")
@_common
def edm(checkpoint: Path, output: Path, overwrite: bool):
    """Convert the state dict of an EDM network (SongUNet, DDPM++, without classes).

    EDM's own .pkl files run code when loaded. In a checkout of EDM that you trust, save
    network.state_dict() as .safetensors, and convert that. The preconditioning is EDM's
    (c_noise = ln(sigma)/4), not that of the baselines trained with VP or VE.
    """
    with _told():
        check_output(output, overwrite)
        converted = convert_edm(read_checkpoint(checkpoint), checkpoint.name)
        _write(converted, output, None, overwrite)


@main.command(short_help="DDAE's own DDPM and EDM U-Nets.")
@_common
@click.option(
    "--process",
    type=click.Choice(["ddpm", "edm"]),
    required=True,
    help="What it was trained as, which no tensor says: model_type in DDAE's configuration.",
)
@click.option(
    "--size", type=click.IntRange(1), default=32, show_default=True, help="Picture size in pixels."
)
@_weights
def ddae(checkpoint: Path, output: Path, overwrite: bool, process, size, weights):
    """Convert a U-Net of DDAE; channels, levels and attention are read off its tensors.

    DDPMs are taken to have 1000 steps and DDAE's betas, EDMs to have its sigma_data of 0.5.
    """
    with _told():
        check_output(output, overwrite)
        tensors = read_checkpoint(checkpoint, weights)
        _write(convert_ddae(tensors, checkpoint.name, process, size), output, None, overwrite)


def _write(converted: Converted, output: Path, vae: Path | None, overwrite: bool) -> None:
    write_pipeline(converted, output, vae, overwrite)
    channels = converted.config["in_channels"]
    if vae is None and channels not in (1, 3):
        warn(
            f"the model works on latents of {channels} channels; without a VAE (--vae) its "
            "features cannot be computed from pictures"
        )
    for key in (key for key in converted.config if key.startswith("_")):
        note(
            f"{converted.component}/config.json says {key} = {converted.config[key]}, which "
            "diffeat heeds and diffusers alone does not"
        )
    click.echo(f"wrote {output}: {converted.parameters / 1e6:.2f} M parameters")


if __name__ == "__main__":
    run(main)
