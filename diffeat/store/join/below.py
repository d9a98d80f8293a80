"""Feature files of other pictures: their rows come below each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from diffeat.conditioned import EMBEDDING_ROWS
from diffeat.errors import SpecMismatch
from diffeat.hashing import fingerprint
from diffeat.images import rule_of
from diffeat.images.columns import TargetColumn
from diffeat.store.format.manifest import MODEL_CLASSES
from diffeat.store.join.alike import (
    OPTIONAL,
    Joined,
    columns_in,
    dropped,
    joined_how,
    manifest_of,
    model_classes,
    warn_of_rules,
)
from diffeat.store.join.targets import renumbered, targets_below
from diffeat.store.read.reader import FeatureStore

PREFIXES = "prefixes"
"""Key among what is said of pictures: what a merge put before the ids, as "train" of train/0.png;
the noise was seeded by the ids without it."""
APART = "or tell their pictures apart (merge with --prefix train --prefix test)"


def below(stores: list[FeatureStore], prefixes: Sequence[str] | None = None) -> Joined:
    """What comes of all pictures of files that hold the same (block, t).

    Args:
        prefixes: one for each file, which is put before its ids with a slash.

    Raises:
        SpecMismatch: two files hold one picture, other features, or labels and none.
    """
    first = stores[0]
    ids = [_prefixed(store.ids, prefixes, k) for k, store in enumerate(stores)]
    owner = _owners(stores, ids)
    names = list(dict.fromkeys(name for store in stores for name in store.class_names))
    labels = None
    if first.labels is not None:
        labels = renumbered(
            [TargetColumn("class", tuple(s.class_names), s.labels) for s in stores], names
        )
    warn_of_rules(stores)
    pictures = _pictures(stores, names, prefixes)
    manifest = replace(manifest_of(first), pictures=pictures, how=joined_how(stores))
    skipped: dict[str, str] = {}
    for k, store in enumerate(stores):
        there = _prefixed(store.skipped, prefixes, k)
        skipped |= dict(zip(there, store.skipped.values(), strict=True))
    skipped = {name: why for name, why in skipped.items() if name not in owner}
    left_out = dropped(stores)
    sources = {name: stores for name in columns_in(first) if name not in left_out}
    targets = targets_below(stores)
    return Joined(manifest, list(owner), labels, names, skipped, sources, targets)


def _prefixed(ids: Iterable[str], prefixes: Sequence[str] | None, number: int) -> list[str]:
    """The ids of one file as the joined file has them."""
    return list(ids) if prefixes is None else [f"{prefixes[number]}/{name}" for name in ids]


def _owners(stores: list[FeatureStore], ids: list[list[str]]) -> dict[str, FeatureStore]:
    """Each picture and its file, in order; SpecMismatch where the files do not fit together."""
    first = stores[0]
    owner: dict[str, FeatureStore] = {}
    for store, names in zip(stores, ids, strict=True):
        for name in names:
            if name in owner:
                raise SpecMismatch(
                    f"{store.path} and {owner[name].path} both hold the picture {name!r}, among "
                    "others that differ; ids must be distinct, or all the same in the same order: "
                    f"leave one of them out, {APART}"
                )
            owner[name] = store
        if differ := sorted((set(columns_in(store)) ^ set(columns_in(first))) - set(OPTIONAL)):
            raise SpecMismatch(
                f"{store.path} and {first.path} hold other pictures and other features (first "
                f"{differ[0]}); expected the same blocks and t of other pictures"
            )
        if (store.labels is None) != (first.labels is None):
            raise SpecMismatch(f"one of {store.path} and {first.path} has labels, the other none")
    return owner


def _pictures(
    stores: list[FeatureStore], names: list[str], prefixes: Sequence[str] | None
) -> dict[str, Any]:
    """What is known of the pictures of all files together.

    Args:
        names: of the classes.
        prefixes: as for `below`.
    """
    pictures = [store.pictures for store in stores]
    conditions = [p.get("conditions") for p in pictures]
    found = {
        "name": " + ".join(p["name"] for p in pictures),
        "count": sum(p["count"] for p in pictures),
        "fingerprint": fingerprint([p["fingerprint"] for p in pictures]),
        "conditions": None if conditions == [None] * len(stores) else fingerprint(conditions),
    }
    if prefixes is not None:
        found["fingerprint"] = fingerprint(found["fingerprint"], list(prefixes))
    if before := _all_prefixes(pictures, prefixes):
        found[PREFIXES] = before
    if min(map(rule_of, pictures)) > 1:
        found["reading"] = rule_of(pictures[0])
    # one row in each of two files that differ is not one for all
    if {p.get(EMBEDDING_ROWS) for p in pictures} == {1} and len(set(conditions)) == 1:
        found[EMBEDDING_ROWS] = 1
    if any(MODEL_CLASSES in p for p in pictures):
        found[MODEL_CLASSES] = _joined_classes(stores, names)
    return found


def _all_prefixes(pictures: list[dict[str, Any]], prefixes: Sequence[str] | None) -> list[str]:
    """Every prefix of the joined file's ids, those from before included."""
    found = []
    for k, one in enumerate(pictures):
        known = one.get(PREFIXES, [])
        known = [name for name in known if isinstance(name, str)] if type(known) is list else []
        if prefixes is None:
            found += known
        else:
            found += [f"{prefixes[k]}/{name}" for name in known] or [prefixes[k]]
    return list(dict.fromkeys(found))


def _joined_classes(stores: list[FeatureStore], names: list[str]) -> list[int | None]:
    """The model's class of each class; SpecMismatch if it was another elsewhere."""
    owner: dict[str, tuple[int | None, FeatureStore]] = {}
    for store in stores:
        for name, index in zip(store.class_names, model_classes(store), strict=True):
            known, where = owner.setdefault(name, (index, store))
            if index is not None and known not in (index, None):
                raise SpecMismatch(
                    f"{name!r} was the model's class {index} in {store.path} and "
                    f"{known} in {where.path}; extract both in the same way"
                )
            if known is None:
                owner[name] = (index, store)
    return [owner[name][0] for name in names]
