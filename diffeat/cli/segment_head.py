"""`diffeat segment --head H`: what every pixel shows, by a kept head."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from diffeat.cli.ending import warn
from diffeat.cli.options import print_json


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Masks of a feature file, or straight from pictures."""
    from diffeat.cli.applying import device_of, fitted_on, from_file, from_pictures, is_file
    from diffeat.cli.dense import DenseRun, dense_folder, loader, refuse_nothing
    from diffeat.conditioned import check_targets
    from diffeat.errors import PictureError
    from diffeat.search.dense.applied import AppliedDense
    from diffeat.search.kept import load_head

    given, head, as_json = (pictures or what), values["head"], values["as_json"]
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
            tally = tally_of(applied, opened, ids, values["truth"])
            load = loader(opened, count, values["pictures_at"]) if values["overlay"] else None
            folder = values["output"] and dense_folder(
                applied, ids, values, given, {"the pictures": given, "true masks": values["truth"]},
                overlay=values["overlay"], uncertain=values["uncertainty"],
            )  # fmt: skip
            uncertain = bool(values["uncertainty"] or values["csv_path"] or values["truth"])
            faults = values["on_error"] == "skip"
            work = DenseRun(applied, ids, folder, load, tally, uncertain, faults)
            work.run(count, pieces, values["csv_path"], "segment")
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    known = fitted_on(note, made, count)
    if known["told"] and tally is not None:
        warn(known["told"])
    work.warn_of_skipped(given, count)
    paths = {name: values[name] and str(values[name]) for name in ("output", "csv_path")}
    facts = {"head": str(head), "of": given, **paths, **work.facts(count),
             "fitted_on_these": known["fitted_on_these"]}  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        print_masks(facts, tally)


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


def tally_of(applied: Any, opened: Any, ids: list[str], truth: str | None) -> Any:
    """What compares masks with true ones; None where none are named."""
    if truth is None:
        return None
    from diffeat.search.dense.compared import MaskTally, truth_of
    from diffeat.store import FeatureStore

    of_file = isinstance(opened, FeatureStore)
    sizes = opened.sizes[: len(ids)] if of_file and opened.sizes is not None else None
    return MaskTally(applied, truth_of(truth, applied, None if of_file else opened, ids, sizes))


def print_masks(facts: dict[str, Any], tally: Any) -> None:
    """Say for people what masks were made, and how good they are."""
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
