"""`diffeat predict`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from diffeat.cli.applying import (
    device_of,
    fitted_on,
    from_file,
    from_pictures,
    is_file,
    written_table,
)
from diffeat.cli.depth import is_dense, predict_depth, refuse_for_depth, refuse_for_vectors
from diffeat.cli.ending import warn
from diffeat.cli.options import (
    allow_conditioned_option,
    batch_size_option,
    json_option,
    labels_options,
    limit_option,
    model_options,
    on_error_option,
    option,
    print_json,
    speed_options,
    target_choice,
    threads_option,
    workers_option,
)
from diffeat.cli.outputs import OutputPath, command
from diffeat.cli.segment_vpd import is_vpd, predict_by_vpd
from diffeat.cli.shown import gathered, show, shown_options
from diffeat.errors import PictureError

SHOWN = 10
"""Rows of the table on the terminal."""
PRINTED = ("first", "text", "told")
"""What is for the terminal alone."""


@command()
@click.argument("head", type=click.Path(path_type=Path))
@click.argument("what", metavar="FILE|PICTURES")
@option("-o", "--output", type=OutputPath((".csv",), either=True),
        help="Write every prediction as CSV; of a depth head, a folder of depth maps.")  # fmt: skip
@option("--format", "format_", type=click.Choice(("png", "npz")), default=None, help="Depth maps "
        "as 16-bit millimetres (png, default) or float32 metres (npz).")  # fmt: skip
@option("--overwrite", is_flag=True, help="Depth maps: write into -o although it is in use.")
@option("--all", "every", is_flag=True, help="A column for each class too.")
@shown_options
@option("--model", help="PICTURES: the model (default: by the name that the head gives).")
@limit_option("Only so many pictures: of PICTURES class-balanced, of a file the first.")
@batch_size_option("PICTURES: ")
@workers_option("PICTURES: ")
@on_error_option
@labels_options
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
    diffeat predict DEPTH.safetensors PICTURES -o depth/    a depth map each, of its own size
    diffeat predict VPD.safetensors PICTURES -o depth/      the same by a VPD of depth

    A file must hold the head's features: the same model, every field of the spec, its blocks and
    t; else it is refused, field by field. Of PICTURES the head's model extracts them now, batch by
    batch; nothing is stored. The CSV has a row per picture: id, class, probability (score, of heads
    that have no probabilities); of several labels a column for each; of numbers the value. With
    --on-error skip a picture that cannot be read has a row without a prediction, and why.
    Where labels are known, by themselves or by --labels, it says how good the predictions are.
    """
    from diffeat.conditioned import check_targets
    from diffeat.search.applied import Applied
    from diffeat.search.compared import not_compared, tally_of, truth_of
    from diffeat.search.kept import load_head

    choice = target_choice(values)
    if is_vpd(head):
        return predict_by_vpd(head, what, output, as_json, {**values, "every": every})
    estimator, note = load_head(head, device_of(values["device"]))
    why = check_targets(str(head), note.told, values["allow_conditioned"])
    depth = {name: values.pop(name) for name in ("format_", "overwrite")}
    if is_dense(estimator):
        refuse_for_depth(head, estimator, what, values)
        return predict_depth(head, estimator, note, what, output, as_json, {**values, **depth})
    refuse_for_vectors(estimator, output, depth)
    applied = Applied(estimator, note)
    of_file = is_file(what)
    try:
        with ExitStack() as stack:
            made, opened, count, pieces = (from_file if of_file else from_pictures)(
                stack, what, note, values
            )
            truth = _cut(truth_of(applied, opened, choice), count)
            tally = tally_of(applied, truth)
            if unlike := not_compared(tally, truth, choice):
                warn(f"{choice.labels or what}: {unlike}")
            seen = gathered(applied, opened.ids[:count], tally, {**values, "as_json": as_json})
            writing = Rows(applied, opened.ids, every, why, values["on_error"] == "skip")
            found = _run(writing, (tally, seen), count, pieces, output)
    except PictureError as error:
        raise click.ClickException(f"{error}; or leave such out with --on-error skip") from error
    found |= fitted_on(note, made, count)
    if found["told"]:
        warn(found["told"])
    summary = {"head": str(head), "of": what, "output": output and str(output), **found}
    for name, reason in list(found["skipped"].items())[:SHOWN]:
        warn(f"{name}: {reason}")
    if left := len(found["skipped"]):
        warn(f"{what}: {left:,} of {count:,} pictures could not be read and have no prediction")
    if as_json:
        print_json({name: value for name, value in summary.items() if name not in PRINTED})
    else:
        _print(summary)
    if seen is not None:
        show(seen, head, what, applied, found["told"], {**values, "as_json": as_json})


def _cut(truth, count: int):
    """That of the first pictures."""
    return truth and truth._replace(labels=truth.labels[:count])


def _run(writing: Rows, takers: tuple, count: int, pieces, output: Path | None) -> dict[str, Any]:
    """Predict, write and count."""
    from diffeat.progress import counted

    first, skipped = [], {}
    with (
        written_table(output, writing.columns) as add,
        counted(count, desc="predict", unit="pictures") as bar,
    ):
        for piece in pieces:
            found = writing.applied.predict(piece.arrays) if len(piece.rows) else None
            rows = writing.of(found, piece)
            add(rows)
            first += rows[: SHOWN - len(first)]
            for taker in takers if found is not None else ():
                if taker is not None:
                    taker.update(found, piece.rows)
            skipped |= {writing.ids[row]: reason for row, reason in piece.errors.items()}
            bar.update(len(rows))
    tally = takers[0]
    scores = tally.scores
    return {
        "pictures": count, "predicts": writing.applied.kind, "accuracy": scores.get("accuracy"),
        "scores": scores, "labelled": tally.known, "counts": tally.counts, "skipped": skipped,
        "columns": writing.columns, "first": first, "text": tally.text() if scores else "",
    }  # fmt: skip


@dataclass
class Rows:
    """Rows of the CSV, one per picture.

    Attributes:
        applied: the head.
        ids: of all pictures.
        every: a column for each class too.
        why: by what the features were told their targets; "" by nothing.
        faults: a last column with what could not be read.
    """

    applied: Any
    ids: Sequence[str]
    every: bool
    why: str
    faults: bool

    @property
    def columns(self) -> list[str]:
        unit, names = self.applied.unit, self.applied.names
        if self.applied.kind == "classes":
            each = [f"{unit} of {name}" for name in names] if self.every else []
            found = ["class", unit, *each]
        elif self.applied.kind == "numbers" and len(names) == 1:
            found = [unit]
        else:
            found = [f"{unit} of {name}" for name in names]
        return ["id", *found, *["conditioned"][: bool(self.why)], *["error"][: self.faults]]

    def of(self, found, piece) -> list[list[str]]:
        """Of the pictures of a piece, in their order; `found` is None where none was read."""
        from diffeat.conditioned import marked

        end = [*([marked(self.why)] if self.why else []), *([""] if self.faults else [])]
        rows = {}
        if found is not None:
            for place, row in enumerate(piece.rows.tolist()):
                rows[row] = [self.ids[row], *self._said(found, place), *end]
        for row, reason in piece.errors.items():
            rows[row] = [self.ids[row], *[""] * (len(self.columns) - 2), reason]
        return [rows[row] for row in sorted(rows)]

    def _said(self, found, place: int) -> list[str]:
        values = [f"{value:.7g}" for value in found.values[place]]
        if found.classes is None:
            return values
        k = int(found.classes[place])
        return [self.applied.names[k], values[k], *(values if self.every else [])]


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
    if summary["text"]:
        seen = ", of which the head knows some" if summary["fitted_on_these"] else ""
        click.echo(f"{summary['text']} of the {summary['labelled']:,} that have labels{seen}")
