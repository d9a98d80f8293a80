"""Clips: folders of frames and video files, whose frames are pictures called `clip#003`.

The clip is its path below the folder that was named, without a suffix; frames count from 0, in at
least three digits. What they belong to is known to later work as the column `clip`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images.columns import TargetColumn
from diffeat.images.decode import decode
from diffeat.images.digests import digest_of_bytes, digest_of_file, digest_of_nothing, stats_of
from diffeat.images.files import names_as_text
from diffeat.images.sources import Source, regular
from diffeat.images.videos import ANIMATIONS, VIDEOS, is_video, load_frame, stamps_of
from diffeat.images.walk import is_picture, left_out_text, nfc, walk

PREFIX = "clips:"
CLIP = "clip"
"""Column that says which clip a frame belongs to."""
FRAME = re.compile(r"(.*)#([0-9]{3,})", re.DOTALL)
Frame = tuple[Path, int | None]
"""A picture file, or a video file with the time of a frame in it."""


@dataclass(frozen=True, repr=False)
class ClipSource(Source):
    """Frames of clips, clip after clip and in their order.

    The digest of a frame that is a file is that of the file's bytes. That of a video's frame is

        BLAKE2b-128(BLAKE2b-128 of the video's bytes ‖ its number as text)

    and not of its pixels, since decoders differ from machine to machine in the last bit: so noise
    by content is the same everywhere, a change of the file is seen without decoding it, and a
    finished file is compared by one reading of the video.

    Attributes:
        frames: N places, parallel to `ids`.
    """

    frames: tuple[Frame, ...] = field(default=(), repr=False)

    def digest(self, index: int) -> bytes:
        path, time = self.frames[index]
        try:
            if time is None:
                return digest_of_file(path)
            whole = _video_digest(path, *stats_of([path])[0].tolist())
            return digest_of_bytes(whole + str(number_of(self.ids[index])).encode())
        except (OSError, EOFError):
            return digest_of_nothing(self.ids[index])

    def stats(self) -> np.ndarray:
        """Those of the files that hold the frames."""
        return stats_of([path for path, _ in self.frames])

    def load(self, index: int) -> Image.Image:
        self.check_readable(index)
        path, time = self.frames[index]
        if time is None:
            return decode(lambda: regular(path), self.ids[index], self.reading)
        return load_frame(path, self._times[path], time, self.ids[index])

    def take(self, indices: Sequence[int] | np.ndarray) -> ClipSource:
        frames = tuple(self.frames[int(index)] for index in indices)
        return ClipSource(**self._selection(indices), frames=frames)

    @cached_property
    def _times(self) -> dict[Path, list[int]]:
        """Times of the frames of each video, ascending."""
        found = defaultdict(list)
        for path, time in self.frames:
            if time is not None:
                found[path].append(time)
        return {path: sorted(times) for path, times in found.items()}

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "_times"}


@lru_cache(64)
def _video_digest(path: Path, *_stat: int) -> bytes:
    """Of a file as it is while its stat is this."""
    return digest_of_file(path)


def frame_id(clip: str, number: int) -> str:
    """ "bear#007"."""
    return f"{clip}#{number:03d}"


def clip_of(picture: str) -> str | None:
    """The clip of a frame's id; None of any other picture."""
    found = FRAME.fullmatch(picture)
    return found[1] if found else None


def number_of(picture: str) -> int:
    """The number of a frame, from its id."""
    return int(FRAME.fullmatch(picture)[2])


def from_clips(text: str) -> ClipSource:
    """Open "clips:PLACE" or a PLACE that is a video file.

    Args:
        text: PLACE is a video file; a folder of frames, which is one clip of the folder's name; or
            a folder below which every folder with pictures, and every video file, is a clip.
            Frames of a folder are ordered by the numbers in their names.

    Raises:
        SourceError: nothing is there, it holds no frames, two clips have one name, or PyAV is
            missing. A video that is damaged has frames that cannot be read (`Source.faults`).
    """
    place = Path(text.removeprefix(PREFIX))
    if place.is_file():
        if place.suffix.lower() not in VIDEOS | ANIMATIONS:
            raise SourceError(
                f"{text}: no video file ({', '.join(sorted(VIDEOS | ANIMATIONS))}) and no folder "
                "of frames; name one of them"
            )
        return made(text, {place.stem: place})
    if not place.is_dir():
        raise SourceError(f"{text}: {place} is not there; expected a video file, or a folder of "
                          "frames or of clips")  # fmt: skip
    clips, left_out = _clips_below(place, text)
    if not clips:
        others = f" (left out: {left_out_text(left_out)})" if left_out else ""
        raise SourceError(
            f"{text}: no frames and no videos{others}; expected pictures in it or in its folders, "
            f"or files ending in {', '.join(sorted(VIDEOS))}"
        )
    return made(text, clips, left_out)


def _clips_below(root: Path, text: str) -> tuple[dict[str, Path | list[Path]], Counter[str]]:
    """Clip → its video file, or its frames in order."""
    names, _, left_out = walk(root, wanted=lambda name: is_picture(name) or is_video(name))
    folders: dict[str, list[str]] = defaultdict(list)
    clips: dict[str, Path | list[Path]] = {}
    for name in names:
        if is_video(name):
            clip = name.rpartition(".")[0]
            if clip in clips:
                raise SourceError(f"{text}: two videos are called {clip!r}; rename one of them")
            clips[clip] = root / name
        else:
            folders[name.rpartition("/")[0]].append(name)
    if "" in folders and len(folders) > 1:
        raise SourceError(
            f"{text}: frames lie both in it and in its folders; expected the frames of one clip, "
            "or a folder for each clip"
        )
    for folder, frames in folders.items():
        clip = folder or Path(root).resolve().name
        if clip in clips:
            raise SourceError(f"{text}: {clip!r} is a folder of frames and a video; rename one")
        clips[clip] = [root / name for name in sorted(frames, key=in_order)]
    return dict(sorted(clips.items(), key=lambda one: in_order(one[0]))), left_out


def in_order(name: str) -> tuple:
    """Key by which "2.png" comes before "10.png"."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), part) if k % 2 else (0, part) for k, part in enumerate(parts))


def made(
    name: str, clips: Mapping[str, Path | Sequence[Path]], left_out: Counter[str] | None = None
) -> ClipSource:
    """The source of clips that are known.

    Args:
        name: of the source.
        clips: clip → its video file, or its frames in order.
        left_out: what was found and not taken.

    Raises:
        SourceError: PyAV is missing.
    """
    ids: list[str] = []
    frames: list[Frame] = []
    faults: dict[str, str] = {}
    owners: list[str] = []
    names, unnamed = names_as_text(list(clips))
    for clip, what in zip(map(nfc, names), clips.values(), strict=True):
        for number, (frame, why) in enumerate(_frames_of(what)):
            ids.append(frame_id(clip, number))
            frames.append(frame)
            owners.append(clip)
            if why := unnamed.get(clip) or why:
                faults[ids[-1]] = why
    classes = tuple(dict.fromkeys(owners))
    index = {one: k for k, one in enumerate(classes)}
    values = np.array([index[one] for one in owners], np.int64)
    return ClipSource(
        name=name, ids=tuple(ids), frames=tuple(frames), faults=faults,
        left_out=left_out or Counter(), targets={CLIP: TargetColumn("class", classes, values)},
    )  # fmt: skip


def _frames_of(what: Path | Sequence[Path]) -> list[tuple[Frame, str]]:
    """Frames of a clip, each with the reason for which it cannot be read, or "".

    A video of which nothing can be read has one frame.
    """
    if not isinstance(what, Path):
        return [((path, None), "") for path in what]
    try:
        times, lost = stamps_of(what)
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        return [((what, None), f"{what}: {error}")]
    why = f"{what} has fewer frames than its head says, it was cut short or damaged; copy it again"
    return [((what, time), "") for time in times] + [((what, None), why)] * lost


def every_nth(source: Source, step: int) -> Source:
    """The frames of clips whose numbers are multiples of `step`, under their own names.

    Raises:
        SourceError: the pictures are no frames of clips.
    """
    if step == 1:
        return source
    if any(clip_of(one) is None for one in source.ids):
        raise SourceError(
            f"{source.name}: its pictures are no frames of clips, of which some could be left out; "
            f"name a video file, or {PREFIX}{source.name}"
        )
    rows = [row for row, one in enumerate(source.ids) if number_of(one) % step == 0]
    return source.take(rows)
