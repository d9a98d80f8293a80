"""A feature file as a torch dataset; apart, because reading features needs no torch."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

from diffeat.noise import format_t
from diffeat.store.safety import damage_explained, open_checked


class FeatureDataset(Dataset):
    """One (block, t) of a feature file; every worker process opens the file for itself.

    Items are (feature float32 tensor, label int); the label is -1 where there is none.
    """

    def __init__(self, path: Path, block: str, t: float, labels: np.ndarray | None, count: int):
        self.path, self.name = path, f"features/{block}/t{format_t(t)}"
        self.labels, self.count = labels, count
        self._file: h5py.File | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not -self.count <= index < self.count:
            raise IndexError(index)
        with damage_explained(self.path, self.name):
            if self._file is None:
                self._file = open_checked(self.path)
            value = torch.from_numpy(np.asarray(self._file[self.name][index], dtype=np.float32))
        return value, -1 if self.labels is None else int(self.labels[index])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}
