"""The pictures that several feature files have in common, in one order and one split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search.judges import SHARES, Choices
from diffeat.search.stored import cells_of, corrupted_text, identity_of, made_of, parted
from diffeat.search.targeted import WAYS, own_if_any, targets_of
from diffeat.search.tasks import Task, choose_cells, known_targets
from diffeat.store import FeatureStore
from diffeat.store.format.checksums import ATTRIBUTE
from diffeat.targets import Labelled
from diffeat.targets.by_id import match_ids


@dataclass(frozen=True, eq=False)
class Common:
    """Pictures that all files have.

    Attributes:
        ids: n ids, as the first file has them and in its order.
        rows: of each file, (n,) int64 rows of these pictures.
        left_out: of each file, how many of its pictures not all have.
    """

    ids: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    left_out: tuple[int, ...]


def common_pictures(stores: Sequence[FeatureStore]) -> Common:
    """Find the pictures that all files have, by their ids (see `match_ids`).

    Raises:
        SpecError: none in common, or a picture whose bytes differ between two files that know
            them (`digests`).
    """
    first = stores[0]
    found = [np.arange(len(first))]
    found += [match_ids(first.ids, other.ids).rows for other in stores[1:]]
    for store, rows in zip(stores, found, strict=True):
        if (rows < 0).all():
            raise SpecError(
                f"{first.path} and {store.path} have no picture in common: {first.ids[0]!r} there, "
                f"{store.ids[0]!r} here; expected files of the same pictures"
            )
    kept = np.flatnonzero(np.all([rows >= 0 for rows in found], axis=0))
    if not len(kept):
        names = ", ".join(str(store.path) for store in stores)
        raise SpecError(f"no picture is in all of {names}; expected files of the same pictures")
    rows = tuple(one[kept] for one in found)
    _check_alike(stores, rows)
    left_out = tuple(len(store) - len(kept) for store in stores)
    return Common(tuple(first.ids[row] for row in kept), rows, left_out)


def _check_alike(stores: Sequence[FeatureStore], rows: Sequence[np.ndarray]) -> None:
    """SpecError if a picture has other bytes in one file than in another."""
    known = [(s, s.digests[r]) for s, r in zip(stores, rows, strict=True) if s.digests is not None]
    for store, digests in known[1:]:
        first, expected = known[0]
        other = np.flatnonzero((digests != expected).any(1))
        if len(other):
            name = first.ids[rows[stores.index(first)][other[0]]]
            raise SpecError(
                f"{len(other)} of {len(digests)} pictures have other bytes in {store.path} than in "
                f"{first.path}, such as {name!r}: they changed between the two extractions; "
                "extract the older file again (--overwrite)"
            )


def shared_tasks(
    stores: Sequence[FeatureStore],
    names: Sequence[str],
    kind: str,
    choices: Choices,
    cells: Sequence[tuple[Sequence[str] | None, Sequence[float] | None]] | None = None,
) -> tuple[list[Task], Common]:
    """A task for each file, all of the same pictures, targets, split and groups, row by row.

    Targets are those of `choices.targets`, else those of the first file that has any; where others
    have classes too they must be the same.

    Args:
        stores: open as long as the tasks are used.
        names: of the systems, for tables.
        kind: of targets: "class", "number" or "labels".
        cells: of each file, its blocks and native t; None means all.

    Raises:
        SpecError: as `common_pictures`, `targets_of` and `parted` say; features that were told
            their targets; files that contradict each other.
    """
    common = common_pictures(stores)
    labels = _shared_targets(stores, common, kind, choices)
    digests = next((s.digests[r] for s, r in zip(stores, common.rows, strict=True)
                    if s.digests is not None), None)  # fmt: skip
    parts = parted(names[0], [common.ids], [labels], [digests], choices.split or SHARES,
                   choices.seed, choices.duplicates)  # fmt: skip
    tasks = []
    for k, (store, name) in enumerate(zip(stores, names, strict=True)):
        why = conditioned(store.spec, store.pictures)
        check_targets(str(store.path), why, choices.allow_conditioned)
        chosen = cells[k] if cells else (None, None)
        task = Task(
            name=name, **parts, read=reader(store, common.rows[k]), ids=common.ids,
            cells=choose_cells(str(store.path), cells_of(store), *chosen),
            identity=_identity(store, common.rows[k]), conditioned=why,
            corrupted=corrupted_text([store.spec]),
            made=replace(made_of(store), class_names=tuple(labels.class_names)),
        )  # fmt: skip
        tasks.append(task)
    return tasks, common


def _identity(store: FeatureStore, rows: np.ndarray) -> str:
    """What the features of some rows are, by their checksums too: what is compared may claim to be
    made alike and differ."""
    made = identity_of([(store.spec.to_dict(), store.model, store.pictures)])
    return fingerprint(made, checksums(store), rows.tolist())


def checksums(store: FeatureStore) -> list[str]:
    """Checksum of every cell; "" in files that note none."""
    return [str(store[cell].attrs.get(ATTRIBUTE, "")) for cell in cells_of(store)]


def reader(store: FeatureStore, rows: np.ndarray) -> Callable[[str, float], Any]:
    """(block, t) → the features of some rows of a file, which are read when they are asked for."""
    from probes.lazy import Deferred

    whole = np.array_equal(rows, np.arange(len(store)))

    def read(block: str, t: float) -> Any:
        found = store[block, t]
        if whole:
            return found
        return Deferred((len(rows), *found.shape[1:]), lambda key: _picked(found, rows[key]),
                        found.dtype)  # fmt: skip

    return read


def _picked(values: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows of an array in a file, which gives runs of them fastest."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return values[int(rows[0]) : int(rows[-1]) + 1]
    return values[rows]


def _shared_targets(
    stores: Sequence[FeatureStore], common: Common, kind: str, choices: Choices
) -> Labelled:
    """Targets of the common pictures."""
    choice = choices.targets
    given = choice.labels is not None or bool(choice.columns)
    own = [None if given else own_if_any(store, kind) for store in stores]
    first = next((k for k, found in enumerate(own) if found is not None), 0)
    if not given and all(s.labels is None and not s.targets for s in stores):
        raise SpecError(f"none of {', '.join(str(s.path) for s in stores)} has labels; {WAYS}")
    [found] = targets_of([stores[first]], kind, choice, choices.duplicates)
    found = _of_rows(found, common.rows[first])
    for k, other in enumerate(own):
        if other is not None and k != first and kind == "class":
            _check_classes(stores, (first, k), found, _of_rows(other, common.rows[k]), common)
    return found


def _of_rows(found: Labelled, rows: np.ndarray) -> Labelled:
    groups = found.groups and tuple(found.groups[row] for row in rows)
    return Labelled(np.asarray(found.labels)[rows], tuple(found.class_names), groups)


def _check_classes(
    stores: Sequence[FeatureStore], which: tuple[int, int], found: Labelled, other: Labelled,
    common: Common,
) -> None:  # fmt: skip
    """SpecError if a picture is of one class in one file and of another in the next."""
    mine, theirs = (np.array([*one.class_names, ""])[one.labels] for one in (found, other))
    both = known_targets(found.labels) & known_targets(other.labels)
    differ = np.flatnonzero((mine != theirs) & both)
    if len(differ):
        first, second = (stores[k].path for k in which)
        row = differ[0]
        raise SpecError(
            f"{len(differ)} pictures are of other classes in {second} than in {first}, such as "
            f"{common.ids[row]!r}: {theirs[row]!r} and {mine[row]!r}; say which counts with "
            "--labels TABLE"
        )
