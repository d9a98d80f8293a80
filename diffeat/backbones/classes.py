"""What the classes of class-conditional models are called."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffeat.errors import ModelError

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
IMAGENET = "imagenet-1k"
"""The 1,000 classes of ILSVRC 2012 in the order of their WordNet ids."""
CLASS_SETS = {
    "dit-cifar10": CIFAR10,
    "dit-xl-2-256": IMAGENET,
    "sit-xl-2-256": IMAGENET,
    "facebook/DiT-XL-2-256": IMAGENET,
    "facebook/DiT-XL-2-512": IMAGENET,
}
"""Models by name; here and not in their folders, whose files make their fingerprints."""


def class_names_of(model: str, index: dict[str, Any], count: int | None) -> tuple[str, ...] | None:
    """Names of a model's classes, by index; None where nobody says.

    Args:
        model: its name without "@random".
        index: its model_index.json, of which `id2label` names the classes in pipelines of DiT,
            and `_classes` the set of classes in folders that scripts/convert.py wrote.
        count: how many classes it has, or None.

    Raises:
        ModelError: `id2label` is no table of `count` names.
    """
    if count is None:
        return None
    if index.get("id2label"):
        return _labelled(model, index["id2label"], count)
    named = index.get("_classes", CLASS_SETS.get(model))
    found = tuple(name for _, name in imagenet()) if named == IMAGENET else named
    return found if isinstance(found, tuple) and len(found) == count else None


def _labelled(model: str, table: Any, count: int) -> tuple[str, ...]:
    keys = [str(k) for k in range(count)]
    whole = isinstance(table, dict) and set(table) == set(keys)
    if not whole or not all(isinstance(name, str) and name.strip() for name in table.values()):
        raise ModelError(
            f"{model}: id2label in its model_index.json does not name its {count} classes; "
            f"expected a table from '0' … '{count - 1}' to names: mend it, or remove it"
        )
    return tuple(table[key] for key in keys)


@cache
def imagenet() -> tuple[tuple[str, str], ...]:
    """(WordNet id, names) of the 1,000 classes, such as ("n01440764", "tench, Tinca tinca")."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(IMAGENET)
    return tuple(
        (info.index_to_label_name(k), info.index_to_description(k))
        for k in range(info.num_classes())
    )
