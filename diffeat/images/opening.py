"""From what the user typed to a `Source`."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import SourceError, nearest
from diffeat.images.clips import PREFIX as CLIPS
from diffeat.images.clips import from_clips
from diffeat.images.datasets import DATASETS, open_dataset
from diffeat.images.files import from_file, from_folder, from_glob, from_list, from_paths
from diffeat.images.huggingface import PREFIX, from_huggingface, is_saved_dataset
from diffeat.images.sources import Source
from diffeat.images.videos import is_video
from diffeat.images.walk import is_picture
from diffeat.images.webdataset import from_tars, is_tar_name


def open_source(name: str | Path | Sequence[str | Path], columns: Sequence[str] = ()) -> Source:
    """Find the pictures that `name` stands for, with what is known of them (docs/pictures.md).

    Args:
        name: a folder, a glob (folders that look like classes become labels), a list file with
            one path a line (relative to that file), a path and a label, or a table; one picture,
            a sequence of paths, or a named data set with an optional split, such as "digits" or
            "cifar10:test". Also a tar, a glob of them or a range such as
            "train-{000..003}.tar"; and a Hugging Face data set, a folder made by `save_to_disk`
            or "hf:NAME", "hf:NAME:split", "hf:NAME:split#column", where NAME is such a folder or
            "owner/name" on the hub. Also a video file, or "clips:PLACE": a folder of frames, or of
            clips (`diffeat.images.clips`).
        columns: of a list that is a table: take these alone as labels and targets.

    Returns:
        The pictures, whose `left_out` counts what lies among them and is not taken: other kinds
        of files, hidden ones, thumbnails of file servers, links to what is there already.

    Raises:
        SourceError: nothing is there, or it holds no pictures; or columns of what is no table.
    """
    path = Path(str(name))
    if columns and (not path.is_file() or is_picture(path.name) or is_tar_name(path.name)):
        raise SourceError(
            f"{name}: columns {', '.join(columns)} of what is no list; give a table of labels"
        )
    if not isinstance(name, (str, Path)):
        return from_paths(name)
    text = str(name)
    path = Path(text)
    if text.startswith(PREFIX):
        return from_huggingface(text)
    if text.startswith(CLIPS) or (path.is_file() and is_video(path.name)):
        return from_clips(text)
    if path.is_dir():
        return from_huggingface(text) if is_saved_dataset(path) else from_folder(path)
    if path.is_file() and is_picture(path.name):
        return from_file(path)
    if is_tar_name(text):
        return from_tars(text)
    if path.is_file():
        return from_list(path, columns)
    if glob.has_magic(text):
        return from_glob(text)
    if text.partition(":")[0] in DATASETS:
        return open_dataset(text)
    raise SourceError(
        f"{text!r} is no folder, file, glob or data set{nearest(text, DATASETS)}; "
        f"named data sets: {', '.join(sorted(DATASETS))}"
    )
