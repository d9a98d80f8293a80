"""Where the pictures of a feature file lie: as typed, seen from the current folder, or beside the
file, wherever one stands.

Both come from the file, which anybody may have written. So neither is followed far, and what is
found counts only where the pictures have the digests that the file names.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from diffeat.errors import SourceError, StoreError
from diffeat.images import Source, open_source, rule_of
from diffeat.images.clips import PREFIX as CLIPS
from diffeat.images.datasets import DATASETS
from diffeat.images.huggingface import PREFIX
from diffeat.images.webdataset import is_tar_name
from diffeat.store.read.reader import FeatureStore

BESIDE = "beside"
"""Key among what is said of pictures: where they lie, seen from the feature file's folder."""
UPWARDS = 2
"""So many folders up from the feature file's; whoever keeps them farther apart says where."""
NAMED = 3
"""Pictures that a message names."""


def beside(name: str, file: Path) -> dict[str, str]:
    """What a feature file says of where its pictures lie, seen from its own folder.

    Args:
        name: of the source, as it was typed.
        file: the feature file.

    Returns:
        {} where the source is no path, or lies so far away that the way to it would say more of
        this machine than a reader needs.
    """
    kind, place = _parted(name)
    is_path = Path(place).exists() or glob.has_magic(place) or is_tar_name(place)
    if name.startswith(PREFIX) or not is_path:
        return {}
    return _seen_from(file, kind, place)


def _parted(name: object) -> tuple[str, object]:
    """ "clips:" or "", and the path behind it."""
    if isinstance(name, str) and name.startswith(CLIPS):
        return CLIPS, name.removeprefix(CLIPS)
    return "", name


def _seen_from(file: Path, kind: str, place: str | Path) -> dict[str, str]:
    way = Path(os.path.relpath(os.path.abspath(place), os.path.abspath(file.parent))).as_posix()
    return {BESIDE: kind + way} if _near(way) else {}


def moved(pictures: dict, old: Path, new: Path) -> dict:
    """What is said of pictures, seen from the folder of another feature file.

    Args:
        pictures: as the file `old` says it.
        new: another file with the same pictures.
    """
    kind, way = _parted(pictures.get(BESIDE))
    kept = {key: value for key, value in pictures.items() if key != BESIDE}
    return kept | (_seen_from(new, kind, old.parent / way) if _near(way) else {})


def _near(way: object) -> bool:
    """Whether a way leads no farther up than is allowed, and to nothing absolute."""
    if not isinstance(way, str) or not way or "\0" in way:
        return False
    parts = PurePosixPath(way).parts
    up = parts.count("..")
    return not PurePosixPath(way).is_absolute() and up <= UPWARDS and ".." not in parts[up:]


class ChangedPictures(StoreError):
    """Pictures that hold something else than when their features were extracted."""


def find_originals(
    store: FeatureStore, ids: Sequence[str], where: str | None = None, option: str = "--pictures"
) -> tuple[Source, list[int]]:
    """The source that holds the pictures of a file, and their places in it.

    Args:
        store: the file.
        ids: which pictures.
        where: the source, if it is known; by default what the file says, if that is a named
            data set, lies below the current folder, or lies near the file.
        option: by which the user says where, for messages.

    Raises:
        SourceError: `where` cannot be opened.
        StoreError: the pictures are not found.
        ChangedPictures: they are others by now.
    """
    if where:
        return _looked_up(store, ids, where)
    said = []
    for place in _places(store):
        try:
            source, found = _looked_up(store, ids, place)
            _check_same(store, ids, source, found)
        except (SourceError, StoreError) as error:
            said.append(error)
        else:
            return source, found
    kind = StoreError
    what = (
        f"the file says that its pictures lie in {store.pictures['name']!r}, outside the current "
        "folder, and names no place near itself"
    )
    for error in said:  # of pictures that are there but others, rather than of no folder
        what = str(error)
        if isinstance(error, StoreError):
            kind = type(error)
            break
    raise kind(f"{what}; say with {option} where the originals lie")


def _places(store: FeatureStore) -> Iterator[str]:
    """Where the pictures may lie, of what may be followed."""
    name = str(store.pictures["name"])
    named = name.startswith(PREFIX)  # of the hub, or of any folder
    inside = not named and Path(str(_parted(name)[1])).resolve().is_relative_to(Path.cwd())
    if name.partition(":")[0] in DATASETS or inside:
        yield name
    kind, way = _parted(store.pictures.get(BESIDE))
    if _near(way):
        yield kind + os.path.normpath(Path(store.path).absolute().parent / way)


def _looked_up(store: FeatureStore, ids: Sequence[str], place: str) -> tuple[Source, list[int]]:
    source = open_source(place).by_rule(rule_of(store.pictures))
    index = {name: k for k, name in enumerate(source.ids)}
    missing = [name for name in ids if name not in index]
    if missing:
        raise StoreError(f"{place} has no picture {missing[0]!r}, which {store.path} was made from")
    return source, [index[name] for name in ids]


def _check_same(
    store: FeatureStore, ids: Sequence[str], source: Source, places: Sequence[int]
) -> None:
    """StoreError if pictures are known to hold something else than when they were extracted."""
    if store.digests is None or source.reading == 1:
        return
    row = {name: k for k, name in enumerate(store.ids)}
    other = [
        name
        for name, place in zip(ids, places, strict=True)
        if source.digest(place) != np.asarray(store.digests[row[name]]).tobytes()
    ]
    if other:
        raise ChangedPictures(
            f"{source.name}: {', '.join(other[:NAMED])}{', …' * (len(other) > NAMED)} changed "
            f"since {store.path} was made"
        )
