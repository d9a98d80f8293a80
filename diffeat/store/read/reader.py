"""The read side: lazy, sliceable, safe on files from strangers."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.coords import Placement
from diffeat.errors import SpecError, StoreError, nearest
from diffeat.noise import CLEAN_FAMILIES, NO_T, format_t
from diffeat.specs import ExtractSpec
from diffeat.store.format.columns import PICTURE_COLUMNS, feature_name
from diffeat.store.format.compress import compression_of
from diffeat.store.format.header import check_header, read_skipped, timesteps_of
from diffeat.store.format.manifest import how_of
from diffeat.store.format.safety import (
    as_text,
    check_numbers,
    damage_explained,
    open_checked,
    read_attr,
    read_text,
)
from diffeat.store.format.targets import StoredTargets
from diffeat.store.read.export import export
from diffeat.store.read.features import feature_set
from diffeat.store.read.view import QuantizedView


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
        self._pictures: dict[str, np.ndarray | None] = {}
        try:
            with damage_explained(path, "the header"):
                if not bool(read_attr(self.file, "complete", 1)):
                    raise StoreError(
                        f"{path}: not complete; run the same `diffeat extract` to finish it"
                    )
                self._count = check_header(self.file)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        self._found.clear()
        self.file.close()

    def __len__(self) -> int:
        return self._count

    @cached_property
    def ids(self) -> list[str]:
        """N picture ids."""
        with damage_explained(self.path, "ids"):
            return list(self.file["ids"].asstr()[:])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """(N,) int64 class indices, -1 where a picture has none; or None."""
        with damage_explained(self.path, "labels"):
            return self.file["labels"][:] if "labels" in self.file else None

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, by index; empty without labels."""
        if "labels" not in self.file:
            return []
        return [as_text(name) for name in self.file["labels"].attrs["names"]]

    @cached_property
    def targets(self) -> StoredTargets:
        """Further targets by name (`TargetColumn`: kind, names, values); none in older files."""
        with damage_explained(self.path, "targets"):
            return StoredTargets(self.file, self.path)

    @property
    def boxes(self) -> np.ndarray | None:
        """(N, 4) top, left, height, width in input pixels of what shows the picture.

        Only of padded pictures, else None; `diffeat.images.real_mask` makes masks of them.
        """
        return self.picture_column("boxes")

    @property
    def sizes(self) -> np.ndarray | None:
        """(N, 2) int32, H, W in pixels of each picture as decoded and upright; None in older
        files."""
        return self.picture_column("sizes")

    @property
    def placements(self) -> np.ndarray | None:
        """(N, 4) float64, sx, tx, sy, ty of each input (`diffeat.coords`); None in older files."""
        return self.picture_column("placements")

    def placement(self, row: int) -> Placement:
        """Where the input of one row lies in its picture.

        Raises:
            StoreError: the file is from before 0.8, which did not note it.
        """
        if self.sizes is None or self.placements is None:
            raise StoreError(
                f"{self.path}: where inputs lie in their pictures (/sizes, /placements) is not "
                "known, as in files from before 0.8; extract it again (--overwrite)"
            )
        numbers, picture = self.placements[row], self.sizes[row]
        # with fit "native" each input has a size of its own and shows the whole picture
        size = self.spec.size or np.rint(picture * np.abs(numbers[[2, 0]]))
        return Placement.of_numbers(numbers, size, picture)

    @property
    def digests(self) -> np.ndarray | None:
        """(N, 16) uint8, BLAKE2b-128 of each picture's own bytes; None in older files."""
        return self.picture_column("digests")

    @property
    def file_stats(self) -> np.ndarray | None:
        """(N, 4) int64, stat of each picture's file (`diffeat.images.STAT`), zeros if unknown."""
        return self.picture_column("file_stats")

    def picture_column(self, name: str) -> np.ndarray | None:
        """(N, …) values of a column of PICTURE_COLUMNS; None where the file has none."""
        if name not in self._pictures:
            with damage_explained(self.path, name):
                self._pictures[name] = self._read_column(name) if name in self.file else None
        return self._pictures[name]

    def _read_column(self, name: str) -> np.ndarray:
        known, data = PICTURE_COLUMNS[name], self.file[name]
        dtype = np.dtype(known["dtype"])
        kinds = "f" if dtype.kind == "f" else "iu"
        check_numbers(data, name, kinds, (len(self), *known["shape"]))
        if data.dtype != dtype:
            raise TypeError(f"{name} has type {data.dtype}; expected {dtype}")
        return data[:]

    @cached_property
    def skipped(self) -> dict[str, str]:
        """id → reason of the pictures that were left out."""
        with damage_explained(self.path, "skipped"):
            return read_skipped(self.file)

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
        return timesteps_of(self.file, self.spec)

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
        return feature_name(block, t)

    def torch_dataset(self, block: str, t: int | float):
        """A map-style torch dataset of (feature (…) float32, label int64 or -1).

        It may be pickled; every worker process opens the file for itself. Batches of a
        DataLoader are read together, in the order of the file, so shuffled ones are fast too.
        """
        # torch takes a second to import, and reading features needs none of it
        from diffeat.store.read.torch_data import FeatureDataset

        self[block, t]  # so that a wrong name is found here and not in a worker
        return FeatureDataset(self.path, block, t, self.labels, len(self))

    def export(self, path: str | Path, **options: Any) -> Path:
        """Write the features as .npz or .zarr; see `diffeat.store.read.export.export`."""
        return export(self, path, **options)
