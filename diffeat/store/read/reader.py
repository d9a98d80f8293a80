"""The read side: lazy, sliceable, safe on files from strangers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.cells import Levels, cell_lines, pictures_text, spec_text
from diffeat.coords import Placement
from diffeat.errors import DiffeatError, SpecError, StoreError, brief, nearest
from diffeat.noise import ASKED, CLEAN_FAMILIES, NO_T, NoiseLevel
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
from diffeat.store.read.levels import StoredLevel, find_level, readable
from diffeat.store.read.view import FeatureView


class FeatureStore:
    """A finished feature file.

    `store["up.1", 20]` is a view of shape (N, …) with the manners of an h5py data set (see
    `FeatureView`): nothing is read before it is sliced, and rows may be picked in any order. t may
    be written as it was asked for ("sigma=0.3"); `store["up.1"]` is a mapping of all t of a
    block. Use it as a context manager, or call `close`.

    Args:
        path: a file written by `diffeat extract`.

    Raises:
        StoreError: missing, damaged, not ours, incomplete, or with links out of its folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.file = open_checked(path)
        self._found: dict[str, FeatureView] = {}
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

    def __repr__(self) -> str:
        if not self.file:
            return f"FeatureStore({str(self.path)!r}, closed)"
        try:
            return "\n".join([f"FeatureStore({str(self.path)!r})", *self._shown()])
        except DiffeatError as error:  # damaged; whoever reads it is told so
            return f"FeatureStore({str(self.path)!r}: {error})"

    def _shown(self) -> list[str]:
        """Pictures, model, spec and cells as lines of text."""
        first = self.timesteps[0]
        shown = [(b, self[b, first].shape, int(self[b, first].attrs["stride"]))
                 for b in self.blocks]  # fmt: skip
        asked = {one.level.t: one.asked for one in self.levels if one.asked}
        return [
            f"  {pictures_text(len(self), self.class_names)} of {self.pictures['name']}",
            *([f"  targets: {', '.join(self.targets)}"] if len(self.targets) else []),
            f"  {self.model['name']} ({self.model['family']}, {self.model['dtype']})",
            f"  {spec_text(self.spec.to_dict())}",
            *cell_lines(shown, [one.level for one in self.levels], asked),
        ]

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
        return Placement.of_numbers(self.placements[row], self.spec.size, self.sizes[row])

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
        return str(self[block, t].stored.dtype)

    @property
    def compression(self) -> str:
        """Of the features: "none", "lzf", "gzip" or "zstd"."""
        return compression_of(self[self.blocks[0], self.timesteps[0]].stored)

    def level(self, t: int | float | str) -> NoiseLevel:
        """The level that `t` means: native t, or as it was asked for, "sigma=0.3", "snr=10", …

        Raises:
            SpecError: the file was not asked for it; names the nearest that it has.
        """
        return find_level(str(self.path), self.levels, t)

    def native(self, timesteps: Sequence[int | float | str] | None) -> list[float] | None:
        """The native t of several levels (see `level`); None, for all, of None and of none."""
        return [self.level(t).t for t in timesteps] if timesteps else None

    @cached_property
    def levels(self) -> list[StoredLevel]:
        """(NoiseLevel, what was written for it or None) of every t, ascending."""
        found = []
        for t in self.timesteps:
            cells = [self[block, t].stored for block in self.blocks]
            with damage_explained(self.path, f"the attributes of t={t}"):
                asked = next((read_text(one, ASKED) for one in cells if ASKED in one.attrs), None)
                alpha, sigma = (float(cells[0].attrs[name]) for name in ("alpha", "sigma"))
            found.append(StoredLevel(NoiseLevel(t, alpha, sigma), readable(asked)))
        return found

    def __getitem__(self, key: tuple[str, int | float | str] | str) -> FeatureView | Levels:
        if isinstance(key, str):
            self._check_block(key)
            return Levels(key, self.timesteps, lambda t: self[key, t])
        name = self._name(key)
        if name not in self._found:
            self._found[name] = feature_set(self.file, self.path, name, len(self))
        return self._found[name]

    def _name(self, key: tuple[str, int | float]) -> str:
        """Name of the data set of (block, t); SpecError if the spec has no such thing."""
        if not isinstance(key, tuple) or len(key) != 2:
            raise SpecError(f"{brief(key)} is no (block, t); write store['up.1', 20]")
        block, t = key
        self._check_block(block)
        known = isinstance(t, (int, float)) and t in self.timesteps
        return feature_name(block, t if known else self.level(t).t)

    def _check_block(self, block: Any) -> None:
        """SpecError if the file has no such block."""
        if not isinstance(block, str) or block not in self.blocks:
            raise SpecError(
                f"{self.path} has no block {brief(block)}{nearest(brief(block), self.blocks)}; it "
                f"has {', '.join(self.blocks)}"
            )

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
