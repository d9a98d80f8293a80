"""Masks and depth of pictures, bound to the feature files that hold these pictures.

bound = bind_dense(targets, [store])
bound.cells([("up.1", 20)])               # probes.Cells, row k is picture k of the targets
bound.masks[k]                            # (H, W), read when it is asked for
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.coords import Placement
from diffeat.errors import SourceError, SpecError
from diffeat.hashing import fingerprint
from diffeat.images.masks import move_mask
from diffeat.search.matching.bound import NAMED, cells_of_files, changed_pictures
from diffeat.search.stored import identity_of, rows_by_id
from diffeat.search.tasks import CellKey, bytes_fingerprint
from diffeat.store import FeatureStore
from diffeat.targets.by_id import match_ids
from probes.cells import Cells
from probes.lazy import Picked, Rows, Stacked

if TYPE_CHECKING:
    from diffeat.targets.dense import DenseTargets

MISSING = ("refuse", "leave-out")
KEPT_BYTES = 128 << 20
"""Of masks that have been read and are kept, so that many cells decode a file once."""
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class BoundDense:
    """N pictures whose pixels are known, and their features.

    Attributes:
        sets: the targets, one after the other: those that teach, and those of the test where they
            are a set of their own.
        stores: of each set its files, open as long as features are read.
        keys: the (block, t) that there are.
        rows: of each set, (n,) int64 rows of its files, which stand one after the other.
        sizes: (N, 2) H, W in pixels of what is scored: the upright pictures, or `frame`.
        placements: (N, 4) sx, tx, sy, ty of the inputs in these.
        left_out: why pictures were left out → how many.
        noted: what was taken though it is odd → how many.
        frame: (H, W) that masks are moved to; None is the picture's own size.
    """

    sets: tuple[DenseTargets, ...]
    stores: tuple[tuple[FeatureStore, ...], ...]
    keys: tuple[CellKey, ...]
    rows: tuple[np.ndarray, ...]
    sizes: np.ndarray
    placements: np.ndarray
    left_out: dict[str, int]
    noted: dict[str, int]
    frame: Size | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def targets(self) -> DenseTargets:
        """Of the first set."""
        return self.sets[0]

    @property
    def kind(self) -> str:
        """ "masks" or "depth"."""
        return self.targets.kind

    @property
    def name(self) -> str:
        """Of the targets, for messages."""
        return " and ".join(dict.fromkeys(one.name for one in self.sets))

    @property
    def classes(self) -> tuple[str, ...]:
        """K names of the classes."""
        return tuple(self.targets.classes)

    @property
    def ignore(self) -> int:
        """Label of pixels that do not count."""
        return int(self.targets.ignore)

    @property
    def ids(self) -> tuple[str, ...]:
        """N ids of the pictures, as the targets call them."""
        return tuple(name for one in self.sets for name in one.ids)

    @property
    def groups(self) -> tuple[str, ...]:
        """N names of what the pictures belong to."""
        return tuple(name for one in self.sets for name in one.groups)

    @cached_property
    def masks(self) -> Truths:
        """N (H, W) class indices or metres, each read when it is asked for."""
        return Truths(self)

    @property
    def files(self) -> tuple[FeatureStore, ...]:
        """Every file once."""
        return tuple(dict.fromkeys(one for files in self.stores for one in files))

    @property
    def input_size(self) -> Size | None:
        """(H, W) of all inputs; None where each has a size of its own."""
        return self.stores[0][0].spec.size

    @cached_property
    def digests(self) -> np.ndarray | None:
        """(N, 16) uint8 of the pictures' bytes; None where a file does not know them."""
        found = []
        for files, rows in zip(self.stores, self.rows, strict=True):
            if any(one.digests is None for one in files):
                return None
            found.append(np.concatenate([one.digests for one in files])[rows])
        return np.concatenate(found)

    @cached_property
    def identity(self) -> str:
        """Hash of what the features were made of, whatever the cells."""
        made = [(one.spec.to_dict(), one.model, one.pictures) for one in self.files]
        return fingerprint(identity_of(made), [bytes_fingerprint(rows) for rows in self.rows])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what is known of the pixels, by picture."""
        known = [one.fingerprint for one in self.sets]
        return fingerprint(known, list(self.ids), list(self.groups), self.frame)

    def read(self, block: str, t: float) -> Any:
        """(N, C, h, w) of the pictures, read row by row; int8 as what it stands for."""
        parts = []
        for files, rows in zip(self.stores, self.rows, strict=True):
            found = [one[block, t] for one in files]
            whole = found[0] if len(found) == 1 else Stacked(found)
            parts.append(Picked(Rows(whole, f"({block!r}, {t:g})"), rows))
        return parts[0] if len(parts) == 1 else Stacked(parts)

    def cells(self, keys: Sequence[CellKey] | None = None) -> Cells:
        """Maps of all pictures at some (block, t); None is all of them. Nothing is read before."""
        keys = self.keys if keys is None else keys
        return Cells(
            {key: self.read(*key) for key in keys}, sizes=self.sizes,
            placements=self.placements, input_size=self.input_size,
        )  # fmt: skip

    def joined(self, other: BoundDense) -> BoundDense:
        """These pictures, and after them those of a test set.

        Raises:
            SpecError: other classes, another kind, or features made in another way.
        """
        mine, theirs = ((one.kind, one.frame, one.input_size) for one in (self, other))
        if mine != theirs or self.keys != other.keys:
            raise SpecError(f"{self.name} and {other.name} are bound to other cells, kinds or "
                            "frames; expected the same")  # fmt: skip
        if self.kind == "masks" and (self.classes, self.ignore) != (other.classes, other.ignore):
            raise SpecError(
                f"{other.name} has the classes {_some(other.classes)} ({len(other.classes)}), "
                f"{self.name} {_some(self.classes)} ({len(self.classes)}); expected the same "
                "classes in one order: give both one list (--classes)"
            )
        return replace(
            self, sets=self.sets + other.sets, stores=self.stores + other.stores,
            rows=self.rows + other.rows, sizes=np.concatenate([self.sizes, other.sizes]),
            placements=np.concatenate([self.placements, other.placements]),
            left_out=_summed(self.left_out, other.left_out),
            noted=_summed(self.noted, other.noted),
        )  # fmt: skip


class Truths:
    """N label or depth maps, each read when it is asked for; `truths[rows]` are some of them.

    Those that were read are kept up to `KEPT_BYTES` in all.
    """

    def __init__(self, bound: BoundDense, rows: np.ndarray | None = None, kept: Any = None):
        self._bound = bound
        self.rows = np.arange(len(bound)) if rows is None else rows
        self._starts = np.cumsum([0, *(len(one) for one in bound.sets)])
        self._kept: dict[Any, Any] = {"bytes": 0} if kept is None else kept

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """(H, W) of one picture; of a slice, indices or a mask these pictures' `Truths`."""
        if not isinstance(key, (int, np.integer)):
            return Truths(self._bound, self.rows[key], self._kept)
        row = int(self.rows[key])
        if row not in self._kept:
            found = self._read(row)
            if self._kept["bytes"] + found.nbytes > KEPT_BYTES:
                return found
            self._kept["bytes"] += found.nbytes
            self._kept[row] = found
        return self._kept[row]

    def _read(self, row: int) -> np.ndarray:
        which = int(np.searchsorted(self._starts, row, side="right")) - 1
        place = row - int(self._starts[which])
        found = np.asarray(self._bound.sets[which].target(place))
        found.setflags(write=False)
        return found if self._bound.frame is None else self._moved(found)

    def _moved(self, found: np.ndarray) -> np.ndarray:
        """In the frame that is scored: nearest."""
        squashed = Placement.of_fit(found.shape, self._bound.frame)
        if self._bound.kind == "masks":
            return move_mask(found, squashed, ignore=self._bound.ignore)
        places = np.arange(found.size, dtype=np.int32).reshape(found.shape)
        return found.ravel()[move_mask(places, squashed, ignore=-1)]


def bind_dense(
    targets: DenseTargets,
    stores: Sequence[FeatureStore],
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
    missing: str = "refuse",
    frame: Size | None = None,
) -> BoundDense:
    """Find the pictures of masks or depth maps in feature files, by id.

    Args:
        targets: what is known of pixels.
        stores: one file, or several of one model and spec that share the pictures.
        blocks, timesteps: only these; None means all.
        missing: what becomes of masks whose picture no file has: "refuse" or "leave-out".
        frame: (H, W) that masks are moved to, by nearest, and pictures are scored at; None is
            their own size.

    Raises:
        SpecError: vectors; files that do not fit together or are from before 0.8; pictures that
            no file has, or that are others by now; masks of another size than their picture.
    """
    if missing not in MISSING:
        raise SpecError(f"missing={missing!r}; expected {' or '.join(MISSING)}")
    stores = tuple(stores)
    keys = cells_of_files(stores, blocks, timesteps)
    rows, left_out = _rows(targets, stores, missing)
    kept = np.flatnonzero(rows >= 0)
    if len(kept) < len(rows):
        targets, rows = targets.take(kept), rows[kept]
    sizes = np.concatenate([one.sizes for one in stores])[rows].astype(np.int64)
    placements = np.concatenate([one.placements for one in stores])[rows]
    _check_sizes(targets, sizes)
    _check_contents(targets, stores, rows)
    if frame is not None:  # a pixel of the frame is W/W' of the picture's, from edge to edge
        ratio = sizes[:, ::-1] / np.array(frame[::-1])
        placements = placements * np.stack([ratio[:, 0], np.ones(len(rows)), ratio[:, 1],
                                            np.ones(len(rows))], 1)  # fmt: skip
        sizes = np.tile(np.array(frame, np.int64), (len(rows), 1))
    noted = dict(targets.noted)
    if idle := sum(map(len, stores)) - len(rows):
        noted["pictures of the files have no target"] = idle
    return BoundDense((targets,), (stores,), keys, (rows,), sizes, placements, left_out, noted,
                      frame)  # fmt: skip


def _rows(
    targets: DenseTargets, stores: Sequence[FeatureStore], missing: str
) -> tuple[np.ndarray, dict[str, int]]:
    """(N,) rows of the files, -1 where none has the picture; and what was left out."""
    row_of = rows_by_id(stores)
    found = match_ids(targets.ids, list(row_of))
    rows = np.array([*row_of.values(), -1], np.int64)[found.rows]
    left_out, files = dict(targets.left_out), " and ".join(str(one.path) for one in stores)
    lacking = [targets.ids[k] for k in np.flatnonzero(rows < 0)]
    if not lacking:
        return rows, left_out
    if len(lacking) == len(rows):
        raise SpecError(
            f"{files} has no picture of {targets.name}: {stores[0].ids[0]!r} there, "
            f"{targets.ids[0]!r} here; expected features of the same pictures"
        )
    if missing == "refuse":
        why = ", some because several pictures bear that name" * bool(found.ambiguous)
        skipped = [name for name in lacking for one in stores if name in one.skipped]
        why += f" ({len(skipped)} were skipped when it was made)" if skipped else ""
        raise SpecError(
            f"{files}: {len(lacking)} of {len(rows)} pictures of {targets.name} are not there"
            f"{why}, such as {_some(lacking)}; extract these pictures too, or leave them out "
            "(--missing leave-out)"
        )
    left_out["pictures without features"] = len(lacking)
    return rows, left_out


def _check_sizes(targets: DenseTargets, sizes: np.ndarray) -> None:
    """SpecError where a mask is known to have another size than its picture in the file."""
    known = getattr(targets, "sizes", None)
    if known is None:
        return
    other = np.flatnonzero((np.asarray(known) != sizes).any(1))
    if len(other):
        row = int(other[0])
        there, here = ("×".join(map(str, one[row])) for one in (known, sizes))
        raise SpecError(
            f"{targets.name}: {len(other)} pictures are of another size than in the feature file, "
            f"such as {targets.ids[row]!r}: {there} there, {here} in the file; expected the "
            "pictures that the features were extracted from"
        )


def _check_contents(
    targets: DenseTargets, stores: Sequence[FeatureStore], rows: np.ndarray
) -> None:
    """SpecError if a picture holds something else than when its features were made.

    Of pictures that are not at hand, and files without digests, nothing can be said.
    """
    try:
        pictures = targets.pictures()
    except SourceError:
        return
    place, first = {name: k for k, name in enumerate(pictures.ids)}, 0
    for one in stores:
        mine = [(int(row) - first, place[name]) for row, name in zip(rows, targets.ids, strict=True)
                if 0 <= row - first < len(one) and name in place]  # fmt: skip
        first += len(one)
        if one.digests is None or not mine or pictures.reading == 1:
            continue
        if other := changed_pictures(one, pictures, mine):
            raise SpecError(
                f"{len(other)} pictures of {targets.name} hold something else than when "
                f"{one.path} was made: {_some(other)}; extract them again (--overwrite), or give "
                "the targets of the pictures that it was made of"
            )


def _summed(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + ", …" * (len(names) > NAMED)
