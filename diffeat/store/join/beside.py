"""Feature files of the same pictures: their (block, t) come together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from diffeat.errors import SpecMismatch
from diffeat.images import rule_of
from diffeat.noise import format_t
from diffeat.store.format.columns import PICTURE_COLUMNS, feature_name
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
from diffeat.store.join.below import APART
from diffeat.store.join.order import united
from diffeat.store.join.targets import targets_beside
from diffeat.store.read.reader import FeatureStore

COMPARED = tuple(name for name, known in PICTURE_COLUMNS.items() if known["compared"])


def beside(stores: list[FeatureStore]) -> Joined:
    """What comes of all features of files that hold the same ids in the same order.

    Raises:
        SpecMismatch: what is known of the pictures differs, two files hold the same features,
            or the features do not fill a whole table of blocks and t.
    """
    first = stores[0]
    for store in stores[1:]:
        _check_pictures(first, store)
    warn_of_rules(stores)
    sources = _sources(stores)
    for name in dropped(stores):
        sources.pop(name)
    blocks = united([store.blocks for store in stores])
    steps = sorted({t for store in stores for t in store.timesteps})
    for block in blocks:
        for t in steps:
            if feature_name(block, t) not in sources:
                raise SpecMismatch(
                    f"no file holds block {block!r} at t={format_t(t)}; expected every block at "
                    "every t: extract what is missing first"
                )
    spec = {**first.spec.to_dict(), "blocks": blocks, "timesteps": _levels(stores, steps)}
    manifest = replace(manifest_of(first), spec=spec, how=joined_how(stores))
    skipped = {name: why for s in reversed(stores) for name, why in s.skipped.items()}
    known = first.ids, first.labels, first.class_names, skipped
    return Joined(manifest, *known, sources, targets_beside(stores))


def _check_pictures(first: FeatureStore, other: FeatureStore) -> None:
    """SpecMismatch unless two files say the same of their pictures, as far as can be told."""
    same = {
        "labels": _equal(other.labels, first.labels),
        "class names": other.class_names == first.class_names,
        **{name: _same_column(name, other, first) for name in COMPARED},
        "the pictures' contents": _same_contents(other.pictures, first.pictures),
        "captions or embeddings": (
            other.pictures.get("conditions") == first.pictures.get("conditions")
        ),
        "the model's classes": model_classes(other) == model_classes(first),
    }
    for what, agree in same.items():
        if not agree:
            raise SpecMismatch(
                f"{other.path} and {first.path} hold the same ids, but {what} differ; expected one "
                f"set of pictures: extract both from it, {APART}"
            )


def _same_column(name: str, one: FeatureStore, other: FeatureStore) -> bool:
    values = one.picture_column(name), other.picture_column(name)
    if name in OPTIONAL and any(found is None for found in values):
        return True  # it will be dropped
    return _equal(*values)


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _same_contents(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether pictures hold the same; by two rules of reading it cannot be told."""
    return rule_of(one) != rule_of(other) or one["fingerprint"] == other["fingerprint"]


def _sources(stores: list[FeatureStore]) -> dict[str, list[FeatureStore]]:
    """Each data set, and the first file that holds it; SpecMismatch if two hold features."""
    found: dict[str, list[FeatureStore]] = {}
    for store in stores:
        for name in columns_in(store):
            if name in found and name not in PICTURE_COLUMNS:
                raise SpecMismatch(
                    f"{store.path} and {found[name][0].path} both hold {name} of the same "
                    "pictures; leave one of them out"
                )
            found.setdefault(name, [store])
    return found


def _levels(stores: list[FeatureStore], steps: list) -> list:
    """The timesteps of the joined spec: as all files have them in order, else ascending."""
    listed = [t for store in stores for t in store.spec.timesteps]
    listed = list(dict.fromkeys(listed))
    return listed if len(listed) == len(steps) else steps
