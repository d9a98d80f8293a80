"""`diffeat predict`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from diffeat.cli.options import (
    allow_conditioned_option,
    batch_rows,
    json_option,
    model_fields,
    model_options,
    open_pictures,
    option,
    print_json,
    speed_options,
    threads_option,
)
from diffeat.cli.outputs import OutputPath, command
from diffeat.cli.shown import gathered, show, shown_options

SHOWN = 10
"""Rows of the table on the terminal."""


@command()
@click.argument("head", type=click.Path(path_type=Path))
@click.argument("what", metavar="FILE|PICTURES")
@option("-o", "--output", type=OutputPath((".csv",)), help="Write every prediction as CSV.")
@option("--all", "every", is_flag=True, help="A column for each class too.")
@shown_options
@option("--model", help="PICTURES: the model (default: by the name that the head gives).")
@option("--limit", type=click.IntRange(1), help="Only so many pictures: of PICTURES "
              "class-balanced, of a file the first.")  # fmt: skip
@option("--batch-size", callback=batch_rows, help="PICTURES: rows of one forward, or auto: "
              "measured once and remembered.")  # fmt: skip
@option("--workers", type=click.IntRange(1), default=2, show_default=True,
              help="PICTURES: decoding threads.")  # fmt: skip
@allow_conditioned_option
@model_options
@speed_options
@json_option
@threads_option
def predict(head, what, output, every, as_json, **values) -> None:
    """Apply a head that `diffeat probe --save` or `diffeat search --save` kept.

    \b
    diffeat predict HEAD.safetensors FEATURES.h5 -o P.csv   features that are stored
    diffeat predict HEAD.safetensors PICTURES -o P.csv      straight from the pictures

    A file must hold the head's features: the same model, every field of the spec, its blocks and
    t; else it is refused, field by field. Of PICTURES the head's model extracts them now, batch by
    batch; nothing is stored. The CSV has a row per picture: id, class, probability (score, of heads
    that have no probabilities); of several labels a column for each; of numbers a column for each.
    """
    from diffeat.conditioned import check_targets
    from diffeat.search.applied import Applied
    from diffeat.search.kept import load_head

    estimator, note = load_head(head, _device(values["device"]))
    why = check_targets(str(head), note.told, values["allow_conditioned"])
    applied = Applied(estimator, note)
    from_file = Path(what).suffix in (".h5", ".hdf5")
    with ExitStack() as stack:
        opened = (_from_file if from_file else _from_pictures)(stack, what, note, values)
        made, *rows = opened
        seen = gathered(applied, *rows[:3], {**values, "as_json": as_json})
        found = _run(applied, *rows, output, every, why, seen)
    found["fitted_on_these"] = made.pictures.get("fingerprint") == note.pictures
    summary = {"head": str(head), "of": what, "output": output and str(output), **found}
    if as_json:
        print_json({name: value for name, value in summary.items() if name != "first"})
    else:
        _print(summary)
    if seen is not None:
        show(seen, head, what, applied, found["fitted_on_these"], {**values, "as_json": as_json})


def _device(name: str) -> str:
    from diffeat.backbones.devices import pick_device

    return str(pick_device(name))


def _from_file(stack: ExitStack, what: str, note, values: dict) -> tuple:
    """What the features are, ids, labels, class names and pieces of a feature file."""
    from diffeat.conditioned import check_targets, conditioned
    from diffeat.search.applied import pieces_of_file
    from diffeat.search.kept import check_features
    from diffeat.search.stored import cells_of, made_of
    from diffeat.store import FeatureStore

    for name in ("model", "batch_size", "lora", "denoiser"):
        if values[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is for PICTURES; the features of "
                                   f"{what} are made already")  # fmt: skip
    store = stack.enter_context(FeatureStore(what))
    check_targets(what, conditioned(store.spec, store.pictures), values["allow_conditioned"])
    made = made_of(store)
    for text in check_features(note, made, cells_of(store), what):
        click.echo(f"warning: {what}: {text}", err=True)
    count = min(len(store), values["limit"] or len(store))
    labels = None if store.labels is None else store.labels[:count]
    pieces = pieces_of_file(store, note.cells, count)
    return made, store.ids[:count], labels, store.class_names, pieces


def _from_pictures(stack: ExitStack, what: str, note, values: dict) -> tuple:
    """The same of pictures, whose features are computed when they are asked for."""
    from diffeat.backbones import ModelRequest
    from diffeat.errors import SpecMismatch
    from diffeat.extraction import load_for
    from diffeat.search.applied import pieces_of_pictures
    from diffeat.search.kept import check_features
    from diffeat.search.tasks import Made
    from diffeat.specs import ExtractSpec

    source = open_pictures(what)
    source = source.limit(values["limit"]) if values["limit"] else source
    source.check_readable()
    name = values["model"] or note.model["name"]
    backbone = load_for(ModelRequest(name, **model_fields(values)), note.spec)
    if backbone.fingerprint != note.model["fingerprint"]:
        raise SpecMismatch(
            f"model: {backbone.name} ({backbone.fingerprint[:12]}) is not the one that the head's "
            f"features are of, {note.model['name']} ({note.model['fingerprint'][:12]}"
            f"{''.join(f', {change}' for change in note.model.get('changes', ()))}); name it "
            "with --model, and its --lora or --denoiser"
        )
    worker, pieces = pieces_of_pictures(
        backbone, source, note, values["batch_size"], values["workers"]
    )
    request = worker.job.request
    made = Made(ExtractSpec.from_dict(request.spec), request.model, request.pictures)
    for text in check_features(note, made, note.cells, what):
        click.echo(f"warning: {what}: {text}", err=True)
    return made, source.ids, source.labels, source.class_names, pieces


def _run(
    applied, ids: Sequence[str], labels, class_names, pieces, output: Path | None, every: bool,
    why: str, seen=None,
) -> dict[str, Any]:  # fmt: skip
    """Predict, write and count."""
    from tqdm import tqdm

    from diffeat.search.applied import Tally

    classes = applied.kind == "classes"
    tally = Tally(applied.names, labels if classes else None, class_names)
    first, columns = [], _columns(applied, every, why)
    with (
        _table(output, columns) as add,
        tqdm(total=len(ids), desc="predict", unit="img", disable=None) as bar,
    ):
        for arrays, (start, stop) in pieces:
            found = applied.predict(arrays)
            rows = _rows(applied, ids[start:stop], found, every, why)
            add(rows)
            first += rows[: SHOWN - len(first)]
            if classes:
                tally.update(found.classes, start)
            if seen is not None:
                seen.add(found.values, found.classes, start)
            bar.update(stop - start)
    counts = {n: int(c) for n, c in zip(tally.names, tally.counts, strict=True) if c}
    return {
        "pictures": len(ids), "predicts": applied.kind,
        "accuracy": tally.accuracy, "labelled": tally.known,
        "counts": counts if classes else None, "columns": columns, "first": first,
    }  # fmt: skip


def _columns(applied, every: bool, why: str) -> list[str]:
    """Of the CSV."""
    unit, names = applied.unit, applied.names
    if applied.kind == "classes":
        found = ["class", unit, *([f"{unit} of {name}" for name in names] if every else [])]
    elif applied.kind == "labels":
        found = [f"{unit} of {name}" for name in names]
    else:
        found = ["number"] if len(names) == 1 else [f"number {name}" for name in names]
    return ["id", *found, *(["conditioned"] if why else [])]


def _rows(applied, ids: Sequence[str], found, every: bool, why: str) -> list[list[str]]:
    """Of the CSV, one per picture."""
    from diffeat.conditioned import marked

    mark = [marked(why)] if why else []
    values = [[f"{value:.7g}" for value in row] for row in found.values]
    if found.classes is None:
        return [[name, *row, *mark] for name, row in zip(ids, values, strict=True)]
    return [
        [name, applied.names[k], row[k], *(row if every else []), *mark]
        for name, row, k in zip(ids, values, np.asarray(found.classes), strict=True)
    ]


@contextmanager
def _table(path: Path | None, columns: list[str]) -> Iterator[Any]:
    """Adds rows to a CSV, which appears under its name when it is whole; without one, nowhere."""
    if path is None:
        yield lambda rows: None
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            yield writer.writerows
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _print(summary: dict[str, Any]) -> None:
    """For people: the first rows, where no file has them all, and the sums."""
    if summary["output"] is None:
        rows = [summary["columns"], *summary["first"]]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo(line.rstrip())
        if (left := summary["pictures"] - len(summary["first"])) > 0:
            click.echo(f"… and {left:,} more; -o P.csv writes them all")
    where = f"{summary['output']}: " if summary["output"] else ""
    click.echo(f"{where}{summary['pictures']:,} pictures")
    if summary["counts"]:
        counts = sorted(summary["counts"].items(), key=lambda item: -item[1])
        more = f", … ({len(counts)} classes)" if len(counts) > SHOWN else ""
        click.echo(", ".join(f"{name} {count:,}" for name, count in counts[:SHOWN]) + more)
    if summary["accuracy"] is not None:
        seen = ", most of which the head was fitted on" if summary["fitted_on_these"] else ""
        click.echo(f"accuracy {100 * summary['accuracy']:.2f} % of the {summary['labelled']:,} "
                   f"that have labels{seen}")  # fmt: skip
