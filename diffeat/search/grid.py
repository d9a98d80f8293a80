"""All cells of a task, scored in groups that fit in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import format_t
from diffeat.search.journal import Journal
from diffeat.search.scores import PENALTIES, Function, Logistic, Outcome, Score, score_of
from diffeat.search.surface import Cell, Surface
from diffeat.search.tasks import SLAB_BYTES, TEST, TRAIN, VALIDATION, CellKey, Task, readable

MEMORY = 2 << 30
"""Bytes that features may take, unless told otherwise."""
Progress = Callable[[Iterable], Iterable]


def search_surface(
    task: Task,
    score: str | Score | Function = "logistic",
    memory: int = MEMORY,
    journal: Journal | None = None,
    progress: Progress = iter,
) -> Surface:
    """Score every cell of a task; choose on validation; touch test once per choice.

    The best cell, and the best block at each t, are refitted on training and validation with
    the setting that validation chose, and scored on test.

    Features are read from where they lie, a group of G cells with equal D at a time. With N
    pictures, at most

        G · score.bytes_of(N, D, K) + 4 MiB

    bytes are held (4 · 4 · N · D for the features of a cell, and the solver's work space), and
    G is the largest number that keeps this within `memory`.

    Args:
        task: features, labels and parts.
        score: "logistic", "ridge", "knn", a `Score`, or a function (X_train, y_train,
            X_validation, y_validation) → float.
        memory: in bytes.
        journal: where finished cells are kept.
        progress: wraps the list of cells, such as a progress bar.

    Raises:
        SpecError: one cell alone needs more than `memory`.
        NumericsError: nan or inf in a cell.
    """
    score, journal = score_of(score), journal or Journal()
    surface = Surface(
        task.name, [], task.counts, task.classes, score.name, task.conditioned, task.how
    )
    steps = iter(progress(list(task.cells)))
    place = {cell: index for index, cell in enumerate(task.cells)}
    for group in task.groups or (task.cells,):
        cells = []
        for key, [outcome] in score_cells(task, score, group, [task.part], memory, journal):
            cells.append(Cell(*key, outcome.validation, outcome.setting))
            next(steps, None)
        surface.cells = sorted([*surface.cells, *cells], key=lambda cell: place[cell.key])
        done = {cell.key for cell in surface.cells}
        for t in {cell.t: None for cell in cells}:  # while their features are at hand
            if all(key in done for key in task.cells if key[1] == t):
                chosen = surface.best_at(t)
                chosen.test = score_on_test(task, score, chosen.key, chosen.C, memory, journal)
    next(steps, None)  # lets a progress bar end
    return surface


def probe_surface(
    task: Task,
    penalties: Iterable[float] = PENALTIES,
    progress: Progress = iter,
    device: str = "cpu",
) -> Surface:
    """`search_surface` by linear probes.

    Args:
        task: features and parts.
        penalties: values of C to choose from.
        progress: wraps the list of cells, such as a progress bar.
        device: where the probes are fitted.
    """
    return search_surface(task, Logistic(tuple(penalties), device), progress=progress)


def score_cells(
    task: Task,
    score: Score,
    cells: Sequence[CellKey],
    parts: Sequence[np.ndarray],
    memory: int = MEMORY,
    journal: Journal | None = None,
) -> Iterator[tuple[CellKey, list[Outcome]]]:
    """(cell, one outcome per split) of some cells; every cell is read once for all splits.

    Args:
        parts: splits (N,) that share the test part; rows of -1 are left out.

    Yields:
        First what the journal has, then group by group what is computed.
    """
    journal = journal or Journal()
    keys = {c: [journal.key(task, score, part, c) for part in parts] for c in cells}
    pending = []
    for cell in cells:
        found = [journal.get(cell, key) for key in keys[cell]]
        if all(found):
            yield cell, [Outcome(one["validation"], one["setting"]) for one in found]
        else:
            pending.append(cell)
    rows = np.any([(part == TRAIN) | (part == VALIDATION) for part in parts], axis=0)
    for group in groups_within(task, pending, score, memory):
        if len(parts) == 1:
            found = [_fit_once(task, score, group, parts[0])]
        else:  # read once for all splits
            X = stacked(task, group, rows)
            found = [_fit(score, X, task.labels[rows], part[rows]) for part in parts]
        for cell, outcomes in zip(group, zip(*found, strict=True), strict=True):
            for key, outcome in zip(keys[cell], outcomes, strict=True):
                values = {"validation": outcome.validation, "setting": outcome.setting}
                journal.put(cell, key, {**values, "score": score.name})
            yield cell, list(outcomes)


def stacked(task: Task, cells: Sequence[CellKey], rows: np.ndarray) -> np.ndarray:
    """(G, n, D) float32 features of some pictures, for cells of equal D."""
    X = np.empty((len(cells), int(rows.sum()), task.width(cells[0])), np.float32)
    for place, cell in zip(X, cells, strict=True):
        place[:] = task.matrix(cell, rows)
    return X


def _fit_once(
    task: Task, score: Score, cells: Sequence[CellKey], part: np.ndarray
) -> list[Outcome]:
    """One split: its parts are read one by one, so nothing is held twice."""
    train, held = part == TRAIN, part == VALIDATION
    X, Xv = stacked(task, cells, train), stacked(task, cells, held)
    return score.fit(X, task.labels[train], Xv, task.labels[held])


def _fit(score: Score, X: np.ndarray, y: np.ndarray, part: np.ndarray) -> list[Outcome]:
    train, held = part == TRAIN, part == VALIDATION
    return score.fit(X[:, train], y[train], X[:, held], y[held])


def groups_within(
    task: Task, cells: Sequence[CellKey], score: Score, memory: int
) -> Iterator[list[CellKey]]:
    """Runs of cells with equal D whose features fit in `memory` together.

    Raises:
        SpecError: one cell alone does not fit.
    """
    for width, same in itertools.groupby(sorted(cells, key=task.width), key=task.width):
        same = list(same)
        each = check_memory(task, same[0], width, score, memory)
        most = max(1, int((memory - SLAB_BYTES) / each))
        yield from (same[start : start + most] for start in range(0, len(same), most))


def check_memory(
    task: Task, cell: CellKey, width: int, score: Score, memory: int, shared: int = 0
) -> float:
    """Bytes that fitting `width` numbers per picture takes; SpecError if that is too much."""
    each = score.bytes_of(len(task.labels), width, task.classes, shared)
    needed = each + SLAB_BYTES
    if needed > memory:
        raise SpecError(
            f"{task.name}: block {cell[0]!r} at t={format_t(cell[1])} has {width:,} numbers for "
            f"each of {len(task.labels):,} pictures, which take {readable(needed)} while "
            f"they are fitted; {readable(memory)} are allowed: allow more (--memory), pool "
            "the features (--pool 1x1), or take fewer pictures"
        )
    return each


def score_on_test(
    task: Task,
    score: Score,
    cell: CellKey,
    setting: float | None,
    memory: int = MEMORY,
    journal: Journal | None = None,
) -> float:
    """Score on test of a chosen cell, refitted on training and validation."""
    journal = journal or Journal()
    key = journal.key(task, score, task.part, cell, "test", setting)
    stored = journal.get(cell, key)
    if stored is not None:
        return stored["test"]
    check_memory(task, cell, task.width(cell), score, memory)
    test = task.part == TEST
    fitted = (task.part == TRAIN) | (task.part == VALIDATION)
    value = score.test(
        task.matrix(cell, fitted), task.labels[fitted],
        task.matrix(cell, test), task.labels[test], setting,
    )  # fmt: skip
    journal.put(cell, key, {"test": value, "setting": setting, "score": score.name})
    return value
