"""A file's feature maps as colours beside the pictures that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffeat.errors import SpecError
from diffeat.images import fit_picture
from diffeat.noise import shown_t
from diffeat.store import FeatureStore, find_originals
from diffeat.viz import feature_sheet


def view_maps(
    store: FeatureStore,
    path: str | Path,
    pictures: int | Sequence[str] = 4,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[str] | None = None,
    where: str | None = None,
) -> list[str]:
    """Write a picture: a row per picture of the file, the original, then each cell in colours.

    Args:
        store: a file of maps.
        path: the picture; its suffix says the format.
        pictures: how many of the first, or which, by id.
        blocks: only these.
        timesteps: only these t, in any form that `FeatureStore.level` takes.
        where: where the originals lie; by default where the file says, if that is a named data
            set, below the current folder, or near the file.

    Returns:
        The blocks that were left out, because they hold text tokens.

    Raises:
        SpecError: something that is not in the file, or has no picture.
        SourceError, StoreError: the originals cannot be found.
    """
    rows = choose_rows(store.ids, pictures)
    maps, left_out = read_maps(store, rows, blocks, timesteps)
    names = [store.ids[row] for row in rows]
    title = f"{store.model['name']}: {Path(store.path).name}"
    feature_sheet(originals(store, names, where), maps, names, path, title=title)
    return left_out


def choose_rows(ids: Sequence[str], pictures: int | Sequence[str]) -> list[int]:
    """Rows of the first so many pictures, or of those that are named."""
    if isinstance(pictures, int):
        return list(range(min(pictures, len(ids))))
    index = {name: row for row, name in enumerate(ids)}
    missing = [name for name in pictures if name not in index]
    if missing:
        raise SpecError(f"no picture {missing[0]!r} in the file; ids look like {ids[0]!r}")
    return [index[name] for name in pictures]


def read_maps(
    store: FeatureStore,
    rows: Sequence[int],
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[str] | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Heading → (n, C, h, w) maps of n rows, and the blocks that hold text tokens."""
    chosen = store.native(timesteps) or store.timesteps
    steps = [t for t in store.timesteps if t in chosen]
    wanted = [block for block in store.blocks if not blocks or block in blocks]
    missing = {*(blocks or ())} - {*wanted}
    if missing:
        raise SpecError(
            f"{store.path} has no {', '.join(sorted(missing))}; see `diffeat info {store.path}`"
        )
    found, left_out = {}, []
    for block in wanted:
        for t in steps:
            data = store[block, t]
            if data.ndim == 4:
                found[block + shown_t(t, ", t=")] = np.stack([data[row] for row in rows])
            elif data.ndim == 3:
                left_out.append(block)
            else:
                raise SpecError(
                    f"{store.path} holds pooled vectors, which have no picture; extract with "
                    "--pool none (into another file)"
                )
    if not found:
        raise SpecError(f"{store.path} holds nothing that has a picture; choose other blocks")
    return found, left_out


def originals(
    store: FeatureStore, ids: Sequence[str], where: str | None = None
) -> list[np.ndarray]:
    """The pictures of a file as its model saw them, (H, W, 3) uint8 each.

    Args:
        store: the file.
        ids: which pictures.
        where: as for `view_maps`.
    """
    source, places = find_originals(store, ids, where)
    spec = store.spec
    return [
        fit_picture(source.load(place), spec.size, spec.fit, spec.resample, spec.mirror).transpose(
            1, 2, 0
        )
        for place in places
    ]
