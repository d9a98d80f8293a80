"""Segmentation and depth estimation on the command line: their options, and maps of a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from diffeat.cli.extracted import extracted, features_file, features_folder
from diffeat.cli.options import (
    comma_list,
    index_list,
    model_fields,
    open_pictures,
    option,
    pixel_size,
)

DENSE = ("masks", "test_masks", "depth", "test_depth", "classes", "ignore", "unit", "frame",
         "miou", "head")  # fmt: skip
"""Options of segmentation and depth estimation alone."""
HEADS = ("ridge", "logistic", "nearest-mean", "kmeans", "ensemble", "fpn", "dpt", "vpd")
MASKS, ESTIMATION = "segmentation", "depth-estimation"


def dense_options(command: Callable) -> Callable:
    """--masks and --depth, and how what is found is counted."""
    for each in (
        option("--frame", callback=pixel_size, metavar="HxW", help="masks, depth: score at this "
               "size, to which they are moved by nearest (default: each picture's own)."),
        option("--miou", type=click.Choice(("standard", "ddpm-seg")), default="standard",
               show_default=True, help="masks: classes that nothing has are left out and ignored "
               "pixels dropped, or the former count 0 and the latter as wrong."),
        option("--unit", help="depth: of whole numbers: mm, cm, m, or metres of one step."),
        option("--ignore", callback=index_list, metavar="ID,…", help="masks: numbers of pixels "
               "that do not count, beside 255."),
        option("--classes", metavar="FILE|a,b,…", help="masks: names of the classes, a file with a "
               "name a line or a list (default: those of the set)."),
        option("--head", type=click.Choice(HEADS), help="masks, depth: what learns (default: "
               "ridge, pixel by pixel)."),
        option("--test-depth", metavar="DIR|NAME", help="depth: of the test pictures, where they "
               "are a set of their own."),
        option("--depth", metavar="DIR|NAME", help="Depth estimation: pictures with depth maps, a "
               "folder or a named set, such as kitchen-rgbd:train."),
        option("--test-masks", metavar="DIR|NAME", help="masks: of the test pictures, where they "
               "are a set of their own."),
        option("--masks", metavar="DIR|NAME", help="Segmentation: pictures with label maps, a "
               "folder or a named set, such as camvid:train."),
    ):  # fmt: skip
        command = each(command)
    return command


def task_of(values: dict[str, Any]) -> str:
    """The task that is asked for: --masks and --depth say it where --task does not.

    Raises:
        click.UsageError: they contradict each other.
    """
    asked = values["task"] if _given("task") else None
    wanted = [name for name, one in ((MASKS, values["masks"]), (ESTIMATION, values["depth"]))
              if one]  # fmt: skip
    if len(wanted) > 1:
        raise click.UsageError("--masks is of segmentation, --depth of depth estimation; expected "
                               "one of them")  # fmt: skip
    if not wanted:
        if asked == "depth" and not (values.get("pair_list") or values.get("second")):
            raise click.UsageError("--task depth needs --depth DIR|NAME (depth estimation), or "
                                   "--pairs LIST (points of RGB-D frames)")  # fmt: skip
        return values["task"]
    same = (wanted[0], "depth") if wanted[0] == ESTIMATION else wanted
    if asked is not None and asked not in same:
        name = "--masks" if wanted[0] == MASKS else "--depth"
        raise click.UsageError(f"{name} is for --task {same[-1]}, not for --task {asked}")
    return wanted[0]


def _given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def dense_choice(values: dict[str, Any], kind: str) -> Any:
    """The `DenseChoice` of the options.

    Args:
        kind: "masks" or "depth".

    Raises:
        click.UsageError: options of the other kind.
        SpecError: no targets, and what `DenseChoice` and `HeadChoice` refuse.
    """
    from diffeat.backbones.devices import pick_device
    from diffeat.search.dense.heads import HeadChoice
    from diffeat.search.dense.task import DenseChoice

    others = {"depth": ("test_masks", "classes", "ignore", "miou"), "masks": ("test_depth", "unit")}
    if wrong := [f"--{name.replace('_', '-')}" for name in others[kind] if _given(name)]:
        raise click.UsageError(f"{', '.join(wrong)}: not for {kind}")
    device = values.get("device", "cpu")
    head = HeadChoice(
        values["head"] or "ridge", values.get("penalties"),
        str(pick_device("cpu" if device == "auto" else device)), values.get("seed") or 0,
    )  # fmt: skip
    head.made(kind)  # which tells what there is
    frame = values["frame"]
    return DenseChoice(
        kind, values[kind], values[f"test_{kind}"], _classes(values["classes"]),
        tuple(values["ignore"] or ()), values["unit"], values.get("missing") or "refuse",
        frame if isinstance(frame, tuple) else None, values["miou"], head,
    )  # fmt: skip


def _classes(value: str | None) -> Any:
    """Names of a list, or the file that has them."""
    if value is None:
        return None
    if "," not in value:
        return Path(value)
    return comma_list(None, None, value)


def maps_of_targets(
    stack: ExitStack, what: str, second: str | None, values: dict[str, Any], spec: Any, choice: Any
) -> list[Any]:
    """Feature files of the maps of pictures whose pixels are known, computed now.

    The files lie in --out, where a second run finds them; without it they go with `stack`.

    Args:
        second: the pictures; None: those that the targets say.
    """
    from diffeat.backbones import ModelRequest

    if values["pool"] not in (None, "none"):
        raise click.UsageError(f"--pool {values['pool']}: vectors, in which no place can be found; "
                               "leave it out, segmentation and depth take maps")  # fmt: skip
    spec = replace(spec, pool="none")
    sources = [open_pictures(name) for name in (second, values["test"]) if name]
    targets = choice.opened(sources)  # before hours of work
    if not sources:
        sources = [one.pictures() for one in targets]
    if values["limit"]:
        sources = [source.limit(values["limit"]) for source in sources]
    folder = features_folder(stack, values["out"], "--out FOLDER")
    request = ModelRequest(what, **model_fields(values))
    stores = []
    for source in sources:
        path = folder / features_file("maps", spec, request, source)
        stores.append(
            extracted(stack, request, source, spec, path, values, kept=bool(values["out"]))
        )
    return stores
