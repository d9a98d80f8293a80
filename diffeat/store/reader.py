"""The read side: lazy, sliceable, safe on files from strangers."""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.errors import SpecError, StoreError, nearest
from diffeat.noise import CLEAN_FAMILIES, NO_T, format_t, plain_t
from diffeat.specs import ExtractSpec
from diffeat.store.compress import compression_of
from diffeat.store.features import feature_set
from diffeat.store.request import PICTURE_COLUMNS, check_block, how_of
from diffeat.store.safety import (
    as_text,
    check_numbers,
    check_texts,
    damage_explained,
    open_checked,
    read_attr,
    read_text,
)
from diffeat.store.view import QuantizedView


class FeatureStore:
    """A finished feature file.

    `store["up.1", 20]` is an h5py data set of shape (N, …), or for features in int8 a view with
    the same manners: nothing is read before it is sliced. Use it as a context manager, or call
    `close`.

    Args:
        path: a file written by `diffeat extract`.

    Raises:
        StoreError: missing, damaged, not ours, incomplete, or with links out of its folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.file = open_checked(path)
        self._found: dict[str, h5py.Dataset | QuantizedView] = {}
        try:
            with damage_explained(path, "the header"):
                if not bool(read_attr(self.file, "complete", 1)):
                    raise StoreError(
                        f"{path}: not complete; run the same `diffeat extract` to finish it"
                    )
                self._check_header()
        except BaseException:
            self.file.close()
            raise

    def _check_header(self) -> None:
        """Types and lengths of all but the features; h5py reads nothing large for it."""
        file = self.file
        count = check_texts(file, "ids")
        if "labels" in file:
            check_numbers(file["labels"], "labels", "i", (count,))
            list(map(as_text, read_attr(file["labels"], "names")))
        if (
            "skipped" in file
            and len({check_texts(file, f"skipped/{name}") for name in ("ids", "reasons")}) != 1
        ):
            raise ValueError("as many skipped ids as reasons were expected")
        if not isinstance(file["features"], h5py.Group):
            raise TypeError("features is no group")
        texts = {name: read_text(file, name) for name in ("spec", "model", "pictures")}
        read_text(file, "fingerprint")
        if not all(isinstance(json.loads(text), dict) for text in texts.values()):
            raise TypeError("spec, model and pictures must be JSON objects")
        if not all(isinstance(block, str) for block in self.spec.blocks):
            raise TypeError("the spec's blocks must be names")
        for block in self.spec.blocks:
            check_block(block)
        steps = [*self.spec.timesteps, *self.timesteps]
        if not self.timesteps or not all(math.isfinite(step) for step in steps):
            raise ValueError("no noise level, or one that is not finite")

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        self._found.clear()
        self.file.close()

    def __len__(self) -> int:
        return len(self.file["ids"])

    @cached_property
    def ids(self) -> list[str]:
        """N picture ids."""
        with damage_explained(self.path, "ids"):
            return list(self.file["ids"].asstr()[:])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """(N,) int64 class indices, or None."""
        with damage_explained(self.path, "labels"):
            return self.file["labels"][:] if "labels" in self.file else None

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, by index; empty without labels."""
        if "labels" not in self.file:
            return []
        return [as_text(name) for name in self.file["labels"].attrs["names"]]

    @cached_property
    def boxes(self) -> np.ndarray | None:
        """(N, 4) top, left, height, width in input pixels of what shows the picture.

        Only of padded pictures, else None; `diffeat.images.real_mask` makes masks of them.
        """
        with damage_explained(self.path, "boxes"):
            if "boxes" not in self.file:
                return None
            check_numbers(self.file["boxes"], "boxes", "iu", (len(self), 4))
            return self.file["boxes"][:]

    @cached_property
    def digests(self) -> np.ndarray | None:
        """(N, 16) uint8, BLAKE2b-128 of each picture's own bytes; None in older files."""
        return self._picture_column("digests", "uint8")

    @cached_property
    def file_stats(self) -> np.ndarray | None:
        """(N, 4) int64, stat of each picture's file (`diffeat.images.STAT`), zeros if unknown."""
        return self._picture_column("file_stats", "int64")

    def _picture_column(self, name: str, dtype: str) -> np.ndarray | None:
        with damage_explained(self.path, name):
            if name not in self.file:
                return None
            data = self.file[name]
            check_numbers(data, name, "iu", (len(self), *PICTURE_COLUMNS[name][0]))
            if data.dtype != np.dtype(dtype):
                raise TypeError(f"{name} has type {data.dtype}; expected {dtype}")
            return data[:]

    @cached_property
    def skipped(self) -> dict[str, str]:
        """id → reason of the pictures that were left out."""
        if "skipped" not in self.file:
            return {}
        with damage_explained(self.path, "skipped"):
            group = self.file["skipped"]
            return dict(zip(group["ids"].asstr()[:], group["reasons"].asstr()[:], strict=True))

    @cached_property
    def spec(self) -> ExtractSpec:
        return ExtractSpec.from_json(read_text(self.file, "spec"))

    @cached_property
    def model(self) -> dict[str, Any]:
        """What is known of the model: name, family, fingerprint, dtype."""
        return json.loads(read_text(self.file, "model"))

    @cached_property
    def pictures(self) -> dict[str, Any]:
        """What is known of the pictures: the source as it was typed, count, fingerprint."""
        return json.loads(read_text(self.file, "pictures"))

    @cached_property
    def how(self) -> dict[str, Any]:
        """What changes the last bits at most: device, batch size, …; {} in older files."""
        with damage_explained(self.path, "how it was made"):
            return how_of(self.file)

    @property
    def fingerprint(self) -> str:
        return read_text(self.file, "fingerprint")

    @cached_property
    def blocks(self) -> list[str]:
        """Block names in the order of execution."""
        return list(self.spec.blocks)

    @cached_property
    def timesteps(self) -> list[int | float]:
        """Native timesteps, ascending; of a vision model, which has none, `NO_T`."""
        if self.model.get("family") in CLEAN_FAMILIES:
            return [NO_T]
        steps = read_attr(self.file["features"], "timesteps")
        steps = self.spec.timesteps if steps is None else steps
        return sorted(plain_t(step) for step in np.asarray(steps).reshape(-1))

    def stored_dtype(self, block: str, t: int | float) -> str:
        """Precision in the file: "float16", "float32" or "int8"."""
        data = self[block, t]
        return str(data.quantized.dtype if isinstance(data, QuantizedView) else data.dtype)

    @property
    def compression(self) -> str:
        """Of the features: "none", "lzf", "gzip" or "zstd"."""
        data = self[self.blocks[0], self.timesteps[0]]
        return compression_of(data.quantized if isinstance(data, QuantizedView) else data)

    def __getitem__(self, key: tuple[str, int | float]) -> h5py.Dataset | QuantizedView:
        name = self._name(key)
        if name not in self._found:
            self._found[name] = feature_set(self.file, self.path, name, len(self))
        return self._found[name]

    def _name(self, key: tuple[str, int | float]) -> str:
        """Name of the data set of (block, t); SpecError if the spec has no such thing."""
        if not isinstance(key, tuple) or len(key) != 2:
            raise SpecError(f"{key!r} is no (block, t); write store['up.1', 20]")
        block, t = key
        if block not in self.blocks:
            raise SpecError(
                f"{self.path} has no block {block!r}{nearest(str(block), self.blocks)}; it has "
                f"{', '.join(self.blocks)}"
            )
        if t not in self.timesteps:
            have = ", ".join(format_t(step) for step in self.timesteps)
            raise SpecError(f"{self.path} has no t={t}; it has {have}")
        return f"features/{block}/t{format_t(t)}"

    def torch_dataset(self, block: str, t: int | float):
        """A map-style torch dataset of (feature (…) float32, label int64 or -1).

        It may be pickled; every worker process opens the file for itself. Batches of a
        DataLoader are read together, in the order of the file, so shuffled ones are fast too.
        """
        from diffeat.store.torch_data import FeatureDataset

        self[block, t]  # so that a wrong name is found here and not in a worker
        return FeatureDataset(self.path, block, t, self.labels, len(self))

    def export(self, path: str | Path, **options: Any) -> Path:
        """Write the features as .npz or .zarr; see `diffeat.store.export.export`."""
        from diffeat.store.export import export

        return export(self, path, **options)
