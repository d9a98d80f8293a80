"""Aggregators that learn from targets: key points of pairs, labels, numbers.

The parts are those of `diffeat probe` and `search` with the same shares and seed: what is trained
here on a file has not seen the test part of a later `search` of the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat._version import __version__
from diffeat.aggregation.sources import Sources
from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SpecError, StoreError
from diffeat.search.fitted_on import noted
from diffeat.search.grid import Grid
from diffeat.search.matching.bound import bind
from diffeat.search.matching.mixed import referenced
from diffeat.search.mixing import WEIGHT
from diffeat.search.splits import LEFT_OUT, PART_NAMES, TRAIN, VALIDATION, Fractions, split_pairs
from diffeat.search.stored import parted
from diffeat.search.targeted import TASK_OF, TargetChoice, targets_of
from diffeat.search.tasks import kind_of
from diffeat.targets.pairs import open_pairs
from probes.aggregate import Bottleneck, HyperfeatureMixer, SpatialFusion
from probes.aggregate.base import Aggregator
from probes.pairs import Pairs

KINDS: Mapping[str, Callable[..., Aggregator]] = {
    "hyperfeatures": HyperfeatureMixer, "bottleneck": Bottleneck, "spatial": SpatialFusion,
}  # fmt: skip
"""Name → what it trains."""
SPLIT: Fractions = (0.6, 0.2, 0.2)
ROWS = "pictures"


@dataclass(frozen=True, eq=False)
class Learned:
    """What an aggregator is trained on.

    Attributes:
        task: "matching", "classification", "regression" or "multilabel".
        training, validation: (cells, targets) of these parts.
        counts: rows (pairs or pictures) of training and validation, and those left for the test.
        rows: which pictures of the sources play a part in training or validation.
        class_names: by class index.
        what: "pairs" or "pictures".
        left_out: why rows are in no part → how many.
    """

    task: str
    training: tuple[Any, Any]
    validation: tuple[Any, Any]
    counts: tuple[int, int, int]
    rows: np.ndarray
    class_names: tuple[str, ...] = ()
    what: str = ROWS
    left_out: dict[str, int] = field(default_factory=dict)


def from_pairs(
    sources: Sources, pairs: str, split: Fractions = SPLIT, seed: int = 0, missing: str = "refuse"
) -> Learned:
    """Key points of pairs, of which no group lies in two parts.

    Args:
        pairs: a list, a named set or a folder (see `diffeat.targets.pairs.open_pairs`).
        missing: what becomes of pairs whose pictures are not there.

    Raises:
        SpecError: pairs without a truth, pictures that are not there, an empty part.
    """
    bound = bind(open_pairs(pairs), [sources.first], missing=missing)
    if bound.pairs.target_points is None:
        raise SpecError(f"{pairs} says nothing of where points lie in the targets, so nothing can "
                        "be learned of it")  # fmt: skip
    place = np.full(len(sources.first), -1, np.int64)
    place[sources.rows[0]] = np.arange(len(sources))
    ends = place[np.stack([bound.pairs.source, bound.pairs.target])]
    there = (ends >= 0).all(0)
    if not there.all():  # before the split, which in small sets depends on all that there is
        gone = f"{int((~there).sum())} of {len(there)} pairs of {pairs} name pictures that not all "
        if missing == "refuse" or not there.any():
            raise SpecError(gone + "files have; leave such out (--missing leave-out)")
        bound, ends = bound.take(there), ends[:, there]
    part, apart = split_pairs(*zip(*bound.groups, strict=True), split, seed)
    found = replace(referenced(bound), source=ends[0], target=ends[1])
    left_out = {**bound.left_out, "pictures that not all files have": int((~there).sum()),
                "groups in different parts": apart}  # fmt: skip
    return Learned(
        "matching", _some(sources, found, part == TRAIN, pairs, "training"),
        _some(sources, found, part == VALIDATION, pairs, "validation"), _counts(part),
        np.unique(ends[:, (part == TRAIN) | (part == VALIDATION)]), what="pairs",
        left_out={why: count for why, count in left_out.items() if count},
    )  # fmt: skip


def _some(
    sources: Sources, pairs: Pairs, mine: np.ndarray, name: str, part: str
) -> tuple[Any, Any]:
    if not mine.any():
        raise SpecError(f"{name}: no {part} pairs are left; a pair is in a part if the groups of "
                        "both pictures are: give more pairs, or another --split")  # fmt: skip
    return sources.cells, pairs.take(mine)


def from_labels(
    sources: Sources, task: str, choice: TargetChoice | None = None, split: Fractions = SPLIT,
    seed: int = 0,
) -> Learned:  # fmt: skip
    """Labels or numbers of pictures, of the first file or of a table.

    Raises:
        SpecError: no targets, those of another task, features that were told them, an empty part.
    """
    kinds = {name: kind for kind, name in TASK_OF.items()}
    labels = targets_of([sources.first], kinds[task], choice)
    for store in sources.stores:
        check_targets(str(store.path), conditioned(store.spec, store.pictures))
    taken, names = labels[0].take(sources.rows[0]), tuple(labels[0].class_names)
    known = parted(sources.name, [sources.ids], [taken], [sources.digests], split, seed)
    part, values = known["part"], np.asarray(known["labels"])
    if kind_of(values) == "class":
        part = np.where((part == VALIDATION) & ~np.isin(values, values[part == TRAIN]), LEFT_OUT,
                        part)  # fmt: skip
    both = []
    for number in (TRAIN, VALIDATION):
        rows = np.flatnonzero(part == number)
        if not len(rows):
            what = PART_NAMES[number]
            raise SpecError(f"{sources.name}: no pictures for {what}; give another --split")
        both.append((sources.cells[rows], values[rows]))
    seen = np.flatnonzero((part == TRAIN) | (part == VALIDATION))
    left = {"without a target, or of a class that training lacks": int((part == LEFT_OUT).sum())}
    return Learned(task, *both, _counts(part), seen, names,
                   left_out={why: count for why, count in left.items() if count})  # fmt: skip


def _counts(part: np.ndarray) -> tuple[int, int, int]:
    return tuple(int((part == number).sum()) for number in range(3))


def train(kind: str, learned: Learned, **settings: Any) -> Aggregator:
    """Fit an aggregator on training, and stop by validation.

    Args:
        kind: of `KINDS`.
        settings: its parameters; those that it does not have are refused, those that are None are
            its own.

    Raises:
        SpecError: parameters, features or tasks that it does not take.
    """
    made = KINDS[kind]()
    objective = {"objective": learned.task}
    if isinstance(made, Bottleneck):
        if learned.task != "matching":
            raise SpecError(
                f"{kind} is trained for matching; for {learned.task} take hyperfeatures"
            )
        objective = {}
    known = made.get_params(deep=False)
    given = {name: value for name, value in settings.items() if value is not None}
    if wrong := [name for name in given if name not in known]:
        raise SpecError(f"{kind} takes no {', '.join(wrong)}; it has {', '.join(known)}")
    try:
        made.set_params(**given)
        made.fit(*learned.training, validation=learned.validation, **objective)
    except ValueError as error:
        raise SpecError(f"{kind}: {error}") from error
    return made.set_params(progress=None)  # which no file keeps


def best_score(aggregator: Any) -> tuple[str, float] | None:
    """Name and value of the validation number of the epoch that was kept."""
    rows = {row["epoch"]: row for row in aggregator.history_}
    chosen = rows.get(aggregator.best_epoch_) or aggregator.history_[-1]
    for name, value in chosen.items():
        if name.startswith("validation_") and name != "validation_loss":
            return name.removeprefix("validation_"), float(value)
    return None


def weights_grid(aggregator: Any, title: str) -> Grid:
    """The learned weights over (block, t)."""
    return Grid(title, aggregator.weights_, WEIGHT, "softmax weight")


def keep(
    aggregator: Any, sources: Sources, path: str | Path, learned: Learned | None = None
) -> None:
    """Keep a fitted aggregator, with what its features are.

    Args:
        learned: what it was trained on; None where that were no targets.

    Raises:
        SpecError: it cannot be kept.
        StoreError: it cannot be written.
    """
    from probes import HeadError, save

    try:
        save(aggregator, path, about_aggregator(sources, aggregator, learned))
    except HeadError as error:
        raise SpecError(str(error)) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error}); choose another place") from error


def about_aggregator(
    sources: Sources, aggregator: Any, learned: Learned | None = None
) -> dict[str, Any]:
    """What the file of an aggregator says: of one file what a head says, of several a list."""
    parts = sources.about()
    about = dict(parts[0]) if len(parts) == 1 else {"sources": parts}
    if learned is not None:
        score = best_score(aggregator)
        about |= {
            "task": learned.task, "counts": list(learned.counts),
            "class_names": list(learned.class_names),
            "scores": {} if score is None else {"name": score[0], "validation": score[1]},
            **fitted_on(sources, learned),
        }  # fmt: skip
    return {**about, "versions": {"diffeat": __version__}}


def fitted_on(sources: Sources, learned: Learned) -> dict[str, str]:
    """The pictures whose targets it has seen, where it is known what they hold."""
    digests = sources.digests
    return {} if digests is None else {"fitted_on": noted(digests[learned.rows])}
