"""Diffusion Hyperfeatures' mixer: all cells as one map, trained for the task at hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import check_consistent_length, column_or_1d
from torch import nn

from probes.aggregate.base import Aggregator, Key
from probes.aggregate.correspondence import PairBatches, matching, pair_table, split_groups
from probes.aggregate.hyperfeature_net import HyperfeatureNet, PooledHead
from probes.aggregate.pixelwise import (
    PIXELS,
    PIXELWISE,
    pixel_data,
    pixel_head,
    pixel_predictions,
    pixel_score,
)
from probes.batches import Batches, ShortEpochs
from probes.cells import Cells, cells_of
from probes.checks import (
    check_choice,
    check_counts,
    check_number,
    check_numbers,
    check_several,
    encode_labels,
    known_labels,
    pick_device,
    required,
)
from probes.held_out import split_rows, stratified, validation_share
from probes.lazy import Rows, as_numpy
from probes.network import NetworkHead, Shapes, softmax
from probes.objectives import (
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    SQUARED_ERROR,
    Objective,
    pixel_cross_entropy,
)
from probes.pairs import Pairs
from probes.pixel_objectives import silog
from probes.regression import NumberScale

OBJECTIVES = {
    "matching": matching(), "classification": CROSS_ENTROPY, "regression": SQUARED_ERROR,
    "multilabel": BINARY_CROSS_ENTROPY, "segmentation": pixel_cross_entropy(2), "depth": silog(),
}  # fmt: skip
"""Kind of targets → what is minimised; of "segmentation" with its own classes."""
FEWEST = 4
"""Channels that a mixed map has at least: a quarter of them is inside a bottleneck."""


@dataclass(eq=False, repr=False, kw_only=True)
class HyperfeatureMixer(Aggregator, NetworkHead):
    """Bottlenecks that are shared over t, and one softmax over all cells.

        mixer = HyperfeatureMixer(size=24, random_state=0).fit(cells, pairs)
        mixer.weights_                          # (block, t) → share
        mixed = mixer.transform(cells)          # Cells of one map a picture, made when read

    See `HyperfeatureNet` for the sum. With key points as targets the map itself is trained; with
    labels or numbers its mean over places goes into a linear layer, trained together with it.

    Args:
        width: channels of the mixed map; 384 as published, of cells with 320 to 1,280 channels.
            Half of it halves a step's time and more.
        size: its rows and columns; 64 as published. None: those of the largest grid, rows and
            columns by themselves. A step's time and memory grow with its square: it holds about
            16·width·size² bytes for every cell of every picture.
        sharpness: what the softmax' scalars are multiplied by; 1 as published. Adam moves a scalar
            by no more than the learning rate a step: with 1e-3 two cells' shares differ by a
            factor of at most e² after 1,000 steps. 10 lets trainings that are shorter than the
            published one choose too.
        steps: of the whole training, cut into `epochs` parts of equal length (rounded up), each of
            rows in a new order; validation and checkpoint follow every part. None: an epoch is a
            pass over all rows.
        epochs, batch_size, …: those of `NetworkHead`; a row is a pair, or a picture. Defaults are
            as published: 5,000 steps of one pair, AdamW with 1e-3, no decay.
        memory_mb: pictures of pairs are read once while so much holds them.

    Attributes:
        cells_, shapes_: the (block, t), and their (C, h, w).
        objective_: "matching", "classification", "regression", "multilabel", "segmentation" or
            "depth".
        weights_: (block, t) → softmax weight; they sum to 1.
        classes_: (K,) labels, of a classification or segmentation. scale_: of a regression.
        ignore_, seen_, train_size_: of pixels, as the heads of `probes.dense` have them.
        left_out_: rows that neither training nor validation has: pairs across the two, and pairs
            without a key point that both inputs show.

    Further attributes: see `NetworkHead`.

    Source: Luo et al. 2023, "Diffusion Hyperfeatures: searching through time and space".
    """

    block: ClassVar[str] = "hyperfeatures"
    _net: ClassVar[Any] = HyperfeatureNet
    _sides = (4,)

    width: int = 384
    size: int | None = 64
    sharpness: float = 1.0
    steps: int | None = 5000
    epochs: int = 20
    batch_size: int = 1
    weight_decay: float = 0.0
    schedule: str = "constant"

    # training

    def fit(
        self,
        cells: Any,
        targets: Any = None,
        *,
        objective: str | Objective = "matching",
        validation: Any = None,
        groups: Any = None,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
    ):
        """Train the mixer.

        Args:
            cells: `probes.Cells`, or a mapping from (block, t) to (N, C, h, w) maps; for matching
                with the pictures' sizes. A block has one C at all its t.
            targets: for "matching" `probes.Pairs`; for "classification" (N,) labels of any kind;
                for "regression" (N,) or (N, M) numbers; for "multilabel" (N, K) of 0 and 1; for
                "segmentation" N (H, W) label maps of the pictures' size, for "depth" N (H, W)
                metres, nan where unknown: a 1×1 layer reads the mixed map.
            objective: one of these, or a `probes.Objective`: `matching` of
                `probes.aggregate.correspondence`, of whole numbers for labels, of real numbers for
                a regression (with gaps) or for several labels, of `probes.pixel_objectives`.
            validation: what scores every epoch: a share, by groups where there are any; or
                (cells, targets). None: `validation_fraction`.
            groups: (N,) of the pictures, which are never in both parts. (Pairs have their own; one
                whose two groups lie in different parts is left out.)
            classes, ignore: of a segmentation: K or K names (None: as many as the labels say), and
                the label of pixels that do not count.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, targets of another kind, parameters out of range,
                a loss that is not finite, a checkpoint of another training.
        """
        self._check()
        cells, how = cells_of(cells), self._training()
        self._note(cells)
        self.n_features_in_ = len(self.cells_)
        self.objective_, wanted = _objective(objective)
        for name in {"classes_", "scale_", *PIXELS} & vars(self).keys():  # of an earlier fit
            delattr(self, name)
        parts = self._parts(cells)
        device = pick_device(self.device, parts[0].values)
        randomness = self._randomness(device)
        data = self._paired if self.objective_ == "matching" else self._labelled
        if self.objective_ in PIXELWISE:
            data = partial(pixel_data, self, classes=classes, ignore=ignore)
            wanted = wanted if isinstance(objective, Objective) else None
        training, held = data(cells, targets, validation, groups, randomness.numpy, device)
        wanted = wanted or self._objective()
        if self.steps is not None:
            training = ShortEpochs(training, math.ceil(self.steps / self.epochs))
        about = {"size": self._size(), "sharpness": self.sharpness}
        return self._run(how, wanted, training, held, randomness, **about)

    def _check(self) -> None:
        check_counts(self, "width", "batch_size", "epochs")
        check_number("width", self.width, self.width >= FEWEST, f">= {FEWEST}")
        for name in ("size", "steps"):
            if getattr(self, name) is not None:
                check_counts(self, name)
        good = 0 < self.sharpness < math.inf
        check_number("sharpness", self.sharpness, good, "> 0")

    def _size(self, shapes: Shapes | None = None) -> tuple[int, int]:
        if self.size is not None:
            return self.size, self.size
        shapes = shapes or self.shapes_
        return max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)

    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        return self.width, *self._size()

    def network(self, keys: Sequence[Key], shapes: Shapes) -> HyperfeatureNet:
        """The untrained network on maps (C, h, w) of these (block, t): what stands before a head
        of `probes.dense` whose `mixer` this is."""
        self._check()
        blocks, size = [block for block, _ in keys], self._size(shapes)
        return self._net(shapes, blocks, self.width, size, self.sharpness)

    def _build(self, shapes: Shapes, outputs: int, batches: Any) -> nn.Module:
        net = self.network(self.cells_, shapes)
        if self.objective_ in PIXELWISE:
            return pixel_head(self, net, batches)
        return PooledHead(net, outputs)

    def _paired(self, cells: Cells, pairs: Any, validation, groups, rng, device):
        """Batches of pairs, for training and validation."""
        if self.augment is not None:
            raise ValueError("augment moves maps, and not the key points on them; expected None "
                             "for matching")  # fmt: skip
        if groups is not None:
            raise ValueError("pairs have groups of their own; expected Pairs(…, groups=…)")
        table, usable = self._table(cells, pairs)
        rows, held, self.n_outputs_ = np.flatnonzero(usable), None, 0
        fraction = validation_share(validation, self.validation_fraction)
        if fraction:
            kept, other = split_groups(pairs.take(rows), fraction, rng)
            held, rows = self._batches(cells, table, rows[other], device, 4), rows[kept]
        elif isinstance(validation, (tuple, list)):
            cells_held, truth = self._given(validation)
            table_held, usable_held = self._table(cells_held, truth)
            held = self._batches(cells_held, table_held, np.flatnonzero(usable_held), device, 4)
        self.left_out_ = len(pairs) - len(rows) - (len(held) if fraction else 0)
        return self._batches(cells, table, rows, device), held

    def _table(self, cells: Cells, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Their `pair_table`; at least one has a key point to learn from."""
        if not isinstance(pairs, Pairs):
            raise ValueError(f"targets are a {type(pairs).__name__}; expected probes.Pairs for "
                             "matching, or another objective")  # fmt: skip
        table, usable = pair_table(cells, pairs, self._size())
        if not usable.any():
            raise ValueError(f"none of {len(pairs)} pairs has a key point that both inputs show")
        return table, usable

    def _batches(self, cells: Cells, table, rows, device, share: int = 1) -> PairBatches:
        memory = int(self.memory_mb * 2**20) // share
        return PairBatches(self._parts(cells), table, rows, self.batch_size, memory, device)

    def _labelled(self, cells: Cells, y: Any, validation, groups, rng, device):
        """Batches of pictures, for training and validation."""
        parts, memory = self._parts(cells), int(self.memory_mb * 2**20)
        targets, self.n_outputs_ = self._encode(required(self, y))
        check_consistent_length(parts[0], targets.values)
        rows, held, self.left_out_ = np.arange(len(targets)), None, 0
        if fraction := validation_share(validation, self.validation_fraction):
            if groups is None and self.objective_ == "classification":
                rows, kept = stratified(targets.values, fraction, rng)
            else:
                rows, kept = split_rows(len(targets), fraction, groups, rng)
            held = Batches(parts, targets, kept, self.batch_size, memory // 4, device)
        elif isinstance(validation, (tuple, list)):
            cells, truth = self._given(validation)
            truth = self._encode_again(truth, len(cells))
            every, parts_held = np.arange(len(truth)), self._parts(cells)
            check_consistent_length(parts_held[0], truth.values)
            held = Batches(parts_held, truth, every, self.batch_size, memory // 4, device)
        return Batches(parts, targets, rows, self.batch_size, memory, device), held

    def _given(self, validation: Any) -> tuple[Cells, Any]:
        """Validation rows that the caller has."""
        return self._checked(validation[0]), validation[1]

    def _parts(self, cells: Cells) -> list[Rows]:
        return [cells.rows(key) for key in self.cells_]

    # targets

    def _encode(self, y: Any) -> tuple[Rows, int]:
        if self.objective_ == "classification":
            self.classes_, found = encode_labels(column_or_1d(as_numpy(y), warn=True))
            return Rows(found, "y", np.int64), len(self.classes_)
        if self.objective_ == "multilabel":
            found = check_several(y)
            return Rows(found.astype(np.float32)), found.shape[1]
        y = check_numbers(y)
        self.scale_ = NumberScale.of(y)
        return Rows(self.scale_.encode(y)), len(self.scale_.mean)

    def _encode_again(self, y: Any, count: int) -> Rows:
        name = "validation targets"
        if self.objective_ == "classification":
            return Rows(known_labels(as_numpy(y), self.classes_, count, name), name, np.int64)
        if self.objective_ == "multilabel":
            found = check_several(y, name)
            if found.shape[1] != self.n_outputs_:
                raise ValueError(f"{name} have {found.shape[1]} columns; expected "
                                 f"{self.n_outputs_}, as in fit")  # fmt: skip
            return Rows(found.astype(np.float32), name)
        return Rows(self.scale_.encode(check_numbers(y, name), name), name)

    def _objective(self) -> Objective:
        if self.objective_ == "segmentation":
            return pixel_cross_entropy(len(self.classes_), self.ignore_)
        return OBJECTIVES[self.objective_]

    # what comes out

    @property
    def weights_(self) -> dict[Key, float]:
        found = self.module_.net.weights.detach().cpu().tolist()
        return dict(zip(self.cells_, found, strict=True))

    def _between(self, shape: tuple[int, ...]) -> int:
        most = max(Counter(block for block, _ in self.cells_).values())
        return 3 * most * 4 * math.prod(shape[1:])  # of all t of a block: in, norm and sum

    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        device = pick_device(self.device, None)
        net = self._on(device).net
        with torch.no_grad():
            return net(*(torch.from_numpy(one).to(device) for one in arrays)).cpu().numpy()

    def predict(self, cells: Any) -> np.ndarray:
        """(N,) labels, (N,) or (N, M) numbers, or (N, K) of 0 and 1, as targets were; of pixels
        an iterator over (H, W) class indices or metres, of the pictures' sizes.

        Raises:
            ValueError: it was trained for matching, of which there is nothing to predict.
        """
        if self.objective_ in PIXELWISE:
            return pixel_predictions(self, self._checked(cells))
        outputs = self._linear(cells)
        found = self._objective().predict(torch.from_numpy(outputs)).numpy()
        if self.objective_ == "classification":
            return self.classes_[found]
        if self.objective_ == "regression":
            return self.scale_.decode(found.astype(np.float64))
        return found

    def predict_proba(self, cells: Any) -> np.ndarray:
        """(N, K) float32: of classes, softmax; of several labels, 1/(1 + exp(-output))."""
        check_choice("objective", self.objective_, ("classification", "multilabel"))
        outputs = self._linear(cells)
        if self.objective_ == "classification":
            return softmax(outputs)
        return torch.from_numpy(outputs).sigmoid().numpy()

    def _linear(self, cells: Any) -> np.ndarray:
        cells = self._checked(cells)
        if self.objective_ == "matching":
            raise ValueError("a mixer for matching predicts nothing; give its transform(cells) to "
                             "a matcher of probes.matching")  # fmt: skip
        return self._logits(self._parts(cells))

    def score(self, cells: Any, targets: Any) -> float:
        """The number that validation has too: PCK of sites, accuracy, R², mean precision, mIoU of
        pixels; of depth minus the mean absolute relative error.

        Args:
            cells: with those of `fit`.
            targets: as `fit` takes them.

        Returns:
            For matching the share of key points found within .1 of the pairs' reference (without
            one: of the target picture's larger side), answers being sites of the mixed map.
        """
        cells, measure = self._checked(cells), self._objective().measure()
        if self.objective_ in PIXELWISE:
            return pixel_score(self, cells, targets, measure)
        if self.objective_ != "matching":
            truth = self._encode_again(targets, len(cells))
            check_consistent_length(self._parts(cells)[0], truth.values)
            outputs = torch.from_numpy(self._logits(self._parts(cells)))
            measure.update(self._objective().found(outputs), torch.from_numpy(truth[:]))
            return measure.compute()
        table, usable = self._table(cells, targets)
        device = pick_device(self.device, None)
        with torch.no_grad():
            module = self._on(device)
            for arrays, rows in self._batches(
                cells, table, np.flatnonzero(usable), device
            ).ordered():
                measure.update(module(*arrays), rows)
        return measure.compute()


def _objective(objective: str | Objective) -> tuple[str, Objective]:
    """What kind of targets there are, and what is minimised."""
    if not isinstance(objective, Objective):
        check_choice("objective", objective, tuple(OBJECTIVES))
        return objective, OBJECTIVES[objective]
    if objective.maps:
        return ("segmentation" if objective.dtype == "int64" else "depth"), objective
    if objective.metric == OBJECTIVES["matching"].metric:
        return "matching", objective
    if objective.dtype == "int64":
        return "classification", objective
    return ("regression" if objective.gaps else "multilabel"), objective
