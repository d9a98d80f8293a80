"""What a feature file is made of: its request, its columns, and the note beside its shards."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.errors import DiffeatError, SpecError, SpecMismatch
from diffeat.hashing import fingerprint
from diffeat.images import rule_of
from diffeat.noise import format_t
from diffeat.specs import ExtractSpec, differences
from diffeat.store.atomic import read_small, write_synced
from diffeat.store.safety import damage_explained, read_text

DTYPES = ("float16", "float32", "int32", "int8")
PICTURE_COLUMNS = {
    "boxes": ((4,), "int32"),
    "sizes": ((2,), "int32"),
    "placements": ((4,), "float64"),
    "digests": ((16,), "uint8"),
    "file_stats": ((4,), "int64"),
}
"""Data sets beside the features, with their rows' shape and type."""
WHEN = "when"
"""Attribute of /file_stats: ns since 1970, when they were taken."""
MODEL_CLASSES = "model classes"
"""Key among what is said of pictures: the model's class of each class, where each has its own."""
CLASSES = "classes"
"""Key of `how`: the same for people."""
NOTE = "request.json"
NOTE_BYTES = 64 << 20
LIST_LENGTH, TEXT_BYTES = 1 << 12, 1 << 14
"""Of an attribute."""
ROW_BYTES = 1 << 32
"""No feature of one picture is larger."""


@dataclass(frozen=True)
class Request:
    """What a feature file is made of; two equal requests give equal files.

    Attributes:
        spec: the worked-out ExtractSpec as plain values.
        model: name, family, fingerprint and dtype of the backbone.
        pictures: name, count and fingerprint of the source; "conditions" is the hash of
            captions or embeddings, where there are any; "reading" is the rule by which
            pictures are read, 1 where it is missing (see `diffeat.images.reading`); "model
            classes" is the model's class of each class, of label "class", by position where it
            is missing; "embedding rows" is how many rows the embeddings have.
        how: what changes the last bits at most, such as device and batch size; it is noted,
            but two requests that differ in it are the same.
    """

    spec: dict[str, Any]
    model: dict[str, Any]
    pictures: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity())

    def identity(self) -> dict[str, Any]:
        """What must agree; names are left out, because a folder may be moved or renamed."""
        try:
            spec = ExtractSpec.from_dict(self.spec).to_dict()  # a younger field has its default
        except SpecError:  # a damaged note; it agrees with nothing
            spec = dict(self.spec)
        for name in ("captions", "embeddings"):  # what they say counts, not where they lie
            spec[name] = bool(spec.get(name))
        spec.pop("label_map", None)  # as above; what it says is in the model's classes
        return {
            **spec,
            "model": self.model["fingerprint"],
            "model dtype": self.model["dtype"],
            "number of pictures": self.pictures["count"],
            "pictures": self.pictures["fingerprint"],
            "captions or embeddings": self.pictures.get("conditions"),
            # left out by versions before 0.7, whose shards name the hash of this
            **({} if rule_of(self.pictures) == 1 else {"reading": rule_of(self.pictures)}),
            **self._classes(),
        }

    def _classes(self) -> dict[str, Any]:
        """The model's classes, unless they go by position, as in versions before 0.7."""
        found = self.pictures.get(MODEL_CLASSES)
        if not isinstance(found, list) or all(k in (n, None) for n, k in enumerate(found)):
            return {}
        return {MODEL_CLASSES: found if len(found) <= 16 else fingerprint(found)}

    def check_same(self, found: Request, path: Path) -> None:
        """SpecMismatch, naming the fields, if `found` (what lies at `path`) is another."""
        differ = differences(found.identity(), self.identity())
        if differ:
            if len(differ) == 1 and MODEL_CLASSES not in found.identity():
                differ += _by_position(self.identity())
            raise SpecMismatch(
                f"{path} was made with another spec ({'; '.join(differ)}); choose another "
                "output, ask for the same, or pass --overwrite to replace it"
            )

    def to_attrs(self) -> dict[str, str]:
        """The root attributes of a feature file that say what it is made of."""
        texts = {
            name: json.dumps(getattr(self, name), default=_plain)
            for name in ("spec", "model", "pictures", "how")
        }
        return {**texts, "fingerprint": self.fingerprint}

    @classmethod
    def from_attrs(cls, file: h5py.File) -> Request:
        values = {name: json.loads(read_text(file, name)) for name in ("spec", "model", "pictures")}
        return cls(**values, how=how_of(file))


def _by_position(wanted: dict[str, Any]) -> list[str]:
    """Why the classes differ from those of a file that says nothing of them."""
    if MODEL_CLASSES not in wanted:
        return []
    return ["label=class went by position there, the first folder being the model's class 0, and "
            "now goes by name or number"]  # fmt: skip


def how_of(file: h5py.File) -> dict[str, Any]:
    """How a feature file was made; {} in files of older versions."""
    return _table(json.loads(read_text(file, "how"))) if "how" in file.attrs else {}


@dataclass(frozen=True)
class Column:
    """A data set with a row per picture.

    Attributes:
        name: its path in the file.
        shape: of one picture's row.
        dtype: "float16", "float32" or "int8" of features, whose int8 values are handed over as
            float32 and quantised when they are written; else as in PICTURE_COLUMNS.
        attrs: its attributes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    attrs: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(side) for side in self.shape))

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Note:
    """`request.json` among the parts: all that a merge must know besides the shards.

    Attributes:
        request: what is being made.
        columns: its data sets; None in notes of versions before 0.3.
        class_names: names of the classes, by index.
        labelled: whether the pictures have labels.
    """

    request: Request
    columns: tuple[Column, ...] | None
    class_names: tuple[str, ...] = ()
    labelled: bool = False

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.request.pictures["count"]

    def write(self, folder: Path) -> None:
        values = asdict(self)
        values |= values.pop("request")
        write_synced(folder / NOTE, json.dumps(values, default=_plain).encode())

    @classmethod
    def read(cls, folder: Path) -> Note | None:
        """The note in a folder of parts, checked; None if there is none."""
        path = folder / NOTE
        if not path.exists() and not path.is_symlink():
            return None
        with damage_explained(path, "the note of what is being made"):
            return cls._from_values(_table(json.loads(read_small(path, NOTE_BYTES))))

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> Note:
        parts = {name: _table(values[name]) for name in ("spec", "model", "pictures")}
        request = Request(**parts, how=_table(values.get("how", {})))
        request.identity()  # has all its fields
        count = request.pictures["count"]
        if type(count) is not int or not 0 < count < 1 << 40:
            raise ValueError(f"{count!r} pictures")
        columns = values.get("columns")
        if columns is not None:
            columns = tuple(Column(**_table(column)) for column in columns)
            for column in columns:
                check_column(column)
            if len({column.name for column in columns}) < len(columns):
                raise ValueError("two columns of one name")
            if all(column.name in PICTURE_COLUMNS for column in columns):
                raise ValueError("no features")
        names = values.get("class_names", [])
        if not isinstance(names, list) or not all(
            isinstance(name, str) and (not name or _storable(name)) for name in names
        ):
            raise TypeError("class names must be a list of texts without NUL")
        return cls(request, columns, tuple(names), bool(values.get("labelled", False)))

    def as_read(self) -> Note:
        """The same as it reads back from JSON, so that every merge writes equal attributes."""
        values = asdict(self)
        values |= values.pop("request")
        return Note._from_values(json.loads(json.dumps(values, default=_plain)))


def check_column(column: Column) -> None:
    """ValueError unless a column is one that diffeat could have asked for."""
    if column.name in PICTURE_COLUMNS:
        if (column.shape, column.dtype) != PICTURE_COLUMNS[column.name]:
            raise ValueError(f"{column.name} has rows {column.shape} of {column.dtype}")
    else:
        parts = column.name.split("/")
        if len(parts) != 3 or parts[0] != "features" or not re.fullmatch("t[-+.e0-9]+", parts[2]):
            raise ValueError(f"{column.name!r} is no name of a data set of features")
        check_block(parts[1])
        t = _table(column.attrs).get("t")
        if type(t) not in (int, float) or not math.isfinite(t) or parts[2] != f"t{format_t(t)}":
            raise ValueError(f"{column.name} says that it is of t={t!r:.100}")
        if column.dtype not in DTYPES:
            raise ValueError(f"{column.name} has dtype {column.dtype!r}")
    sides = column.shape
    if not sides or min(sides) < 1 or math.prod(sides) > ROW_BYTES // 4:
        raise ValueError(f"{column.name} has rows of shape {sides}")
    for name, value in _table(column.attrs).items():
        if not _storable(name) or not _storable(value):
            raise TypeError(f"{column.name}: attribute {name!r:.100} is {value!r:.100}")


def _storable(value: Any) -> bool:
    """Whether HDF5 takes it as an attribute, or as the name of one: no NUL, no mixed list."""
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        plain = len(kinds) == 1 and kinds <= {int, float}
        return plain and len(value) <= LIST_LENGTH and all(map(_storable, value))
    if isinstance(value, str):
        with suppress(UnicodeEncodeError):
            return 0 < len(value.encode()) <= TEXT_BYTES and "\0" not in value
        return False
    return isinstance(value, (bool, float)) or (type(value) is int and abs(value) < 1 << 63)


def check_block(name: str) -> None:
    """ValueError unless the name of a block is one step of a path, that leads down."""
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r:.100} is no name of a block")


def note_of(request: Request, source, columns: Sequence[Column]) -> Note:
    """The note of a request, as it reads back from the disk."""
    labelled = source.labels is not None
    return Note(request, tuple(columns), tuple(source.class_names), labelled).as_read()


def read_how(path: str | Path, request: Request | None = None) -> dict[str, Any]:
    """How the unfinished or finished feature file `path` was made; {} if there is none.

    Args:
        path: the file that the user named, whether it is there yet or not.
        request: only of what is made of this; None takes whatever lies there.
    """
    from diffeat.store.safety import open_checked

    path = Path(path)

    def same(found: str) -> bool:
        return request is None or found == request.fingerprint

    try:
        note = Note.read(parts_of(path))
        if note is not None:
            return note.request.how if same(note.request.fingerprint) else {}
        if path.is_file():
            with open_checked(path) as file, damage_explained(path, "how it was made"):
                return how_of(file) if same(read_text(file, "fingerprint")) else {}
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        pass
    return {}


def begun_columns(path: str | Path, request: Request) -> frozenset[str] | None:
    """Names of the data sets of unfinished parts of `path` made by this request.

    None where no shard of it is there: then nothing is begun.
    """
    folder = parts_of(Path(path))
    try:
        note = Note.read(folder) if any(folder.glob("shard-*.h5")) else None
    except DiffeatError:  # whoever goes on from the parts will say what is wrong with them
        return None
    if note is None or note.request.fingerprint != request.fingerprint:
        return None
    return frozenset(column.name for column in note.columns or ())


def noted_pictures(path: str | Path) -> dict[str, Any] | None:
    """What the finished or unfinished feature file `path` says of its pictures, if it is there."""
    from diffeat.store.safety import open_checked

    path = Path(path)
    try:
        if path.is_file():
            with open_checked(path) as file, damage_explained(path, "its pictures"):
                return _table(json.loads(read_text(file, "pictures")))
        note = Note.read(parts_of(path))
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None
    return None if note is None else note.request.pictures


def parts_of(path: Path) -> Path:
    """The folder of the parts of a feature file."""
    return path.with_name(path.name + ".parts")


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.100} is no table of fields")
    return dict(value)


def _plain(value: Any) -> Any:
    """numpy values as JSON."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} is no plain value")
