"""`diffeat predict` of a head that says how far every pixel is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

OF_CLASSES = {"page": "--page", "confusion": "--confusion", "every": "--all", "labels": "--labels",
              "columns": "--column", "surface": "--surface"}  # fmt: skip
"""Options of heads that say something of whole pictures."""


def is_dense(head: Any) -> bool:
    """Whether a loaded head says something at every pixel."""
    import diffeat.companions  # noqa: F401 - before anything imports `probes`
    from probes.dense import DenseHead

    return isinstance(head, DenseHead)


def refuse_for_depth(head: Path, estimator: Any, what: str, values: dict[str, Any]) -> None:
    """UsageError for heads of classes, and for options of vectors."""
    from probes.dense import Segmenter

    if isinstance(estimator, Segmenter):
        raise click.UsageError(f"{head} holds a {type(estimator).__name__}, which tells classes "
                               "of pixels apart; apply it with: "
                               f"diffeat segment {what} --head {head} -o masks/")  # fmt: skip
    refuse_of_classes(values)


def refuse_of_classes(values: dict[str, Any]) -> None:
    """UsageError for options of heads that say something of whole pictures."""
    if wrong := [option for name, option in OF_CLASSES.items() if values.get(name)]:
        raise click.UsageError(f"{wrong[0]} is not for depth; -o depth/ writes maps")


def refuse_for_vectors(estimator: Any, output: Path | None, depth: dict[str, Any]) -> None:
    """UsageError for options of depth maps with a head that has none."""
    kind = type(estimator).__name__
    for name, option in (("format_", "--format"), ("overwrite", "--overwrite")):
        if depth[name]:
            raise click.UsageError(f"{option} is for depth maps; a {kind} writes a CSV")
    if output is not None and output.is_dir():
        raise click.UsageError(f"-o {output} is a folder; a {kind} writes a CSV, such as P.csv")


def predict_depth(
    head: Path, estimator: Any, note: Any, what: str, output: Path | None, as_json: bool,
    values: dict[str, Any],
) -> None:  # fmt: skip
    """Write a depth map for each picture, and a table of them."""
    from diffeat.cli.applying import from_file, from_pictures, is_file
    from diffeat.errors import PictureError
    from diffeat.search.dense.applied import AppliedDense
    from probes.saved import digest

    applied = AppliedDense(estimator, note)
    made_by = {"head": type(estimator).__name__, "digest": digest(estimator)}
    try:
        with ExitStack() as stack:
            take = from_file if is_file(what) else from_pictures
            made, opened, count, pieces = take(stack, what, note, values)
            applied.input_size = made.spec.size
            run = written(applied, opened.ids[:count], pieces, what, output, values, made_by)
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    say(run, head, what, output, as_json)


def written(
    applied: Any, ids: Sequence[str], pieces: Any, what: str, output: Path | None,
    values: dict[str, Any], made_by: dict[str, Any],
) -> Any:  # fmt: skip
    """The run that wrote maps and table.

    Args:
        applied: as `AppliedDense`.
        made_by: what the folder says of what made the files.
    """
    from diffeat.cli.dense import DenseRun, begun_folder, say_clipped

    if output is not None and output.suffix.lower() == ".csv":
        folder, table = None, output
    else:
        folder, table = output, output and output / "pictures.csv"
    maps = folder and begun_folder(
        applied, list(ids), {**values, "output": folder}, what, {"the pictures": what}, made_by,
        overlay=True, format=values["format_"] or "png",
    )  # fmt: skip
    run = DenseRun(applied, list(ids), maps, faults=values["on_error"] == "skip")
    run.run(len(ids), pieces, table, "depth")
    run.warn_of_skipped(what, len(ids))
    say_clipped(maps)
    return run


def say(run: Any, head: Path, what: str, output: Path | None, as_json: bool) -> None:
    """What was written, for people or as JSON."""
    from diffeat.cli.options import print_json

    count = len(run.ids)
    facts = {"head": str(head), "of": what, "output": output and str(output),
             "predicts": "depth", **run.facts(count)}  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        where = f"{output}: " if output else ""
        click.echo(f"{where}{run.done:,} depth maps of {count:,} pictures")
