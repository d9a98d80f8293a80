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

from diffeat.errors import DiffeatError, SpecMismatch, StoreError
from diffeat.images import Seen, Source, rule_of
from diffeat.specs import CLASS_LABEL, PLACEHOLDERS, ExtractSpec, differences
from diffeat.store.format.columns import PICTURE_COLUMNS
from diffeat.store.format.layout import shard_folder
from diffeat.store.format.manifest import MODEL_CLASSES, OF_PICTURES, Manifest
from diffeat.store.read.reader import FeatureStore

ADDED = "added"
"""Key of `how`: what each growth added to the pictures before it, and how."""
GROWS = "grows"
"""Key among what is said of the pictures of unfinished parts: into which file they grow."""
HELD = "held-{}.h5"
"""What an interrupted run had finished of other pictures, in the folder of shards."""
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


class Base(NamedTuple):
    """A feature file whose rows serve again.

    Attributes:
        path: where it is: the user's, or what an interrupted run had finished.
        fingerprint: its own.
        places: (M,) the place in the job's source of each of its rows.
        known: (m,) the places of the pictures that it had met, those without a row included,
            in the order of the user's source; None of an interrupted run, which is of more
            pictures than it knows.
        columns: names of its data sets that have a row per picture, beside the features.
        conditions: hash of captions or embeddings that it must name.
    """

    path: Path
    fingerprint: str
    places: np.ndarray
    known: np.ndarray | None
    columns: frozenset[str]
    conditions: str | None = None


@dataclass(frozen=True)
class Growth:
    """How finished rows become those of a file of other pictures.

    The job's source has the N pictures in another order than the file in the end: first the n
    that must be computed, then those that are finished.

    Attributes:
        bases: where these are.
        first: (N,) the place in the user's source of each picture of the job's source.
        count: n.
        told: what is done, for people.
        lost: labels and targets of the finished file that the pictures have no more, for people.
        pictures: what the file in the end says of its pictures.
    """

    bases: tuple[Base, ...]
    first: np.ndarray
    count: int
    told: str
    lost: str
    pictures: dict[str, Any]

    @property
    def order(self) -> np.ndarray:
        """(N,) the place in the job's source of each picture of the user's."""
        return np.argsort(self.first)

    @property
    def columns(self) -> frozenset[str]:
        """Data sets with a row per picture that all finished rows have."""
        return frozenset.intersection(*(base.columns for base in self.bases))

    @property
    def status(self) -> str:
        """What it is called in the end."""
        if all(base.known is None for base in self.bases):
            return "resumed"
        return "grown" if self.count else "relabelled"

    def noted(self, manifest: Manifest) -> Manifest:
        """The manifest of the parts, with a note of what they become."""
        note = {"held": len(self.first) - self.count, "into": self.whole(manifest).fingerprint}
        return replace(manifest, pictures={**manifest.pictures, GROWS: note})

    def whole(self, manifest: Manifest, found: Sequence[Manifest] = ()) -> Manifest:
        """The manifest of the file in the end.

        Args:
            manifest: of the parts.
            found: of the bases, for how they were made.
        """
        how = manifest.how
        if found:
            counts = [len(base.places) for base in self.bases[1:]] + [self.count]
            later = [m.how for m in found[1:]] + [manifest.how]
            added = [{"pictures": n, **made} for n, made in zip(counts, later, strict=True) if n]
            how, added = found[0].how, [*found[0].how.get(ADDED, ()), *added]
            how = {**how, ADDED: added} if added else how
        return replace(manifest, pictures=self.pictures, how=how)

    def check(self, manifest: Manifest) -> None:
        """See that the finished rows were made in the same way.

        Args:
            manifest: of the parts.

        Raises:
            SpecMismatch: they were not; names the fields.
            StoreError: a file is not the one that was looked at.
        """
        for base in self.bases:
            with FeatureStore(base.path) as store:
                if store.fingerprint != base.fingerprint:
                    raise StoreError(
                        f"{base.path} was replaced meanwhile; run the same command again"
                    )
                differ = fields_that_differ(Manifest.from_attrs(store.file), manifest)
                if store.pictures.get("conditions") != base.conditions:
                    differ.append("captions or embeddings of pictures that it holds")
            if differ:
                raise SpecMismatch(
                    f"{base.path} was made with another spec ({'; '.join(differ)}) and of other "
                    "pictures; choose another output, ask for the same, or pass --overwrite to "
                    "replace it"
                )


def fields_that_differ(found: Manifest, wanted: Manifest) -> list[str]:
    """In which fields two manifests differ, but for those that say which pictures they are of."""
    one, two = (
        {name: value for name, value in manifest.identity().items() if name not in MAY_CHANGE}
        for manifest in (found, wanted)
    )
    return differences(one, two)


def held(parts: Manifest) -> int:
    """How many pictures of parts were finished before these were begun."""
    note = parts.pictures.get(GROWS)
    count = note.get("held") if isinstance(note, dict) else 0
    return count if type(count) is int else 0


def becomes(parts: Manifest) -> str | None:
    """Fingerprint of the file into which parts of a growing one are merged."""
    note = parts.pictures.get(GROWS)
    return note.get("into") if isinstance(note, dict) else None


def growth_of(path: Path, source: Source, seen: Seen) -> Growth | None:
    """How what is finished of `path` becomes a file of a source; nothing is computed again.

    Args:
        path: the file that the user named.
        source: the pictures of today.
        seen: their digests.

    Returns:
        None where nothing is finished, where the file is of this source already, or where a
        picture of it has changed or is gone.
    """
    begun = sorted(shard_folder(path).glob(HELD.format("*")))
    bases, lost, row = [], "", {name: k for k, name in enumerate(source.ids)}
    finished, skipped = np.zeros(len(source), bool), set()
    try:
        for file in [*([path] if path.is_file() else []), *begun]:
            with FeatureStore(file) as store:
                if file == path and _is_of(store, source, seen):
                    return None
                if file == path:
                    lost = _lost(store, source)
                changes = changes_of(store.ids, store.digests, seen)
                if store.digests is None or changes.changed or changes.gone:
                    return None
                places = np.array([row[name] for name in store.ids], np.int64)
                finished[places] = True
                met = np.isin(np.arange(len(source)), places)
                met |= [name in store.skipped for name in source.ids]
                skipped |= store.skipped.keys()
                known = None if file in begun else np.flatnonzero(met)
                columns = frozenset(name for name in PICTURE_COLUMNS if name in store.file)
                bases.append(Base(file, store.fingerprint, places, known, columns))
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None
    if not bases:
        return None
    first = np.concatenate([np.flatnonzero(~finished), np.flatnonzero(finished)])
    order = np.argsort(first)
    bases = [
        base._replace(
            places=order[base.places], known=None if base.known is None else order[base.known]
        )
        for base in bases
    ]
    missing = [source.ids[k] for k in np.flatnonzero(~finished)]
    told = _told(missing, skipped, bases, source)
    return Growth(tuple(bases), first, len(missing), told, lost, {})


def _is_of(store: FeatureStore, source: Source, seen: Seen) -> bool:
    """Whether a file is of the very pictures of a source, or read by another rule."""
    same = store.pictures["fingerprint"] == source.fingerprint(seen.digests)
    return same or rule_of(store.pictures) != source.reading


def _lost(store: FeatureStore, source: Source) -> str:
    """Which labels and targets of a file its pictures of today lack."""
    labels = [] if store.labels is None else np.unique(store.labels)
    used = [name for k, name in enumerate(store.class_names) if k in labels]
    names = [name for name in used if name not in source.class_names]
    columns = [name for name in store.targets if name not in source.targets]
    found = [f"{what} ({some(which)})" for what, which in (("labels", names), ("targets", columns))
             if which]  # fmt: skip
    if not found:
        return ""
    return (
        f"loses {' and '.join(found)}, which its pictures have no more; asked for again with "
        "where they came from (--labels FILE), it takes them on without any forward"
    )


def _told(missing: Sequence[str], skipped: set[str], bases: Sequence[Base], source: Source) -> str:
    """What is done, and why."""
    again = [name for name in missing if name in skipped]
    fresh, parts = len(missing) - len(again), []
    if fresh and bases[0].known is None:
        have = len(source) - len(missing)
        return (
            f"{have} of {len(source)} pictures {_are(have)} finished, by a run that was begun with "
            f"other pictures; extracting the other {len(missing)}"
        )
    if fresh:
        parts.append(f"{fresh} of {len(source)} pictures {_are(fresh)} new")
        if begun := sum(len(base.places) for base in bases[1:]):
            parts.append(f"{begun} that an interrupted run added {_are(begun)} kept")
    if again:
        parts.append(f"{len(again)} that could not be read {_are(len(again))} tried again "
                     f"({some(again)})")  # fmt: skip
    if parts:
        return f"{'; '.join(parts)}; extracting {'it' if len(missing) == 1 else 'them'}"
    moved = (np.diff(bases[0].places) < 0).any()
    return (
        f"the pictures are the same {'in another order' if moved else 'with other labels'}, which "
        "it takes on without any forward"
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


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
    now = _classes(source.labels, source.class_names, growth.pictures, by_name)
    for base in growth.bases:
        with FeatureStore(base.path) as store:
            before = _classes(store.labels, store.class_names, store.pictures, by_name)
            pairs = zip(store.ids, before, base.places, strict=True)
            other = [name for name, one, place in pairs if one != now[place]]
        if other:
            pictures = "picture has" if len(other) == 1 else "pictures have"
            raise SpecMismatch(
                f"{base.path}: {len(other)} {pictures} another class than the features were told "
                f"({some(other)}); choose another output, or pass --overwrite to make all anew"
            )


def _classes(labels, names: Sequence[str], pictures: dict[str, Any], by_name: bool) -> list:
    """What each picture's features are told of its class."""
    labels = [] if labels is None else labels.tolist()
    if by_name:
        return [names[k] for k in labels]
    table = pictures.get(MODEL_CLASSES)
    return labels if table is None else [table[k] for k in labels]
