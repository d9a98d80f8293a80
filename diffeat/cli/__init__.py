"""The `diffeat` command. Heavy imports happen inside the commands that need them."""

from __future__ import annotations

import click

from diffeat._version import __version__
from diffeat.cli.aggregate import aggregate
from diffeat.cli.align import align
from diffeat.cli.cluster import cluster
from diffeat.cli.compare import compare
from diffeat.cli.ending import run
from diffeat.cli.explain import explain
from diffeat.cli.export import export
from diffeat.cli.extract import extract
from diffeat.cli.heads import heads
from diffeat.cli.info import info
from diffeat.cli.match import match
from diffeat.cli.merge import merge
from diffeat.cli.models import blocks, models
from diffeat.cli.plan import plan
from diffeat.cli.predict import predict
from diffeat.cli.probe import probe
from diffeat.cli.recipes import channels, recipes
from diffeat.cli.search import search
from diffeat.cli.segment import segment
from diffeat.cli.verify import verify
from diffeat.cli.view import view


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Pretrained diffusion models as feature extractors for recognition.

    \b
    diffeat extract unet-cifar10 digits -o features.h5 -t 20,60 -b up.0,up.1 --pool 2x2
    diffeat probe features.h5 --save head.safetensors
    diffeat search unet-cifar10 digits -t 20,60 -b decoder
    diffeat heads unet-cifar10 digits -t 20,100 --png heads.png
    diffeat predict head.safetensors pictures/ -o predictions.csv
    diffeat segment pictures/ --head head.safetensors -o masks/
    diffeat segment sd21 pictures/ --words cat,dog -t 301 -o masks/
    diffeat segment unet-cifar10 pictures/ --parts diffcut -o parts/
    diffeat aggregate maps.h5 -o one.h5 --pca 64
    diffeat align features.h5 digits --with facebook/dinov2-base
    diffeat cluster features.h5 --page clusters.html
    diffeat explain head.safetensors features.h5 --by channel
    diffeat match unet-cifar10 A.jpg B.jpg -t 20 -b up.1 --png lines.png

    PICTURES is a folder (class subfolders become labels), a glob, a list file, WebDataset
    tars, a Hugging Face data set (hf:NAME[:split]), or a named data set: digits, photos,
    fashion-mnist[:test], cifar10[:test], tiny-imagenet[:test], imagenet[:test].

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM.
    """


for command in (
    models,
    blocks,
    recipes,
    channels,
    plan,
    extract,
    info,
    verify,
    merge,
    export,
    view,
    aggregate,
    probe,
    search,
    heads,
    predict,
    segment,
    explain,
    cluster,
    align,
    compare,
    match,
):
    cli.add_command(command)


def main() -> None:
    """Run the command; see `diffeat.cli.ending` for its exit codes."""
    run(cli)
