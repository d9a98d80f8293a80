"""A feature file of aggregated maps: what it is made of, and whether it is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.aggregation.methods import Asked
from diffeat.aggregation.sources import Sources
from diffeat.conditioned import EMBEDDING_ROWS, conditioned
from diffeat.errors import SpecError, SpecMismatch
from diffeat.hashing import fingerprint
from diffeat.noise import AGGREGATE, NO_T, shown_t
from diffeat.search.fitted_on import FITTED_ON, among, noted
from diffeat.search.kept import HeadNote, check_features
from diffeat.search.stored import cells_of, made_of, targets_seen
from diffeat.search.tasks import bytes_fingerprint
from diffeat.specs import differences
from diffeat.store import Derived, FeatureStore, write_derived
from diffeat.store.format.layout import Progress
from diffeat.store.format.manifest import MODEL_CLASSES

REQUEST = "request"
"""Key of `how`: what must be equal for two runs to give one file."""
TOLD = ("conditions", EMBEDDING_ROWS, MODEL_CLASSES)
"""What is said of pictures that says what the model was told of them."""


def request_of(sources: Sources, asked: Asked, dtype: str) -> dict[str, Any]:
    """What a file will be made of, known before anything is computed."""
    found: dict[str, Any] = {}
    for place, (store, keys) in enumerate(zip(sources.stores, sources.keys, strict=True), start=1):
        found[f"file {place}"] = store.fingerprint
        found[f"cells of file {place}"] = _cells_text(keys)
    return {
        **found,
        "how": asked.request,
        "dtype": dtype,
        "pictures": fingerprint(sources.ids),
        "labels": _labels(sources.first, sources.rows[0]),
    }


def is_complete(path: str | Path, wanted: dict[str, Any]) -> bool:
    """Whether what lies at `path` is what was asked for; False where nothing lies there.

    Raises:
        SpecMismatch: another aggregation, or no aggregation at all; says which field differs.
        StoreError: no feature file.
    """
    path = Path(path)
    if not path.exists():
        return False
    with FeatureStore(path) as store:
        found = store.how.get(REQUEST)
    if not isinstance(found, dict):
        raise SpecMismatch(
            f"{path} is a feature file that was not made by an aggregation of its own; choose "
            "another output, or pass --overwrite to replace it"
        )
    if differ := differences(found, wanted):
        raise SpecMismatch(
            f"{path} was made otherwise ({'; '.join(differ)}: there → wanted); choose another "
            "output, ask for the same, or pass --overwrite to replace it"
        )
    return True


def write_aggregated(
    sources: Sources,
    asked: Asked,
    path: str | Path,
    dtype: str = "float16",
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
) -> Path:
    """Apply a fitted aggregator and write its maps, in bounded memory.

    Args:
        asked: whose aggregator is fitted.
        dtype: "float16", "float32" or "int8".

    Returns:
        `path`, a file that opens as a `FeatureStore`: one block, called as the aggregator, at
        t = 0; ids, labels, targets, sizes, placements and digests as in the first file.

    Raises:
        StoreError: `path` is there, or cannot be written.
        SpecError: features that the aggregator is not for; `path` is one of the files.
    """
    from probes.saved import digest

    block, aggregator = asked.aggregator.key[0], asked.aggregator
    check_output(path, sources)
    try:
        values = aggregator.transform(sources.given(aggregator))[aggregator.key]
    except ValueError as error:
        raise SpecError(f"{sources.name}: {error}") from error
    model = {
        "name": f"{block} of {sources.models}", "family": AGGREGATE,
        "fingerprint": fingerprint(sources.identity, digest(aggregator)),
        "dtype": sources.first.model["dtype"], "changes": [],
        "of": [{"model": dict(made.model), "spec": made.spec.to_dict(), "cells": _cells_text(keys)}
               for made, keys in zip(sources.made, sources.keys, strict=True)],
    }  # fmt: skip
    made_by = {
        "aggregator": type(aggregator).__name__,
        "asked": asked.text or "a kept one",
        "of": [{"file": store.path.name, "fingerprint": store.fingerprint,
                "cells": _cells_text(keys)}
               for store, keys in zip(sources.stores, sources.keys, strict=True)],
        **_noted(seen_targets(asked, sources), sources),
        REQUEST: request_of(sources, asked, dtype),
    }  # fmt: skip
    told = _told(sources)
    spec = replace(
        told.spec, blocks=(block,), timesteps=(int(NO_T),), pool="none", dtype=dtype,
        size=sources.first.spec.size, fit=sources.first.spec.fit,
    )  # fmt: skip
    pictures = {name: told.pictures[name] for name in TOLD if name in told.pictures}
    derived = Derived(
        sources.first, sources.rows[0], block, values, spec.to_dict(), model, made_by,
        {**pictures, **sources.pictures}, dtype,
    )  # fmt: skip
    return write_derived(derived, path, compression, overwrite, progress)


def seen_targets(asked: Asked, sources: Sources) -> np.ndarray:
    """(N,) bool: of which pictures targets were seen, by the aggregator or by one that made the
    maps that it is given; False where that is not known."""
    seen = np.zeros(len(sources), bool)
    for store, rows in zip(sources.stores, sources.rows, strict=True):
        seen |= targets_seen(store)[rows]
    text = (asked.about or {}).get(FITTED_ON)
    if text is not None and sources.digests is not None:
        seen |= among([text], sources.digests)
    return seen


def _noted(seen: np.ndarray, sources: Sources) -> dict[str, Any]:
    """The same for `how`; {} where none were."""
    if not seen.any() or sources.digests is None:
        return {}
    return {FITTED_ON: {"count": int(seen.sum()), "note": noted(sources.digests[seen])}}


def check_output(path: str | Path, sources: Sources) -> None:
    """SpecError where a file would be replaced by what is made of it."""
    path = Path(path)
    if path.exists() and any(path.samefile(store.path) for store in sources.stores):
        raise SpecError(f"{path} is what the maps are made of; choose another output")


def check_sources(notes: Sequence[HeadNote], sources: Sequence[FeatureStore]) -> list[str]:
    """Refuse files whose features a kept aggregator is not for, field by field.

    Returns:
        What differs and is let pass, for warnings.

    Raises:
        SpecError: another number of files.
        SpecMismatch: names every field that differs.
    """
    if len(notes) != len(sources):
        raise SpecError(
            f"{len(sources)} files for an aggregator of {len(notes)}: "
            f"{' + '.join(note.model['name'] for note in notes)}; give as many, in this order"
        )
    said = []
    for note, store in zip(notes, sources, strict=True):
        name = str(store.path)
        said += [f"{name}: {one}" for one in check_features(note, made_of(store),
                                                            cells_of(store), name)]  # fmt: skip
    return said


def notes_of(about: Any, path: str | Path) -> list[HeadNote]:
    """What a kept aggregator says of the features of each of its files.

    Raises:
        StoreError: it does not say it.
    """
    parts = about.get("sources") if isinstance(about, dict) else None
    parts = parts if isinstance(parts, list) and parts else [about]
    return [HeadNote.of(one, path) for one in parts]


def _told(sources: Sources) -> FeatureStore:
    """The first file whose model was told of each picture's own target; else the first."""
    told = (one for one in sources.stores if conditioned(one.spec, one.pictures))
    return next(told, sources.first)


def _labels(store: FeatureStore, rows: np.ndarray) -> str:
    """Hash of the labels and targets of some rows."""
    labels = None if store.labels is None else bytes_fingerprint(store.labels[rows])
    more = {name: (store.targets[name].kind, store.targets[name].names,
                   bytes_fingerprint(store.targets[name].values[rows]))
            for name in store.targets}  # fmt: skip
    return fingerprint(labels, store.class_names, more)


def _cells_text(keys: Any) -> str:
    return ", ".join(block + shown_t(t, " t=") for block, t in keys)
