"""The rows of a finished feature file that a growing one takes on, with the manners of a shard."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

from diffeat.images import Seen, Source
from diffeat.store.format.checksums import check_lists, checked_blocks
from diffeat.store.format.columns import Column
from diffeat.store.format.layout import stored
from diffeat.store.format.manifest import Manifest
from diffeat.store.format.safety import damage_explained
from diffeat.store.read.reader import FeatureStore
from diffeat.store.write.growth import Base

OF_TODAY = "file_stats"
"""Of pictures whose bytes are the same, what is known of their files is what was seen last."""


class HeldRows:
    """All rows of a finished file; a context manager that first compares all its checksums.

    `self[name]` is a data set as shards have it, the features' own ones as they lie in the file;
    labels and targets are those of today.

    Args:
        base: which file, and where its rows go.
        source: the job's.
        columns: the data sets of the file in the end.
        seen: the job's.

    Attributes:
        path: the finished file.
        manifest: what it is made of.

    Raises:
        StoreError: it is damaged.
    """

    def __init__(self, base: Base, source: Source, columns: Sequence[Column], seen: Seen | None):
        self.path, self.columns = base.path, list(columns)
        self._store = FeatureStore(self.path)
        place = base.places
        self._known: dict[str, np.ndarray] = {
            "index": place,
            "skipped_index": np.empty(0, np.int64),
        }
        if source.labels is not None:
            self._known["labels"] = np.asarray(source.labels)[place].astype(np.int64)
        for name, column in source.targets.items():
            self._known[f"targets/{name}"] = column.take(place).values
        if seen is not None and seen.stats is not None:
            self._known[OF_TODAY] = seen.stats[place]
        self.manifest = Manifest.from_attrs(self._store.file)

    def __enter__(self) -> HeldRows:
        with damage_explained(self.path, "its rows"):
            check_lists(self._store.file)
            for column in stored(self.columns):
                self._check(column)
            self._known["ids"] = self._store.file["ids"][:]
        return self

    def __exit__(self, *exc) -> None:
        self._store.close()

    def __getitem__(self, name: str) -> h5py.Dataset | np.ndarray:
        return self._known[name] if name in self._known else self._store.file[name]

    def _check(self, column: Column) -> None:
        """Shape, type and checksum of a data set."""
        data, shape = self[column.name], (len(self._store), *column.shape)
        if data.shape != shape or data.dtype != np.dtype(column.dtype):
            raise ValueError(f"{column.name} is {data.shape} {data.dtype}; expected {shape}")
        if isinstance(data, h5py.Dataset):
            for _ in checked_blocks(data):
                pass
