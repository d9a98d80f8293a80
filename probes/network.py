"""What all heads share that are torch modules and trained by gradient."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from probes.batches import Batches, moments
from probes.checks import (
    check_both,
    check_number,
    check_sides,
    encode_labels,
    known_labels,
    pick_device,
    required,
)
from probes.held_out import at_random, stratified
from probes.lazy import CHUNK_BYTES, Rows, as_numpy, is_lazy
from probes.objectives import CROSS_ENTROPY, Objective
from probes.randomness import Randomness
from probes.standardise import Standardize
from probes.training import Augment, Data, Training, train

SAMPLED, RUN = 64, 8
"""Of an array in a file that a checkpoint must know again: so many runs of so many rows."""
Shapes = list[tuple[int, ...]]
SETTINGS = (
    "optimizer", "learning_rate", "weight_decay", "momentum", "schedule", "epochs", "batch_size",
    "patience", "augment", "progress", "checkpoint",
)  # fmt: skip
"""Parameters that a head hands on to the loop."""


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkHead(BaseEstimator):
    """A head trained by gradient: what it is and what it minimises is up to the subclass.

    A subclass says its `_objective`, encodes targets in `_encode`, and builds its module:

        class Colours(NetworkHead):           # maps as targets (N, H, W), read when needed
            _sides = (4,)

            def _objective(self):
                return pixel_cross_entropy(classes=3)

            def _build(self, shapes, outputs, batches):
                return nn.Conv2d(shapes[0][0], 3, 1)

            def predict(self, X):
                return np.concatenate(list(self._predictions(X)))

    It reads features in pieces: an HDF5 data set is never loaded as a whole if it is larger
    than `memory_mb` (then its rows come in shuffled blocks, see `probes.batches.Batches`).
    On the CPU the same `random_state`, data and number of threads give the same bits.

    Args:
        optimizer: "adamw", "adam", "sgd" or "lars".
        learning_rate: of the first epoch.
        weight_decay: of the optimizer's kind (decoupled for adamw).
        momentum: of sgd and lars.
        schedule: "cosine", "step" (×0.1 after each quarter of the epochs) or "constant", which
            change once an epoch; or "cosine-by-step".
        epochs: passes over the rows.
        batch_size: rows of a step.
        validation_fraction: share of the training rows (of each class) that is held back to score
            epochs, in [0, 1); 0 is none. Not used where `fit` is given validation rows.
        patience: training ends after so many epochs without a better validation number, and
            the best epoch's weights are kept. None: all epochs, and the last one's weights.
        random_state: for initial weights, order of rows, dropout and augmentation.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the
            CPU.
        progress: True or False for a progress bar; None: where the output is a terminal; or what
            makes one, see `probes.training.Training`.
        augment: None, or a function (list of batches, numpy Generator) → list of batches,
            such as `probes.training.mirror`.
        checkpoint: a folder, or a .safetensors file: written after every epoch; a fit that was
            interrupted goes on from it, to the same bits. It needs `random_state` as a number.
        memory_mb: what is held of the training rows at a time, in MiB; a quarter of it for
            validation rows.

    Attributes:
        n_features_in_: length of axis 1 of X.
        shapes_: shape of a row, per array. n_outputs_: K, or 0 where the head knows it itself.
        module_: the trained torch module, in eval mode; always on the CPU, so that a pickle
            opens anywhere. A copy is moved where predictions are wanted.
        history_: the learning curve, a dict per epoch: epoch (1-based), loss, learning_rate,
            seconds (of training), and with validation: validation_loss, validation_METRIC.
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
    progress: bool | Callable[..., Any] | None = None
    augment: Augment | None = None
    checkpoint: str | Path | None = None
    memory_mb: float = 512

    # sides that an array may have: a plain class attribute, not a parameter
    _sides = (2, 4)

    def _objective(self) -> Objective:
        """What is minimised."""
        raise TypeError(f"{type(self).__name__} has no objective; use one of the heads")

    def _build(self, shapes: Shapes, outputs: int, batches: Batches) -> nn.Module:
        """The untrained module: (n, …) arrays → outputs as the objective takes them.

        Args:
            shapes: of a row, per array.
            outputs: how many, K of `_encode`.
            batches: the training rows, for statistics.
        """
        raise TypeError(f"{type(self).__name__} has no module; use one of the heads")

    def _encode(self, y: Any) -> tuple[Rows, int]:
        """Targets as the objective takes them, and the number of outputs; sets fitted attributes.

        By default they are read as they are when they are needed, and outputs are 0, for heads
        whose number of outputs is known without them.
        """
        objective = self._objective()
        return Rows(required(self, y), "y", np.dtype(objective.dtype), objective.gaps), 0

    def _encode_again(self, y: Any, count: int) -> Rows:
        """The targets of `count` validation rows."""
        objective = self._objective()
        return Rows(y, "y_validation", np.dtype(objective.dtype), objective.gaps)

    def _hold_out(self, targets: Rows, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation rows."""
        return at_random(len(targets), self.validation_fraction, rng)

    def fit(self, X: Any, y: Any, X_validation: Any = None, y_validation: Any = None):
        """Train the head.

        Args:
            X: (N, D) or (N, C, H, W) features: numpy, torch or h5py, any float dtype.
            y: N targets, as the head takes them: labels, numbers, maps.
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
        check_both(X_validation, y_validation)
        if X_validation is not None:
            held_out = self._again(X_validation), y_validation
        return self._train(parts, y, held_out, pick_device(self.device, parts[0].values))

    # how X becomes arrays: heads with several arrays override these two

    def _opened(self, X: Any, y: Any) -> tuple[list[Rows], Any]:
        """The arrays of X and the targets, checked; notes what later X must look like."""
        if isinstance(X, torch.Tensor) or is_lazy(X):
            rows = Rows(X)
            y = self._opened_targets(y)
            check_consistent_length(rows, y)
            check_sides(rows, self._sides)
            self.n_features_in_ = rows.shape[1]
        else:
            rows, y = self._validated(X, y)
            check_sides(rows, self._sides)
        self.shapes_ = [rows.shape[1:]]
        return [rows], y

    def _opened_targets(self, y: Any) -> Any:
        """Targets with a length; those that lie in a file are not read."""
        return required(self, y)

    def _validated(self, X: Any, y: Any) -> tuple[Rows, Any]:
        """X and y that lie in memory, as scikit-learn checks them."""
        X = validate_data(self, X, dtype="numeric", allow_nd=4 in self._sides)
        y = self._opened_targets(y)
        check_consistent_length(X, y)
        return Rows(X), y

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
        how = Training(**{name: getattr(self, name) for name in SETTINGS})
        how.check()
        check_number("memory_mb", self.memory_mb, self.memory_mb > 0, "> 0")
        if self.checkpoint is not None and not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                f"checkpoint with random_state={self.random_state!r}; expected a whole number, so "
                "that a training that goes on has the same rows and order"
            )
        return how

    def _train(
        self,
        parts: list[Rows],
        y: Any,
        held_out: tuple[list[Rows], Any] | None,
        device: torch.device,
    ):
        how = self._training()
        targets, outputs = self._encode(y)
        self.n_outputs_ = outputs
        randomness = self._randomness(device)
        batches, validation = self._parted(parts, targets, held_out, randomness.numpy, device)
        return self._run(how, self._objective(), batches, validation, randomness)

    def _randomness(self, device: torch.device) -> Randomness:
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=2)
        return Randomness(seeds[0], seeds[1], device)

    def _run(
        self, how: Training, objective: Objective, batches: Data, validation: Data | None,
        randomness: Randomness, **about: Any,
    ):  # fmt: skip
        """Build and train the module.

        Args:
            batches, validation: which also say their `parts` and `targets`.
            about: what a checkpoint has to agree with besides settings, seeds and data.
        """
        if how.patience is not None and validation is None:
            raise ValueError(
                f"patience={how.patience} without validation rows; give validation_fraction, or "
                "validation rows to fit"
            )
        if how.checkpoint is not None:
            given = {"features": batches.parts, "targets": [batches.targets]}
            if validation is not None:
                given |= {"validation features": validation.parts,
                          "validation targets": [validation.targets]}  # fmt: skip
            about |= {"random_state": int(self.random_state)}
            about |= {name: [_digest(rows) for rows in arrays] for name, arrays in given.items()}
        with randomness:
            module = self._build(self.shapes_, self.n_outputs_, batches).to(randomness.device)
            self.history_, self.best_epoch_ = train(
                module, objective, batches, how, randomness, validation=validation,
                about=about, name=type(self).__name__,
            )  # fmt: skip
        self.n_epochs_, self.module_ = len(self.history_), module.cpu()
        return self

    def _parted(
        self, parts: list[Rows], targets: Rows, held_out, rng: np.random.Generator, device
    ) -> tuple[Batches, Batches | None]:
        """Batches for training and, if there are such rows, for validation."""
        memory, rows = int(self.memory_mb * 2**20), np.arange(len(targets))
        validation = None
        if held_out is not None:
            held, y = held_out
            truth = self._encode_again(y, len(held[0]))
            if len(truth) != len(held[0]) or not len(truth):
                raise ValueError(
                    f"y_validation has {len(truth)} rows, X_validation {len(held[0])}; expected "
                    "equally many, at least one"
                )
            every = np.arange(len(truth))
            validation = Batches(held, truth, every, self.batch_size, memory // 4, device)
        elif self.validation_fraction:
            rows, kept = self._hold_out(targets, rng)
            validation = Batches(parts, targets, kept, self.batch_size, memory // 4, device)
        return Batches(parts, targets, rows, self.batch_size, memory, device), validation

    def _outputs(self, parts: list[Rows]) -> Iterator[torch.Tensor]:
        """What the module gives, in batches, on the CPU."""
        device = pick_device(self.device, parts[0].values)
        module = self._on(device)
        rows, nothing = np.arange(len(parts[0])), np.zeros(len(parts[0]), np.int64)
        memory = min(CHUNK_BYTES, int(self.memory_mb * 2**20))
        batches = Batches(parts, nothing, rows, self.batch_size, memory, device)
        with torch.no_grad():
            for arrays, _ in batches.ordered():
                yield module(*arrays).cpu()

    def _on(self, device: torch.device) -> nn.Module:
        """The module there: itself on the CPU, elsewhere a copy."""
        return self.module_ if device.type == "cpu" else copy.deepcopy(self.module_).to(device)

    def _predictions(self, X: Any) -> Iterator[np.ndarray]:
        """What the objective makes of outputs, in batches: memory is that of one."""
        for output in self._outputs(self._checked(X)):
            yield self._objective().predict(output).numpy()

    def _logits(self, parts: list[Rows]) -> np.ndarray:
        """(N, K) float32."""
        return np.concatenate([output.numpy() for output in self._outputs(parts)])


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkProbe(ClassifierMixin, NetworkHead):
    """A classifier: cross-entropy over the classes of (N,) labels of any kind.

    All parameters are those of `NetworkHead`.

    Attributes:
        classes_: (K,) the labels, sorted.
        history_: with validation: validation_loss, validation_accuracy.

    Further attributes: see `NetworkHead`.
    """

    def _objective(self) -> Objective:
        return CROSS_ENTROPY

    def _encode(self, y: Any) -> tuple[Rows, int]:
        self.classes_, targets = encode_labels(y)
        return Rows(targets, "y", np.int64), len(self.classes_)

    def _encode_again(self, y: Any, count: int) -> Rows:
        known = known_labels(as_numpy(y), self.classes_, count, "y_validation")
        return Rows(known, "y_validation", np.int64)

    def _hold_out(self, targets: Rows, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return stratified(targets.values, self.validation_fraction, rng)

    def _opened_targets(self, y: Any) -> np.ndarray:
        return column_or_1d(as_numpy(required(self, y)), warn=True)

    def _validated(self, X: Any, y: Any) -> tuple[Rows, np.ndarray]:
        nd = 4 in self._sides
        X, y = validate_data(self, X, as_numpy(y), dtype="numeric", allow_nd=nd)
        return Rows(X), y

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


def standardizer(wanted: bool, batches: Batches) -> nn.Module:
    """`Standardize` with the moments of the training rows, or nothing."""
    return Standardize(*moments(batches)) if wanted else nn.Identity()


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) logits → probabilities."""
    return torch.from_numpy(logits).softmax(1).numpy()


def _digest(rows: Rows) -> str:
    """Of an array; of one in a file, of `SAMPLED` runs of rows, its ends among them."""
    hasher, count = hashlib.blake2b(str(rows.shape).encode(), digest_size=8), len(rows)
    starts, step = np.arange(0, count, 4096), 4096
    if not isinstance(rows.values, (np.ndarray, torch.Tensor)):
        starts, step = np.unique(np.linspace(0, max(0, count - RUN), SAMPLED).astype(int)), RUN
    for start in starts:
        hasher.update(np.ascontiguousarray(as_numpy(rows.values[start : start + step])).tobytes())
    return hasher.hexdigest()
