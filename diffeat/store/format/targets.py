"""Further targets of the pictures: /targets/<column>, as /labels lies beside them.

classes   (N,) int64, attrs kind, names; -1 where a picture has none
numbers   (N,) float64, attrs kind; nan where a picture has none
labels    (N, K) int64 of 0 and 1, attrs kind, names; -1 where a picture has none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.images.columns import KINDS, TargetColumn, unfit
from diffeat.store.format.columns import storable, table
from diffeat.store.format.layout import TEXT
from diffeat.store.format.safety import (
    as_text,
    check_numbers,
    damage_explained,
    read_attr,
    read_text,
)

GROUP = "targets"
MOST = 1 << 12
"""A file has no more of them."""
Described = dict[str, dict[str, Any]]
"""Name of a column → its kind and names, as JSON has them."""


def described(targets: Mapping[str, TargetColumn]) -> Described:
    """What columns are, without their values."""
    return {name: {"kind": one.kind, "names": list(one.names)} for name, one in targets.items()}


def check_described(value: Any) -> Described:
    """The same, read from JSON; TypeError or ValueError for anything else."""
    found = {name: table(one) for name, one in table(value).items()}
    if len(found) > MOST:
        raise ValueError(f"{len(found)} columns of targets")
    for name, one in found.items():
        names = one.get("names")
        if unfit(name) or not storable(name):
            raise ValueError(f"{name!r:.100} is no name of a column")
        if one.get("kind") not in KINDS or not isinstance(names, list):
            raise ValueError(f"target {name!r} is {one!r:.100}")
        if not all(isinstance(text, str) and (not text or storable(text)) for text in names):
            raise TypeError(f"the names of target {name!r} must be texts without NUL")
    return {name: {"kind": one["kind"], "names": one["names"]} for name, one in found.items()}


def shape_of(one: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    """Shape of one picture's row, and dtype, of a described column."""
    if one["kind"] == "labels":
        return (len(one["names"]),), "int64"
    return (), "float64" if one["kind"] == "number" else "int64"


def create_targets(file: h5py.File, columns: Described, count: int) -> None:
    """Empty data sets of `count` rows."""
    if columns:
        file.create_group(GROUP, track_order=True)
    for name, one in columns.items():
        shape, dtype = shape_of(one)
        data = file.create_dataset(f"{GROUP}/{name}", shape=(count, *shape), dtype=dtype)
        data.attrs["kind"] = one["kind"]
        if one["kind"] != "number":
            data.attrs.create("names", one["names"], shape=(len(one["names"]),), dtype=TEXT)


def target_names(file: h5py.File) -> list[str]:
    """The names of a file's columns; [] in older files.

    Raises:
        TypeError, ValueError: what lies there is no group, or one of too many.
    """
    if GROUP not in file:
        return []
    if not isinstance(file[GROUP], h5py.Group):
        raise TypeError(f"{GROUP} is no group")
    if len(file[GROUP]) > MOST:
        raise ValueError(f"{len(file[GROUP])} columns of targets")
    return list(file[GROUP])


def check_targets(file: h5py.File, count: int) -> None:
    """See that columns are what they claim; nothing large is read for it.

    Raises:
        Exception: nearly every kind, where anything is amiss; see `damage_explained`.
    """
    found = {name: _describe(file, name) for name in target_names(file)}
    for name, one in check_described(found).items():
        shape, dtype = shape_of(one)
        data, where = file[GROUP][name], f"{GROUP}/{name}"
        check_numbers(data, where, np.dtype(dtype).kind, (count, *shape))
        if data.dtype != np.dtype(dtype):
            raise TypeError(f"{where} has type {data.dtype}; expected {dtype}")


def _describe(file: h5py.File, name: str) -> dict[str, Any]:
    data = file[GROUP][name]
    if not isinstance(data, h5py.Dataset):
        raise TypeError(f"{GROUP}/{name} is no data set")
    kind = read_text(data, "kind")
    names = [] if kind == "number" else read_attr(data, "names")
    if names is None:
        raise KeyError(f"{GROUP}/{name} has no names")
    return {"kind": kind, "names": list(map(as_text, names))}


def check_values(column: TargetColumn, name: str) -> None:
    """ValueError for classes and labels outside of their names."""
    if column.kind == "number" or not column.values.size:
        return
    most = len(column.names) if column.kind == "class" else 2
    if column.values.min() < -1 or column.values.max() >= most:
        raise ValueError(f"{GROUP}/{name} has values outside of its names")


class StoredTargets(Mapping):
    """The columns of a feature file by name; each is read when it is asked for."""

    def __init__(self, file: h5py.File, path: Path):
        self._file, self._path = file, path
        self._names = target_names(file)
        self._read: dict[str, TargetColumn] = {}

    def __getitem__(self, name: str) -> TargetColumn:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            with damage_explained(self._path, f"{GROUP}/{name}"):
                one = _describe(self._file, name)
                column = TargetColumn(one["kind"], tuple(one["names"]), self._file[GROUP][name][:])
                check_values(column, name)
            self._read[name] = column
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"targets {', '.join(self._names) or 'none'}"
