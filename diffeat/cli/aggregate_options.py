"""Options of `diffeat aggregate`, by what they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from diffeat.cli.options import (
    batch_size_option,
    labels_options,
    limit_option,
    model_options,
    on_error_option,
    option,
    speed_options,
    split_shares,
    workers_option,
)
from diffeat.cli.outputs import PICTURES, OutputPath

FITS = ("hyperfeatures", "bottleneck", "spatial")
"""What --fit can train."""
TASKS = ("matching", "classification", "regression", "multilabel")
WAYS = ("concat", "sum", "pca", "co_pca", "fuse", "mixer", "fit")
"""Options of which one says what is made."""
GROUPS = {
    "What is made (one of these)": (*WAYS, "weights"),
    "Of which maps": ("blocks", "timesteps", "missing"),
    "The file": ("output", "dtype", "compression", "overwrite"),
    "--fit": ("task", "pair_list", "labels", "columns", "groups", "split", "seed", "steps",
              "epochs", "width", "grid", "batch_rows", "learning_rate", "sharpness", "patience",
              "checkpoint", "save_path", "weights_png", "history_png"),
    "MODEL PICTURES with --mixer": ("limit", "batch_size", "workers", "on_error", "cache", "lora",
                                    "denoiser", "allow_pickle", "model_dtype", "channels_last",
                                    "compile", "offload"),
}  # fmt: skip
"""Heading of the help → parameters."""
TRAINING = tuple(name for name in GROUPS["--fit"] if name != "save_path")
LIVE = GROUPS["MODEL PICTURES with --mixer"]


def how_options(command: Callable) -> Callable:
    """--concat, --sum, --pca, --co-pca, --fuse, --weights, --mixer and --fit."""
    for each in (
        option("--fit", type=click.Choice(FITS), help="Train one on targets: Diffusion "
               "Hyperfeatures' mixer, GeoAware's bottleneck, weights that vary in space."),
        option("--mixer", type=click.Path(path_type=Path), metavar="M.safetensors",
               help="Apply one that --save kept."),
        option("--weights", metavar="W,…", help="Of --fuse a weight per file, of --sum per cell "
               "(default 1 each)."),
        option("--fuse", is_flag=True, help="Per file (of one file: per cell) a unit vector at "
               "every site, weighted and joined."),
        option("--co-pca", type=click.IntRange(1), metavar="N", help="Each cell's own N "
               "components, fitted on all pictures, joined grid by grid (SD+DINO)."),
        option("--pca", type=click.IntRange(1), metavar="N", help="N principal components of the "
               "joined channels, fitted on all pictures."),
        option("--sum", is_flag=True, help="The mean of cells of equally many channels."),
        option("--concat", is_flag=True, help="All channels side by side on the finest grid."),
    ):  # fmt: skip
        command = each(command)
    return command


def fit_options(command: Callable) -> Callable:
    """What --fit learns from, and how."""
    for each in (
        option("--history-png", type=OutputPath(PICTURES, strict=True),
               help="Write the learning curve."),
        option("--weights-png", type=OutputPath(PICTURES, strict=True),
               help="Write the learned weights over (t, block) as a heat map."),
        option("--save", "save_path", type=OutputPath((".safetensors",), strict=True),
               help="Keep what was fitted for --mixer (of --pca, --co-pca and the others, too)."),
        option("--checkpoint", type=OutputPath(folder=True), help="Folder that keeps every epoch; "
               "a second run goes on."),
        option("--patience", type=click.IntRange(1), help="End after so many epochs without a "
               "better validation score (default 5)."),
        option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Of AdamW "
               "(default 0.001)."),
        option("--rows", "batch_rows", type=click.IntRange(1), help="Pictures, or pairs, of a "
               "step (default 16; of pairs 1)."),
        option("--grid", type=click.IntRange(1), help="Side of the map that comes out "
               "(default 64, of the bottleneck 60)."),
        option("--width", type=click.IntRange(1), help="Channels that come out (default 384; "
               "bottleneck 768)."),
        option("--sharpness", type=click.FloatRange(0, min_open=True), help="hyperfeatures: of "
               "the softmax over cells; 10 lets short trainings choose (default 1, as "
               "published)."),
        option("--epochs", type=click.IntRange(1), help="Parts into which the steps are cut, with "
               "a validation after each (default 20)."),
        option("--steps", type=click.IntRange(1), help="Of the whole training (default 5000, as "
               "published; of labels 20 passes)."),
        option("--seed", type=click.IntRange(0), default=0, show_default=True,
               help="Of the split and the training."),
        option("--split", callback=split_shares, default="0.6,0.2,0.2", show_default=True,
               help="Training, validation and test shares, as those of probe and search; test is "
               "not looked at."),
        option("--groups", metavar="COLUMN", help="Column that says what a picture belongs to "
               "(person, scene, …), which the split does not part."),
        labels_options,
        option("--pairs", "pair_list", metavar="LIST|SET", help="matching: pairs with what "
               "corresponds: a CSV, a named set (spair:test), or a folder in its layout."),
        option("--task", type=click.Choice(TASKS), help="What is learned for."),
    ):  # fmt: skip
        command = each(command)
    return command


def live_options(command: Callable) -> Callable:
    """How the model runs that a kept aggregator's features are of."""
    for each in (
        option("--cache", type=OutputPath((".h5", ".hdf5")),
               help="Keep the model's maps there; a second run computes none again."),
        limit_option(),
        batch_size_option("MODEL: "),
        workers_option("MODEL: "),
        on_error_option,
        speed_options,
        model_options,
    ):  # fmt: skip
        command = each(command)
    return command


def check_options(from_file: bool, more: tuple[str, ...], values: dict[str, Any]) -> None:
    """UsageError, before anything is read, for options that do not go together."""
    ways = [name for name in WAYS if values[name]]
    flags = [f"--{name.replace('_', '-')}" for name in WAYS]
    if len(ways) != 1:
        said = " and ".join(f"--{name.replace('_', '-')}" for name in ways) or "nothing"
        raise click.UsageError(f"{said}: expected one of {', '.join(flags)}")
    if values["weights"] and ways[0] not in ("fuse", "sum"):
        raise click.UsageError(f"--weights with {flags[WAYS.index(ways[0])]}; they are of --fuse "
                               "and --sum")  # fmt: skip
    if not from_file:
        _check_live(more, values)
    elif wrong := _given(LIVE):
        raise click.UsageError(f"{', '.join(wrong)}: for MODEL PICTURES; the features of a file "
                               "are made already")  # fmt: skip
    if not values["fit"]:
        if wrong := _given(TRAINING):
            raise click.UsageError(f"{', '.join(wrong)}: for --fit, which trains")
        if values["output"] is None and not (values["save_path"] and not values["mixer"]):
            raise click.UsageError("-o says which file to write; it is missing")
        return
    _check_fit(values)


def _check_live(more: tuple[str, ...], values: dict[str, Any]) -> None:
    if len(more) != 1 or not values["mixer"]:
        raise click.UsageError(
            "a model's pictures are aggregated by a kept aggregator alone, which names the cells: "
            "MODEL PICTURES --mixer M; for all else extract them first and give the file"
        )


def _check_fit(values: dict[str, Any]) -> None:
    if values["fit"] == "bottleneck" and values["task"] not in (None, "matching"):
        raise click.UsageError("--fit bottleneck is trained for matching; for "
                               f"{values['task']} take hyperfeatures")  # fmt: skip
    if values["fit"] == "spatial" and values["weights_png"]:
        raise click.UsageError("--weights-png: the weights of spatial vary over the sites of a "
                               "picture, so there is none per cell")  # fmt: skip
    if values["task"] is None:
        raise click.UsageError(f"--fit {values['fit']} needs --task: {', '.join(TASKS)}")
    if (values["task"] == "matching") != bool(values["pair_list"]):
        raise click.UsageError("--task matching learns from --pairs, and other tasks from labels; "
                               "expected one or the other")  # fmt: skip
    if not (values["save_path"] or values["output"]):
        raise click.UsageError("what is trained goes nowhere: keep it (--save M.safetensors), or "
                               "write its maps (-o OUT.h5)")  # fmt: skip


def _given(names: tuple[str, ...]) -> list[str]:
    """The options among these that the command line has."""
    context = click.get_current_context()
    return [
        max(one.opts, key=len)
        for one in context.command.params
        if one.name in names
        and context.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
    ]
