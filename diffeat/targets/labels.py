"""Labels of a set of pictures, from wherever they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffeat.errors import SourceError
from diffeat.images.captions import nearest_id
from diffeat.images.columns import columns_of
from diffeat.images.files import table_columns, with_columns
from diffeat.images.folders import parts_in
from diffeat.images.tables import TABLES
from diffeat.images.webdataset import is_tar_name
from diffeat.targets.by_id import RowsById, match_ids
from diffeat.targets.columns import merged_rows, targets_of
from diffeat.targets.keyed import KeyedTargets, own_targets
from diffeat.targets.tables import LISTS, read_any

if TYPE_CHECKING:
    from diffeat.images import Source
    from diffeat.store import FeatureStore

SHOWN = 3


class Labelled(NamedTuple):
    """Labels of N pictures.

    Attributes:
        labels: (N,) int64 class indices, (N,) float64 numbers, or (N, K) int64 of 0 and 1; -1 or
            nan where a picture has none.
        class_names: of the classes or labels, by index; () of numbers.
        groups: N names of what a picture belongs to; None where nothing is known.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: tuple[str, ...] | None

    def take(self, rows: np.ndarray) -> Labelled:
        """Those of some rows, in their order."""
        groups = None if self.groups is None else tuple(self.groups[row] for row in rows)
        return self._replace(labels=np.asarray(self.labels)[rows], groups=groups)


def open_targets(
    path: str | Path,
    columns: Sequence[str] = (),
    groups: str | None = None,
    kind: str | None = None,
    header: bool | None = None,
) -> KeyedTargets:
    """Targets of a .csv, .tsv, .json, .jsonl or .ndjson file, or of WebDataset tars.

    Args:
        path: the file; of tars also a glob or a brace range.
        columns: with the targets; () finds them (see `diffeat.targets.columns.targets_of`).
        groups: column with the groups (person, scene, …); None finds one.
        kind: "class", "number" or "labels"; None goes by the values.
        header: whether a .csv or .tsv has one; None looks.

    Raises:
        SourceError: another format, a damaged file, or what `targets_of` refuses.
    """
    _check_name(path)
    asked = (*columns, *([groups] if groups else []))
    return targets_of(read_any(path, asked, header), columns, groups, kind)


def _check_name(path: str | Path) -> None:
    known = (*TABLES, ".json", *LISTS)
    if Path(path).suffix.lower() not in known and not is_tar_name(str(path)):
        raise SourceError(
            f"{path}: no table of labels; expected a file that ends in {', '.join(known)} or .tar"
        )


def labels_for(
    what: Source | FeatureStore,
    path: str | Path | None = None,
    columns: Sequence[str] = (),
    groups: str | None = None,
    kind: str | None = None,
    header: bool | None = None,
) -> Labelled:
    """Labels, class names and groups of the pictures of a source or a feature file.

    Pictures without a row, and rows without a picture, are warned of.

    Args:
        what: its own labels and targets are taken where there is no path (`own_targets`).
        path, columns, groups, kind, header: of `open_targets`.

    Raises:
        SourceError: no labels, a table that cannot be read, or one that has no picture of these.
    """
    if path is None:
        targets = own_targets(what, columns, groups, kind)
    else:
        targets = open_targets(path, columns, groups, kind, header)
        matching, missing = targets.match(what.ids), targets.missing(what.ids)
        _tell(targets.name, targets.keys, matching, missing, what)
    return Labelled(targets.of(what.ids), targets.names, targets.groups(what.ids))


def with_labels(
    source: Source, path: str | Path, columns: Sequence[str] = (), header: bool | None = None
) -> Source:
    """All pictures of a source with the labels and targets of a table, by id or file name.

    One column of classes becomes the labels (`diffeat.images.files.with_columns`), the others are
    targets. A picture without a row has label -1, or nan; that, and rows without a picture, are
    warned of.

    Args:
        path, header: of `open_targets`.
        columns: only these; () takes all that are no ids or captions.

    Raises:
        SourceError: a table that cannot be read, that contradicts itself, that says nothing of
            pictures, or that has none of these.
    """
    _check_name(path)
    table = read_any(path, columns, header)
    names = tuple(table_columns(table, columns))
    if not names:
        raise SourceError(f"{path}: no column but the ids; expected one with labels or numbers")
    table, keys = merged_rows(table, names)
    matching = match_ids(source.ids, keys)
    found = {name: one.take(matching.rows) for name, one in columns_of(table, names).items()}
    lacking = tuple(source.ids[k] for k in np.flatnonzero(matching.rows < 0))
    _tell(table.name, keys, matching, lacking, source)
    return with_columns(source, found, columns)


def labelled(source: Source, targets: KeyedTargets) -> tuple[Source, tuple[str, ...] | None]:
    """The pictures of a source that have a class, with it, and their groups.

    Raises:
        SourceError: targets that are no classes, or of none of these pictures.
    """
    if targets.kind != "class":
        raise SourceError(f"{targets.name}: targets of kind {targets.kind!r}; expected classes")
    matching, missing = targets.match(source.ids), targets.missing(source.ids)
    _tell(targets.name, targets.keys, matching, missing, source)
    kept = np.flatnonzero(targets.of(source.ids) >= 0)
    taken = source if len(kept) == len(source) else source.take(kept)
    labels = targets.of(taken.ids)
    found = replace(taken, labels=labels, class_names=targets.names, earlier=None,
                    before=None)  # fmt: skip
    return found, targets.groups(taken.ids)


def _tell(
    where: str, keys: Sequence[str], matching: RowsById, missing: Sequence[str],
    what: Source | FeatureStore,
) -> None:  # fmt: skip
    """Warn of pictures without a target, of rows without a picture, and of other pictures' rows."""
    ids = what.ids
    if (matching.rows < 0).all():
        raise SourceError(
            f"{where}: none of its {len(keys)} rows is of these {len(ids)} "
            f"pictures, whose first is {ids[0]!r}{nearest_id(ids[0], keys)}; expected "
            "their ids, or their files' names"
        )
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(ids)} pictures have no target: {_some(missing)}")
    if matching.ambiguous:
        name, rows = next(iter(matching.ambiguous.items()))
        parts.append(
            f"{len(matching.ambiguous)} of them share their file's name with others, such as "
            f"{name!r} ({_some(rows)}): write their ids"
        )
    if matching.unused:
        names = [keys[row] for row in matching.unused]
        parts.append(f"{len(names)} rows are of no picture here: {_some(names)}")
    if other := _of_other_parts(keys, matching, what):
        parts.append(other)
    if parts:
        warnings.warn(f"{where}: {'; '.join(parts)}", stacklevel=3)


def _of_other_parts(keys: Sequence[str], matching: RowsById, what: Source | FeatureStore) -> str:
    """That rows of train/… were found for pictures of test/, whose files have the same names."""
    named = getattr(what, "pictures", {}).get("name") or str(what.name)
    folders = [part for part in Path(named).parts if not has_magic(part)][-2:]
    found = np.flatnonzero(matching.rows >= 0).tolist()
    rows = [keys[matching.rows[place]].replace("\\", "/") for place in found]
    rows_of, of = _parts(rows), _parts([what.ids[place] for place in found]) | parts_in(folders)
    if not rows_of or not of or rows_of & of:
        return ""
    return (f"its rows are of {' and '.join(sorted(rows_of))}/, and the pictures of "
            f"{' and '.join(sorted(of))}/ ({rows[0]!r} was taken for "
            f"{what.ids[found[0]]!r} of {named}): are they "
            "of the same pictures?")  # fmt: skip


def _parts(paths: Sequence[str]) -> set[str]:
    """The parts of a data set that the folders of paths are called after."""
    folders = {path.rpartition("/")[0] for path in paths}
    return parts_in([name for folder in folders for name in folder.split("/")])


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + ", …" * (len(names) > SHOWN)
