"""Masks that a head predicts, compared with true ones, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import PictureError, SourceError, SpecError
from diffeat.search.dense.applied import AppliedDense, Seen
from diffeat.targets import match_ids
from probes.metrics import BoundaryF, Confusion, RiskCoverage

NAMED = 5
"""Classes that a message names."""


@dataclass(frozen=True, eq=False)
class TrueMasks:
    """True masks of pictures, in a head's classes.

    Attributes:
        targets: `diffeat.targets.dense.DenseTargets` of masks.
        rows: (N,) int64, which of its masks is that of each picture; -1 where there is none.
        places: (K,) int64 the head's index of each of its classes.
        ignore: the head's label of pixels that do not count.
    """

    targets: Any
    rows: np.ndarray
    places: np.ndarray
    ignore: int

    def mask(self, row: int) -> np.ndarray | None:
        """(H, W) int64 of a picture; None where there is none.

        Raises:
            SpecError: labels that are no classes of the targets.
            SourceError: it cannot be read.
        """
        if self.rows[row] < 0:
            return None
        try:
            labels = np.asarray(self.targets.target(int(self.rows[row]))).astype(np.int64)
        except PictureError as error:  # of a picture that can be read
            raise SourceError(f"the true mask of {error.picture}: {error.reason}; mend it, or take "
                              f"it out of {self.targets.name}") from error  # fmt: skip
        known = (labels >= 0) & (labels < len(self.places))
        odd = np.unique(labels[~known & (labels != self.targets.ignore)])
        if len(odd):
            raise SpecError(
                f"the true mask of {self.targets.ids[self.rows[row]]} has the labels "
                f"{odd[:NAMED].tolist()}; expected 0 … {len(self.places) - 1}, and "
                f"{self.targets.ignore} where nothing is said"
            )
        return np.where(known, self.places[np.where(known, labels, 0)], self.ignore)

    def beside(self, seen: Seen) -> np.ndarray | None:
        """(H, W) int64 as `mask`, for what is said of a picture: what its input does not show does
        not count.

        Raises:
            SpecError, SourceError: as `mask`; a mask of another size.
        """
        true = self.mask(seen.row)
        if true is None:
            return None
        if true.shape != seen.values.shape:
            sizes = ("×".join(map(str, one.shape[::-1])) for one in (true, seen.values))
            name = self.targets.ids[self.rows[seen.row]]
            raise SpecError("the true mask of {} is {}, the picture {}; expected one label a pixel"
                            .format(name, *sizes))  # fmt: skip
        return true if seen.shown.all() else np.where(seen.shown, true, self.ignore)

    def group(self, row: int) -> Any:
        """What a picture belongs to, such as a drive."""
        groups = getattr(self.targets, "groups", None)
        return groups[self.rows[row]] if groups else None


def bind_truth(targets: Any, applied: AppliedDense, ids: Sequence[str]) -> TrueMasks:
    """The true masks of some pictures, by their ids.

    Args:
        targets: `diffeat.targets.dense.DenseTargets`.
        ids: of the pictures.

    Raises:
        SpecError: depth, none of the pictures, classes that the head does not know.
    """
    if targets.kind != "masks":
        raise SpecError(f"{targets.name} holds {targets.kind}; expected masks of classes")
    rows = match_ids(ids, targets.ids).rows
    if (rows < 0).all():
        raise SpecError(f"{targets.name} has no mask of these pictures; its ids look like "
                        f"{targets.ids[0]!r}, theirs like {ids[0]!r}")  # fmt: skip
    places = class_places(targets.classes, applied.names, targets.name)
    return TrueMasks(targets, rows, places, applied.ignore)


def class_places(classes: Sequence[str], known: Sequence[str], name: str) -> np.ndarray:
    """(K,) int64 index among known classes of each class: by name, or by number where either side
    has no names.

    Raises:
        SpecError: classes that are not known.
    """
    classes, known = ([str(one) for one in names] for names in (classes, known))
    index = {one: k for k, one in enumerate(known)}
    unknown = [one for one in classes if one not in index]
    if not unknown:
        return np.array([index[one] for one in classes], np.int64)
    bare = any(names == [str(k) for k in range(len(names))] for names in (classes, known))
    if bare and len(classes) <= len(known):
        return np.arange(len(classes))
    odd, wanted = (", ".join(names[:NAMED]) + ", …" * (len(names) > NAMED)
                   for names in (unknown, known))  # fmt: skip
    raise SpecError(f"{name} has classes that the head does not know: {odd}; expected some of its "
                    f"{len(known)}: {wanted}")  # fmt: skip


class MaskTally:
    """How good masks are, and whether uncertainty tells their errors.

    Args:
        applied: the head.
        truth: of the pictures.
    """

    def __init__(self, applied: AppliedDense, truth: TrueMasks):
        self.truth, self.names, self.ignore = truth, applied.names, applied.ignore
        self.confusion = Confusion(self.names, self.ignore)
        self.boundary = BoundaryF(self.names, self.ignore)
        self.risk = RiskCoverage()
        self.without = 0

    def update(self, seen: Seen) -> float | None:
        """Compare one picture; what its input does not show does not count.

        Returns:
            Its mean IoU; None where it has no true mask, or nothing of that counts.

        Raises:
            SpecError: a true mask of another size.
        """
        true = self.truth.beside(seen)
        if true is None:
            self.without += 1
            return None
        group = self.truth.group(seen.row)
        found = seen.values.astype(np.int64)
        score = self.confusion.update(found, true, group)
        self.boundary.update(found, true, group)
        if seen.uncertainty is not None:
            known = true != self.ignore
            self.risk.update(seen.uncertainty, found != true, known=known, group=group,
                             quality=score)  # fmt: skip
        return score if np.isfinite(score) else None

    @property
    def compared(self) -> bool:
        """Whether any pixel counted."""
        return bool(self.confusion.total.matrix.sum())

    def scores(self) -> dict[str, Any]:
        """Plain values; {} where nothing was compared."""
        if not self.compared:
            return {}
        iou = zip(map(str, self.names), self.confusion.iou().tolist(), strict=True)
        found = {
            "mIoU": self.confusion.mean_iou(), "policy": self.confusion.convention,
            "interval": self._interval(), "pixel accuracy": self.confusion.pixel_accuracy(),
            "mean accuracy": self.confusion.mean_accuracy(), "boundary F": self.boundary.compute(),
            "IoU": {name: value for name, value in iou if np.isfinite(value)},
            "pictures": len(self.confusion), "without a true mask": self.without,
        }  # fmt: skip
        if len(self.risk):
            plain = self.risk.compute()
            found["risk-coverage"] = {name: value for name, value in plain.items()
                                      if np.isfinite(value)}  # fmt: skip
        return found

    def _interval(self) -> list[float] | None:
        """Ends of the 95 % interval of mIoU, groups drawn anew; None of fewer than two."""
        if len(self.confusion.groups.names) < 2:
            return None
        found = self.confusion.interval()
        return [found.low, found.high]

    def lines(self) -> list[str]:
        """The same for people."""
        if not self.compared:
            return ["no pixel of these pictures has a true label"]
        scores = self.scores()
        between = scores["interval"]
        first = f"mIoU {100 * scores['mIoU']:.2f} %"
        if between:
            first += f" (95 % interval {100 * between[0]:.2f} to {100 * between[1]:.2f})"
        first += (f", boundary F {100 * scores['boundary F']:.2f} %, of {scores['pictures']:,} "
                  "pictures")  # fmt: skip
        found = [first + f"; {self.without:,} have no true mask" * bool(self.without)]
        if risk := scores.get("risk-coverage"):
            gain = f", gain {100 * risk['gain']:.1f} %" if "gain" in risk else ""
            found.append(
                f"risk-coverage: area {100 * risk['aurc']:.2f} %, in random order "
                f"{100 * risk['random']:.2f} %, at best {100 * risk['oracle']:.2f} %{gain}"
            )
        return [*found, *self.confusion.lines()]


def truth_of(
    name: str, applied: AppliedDense, pictures: Any, ids: Sequence[str], sizes: Any = None
) -> TrueMasks:
    """The true masks that a folder, a table or a named set holds, of some pictures.

    Masks in a folder of their own are found by the pictures' names; where no list of classes lies
    with them, their numbers are the head's classes.

    Args:
        pictures: a `Source`, by whose files turned masks are known, or None.
        ids: of the pictures.
        sizes: (N, 2) H, W of the upright pictures, where there is no source.

    Raises:
        SpecError: as `bind_truth`.
        SourceError: there is no such folder or set, or nobody says what its masks mean.
    """
    from diffeat.targets.dense import open_dense

    try:
        targets = open_dense(name, missing="leave-out")
    except SourceError:
        if not Path(name).is_dir():
            raise
        targets = _of_folder(Path(name), applied, pictures, ids, sizes)
    return bind_truth(targets, applied, ids)


def _of_folder(
    folder: Path, applied: AppliedDense, pictures: Any, ids: Sequence[str], sizes: Any
) -> Any:
    """A folder of masks alone."""
    from diffeat.targets.dense import open_dense
    from diffeat.targets.dense.folders import list_beside

    listed = list_beside((folder, folder.parent)) is not None
    known = {} if pictures is not None or sizes is None else {
        "sizes": {one: (int(h), int(w)) for one, (h, w) in zip(ids, sizes, strict=True)}
    }  # fmt: skip
    return open_dense(folder, pictures=ids if pictures is None else pictures, missing="leave-out",
                      kind="masks", classes=None if listed else applied.names, **known)  # fmt: skip
