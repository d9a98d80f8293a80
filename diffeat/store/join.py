"""Feature files joined into one: other pictures below each other, other features side by side."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffeat.conditioned import EMBEDDING_ROWS
from diffeat.errors import SpecMismatch, StoreError
from diffeat.hashing import fingerprint
from diffeat.images import rule_of
from diffeat.noise import format_t
from diffeat.specs import differences
from diffeat.store.atomic import explained, new_file
from diffeat.store.compress import check_compression
from diffeat.store.execution_order import united
from diffeat.store.layout import create_column, create_header, room_for, write_skipped
from diffeat.store.merge import BLOCK_BYTES, Progress
from diffeat.store.quantize import quantization_attrs, scale_name
from diffeat.store.reader import FeatureStore
from diffeat.store.request import MODEL_CLASSES, PICTURE_COLUMNS, WHEN, Column, Request
from diffeat.store.seals import ATTRIBUTE, Seal, check_lists, check_seal
from diffeat.store.view import QuantizedView

OTHER = ("timesteps", "blocks", "number of pictures", "pictures", "captions or embeddings",
         "reading", MODEL_CLASSES)  # fmt: skip
"""Fields of a request in which files may differ that are joined."""
KEPT = ("sizes", "placements", "digests", "file_stats")
"""Data sets that a joined file has where all files have them."""


@dataclass(frozen=True)
class _Plan:
    """What the joined file holds, and from which files.

    Attributes:
        request: what it says it is made of.
        ids: of its rows.
        labels: (N,) int64, or None.
        class_names: names of the labels.
        skipped: id → reason.
        sources: data set → files that hold its rows, in their order.
    """

    request: Request
    ids: list[str]
    labels: np.ndarray | None
    class_names: list[str]
    skipped: dict[str, str]
    sources: dict[str, list[FeatureStore]]


def merge_files(
    paths: Sequence[str | Path],
    out: str | Path,
    compression: str = "none",
    overwrite: bool = False,
    progress: Progress = iter,
) -> Path:
    """Join feature files of one model and one way of extraction into one file.

    Either the pictures differ: then rows come below each other, files in the order given, and
    class names are united. Or the pictures are the same, in the same order: then (block, t)
    come together, which must fill a whole table. One file alone is written again, say with
    another compression. What is in memory does not grow with the features.

    Args:
        paths: feature files.
        out: the new file.
        compression: "none", "lzf", "gzip" or "zstd".
        overwrite: replace what lies at `out`.
        progress: wraps the list of data sets.

    Returns:
        `out`.

    Raises:
        SpecMismatch: the files do not fit together; says what differs.
        StoreError: a file cannot be read, or `out` cannot be written.
    """
    out = Path(out)
    check_compression(compression)
    if not paths:
        raise StoreError("no feature files to merge were given")
    if out.exists() and (out.is_dir() or not overwrite):
        raise StoreError(f"{out} is already there; pass --overwrite to replace it")
    with ExitStack() as stack:
        stores = [stack.enter_context(FeatureStore(path)) for path in paths]
        for store in stores:
            check_lists(store.file)
        plan = _plan(stores)
        with explained(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _write(plan, out, compression, progress)
    return out


def _plan(stores: list[FeatureStore]) -> _Plan:
    first = stores[0]
    for store in stores[1:]:
        _check_alike(first, store)
    if len(stores) == 1:
        sources = {name: [first] for name in _names(first)}
        return _of_one(first, sources, _request(first))
    same = [store.ids == first.ids for store in stores[1:]]
    if all(same):
        return _beside(stores)
    if any(same):
        raise SpecMismatch(
            "some files hold the same pictures and others do not; join those with the same "
            "pictures first"
        )
    return _below(stores)


def _check_alike(first: FeatureStore, other: FeatureStore) -> None:
    """SpecMismatch, naming the fields, if two files are of other models or extractions."""
    found, wanted = (
        {name: value for name, value in _request(s).identity().items() if name not in OTHER}
        for s in (other, first)
    )
    if differ := differences(wanted, found):
        raise SpecMismatch(
            f"{other.path} cannot be joined to {first.path}: {'; '.join(differ)}; extract both in "
            "the same way"
        )


def _beside(stores: list[FeatureStore]) -> _Plan:
    """The same pictures with other (block, t)."""
    first = stores[0]
    for store in stores[1:]:
        pictures = {
            "labels": lambda s: None if s.labels is None else s.labels.tolist(),
            "class names": lambda s: s.class_names,
            "boxes": lambda s: None if s.boxes is None else s.boxes.tolist(),
            "the pictures' contents": _contents,
            "the pictures' sizes": lambda s: _Sizes(None if s.sizes is None else s.sizes.tolist()),
            "captions or embeddings": lambda s: s.pictures.get("conditions"),
            "the model's classes": _model_classes,
        }
        for what, read in pictures.items():
            if not _agree(read(store), read(first)):
                raise SpecMismatch(
                    f"{store.path} and {first.path} hold the same ids, but {what} differ"
                )
    _warn_of_rules(stores)
    sources: dict[str, list[FeatureStore]] = {}
    for store in stores:
        for name in _names(store):
            if name in sources and name not in PICTURE_COLUMNS:
                raise SpecMismatch(
                    f"{store.path} and {sources[name][0].path} both hold {name} of the same "
                    "pictures; leave one of them out"
                )
            sources.setdefault(name, [store])
    for name in _dropped(stores):
        sources.pop(name)
    blocks = united([store.blocks for store in stores])
    steps = sorted({t for store in stores for t in store.timesteps})
    for block in blocks:
        for t in steps:
            if f"features/{block}/t{format_t(t)}" not in sources:
                raise SpecMismatch(
                    f"no file holds block {block!r} at t={format_t(t)}; expected every block at "
                    "every t: extract what is missing first"
                )
    spec = {**first.spec.to_dict(), "blocks": blocks, "timesteps": _levels(stores, steps)}
    request = _request(first)
    request = Request(spec, request.model, request.pictures, _how(stores))
    skipped = {name: why for s in reversed(stores) for name, why in s.skipped.items()}
    return _of_one(first, sources, request, skipped)


def _levels(stores: list[FeatureStore], steps: list) -> list:
    """The timesteps of the joined spec: as all files have them in order, else ascending."""
    listed = [t for store in stores for t in store.spec.timesteps]
    listed = list(dict.fromkeys(listed))
    return listed if len(listed) == len(steps) else steps


def _of_one(first: FeatureStore, sources, request: Request, skipped=None) -> _Plan:
    skipped = first.skipped if skipped is None else skipped
    return _Plan(request, first.ids, first.labels, first.class_names, skipped, sources)


def _below(stores: list[FeatureStore]) -> _Plan:
    """The same (block, t) of other pictures."""
    first = stores[0]
    owner: dict[str, FeatureStore] = {}
    for store in stores:
        for name in store.ids:
            if name in owner:
                raise SpecMismatch(
                    f"{store.path} and {owner[name].path} both hold the picture {name!r}, among "
                    "others that differ; ids must be distinct, or all the same in the same order"
                )
            owner[name] = store
        if differ := sorted((set(_names(store)) ^ set(_names(first))) - set(KEPT)):
            raise SpecMismatch(
                f"{store.path} and {first.path} hold other pictures and other features (first "
                f"{differ[0]}); expected the same blocks and t of other pictures"
            )
        if (store.labels is None) != (first.labels is None):
            raise SpecMismatch(f"one of {store.path} and {first.path} has labels, the other none")
    names = list(dict.fromkeys(name for store in stores for name in store.class_names))
    labels = None
    if first.labels is not None:
        index = {name: k for k, name in enumerate(names)}
        labels = np.concatenate(
            [np.array([index[n] for n in s.class_names], np.int64)[s.labels] for s in stores]
        )
    _warn_of_rules(stores)
    pictures = [store.pictures for store in stores]
    conditions = [p.get("conditions") for p in pictures]
    known = {
        "name": " + ".join(p["name"] for p in pictures),
        "count": sum(p["count"] for p in pictures),
        "fingerprint": fingerprint([p["fingerprint"] for p in pictures]),
        "conditions": None if conditions == [None] * len(stores) else fingerprint(conditions),
        **({"reading": rule_of(pictures[0])} if min(map(rule_of, pictures)) > 1 else {}),
        **_told(stores, names),
    }
    request = _request(first)
    request = Request(request.spec, request.model, known, _how(stores))
    skipped = {name: why for s in stores for name, why in s.skipped.items() if name not in owner}
    dropped = _dropped(stores)
    sources = {name: stores for name in _names(first) if name not in dropped}
    return _Plan(request, list(owner), labels, names, skipped, sources)


def _told(stores: list[FeatureStore], names: list[str]) -> dict[str, Any]:
    """What pictures were told, of all files together: the model's classes, and embeddings.

    Raises:
        SpecMismatch: a class was another class of the model elsewhere.
    """
    found: dict[str, Any] = {}
    pictures = [store.pictures for store in stores]
    rows = {p.get(EMBEDDING_ROWS) for p in pictures}
    # one row in each of two files that differ is not one for all
    if rows == {1} and len({p.get("conditions") for p in pictures}) == 1:
        found[EMBEDDING_ROWS] = 1
    if any(MODEL_CLASSES in p for p in pictures):
        owner: dict[str, tuple[int | None, FeatureStore]] = {}
        for store in stores:
            for name, index in zip(store.class_names, _model_classes(store), strict=True):
                known, where = owner.setdefault(name, (index, store))
                if index is not None and known not in (index, None):
                    raise SpecMismatch(
                        f"{name!r} was the model's class {index} in {store.path} and "
                        f"{known} in {where.path}; extract both in the same way"
                    )
                if known is None:
                    owner[name] = (index, store)
        found[MODEL_CLASSES] = [owner[name][0] for name in names]
    return found


def _model_classes(store: FeatureStore) -> list[int | None]:
    """The model's class of each class; by position in files that do not say, as they did it."""
    count = len(store.class_names)
    found = store.pictures.get(MODEL_CLASSES, list(range(count)))
    if (
        not isinstance(found, list)
        or len(found) != count
        or not all(index is None or type(index) is int for index in found)
    ):
        raise StoreError(f"{store.path}: damaged ({MODEL_CLASSES}); extract it again")
    return found


def _names(store: FeatureStore) -> list[str]:
    """Names of the data sets with a row per picture."""
    found = [f"features/{b}/t{format_t(t)}" for b in store.blocks for t in store.timesteps]
    return [*found, *(name for name in PICTURE_COLUMNS if getattr(store, name) is not None)]


def _dropped(stores: list[FeatureStore]) -> list[str]:
    """What some of the files lack, so that the joined one has none of it; said once."""
    dropped = []
    for name in KEPT:
        lacking = [store for store in stores if getattr(store, name) is None]
        if lacking and len(lacking) < len(stores):
            dropped.append(name)
            warnings.warn(f"/{name} is dropped, because {lacking[0].path} has none", stacklevel=5)
    return dropped


class _Contents(NamedTuple):
    """What the pictures hold, by one rule of reading; by two rules it cannot be compared."""

    rule: int
    fingerprint: str


class _Sizes(NamedTuple):
    """(H, W) of the pictures; None in older files, which can be compared with nothing."""

    sizes: list | None


def _contents(store: FeatureStore) -> _Contents:
    return _Contents(rule_of(store.pictures), store.pictures["fingerprint"])


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, _Contents) and one.rule != other.rule:
        return True  # as far as can be told, which is said
    if isinstance(one, _Sizes) and None in (one.sizes, other.sizes):
        return True
    return one == other


def _warn_of_rules(stores: list[FeatureStore]) -> None:
    rules = sorted({rule_of(store.pictures) for store in stores})
    if len(rules) > 1:
        warnings.warn(
            "some of the files were made before version 0.7, which ignored ICC profiles and took "
            "ids as the file system spelled them; whether the pictures' contents are the same "
            "cannot be told",
            stacklevel=4,
        )


def _request(store: FeatureStore) -> Request:
    return Request.from_attrs(store.file)


def _how(stores: list[FeatureStore]) -> dict[str, Any]:
    found = [store.how for store in stores]
    return found[0] if all(how == found[0] for how in found) else {"merged": found}


def _columns(stores: list[FeatureStore], name: str) -> list[tuple[list, Column]]:
    """Data sets as they are stored, and what they become; of int8 also those of the scales."""
    if name in PICTURE_COLUMNS:
        found = [store.file[name] for store in stores]
    else:
        block, t = name.split("/")[1], float(name.split("/")[2][1:])
        found = [store[block, t] for store in stores]
    data = found[0]
    for store, other in zip(stores, found, strict=True):
        if other.shape[1:] != data.shape[1:]:
            raise SpecMismatch(
                f"{store.path}: {name} has rows of shape {other.shape[1:]}, elsewhere "
                f"{data.shape[1:]}"
            )
        if _stored(other) != _stored(data):
            raise SpecMismatch(
                f"{store.path}: {name} is stored as {_stored(other)}, elsewhere as "
                f"{_stored(data)}; extract all in the same dtype"
            )
    attrs = {key: data.attrs[key] for key in data.attrs if key != ATTRIBUTE}
    if WHEN in attrs:
        attrs[WHEN] = min(int(other.attrs.get(WHEN, 0)) for other in found)
    if not isinstance(data, QuantizedView):
        return [(found, Column(name, data.shape[1:], str(data.dtype), attrs))]
    attrs |= {**quantization_attrs(name, data.shape[1:]), "group": data.group}
    if any(other.group != data.group for other in found):
        raise SpecMismatch(f"{name} was quantised in groups of other sizes")
    numbers = Column(name, data.shape[1:], "int8", attrs)
    scales = Column(scale_name(name), data.scales.shape[1:], "float32", {})
    return [([o.quantized for o in found], numbers), ([o.scales for o in found], scales)]


def _stored(data) -> str:
    """The dtype in the file, and whether it is that of quantised numbers."""
    quantized = isinstance(data, QuantizedView)
    return f"quantised {data.quantized.dtype}" if quantized else str(data.dtype)


def _write(plan: _Plan, out: Path, compression: str, progress: Progress) -> None:
    columns = [found for name, stores in plan.sources.items() for found in _columns(stores, name)]
    count = len(plan.ids)
    room = room_for([column for _, column in columns], count, compression) + (1 << 20)
    room += sum(len(name.encode()) + 64 for name in plan.ids)
    partial = out.with_name(f"{out.name}.{os.getpid()}-{secrets.token_hex(4)}")
    steps = [float(t) for t in _steps(plan)]
    names = None if plan.labels is None else plan.class_names
    with new_file(partial, out, reserved=room) as file:
        create_header(file, plan.request, count, names, steps)
        lists = {"ids": plan.ids} | ({} if plan.labels is None else {"labels": plan.labels})
        for name, values in lists.items():
            file[name][:] = values
            seal = Seal()
            seal.add(values)
            seal.write(file[name])
        write_skipped(file, list(plan.skipped), list(plan.skipped.values()))
        for found, column in progress(columns):
            target = create_column(file, column, count, compression)
            chunk = (target.chunks or (1,))[0]
            step = max(1, BLOCK_BYTES // column.row_bytes // chunk) * chunk
            row, seal = 0, Seal()
            for data in found:
                before = Seal()
                for start in range(0, len(data), step):
                    stop = min(start + step, len(data))
                    block = data[start:stop]
                    target[row + start : row + stop] = block
                    before.add(block)
                    seal.add(block)
                    file.check()
                check_seal(before, data)
                row += len(data)
            seal.write(target)
        file.attrs["complete"] = True


def _steps(plan: _Plan) -> list[float]:
    """Native t of all features."""
    names = (name.split("/") for name in plan.sources if name not in PICTURE_COLUMNS)
    return list(dict.fromkeys(float(parts[2][1:]) for parts in names))
