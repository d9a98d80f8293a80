"""Options of a whole extraction, which `diffeat extract` and `diffeat plan` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import (
    batch_size_option,
    comma_list,
    limit_option,
    model_options,
    on_error_option,
    open_pictures,
    option,
    speed_options,
    workers_option,
)
from diffeat.cli.spec_options import (
    check_recipe_option,
    recipe_option,
    spec_file_option,
    spec_of,
    spec_options,
)

COMPRESSIONS = ("none", "lzf", "gzip", "zstd")
ENGINES = ("auto", "local", "torchrun", "ray")
JOB_OPTIONS = ("batch_size", "workers", "on_error", "overwrite", "compression", "engine",
               "processes", "address")  # fmt: skip
"""Options that go to `diffeat.extract_to_file` as they are."""


def job_options(command: Callable) -> Callable:
    """What is extracted, and how: all but the model, the pictures and the output."""
    for each in (
        speed_options,
        model_options,
        option("--address", help="Of a running Ray cluster: auto, or ray://HOST:PORT (default: one "
               "on this machine)."),
        option("--processes", type=click.IntRange(1), help="Copies of the model, each in a process "
               "of its own (default 1; with ray one per accelerator or node)."),
        option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True,
               help="Where it runs; auto is torchrun where that started us, else this machine."),
        option("--compression", type=click.Choice(COMPRESSIONS), default="none", show_default=True,
               help="Of the file; lossless."),
        option("--overwrite", is_flag=True, help="Replace an existing output."),
        on_error_option,
        workers_option(),
        batch_size_option(),
        limit_option(),
        option("--every", type=click.IntRange(1), metavar="N", help="Of clips only "
               "each N-th frame: those whose numbers are multiples of N."),
        option("--no-labels", is_flag=True, help="Take no labels or targets, whatever is there."),
        option("--column", "columns", callback=comma_list, metavar="NAME,…", help="Of the table or "
               "list only these: the first of classes becomes the labels, others targets."),
        option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="A table with the "
               "pictures' labels and targets, by id or file name: .csv, .tsv, .json, .jsonl, a "
               "list or tars (docs/targets.md)."),
        spec_options(),
        spec_file_option,
        recipe_option,
    ):  # fmt: skip
        command = each(command)
    return command


def asked_job(
    model: str, pictures: str, recipe: str | None, spec_file, limit: int | None, values: dict
) -> tuple[Any, Any]:
    """The spec and the source of a job; refuses a recipe that the model cannot follow."""
    from diffeat.vision.names import defaults_for

    labels, columns, no_labels = (values[name] for name in ("labels", "columns", "no_labels"))
    if no_labels and (labels or columns):
        raise click.UsageError("--no-labels with --labels or --column; expected one of them")
    spec = spec_of(recipe, spec_file, values, defaults_for(model))
    check_recipe_option(recipe, model, spec)
    every = values["every"] or 1
    return spec, open_pictures(pictures, True, labels, columns or (), no_labels, limit, every)
