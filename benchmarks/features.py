"""What a recipe is measured on: feature files, made where they are missing, and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

import diffeat
from benchmarks.machine import say
from benchmarks.recipes import Recipe
from diffeat.backbones import Backbone
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Source, fit_picture
from diffeat.search import Task
from diffeat.search.tasks import CellKey
from diffeat.store import FeatureStore

if TYPE_CHECKING:
    from diffeat.vision import VisionModel

MOST_PIXELS = 32
"""Side of the pictures whose raw pixels are a baseline."""


class Pictures:
    """The sources of a recipe: one that is split, or training and test.

    Attributes:
        sources: with the recipe's limits.
        keys: hash of each source; contents of files are read for it.
    """

    def __init__(self, recipe: Recipe):
        wanted = [(recipe.train, recipe.train_limit), (recipe.test, recipe.test_limit)]
        opened = [(diffeat.open_source(name), limit) for name, limit in wanted if name]
        self.sources = [source.limit(limit) if limit else source for source, limit in opened]

    @cached_property
    def keys(self) -> list[str]:
        return [source.fingerprint() for source in self.sources]

    @property
    def ids(self) -> list[str]:
        return [name for source in self.sources for name in source.ids]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def source_of(self, rows: np.ndarray) -> Source:
        """Pictures of one part: (N,) bool over all of them, True within one source only.

        Raises:
            SpecError: rows of both sources, or none.
        """
        ends = np.cumsum([len(source) for source in self.sources])
        found = np.split(rows, ends[:-1])
        chosen = [k for k, mine in enumerate(found) if mine.any()]
        if len(chosen) != 1:
            raise SpecError(f"rows of {len(chosen)} sources; expected those of one")
        return self.sources[chosen[0]].take(np.flatnonzero(found[chosen[0]]))


@contextmanager
def feature_files(
    backbone: Backbone,
    pictures: Pictures,
    fields: dict[str, Any],
    folder: Path,
    processes: int | None = None,
) -> Iterator[list[FeatureStore]]:
    """Feature files of pictures, opened for reading; what is missing is extracted.

    A file's name hashes model, spec and pictures, so recipes that ask for the same share it.

    Args:
        fields: of the ExtractSpec.
        processes: copies of the model, as for `diffeat.extract_to_file`.
    """
    spec = diffeat.ExtractSpec.from_dict(fields)
    with ExitStack() as stack:
        stores = []
        for source, key in zip(pictures.sources, pictures.keys, strict=True):
            mark = fingerprint(spec.to_dict(), backbone.fingerprint, key)[:8]
            file = folder / f"{_plain(backbone.name)}-{_plain(source.name)}-{mark}.h5"
            say(f"{backbone.name}: {len(source)} pictures of {source.name} → {file.name}")
            diffeat.extract_to_file(backbone, source, spec, file, processes=processes)
            stores.append(stack.enter_context(FeatureStore(file)))
        yield stores


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._@-" else "-" for letter in name)


def averaged_task(stored: Task, store: FeatureStore, pool: str) -> Task:
    """The cells of feature files, maps averaged to `pool`; "" takes them whole.

    Args:
        stored: the task of the files.
        store: any of them, for the channels.
    """
    if not pool:
        return stored
    side = square_side(pool)
    return replace(
        stored, identity=fingerprint(stored.identity, "averaged", side),
        read=lambda block, t: averaged(as_maps(stored.read(block, t), store, (block, t)), side),
    )  # fmt: skip


def pixel_task(pictures: Pictures, like: Task, spec: dict[str, Any]) -> Task:
    """The same pictures and parts with the pixels that the model sees as features.

    Pictures of more than 32×32 pixels are brought to that size, or a baseline of them would
    take more memory than any model.
    """
    size = tuple(min(side, MOST_PIXELS) for side in spec["size"])
    pixels = np.empty((len(pictures), 3, *size), np.uint8)
    rows = iter(pixels)
    for source in pictures.sources:
        for index in range(len(source)):
            next(rows)[:] = fit_picture(source.load(index), size, spec["fit"], spec["resample"])
    identity = fingerprint("pixels", pictures.keys, size, spec["fit"], spec["resample"])
    name = (
        "raw pixels" if list(size) == list(spec["size"]) else f"raw pixels at {size[0]}×{size[1]}"
    )
    return _one_cell(like, name, "pixels", pixels, identity)


def vision_task(model: VisionModel, pictures: Pictures, like: Task, folder: Path) -> Task:
    """The same pictures and parts with the pooled features of another vision model."""
    found = []
    for source, key in zip(pictures.sources, pictures.keys, strict=True):
        mark = fingerprint(model.fingerprint, key)[:8]
        keep = folder / f"{_plain(model.name)}-{_plain(source.name)}-{mark}.safetensors"
        found.append(model.features(source, keep=keep))
    identity = fingerprint("vision", model.fingerprint, pictures.keys)
    return _one_cell(like, model.name, "pooled", np.concatenate(found), identity)


def _one_cell(like: Task, name: str, block: str, values: np.ndarray, identity: str) -> Task:
    """Other features of the pictures of a task, in a single cell."""
    return replace(
        like, name=name, cells=((block, 0),), read=lambda block, t: values, identity=identity,
        together=(), conditioned="",
    )  # fmt: skip


class Changed:
    """(N, …) rows that are changed as they are read.

    Args:
        values: (N, …) array, or anything whose slices are arrays.
        shape: of a changed row.
        change: (n, …) rows → (n, *shape).
    """

    def __init__(self, values: Any, shape: tuple[int, ...], change: Callable):
        self.values, self.change = values, change
        self.shape = (int(values.shape[0]), *shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.change(np.asarray(self.values[rows]))


def as_maps(values: Any, store: FeatureStore, cell: CellKey) -> Any:
    """(N, C, h, w) of a cell that is stored as maps, or pooled to a k×k grid and flattened."""
    if len(values.shape) == 4:
        return values
    channels = int(store[cell].attrs["channels"])
    side = math.isqrt(values.shape[1] // channels)
    if len(values.shape) != 2 or channels * side**2 != values.shape[1]:
        raise SpecError(f"{cell[0]!r} has rows of shape {tuple(values.shape[1:])}; expected maps")
    shape = (channels, side, side)
    return Changed(values, shape, lambda rows: rows.reshape(len(rows), *shape))


def averaged(maps: Any, side: int) -> Changed:
    """(N, C·side·side) float32 of (N, C, h, w), channel-major as in a feature file."""
    channels = maps.shape[1]

    def change(rows: np.ndarray) -> np.ndarray:
        pooled = adaptive_avg_pool2d(torch.from_numpy(rows.astype(np.float32)), side)
        return pooled.flatten(1).numpy()

    return Changed(maps, (channels * side**2,), change)


def square_side(pool: str) -> int:
    """2 of "2x2"."""
    side, _, other = pool.partition("x")
    if not side.isdigit() or side != other:
        raise SpecError(f"probe_pool {pool!r}; expected a square such as 1x1 or 2x2")
    return int(side)
