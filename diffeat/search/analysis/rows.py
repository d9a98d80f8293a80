"""Which pictures are compared, and their features as one vector each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import NumericsError, SpecError
from diffeat.images import ArraySource, Source, look, rule_of
from diffeat.noise import format_t
from diffeat.search.duplicates import without_copies
from diffeat.search.splits import LEFT_OUT
from diffeat.store import FeatureStore, seen_in
from probes.lazy import Rows

JOINED = " + "
"""Between the names of what a file was joined from."""


def choose_rows(
    store: FeatureStore, limit: int | None = None, seed: int = 0, duplicates: str = "warn"
) -> np.ndarray:
    """Rows of a file, all or some, chosen by the hash of their ids.

    The rule is that of `Source.limit`: class-balanced where there are labels, over the classes
    that the file has pictures of.

    Args:
        limit: so many pictures; None, or more than there are, means all.
        duplicates: "warn" of copies of a picture, which are each other's nearest neighbours in
            any representation, or "drop" all but the first. Files from before 0.7 do not know.

    Returns:
        (n,) int64, ascending.

    Raises:
        SourceError: a class has too few pictures for a balanced choice.
    """
    rows = np.arange(len(store))
    if store.digests is not None:
        part = without_copies(
            str(store.path), store.digests, np.zeros(len(rows), np.int64), np.zeros_like(rows),
            duplicates,
        )  # fmt: skip
        rows = rows[part != LEFT_OUT]
    if limit is None or limit >= len(rows):
        return rows
    # rows stand in for pictures, so that there is one rule
    labels = None if store.labels is None else store.labels[rows]
    ids = tuple(store.ids[row] for row in rows)
    stand_in = ArraySource(str(store.path), ids, labels, tuple(store.class_names), pixels=rows)
    return stand_in.limit(limit, seed).pixels


def pictures_of(store: FeatureStore, rows: Sequence[int] | np.ndarray, source: Source) -> Source:
    """The pictures of a source that rows of a file were made from, in their order.

    Warns if the source's pictures with the ids of the file are others than those that the file
    was made from. They are read by the rule that the file was made with. Of files from before
    0.7 that were joined, or that lack pictures which could not be read, it cannot be told.

    Args:
        store: the file; rows: (n,) of it; source: where the pictures are.

    Returns:
        A source of n pictures.

    Raises:
        SpecError: the source lacks one of them.
    """
    source = source.by_rule(rule_of(store.pictures))
    places = _places(source.name, source.ids, store.ids, store.path)
    if _others(source.take(places), store):
        warnings.warn(
            f"{source.name} has the ids of {store.path}, but other contents or classes than "
            f"{store.pictures['name']}, which that was made from; are they the same pictures?",
            stacklevel=2,
        )
    return source.take([places[row] for row in rows])


def _others(pictures: Source, store: FeatureStore) -> bool:
    """Whether pictures with the ids of a file are known to be others than it was made from."""
    digests = None
    if store.digests is not None and pictures.reading > 1:
        digests = look(pictures, seen_in(store)).digests
        if not np.array_equal(digests, store.digests):
            return True
    if store.skipped or JOINED in store.pictures["name"]:
        return False
    return pictures.fingerprint(digests) != store.pictures["fingerprint"]


def cell_of(
    other: FeatureStore, block: str, t: float, store: FeatureStore, rows: np.ndarray
) -> np.ndarray:
    """(n, D) float32 vectors of one cell of another file, for the pictures of `rows` of a file.

    Args:
        other: the file that is read; block, t: its cell.
        store, rows: the file and the n rows whose pictures are meant.

    Returns:
        (n, D) float32.

    Raises:
        SpecError: no such cell, or pictures that the other file lacks.
        NumericsError: inf or nan.
    """
    other[block, t]  # a wrong name is told before wrong pictures
    wanted = [store.ids[row] for row in rows]
    places = _places(str(other.path), other.ids, wanted, store.path)
    return vectors(other, block, t, np.asarray(places))


def vectors(store: FeatureStore, block: str, t: float, rows: np.ndarray) -> np.ndarray:
    """(n, D) float32 features of one cell: maps and tokens are averaged over their places.

    Maps are read in pieces. A pooled grid (2x2) stays side by side.

    Args:
        store: the file; block, t: its cell; rows: (n,) of it.

    Returns:
        (n, D) float32.

    Raises:
        NumericsError: inf or nan.
    """
    data = store[block, t]
    places = {2: (), 3: (1,), 4: (2, 3)}.get(len(data.shape))
    if places is None:
        raise SpecError(
            f"{block} at t={format_t(t)} has shape {tuple(data.shape)}; expected vectors, tokens "
            "or maps: choose other blocks"
        )
    read = Rows(data, f"{store.path}: {block} at t={format_t(t)}")
    step = max(1, (32 << 20) // (4 * int(np.prod(data.shape[1:]))))
    try:
        pieces = [read[rows[start : start + step]] for start in range(0, len(rows), step)]
    except ValueError as error:
        raise NumericsError(
            f"{error}: leave the cell out (-b, -t), or extract again with --dtype float32 if "
            "float16 was too narrow"
        ) from error
    return np.concatenate([piece.mean(places) if places else piece for piece in pieces])


def _places(name: str, ids: Sequence[str], wanted: Sequence[str], path: str | Path) -> list[int]:
    """Where the wanted ids stand among others."""
    place = {one: index for index, one in enumerate(ids)}
    missing = [one for one in wanted if one not in place]
    if missing:
        raise SpecError(
            f"{name} lacks {len(missing)} of the {len(wanted)} pictures of {path}, first "
            f"{missing[0]!r}; its ids look like {ids[0]!r}. Expected the same pictures, with the "
            "ids that they had in the extraction"
        )
    return [place[one] for one in wanted]
