"""What a feature file is made of: the attributes of a finished one, `request.json` of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffeat.errors import DiffeatError, SpecError, SpecMismatch
from diffeat.hashing import fingerprint
from diffeat.images import Source, rule_of
from diffeat.specs import ExtractSpec, differences
from diffeat.store.format.atomic import read_small, write_synced
from diffeat.store.format.columns import PICTURE_COLUMNS, Column, check_column, storable, table
from diffeat.store.format.layout import shard_folder
from diffeat.store.format.safety import (
    as_text,
    damage_explained,
    open_checked,
    read_attr,
    read_text,
)
from diffeat.store.format.targets import Described, check_described, described, target_names

MODEL_CLASSES = "model classes"
"""Key among what is said of pictures: the model's class of each class, where each has its own."""
CLASSES = "classes"
"""Key of `how`: the same for people."""
OF_PICTURES = ("number of pictures", "pictures")
"""Fields of an identity that name pictures by number and hash alone."""
NAME = "request.json"
"""Of the manifest in a folder of shards."""
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Manifest:
    """What a feature file is made of; two of equal identity give equal files.

    Attributes:
        spec: the worked-out ExtractSpec as plain values.
        model: name, family, fingerprint and dtype of the backbone.
        pictures: name, count and fingerprint of the source; "conditions" is the hash of
            captions or embeddings, where there are any; "reading" is the rule by which
            pictures are read, 1 where it is missing (see `diffeat.images.reading`); "model
            classes" is the model's class of each class, of label "class", by position where it
            is missing; "embedding rows" is how many rows the embeddings have.
        how: what changes the last bits at most, such as device and batch size; it is noted,
            but is no part of the identity.
        columns: the data sets; None where that is not known, as in folders of shards from
            before version 0.3, and where a finished file is described.
        class_names: names of the classes, by index.
        labelled: whether the pictures have labels.
        targets: kind and names of each further target, by name.
    """

    spec: dict[str, Any]
    model: dict[str, Any]
    pictures: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)
    columns: tuple[Column, ...] | None = None
    class_names: tuple[str, ...] = ()
    labelled: bool = False
    targets: Described = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.pictures["count"]

    @property
    def timesteps(self) -> list[float]:
        """Native t of the features, in the order of the columns."""
        found = [c.attrs["t"] for c in self.columns or () if c.name not in PICTURE_COLUMNS]
        return list(dict.fromkeys(map(float, found)))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity())

    def identity(self) -> dict[str, Any]:
        """What must agree; names are left out, because a folder may be moved or renamed."""
        try:
            spec = ExtractSpec.from_dict(self.spec).to_dict()  # a younger field has its default
        except SpecError:  # a damaged one; it agrees with nothing
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

    def check_same(
        self, found: Manifest, path: Path, pictures: Callable[[], str] | None = None
    ) -> None:
        """SpecMismatch, naming the fields, if `found` (what lies at `path`) is another.

        Args:
            pictures: says how its pictures differ, where they do; "" where that is not known.
        """
        differ = differences(found.identity(), self.identity())
        if not differ:
            return
        if len(differ) == 1 and MODEL_CLASSES not in found.identity():
            differ += _by_position(self.identity())
        ours = [field for field in differ if field.partition(":")[0] in OF_PICTURES]
        named = pictures() if pictures is not None and ours else ""
        differ = [field for field in differ if not named or field not in ours]
        parts = [f"with another spec ({'; '.join(differ)})"] if differ else []
        parts += [f"of other pictures: {named}"] if named else []
        raise SpecMismatch(
            f"{path} was made {' and '.join(parts)}; choose another output, ask for the same, or "
            "pass --overwrite to replace it"
        )

    def to_attrs(self) -> dict[str, str]:
        """The root attributes of a feature file that say what it is made of."""
        texts = {
            name: json.dumps(getattr(self, name), default=_plain)
            for name in ("spec", "model", "pictures", "how")
        }
        return {**texts, "fingerprint": self.fingerprint}

    @classmethod
    def from_attrs(cls, file: h5py.File) -> Manifest:
        values = {name: json.loads(read_text(file, name)) for name in ("spec", "model", "pictures")}
        return cls(**values, how=how_of(file))

    def to_json(self) -> str:
        """All of it; all that a merge must know besides the shards."""
        return json.dumps(asdict(self), default=_plain)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """The manifest that a text holds, checked; ValueError, TypeError or KeyError."""
        values = table(json.loads(text))
        described = {name: table(values[name]) for name in ("spec", "model", "pictures")}
        columns, names = values.get("columns"), values.get("class_names", [])
        if not isinstance(names, list) or not all(
            isinstance(name, str) and (not name or storable(name)) for name in names
        ):
            raise TypeError("class names must be a list of texts without NUL")
        found = cls(
            **described,
            how=table(values.get("how", {})),
            columns=None if columns is None else tuple(Column(**table(c)) for c in columns),
            class_names=tuple(names),
            labelled=bool(values.get("labelled", False)),
            targets=check_described(values.get("targets", {})),
        )
        found._check()
        return found

    def _check(self) -> None:
        self.identity()  # has all its fields
        if type(self.count) is not int or not 0 < self.count < 1 << 40:
            raise ValueError(f"{self.count!r} pictures")
        if self.columns is None:
            return
        for column in self.columns:
            check_column(column)
        names = {column.name for column in self.columns}
        if len(names) < len(self.columns):
            raise ValueError("two columns of one name")
        if names <= set(PICTURE_COLUMNS):
            raise ValueError("no features")

    def filled(self, source: Source, columns: Sequence[Column]) -> Manifest:
        """The same with its data sets and classes.

        It is as it reads back from JSON, so that every merge writes equal attributes.
        """
        labelled, names = source.labels is not None, tuple(source.class_names)
        full = replace(self, columns=tuple(columns), class_names=names, labelled=labelled,
                       targets=described(source.targets))  # fmt: skip
        return Manifest.from_json(full.to_json())

    def write(self, folder: Path) -> None:
        """Leave it in a folder of shards."""
        write_synced(folder / NAME, self.to_json().encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest in a folder of shards, checked; None if there is none."""
        path = folder / NAME
        if not path.exists() and not path.is_symlink():
            return None
        with damage_explained(path, "the note of what is being made"):
            return cls.from_json(read_small(path, MOST_BYTES))


def _by_position(wanted: dict[str, Any]) -> list[str]:
    """Why the classes differ from those of a file that says nothing of them."""
    if MODEL_CLASSES not in wanted:
        return []
    return ["label=class went by position there, the first folder being the model's class 0, and "
            "now goes by name or number"]  # fmt: skip


def how_of(file: h5py.File) -> dict[str, Any]:
    """How a feature file was made; {} in files of older versions."""
    return table(json.loads(read_text(file, "how"))) if "how" in file.attrs else {}


def read_how(path: str | Path, manifest: Manifest | None = None) -> dict[str, Any]:
    """How the unfinished or finished feature file `path` was made; {} if there is none.

    Args:
        path: the file that the user named, whether it is there yet or not.
        manifest: only of what is made of this; None takes whatever lies there.
    """
    path = Path(path)

    def same(other: str) -> bool:
        return manifest is None or other == manifest.fingerprint

    try:
        found = Manifest.read(shard_folder(path))
        if found is not None:
            return found.how if same(found.fingerprint) else {}
        if path.is_file():
            with open_checked(path) as file, damage_explained(path, "how it was made"):
                return how_of(file) if same(read_text(file, "fingerprint")) else {}
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        pass
    return {}


def begun_columns(path: str | Path, manifest: Manifest) -> frozenset[str] | None:
    """Names of the data sets of unfinished parts of `path` that are of this identity.

    None where no shard of it is there: then nothing is begun.
    """
    folder = shard_folder(Path(path))
    try:
        found = Manifest.read(folder) if any(folder.glob("shard-*.h5")) else None
    except DiffeatError:  # whoever goes on from the parts will say what is wrong with them
        return None
    if found is None or found.fingerprint != manifest.fingerprint:
        return None
    return frozenset(column.name for column in found.columns or ())


def noted_pictures(path: str | Path) -> dict[str, Any] | None:
    """What the finished or unfinished feature file `path` says of its pictures, if it is there."""
    path = Path(path)
    try:
        if path.is_file():
            with open_checked(path) as file, damage_explained(path, "its pictures"):
                return table(json.loads(read_text(file, "pictures")))
        found = Manifest.read(shard_folder(path))
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        return None
    return None if found is None else found.pictures


def noted_labels(path: str | Path) -> tuple[tuple[str, ...] | None, list[str]]:
    """The classes with which the finished or unfinished feature file `path` was made, None without
    labels, and the names of its further targets; (None, []) where it does not say."""
    path = Path(path)
    try:
        if path.is_file():
            with open_checked(path) as file, damage_explained(path, "its labels"):
                names = read_attr(file["labels"], "names") if "labels" in file else None
                classes = None if names is None else tuple(map(as_text, names))
                return classes, target_names(file)
        found = Manifest.read(shard_folder(path))
    except DiffeatError:  # whoever writes or reads the file will say what is wrong with it
        found = None
    if found is None:
        return None, []
    return (found.class_names if found.labelled else None), list(found.targets)


def _plain(value: Any) -> Any:
    """numpy values as JSON."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} is no plain value")
