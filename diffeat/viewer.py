"""A file's feature maps as colours beside the pictures that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.coords import Placement
from diffeat.errors import PictureError, SourceError, SpecError, StoreError
from diffeat.images import corruption_of, fit_picture
from diffeat.noise import shown_t
from diffeat.store import FeatureStore, find_originals
from diffeat.viz.maps import ACROSS, channel_rgb, feature_sheet, pca_rgb


def view_maps(
    store: FeatureStore,
    path: str | Path,
    pictures: int | Sequence[str] = 4,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[str] | None = None,
    where: str | None = None,
    smooth: bool = False,
    channel: int | None = None,
) -> list[str]:
    """Write a picture: a row per picture of the file, as it is and as the network saw it, then
    each cell in colours, laid on the picture.

    Args:
        store: a file of maps.
        path: the picture; its suffix says the format.
        pictures: how many of the first, or which, by id.
        blocks: only these.
        timesteps: only these t, in any form that `FeatureStore.level` takes.
        where: where the originals lie; by default where the file says, if that is a named data
            set, below the current folder, or near the file. If they are not there, maps are shown
            without them.
        smooth: whether maps are interpolated between cells.
        channel: one channel of each map in place of its principal components.

    Returns:
        What is not shown, and why: blocks that hold text tokens, originals that were not found.

    Raises:
        SpecError: something that is not in the file, or has no picture.
        SourceError, StoreError: the originals are not where `where` says.
    """
    rows = choose_rows(store.ids, pictures)
    maps, left_out = read_maps(store, rows, blocks, timesteps)
    names = [store.ids[row] for row in rows]
    notes = [f"left out: {block} holds text tokens, which have no picture" for block in left_out]
    placements = [_placement(store, row) for row in rows]
    found: list[np.ndarray | None] = [None] * len(rows)
    saw = found
    try:
        loaded = loaded_originals(store, names, where)
        found = [np.asarray(picture) for picture in loaded]
        saw = [_seen(store, *one) for one in zip(names, loaded, placements, strict=True)]
        if all(map(np.array_equal, found, saw)):  # pictures of the network's own size
            saw = [None] * len(rows)
    except (PictureError, SourceError, StoreError) as error:
        if where:
            raise
        hint = "" if "--pictures" in str(error) else "; say with --pictures where they lie"
        notes.append(f"without the originals: {error}{hint}")
    feature_sheet(
        found, maps, names, path, f"{store.model['name']}: {Path(store.path).name}", saw,
        placements, smooth, _colours(store, maps, channel), _across(maps),
    )  # fmt: skip
    return notes


def _across(maps: dict[str, np.ndarray]) -> int:
    """Maps in a line: those of one block, if more than one line is needed and they fit."""
    blocks = [heading.rpartition(", t=")[0] for heading in maps]
    steps = max(blocks.count(block) for block in blocks)
    return steps if len(maps) > ACROSS and 1 < steps <= ACROSS else ACROSS


def _colours(store: FeatureStore, maps: dict[str, np.ndarray], channel: int | None):
    """How maps become colours."""
    if channel is None:
        return pca_rgb
    fewest = min(one.shape[1] for one in maps.values())
    if not 0 <= channel < fewest:
        raise SpecError(f"channel {channel}: {store.path} has maps of {fewest} channels; expected "
                        f"0 to {fewest - 1}")  # fmt: skip
    return partial(channel_rgb, channel=channel)


def _placement(store: FeatureStore, row: int) -> Placement | None:
    """Where the input lies in its picture; None of files from before placements."""
    try:
        return store.placement(row)
    except StoreError:
        return None


def _seen(
    store: FeatureStore, name: str, picture: Image.Image, placement: Placement | None = None
) -> np.ndarray:
    """(H, W, 3) uint8 that the network was given of a picture."""
    spec = store.spec  # with fit "native" each input has a size of its own
    size = spec.size or (placement.input_size if placement else picture.size[::-1])
    worse = corruption_of(spec.corrupt, spec.seed)
    picture = picture if worse is None else worse(picture, name)
    fitted = fit_picture(picture, size, spec.fit, spec.resample, spec.mirror)
    return fitted.transpose(1, 2, 0)


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

    Raises:
        SourceError, StoreError: they cannot be found.
    """
    row_of = {name: row for row, name in enumerate(store.ids)}
    loaded = loaded_originals(store, ids, where)
    return [
        _seen(store, name, picture, _placement(store, row_of[name]))
        for picture, name in zip(loaded, ids, strict=True)
    ]


def loaded_originals(
    store: FeatureStore, ids: Sequence[str], where: str | None = None
) -> list[Image.Image]:
    """The pictures of a file at their own resolution; arguments as for `originals`."""
    source, places = find_originals(store, ids, where)
    return [source.load(place) for place in places]
