"""What all heads share that are torch modules and trained by gradient."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from probes.arrays import (
    CHUNK_BYTES,
    Rows,
    as_numpy,
    encode_labels,
    is_lazy,
    known_labels,
    pick_device,
)
from probes.batches import Batches, moments
from probes.held_out import stratified
from probes.training import Augment, Training, check_number, train

Shapes = list[tuple[int, ...]]


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkProbe(ClassifierMixin, BaseEstimator):
    """A head trained by gradient on the cross-entropy; what is trained is up to the subclass.

    It reads features in pieces: an HDF5 data set is never loaded as a whole if it is larger
    than `memory_mb` (then its rows come in shuffled blocks, see `probes.batches.Batches`).
    On the CPU the same `random_state`, data and number of threads give the same bits.

    Args:
        optimizer: "adamw", "adam", "sgd" or "lars".
        learning_rate: of the first epoch.
        weight_decay: of the optimizer's kind (decoupled for adamw).
        momentum: of sgd and lars.
        schedule: "cosine", "step" (×0.1 after each quarter of the epochs) or "constant"; the
            rate changes once an epoch.
        epochs: passes over the rows.
        batch_size: rows of a step.
        validation_fraction: stratified share of the training rows that is held back to score
            epochs, in [0, 1); 0 is none. Not used where `fit` is given validation rows.
        patience: training ends after so many epochs without a better validation accuracy, and
            the best epoch's weights are kept. None: all epochs, and the last one's weights.
        random_state: for initial weights, order of rows, dropout and augmentation.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the
            CPU.
        progress: True or False for a progress bar; None: where the output is a terminal.
        augment: None, or a function (list of batches, numpy Generator) → list of batches,
            such as `probes.training.mirror`.
        memory_mb: what is held of the training rows at a time, in MiB; a quarter of it for
            validation rows.

    Attributes:
        classes_: (K,) the labels, sorted.
        n_features_in_: length of axis 1 of X.
        shapes_: shape of a row, per array.
        module_: the trained torch module, in eval mode; always on the CPU, so that a pickle
            opens anywhere. A copy is moved where predictions are wanted.
        history_: the learning curve, a dict per epoch: epoch (1-based), loss, learning_rate,
            seconds (of training), and with validation: validation_loss, validation_accuracy.
        n_epochs_: epochs trained. best_epoch_: the one whose weights are kept.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: str = "cosine"
    epochs: int = 30
    batch_size: int = 256
    validation_fraction: float = 0.0
    patience: int | None = None
    random_state: Any = None
    device: str = "auto"
    progress: bool | None = None
    augment: Augment | None = None
    memory_mb: float = 512

    # sides that an array may have: a plain class attribute, not a parameter
    _sides = (2, 4)

    def _build(self, shapes: Shapes, classes: int, batches: Batches) -> nn.Module:
        """The untrained module: (n, …) arrays → (n, K) logits.

        Args:
            shapes: of a row, per array.
            batches: the training rows, for statistics.
        """
        raise TypeError(f"{type(self).__name__} has no module; use one of the heads")

    def fit(self, X: Any, y: Any, X_validation: Any = None, y_validation: Any = None):
        """Train the head.

        Args:
            X: (N, D) or (N, C, H, W) features: numpy, torch or h5py, any float dtype.
            y: (N,) labels of any kind that scikit-learn takes.
            X_validation, y_validation: the same, to score every epoch.

        Returns:
            self.

        Raises:
            ValueError: wrong shapes, inf or nan, fewer than two classes, validation rows that
                are empty or have classes that `y` lacks, parameters out of range, a loss
                that is not finite.
        """
        parts, y = self._opened(X, y)
        held_out = None
        if (X_validation is None) != (y_validation is None):
            raise ValueError("expected X_validation and y_validation together, or neither")
        if X_validation is not None:
            held_out = self._again(X_validation), as_numpy(y_validation)
        return self._train(parts, y, held_out, pick_device(self.device, parts[0].values))

    def decision_function(self, X: Any) -> np.ndarray:
        """float32 logits (N, K); for two classes their difference (N,), as scikit-learn has it."""
        logits = self._logits(self._checked(X))
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the likeliest class of each row."""
        likeliest = self._logits(self._checked(X)).argmax(1)
        return self.classes_[likeliest]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) float32 probabilities: softmax of the logits."""
        return softmax(self._logits(self._checked(X)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy in [0, 1]."""
        return super().score(X, as_numpy(y), sample_weight)

    # how X becomes arrays: heads with several arrays override these two

    def _opened(self, X: Any, y: Any) -> tuple[list[Rows], np.ndarray]:
        """The arrays of X and the labels, checked; notes what later X must look like."""
        if isinstance(X, torch.Tensor) or is_lazy(X):
            rows = Rows(X)
            y = column_or_1d(as_numpy(required(self, y)), warn=True)
            check_consistent_length(rows, y)
            check_sides(rows, self._sides)
            self.n_features_in_ = rows.shape[1]
        else:
            y = as_numpy(y)
            X, y = validate_data(self, X, y, dtype="numeric", allow_nd=4 in self._sides)
            rows = Rows(X)
            check_sides(rows, self._sides)
        self.shapes_ = [rows.shape[1:]]
        return [rows], y

    def _again(self, X: Any) -> list[Rows]:
        """The arrays of an X that must look like that of `fit`."""
        if not isinstance(X, torch.Tensor) and not is_lazy(X):
            options = {"dtype": "numeric", "allow_nd": 4 in self._sides}
            X = validate_data(self, X, reset=False, **options)
        rows = Rows(X)
        if rows.shape[1:2] != self.shapes_[0][:1]:
            raise ValueError(
                f"X has {rows.shape[1] if len(rows.shape) > 1 else 0} features, but "
                f"{type(self).__name__} is expecting {self.n_features_in_} features as input"
            )
        if rows.shape[1:] != self.shapes_[0]:
            raise ValueError(
                f"X has rows of shape {rows.shape[1:]}; expected {self.shapes_[0]}, as in fit"
            )
        return [rows]

    # training and prediction

    def _checked(self, X: Any) -> list[Rows]:
        check_is_fitted(self)
        return self._again(X)

    def _training(self) -> Training:
        return Training(**{field.name: getattr(self, field.name) for field in fields(Training)})

    def _train(
        self,
        parts: list[Rows],
        y: np.ndarray,
        held_out: tuple[list[Rows], np.ndarray] | None,
        device: torch.device,
    ):
        how = self._training()
        check_number("memory_mb", self.memory_mb, self.memory_mb > 0, "> 0")
        self.classes_, targets = encode_labels(y)
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=2)
        rng, rows = np.random.default_rng(seeds[0]), np.arange(len(targets))
        memory = int(self.memory_mb * 2**20)
        validation = None
        if held_out is not None:
            held, labels = held_out
            known = known_labels(labels, self.classes_, len(held[0]), "y_validation")
            every = np.arange(len(known))
            validation = Batches(held, known, every, self.batch_size, memory // 4, device)
        elif self.validation_fraction:
            rows, kept = stratified(targets, self.validation_fraction, rng)
            validation = Batches(parts, targets, kept, self.batch_size, memory // 4, device)
        if how.patience is not None and validation is None:
            raise ValueError(
                f"patience={how.patience} without validation rows; give validation_fraction, or "
                "X_validation and y_validation"
            )
        batches = Batches(parts, targets, rows, self.batch_size, memory, device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seeds[1]))
            module = self._build(self.shapes_, len(self.classes_), batches).to(device)
            self.history_, self.best_epoch_ = train(
                module, how, batches, validation, rng, type(self).__name__
            )
        self.n_epochs_, self.module_ = len(self.history_), module.cpu()
        return self

    def _logits(self, parts: list[Rows]) -> np.ndarray:
        """(N, K) float32, in batches."""
        device = pick_device(self.device, parts[0].values)
        module = self.module_
        if device.type != "cpu":
            module = copy.deepcopy(module).to(device)
        count = len(parts[0])
        found = np.empty((count, len(self.classes_)), np.float32)
        rows, nothing = np.arange(count), np.zeros(count, np.int64)
        memory = min(CHUNK_BYTES, int(self.memory_mb * 2**20))
        batches = Batches(parts, nothing, rows, self.batch_size, memory, device)
        at = 0
        with torch.no_grad():
            for arrays, _ in batches.ordered():
                logits = module(*arrays)
                found[at : at + len(logits)] = logits.cpu().numpy()
                at += len(logits)
        return found


class Standardize(nn.Module):
    """(x - mean)/deviation per feature or channel (axis 1), with fixed statistics."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(sides)) / self.deviation.view(sides)


def standardizer(wanted: bool, batches: Batches) -> nn.Module:
    """`Standardize` with the moments of the training rows, or nothing."""
    return Standardize(*moments(batches)) if wanted else nn.Identity()


def check_sides(rows: Rows, sides: tuple[int, ...]) -> None:
    """ValueError unless the array has one of these numbers of axes, and none is empty."""
    names = {2: "(N, D)", 3: "(N, L, D)", 4: "(N, C, H, W)"}
    if len(rows.shape) not in sides or not np.prod(rows.shape):
        expected = " or ".join(names[side] for side in sides)
        raise ValueError(f"{rows.name} has shape {rows.shape}; expected {expected}, none empty")


def required(head: BaseEstimator, y: Any) -> Any:
    """`y`, unless it is None."""
    if y is None:
        raise ValueError(f"{type(head).__name__} requires y to be passed, but the target y is None")
    return y


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits → probabilities."""
    return torch.from_numpy(logits).softmax(1).numpy()
