"""A feature file as a torch dataset; apart, because reading features needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from diffeat.store.format.columns import feature_name
from diffeat.store.format.quantize import dequantize
from diffeat.store.format.safety import damage_explained, open_checked
from diffeat.store.read.features import feature_set
from diffeat.store.read.rows import RowReader

CACHE_BYTES = 64 << 20
"""Unpacked chunks that every process keeps, of compressed files."""


class FeatureDataset(Dataset):
    """One (block, t) of a feature file; every worker process opens the file for itself.

    Items are (feature float32 tensor, label int); the label is -1 where there is none. A
    DataLoader asks for a batch at once: its rows are read in the order of the file, each once,
    and given in the order asked for.
    """

    def __init__(self, path: Path, block: str, t: float, labels: np.ndarray | None, count: int):
        self.path, self.name = path, feature_name(block, t)
        self.labels, self.count = labels, count
        self._readers: list[RowReader] | None = None
        self._process, self._group = 0, 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        """Several items, each of which is read once."""
        rows = np.array([self._row(index) for index in indices], np.int64)
        wanted, back = np.unique(rows, return_inverse=True)
        with damage_explained(self.path, self.name):
            readers = self._opened()
            values = readers[0].read(wanted)
            if len(readers) > 1:
                values = dequantize(values, readers[1].read(wanted), self._group)
        values = torch.from_numpy(values.astype(np.float32, copy=False))
        return [(values[k], self._label(row)) for k, row in zip(back, rows, strict=True)]

    def _row(self, index: int) -> int:
        if not -self.count <= index < self.count:
            raise IndexError(index)
        return int(index) % self.count

    def _label(self, row: int) -> int:
        return -1 if self.labels is None else int(self.labels[row])

    def _opened(self) -> list[RowReader]:
        """Readers of the rows and, for int8, of their scales.

        Opened by this very process: HDF5 does not survive a fork.
        """
        if self._readers is None or self._process != os.getpid():
            file = open_checked(self.path, CACHE_BYTES)
            data = feature_set(file, self.path, self.name, self.count)
            parts = [data.stored] if data.scales is None else [data.stored, data.scales]
            self._group = data.group
            self._readers, self._process = [RowReader(part) for part in parts], os.getpid()
        return self._readers

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_readers": None}
