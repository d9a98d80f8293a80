"""Predictions as pictures: `--page` and `--confusion` of `predict`, `--confusion` of `probe`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import note
from diffeat.cli.options import option
from diffeat.cli.outputs import HTML, PICTURES, OutputPath
from diffeat.errors import PictureError, SourceError, SpecError, StoreError

confusion_option = option(
    "--confusion", type=OutputPath(PICTURES, strict=True),
    help="Write the confusion matrix as a picture.",
)  # fmt: skip


def shown_options(command: Callable) -> Callable:
    """--page, --surface, --pictures and --confusion."""
    for each in (
        option("--pictures", help="--page of a FILE: where its pictures lie, if not where they "
               "were extracted from."),
        option("--surface", type=click.Path(exists=True, dir_okay=False, path_type=Path),
               help="--page: also the heat map of a search, from probe --csv or --json."),
        option("--page", type=OutputPath(HTML),
               help="Write one HTML page: accuracy, confusion matrix, pictures that are wrong, "
               "least sure and surest."),
        confusion_option,
    ):  # fmt: skip
        command = each(command)
    return command


def gathered(applied: Any, ids: Sequence[str], tally: Any, values: dict) -> Any:
    """What takes note of predictions for `show`; None where nothing is to be shown.

    Args:
        ids: of the pictures.
        tally: that compares them with what is known.

    Raises:
        click.UsageError: options that do not go together, or a head that knows no classes.
    """
    for name in ("surface", "pictures"):
        if values[name] and not values["page"]:
            raise click.UsageError(f"--{name} is for --page")
    if not (values["page"] or values["confusion"]):
        return None
    if applied.kind != "classes":
        raise click.UsageError(f"--page and --confusion show classes; this head gives "
                               f"{applied.kind}, which -o P.csv writes")  # fmt: skip
    from diffeat.viz import Predictions

    if tally.truth is None:
        why = "are not known, or others than the head's"
        if values["confusion"]:
            raise click.UsageError(f"--confusion: the classes of these pictures {why}")
        note(f"the classes of these pictures {why}, so the page compares nothing")
    return Predictions(ids, applied.names, tally.truth, applied.unit)


def show(found: Any, head: Path, what: str, applied: Any, told: str, values: dict) -> None:
    """Write what was asked for, and say the largest confusions."""
    from diffeat.viz import write_page

    if values["confusion"]:
        confused = found.matrix(), found.names, f"{head.name}: {what}"
        write_confusion(values["confusion"], confused, values["as_json"])
    if values["page"]:
        notes = [f"{told[0].upper()}{told[1:]}."] if told else []
        picture, lacking = picture_of(what, values["pictures"])
        if lacking:
            notes.append(lacking)
            note(lacking)
        write_page(
            values["page"], found, f"Predictions for {what}", _facts(head, applied), picture,
            notes=notes, history=getattr(applied.head, "history_", None) or (),
            chosen=getattr(applied.head, "best_epoch_", None),
            grid=values["surface"] and grid_of(values["surface"], applied.note.model["name"]),
        )  # fmt: skip
        click.echo(f"wrote {values['page']}", err=values["as_json"])


def _facts(head: Path, applied: Any) -> dict[str, str]:
    """What is what, for the top of a page."""
    from diffeat.search.measure import Measure
    from diffeat.search.tasks import cell_name

    made, about = applied.note, getattr(applied.head, "about_", {})
    facts = {
        "head": f"{type(applied.head).__name__} of {head.name}",
        "model": made.model["name"],
        "features": ", ".join(cell_name(cell) for cell in made.cells),
        "spec": ", ".join(f"{k} {v}" for k, v in made.spec.to_dict().items()
                          if k in ("size", "fit", "pool", "ensemble", "noise") and v is not None),
    }  # fmt: skip
    scores = about.get("scores", {})
    if isinstance(scores.get("test"), float):
        measure = Measure(**scores["measure"])
        facts["when it was chosen"] = f"{measure.name} on test {measure.say(scores['test'])}"
    return facts


def picture_of(what: str, where: str | None) -> tuple[Callable | None, str]:
    """What gives pictures by id, or None with the reason."""
    from diffeat.images import open_source
    from diffeat.store import FeatureStore, find_originals

    digests: dict[str, bytes] = {}
    try:
        if Path(what).suffix in (".h5", ".hdf5"):
            with FeatureStore(what) as store:
                source, _ = find_originals(store, store.ids[:1], where, "--pictures")
                if store.digests is not None and source.reading > 1 and not where:
                    digests = dict(zip(store.ids, map(bytes, store.digests), strict=True))
        else:
            source = open_source(what)
    except (PictureError, SourceError, StoreError) as error:
        if where:
            raise
        return None, f"page without pictures: {error}"
    index = {name: row for row, name in enumerate(source.ids)}

    def picture(name: str) -> Any:
        """PictureError also of one that is another by now."""
        row = index.get(name)
        if row is None:
            return None
        if name in digests and digests[name] != source.digest(row):
            raise PictureError(name, "changed since its features were extracted, so not shown")
        return source.load(row)

    return picture, ""


def grid_of(path: Path, name: str) -> Any:
    """The grid of a search that was written as CSV or JSON.

    Raises:
        SpecError: it is no such file.
    """
    from diffeat.noise import NO_T, plain_t
    from diffeat.search import Grid, Measure

    try:
        text = path.read_text("utf-8")
        if path.suffix.lower() == ".json":
            found = json.loads(text)
            found, measure = found.get("surface", found), found.get("measure")
            measure = Measure(**measure) if measure else Measure()
            cells = [(one["block"], one["t"], one["validation"]) for one in found["cells"]]
        else:
            measure, rows = Measure(), list(csv.DictReader(text.splitlines()))
            cells = [(one["block"], one["t"], one["validation"]) for one in rows]
        values = {
            (block, NO_T if t == "" else plain_t(float(t))): float(value)
            for block, t, value in cells
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path} is no search over (block, t): {error!r}; expected what `diffeat probe --csv` "
            "or --json wrote"
        ) from error
    if not values:
        raise SpecError(f"{path} holds no cell")
    return Grid(name, values, measure, f"validation {measure.name}")


Confused = tuple[Any, list[str], str]
"""(K, K) counts, K names, headline."""


def tested_confusion(judge: Any, choice: Any) -> Confused:
    """What was chosen, on the test pictures of a judge of classes.

    Raises:
        SpecError: the judge knows no classes.
    """
    import numpy as np

    import diffeat.companions  # noqa: F401 - before anything imports `probes`
    from diffeat.search import TEST, Classification
    from diffeat.search.finding import cell_text
    from diffeat.search.judge import cells_in
    from probes.metrics import confusion_matrix

    if not isinstance(judge, Classification):
        raise SpecError("--confusion shows classes; this task has none")
    tested, cells = judge.part == TEST, cells_in(choice.candidate)
    head = judge.head(choice.candidate, choice.setting)
    rows = np.concatenate([judge.task.matrix(cell, tested) for cell in cells], axis=1)
    known = list(judge.made.class_names) if judge.made else []
    classes = np.union1d(judge.labels[tested], head.classes_)
    names = [known[k] if k < len(known) else str(k) for k in classes]
    matrix = confusion_matrix(judge.labels[tested], head.predict(rows), labels=classes)
    title = f"{', '.join(map(cell_text, cells))}: {int(tested.sum()):,} test pictures"
    return matrix, names, title


def write_confusion(path: Path, confused: Confused, quiet: bool) -> None:
    """Say the largest confusions, then draw them all; to stderr where JSON is printed."""
    from diffeat.viz import confusion_lines, confusion_picture

    matrix, names, title = confused
    lines = ["confused most often:", *(f"  {line}" for line in confusion_lines(matrix, names))]
    click.echo("\n".join(lines), err=quiet)
    confusion_picture(matrix, names, path, title)
