"""Which rows of a finished feature file serve pictures that have become others since.

A folder grows: what is new is computed alone, first, in whole batches, as if it were a set of its
own; the rows of the finished file come behind it, uncomputed. The merge brings both into the
source's order. Until then the finished file stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffeat.errors import DiffeatError, SpecMismatch
from diffeat.images import Seen, Source, rule_of
from diffeat.specs import CLASS_LABEL, PLACEHOLDERS, ExtractSpec, differences
from diffeat.store.format.columns import PICTURE_COLUMNS
from diffeat.store.format.manifest import MODEL_CLASSES, OF_PICTURES, Manifest
from diffeat.store.read.reader import FeatureStore

ADDED = "added"
"""Key of `how`: what each growth added to the pictures before it, and how."""
GROWS = "grows"
"""Key among what is said of the pictures of unfinished parts: into which file they grow."""
NAMED = 3
"""Pictures that a message names."""
MAY_CHANGE = (*OF_PICTURES, "captions or embeddings", MODEL_CLASSES)
"""Fields of an identity that a growth may change; captions and classes are compared apart."""


class Changes(NamedTuple):
    """What became of the pictures of a feature file; ids, in the order of their list.

    Attributes:
        changed: there, with other bytes; () where the file has no digests.
        gone: of the file's rows.
        new: of the source.
    """

    changed: list[str]
    gone: list[str]
    new: list[str]

    def __str__(self) -> str:
        """ "2 pictures changed (a.png, b.png), 1 is gone (c.png), 5 are new"."""
        found, noun = [], True
        for names, one, many in (
            (self.changed, "changed", "changed"),
            (self.gone, "is gone", "are gone"),
            (self.new, "is new", "are new"),
        ):
            if names:
                what = ("picture " if len(names) == 1 else "pictures ") if noun else ""
                told = f" ({some(names)})" if names is not self.new or noun else ""
                found.append(f"{len(names)} {what}{one if len(names) == 1 else many}{told}")
                noun = False
        return ", ".join(found)


def some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:NAMED]) + ", …" * (len(names) > NAMED)


def changes_of(ids: Sequence[str], digests: np.ndarray | None, seen: Seen) -> Changes:
    """What became of pictures.

    Args:
        ids: of a file's rows.
        digests: (n, 16) uint8 of them, or None.
        seen: the pictures of today; its digests may be None.
    """
    place = {name: row for row, name in enumerate(seen.ids)}
    rows = np.array([place.get(name, -1) for name in ids], np.int64)
    other = np.zeros(len(ids), bool)
    if digests is not None and seen.digests is not None:
        other = (rows >= 0) & (digests != seen.digests[rows]).any(1)
    known = set(ids)
    return Changes(
        [ids[k] for k in np.flatnonzero(other)],
        [ids[k] for k in np.flatnonzero(rows < 0)],
        [name for name in seen.ids if name not in known],
    )


def difference_text(store: FeatureStore, seen: Seen) -> str:
    """How the pictures of a finished file differ from those of today, for people."""
    found = str(changes_of(store.ids, store.digests, seen))
    if store.digests is not None:
        return found or "their labels, their classes or their order are others"
    why = "it is from before version 0.7" if rule_of(store.pictures) == 1 else "it has no /digests"
    contents = f"which of them changed cannot be told, because {why}"
    return f"{found}; {contents}" if found else contents


@dataclass(frozen=True)
class Growth:
    """How a finished file becomes one of other pictures.

    The job's source has the N pictures in another order than the file in the end: first the n
    that must be computed, then those that the finished file has.

    Attributes:
        path: the finished file.
        fingerprint: its own.
        first: (N,) the place in the user's source of each picture of the job's source.
        rows: (N - n,) rows of the finished file of the job's pictures from n on.
        known: (m,) the pictures of the job that it had met, those without a row included, in
            the order of the user's source.
        columns: names of its data sets that have a row per picture, beside the features.
        told: what is done, for people.
        pictures: what the file in the end says of its pictures.
        conditions: hash of the captions or embeddings of the finished file's pictures, as far
            as that is known.
    """

    path: Path
    fingerprint: str
    first: np.ndarray
    rows: np.ndarray
    known: np.ndarray
    columns: frozenset[str]
    told: str
    pictures: dict[str, Any]
    conditions: str | None = None

    @property
    def count(self) -> int:
        """n, the pictures that must be computed."""
        return len(self.first) - len(self.rows)

    @property
    def order(self) -> np.ndarray:
        """(N,) the place in the job's source of each picture of the user's."""
        return np.argsort(self.first)

    def noted(self, manifest: Manifest) -> Manifest:
        """The manifest of the parts, with a note of what they become."""
        note = {"held": len(self.rows), "into": self.whole(manifest).fingerprint}
        return replace(manifest, pictures={**manifest.pictures, GROWS: note})

    def whole(self, manifest: Manifest, found: Manifest | None = None) -> Manifest:
        """The manifest of the file in the end.

        Args:
            manifest: of the parts.
            found: of the finished file.
        """
        how = manifest.how
        if found is not None and self.count:
            added = [*found.how.get(ADDED, ()), {"pictures": self.count, **manifest.how}]
            how = {**found.how, ADDED: added}
        elif found is not None:
            how = found.how
        return replace(manifest, pictures=self.pictures, how=how)

    def check(self, found: Manifest, manifest: Manifest) -> None:
        """SpecMismatch, naming the fields, if the finished file was made in another way.

        Args:
            found: of the finished file.
            manifest: of the parts.
        """
        one, two = (
            {name: value for name, value in m.identity().items() if name not in MAY_CHANGE}
            for m in (found, manifest)
        )
        differ = differences(one, two)
        if found.pictures.get("conditions") != self.conditions:
            differ.append("captions or embeddings of pictures that it holds")
        if differ:
            raise SpecMismatch(
                f"{self.path} was made with another spec ({'; '.join(differ)}), and its pictures "
                f"have changed, too; choose another output, ask for the same, or pass "
                "--overwrite to replace it"
            )


def becomes(parts: Manifest) -> str | None:
    """Fingerprint of the file into which parts of a growing one are merged."""
    note = parts.pictures.get(GROWS)
    return note.get("into") if isinstance(note, dict) else None


def growth_of(path: Path, source: Source, seen: Seen) -> Growth | None:
    """How the finished file at `path` becomes one of a source, without computing again what it
    has; None if there is no such file, if it is of this source already, or if something in it has
    changed or is gone.

    Args:
        path: the file that the user named.
        source: the pictures of today.
        seen: their digests.
    """
    if not path.is_file():
        return None
    try:
        with FeatureStore(path) as store:
            if store.digests is None or rule_of(store.pictures) != source.reading:
                return None
            if store.pictures["fingerprint"] == source.fingerprint(seen.digests):
                return None
            changes = changes_of(store.ids, store.digests, seen)
            if changes.changed or changes.gone:
                return None
            return _growth(path, store, source, changes.new)
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None


def _growth(path: Path, store: FeatureStore, source: Source, new: Sequence[str]) -> Growth:
    row = {name: k for k, name in enumerate(store.ids)}
    rows = np.array([row.get(name, -1) for name in source.ids], np.int64)
    first = np.concatenate([np.flatnonzero(rows < 0), np.flatnonzero(rows >= 0)])
    order = np.argsort(first)
    return Growth(
        path=path,
        fingerprint=store.fingerprint,
        first=first,
        rows=rows[rows >= 0],
        known=order[[name in row or name in store.skipped for name in source.ids]],
        columns=frozenset(name for name in PICTURE_COLUMNS if name in store.file),
        told=_told(store, source, rows[rows >= 0], new),
        pictures={},
    )


def _told(store: FeatureStore, source: Source, rows: np.ndarray, new: Sequence[str]) -> str:
    """What is done, and why."""
    again = [name for name in new if name in store.skipped]
    fresh = len(new) - len(again)
    if new:
        parts = [f"{fresh} of {len(source)} pictures {'is' if fresh == 1 else 'are'} new"]
        parts = parts if fresh else []
        if again:
            parts.append(f"{len(again)} that could not be read {'is' if len(again) == 1 else 'are'}"
                         f" tried again ({some(again)})")  # fmt: skip
        return f"{'; '.join(parts)}; extracting {'it' if len(new) == 1 else 'them'}"
    if (rows[:-1] > rows[1:]).any():
        return "the pictures are the same in another order, which it takes on without any forward"
    return "the pictures are the same with other labels, which it takes on without any forward"


def check_told(growth: Growth, spec: ExtractSpec, source: Source) -> None:
    """SpecMismatch if features of the finished file were told another class than they would be.

    Args:
        growth: with what the file in the end says of its pictures.
        spec: of both.
        source: the job's.
    """
    by_name = any(word in spec.prompt for word in PLACEHOLDERS)
    if spec.label != CLASS_LABEL and not by_name:
        return
    with FeatureStore(growth.path) as store:
        ids = [store.ids[row] for row in growth.rows]
        before = _classes(store.labels, store.class_names, store.pictures, by_name)
        before = [before[row] for row in growth.rows]
    now = _classes(source.labels, source.class_names, growth.pictures, by_name)[growth.count :]
    other = [name for name, one, two in zip(ids, before, now, strict=True) if one != two]
    if other:
        pictures = "picture has" if len(other) == 1 else "pictures have"
        raise SpecMismatch(
            f"{growth.path}: {len(other)} {pictures} another class than the features were told "
            f"({some(other)}); choose another output, or pass --overwrite to make all anew"
        )


def _classes(labels, names: Sequence[str], pictures: dict[str, Any], by_name: bool) -> list:
    """What each picture's features are told of its class."""
    labels = [] if labels is None else labels.tolist()
    if by_name:
        return [names[k] for k in labels]
    table = pictures.get(MODEL_CLASSES)
    return labels if table is None else [table[k] for k in labels]
