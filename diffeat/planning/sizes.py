"""How large a feature file becomes, from its columns alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffeat.images import Source
from diffeat.store import Column, picture_column
from diffeat.store.format.columns import PICTURE_COLUMNS
from diffeat.store.format.layout import stored
from diffeat.work import BOXES, DIGESTS, PLACEMENTS, SIZES, STATS

HEADER_BYTES, FEATURE_BYTES, SCALE_BYTES = 6_800, 2_560, 450
"""Of a file: its description and what is said of pictures; of a feature and of an int8 one's
scales: header, attributes and checksum. Measured."""
TEXT_BYTES = 32
"""Of a text beside its own bytes, in multiples of 8: where it lies, and its place in the heap."""
LABEL_BYTES = 8


def data_bytes(columns: Sequence[Column], count: int) -> int:
    """Numbers of `count` rows of columns, int8 with its scales, uncompressed."""
    return count * sum(column.row_bytes for column in stored(columns))


def ids_bytes(source: Source) -> int:
    """The pictures' names and labels."""
    texts = sum(TEXT_BYTES + 8 * math.ceil(len(name.encode()) / 8) for name in source.ids)
    return texts + (0 if source.labels is None else LABEL_BYTES * len(source))


def file_bytes(columns: Sequence[Column], source: Source) -> int:
    """A finished file without compression, to within some per cent."""
    features = [column for column in columns if column.name not in PICTURE_COLUMNS]
    scaled = sum(column.dtype == "int8" for column in features)
    about = HEADER_BYTES + FEATURE_BYTES * len(features) + SCALE_BYTES * scaled
    return about + ids_bytes(source) + data_bytes(columns, len(source))


def picture_columns(source: Source, fit: str) -> list[Column]:
    """What a new file holds of the pictures beside the features."""
    names = [BOXES] if fit == "pad" else []
    names += [SIZES, PLACEMENTS]
    if source.reading > 1:
        names.append(DIGESTS)
        if source.take([0]).stats() is not None:
            names.append(STATS)
    return [picture_column(name) for name in names]


def pooled_bytes(columns: Sequence[Column], count: int) -> int:
    """Numbers of the same features averaged to one vector each, in float16."""
    features = [column for column in columns if column.name not in PICTURE_COLUMNS]
    return 2 * count * sum(column.shape[0] for column in features)
