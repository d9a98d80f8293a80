"""What feature files must have in common to be joined, and what comes of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffeat.errors import SpecMismatch, StoreError
from diffeat.images import rule_of
from diffeat.images.columns import TargetColumn
from diffeat.specs import differences
from diffeat.store.format.columns import PICTURE_COLUMNS, feature_name
from diffeat.store.format.manifest import MODEL_CLASSES, Manifest
from diffeat.store.read.reader import FeatureStore

OTHER = ("timesteps", "blocks", "number of pictures", "pictures", "captions or embeddings",
         "reading", MODEL_CLASSES)  # fmt: skip
"""Fields of an identity in which files may differ that are joined."""
OPTIONAL = tuple(name for name, known in PICTURE_COLUMNS.items() if known["lacking"] == "drop")
"""Data sets that a joined file has where all files have them."""


@dataclass(frozen=True)
class Joined:
    """What the joined file holds, and from which files.

    Attributes:
        manifest: what it says it is made of.
        ids: of its rows.
        labels: (N,) int64, or None.
        class_names: names of the labels.
        skipped: id → reason.
        targets: further ones, by name.
        sources: data set → files that hold its rows, in their order.
    """

    manifest: Manifest
    ids: list[str]
    labels: np.ndarray | None
    class_names: list[str]
    skipped: dict[str, str]
    sources: dict[str, list[FeatureStore]]
    targets: dict[str, TargetColumn] = field(default_factory=dict)


def manifest_of(store: FeatureStore) -> Manifest:
    return Manifest.from_attrs(store.file)


def check_alike(first: FeatureStore, other: FeatureStore) -> None:
    """SpecMismatch, naming the fields, if two files are of other models or extractions."""
    found, wanted = (
        {name: value for name, value in manifest_of(s).identity().items() if name not in OTHER}
        for s in (other, first)
    )
    if differ := differences(wanted, found):
        raise SpecMismatch(
            f"{other.path} cannot be joined to {first.path}: {'; '.join(differ)}; extract both in "
            "the same way"
        )


def columns_in(store: FeatureStore) -> list[str]:
    """Names of the data sets with a row per picture."""
    found = [feature_name(block, t) for block in store.blocks for t in store.timesteps]
    return [*found, *(n for n in PICTURE_COLUMNS if store.picture_column(n) is not None)]


def dropped(stores: Sequence[FeatureStore]) -> list[str]:
    """What some of the files lack, so that the joined one has none of it; said once."""
    found = []
    for name in OPTIONAL:
        lacking = [store for store in stores if store.picture_column(name) is None]
        if lacking and len(lacking) < len(stores):
            found.append(name)
            warnings.warn(f"/{name} is dropped, because {lacking[0].path} has none", stacklevel=5)
    return found


def model_classes(store: FeatureStore) -> list[int | None]:
    """The model's class of each class; by position in files that do not say, as they did it."""
    count = len(store.class_names)
    found = store.pictures.get(MODEL_CLASSES, list(range(count)))
    if (
        not isinstance(found, list)
        or len(found) != count
        or not all(index is None or type(index) is int for index in found)
    ):
        raise StoreError(f"{store.path}: damaged ({MODEL_CLASSES}); extract it again")
    return found


def warn_of_rules(stores: Sequence[FeatureStore]) -> None:
    """Say that contents cannot be compared, where pictures were read by several rules."""
    if len({rule_of(store.pictures) for store in stores}) > 1:
        warnings.warn(
            "some of the files were made before version 0.7, which ignored ICC profiles and took "
            "ids as the file system spelled them; whether the pictures' contents are the same "
            "cannot be told",
            stacklevel=5,
        )


def joined_how(stores: Sequence[FeatureStore]) -> dict[str, Any]:
    """How the files were made: as one of them says, or what each says."""
    found = [store.how for store in stores]
    return found[0] if all(how == found[0] for how in found) else {"merged": found}
