"""A task whose features lie in one feature file or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search.duplicates import groups_of_copies, without_copies
from diffeat.search.splits import SMALL, TEST, split_groups
from diffeat.search.tasks import CellKey, Made, Task
from diffeat.specs import differences, without_cells
from diffeat.store import FeatureStore

WAY_OUT = "leave them out of training with --drop-duplicates (duplicates='drop')"
SAMPLE = 64
"""Pictures with equal ids that are compared."""


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
            is never in two parts; None is the picture's own id.

    Raises:
        SpecError: no labels, a block or t that the file lacks, or two files that do not fit
            together, or features that were told their targets (see `diffeat.conditioned`).
    """
    stores = [store] if test is None else [store, test]
    for one in stores:
        if one.labels is None:
            raise SpecError(
                f"{one.path} has no labels; extract from a folder with one subfolder per class"
            )
    why = [check_targets(str(one.path), conditioned(one.spec, one.pictures), allow_conditioned)
           for one in stores]  # fmt: skip
    if test is not None:
        _check_pair(store, test, duplicates)

    def read(block: str, t: float) -> Any:
        from probes.lazy import Stacked

        found = [one[block, t] for one in stores]
        return found[0] if test is None else Stacked(found)

    parts = parted(
        store.model["name"], [one.ids for one in stores], [one.labels for one in stores],
        [one.digests for one in stores], fractions, seed, duplicates, groups,
    )  # fmt: skip
    whole = Task(
        name=store.model["name"],
        **parts,
        cells=cells_of(store),
        read=read,
        identity=identity_of([(one.spec.to_dict(), one.model, one.pictures) for one in stores]),
        ids=tuple(name for one in stores for name in one.ids),
        conditioned=max(why, key=len),
        made=made_of(store),
    )
    return replace(whole, cells=whole.choose(blocks, timesteps))


def made_of(store: FeatureStore) -> Made:
    """What the features of a file were made of."""
    return Made(store.spec, store.model, store.pictures, tuple(store.class_names))


def cells_of(store: FeatureStore) -> tuple[CellKey, ...]:
    """Every (block, t) of a file, in table order."""
    return tuple((block, t) for block in store.blocks for t in store.timesteps)


def parted(
    name: str,
    ids: Sequence[Sequence[str]],
    labels: Sequence[np.ndarray],
    digests: Sequence[np.ndarray | None],
    fractions: tuple[float, float, float],
    seed: int,
    duplicates: str = "warn",
    groups: Sequence[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Labels, parts and groups of a `Task` of one set of pictures, or of a training and a test set.

    One set is split by `fractions`; with a test set the first gives training and validation, 80
    to 20. In a set below `SMALL` copies of a picture belong together, whatever their names.
    """
    known = all(one is not None for one in digests)
    if groups is not None:
        _check_groups(groups, ids)
        names = list(groups[0])
    elif known and len(ids[0]) < SMALL:
        names = groups_of_copies(ids[0], digests[0])
    else:
        names = list(ids[0])
    inner = fractions if len(ids) == 1 else (0.8, 0.2, 0.0)
    part, how = split_groups(names, inner, seed, labels[0])
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
    return {"labels": together, "part": part, "groups": tuple(names), "how": how}


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


def _check_pair(train: FeatureStore, test: FeatureStore, duplicates: str) -> None:
    if train.class_names != test.class_names:
        raise SpecError(f"{train.path} and {test.path} have different classes")
    if train.model["fingerprint"] != test.model["fingerprint"]:
        raise SpecError(f"{train.path} and {test.path} come from different models")
    if train.pictures["fingerprint"] == test.pictures["fingerprint"]:
        raise SpecError(
            f"{train.path} and {test.path} hold the same pictures; expected a test set of its own, "
            "or give one file and let it be split"
        )
    if duplicates != "drop":  # which leaves them out of training
        _check_apart(train, test)
    specs = [without_cells(one.spec.to_dict()) for one in (train, test)]
    if differ := differences(*specs):
        raise SpecError(
            f"{test.path} was extracted in another way than {train.path} ({'; '.join(differ)}); "
            "extract both with the same options"
        )
    missing = set(cells_of(train)) - set(cells_of(test))
    if missing:
        block, t = sorted(missing, key=str)[0]
        raise SpecError(f"{test.path} lacks block {block!r} at t={t}, which {train.path} has")


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
