"""One HTML page of predictions: what a head says of pictures, to be looked at and passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.search.intervals import accuracy_text
from diffeat.viz.confusion import confusion_lines, confusion_picture
from diffeat.viz.curves import learning_curve
from diffeat.viz.grids import heat_map
from diffeat.viz.html import facts_table, image, plain, quoted, write_document
from diffeat.viz.thumbnails import Picture, Thumbnails

if TYPE_CHECKING:
    from diffeat.search.applied import Predicted
    from diffeat.search.grid import Grid

WRONG, UNSURE, SUREST = 24, 12, 4
"""Pictures of each part of the page; the surest are per class."""
ROWS = 40
"""Classes of the table, and of the surest pictures, at most."""
LARGEST = 100
"""Classes up to which there is a confusion matrix as a picture."""


@dataclass
class Predictions:
    """What a classifier says of N pictures, gathered batch by batch.

    Args:
        ids: of the pictures.
        names: of the K classes of the head.
        truth: (N,) indices of `names`, -1 where it is not known; None: of none.
        unit: "probability", or "score" of heads without.

    Attributes:
        classes: (N,) index of the predicted class, -1 where nothing was predicted.
        values: (N,) float64, probability or score of that class; nan where there is none.
        second: (N,) float64, the same of the class that came second; nan of one class.
    """

    ids: Sequence[str]
    names: Sequence[str]
    truth: np.ndarray | None = None
    unit: str = "probability"
    classes: np.ndarray = field(init=False)
    values: np.ndarray = field(init=False)
    second: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.classes = np.full(len(self.ids), -1, np.int64)
        self.values, self.second = np.full((2, len(self.ids)), np.nan)

    def update(self, found: Predicted, rows: np.ndarray) -> None:
        """Take note of what was predicted of (n,) rows."""
        classes, others = found.classes, np.array(found.values, np.float64)
        each = np.arange(len(classes))
        self.classes[rows], self.values[rows] = classes, others[each, classes]
        others[each, classes] = -np.inf
        second = others.max(1)
        self.second[rows] = np.where(np.isfinite(second), second, np.nan)

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: whose class is predicted and known."""
        known = np.zeros(len(self.ids), bool) if self.truth is None else self.truth >= 0
        return known & (self.classes >= 0)

    @property
    def wrong(self) -> np.ndarray:
        """(N,) bool."""
        return self.known & (self.truth != self.classes) if self.known.any() else self.known

    @property
    def margin(self) -> np.ndarray:
        """(N,) by how much the predicted class is ahead of the next one."""
        return self.values - np.nan_to_num(self.second)

    def matrix(self) -> np.ndarray:
        """(K, K) int64 counts of pictures whose class is known, truth in rows."""
        from probes.metrics import confusion_matrix

        count = len(self.names)
        if not self.known.any():
            return np.zeros((count, count), np.int64)
        truth = self.truth[self.known]
        return confusion_matrix(truth, self.classes[self.known], labels=np.arange(count))

    def say(self, row: int) -> str:
        """ "cat 0.93"."""
        return f"{self.names[self.classes[row]]} {self.values[row]:.3g}"


def write_page(
    path: str | Path,
    found: Predictions,
    title: str,
    facts: Mapping[str, str],
    picture: Picture | None = None,
    *,
    notes: Sequence[str] = (),
    history: Sequence[Mapping[str, Any]] = (),
    chosen: int | None = None,
    grid: Grid | None = None,
) -> None:
    """Write one HTML file that needs nothing else: no network, no script.

    It shows accuracy with its 95 % interval, the confusion matrix, the pictures that are wrong
    (surest first), those that the head is least sure of, and per class the surest. Thumbnails lie
    in the file, as JPEG or PNG, at most 160 of them at 112 pixels.

    Args:
        path: the file; it is written whole or not at all.
        found: the predictions.
        title: headline.
        facts: what is what, such as model and spec, in lines of a table.
        picture: gives the pictures; None shows none.
        notes: sentences below the headline.
        history: of a head that was trained, whose learning curve is drawn; see `learning_curve`.
        chosen: the epoch that was kept.
        grid: of the search that chose the cell, drawn as a heat map.
    """
    thumbs = Thumbnails(picture)
    body = [
        f"<h1>{plain(title)}</h1>", *(f'<p class="note">{plain(note)}</p>' for note in notes),
        *_summary(found), facts_table(facts), *_table(found), *_confused(found),
        *_wrong(found, thumbs), *_unsure(found, thumbs), *_surest(found, thumbs),
        *_drawings(history, chosen, grid),
    ]  # fmt: skip
    body[1:1] = [f'<p class="note">{plain(why)}</p>' for why in thumbs.told()]
    write_document(path, title, body)


# pictures


def _figure(found: Predictions, row: int, thumbs: Thumbnails) -> str:
    """A thumbnail with its id, what is predicted and, if that is wrong, what is true."""
    name = found.ids[row]
    lines = [f"<b><bdi>{plain(found.names[found.classes[row]])}</bdi></b> {found.values[row]:.3g}"]
    if found.wrong[row]:
        true = found.names[found.truth[row]]
        lines.append(f'<span class="wrong">is <bdi>{plain(true)}</bdi></span>')
    lines.append(f'<bdi class="note">{plain(name)}</bdi>')
    return (
        f'<figure title={quoted(name)}><div class="box">{thumbs.of(name)}</div>'
        f"{'<br>'.join(lines)}</figure>"
    )


def _row(found: Predictions, rows: Sequence[int], thumbs: Thumbnails) -> str:
    return f'<div class="row">{"".join(_figure(found, row, thumbs) for row in rows)}</div>'


# parts of the page


def _summary(found: Predictions) -> Iterator[str]:
    count = int(found.known.sum())
    if count:
        share = 1 - found.wrong.sum() / count
        told = accuracy_text(float(share), count).replace(" test pictures", " pictures")
        text = f"Accuracy {told} whose class is known"
    else:
        text = f"{int((found.classes >= 0).sum()):,} pictures; their classes are not known"
    yield f'<p class="large">{plain(text)}</p>'
    if left := int((found.classes < 0).sum()):
        told = f"{left:,} of {len(found.ids):,} pictures have no prediction and are not shown"
        yield f'<p class="note">{plain(told)}</p>'


def _table(found: Predictions) -> Iterator[str]:
    """How many of each class."""
    predicted = np.bincount(found.classes[found.classes >= 0], minlength=len(found.names))
    matrix = found.matrix()
    order = np.argsort(-(predicted + matrix.sum(1)), kind="stable")
    order = [k for k in order.tolist() if predicted[k] or matrix[k].sum()]
    told = bool(found.known.any())
    heads = ["predicted", *(["true", "right", "recall", "precision"] if told else [])]
    yield "<h2>Classes</h2>"
    yield "<table><tr><th>class</th>" + "".join(f'<th class="n">{h}</th>' for h in heads) + "</tr>"
    for k in order[:ROWS]:
        cells = [f"{predicted[k]:,}"]
        if told:
            right, true, said = matrix[k, k], matrix[k].sum(), matrix[:, k].sum()
            cells += [f"{true:,}", f"{right:,}", _share(right, true), _share(right, said)]
        numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        yield f"<tr><td><bdi>{plain(found.names[k])}</bdi></td>{numbers}</tr>"
    yield "</table>"
    if len(order) > ROWS:
        yield f'<p class="note">and {len(order) - ROWS} more classes</p>'


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _confused(found: Predictions) -> Iterator[str]:
    if not found.known.any():
        return
    matrix = found.matrix()
    seen = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    matrix, names = matrix[np.ix_(seen, seen)], [found.names[k] for k in seen]
    yield "<h2>Which class is taken for which</h2>"
    lines = "".join(f"<li>{plain(line)}</li>" for line in confusion_lines(matrix, names))
    yield f"<ul>{lines}</ul>"
    if 1 < len(names) <= LARGEST:
        yield _drawn("confusion matrix", lambda file: confusion_picture(matrix, names, file))


def _wrong(found: Predictions, thumbs: Thumbnails) -> Iterator[str]:
    rows = np.flatnonzero(found.wrong)
    if not len(rows):
        return
    rows = rows[np.argsort(-found.values[rows], kind="stable")]
    yield f"<h2>Wrong: {len(rows):,} pictures</h2>"
    number = f"the number is the {found.unit} of the predicted class"
    yield f'<p class="note">Surest first{_of(len(rows), WRONG)}; {number}.</p>'
    yield _row(found, rows[:WRONG].tolist(), thumbs)


def _of(count: int, most: int) -> str:
    return f", {most} of them" if count > most else ""


def _unsure(found: Predictions, thumbs: Thumbnails) -> Iterator[str]:
    if len(found.names) < 2:
        return
    order = np.argsort(found.margin, kind="stable")  # nan, of no prediction, comes last
    rows = order[: min(UNSURE, int((found.classes >= 0).sum()))]
    yield "<h2>Least sure</h2>"
    yield '<p class="note">The two best classes are nearly even.</p>'
    yield _row(found, rows.tolist(), thumbs)


def _surest(found: Predictions, thumbs: Thumbnails) -> Iterator[str]:
    yield "<h2>Surest of each class</h2>"
    order = np.argsort(-found.values, kind="stable")
    classes = [k for k in range(len(found.names)) if (found.classes == k).any()]
    for k in classes[:ROWS]:
        rows = order[found.classes[order] == k][:SUREST]
        yield f"<h3><bdi>{plain(found.names[k])}</bdi></h3>"
        yield _row(found, rows.tolist(), thumbs)
    if len(classes) > ROWS:
        yield f'<p class="note">and {len(classes) - ROWS} more classes</p>'


def _drawings(history, chosen: int | None, grid: Grid | None) -> Iterator[str]:
    if grid is not None:
        yield "<h2>The search that chose the cell</h2>"
        yield _drawn("heat map of the search", lambda file: heat_map([grid], file))
    if history:
        yield "<h2>Training of the head</h2>"
        yield _drawn("learning curve", lambda file: learning_curve(history, file, chosen))


def _drawn(name: str, draw: Callable[[BytesIO], None]) -> str:
    """A figure as an img element, at its size on a screen."""
    from PIL import Image

    file = BytesIO()
    draw(file)
    with Image.open(file) as picture:
        width, height = picture.size
    return image(file.getvalue(), "png", (height, width), f'class="drawn" alt="{name}"')
