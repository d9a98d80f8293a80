"""Heads that are networks over whole maps: cells → a module → scores on a grid → pixels.

Features are never brought to the pictures' size. In training the scores go to a grid over the
input, where labels come by nearest; at prediction they are read at every pixel of the picture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from probes.axes import Axis
from probes.batches import ShortEpochs
from probes.cells import Cells
from probes.checks import check_choice, check_counts, check_number, pick_device
from probes.dense.base import DenseHead, Segmenter, Strips
from probes.dense.framed import Framing, label_size
from probes.dense.levels import Key, TimeMix, scales
from probes.dense.strips import STRIP_BYTES
from probes.dense.truth import Masks
from probes.held_out import split_rows, validation_share
from probes.layers import resized
from probes.lazy import Rows, as_tensor
from probes.maps import Maps, as_float
from probes.network import NetworkHead, Shapes
from probes.objectives import Objective
from probes.pixel_objectives import of_classes

LOGITS = "logits"
OVER_T = ("concat", "mix")
_ELSEWHERE: WeakKeyDictionary[nn.Module, tuple[torch.device, nn.Module]] = WeakKeyDictionary()
"""Fitted modules → another device, and their copies there."""


class GridNet(nn.Module):
    """Cells → what is said on a grid over the input.

    Args:
        scales: one module a cell, or None.
        front: what makes one or fewer maps of the cells: a mixer's network, `TimeMix`, or None.
        body: maps → (n, D, h, w).
        size: (H, W) of labels in training.
        decode: (n, D, H, W) → what is compared with labels; None: as it is.
    """

    def __init__(
        self,
        scales: nn.ModuleList | None,
        front: nn.Module | None,
        body: nn.Module,
        size: tuple[int, int],
        decode: nn.Module | None = None,
    ):
        super().__init__()
        self.scales, self.front, self.body, self.decode = scales, front, body, decode
        self.size = tuple(size)

    def grid(self, *cells: torch.Tensor) -> torch.Tensor:
        """S maps (n, C_s, h_s, w_s) → (n, D, h, w)."""
        if self.scales is not None:
            cells = [scale(cell) for scale, cell in zip(self.scales, cells, strict=True)]
        if self.front is not None:
            cells = self.front(*cells)
            cells = [cells] if isinstance(cells, torch.Tensor) else cells
        return self.body(*cells)

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        found = resized(self.grid(*cells), self.size)
        return found if self.decode is None else self.decode(found)


@dataclass(eq=False, repr=False, kw_only=True)
class GridHead(DenseHead, NetworkHead):
    """What FPN, DPT and depth heads share; a subclass says its `_body` and its objective.

    Args:
        mixer: a `HyperfeatureMixer` or `SpatialFusion`, not fitted, whose network stands before the
            head and is trained with it: all cells as one map. None: the head takes all cells, each
            on its own grid.
        over_t: several t of a block, without a mixer: "concat", all channels; "mix", their sum with
            softmax weights that are learnt.
        standardize: begin with mean 0 and variance 1 per channel on the training pictures.
        train_size: (H, W) of the labels in training, over the input. None: four times the finest
            grid, as published, but no more than the inputs have pixels.
        steps: of the whole training, cut into `epochs` parts of equal length, each of pictures in a
            new order; validation and checkpoint follow every part. None: an epoch is a pass over
            all pictures.
        epochs, batch_size, …: those of `NetworkHead`; a row is a picture.

    Attributes:
        cells_, shapes_: the (block, t), and their (C, h, w).
        train_size_: (H, W) of the labels in training.
        mixer_weights_: (block, t) → softmax weight, with a mixer or `over_t="mix"`.

    Further attributes: see `NetworkHead`.
    """

    mixer: Any = None
    over_t: str = "concat"
    standardize: bool = True
    train_size: tuple[int, int] | None = None
    steps: int | None = 500
    epochs: int = 10
    batch_size: int = 8

    _sides = (4,)

    @abstractmethod
    def _body(self, shapes: Shapes, outputs: int) -> nn.Module:
        """Maps of these shapes → (n, outputs, h, w)."""

    def _decoder(self) -> nn.Module | None:
        """What makes of (n, D, H, W) what is compared with labels."""
        return None

    # training

    def _check(self) -> None:
        """ValueError for a parameter that is out of range."""
        check_counts(self, "batch_size", "epochs")
        check_choice("over_t", self.over_t, OVER_T)
        if self.steps is not None:
            check_counts(self, "steps")
        if self.train_size is not None:
            sides = np.asarray(self.train_size)
            if sides.shape != (2,) or sides.dtype.kind not in "iu" or (sides < 1).any():
                raise ValueError(f"train_size={self.train_size!r:.60}; expected (H, W) in labels, "
                                 "or None")  # fmt: skip
        if self.mixer is not None and not hasattr(self.mixer, "network"):
            raise ValueError(f"mixer={self.mixer!r:.60}; expected a HyperfeatureMixer or "
                             "SpatialFusion of probes.aggregate, or None")  # fmt: skip

    def _fit(self, cells: Cells, truth: Any, again: Any, validation: Any, groups: Any):
        """Train on pictures and what is known of them.

        Args:
            truth: (H, W) a picture, as `Framing` takes it.
            again: (cells, targets) → the same of validation pictures.
        """
        how = self._training()
        self.n_features_in_ = len(self.cells_)
        finest = max((shape[1:] for shape in self.shapes_), key=lambda size: size[0] * size[1])
        self.train_size_ = tuple(map(int, self.train_size or label_size(cells, finest)))
        device = pick_device(self.device, cells.rows(self.cells_[0]).values)
        randomness, memory = self._randomness(device), int(self.memory_mb * 2**20)
        make = Framing(self.cells_, self.train_size_, self.batch_size, memory, device)
        targets, held = make.targets(truth), None
        fraction = validation_share(validation, self.validation_fraction)
        rows, kept = split_rows(len(cells), fraction, groups, randomness.numpy)
        if fraction:
            held = make.batches(cells, targets, kept, 4)
        elif isinstance(validation, (tuple, list)):
            cells_held = self._checked(validation[0])
            cells_held.like(self.cells_, self.shapes_)  # the grids, too
            known = make.targets(again(cells_held, validation[1]), "validation targets")
            held = make.batches(cells_held, known, share=4)
        self._look(targets, rows)
        training = make.batches(cells, targets, rows)
        if self.steps is not None:
            training = ShortEpochs(training, -(-self.steps // self.epochs))
        return self._run(how, self._objective(), training, held, randomness, **self._about())

    @abstractmethod
    def _look(self, targets: Rows, rows: np.ndarray) -> None:
        """Look at all targets of training once; sets what follows from them, and `n_outputs_`."""

    def _about(self) -> dict[str, Any]:
        """What a checkpoint has to agree with, beside the shapes of weights."""
        front = self.over_t if self.mixer is None else repr(self.mixer)
        return {"train_size": self.train_size_, "front": front, "standardize": self.standardize}

    def _build(self, shapes: Shapes, outputs: int, batches: Any) -> nn.Module:
        self._check()
        scale = scales(batches, len(shapes)) if self.standardize else None
        front, inner = None, shapes
        if self.mixer is not None:
            front = self.mixer.network(self.cells_, shapes)
            inner = [(front.width, *front.size)]
        elif self.over_t == "mix":
            front = TimeMix(self.cells_, shapes)
            inner = front.shapes
        body = self._body(inner, outputs)
        return GridNet(scale, front, body, self.train_size_, self._decoder())

    # what comes out

    def _strips(self, maps: Maps) -> Strips:
        check_is_fitted(self)
        device = pick_device(self.device, maps[self.cells_[0]])
        arrays = [as_float(maps[key])[None].to(device, torch.float32)
                  for key in self._known(maps.values)]  # fmt: skip
        with torch.no_grad():
            found = self._on(device).grid(*arrays)[0].cpu()  # (D, h, w)
        return read(Maps({LOGITS: found}, maps.size, maps.input_size, maps.placement), LOGITS)

    def _on(self, device: torch.device) -> nn.Module:
        """The module there: itself on the CPU, elsewhere a copy that is kept."""
        if device.type == "cpu":
            return self.module_
        where, there = _ELSEWHERE.get(self.module_, (None, None))
        if where != device:
            there = super()._on(device)
            _ELSEWHERE[self.module_] = device, there
        return there

    @property
    def mixer_weights_(self) -> dict[Key, float]:
        """(block, t) → softmax weight.

        Raises:
            AttributeError: nothing is mixed; or weights vary over the sites: `mixer_weights_of`.
        """
        front = self.module_.front
        if front is None or hasattr(front, "site_weights"):
            raise AttributeError(
                "no cells are mixed" if front is None else
                "weights vary over the sites of a picture: call mixer_weights_of(maps)"
            )  # fmt: skip
        return dict(zip(self.cells_, front.weights.detach().cpu().tolist(), strict=True))

    def mixer_weights_of(self, maps: Maps) -> dict[Key, np.ndarray]:
        """(block, t) → (H, W) float32 weights of one picture, with a `SpatialFusion` in front.

        Raises:
            AttributeError: with nothing of the kind in front.
        """
        net = self.module_
        arrays = [as_float(maps[key])[None].float() for key in self._known(maps.values)]
        with torch.no_grad():
            if net.scales is not None:
                arrays = [scale(one) for scale, one in zip(net.scales, arrays, strict=True)]
            found = net.front.site_weights(*arrays)[0].numpy()
        return dict(zip(self.cells_, found, strict=True))


@dataclass(eq=False, repr=False, kw_only=True)
class GridSegmenter(Segmenter, GridHead):
    """A `GridHead` that tells classes apart.

    Args:
        objective: "cross-entropy", "focal" or "dice", or a sum such as "cross-entropy + 0.5·dice",
            see `probes.pixel_objectives.of_classes`.
        class_weights: None; "balanced", the inverse of each class's share of the training labels,
            over the classes that occur with mean 1 over pixels; or (K,) numbers.
        gamma: of "focal".
        smoothing: of "cross-entropy".

    Attributes:
        class_weights_: (K,) float64, all 1 without weights.

    Further attributes: see `GridHead` and `Segmenter`.
    """

    objective: str = "cross-entropy"
    class_weights: str | Sequence[float] | None = None
    gamma: float = 2.0
    smoothing: float = 0.0

    def fit(
        self,
        cells: Any,
        masks: Any,
        validation: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
        groups: Any = None,
    ):
        """Train the head.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, with sizes.
            masks: N (H, W) label maps of the pictures' size.
            validation: what scores every epoch: a share, by groups where there are any; or
                (cells, masks). None: `validation_fraction`.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.
            groups: (N,) of the pictures, which are never in both parts.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, masks of another size or with unknown labels, all
                pixels ignored, parameters out of range, a loss that is not finite, a checkpoint of
                another training.
        """
        self._check()
        of_classes(self.objective, 2, gamma=self.gamma, smoothing=self.smoothing)
        cells, truth = self._opened(cells, masks, classes, ignore)

        def again(held: Cells, masks_held: Any) -> Masks:
            return Masks(masks_held, held, truth.classes, ignore, "validation masks")

        return self._fit(cells, truth, again, validation, groups)

    def _look(self, targets: Rows, rows: np.ndarray) -> None:
        count = len(self.classes_)
        counts = np.zeros(count, np.int64)
        for row in rows:
            labels = targets[int(row) : int(row) + 1]
            counts += np.bincount(labels[labels != self.ignore_], minlength=count)
        self._note_seen(counts)
        self.n_outputs_, self.class_weights_ = count, self._weights_of(counts)

    def _weights_of(self, counts: np.ndarray) -> np.ndarray:
        if self.class_weights is None:
            return np.ones(len(counts))
        if not isinstance(self.class_weights, str):
            return np.asarray(self.class_weights, np.float64)
        check_choice("class_weights", self.class_weights, ("balanced",))
        occurs = counts > 0
        return np.where(occurs, counts.sum() / (occurs.sum() * np.maximum(counts, 1)), 0.0)

    def _objective(self) -> Objective:
        weights = None if self.class_weights is None else self.class_weights_
        return of_classes(self.objective, len(self.classes_), self.ignore_, weights=weights,
                          gamma=self.gamma, smoothing=self.smoothing)  # fmt: skip


@dataclass(eq=False, repr=False, kw_only=True)
class DecoderSegmenter(GridSegmenter):
    """A `GridSegmenter` with one width throughout, and dropout before its classifier.

    Args:
        width: of the decoder, in channels.
        dropout: share of channels dropped before the classifier.
    """

    width: int = 128
    dropout: float = 0.1

    def _check(self) -> None:
        super()._check()
        check_counts(self, "width")
        check_number("dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")


def read(maps: Maps, key: Any) -> Strips:
    """A map at every pixel of the picture, bilinear between its sites, strip by strip.

    Returns:
        Pairs of a first row and (D, r, W) float32, down the picture.
    """
    values = as_float(maps[key]) if isinstance(maps[key], torch.Tensor) else as_tensor(maps[key])
    depth, h, w = values.shape
    column, row = maps.axes(key)
    down, across = Axis(row, h, values), Axis(column, w, values)
    by_row = values.transpose(0, 1).contiguous()  # (h, D, w)
    height, width = maps.size
    step = max(1, min(height, STRIP_BYTES // (4 * depth * width)))
    for first in range(0, height, step):
        strip = across.across(down.read(by_row, first, min(first + step, height)), 0, width)
        yield first, strip.transpose(0, 1)
