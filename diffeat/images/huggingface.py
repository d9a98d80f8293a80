"""Pictures in data sets of the Hugging Face library `datasets`, from disk or from the hub.

The library is optional and imported when it is first used. Its files are Arrow tables that
stay memory-mapped; pictures are taken undecoded and go through our own `decode`, so that
orientation, 16-bit samples and transparency follow the same rules as everywhere.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffeat.errors import PictureError, SourceError, nearest
from diffeat.hashing import fingerprint
from diffeat.images.decode import decode
from diffeat.images.digests import digest_of_bytes, digest_of_file, digest_of_nothing, stats_of
from diffeat.images.sources import Source, regular

PREFIX = "hf:"
OLDEST = 4  # major version; older ones can run a script that comes with a data set
CAPTION_COLUMNS = ("caption", "text")
SPLIT = re.compile(r"\w+(\.\w+)*")  # as the library has it; no slices, no paths


@dataclass(frozen=True, repr=False)
class HubSource(Source):
    """Rows of a memory-mapped table.

    Attributes:
        table: `datasets.Dataset` with one column of undecoded pictures.
        column: name of that column.
        rows: row of the table of each picture, parallel to `ids`.
        revision: the library's fingerprint of the whole data set.
    """

    table: Any = field(default=None, repr=False)
    column: str = ""
    rows: tuple[int, ...] = field(default=(), repr=False)
    revision: str = ""

    def digest(self, index: int) -> bytes:
        raw, path = self.record(index)
        try:
            if raw is None and path and "://" not in path:
                return digest_of_file(Path(path))
        except (OSError, EOFError):
            pass
        return digest_of_nothing(self.ids[index]) if raw is None else digest_of_bytes(raw)

    def stats(self) -> np.ndarray | None:
        """That of the tables' files together; where rows name files of their own, none."""
        files = [file["filename"] for file in getattr(self.table, "cache_files", ())]
        one = stats_of(files)
        if not files or not one.any(1).all() or self._elsewhere():
            return None
        size, mtime, ctime, inode = one.T
        which = fingerprint([inode.tolist(), self.column, self.revision])
        row = size.sum(), mtime.max(), ctime.max(), int(which[:15], 16)
        return np.tile(np.array(row, np.int64), (len(self), 1))

    def _elsewhere(self) -> bool:
        """Whether some row holds no bytes, but at most a path."""
        pieces = self.table.data.column(self.column).chunks
        return any(piece.null_count or piece.field("bytes").null_count for piece in pieces)

    def load(self, index: int) -> Image.Image:
        name = self.ids[index]
        raw, path = self.record(index)
        if raw is not None:
            return decode(lambda: io.BytesIO(raw), name, self.reading)
        if not path:
            raise PictureError(name, "its row holds no picture; remove or fill the row")
        if "://" in path:
            raise PictureError(name, f"lies at {path!r}, which is not fetched; embed or save it")
        return decode(lambda: regular(path), name, self.reading)

    def take(self, indices: Sequence[int] | np.ndarray) -> HubSource:
        return HubSource(
            **self._selection(indices),
            table=self.table,
            column=self.column,
            rows=tuple(self.rows[int(index)] for index in indices),
            revision=self.revision,
        )

    def record(self, index: int) -> tuple[bytes | None, str | None]:
        """What the table holds of a picture: the bytes of its file, or the path to it."""
        record = self.table[self.rows[index]][self.column] or {}
        return record.get("bytes"), record.get("path")


class Wanted(NamedTuple):
    """The parts of "hf:NAME:split#column"; split and column may be empty."""

    text: str
    name: str
    split: str
    column: str


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of a Dataset or a DatasetDict made this folder."""
    single = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return single or (folder / "dataset_dict.json").is_file()


def from_huggingface(text: str) -> HubSource:
    """Open a folder made by `save_to_disk` or, through `load_dataset`, a data set of the hub.

    The picture column is the only column of pictures, unless named after "#"; labels are those
    of the only class column, captions those of a text column named caption or text. Labels and
    captions are taken if every row has one. Ids are "<split>/<row, seven digits>"; the split of
    a data set that was saved without one is "all". No code of a data set is ever run.

    Args:
        text: "hf:NAME", "hf:NAME:split", "hf:NAME:split#column", or a folder without "hf:".

    Raises:
        SourceError: `datasets` is not installed; there is no such data set, split or column,
            or several to choose from; it is damaged or empty.
    """
    request = _parse(text)
    hub = _library(text)
    opened = _open_folder if Path(request.name).is_dir() else _open_hub
    data, split, revision = opened(hub, request)
    if not len(data):
        raise SourceError(f"{text}: no pictures found; split {split!r} has no rows")
    column = _picture_column(hub, data.features, request)
    labels, class_names = _labels(hub, data, text)
    plain = data.with_format(None).select_columns([column])
    return HubSource(
        name=text,
        ids=tuple(f"{split}/{row:07d}" for row in range(len(data))),
        labels=labels,
        class_names=class_names,
        captions=_captions(hub, data, text),
        table=plain.cast_column(column, hub.Image(decode=False)),
        column=column,
        rows=tuple(range(len(data))),
        revision=revision,
    )


# opening


def _parse(text: str) -> Wanted:
    rest = text.removeprefix(PREFIX)
    if Path(rest).is_dir():
        return Wanted(text, rest, "", "")
    rest, _, column = rest.partition("#")
    if Path(rest).is_dir():
        return Wanted(text, rest, "", column)
    name, colon, split = rest.rpartition(":")
    if not colon:
        name, split = rest, ""
    elif not SPLIT.fullmatch(split):
        raise SourceError(
            f"{text}: {split!r} is no name of a split; expected hf:NAME:split#column with a split "
            "such as train (for a part of one, open it and use limit or take)"
        )
    return Wanted(text, name, split, column)


def _library(text: str) -> ModuleType:
    """The module `datasets`; SourceError if it is missing, or so old that it could run code."""
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"{text}: reading it needs the library datasets ({error}); pip install 'diffeat[hf]'"
        ) from error
    if int(datasets.__version__.partition(".")[0]) < OLDEST:
        raise SourceError(
            f"{text}: the installed datasets {datasets.__version__} can run scripts of a data set; "
            f"expected {OLDEST}.0 or newer: pip install --upgrade 'diffeat[hf]'"
        )
    return datasets


def _open_folder(hub: ModuleType, request: Wanted) -> tuple[Any, str, str]:
    """Data, split and fingerprint of a folder made by `save_to_disk`."""
    folder = Path(request.name)
    if not is_saved_dataset(folder):
        raise SourceError(
            f"{request.text}: {folder} was not made by save_to_disk; expected state.json and "
            "dataset_info.json, or dataset_dict.json, in it (leave out 'hf:' for a folder of "
            "picture files)"
        )
    try:
        splits = []
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
            split = _choose_split(request, splits)
            if not SPLIT.fullmatch(split):
                raise ValueError(f"dataset_dict.json names the split {split!r}")
            folder = folder / split
        data = hub.load_from_disk(str(folder), keep_in_memory=False)
        # loading changes the fingerprint in ways that depend on the library's version
        revision = str(json.loads((folder / "state.json").read_text("utf-8"))["_fingerprint"])
    except SourceError:
        raise
    except Exception as error:  # json, pyarrow and datasets raise all sorts of errors
        raise SourceError(
            f"{request.text}: damaged, {folder} cannot be loaded ({error}); save it again"
        ) from error
    if not splits:
        split = str(data.split or "all")
        if request.split not in ("", split):
            raise SourceError(
                f"{request.text}: no split {request.split!r}, the folder holds only {split!r}; "
                f"open it as hf:{request.name}"
            )
    return data, split, revision


def _open_hub(hub: ModuleType, request: Wanted) -> tuple[Any, str, str]:
    """Data, split and fingerprint of a data set of the hub, from its cache or downloaded."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", request.name) or Path(request.name).exists():
        raise SourceError(
            f"{request.text}: {request.name!r} is neither a folder nor of the form owner/name; "
            "expected hf:FOLDER, as save_to_disk made it, or hf:owner/name"
        )
    try:
        split = request.split or _choose_split(request, hub.get_dataset_split_names(request.name))
        data = hub.load_dataset(request.name, split=split)
    except SourceError:
        raise
    except Exception as error:  # network, permissions, unknown names, formats: all sorts of errors
        raise SourceError(
            f"{request.text}: cannot be loaded from the hub or its cache ({error}); check the "
            "name, the split and the network"
        ) from error
    return data, split, str(data._fingerprint)


def _choose_split(request: Wanted, splits: Sequence[str]) -> str:
    """The split asked for, or the only one there is."""
    listed = ", ".join(splits)
    if not request.split and len(splits) == 1:
        return splits[0]
    if not request.split:
        raise SourceError(
            f"{request.text} has the splits {listed}; choose one, as in hf:{request.name}:"
            f"{splits[0] if splits else 'train'}"
        )
    if request.split not in splits:
        raise SourceError(
            f"{request.text}: no split {request.split!r}; expected {listed}"
            f"{nearest(request.split, splits)}"
        )
    return request.split


# columns


def _picture_column(hub: ModuleType, features: Any, request: Wanted) -> str:
    found = [name for name, kind in features.items() if isinstance(kind, hub.Image)]
    if request.column in found:
        return request.column
    if len(found) == 1 and not request.column:
        return found[0]
    columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    if request.column:
        raise SourceError(
            f"{request.text}: no picture column {request.column!r}; its columns are {columns}"
            f"{nearest(request.column, found)}"
        )
    if found:
        split = f":{request.split}" if request.split else ""
        raise SourceError(
            f"{request.text}: {len(found)} picture columns; choose one, as in "
            f"hf:{request.name}{split}#{found[0]} (columns: {columns})"
        )
    raise SourceError(
        f"{request.text}: no picture column, its columns are {columns}; expected one of type "
        "Image: convert it with cast_column(name, datasets.Image())"
    )


def _labels(hub: ModuleType, data: Any, name: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(N,) int64 and class names from the only class column; -1 and null mean no label."""
    found = [column for column, kind in data.features.items() if isinstance(kind, hub.ClassLabel)]
    if len(found) > 1:
        warnings.warn(
            f"{name}: {len(found)} class columns ({', '.join(found)}), so no labels are taken; "
            "remove all but one",
            stacklevel=4,
        )
    if len(found) != 1:
        return None, ()
    class_names = tuple(data.features[found[0]].names)
    values = _values(data, found[0])
    if not _complete(name, "label", [value is None or value == -1 for value in values]):
        return None, ()
    labels = np.array(values, dtype=np.int64)
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise SourceError(
            f"{name}: column {found[0]!r} has labels from {labels.min()} to {labels.max()}; "
            f"expected 0 to {len(class_names) - 1}, one for each class name"
        )
    return labels, class_names


def _captions(hub: ModuleType, data: Any, name: str) -> tuple[str, ...] | None:
    for column in CAPTION_COLUMNS:
        kind = data.features.get(column)
        if isinstance(kind, hub.Value) and kind.dtype in ("string", "large_string"):
            values = _values(data, column)
            complete = _complete(name, "caption", [value is None for value in values])
            return tuple(values) if complete else None
    return None


def _values(data: Any, column: str) -> list:
    """One column as Python values; null is None."""
    return data.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _complete(name: str, what: str, lacking: list[bool]) -> bool:
    """Whether no row lacks its label or caption; a warning if only some do."""
    if any(lacking) and not all(lacking):
        warnings.warn(
            f"{name}: {sum(lacking)} of {len(lacking)} rows have no {what}, so no {what}s are "
            "taken",
            stacklevel=5,
        )
    return not any(lacking)
