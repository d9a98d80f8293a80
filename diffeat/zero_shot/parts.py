"""Parts of pictures without labels: by self-attention, by cutting features, by clusters.

    way        what of a model, where nobody says it         t    source
    diffseg    maps of self-attention, all of the denoiser   300  Tian et al. 2024
    diffcut    the last attention block of the encoder       50   Couairon et al. 2024
    kmeans     the second stage of the decoder               50   ours

Of transformers, which have no encoder, diffcut and kmeans take the block in the middle (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import DiffeatError, NumericsError, PictureError, SourceError, SpecError
from diffeat.search.applied import Piece
from diffeat.search.dense.applied import Seen
from diffeat.search.dense.compared import TrueMasks, bind_truth, truth_of
from diffeat.search.tasks import cell_name
from probes.cells import Cells
from probes.metrics.matched import HOWS, PictureMatching, SharedMatching
from probes.parts import DiffCut, DiffSeg, KMeansParts, PictureKMeans

LEVELS: Mapping[str, int] = {"diffseg": 300, "diffcut": 50, "kmeans": 50}
"""Way → the timestep that it takes where nobody says it."""
MOST = 256
"""Parts of a picture that are told apart; smaller ones beyond are one."""
IGNORE = 255
"""Label of true masks that does not count, where their set says none."""


def default_blocks(backbone: Any, way: str) -> tuple[str, ...]:
    """Names of the tensors that a way takes of a model where nobody says it.

    Args:
        backbone: a model, weights are not needed.
        way: a key of `LEVELS`.

    Raises:
        SpecError: the model has none of them.
    """
    if way == "diffseg":
        found = [one.name for one in backbone.tensors if one.tensor == "self.map"]
        return tuple(_some(found, backbone, way, "maps of self-attention"))
    blocks = backbone.blocks
    wanted = "attention" if way == "diffcut" else "stage"
    part = "down" if way == "diffcut" else "up"
    sides = [one.name.split(".")[0] for one in blocks]
    found = [one.name for one, side in zip(blocks, sides, strict=True)
             if one.kind == wanted and side == part]  # fmt: skip
    if way == "kmeans":
        found = found[1:2] or found
    if not found and not {"down", "up"} & {*sides}:
        found = [blocks[(len(blocks) - 1) // 2].name] if blocks else []
    return tuple(_some(found, backbone, way, f"{wanted} blocks of {part}")[-1:])


def _some(found: list[str], backbone: Any, way: str, what: str) -> list[str]:
    if not found:
        raise SpecError(
            f"{backbone.name} has no {what}, which {way} takes; name tensors of it (-b)"
        )
    return found


@dataclass
class AppliedParts:
    """A way of finding parts, applied to features piece by piece.

    Args:
        head: a way of `probes.parts`.
        input_size: (H, W) in pixels of the model's inputs; None where each has its own.

    Attributes:
        kind: "masks". names: of the parts, by number. ignore: -1, no pixel is left out.
        palette: None. parts: of each picture so far, how many.
    """

    head: Any
    input_size: tuple[int, int] | None = None
    kind: str = field(init=False, default="masks")
    ignore: int = field(init=False, default=-1)
    palette: Any = field(init=False, default=None)
    parts: list[int] = field(init=False, default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether part 3 of one picture is that of another."""
        return isinstance(self.head, KMeansParts)

    @property
    def names(self) -> tuple[str, ...]:
        """As many as may come; of all that came, once anything did."""
        many = self.head.clusters if self.shared else max(self.parts, default=MOST)
        return tuple(f"part {k}" for k in range(many))

    @property
    def dtype(self) -> np.dtype:
        """Of masks."""
        return np.dtype(np.uint8 if len(self.names) <= 256 else np.uint16)

    def learn(self, pieces: Iterable[Piece], pictures: int) -> None:
        """Find the clusters of a set of pictures; nothing of other ways.

        Raises:
            NumericsError, SpecError: as `predict`.
        """
        if self.shared:
            whole = (self.cells(piece) for piece in pieces if len(piece.rows))
            _told(lambda: self.head.fit_pieces(whole, pictures))

    def predict(self, piece: Piece, uncertain: bool = False) -> Iterator[Seen]:
        """The parts of the pictures of a piece, one after another.

        Args:
            uncertain: not known of parts.

        Raises:
            NumericsError: nan or inf among the features.
            SpecError: vectors; maps that the way cannot use; features of a file that does not
                know where they lie.
        """
        if not len(piece.rows):
            return
        cells = self.cells(piece)
        if not self.shared:
            _told(lambda: self.head.fit(cells))
        for place, row in enumerate(piece.rows.tolist()):
            maps = cells.maps(place)
            found = _told(lambda maps=maps: self.head.predict_maps(maps))
            if not self.shared:
                found = np.minimum(found, MOST - 1)
            self.parts.append(int(found.max()) + 1)
            across, down = maps.shown()
            dtype = np.uint8 if found.max() < 256 else np.uint16
            yield Seen(row, found.astype(dtype), down[:, None] & across)

    def cells(self, piece: Piece) -> Cells:
        """The maps of a piece, checked."""
        if piece.sizes is None or piece.placements is None:
            raise SpecError("where the maps lie in their pictures is not known, as in files from "
                            "before 0.8; extract the pictures again")  # fmt: skip
        for cell, values in piece.arrays.items():
            if values.ndim != 4:
                raise SpecError(f"{cell_name(cell)} holds vectors, which have no pixels; extract "
                                "with --pool none")  # fmt: skip
            if not np.isfinite(values).all():
                raise NumericsError(f"the features of {cell_name(cell)} contain nan or inf; "
                                    "extract them again")  # fmt: skip
        return Cells(piece.arrays, sizes=piece.sizes, placements=piece.placements,
                     input_size=self.input_size)  # fmt: skip


def _told(make: Callable[[], Any]) -> Any:
    """What `probes` says of bad features, as an error of ours."""
    try:
        return make()
    except DiffeatError:  # of the pictures
        raise
    except ValueError as error:
        raise SpecError(str(error)) from error


def made_way(
    way: str, clusters: int | None = None, threshold: float | None = None, single: bool = False
) -> Any:
    """A way of `probes.parts` by its name.

    Args:
        way: a key of `LEVELS`.
        clusters: of kmeans; of diffcut parts at most.
        threshold: of diffseg and diffcut.
        single: kmeans within each picture, not over the set.

    Raises:
        SpecError: options that the way does not have; numbers that cannot be meant.
    """
    if way not in LEVELS:
        raise SpecError(f"parts by {way!r}; expected one of {', '.join(LEVELS)}")
    said = {"threshold": threshold}
    if way == "kmeans":
        said = {"clusters": clusters}
    elif way == "diffcut":
        said["parts"] = clusters
    asked = {"clusters": clusters, "threshold": threshold}
    for name, value in asked.items():
        fits = name in said or (way == "diffcut" and name == "clusters")
        if value is not None and not fits:
            raise SpecError(f"{way} has no {name}; leave it out")
    if single and way != "kmeans":
        raise SpecError(f"{way} finds the parts of each picture on its own anyway; leave "
                        "--each-picture out")  # fmt: skip
    said = {name: value for name, value in said.items() if value is not None}
    kinds = {"diffseg": DiffSeg, "diffcut": DiffCut, "kmeans": KMeansParts}
    if clusters is not None and not 1 <= clusters <= MOST:
        raise SpecError(f"{clusters} clusters; expected 1 … {MOST}")
    found = (PictureKMeans if single else kinds[way])(**said)
    if way != "kmeans":
        _told(found._check)
    return found


class PartsTally:
    """How good parts are, called by true classes by the best matching, with the labels.

    Args:
        applied: whose parts.
        truth: of the pictures.
        classes: K names.
    """

    def __init__(self, applied: AppliedParts, truth: TrueMasks, classes: Sequence[str]):
        self.truth, self.applied = truth, applied
        self.single = PictureMatching(classes, truth.ignore)
        self.shared = None
        if applied.shared:
            self.shared = SharedMatching(applied.head.clusters, classes, truth.ignore)
        self.without = 0

    def update(self, seen: Seen) -> float | None:
        """Compare one picture; what its input does not show does not count.

        Returns:
            Its mean IoU, one-to-one; None where it has no true mask, or nothing of that counts.

        Raises:
            SpecError: a true mask of another size.
        """
        true = self.truth.beside(seen)
        if true is None:
            self.without += 1
            return None
        group = self.truth.group(seen.row)
        score = self.single.update(seen.values, true, group)
        if self.shared is not None:
            self.shared.update(seen.values, true, group)
        return score if np.isfinite(score) else None

    def scores(self) -> dict[str, Any]:
        """Plain values by how parts are matched; {} where nothing was compared."""
        if not len(self.single) or not np.any(self.single.counts[HOWS[0]]):
            return {}
        ways = {"picture": self.single}
        if self.shared is not None:
            ways = {"set": self.shared, **ways}
        found = {}
        for which, matching in ways.items():
            for how in HOWS:
                one = matching.numbers(how)
                said = {"mIoU": one.mean_iou(), "pixel accuracy": one.pixel_accuracy()}
                if len(matching.groups.names) > 1:
                    ends = one.interval()
                    said["interval"] = [ends.low, ends.high]
                found[f"{which}, {how}"] = said
        return {**found, "pictures": len(self.single), "without a true mask": self.without}

    def lines(self) -> list[str]:
        """The same for people."""
        scores = self.scores()
        if not scores:
            return ["no pixel of these pictures has a true label"]
        lines = []
        for name, said in scores.items():
            if isinstance(said, dict):
                ends = said.get("interval")
                told = ends and f" (95 % interval {100 * ends[0]:.2f} to {100 * ends[1]:.2f})"
                lines.append(f"matched by {name}: mIoU {100 * said['mIoU']:.2f} %{told or ''}, "
                             f"pixel accuracy {100 * said['pixel accuracy']:.2f} %")  # fmt: skip
        many = f"{scores['pictures']:,} pictures"
        if self.without:
            many += f"; {self.without:,} have no true mask"
        lines.append(f"of {many}; matched with these very labels, so upper bounds")
        return lines


@dataclass(frozen=True)
class _Known:
    """Classes of true masks, in place of a head's."""

    names: tuple[str, ...]
    ignore: int


def true_masks(
    name: str, pictures: Any, ids: Sequence[str], sizes: Any = None
) -> tuple[TrueMasks, tuple[str, ...]]:
    """The true masks that a folder or a named set holds of some pictures, and their classes.

    Masks of a folder without a list of classes are numbers 0 … 254, and 255 does not count.

    Args:
        pictures, ids, sizes: as `diffeat.search.dense.compared.truth_of` takes them.

    Raises:
        SpecError, SourceError: as there.
    """
    from diffeat.targets.dense import open_dense

    try:
        targets = open_dense(name, missing="leave-out")
    except (SourceError, PictureError):
        known = _Known(tuple(map(str, range(IGNORE))), IGNORE)
        return truth_of(name, known, pictures, ids, sizes), known.names
    if targets.kind != "masks":
        raise SpecError(f"{targets.name} holds {targets.kind}; expected masks of classes")
    known = _Known(tuple(map(str, targets.classes)), int(targets.ignore))
    return bind_truth(targets, known, ids), known.names
