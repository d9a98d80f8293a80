"""What the features are worth: the (t, block) surface of a classification task.

Every cell is a linear probe, fitted on the training part and scored on the validation part.
Choices (penalty, block, t) are made on validation alone; the test part is touched once per
reported choice, by a probe refitted on training and validation together.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.noise import format_t
from diffeat.specs import differences
from diffeat.store import FeatureStore
from probes import LinearProbe

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TRAIN, VALIDATION, TEST = 0, 1, 2


def split_by_hash(
    ids: Sequence[str], fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> np.ndarray:
    """Assign every picture to training (0), validation (1) or test (2) by its id alone.

    A picture keeps its part when others come or go, and in every file that holds it.

    Args:
        ids: N picture ids.
        fractions: expected shares of the three parts, summing to 1.

    Returns:
        (N,) int64.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise SpecError(f"fractions {fractions}; expected three shares that sum to 1")
    edges = np.cumsum(fractions)[:2]
    position = np.array([unit_interval("split", seed, name) for name in ids])
    return np.searchsorted(edges, position, side="right").astype(np.int64)


@dataclass(frozen=True)
class Task:
    """Features of one task: `read(block, t)` gives them for all pictures, row by row.

    Attributes:
        name: what the rows come from, for tables.
        labels: (N,) class indices.
        part: (N,) TRAIN, VALIDATION or TEST.
        cells: the (block, t) that there are, in table order.
        read: (block, t) → (N, …) array.
    """

    name: str
    labels: np.ndarray
    part: np.ndarray
    cells: tuple[tuple[str, float], ...]
    read: Callable[[str, float], np.ndarray]

    def __post_init__(self) -> None:
        for part, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
            if len(np.unique(self.labels[self.part == part])) < 2:
                raise SpecError(
                    f"{self.name}: fewer than two classes in the {name} part "
                    f"({int((self.part == part).sum())} pictures); give more pictures"
                )


@dataclass
class Cell:
    """One (block, t): accuracies in [0, 1]; `test` only where the cell was chosen."""

    block: str
    t: int | float
    validation: float
    C: float
    test: float | None = None


@dataclass
class Surface:
    """The fitted cells of one task.

    Attributes:
        name: what the features are of.
        cells: all cells, blocks in the order of execution.
        counts: pictures in training, validation and test.
        classes: number of classes.
    """

    name: str
    cells: list[Cell]
    counts: tuple[int, int, int]
    classes: int

    @property
    def best(self) -> Cell:
        """The cell with the highest validation accuracy; the first of equals."""
        return max(self.cells, key=lambda cell: cell.validation)

    @property
    def timesteps(self) -> list[int | float]:
        return list(dict.fromkeys(cell.t for cell in self.cells))

    @property
    def blocks(self) -> list[str]:
        return list(dict.fromkeys(cell.block for cell in self.cells))

    def best_at(self, t: float) -> Cell:
        """The block with the highest validation accuracy at one t."""
        return max((c for c in self.cells if c.t == t), key=lambda cell: cell.validation)

    def grid(self) -> np.ndarray:
        """(blocks, timesteps) validation accuracies; nan where there is no cell."""
        values = {(cell.block, cell.t): cell.validation for cell in self.cells}
        return np.array([[values.get((b, t), np.nan) for t in self.timesteps] for b in self.blocks])

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "best": asdict(self.best)}

    def write_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """One row per cell: features, block, t, validation, test (empty if not chosen), C."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["features", "block", "t", "validation", "test", "C"])
            for c in self.cells:
                test = "" if c.test is None else round(c.test, 4)
                writer.writerow(
                    [self.name, c.block, format_t(c.t), round(c.validation, 4), test, c.C]
                )

    def table(self) -> str:
        """Validation accuracy in per cent, blocks down and t across; the best is starred."""
        width = max(len("block"), *(len(block) for block in self.blocks))
        head = "block".ljust(width) + "".join(f"{'t=' + format_t(t):>9}" for t in self.timesteps)
        lines = [head, "-" * len(head)]
        cells = {(cell.block, cell.t): cell for cell in self.cells}
        for block in self.blocks:
            row = [_percent(cells.get((block, t)), self.best) for t in self.timesteps]
            lines.append(block.ljust(width) + "".join(row))
        return "\n".join(lines)


def _percent(cell: Cell | None, best: Cell) -> str:
    if cell is None:
        return " " * 9
    star = "*" if cell is best else " "
    return f"{100 * cell.validation:8.1f}{star}"


def task_from_store(
    store: FeatureStore,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    test: FeatureStore | None = None,
) -> Task:
    """A task from one file split by the hash of its ids, or from a training and a test file.

    With a test file the training file gives training and validation, 80 to 20.

    Raises:
        SpecError: no labels, or two files that do not fit together.
    """
    stores = [store] if test is None else [store, test]
    for one in stores:
        if one.labels is None:
            raise SpecError(
                f"{one.path} has no labels; extract from a folder with one subfolder per class"
            )
    if test is None:
        part = split_by_hash(store.ids, fractions, seed)
    else:
        _check_pair(store, test)
        inner = split_by_hash(store.ids, (0.8, 0.2, 0.0), seed)
        part = np.concatenate([inner, np.full(len(test), TEST)])

    def read(block: str, t: float) -> np.ndarray:
        return np.concatenate([one[block, t][:] for one in stores])

    return Task(
        name=store.model["name"],
        labels=np.concatenate([one.labels for one in stores]),
        part=part,
        cells=tuple((block, t) for block in store.blocks for t in store.timesteps),
        read=read,
    )


def _check_pair(train: FeatureStore, test: FeatureStore) -> None:
    if train.class_names != test.class_names:
        raise SpecError(f"{train.path} and {test.path} have different classes")
    if train.model["fingerprint"] != test.model["fingerprint"]:
        raise SpecError(f"{train.path} and {test.path} come from different models")
    if train.pictures["fingerprint"] == test.pictures["fingerprint"]:
        raise SpecError(
            f"{train.path} and {test.path} hold the same pictures; expected a test set of its own, "
            "or give one file and let it be split"
        )
    specs = [one.spec.to_dict() for one in (train, test)]
    for spec in specs:
        del spec["blocks"], spec["timesteps"]
    if differ := differences(*specs):
        raise SpecError(
            f"{test.path} was extracted in another way than {train.path} ({'; '.join(differ)}); "
            "extract both with the same options"
        )
    missing = {(b, t) for b in train.blocks for t in train.timesteps} - {
        (b, t) for b in test.blocks for t in test.timesteps
    }
    if missing:
        block, t = sorted(missing, key=str)[0]
        raise SpecError(f"{test.path} lacks block {block!r} at t={t}, which {train.path} has")


def probe_surface(
    task: Task,
    penalties: Iterable[float] = PENALTIES,
    progress: Callable[[Iterable], Iterable] = iter,
    device: str = "cpu",
) -> Surface:
    """Fit and score a linear probe for every cell of a task.

    The penalty of each cell is chosen on validation, from strong to weak, until the accuracy
    falls by more than one standard error. The best cell, and the best block at each t, are
    refitted on training and validation and scored on test.

    Args:
        task: features and parts.
        penalties: values of C to choose from.
        progress: wraps the list of cells, such as a progress bar.
    """
    cells = [
        _fit_cell(task, block, t, sorted(penalties), device) for block, t in progress(task.cells)
    ]
    counts = tuple(int((task.part == part).sum()) for part in (TRAIN, VALIDATION, TEST))
    surface = Surface(task.name, cells, counts, len(np.unique(task.labels)))
    for cell in [surface.best, *(surface.best_at(t) for t in surface.timesteps)]:
        if cell.test is None:
            cell.test = _test_cell(task, cell, device)
    return surface


def _matrix(task: Task, block: str, t: float) -> np.ndarray:
    """(N, D) float32, maps flattened."""
    values = task.read(block, t)
    return values.reshape(len(values), -1).astype(np.float32, copy=False)


def _fit_cell(task: Task, block: str, t: float, penalties: list[float], device: str) -> Cell:
    X, y = _matrix(task, block, t), task.labels
    train, held = task.part == TRAIN, task.part == VALIDATION
    Xt, yt, Xv, yv = X[train], y[train], X[held], y[held]
    probe = LinearProbe(warm_start=True, device=device)  # each C starts from the stronger one
    best = Cell(block, t, -1.0, penalties[0])
    for C in penalties:
        accuracy = float(probe.set_params(C=C).fit(Xt, yt).score(Xv, yv))
        if accuracy > best.validation:  # of equals, the stronger penalty
            best = Cell(block, t, accuracy, C)
        error = math.sqrt(best.validation * (1 - best.validation) / len(yv))
        if accuracy < best.validation - error:
            break  # it overfits; weaker penalties take longest and would only do so more
    return best


def _test_cell(task: Task, cell: Cell, device: str) -> float:
    X, test = _matrix(task, cell.block, cell.t), task.part == TEST
    probe = LinearProbe(C=cell.C, device=device).fit(X[~test], task.labels[~test])
    return float(probe.score(X[test], task.labels[test]))
