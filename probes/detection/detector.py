"""A detector on frozen maps, trained through the one loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from probes.batches import Batches
from probes.cells import Cells, cells_of
from probes.checks import check_counts, check_number, named_classes, pick_device
from probes.detection.boxes import Boxes, packed, to_picture
from probes.held_out import split_rows, validation_share
from probes.lazy import Rows
from probes.metrics.detection import AveragePrecision
from probes.network import NetworkHead, Shapes
from probes.objectives import Objective
from probes.on_maps import OnMaps

if TYPE_CHECKING:
    from probes.detection.network import Levels


@dataclass(eq=False, repr=False, kw_only=True)
class BoxDetector(OnMaps, NetworkHead):
    """FCOS (torchvision's) on a feature pyramid of frozen maps.

    Cells of one grid are joined and normalised; the grids are the levels of a feature pyramid, and
    one coarser is added. A thing is sought at the level whose cells fit its size.

    Args:
        width: channels of the pyramid; a multiple of 4.
        depth: convolutions of each branch of the head.
        min_score: what is found below it is dropped.
        overlap: of two boxes of a class that overlap more (IoU), the weaker is dropped.
        epochs, batch_size, …: those of `NetworkHead`; a row is a picture, and `augment` None, for
            boxes are not moved.

    Attributes:
        cells_, shapes_: the (block, t), and their (C, h, w).
        classes_: (K,) names. input_size_: (2,) H, W of the inputs in pixels.

    Further attributes: see `NetworkHead`.

    Source: Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection"; features of a
    frozen diffusion model in a detector: DiffYOLO.
    """

    _sides = (4,)

    width: int = 64
    depth: int = 2
    min_score: float = 0.05
    overlap: float = 0.6
    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 1e-3

    def fit(
        self,
        cells: Any,
        boxes: Sequence[Boxes],
        validation: Any = None,
        *,
        classes: int | Sequence[str],
        groups: Any = None,
    ):
        """Train the pyramid and the head.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, with the pictures' sizes.
            boxes: what is known of each picture.
            validation: what scores every epoch (AP at IoU .5, in input pixels): a share of the
                groups, or (cells, boxes). None: `validation_fraction`.
            classes: K, or K names.
            groups: (N,) of the pictures; None: each is its own.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, labels that are no class, no box, parameters out of
                range, a loss that is not finite.
        """
        self._check()
        cells, how = cells_of(cells), self._training()
        self._note(cells)
        self.n_features_in_ = len(self.cells_)
        self.classes_ = named_classes(classes)
        self.n_outputs_ = len(self.classes_)
        self.input_size_ = np.asarray(_one_size(cells), np.int64)
        device = pick_device(self.device, None)
        randomness = self._randomness(device)
        training, held = self._parted_pictures(
            cells, boxes, validation, groups, randomness.numpy, device
        )
        return self._run(how, self._objective(), training, held, randomness)

    def _check(self) -> None:
        check_counts(self, "width", "depth", "batch_size", "epochs")
        if self.width % 4:
            raise ValueError(f"width={self.width}; expected a multiple of 4")
        for name in ("min_score", "overlap"):
            value = getattr(self, name)
            check_number(name, value, 0 <= value <= 1, "in [0, 1]")
        if self.augment is not None:
            raise ValueError("augment moves maps, and not the boxes on them; expected None")

    def _alike(self, cells: Any) -> Cells:
        """Cells on the grids of `fit`, under inputs of that size: the pyramid is made for them."""
        cells = self._checked(cells)
        cells.like(self.cells_, self.shapes_)
        for row in range(len(cells)):
            size = tuple(cells.frame(row).input_size)
            if size != tuple(self.input_size_):
                raise ValueError(f"the input of picture {row} is {size}; expected "
                                 f"{tuple(self.input_size_.tolist())}, as in fit")  # fmt: skip
        return cells

    def _parted_pictures(self, cells: Cells, boxes, validation, groups, rng, device):
        """Batches for training and, if there are such pictures, for validation."""
        targets = Rows(packed(boxes, cells, self.n_outputs_), "boxes")
        parts, memory = [cells.rows(key) for key in self.cells_], int(self.memory_mb * 2**20)
        share = validation_share(validation, self.validation_fraction, "boxes")
        rows, held = np.arange(len(cells)), None
        if isinstance(validation, (tuple, list)):
            others, truth = self._alike(validation[0]), validation[1]
            there = [others.rows(key) for key in self.cells_]
            known = Rows(packed(truth, others, self.n_outputs_), "validation boxes")
            every = np.arange(len(others))
            held = Batches(there, known, every, self.batch_size, memory // 4, device)
        elif share:
            rows, kept = split_rows(len(cells), share, groups, rng)
            held = Batches(parts, targets, kept, self.batch_size, memory // 4, device)
        return Batches(parts, targets, rows, self.batch_size, memory, device), held

    def _levels(self) -> Levels:
        from probes.detection.network import Levels  # torchvision's detectors take a second

        size = tuple(int(side) for side in self.input_size_)
        return Levels(self.shapes_, size, self.n_outputs_, self.min_score, self.overlap)

    def _build(self, shapes: Shapes, outputs: int, batches: Any) -> nn.Module:
        from probes.detection.network import DetectorNet

        return DetectorNet(self._levels(), self.width, self.depth)

    def _objective(self) -> Objective:
        levels = self._levels()
        return Objective(
            "FCOS", lambda output, target, reduction: _scaled(levels, output, target, reduction),
            len, "ap50", lambda: _Measure(levels), True, levels.boxes, levels.boxes, "float32",
        )  # fmt: skip

    def predict(self, cells: Any) -> Iterator[Boxes]:
        """What is found in each picture, in its own pixels, the likeliest first.

        Raises:
            ValueError: cells, channels, grids or inputs that are not those of `fit`.
        """
        cells, levels = self._alike(cells), self._levels()
        device = pick_device(self.device, None)
        net, row = self._on(device), 0
        parts = [cells.rows(key) for key in self.cells_]
        nothing, every = np.zeros(len(cells), np.int64), np.arange(len(cells))
        memory = int(self.memory_mb * 2**20)
        batches = Batches(parts, nothing, every, self.batch_size, memory, device)
        for arrays, _ in batches.ordered():
            with torch.no_grad():
                found = levels.boxes(net(*arrays))
            for one in found:
                yield self._in_picture(one, cells, row)
                row += 1

    def _in_picture(self, one: dict[str, torch.Tensor], cells: Cells, row: int) -> Boxes:
        maps = cells.frame(row)
        boxes = to_picture(one["boxes"].cpu().double().numpy(), maps)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        labels, scores = (one[name].cpu().numpy()[kept] for name in ("labels", "scores"))
        return Boxes(boxes[kept], labels, scores.astype(np.float64))

    def score(self, cells: Any, boxes: Sequence[Boxes]) -> float:
        """AP at IoU .5, in [0, 1]; see `probes.metrics.AveragePrecision` for more."""
        if len(boxes) != len(cells):
            raise ValueError(f"boxes of {len(boxes)} pictures for {len(cells)}; expected one a "
                             "picture")  # fmt: skip
        measure = AveragePrecision(len(self.classes_))
        for found, known in zip(self.predict(cells), boxes, strict=True):
            measure.update(found, known)
        return measure.compute()["AP50"]


def _one_size(cells: Cells) -> tuple[int, int]:
    """(H, W) of the inputs; ValueError where they differ, or are not known."""
    sizes = {cells.frame(row).input_size for row in range(len(cells))}
    if len(sizes) != 1:
        some = ", ".join(map(str, sorted(sizes)[:3]))
        raise ValueError(
            f"inputs of {len(sizes)} sizes ({some}); expected one: give Cells(…, input_size=(H, "
            "W)), in pixels, as the pictures were extracted"
        )
    return next(iter(sizes))


def _scaled(levels: Levels, output, target, reduction: str) -> torch.Tensor:
    """The loss of a batch is a mean already; its sum weighs by pictures."""
    loss = levels.loss(output, target)
    return loss * len(target) if reduction == "sum" else loss


class _Measure:
    """AP50 of what is found in inputs."""

    def __init__(self, levels: Levels):
        self.measure = AveragePrecision(levels.classes)

    def update(self, found: list[dict[str, torch.Tensor]], truth: torch.Tensor) -> None:
        for one, known in zip(found, truth.cpu().double().numpy(), strict=True):
            known = known[known[:, 4] >= 0]
            there = {name: value.cpu().double().numpy() for name, value in one.items()}
            kept = (there["boxes"][:, 2:] > there["boxes"][:, :2]).all(1)
            self.measure.update(
                Boxes(there["boxes"][kept], there["labels"][kept], there["scores"][kept]),
                Boxes(known[:, :4], known[:, 4]),
            )

    def compute(self) -> float:
        return self.measure.compute()["AP50"]
