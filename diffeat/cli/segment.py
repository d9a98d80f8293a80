"""`diffeat segment`: what every pixel shows, by a kept head."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import warn
from diffeat.cli.grouped import Grouped
from diffeat.cli.options import (
    allow_conditioned_option,
    batch_size_option,
    json_option,
    limit_option,
    model_options,
    on_error_option,
    option,
    print_json,
    speed_options,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import OutputPath, command

GROUPS = {
    "What says it": ("head",),
    "What is written": ("output", "overlay", "uncertainty", "csv_path", "pictures_at", "overwrite",
                        "as_json"),
    "What it is compared with": ("truth",),
    "Of pictures, whose features are computed now": ("batch_size", "workers", "on_error"),
}  # fmt: skip
"""Options of the help by what they are for."""


@command(cls=Grouped, groups=GROUPS)
@click.argument("what", metavar="FILE|MODEL|PICTURES")
@click.argument("pictures", metavar="[PICTURES]", required=False)
@option("--head", required=True, type=click.Path(path_type=Path), metavar="H.safetensors",
        help="A segmentation head that was kept, by diffeat probe --masks … --save.")  # fmt: skip
@option("-o", "--output", type=OutputPath(folder=True), metavar="FOLDER", help="A mask per "
        "picture, at its own size (PNG with a palette), and classes.json.")  # fmt: skip
@option("--overlay", is_flag=True, help="-o: also the pictures under their classes (overlays/).")
@option("--uncertainty", is_flag=True, help="-o: also how little sure the head is at each pixel "
        "(uncertainty/).")  # fmt: skip
@option("--csv", "csv_path", type=OutputPath((".csv",)), help="Write a row per picture: its file, "
        "uncertainty, share of each class, mIoU where it is known.")  # fmt: skip
@option("--pictures", "pictures_at", metavar="PICTURES", help="--overlay of a FILE: where its "
        "pictures lie, if not where they were extracted from.")  # fmt: skip
@option("--overwrite", is_flag=True, help="Write into -o although it is in use.")
@option("--truth", metavar="DIR|NAME", help="True masks: a folder, or a named set such as "
        "camvid:val. Says how good the masks are.")  # fmt: skip
@limit_option("Only so many pictures: of PICTURES class-balanced, of a file the first.")
@batch_size_option()
@workers_option()
@on_error_option
@allow_conditioned_option
@model_options
@speed_options
@json_option
@threads_option
def segment(what, pictures, as_json, **values) -> None:
    """Tell classes apart at every pixel, with a head that was kept.

    \b
    diffeat segment FEATURES.h5 --head H.safetensors -o masks/     features that are stored
    diffeat segment PICTURES --head H.safetensors -o masks/        straight from the pictures
    diffeat segment MODEL PICTURES --head H.safetensors -o masks/  by a model of another name

    A file must hold the head's features: the same model, every field of the spec, its blocks and
    t; else it is refused, field by field. Of PICTURES the head's model extracts them now, batch by
    batch; nothing is stored, and memory is that of a batch. Masks are class indices, called by the
    pictures' ids; FOLDER/classes.json names them. With --on-error skip a picture that cannot be
    read has a row without a prediction in the CSV, and why.
    """
    from diffeat.cli.applying import device_of, fitted_on, from_file, from_pictures, is_file
    from diffeat.cli.dense import DenseRun, dense_folder, loader, refuse_nothing
    from diffeat.conditioned import check_targets
    from diffeat.errors import PictureError
    from diffeat.search.dense.applied import AppliedDense
    from diffeat.search.kept import load_head

    given, head = (pictures or what), values["head"]
    values["model"] = what if pictures else None
    refuse_nothing({"-o masks/": values["output"], "--csv P.csv": values["csv_path"],
                    "--truth": values["truth"], "--json": as_json})  # fmt: skip
    _check(what, pictures, values)
    estimator, note = load_head(head, device_of(values["device"]))
    check_targets(str(head), note.told, values["allow_conditioned"])
    applied = AppliedDense(estimator, note)
    if applied.kind != "masks":
        raise click.UsageError(
            f"{head} holds a {type(estimator).__name__}, which gives depth; apply it with: "
            f"diffeat predict {head} {given} -o depth/"
        )
    try:
        with ExitStack() as stack:
            take = from_file if is_file(given) else from_pictures
            made, opened, count, pieces = take(stack, given, note, values)
            applied.input_size = made.spec.size
            ids = list(opened.ids[:count])
            tally = _tally(applied, opened, ids, values["truth"])
            load = loader(opened, count, values["pictures_at"]) if values["overlay"] else None
            folder = values["output"] and dense_folder(
                applied, ids, values, given, {"the pictures": given, "true masks": values["truth"]},
                overlay=values["overlay"], uncertain=values["uncertainty"],
            )  # fmt: skip
            uncertain = bool(values["uncertainty"] or values["csv_path"] or values["truth"])
            faults = values["on_error"] == "skip"
            run = DenseRun(applied, ids, folder, load, tally, uncertain, faults)
            run.run(count, pieces, values["csv_path"], "segment")
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    known = fitted_on(note, made, count)
    if known["told"] and tally is not None:
        warn(known["told"])
    run.warn_of_skipped(given, count)
    paths = {name: values[name] and str(values[name]) for name in ("output", "csv_path")}
    facts = {"head": str(head), "of": given, **paths, **run.facts(count),
             "fitted_on_these": known["fitted_on_these"]}  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        _print(facts, tally)


def _check(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """UsageError for options that do not go together."""
    from diffeat.cli.applying import is_file

    if pictures and is_file(what):
        raise click.UsageError(f"{what} holds features, so {pictures} has no place; leave one out")
    for name in ("overlay", "uncertainty", "overwrite"):
        if values[name] and not values["output"]:
            raise click.UsageError(f"--{name} is for -o masks/")
    if values["pictures_at"] and not (values["overlay"] and is_file(what)):
        raise click.UsageError("--pictures is for --overlay of a feature file")


def _tally(applied: Any, opened: Any, ids: list[str], truth: str | None) -> Any:
    """What compares masks with true ones; None where none are named."""
    if truth is None:
        return None
    from diffeat.search.dense.compared import MaskTally, truth_of
    from diffeat.store import FeatureStore

    of_file = isinstance(opened, FeatureStore)
    sizes = opened.sizes[: len(ids)] if of_file and opened.sizes is not None else None
    return MaskTally(applied, truth_of(truth, applied, None if of_file else opened, ids, sizes))


def _print(facts: dict[str, Any], tally: Any) -> None:
    """For people."""
    where = f"{facts['output']}: " if facts["output"] else ""
    click.echo(f"{where}{facts['predicted']:,} masks of {facts['pictures']:,} pictures")
    shares = sorted(facts.get("shares", {}).items(), key=lambda item: -item[1])
    if tally is None and shares:
        shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares[:10])
        click.echo(shown + (f", … ({len(shares)} classes)" if len(shares) > 10 else ""))
    if "uncertainty" in facts:
        click.echo(f"uncertainty: mean {facts['uncertainty']['mean']:.4g}, of the least sure tenth "
                   f"of a picture {facts['uncertainty']['top10']:.4g}")  # fmt: skip
    for line in tally.lines() if tally is not None else ():
        click.echo(line)
