"""What the classes of a class-conditional model are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BUNDLED = {"dit-cifar10": CIFAR10}
IMAGENET = ("dit-xl-2-256", "sit-xl-2-256")
"""Known models whose classes are the 1,000 of ImageNet-1k, ordered by WordNet id."""

Names = tuple[tuple[str, ...], ...]
"""For each class its names, the one to show first."""


def class_names(model: str, index: Mapping[str, Any], count: int | None) -> Names | None:
    """Names of the classes of a model, or None where nobody says them.

    Args:
        model: bundled or known name, without "@random"; or a folder or hub id.
        index: its model_index.json, whose `id2label` counts where there is one.
        count: number of classes of its denoiser; other numbers of names are not believed.
    """
    found = _of_index(index.get("id2label"))
    if found is None and model in BUNDLED:
        found = tuple((name,) for name in BUNDLED[model])
    if found is None and model in IMAGENET:
        found = _imagenet()
    return found if found is not None and len(found) == count else None


def _of_index(table: Any) -> Names | None:
    """The table of a diffusers DiT pipeline: {"0": "tench, Tinca tinca", …}; None for others."""
    if not isinstance(table, Mapping) or not all(isinstance(v, str) for v in table.values()):
        return None
    keys = [str(k) for k in range(len(table))]
    if set(map(str, table)) != set(keys):
        return None
    by_key = {str(key): value for key, value in table.items()}
    return tuple(_synonyms(by_key[key]) for key in keys)


def _synonyms(text: str) -> tuple[str, ...]:
    """ "tench, Tinca tinca" → the whole, then each part."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys((parts[0], *parts, text)))


def _imagenet() -> Names:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(
        (*_synonyms(info.index_to_description(k)), info.index_to_label_name(k))
        for k in range(info.num_classes())
    )
