"""Videos by name or folder."""

from __future__ import annotations

from pathlib import Path

from diffeat.errors import SourceError, nearest
from diffeat.images.clip_sets import CLIP_SETS
from diffeat.images.datasets import clips_folder
from diffeat.targets.video.base import VideoTargets
from diffeat.targets.video.davis import Davis
from diffeat.targets.video.jhmdb import Jhmdb

READERS = {"davis2016": Davis, "davis2017": Davis, "jhmdb": Jhmdb}


def open_video(name: str | Path, split: str | None = None) -> VideoTargets:
    """Find the videos that a name stands for.

    Args:
        name: a named set ("davis2016:val", "davis2017:val", "jhmdb:test1"), looked for as
            `diffeat.images.datasets` looks for all named sets; or a folder in the layout of one
            ("FOLDER:val").
        split: instead of one behind the name.

    Raises:
        SourceError: nothing is there (says where it comes from), no such split, or files that are
            missing or damaged.
    """
    text, part = str(name), split
    if not Path(text).exists() and ":" in text:
        text, _, part = text.rpartition(":")
        if split not in (None, part):
            raise SourceError(f"{name}: split {part!r} and split={split!r}; expected one of them")
    path = Path(text)
    if path.is_dir():
        kind = next((kind for kind, one in CLIP_SETS.items() if one.fits(path)), None)
        if kind is None:
            known = "; ".join(f"{kind}: {one.wanted}" for kind, one in CLIP_SETS.items())
            raise SourceError(f"{path}: no layout of videos that is known; expected one of {known}")
        folder = path
    elif text in CLIP_SETS:
        kind, folder = text, clips_folder(text)
    else:
        raise SourceError(
            f"{str(name)!r} is no folder or set of videos{nearest(text, CLIP_SETS)}; named sets: "
            f"{', '.join(sorted(CLIP_SETS))}, each as NAME:SPLIT"
        )
    splits = CLIP_SETS[kind].splits
    if part not in splits:
        wrong = "no split is named" if part is None else f"no split {part!r}"
        raise SourceError(f"{text}: {wrong}; expected one of {', '.join(splits)}, as in "
                          f"{text}:{splits[0]}")  # fmt: skip
    return READERS[kind](f"{text}:{part}", kind, folder, part)
