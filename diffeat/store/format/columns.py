"""Data sets with a row per picture: features, and what is known of the pictures themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.images import STAT
from diffeat.noise import format_t

DTYPES = ("float16", "float32", "int32", "int8")
"""Of features."""
LIST_LENGTH, TEXT_BYTES = 1 << 12, 1 << 14
"""Of an attribute."""
ROW_BYTES = 1 << 32
"""No feature of one picture is larger."""
WHEN = "when"
"""Attribute of /file_stats: ns since 1970, when they were taken."""

PICTURE_COLUMNS: dict[str, dict[str, Any]] = {
    # of padded pictures alone, so of all files that can be joined, or of none
    "boxes": {
        "shape": (4,), "dtype": "int32", "lacking": "refuse", "compared": True, "exported": True,
        "what": "top, left, height, width in pixels of what shows the picture",
    },
    # from version 0.8, as are placements, which follow from them and the spec
    "sizes": {
        "shape": (2,), "dtype": "int32", "lacking": "drop", "compared": True, "exported": True,
        "what": "H, W in pixels of each picture as decoded and upright",
    },
    "placements": {
        "shape": (4,), "dtype": "float64", "lacking": "drop", "compared": False, "exported": True,
        "what": "sx, tx, sy, ty: picture pixel x lies at input sx*(x+.5)+tx-.5",
    },
    # from version 0.7; `reading` and `fingerprint` say whether the contents are the same
    "digests": {
        "shape": (16,), "dtype": "uint8", "lacking": "drop", "compared": False, "exported": True,
        "what": "BLAKE2b-128 of each picture's own bytes",
    },
    # from version 0.7, where pictures lie in files; of this disk, so of no use elsewhere
    "file_stats": {
        "shape": (4,), "dtype": "int64", "lacking": "drop", "compared": False, "exported": False,
        "what": f"{', '.join(STAT)} of each picture's file; zeros where not known",
    },
}  # fmt: skip
"""Data sets beside the features, in the order of the file; each need not be there.

shape, dtype: of one picture's row.
lacking: where some of the files that are joined have none: "refuse", or "drop" it with a warning.
compared: whether files that are joined must agree in it on the same pictures.
exported: whether .npz and .zarr hold it.
what: its attribute of this name, for people.
"""


@dataclass(frozen=True)
class Column:
    """A data set with a row per picture.

    Attributes:
        name: its path in the file.
        shape: of one picture's row.
        dtype: "float16", "float32" or "int8" of features, whose int8 values are handed over as
            float32 and quantised when they are written; else as in PICTURE_COLUMNS.
        attrs: its attributes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    attrs: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(side) for side in self.shape))

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def picture_column(name: str, **attrs: Any) -> Column:
    """The column of PICTURE_COLUMNS, with further attributes."""
    known = PICTURE_COLUMNS[name]
    return Column(name, known["shape"], known["dtype"], {"what": known["what"], **attrs})


def feature_name(block: str, t: float) -> str:
    """Where the features of (block, t) lie: features/<block>/t<t>."""
    return f"features/{block}/t{format_t(t)}"


def check_column(column: Column) -> None:
    """ValueError unless a column is one that diffeat could have asked for."""
    if column.name in PICTURE_COLUMNS:
        known = PICTURE_COLUMNS[column.name]
        if (column.shape, column.dtype) != (known["shape"], known["dtype"]):
            raise ValueError(f"{column.name} has rows {column.shape} of {column.dtype}")
    else:
        _check_feature(column)
    sides = column.shape
    if not sides or min(sides) < 1 or math.prod(sides) > ROW_BYTES // 4:
        raise ValueError(f"{column.name} has rows of shape {sides}")
    for name, value in table(column.attrs).items():
        if not storable(name) or not storable(value):
            raise TypeError(f"{column.name}: attribute {name!r:.100} is {value!r:.100}")


def _check_feature(column: Column) -> None:
    parts = column.name.split("/")
    if len(parts) != 3 or parts[0] != "features" or not re.fullmatch("t[-+.e0-9]+", parts[2]):
        raise ValueError(f"{column.name!r} is no name of a data set of features")
    check_block(parts[1])
    t = table(column.attrs).get("t")
    if type(t) not in (int, float) or not math.isfinite(t) or parts[2] != f"t{format_t(t)}":
        raise ValueError(f"{column.name} says that it is of t={t!r:.100}")
    if column.dtype not in DTYPES:
        raise ValueError(f"{column.name} has dtype {column.dtype!r}")


def check_block(name: str) -> None:
    """ValueError unless the name of a block is one step of a path, that leads down."""
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r:.100} is no name of a block")


def storable(value: Any) -> bool:
    """Whether HDF5 takes it as an attribute, or as the name of one: no NUL, no mixed list."""
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        plain = len(kinds) == 1 and kinds <= {int, float}
        return plain and len(value) <= LIST_LENGTH and all(map(storable, value))
    if isinstance(value, str):
        with suppress(UnicodeEncodeError):
            return 0 < len(value.encode()) <= TEXT_BYTES and "\0" not in value
        return False
    return isinstance(value, (bool, float)) or (type(value) is int and abs(value) < 1 << 63)


def table(value: Any) -> dict[str, Any]:
    """A JSON object as a dict; TypeError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.100} is no table of fields")
    return dict(value)
