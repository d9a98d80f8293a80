"""How data sets lie in files: what is stored for a column, and in which chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.store.format.columns import Column
from diffeat.store.format.compress import creation_options
from diffeat.store.format.quantize import (
    group_size,
    groups,
    quantization_attrs,
    quantize,
    scale_name,
)

CHUNK_BYTES = 1 << 18
TEXT = h5py.string_dtype()
Progress = Callable[[Iterable], Iterable]
"""Wraps what is gone through, such as a progress bar."""


def shard_folder(path: Path) -> Path:
    """The folder of the shards of an unfinished feature file."""
    return path.with_name(path.name + ".parts")


def stored(columns: Sequence[Column]) -> list[Column]:
    """The data sets of columns: an int8 column is two, its numbers and its scales."""
    found = []
    for column in columns:
        if column.dtype != "int8":
            found.append(column)
            continue
        attrs = {**column.attrs, **quantization_attrs(column.name, column.shape)}
        found.append(Column(column.name, column.shape, "int8", attrs))
        kept = groups(column.shape, group_size(column.shape))
        found.append(Column(scale_name(column.name), (kept,), "float32", {}))
    return found


def stored_values(column: Column, values: np.ndarray) -> dict[str, np.ndarray]:
    """What goes into the data sets of a column, by their names."""
    if column.dtype != "int8":
        return {column.name: values.astype(column.dtype, copy=False)}
    quantized, scales = quantize(values, group_size(column.shape), column.name)
    return {column.name: quantized, scale_name(column.name): scales}


def chunk_shape(shape: tuple[int, ...], itemsize: int, count: int) -> tuple[int, ...]:
    """A chunk of at most about 256 KiB: several rows, or an even part of one row.

    The first axes of a large row are split first, so that a chunk is an unbroken piece of the
    row and one channel of a map can be read without the others.
    """
    row = math.prod(shape) * itemsize
    if row <= CHUNK_BYTES:
        return (max(1, min(count, CHUNK_BYTES // max(1, row))), *shape)
    sides = list(shape)
    for axis, side in enumerate(shape):
        inner = math.prod(shape[axis + 1 :]) * itemsize
        if inner <= CHUNK_BYTES:
            sides[axis] = -(-side // _pieces(side, -(-side // (CHUNK_BYTES // inner))))
            break
        sides[axis] = 1
    return (1, *sides)


def _pieces(side: int, least: int) -> int:
    """Into how many pieces a side is cut: equal ones if possible, for the last is padded."""
    return next((n for n in range(least, min(side, 2 * least) + 1) if side % n == 0), least)


def create_column(file: h5py.File, column: Column, count: int, compression: str) -> h5py.Dataset:
    """An empty data set of `count` rows.

    Compressed ones lie in chunks with a checksum each. Others are one array in the file, of
    which HDF5 reads exactly what is asked for, as fast as the disk.
    """
    options: dict[str, Any] = {}
    if compression != "none":
        itemsize = np.dtype(column.dtype).itemsize
        options = {"chunks": chunk_shape(column.shape, itemsize, count), "fletcher32": True}
        options |= creation_options(compression, column.dtype)
    dataset = file.create_dataset(column.name, (count, *column.shape), column.dtype, **options)
    dataset.attrs.update(column.attrs)
    return dataset


def room_for(columns: Sequence[Column], count: int, compression: str) -> int:
    """Bytes of disk to set aside for columns; none where nobody knows what will be left."""
    return 0 if compression != "none" else sum(column.row_bytes * count for column in columns)
