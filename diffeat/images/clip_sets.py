"""Data sets of videos as they lie on disk: where they are, and which clips a split has.

What is known of the frames is read by `diffeat.targets.video`, from the same folders.

    DAVIS   JPEGImages/480p/<clip>/00000.jpg, Annotations/480p/<clip>/00000.png,
            ImageSets/2016|2017/<split>.txt with a clip a line; DAVIS-2016's own package has
            ImageSets/480p/<split>.txt with a frame and its mask a line
    JHMDB   Rename_Images/<class>/<clip>/00001.png (or Frames/…), splits/<class>_test_split1.txt
            with "<clip>.avi 1" (training) or 2 (test), joint_positions/<class>/<clip>/….mat
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_text
from diffeat.images.clips import ClipSource, in_order, made
from diffeat.images.paired_layouts import subfolders
from diffeat.images.walk import is_picture

RESOLUTION = "480p"
DAVIS_LISTS = {"davis2016": ("2016", RESOLUTION), "davis2017": ("2017",)}
"""Folders below ImageSets that hold the lists of a year."""
JHMDB_FRAMES = ("Rename_Images", "Frames")
JHMDB_SPLITS = tuple(f"{part}{k}" for k in (1, 2, 3) for part in ("test", "train"))
Listed = Iterator[tuple[str, str, str]]
"""(where it is named, clip, folder of its frames below the data set's) of every clip."""


@dataclass(frozen=True)
class ClipSet:
    """A data set of videos that has a name.

    Attributes:
        folders: what its folder may be called, too, as it is unpacked.
        wanted: what is expected in it, in words.
        how: where it comes from.
        splits: that have names.
        fits: whether a folder has this layout.
        listed: (the data set's folder, split) → its clips.
    """

    folders: tuple[str, ...]
    wanted: str
    how: str
    splits: tuple[str, ...]
    fits: Callable[[Path], bool]
    listed: Callable[[Path, str], Listed]

    def frames(self, folder: Path, split: str) -> dict[str, list[Path]]:
        """Clip → its frames in order.

        Raises:
            SourceError: no such list, clips without frames, paths that lead out of the folder.
        """
        below, found = Below(folder), {}
        for where, clip, inner in self.listed(folder, split):
            place = folder / inner
            try:
                names = [one.name for one in place.iterdir() if is_picture(one.name)]
            except OSError as error:
                raise SourceError(f"{where}: {place}: {error.strerror}; expected the frames of "
                                  f"{clip!r} there") from error  # fmt: skip
            if not names:
                raise SourceError(
                    f"{where}: {place} has no pictures; expected the frames of {clip!r}"
                )
            ids = [below.picture(f"{inner}/{name}", where) for name in sorted(names, key=in_order)]
            found[clip] = list(map(below.path, ids))
        if not found:
            raise SourceError(f"{folder}: split {split!r} lists no clips; fetch the lists again")
        return found

    def pictures(self, name: str, folder: Path, split: str) -> ClipSource:
        """Every frame of a split, by id."""
        return made(name, self.frames(folder, split))


def _davis_listed(folder: Path, split: str, kind: str) -> Listed:
    lists = [folder / "ImageSets" / one / f"{split}.txt" for one in DAVIS_LISTS[kind]]
    path = next((one for one in lists if one.is_file()), lists[0])
    seen = set()
    for number, line in enumerate(read_text(path, folder, "a clip a line").splitlines(), 1):
        words = line.split()
        parts = words[0].split("/") if words else []
        if not parts:
            continue
        clip = parts[0] if len(parts) == 1 else parts[-2]  # of a frame's path
        if clip in ("", ".", "..") or "\0" in clip:
            raise SourceError(f"{path}, line {number}: {line!r:.80} names no clip")
        if clip not in seen:
            yield f"{path}, line {number}", clip, f"JPEGImages/{RESOLUTION}/{clip}"
        seen.add(clip)


def _davis_fits(folder: Path, kind: str) -> bool:
    return (folder / "JPEGImages" / RESOLUTION).is_dir() and any(
        (folder / "ImageSets" / one).is_dir() for one in DAVIS_LISTS[kind]
    )


def _jhmdb_listed(folder: Path, split: str) -> Listed:
    part, number = split[:-1], split[-1]
    frames = next((one for one in JHMDB_FRAMES if (folder / one).is_dir()), JHMDB_FRAMES[0])
    for kind in subfolders(folder / frames):
        path = folder / "splits" / f"{kind}_test_split{number}.txt"
        for line, text in enumerate(read_text(path, folder, "a video a line").splitlines(), 1):
            words = text.split()
            if not words:
                continue
            clip = words[0].removesuffix(".avi")
            if len(words) != 2 or words[1] not in "012" or "/" in clip or clip in ("", "."):
                raise SourceError(f"{path}, line {line}: {text!r:.80}; expected VIDEO.avi and 1 "
                                  "(training) or 2 (test)")  # fmt: skip
            if words[1] == {"train": "1", "test": "2"}[part]:
                yield f"{path}, line {line}", f"{kind}/{clip}", f"{frames}/{kind}/{clip}"


def _jhmdb_fits(folder: Path) -> bool:
    return (folder / "joint_positions").is_dir() and (folder / "splits").is_dir()


_DAVIS = "JPEGImages/480p/<clip>/*.jpg, Annotations/480p/<clip>/*.png and ImageSets/"
CLIP_SETS = {
    "davis2017": ClipSet(
        ("DAVIS", "DAVIS2017", "DAVIS-2017"), f"{_DAVIS}2017/<split>.txt",
        "It is at https://davischallenge.org/davis2017/code.html.",
        ("val", "train", "test-dev", "test-challenge"),
        partial(_davis_fits, kind="davis2017"), partial(_davis_listed, kind="davis2017"),
    ),
    "davis2016": ClipSet(
        ("DAVIS", "DAVIS2016", "DAVIS-2016"), f"{_DAVIS}2016/<split>.txt (or 480p/<split>.txt)",
        "It is at https://davischallenge.org/davis2016/code.html.",
        ("val", "train", "trainval"),
        partial(_davis_fits, kind="davis2016"), partial(_davis_listed, kind="davis2016"),
    ),
    "jhmdb": ClipSet(
        ("JHMDB",), "Rename_Images/, joint_positions/ and splits/",
        "It is at http://jhmdb.is.tue.mpg.de/.", JHMDB_SPLITS, _jhmdb_fits, _jhmdb_listed,
    ),
}  # fmt: skip
"""Named sets of videos, in the order in which a folder is tried."""
