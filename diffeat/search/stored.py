"""A task whose features lie in one feature file or two."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SpecError, StoreError
from diffeat.hashing import fingerprint
from diffeat.search.duplicates import groups_of_copies, without_copies
from diffeat.search.fitted_on import among, notes_in
from diffeat.search.splits import LEFT_OUT, SMALL, TEST, balance_of, split_groups
from diffeat.search.targeted import one_space, targets_of
from diffeat.search.tasks import CellKey, Made, Task, choose_cells, known_targets
from diffeat.specs import ExtractSpec, differences, without_cells
from diffeat.store import FeatureStore
from diffeat.targets import Labelled

WAY_OUT = "leave them out of training with --drop-duplicates (duplicates='drop')"
SAMPLE = 64
"""Pictures with equal ids that are compared."""
OTHER_SPLIT = (
    ", so the score is no test; take the pictures, --split, --seed and groups of the training"
)


def task_from_store(
    store: FeatureStore,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    test: FeatureStore | None = None,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
    allow_conditioned: bool = False,
    duplicates: str = "warn",
    groups: Sequence[Sequence[str]] | None = None,
    labels: Sequence[Labelled] | None = None,
) -> Task:
    """A task from one file split by the hash of its ids, or from a training and a test file.

    With a test file the training file gives training and validation, 80 to 20. Features stay
    in the files; they must be open as long as the task is used.

    Args:
        blocks: only these; None means all.
        timesteps: only these native t; None means all.
        allow_conditioned: also of features that were told their targets; the task is marked.
        duplicates: "warn" of pictures that stand there twice, or "drop" the copies (see
            `diffeat.search.duplicates`). Files from before 0.7 do not know.
        groups: for each file the name of what each picture belongs to (person, scene, …), which
            is never in two parts; None is that of `labels`, or the picture's own id.
        labels: for each file its targets, such as those of a table
            (`diffeat.targets.labels_for`); None takes the labels of the files. Pictures without
            one are left out.

    Raises:
        SpecError: no labels, a block or t that the file lacks, or two files that do not fit
            together, or features that were told their targets (see `diffeat.conditioned`).
    """
    stores = [store] if test is None else [store, test]
    labels = targets_of(stores) if labels is None else one_space(labels, [s.path for s in stores])
    why = [check_targets(str(one.path), conditioned(one.spec, one.pictures), allow_conditioned)
           for one in stores]  # fmt: skip
    if test is not None:
        check_pair(store, test, duplicates, wanted(store, blocks, timesteps))

    def read(block: str, t: float) -> Any:
        from probes.lazy import Stacked

        found = [one[block, t] for one in stores]
        return found[0] if test is None else Stacked(found)

    parts = parted(
        store.model["name"], [one.ids for one in stores], labels,
        [one.digests for one in stores], fractions, seed, duplicates, groups,
    )  # fmt: skip
    warn_of_targets_seen(stores, parts["part"])
    corrupted = corrupted_text([one.spec for one in stores])
    whole = Task(
        name=store.model["name"] + (f" ({corrupted})" if corrupted else ""),
        **parts,
        cells=cells_of(store),
        read=read,
        identity=identity_of([(one.spec.to_dict(), one.model, one.pictures) for one in stores]),
        ids=tuple(name for one in stores for name in one.ids),
        conditioned=max(why, key=len),
        corrupted=corrupted,
        made=replace(made_of(store), class_names=tuple(labels[0].class_names)),
    )
    return replace(whole, cells=whole.choose(blocks, timesteps))


def targets_seen(store: FeatureStore) -> np.ndarray:
    """(N,) bool: of which pictures an aggregator of these maps, or of what they are made of, saw
    targets; False of all where nothing is noted.

    Raises:
        StoreError: the note is damaged.
    """
    if store.digests is None:
        return np.zeros(len(store), bool)
    try:
        return among(notes_in(store.how), store.digests)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{store.path}: what it says of the pictures that its maps were trained "
                         f"on is damaged ({error}); make the file again") from error  # fmt: skip


def warn_of_targets_seen(stores: Sequence[FeatureStore], part: np.ndarray) -> None:
    """Say of aggregated maps that their aggregator was trained on targets of these pictures.

    Args:
        part: (N,) of the rows of all files.
    """
    first = 0
    for store in stores:
        seen, own = targets_seen(store), part[first : first + len(store)]
        first += len(store)
        if seen.any():
            tested = seen[own == TEST]
            warnings.warn(
                f"{store.path}: its maps were trained on targets of {seen.sum():,} of these "
                f"pictures, {tested.sum():,} of which are among the {len(tested):,} of the test"
                + OTHER_SPLIT
                * bool(tested.any()),
                stacklevel=3,
            )


def warn_of_pairs_seen(bound: Any, tested: Any = ...) -> None:
    """The same of `BoundPairs`, of which some (rows or a mask) are of the test; all."""
    part = np.full(len(bound.sizes), LEFT_OUT)
    part[bound.pairs.source[tested]] = part[bound.pairs.target[tested]] = TEST
    warn_of_targets_seen(bound.stores, part)


def made_of(store: FeatureStore) -> Made:
    """What the features of a file were made of."""
    return Made(store.spec, store.model, store.pictures, tuple(store.class_names), store.digests)


def cells_of(store: FeatureStore) -> tuple[CellKey, ...]:
    """Every (block, t) of a file, in table order."""
    return tuple((block, t) for block in store.blocks for t in store.timesteps)


def parted(
    name: str,
    ids: Sequence[Sequence[str]],
    labels: Sequence[Labelled],
    digests: Sequence[np.ndarray | None],
    fractions: tuple[float, float, float],
    seed: int,
    duplicates: str = "warn",
    groups: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Labels, parts and groups of a `Task` of one set of pictures, or of a training and a test set.

    One set is split by `fractions`; with a test set the first gives training and validation, 80
    to 20. In a set below `SMALL` copies of a picture belong together, whatever their names.
    Pictures without a target are in no part, and nothing of them plays a role.
    """
    if groups is None and any(one.groups is not None for one in labels):
        groups = [one.groups or own for one, own in zip(labels, ids, strict=True)]
    if groups is not None:
        _check_groups(groups, ids)
    known = [known_targets(one.labels) for one in labels]
    found = _parted_known(
        name, *([_taken(one, rows) for one, rows in zip(values, known, strict=True)]
                for values in (ids, [one.labels for one in labels], digests)),
        fractions, seed, duplicates,
        groups and [_taken(one, rows) for one, rows in zip(groups, known, strict=True)],
    )  # fmt: skip
    rows = np.flatnonzero(np.concatenate(known))
    names = [one for part in ids for one in part]
    part = np.full(len(names), LEFT_OUT, np.int64)
    part[rows] = found["part"]
    for row, owner in zip(rows.tolist(), found["groups"], strict=True):
        names[row] = owner
    together = np.concatenate([np.asarray(one.labels) for one in labels])
    return {**found, "labels": together, "part": part, "groups": tuple(names)}


def _taken(values: Any, rows: np.ndarray) -> Any:
    """Those of some rows of an array or a list; None of None."""
    if values is None or rows.all():
        return values
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[row] for row in np.flatnonzero(rows)]


def _parted_known(
    name: str,
    ids: Sequence[Sequence[str]],
    labels: Sequence[np.ndarray],
    digests: Sequence[np.ndarray | None],
    fractions: tuple[float, float, float],
    seed: int,
    duplicates: str,
    groups: Sequence[Sequence[str]] | None,
) -> dict[str, Any]:
    """Parts and groups of pictures that all have a target."""
    known = all(one is not None for one in digests)
    if groups is not None:
        names = list(groups[0])
    elif known and len(ids[0]) < SMALL:
        names = groups_of_copies(ids[0], digests[0])
    else:
        names = list(ids[0])
    inner = fractions if len(ids) == 1 else (0.8, 0.2, 0.0)
    part, how = split_groups(names, inner, seed, balance_of(labels[0]))
    if len(ids) > 1:
        part = np.concatenate([part, np.full(len(ids[1]), TEST)])
        names += ids[1] if groups is None else groups[1]
    together = np.concatenate(list(labels))
    if known:
        part = without_copies(name, np.concatenate(list(digests)), together, part, duplicates)
    elif duplicates == "drop":
        raise SpecError(
            f"{name}: copies cannot be found, since a file from before version 0.7 does not hold "
            "the digests of its pictures; extract it again, or leave duplicates='drop' out"
        )
    return {"part": part, "groups": names, "how": how}


def _check_groups(groups: Sequence[Sequence[str]], ids: Sequence[Sequence[str]]) -> None:
    """SpecError unless every picture has a group, and no group is in both sets."""
    if [len(names) for names in groups] != [len(names) for names in ids]:
        raise SpecError(
            f"{[len(names) for names in groups]} groups for {[len(names) for names in ids]} "
            "pictures; expected one for each picture of each file"
        )
    if len(groups) > 1 and (both := set(groups[0]) & set(groups[1])):
        raise SpecError(
            f"{len(both)} groups have pictures in the training and in the test set, such as "
            f"{min(both)!r}; expected each group on one side: leave its pictures out of one of them"
        )


def identity_of(made_of: Sequence[tuple[dict, dict, dict]]) -> str:
    """Hash of (spec, model, pictures) without the lists of blocks and t, which cells name."""
    plain = []
    for spec, model, pictures in made_of:
        model = {k: v for k, v in model.items() if k != "name"}
        pictures = {k: v for k, v in pictures.items() if k != "name"}
        plain.append((without_cells(spec), model, pictures))
    return fingerprint(plain)


def rows_by_id(stores: Sequence[FeatureStore]) -> dict[str, int]:
    """Picture id → its row among those of all files, one behind the other; the first with it."""
    found: dict[str, int] = {}
    first = 0
    for one in stores:
        for row, name in enumerate(one.ids):
            found.setdefault(name, first + row)
        first += len(one)
    return found


def wanted(
    store: FeatureStore,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
) -> tuple[CellKey, ...]:
    """The cells of a file that are asked for; SpecError for those that it does not have."""
    return choose_cells(str(store.path), cells_of(store), blocks, timesteps)


def check_pair(
    train: FeatureStore,
    test: FeatureStore,
    duplicates: str,
    cells: Sequence[CellKey] | None = None,
) -> None:
    """SpecError unless two files are a training and a test set of one model, made alike.

    Args:
        cells: that the second must have; None: all of the first.
    """
    check_model(train, test)
    if train.pictures["fingerprint"] == test.pictures["fingerprint"]:
        raise SpecError(
            f"{train.path} and {test.path} hold the same pictures; expected a test set of its own, "
            "or give one file and let it be split"
        )
    if duplicates != "drop":  # which leaves them out of training
        _check_apart(train, test)
    check_alike(train, test, ("corrupt",), cells)


def corrupted_text(specs: Sequence[ExtractSpec]) -> str:
    """What made the pictures of a training file, or of that and a test file, worse; "" if nothing
    did."""
    found = [spec.corrupt or "clean" for spec in specs]
    if set(found) == {"clean"}:
        return ""
    if len(set(found)) == 1:
        return f"pictures corrupted by {found[0]}"
    names = [f"corrupted by {one}" if one != "clean" else one for one in found]
    return f"training pictures {names[0]}, test pictures {names[1]}"


def check_model(first: FeatureStore, second: FeatureStore) -> None:
    """SpecError unless two files come from one model."""
    if first.model["fingerprint"] != second.model["fingerprint"]:
        raise SpecError(f"{first.path} and {second.path} come from different models")


def check_alike(
    first: FeatureStore,
    second: FeatureStore,
    free: Sequence[str] = (),
    cells: Sequence[CellKey] | None = None,
) -> None:
    """SpecError unless two files come from one model, were made alike but for `free` fields of
    the spec, and the second has these cells, None: all of the first."""
    check_model(first, second)
    specs = [without_cells(one.spec.to_dict()) for one in (first, second)]
    specs = [{name: spec[name] for name in spec if name not in free} for spec in specs]
    if differ := differences(*specs):
        raise SpecError(
            f"{second.path} was extracted in another way than {first.path} ({'; '.join(differ)}); "
            "extract both with the same options"
        )
    missing = set(cells_of(first) if cells is None else cells) - set(cells_of(second))
    if missing:
        block, t = sorted(missing, key=str)[0]
        raise SpecError(
            f"{second.path} lacks block {block!r} at t={t}, which {first.path} has: "
            "extract it, or name cells that both have (-b, -t)"
        )


def _check_apart(train: FeatureStore, test: FeatureStore) -> None:
    """SpecError if pictures with the same id have the same features, so are the same pictures."""
    row = {name: index for index, name in enumerate(train.ids)}
    shared = [(row[name], index) for index, name in enumerate(test.ids) if name in row][:SAMPLE]
    block, t = train.blocks[0], train.timesteps[0]
    if not shared or (block, t) not in cells_of(test):
        return
    if train[block, t].shape[1:] != test[block, t].shape[1:]:
        return
    same = [test.ids[b] for a, b in shared if np.array_equal(train[block, t][a], test[block, t][b])]
    if same:
        raise SpecError(
            f"{test.path} holds pictures of {train.path}, such as {same[0]!r}; expected a test set "
            f"of its own, or {WAY_OUT}"
        )
