"""A dense head run over pictures, one after another: files, a table, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.cli.applying import written_table
from diffeat.cli.ending import note, warn
from diffeat.errors import PictureError, SourceError, SpecError, StoreError

SHOWN = 10
"""Pictures that could not be read that are named."""


@dataclass
class DenseRun:
    """What is done with each picture.

    Attributes:
        applied: the head.
        ids: of the pictures.
        folder: a `DenseFolder`, or None.
        load: row → its picture, for overlays.
        tally: that compares masks with what is known; None where nothing is.
        uncertain: whether uncertainty is wanted.
        faults: a last column with what could not be read.
        shares: (K,) sums over pictures of the share of each class.
        doubts: of each picture, its mean uncertainty and that of its least sure pixels.
        skipped: id → why it has no prediction.
    """

    applied: Any
    ids: Sequence[str]
    folder: Any = None
    load: Callable[[int], np.ndarray] | None = None
    tally: Any = None
    uncertain: bool = False
    faults: bool = False
    shares: np.ndarray = field(init=False)
    doubts: list[tuple[float, float]] = field(init=False, default_factory=list)
    skipped: dict[str, str] = field(init=False, default_factory=dict)
    done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.shares = np.zeros(len(self.applied.names))

    @property
    def columns(self) -> list[str]:
        """Of the table."""
        if self.applied.kind == "depth":
            found = ["nearest", "median", "farthest"]
        else:
            found = [f"share of {name}" for name in self.applied.names]
            found += ["mIoU"][: self.tally is not None]
        doubts = ["uncertainty", "uncertainty_top10"] if self.uncertain else []
        return ["id", "file", *doubts, *found, *["error"][: self.faults]]

    def run(self, count: int, pieces: Any, csv_path: Path | None, what: str) -> None:
        """Predict, write and compare, a picture at a time."""
        from diffeat.progress import counted

        with (
            written_table(csv_path, self.columns) as add,
            counted(count, desc=what, unit="pictures") as bar,
        ):
            for piece in pieces:
                rows = {row: self._fault(row, why) for row, why in piece.errors.items()}
                for seen in self.applied.predict(piece, self.uncertain):
                    rows[seen.row] = self._one(seen)
                    bar.update(1)
                add([rows[row] for row in sorted(rows)])
                bar.update(len(piece.errors))

    def _one(self, seen: Any) -> list[Any]:
        """The table's row of a picture, after its files are written."""
        from probes.dense.ensemble import top_mean

        row, file = seen.row, ""
        if self.folder is not None:
            self.folder.add(seen, self.load and (lambda: self.load(row)))
            file = self.folder.file(row)
        doubts = ()
        if self.uncertain:
            doubts = float(seen.uncertainty.mean()), top_mean(seen.uncertainty)
            self.doubts.append(doubts)
        self.done += 1
        end = [""] if self.faults else []
        return [self.ids[row], file, *map(_number, doubts), *self._said(seen), *end]

    def _said(self, seen: Any) -> list[str]:
        if self.applied.kind == "depth":
            known = seen.values[np.isfinite(seen.values)]
            if not known.size:
                return [""] * 3
            return [_number(float(one(known))) for one in (np.min, np.median, np.max)]
        from diffeat.search.dense.written import class_shares

        shares = class_shares(seen.values, len(self.applied.names))
        self.shares += shares
        found = list(map(_number, shares.tolist()))
        if self.tally is not None:
            score = self.tally.update(seen)
            found.append("" if score is None else _number(score))
        return found

    def _fault(self, row: int, why: str) -> list[str]:
        self.skipped[self.ids[row]] = why
        return [self.ids[row], *[""] * (len(self.columns) - 2), why]

    def facts(self, count: int) -> dict[str, Any]:
        """Plain values of all that was done."""
        found = {"pictures": count, "predicted": self.done, "skipped": self.skipped}
        if self.applied.kind == "masks" and self.done:
            shares = (self.shares / self.done).tolist()
            found["shares"] = dict(zip(self.applied.names, shares, strict=True))
        if self.doubts:
            mean, top = np.mean(self.doubts, 0).tolist()
            found["uncertainty"] = {"mean": mean, "top10": top}
        if self.tally is not None:
            found["scores"] = self.tally.scores()
        return found

    def warn_of_skipped(self, what: str, count: int) -> None:
        """Say which pictures could not be read."""
        for name, reason in list(self.skipped.items())[:SHOWN]:
            warn(f"{name}: {reason}")
        if left := len(self.skipped):
            warn(f"{what}: {left:,} of {count:,} pictures could not be read and have no prediction")


def _number(value: float) -> str:
    return f"{value:.7g}"


def dense_folder(
    applied: Any, ids: Sequence[str], values: dict[str, Any], what: str, inputs: dict[str, Any],
    overlay: bool, **more: Any,
) -> Any:  # fmt: skip
    """The folder of -o, ready and begun.

    Args:
        inputs: what is read → where it lies, as it was named, or None.
        overlay: whether something to look at is written.
        more: fields of `DenseFolder`.

    Raises:
        SpecError: it is in use, or holds what is read.
    """
    from probes.saved import digest

    made_by = {"head": type(applied.head).__name__, "digest": digest(applied.head)}
    return begun_folder(applied, ids, values, what, inputs, made_by, overlay, **more)


def begun_folder(
    applied: Any, ids: Sequence[str], values: dict[str, Any], what: str, inputs: dict[str, Any],
    made_by: dict[str, Any], overlay: bool, **more: Any,
) -> Any:  # fmt: skip
    """As `dense_folder`, of what is no head: `made_by` says what makes the files."""
    from diffeat.cli.outputs import make_ready
    from diffeat.search.dense.written import DenseFolder
    from diffeat.viz.looks import Looks
    from diffeat.viz.masks import class_colours

    output = values["output"]
    for name, place in inputs.items():
        if place and Path(place).exists() and Path(place).resolve() == output.resolve():
            raise SpecError(f"-o {output} holds {name}, which could be written over; name another "
                            "folder")  # fmt: skip
    make_ready(output, folder=True)
    colours = class_colours(applied.names, applied.palette)
    draw = Looks(applied.names, colours) if overlay else None
    found = DenseFolder(output, applied, ids, colours, draw, made_by=made_by, of=what, **more)
    found.begin(values["overwrite"])
    return found


def loader(opened: Any, count: int, where: str | None) -> Callable[[int], np.ndarray]:
    """Row → picture, (H, W, 3) uint8 and upright, of a source or of a feature file.

    Raises:
        StoreError: the pictures of a file are not where it says.
    """
    if not hasattr(opened, "sizes"):  # pictures themselves
        return lambda row: np.asarray(opened.load(row))
    from diffeat.store import find_originals

    try:
        source, places = find_originals(opened, opened.ids[:count], where)
    except (SourceError, StoreError) as error:
        raise StoreError(f"{error}, or leave --overlay out") from error

    def load(row: int) -> np.ndarray:
        try:
            return np.asarray(source.load(places[row]))
        except PictureError as error:
            raise StoreError(f"{error}; restore it, or leave --overlay out") from error

    return load


def say_clipped(folder: Any) -> None:
    """Of depth that 16 bits do not hold."""
    if folder is not None and folder.clipped:
        note(f"{folder.clipped:,} pixels lie beyond 65.535 m and stand there as that; --format "
             "npz keeps them")  # fmt: skip


def refuse_nothing(asked: dict[str, Any]) -> None:
    """UsageError where nothing would come of it."""
    if not any(asked.values()):
        raise click.UsageError(f"nothing would come of it; say {', '.join(asked)}")
