"""Finding a (block, t) in an open feature file, and seeing that it is what it claims."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from diffeat.errors import StoreError
from diffeat.store.format.quantize import groups, scale_name
from diffeat.store.format.safety import check_numbers, damage_explained, read_attr, read_text
from diffeat.store.read.view import FeatureView


def feature_set(file: h5py.File, path: Path, name: str, count: int) -> FeatureView:
    """The features that lie at `name`: floats as they are, int8 seen as float32.

    Args:
        file: from `open_checked`.
        path: what errors call it.
        name: features/<block>/t<t>.
        count: rows that there must be.

    Raises:
        StoreError: it is missing, or no such thing.
    """
    with damage_explained(path, name):
        if name not in file:
            raise StoreError(f"{path}: {name} is missing; make the file again")
        data = file[name]
        if not isinstance(data, h5py.Dataset) or data.dtype != np.int8:
            check_numbers(data, name, "f", (count, ...))
            return FeatureView(data)
        if read_attr(data, "quantization", 1) != "absmax":
            raise StoreError(f"{path}: {name} holds int8 without saying how; make the file again")
        check_numbers(data, name, "i", (count, None, ...))
        where, group = read_text(data, "scale"), read_attr(data, "group", 1)
        if where != scale_name(name) or where not in file:
            raise StoreError(
                f"{path}: the scales of {name} should lie in {scale_name(name)}, the file says "
                f"{where!r:.100}; make the file again"
            )
        if not isinstance(group, np.integer) or group < 1:
            raise ValueError(f"{name} has groups of {group!r}")
        scales = file[where]
        check_numbers(scales, where, "f", (count, groups(data.shape[1:], int(group))))
        if scales.dtype != np.float32:
            raise TypeError(f"{where} has type {scales.dtype}; expected float32")
        return FeatureView(data, scales, int(group))
