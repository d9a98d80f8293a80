"""Clips and the feature file that holds their frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import SpecError, nearest
from diffeat.images import clip_of, number_of
from diffeat.search.matching.bound import cells_of_files
from diffeat.store import FeatureStore
from diffeat.targets import match_ids
from probes.cells import Cells

MISSING = ("refuse", "leave-out")


def frames_in(store: FeatureStore, clip: str) -> tuple[str, ...]:
    """The ids of a clip's frames that a file has, in order.

    Args:
        clip: its name, or the last part of it where no other clip has that.

    Raises:
        SpecError: no such clip, or several; names the nearest.
    """
    clips: dict[str, list[str]] = {}
    for one in store.ids:
        if (owner := clip_of(one)) is not None:
            clips.setdefault(owner, []).append(one)
    alike = [clip] if clip in clips else [one for one in clips if one.endswith(f"/{clip}")]
    if len(alike) != 1:
        what = f"its clips are {', '.join(list(clips)[:12])}{nearest(clip, clips)}"
        if not clips:
            what = "its pictures are no frames of clips: name their folder"
        elif alike:
            what = f"it may be {' or '.join(alike)}"
        raise SpecError(f"{store.path} has no clip {clip!r}, nor is that a folder or video; {what}")
    return tuple(sorted(clips[alike[0]], key=number_of))


def frame_rows(
    store: FeatureStore, frames: Sequence[str], missing: str = "refuse", names: Sequence[str] = ()
) -> np.ndarray:
    """(F,) int64 rows of a clip's frames in a file; -1 of those that are left out.

    Args:
        frames: ids.
        missing: what becomes of frames that the file lacks: "refuse" or "leave-out".
        names: F names of their files, for a file whose pictures are no frames of clips.

    Raises:
        SpecError: the file lacks frames, or the first one.
    """
    known = {name: row for row, name in enumerate(store.ids)}
    rows = np.array([known.get(one, -1) for one in frames], np.int64)
    for calls in (frames, names):  # of a file with longer ids, or of single pictures
        if (rows < 0).all() and len(calls) == len(frames):
            rows = match_ids(calls, store.ids).rows
    lacking = np.flatnonzero(rows < 0)
    if len(lacking) and (missing == "refuse" or lacking[0] == 0):
        first = frames[lacking[0]]
        what = "the first one is needed"
        if missing == "refuse":
            what = "extract the clip again, or go on without them: --missing leave-out"
        raise SpecError(f"{store.path} lacks {len(lacking)} of {len(frames)} frames, the first "
                        f"{first!r}; {what}")  # fmt: skip
    return rows


def clip_cells(
    store: FeatureStore, rows: np.ndarray, blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
) -> Cells:  # fmt: skip
    """The maps of frames, in order; nothing is read before.

    Args:
        rows: (F,) of the file.
        blocks, timesteps: only these; None means all.

    Raises:
        SpecError: vectors, or a file from before 0.8, which knows no sizes.
    """
    keys = cells_of_files((store,), blocks, timesteps)
    cells = Cells({key: store[key] for key in keys}, sizes=store.sizes,
                  placements=store.placements, input_size=store.spec.size)  # fmt: skip
    return cells[rows]
