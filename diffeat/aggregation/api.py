"""`diffeat.aggregate`: several maps of a picture as one, in memory or from file to file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffeat.aggregation.methods import Asked, method_of
from diffeat.aggregation.sources import Sources, open_sources
from diffeat.aggregation.written import (
    check_output,
    check_sources,
    is_complete,
    notes_of,
    request_of,
    write_aggregated,
)
from diffeat.errors import SpecError, brief
from diffeat.store import FeatureStore
from diffeat.store.format.layout import Progress
from probes.cells import Cells


def aggregate(
    features: Any,
    how: Any,
    out: str | Path | None = None,
    *,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[Any] | None = None,
    missing: str = "refuse",
    dtype: str = "float16",
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
) -> Any:
    """Make one map of a picture's maps: join, add, project, fuse, or mix them.

    What has nothing to learn from targets is fitted on the features themselves (`pca` finds its
    axes there); a fitted or kept aggregator is applied as it is.

    Args:
        features: a feature file or an open `FeatureStore`, or several of the same pictures; or
            features in memory: those of `diffeat.extract`, `probes.Cells`, a mapping from
            (block, t) to (N, C, h, w).
        how: "concat", "sum", "pca:256", "co-pca:256", "fuse", "fuse:1,0.5", a .safetensors file
            of a kept aggregator, or an aggregator of `probes.aggregate`.
        out: the feature file to write, of files; None gives the maps.
        blocks, timesteps: only these; None means all.
        missing: of several files, what becomes of pictures that one lacks: "refuse" or
            "leave-out".
        dtype, compression, overwrite, progress: of `out`.

    Returns:
        `out`, as a path; a file that is there already and was made of the same in the same way
        is left as it is. Without `out`: `probes.Cells` of one key, (block, 0), whose rows are
        made when they are read, while stores that were given stay open; of paths, in memory.

    Raises:
        SpecError: another `how`, features that it is not for, vectors.
        SpecMismatch: files of different pictures; features of another model or spec than a kept
            aggregator was fitted on; another file at `out`.
        StoreError: a file cannot be read or written.
    """
    asked = method_of(how)
    if _in_memory(features):
        if out is not None:
            raise SpecError("features in memory are not written; give feature files, or leave "
                            "out= out and take the maps")  # fmt: skip
        return _fitted(asked, _cells(features, blocks, timesteps), "the features")
    named = features if isinstance(features, (list, tuple)) else [features]
    with ExitStack() as stack:
        stores = [one if isinstance(one, FeatureStore)
                  else stack.enter_context(FeatureStore(one)) for one in named]  # fmt: skip
        sources = bound(stores, asked, blocks, timesteps, missing)
        if out is None:
            found = _fitted(asked, sources.given(asked.aggregator), sources.name)
            return found if all(isinstance(one, FeatureStore) for one in named) else _read(found)
        check_output(out, sources)
        if not overwrite and is_complete(out, request_of(sources, asked, dtype)):
            return Path(out)
        fit(asked, sources)
        return write_aggregated(sources, asked, out, dtype, compression, overwrite, progress)


def bound(
    stores: Sequence[FeatureStore], asked: Asked, blocks: Any = None, timesteps: Any = None,
    missing: str = "refuse", said: Any = None,
) -> Sources:  # fmt: skip
    """The files, with the cells that were asked for, or that a kept aggregator takes.

    Args:
        said: is given each thing that differs from what a kept aggregator was fitted on and is
            let pass; None warns of none.

    Raises: as `open_sources` and `check_sources`.
    """
    if not (asked.fitted and asked.about):
        return open_sources(stores, blocks, timesteps, missing)
    if blocks or timesteps:
        raise SpecError("a kept aggregator takes the cells that it was fitted on; leave blocks "
                        "and timesteps out")  # fmt: skip
    notes = notes_of(asked.about, "the aggregator")
    for text in check_sources(notes, stores):
        if said is not None:
            said(text)
    return open_sources(stores, missing=missing, notes=notes)


def fit(asked: Asked, sources: Sources) -> None:
    """Fit what is not fitted yet, on all features.

    Raises:
        SpecError: cells that it cannot take.
    """
    _fitted(asked, sources.given(asked.aggregator), sources.name, transform=False)


def _fitted(asked: Asked, cells: Any, name: str, transform: bool = True) -> Any:
    try:
        if not asked.fitted:
            asked.aggregator.fit(cells)
        return asked.aggregator.transform(cells) if transform else None
    except ValueError as error:
        raise SpecError(f"{name}: {error}") from error


def _in_memory(features: Any) -> bool:
    return isinstance(features, (Cells, Mapping))


def _cells(features: Any, blocks: Any, timesteps: Any) -> Cells:
    """Features in memory as `Cells`, those that were asked for."""
    keys = [
        key
        for key in features
        if (blocks is None or key[0] in blocks) and (timesteps is None or key[1] in timesteps)
    ]
    if not keys:
        raise SpecError(f"none of the features {brief(list(features))} was asked for")
    where = {name: getattr(features, name, None) for name in ("sizes", "placements")}
    return Cells({key: features[key] for key in keys}, **where,
                 input_size=_input_size(features))  # fmt: skip


def _input_size(features: Any) -> tuple[int, int] | None:
    plan = getattr(features, "_plan", None)
    return getattr(features, "input_size", None) if plan is None else plan.size


def _read(cells: Cells) -> Cells:
    """The same, read, since the files are about to be closed."""
    return Cells(
        {key: cells.rows(key)[:] for key in cells.keys},
        sizes=cells.sizes, placements=cells.placements, input_size=cells.input_size,
    )  # fmt: skip
