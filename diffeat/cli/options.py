"""Options that several commands share."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import note, warn
from diffeat.cli.outputs import OutputPath
from diffeat.errors import SpecError

NONE = "\0none"
"""Stands for an option that was set to "none": the recipe's value is undone."""

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def comma_list(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "a,b" → ("a", "b"), without empty parts."""
    if value is None:
        return None
    return tuple(part.strip() for part in value.split(",") if part.strip())


def class_label(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "7" → 7; "class" stays; "none" → what stands for it."""
    if value == "none":
        return NONE
    return int(value) if value is not None and value.lstrip("-").isdecimal() else value


def batch_rows(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "64" → 64; "auto" stays."""
    if value is None or value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r}; expected a number of at least 1, or auto")
    return int(value)


def thread_count(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: a number of at least 1, or auto."""
    from diffeat.threads import parse_threads

    try:
        parse_threads(value)
    except SpecError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _numbers(value: str) -> tuple[float, ...]:
    """Numbers between commas; () if something else stands there."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        return ()


def split_shares(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "0.6,0.2,0.2" → three shares."""
    if value is None:
        return None
    shares = _numbers(value)
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6:
        raise click.BadParameter(f"{value!r}; expected three shares that sum to 1, such as "
                                 "0.6,0.2,0.2")  # fmt: skip
    return shares


def positive_numbers(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "0.001,0.01" → (0.001, 0.01)."""
    if value is None:
        return None
    values = _numbers(value)
    if not values or not all(0 < value < math.inf for value in values):
        raise click.BadParameter(f"{value!r}; expected positive numbers such as 0.001,0.01")
    return values


def byte_count(_context: click.Context, _option: click.Parameter, value: str) -> int:
    """Callback: "2GiB", "512M" → bytes."""
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)(i?b)?", value.strip().lower())
    try:
        return int(float(match[1]) * UNITS[match[2]])
    except (TypeError, ValueError):
        raise click.BadParameter(f"{value!r}; expected a size such as 2GiB or 512MiB") from None


def pixel_size(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "512" → (512, 512), "480x640" → (480, 640), "none" → NONE."""
    if value is None or value == "none":
        return value and NONE
    parts = value.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(
            f"{value!r}; expected pixels such as 512, or height x width such as 480x640"
        )
    return tuple(int(part) for part in (parts * 2)[:2])


def index_list(context: click.Context, option: click.Parameter, value: str | None):
    """Callback: "0,5" → (0, 5), "none" → NONE."""
    if value == "none":
        return NONE
    parts = comma_list(context, option, value)
    if parts is None:
        return None
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r}; expected indices such as 0,5")
    return tuple(map(int, parts))


LISTS = (comma_list, index_list, positive_numbers)
"""Callbacks of options whose values add up when the option is repeated."""


class Option(click.Option):
    """An option that may be repeated without anything being dropped.

    Lists add up: "-t 20 -t 60,100" is "-t 20,60,100". Of other options the last one counts, as
    everywhere, and that is said where the values differ.
    """

    def add_to_parser(self, parser, ctx) -> None:
        was, self.multiple = self.multiple, not self.count  # the parser is to keep all of them
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.multiple = was

    def consume_value(self, ctx: click.Context, opts):
        given = opts.get(self.name)
        if isinstance(given, list) and not self.multiple and not self.count:
            opts = {**opts, self.name: self._one_of(ctx, given)}
        return super().consume_value(ctx, opts)

    def _one_of(self, ctx: click.Context, given: list):
        if self.callback in LISTS:
            return ",".join(given)
        if any(value != given[-1] for value in given):
            values = " and ".join(map(str, dict.fromkeys(given)))
            warn(f"{self.opts[-1]} is given with different values, {values}; the last one counts")
        return given[-1]


option = partial(click.option, cls=Option)
"""`click.option` for every command of the project."""


def open_pictures(
    name: str,
    tell: bool = False,
    labels: Path | None = None,
    columns: Sequence[str] = (),
    no_labels: bool = False,
    limit: int | None = None,
    every: int = 1,
):
    """The source that PICTURES stands for; says what lies there and is not taken.

    Args:
        tell: say which labels and targets were found, too.
        labels: a table of them (`diffeat.targets.with_labels`).
        columns: of that table, or of a list, only these.
        no_labels: take none.
        limit: only so many pictures.
        every: of clips only the frames whose numbers are multiples of this.
    """
    from diffeat.images import check_there, found_text, left_out_text, open_source
    from diffeat.images.clips import every_nth

    source = open_source(name, () if labels else columns)
    check_there(source)
    left_out, whole = source.left_out, len(source)
    source = every_nth(source, every)
    if labels is not None:
        from diffeat.targets import with_labels

        source = with_labels(source, labels, columns)
    if no_labels:
        source = source.labelled(None, (), {})
    source = source.limit(limit) if limit else source
    if os.environ.get("RANK", "0") == "0":  # of torchrun
        if left_out:
            text = left_out_text(left_out)
            note(f"{name}: {whole:,} pictures; left out: {text}")
        if tell:
            note(found_text(source, whole))
    return source


def model_options(command: Callable) -> Callable:
    """--device, --model-dtype, --allow-pickle, --lora and --denoiser, as `diffeat.load` takes."""
    for each in (
        option("--denoiser", type=click.Path(path_type=Path),
                     help="Other weights for the denoiser: .safetensors, or a folder of them."),
        option("--lora", type=click.Path(path_type=Path),
                     help="LoRA weights (.safetensors) to merge into the denoiser."),
        option("--allow-pickle", is_flag=True,
                     help="Also load pickled weights, which can run code."),
        option("--model-dtype", default="auto", show_default=True,
                     help="Precision of the forward: float32, float16, bfloat16."),
        option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …"),
    ):  # fmt: skip
        command = each(command)
    return command


def speed_options(command: Callable) -> Callable:
    """--channels-last, --compile and --offload, as `diffeat.load` takes them."""
    for each in (
        option("--offload", type=click.Choice(("none", "vae", "blocks")), default="none",
                     show_default=True, help="For small GPUs: keep the VAE, or the denoiser's "
                     "blocks, on the CPU until they run."),
        option("--compile", is_flag=True, help="Compile the denoiser's blocks with torch."),
        option("--channels-last/--channels-first", default=None,
                     help="Memory layout of convolutions (default by device)."),
    ):  # fmt: skip
        command = each(command)
    return command


def model_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `ModelRequest` from the options of `model_options` and `speed_options`."""
    names = ("device", "allow_pickle", "lora", "denoiser", "compile", "offload")
    found = {name: values[name] for name in names if name in values}
    if values.get("channels_last") is not None:
        found["channels_last"] = values["channels_last"]
    return {**found, "dtype": values["model_dtype"]}


allow_conditioned_option = option(
    "--allow-conditioned", is_flag=True, help="Also score features that were told their targets "
    "(label=class, {class}, captions, embeddings per picture); every table is marked.")  # fmt: skip
duplicates_option = option(
    "--drop-duplicates", "duplicates", is_flag=True, help="Leave out pictures that stand there "
    "twice, byte for byte (those in test stay); else they are counted.",
    callback=lambda _context, _option, drop: "drop" if drop else "warn",
)  # fmt: skip
task_option = option(
    "--task",
    default="classification",
    show_default=True,
    help="What the features are "
    "judged for: classification, regression (numbers), multilabel (several labels per picture), "
    "segmentation (with --masks), depth (with --depth), and of a search matching (pairs of "
    "pictures), homography (of planes), depth (--pairs of RGB-D frames).",
)
on_error_option = option(
    "--on-error", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
    help="What to do with an unreadable picture.",
)  # fmt: skip


def labels_options(command: Callable) -> Callable:
    """--labels and --column: targets of a table, or of columns of a feature file."""
    for each in (
        option("--column", "columns", callback=comma_list, metavar="NAME,…",
               help="Column with the labels; several are one label each, 0 or 1 (default: the one "
               "that is called label, class, target or value, or the only one)."),
        option("--labels", type=click.Path(path_type=Path), metavar="TABLE",
               help="Labels of a .csv, .tsv, .json, .jsonl or tars, by the pictures' ids or file "
               "names, in place of their own."),
    ):  # fmt: skip
        command = each(command)
    return command


def targets_options(command: Callable) -> Callable:
    """--labels, --column, --test-labels and --groups, of what is scored (see `target_choice`)."""
    for each in (
        option("--groups", metavar="COLUMN", help="Column that says what a picture belongs to "
               "(person, scene, clip, …), which no split parts."),
        option("--test-labels", type=click.Path(path_type=Path), metavar="TABLE",
               help="Of the test pictures, where these have a table of their own."),
    ):  # fmt: skip
        command = each(command)
    return labels_options(command)


def target_choice(values: dict[str, Any]) -> Any:
    """The `TargetChoice` of the options of `targets_options`, which are taken out of `values`."""
    from diffeat.search.targeted import TargetChoice

    names = ("labels", "test_labels", "columns", "groups")
    given = {name: values.pop(name, None) for name in names}
    return TargetChoice(**{**given, "columns": given["columns"] or ()})


save_option = option(
    "--save", "save_path", type=OutputPath((".safetensors",), strict=True), help="Keep the head "
    "that was scored on test, fitted on training and validation, for `diffeat predict`, of masks "
    "for `diffeat segment`.",
)  # fmt: skip
feature_file = click.argument("file", type=click.Path(path_type=Path))


def cell_options(command: Callable) -> Callable:
    """-t and -b, of a file: only these."""
    for each in (
        option("-b", "--blocks", callback=comma_list, help="Only these blocks."),
        option(
            "-t",
            "--timesteps",
            callback=comma_list,
            help="Only these t: native, or as they were asked for (sigma=0.3, snr=10).",
        ),
    ):
        command = each(command)
    return command


def limit_option(words: str = "Only so many pictures, class-balanced, by a stable hash."):
    """--limit."""
    return option("--limit", type=click.IntRange(1), help=words)


def batch_size_option(before: str = ""):
    """--batch-size; `before` stands before the help."""
    rows = "rows" if before else "Rows"
    return option("--batch-size", callback=batch_rows, help=f"{before}{rows} of one forward, or "
                  "auto: measured once and remembered (default by size).")  # fmt: skip


def workers_option(before: str = ""):
    """--workers; `before` stands before the help."""
    return option("--workers", type=click.IntRange(1), default=2, show_default=True,
                  help=f"{before}{'d' if before else 'D'}ecoding threads.")  # fmt: skip


json_option = option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def threads_option(command: Callable) -> Callable:
    """--threads, which is set before the command computes; it stands next to the function."""

    @wraps(command)
    def limited(*args: Any, threads: str | None, **values: Any) -> Any:
        from diffeat.threads import ask, set_threads

        if threads is not None:
            ask(threads)
        set_threads()
        return command(*args, **values)

    return option("--threads", callback=thread_count, metavar="N|auto",
                        help="Threads of the compute on CPUs, of all --processes together; auto "
                        "(default) goes by what this process may use.")(limited)  # fmt: skip


def print_json(values: Any) -> None:
    click.echo(json.dumps(values, indent=1, ensure_ascii=False))
