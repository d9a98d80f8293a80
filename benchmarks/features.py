"""What features are measured on: pictures, and feature files, made where they are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

import diffeat
from benchmarks.files import FeatureBenchmark
from benchmarks.searching import CellKey, CellTask, changed
from diffeat.backbones import Backbone
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.noise import format_t
from diffeat.progress import say
from diffeat.store import FeatureStore
from diffeat.targets import labelled, open_targets
from diffeat.viz import agreement, feature_sheet, pca_rgb
from diffeat.viz.maps import STATIC


@dataclass(frozen=True)
class Pictures:
    """The sources of a benchmark: one that is split, or training and test.

    Attributes:
        sources: with the benchmark's limits.
        groups: of each source what its pictures belong to; None is themselves.
        keys: hash of each source; contents of files are read for it.
    """

    sources: tuple[Source, ...]
    groups: tuple[tuple[str, ...], ...] | None = None

    @classmethod
    def open(cls, benchmark: FeatureBenchmark) -> Pictures:
        """The pictures that a benchmark file names, with the labels of its table."""
        wanted = [(benchmark.train, benchmark.train_limit), (benchmark.test, benchmark.test_limit)]
        opened = [(diffeat.open_source(name), limit) for name, limit in wanted if name]
        if not benchmark.labels:
            return cls(tuple(_limited(source, limit) for source, limit in opened))
        targets = open_targets(benchmark.labels, groups=benchmark.groups or None)
        sources = [_limited(labelled(source, targets)[0], limit) for source, limit in opened]
        groups = [targets.groups(source.ids) for source in sources]
        return cls(tuple(sources), None if None in groups else tuple(groups))

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


def _limited(source: Source, limit: int | None) -> Source:
    return source.limit(limit) if limit else source


@contextmanager
def feature_files(
    backbone: Backbone,
    pictures: Pictures,
    fields: dict[str, Any],
    folder: Path,
    processes: int | None = None,
) -> Iterator[list[FeatureStore]]:
    """Feature files of pictures, opened for reading; what is missing is extracted.

    A file's name hashes model, spec and pictures, so benchmarks that ask for the same share it.

    Args:
        fields: of the ExtractSpec.
        processes: copies of the model, as for `diffeat.extract_to_file`.
    """
    spec = diffeat.ExtractSpec.from_dict(fields)
    with ExitStack() as stack:
        stores = []
        for source, key in zip(pictures.sources, pictures.keys, strict=True):
            mark = fingerprint(spec.to_dict(), backbone.fingerprint, key)[:8]
            file = folder / file_name(backbone.name, source.name, mark, ".h5")
            say(f"{backbone.name}: {len(source)} pictures of {source.name} → {file.name}")
            diffeat.extract_to_file(backbone, source, spec, file, processes=processes)
            stores.append(stack.enter_context(FeatureStore(file)))
        yield stores


def file_name(model: str, pictures: str, mark: str, suffix: str) -> str:
    """Of features that are kept: letters that are safe in names of files, and a hash."""
    plain = (
        "".join(letter if letter.isalnum() or letter in "._@-" else "-" for letter in name)
        for name in (model, pictures)
    )
    return f"{'-'.join(plain)}-{mark}{suffix}"


def averaged_task(stored: CellTask, store: FeatureStore, pool: str) -> CellTask:
    """The cells of feature files, maps averaged to `pool`; "" takes them whole.

    Args:
        stored: the task of the files.
        store: any of them, for the channels.
    """
    if not pool:
        return stored
    side = square_side(pool)
    return changed(
        stored, fingerprint(stored.identity, "averaged", side),
        lambda block, t: averaged(as_maps(stored.read(block, t), store, (block, t)), side),
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


def show_maps(backbone: Backbone, view: dict[str, Any], path: Path) -> None:
    """A picture of feature maps, a line for each t; blocks that show static alone are left out.

    Args:
        view: of a benchmark file: pictures, blocks, timesteps, size.
        path: the PNG.
    """
    source = diffeat.open_source(view["pictures"])
    spec = diffeat.ExtractSpec(
        timesteps=view["timesteps"], blocks=view["blocks"], size=view["size"]
    )
    pictures = [source.load(index) for index in range(len(source))]
    features = diffeat.extract(backbone, pictures, spec, ids=source.ids)
    maps = {
        (block.name, level.t): features[block.name, level.t].float().numpy()
        for level in features.levels
        for block in features.blocks
    }
    names = [block.name for block in features.blocks]
    shown = [name for name in names if not _static(maps, name)] or names
    if left_out := ", ".join(name for name in names if name not in shown):
        say(f"{path.name} is without {left_out}, which shows static")
    columns = {
        f"{block}, t={format_t(t)}": one for (block, t), one in maps.items() if block in shown
    }
    feature_sheet(
        [np.asarray(picture) for picture in pictures], columns, source.ids, path,
        title=f"feature maps of {backbone.name}", across=len(shown), side=240,
    )  # fmt: skip


def _static(maps: dict[CellKey, np.ndarray], block: str) -> bool:
    """Whether neighbouring cells of a block have little to do with each other at some t."""
    found = [agreement(pca_rgb(one)) for (name, _), one in maps.items() if name == block]
    return min(found) < STATIC
