"""Pairs of pictures bound to the feature files that hold them.

bound = bind(targets, [store])            # or two files: pairs may go from one to the other
bound.pairs                               # probes.Pairs, rows of `bound.cells()`
bound.cells([("up.1", 20)])               # probes.Cells over the rows of all files
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from diffeat.conditioned import conditioned
from diffeat.coords import EDGE, Placement
from diffeat.errors import SourceError, SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Seen, Source, look
from diffeat.images.digests import digest_of_nothing
from diffeat.search.stored import cells_of, check_alike, corrupted_text, identity_of, rows_by_id
from diffeat.search.tasks import CellKey, bytes_fingerprint, cell_name, choose_cells
from diffeat.store import FeatureStore, seen_in
from diffeat.targets.pairs.base import PairTargets, Truth
from diffeat.targets.pairs.joined import JoinedPairs
from probes.cells import Cells
from probes.lazy import Stacked
from probes.pairs import Pairs, as_points

OUTSIDE, MISSING = ("refuse", "wrong"), ("refuse", "leave-out")
NAMED = 3
"""Pictures that a message names."""


@dataclass(frozen=True, eq=False)
class BoundPairs:
    """P pairs whose pictures have features, by row of the files, one after the other.

    Attributes:
        targets: of these pairs alone.
        stores: the files, which must be open as long as features are read.
        keys: the (block, t) that there are.
        pairs: rows and points; `reference` is None, and so is `target_points` without a truth.
        boxes: (P, 4) float64 x1, y1, x2, y2 of what the targets show; nan where it is not known.
        sizes: (N, 2) H, W in pixels of the upright pictures, N rows of all files.
        placements: (N, 4) sx, tx, sy, ty.
        left_out: why pairs were left out → how many, also by the reader of the targets.
        hidden: how many points the inputs do not show (`outside="wrong"`); see `shown`.
    """

    targets: PairTargets
    stores: tuple[FeatureStore, ...]
    keys: tuple[CellKey, ...]
    pairs: Pairs
    boxes: np.ndarray
    sizes: np.ndarray
    placements: np.ndarray
    left_out: dict[str, int]
    hidden: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def categories(self) -> tuple[str, ...]:
        """P names of what is shown, "" where nothing is said."""
        return self.targets.categories

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """P (source's, target's) names of what the pictures belong to."""
        return self.targets.groups

    @property
    def noted(self) -> dict[str, int]:
        """What was taken though it is odd → how many ("pairs listed twice", corrupted pictures)."""
        worse = corrupted_text([self.stores[0].spec])  # all are made alike
        more = {worse: len(np.unique([self.pairs.source, self.pairs.target]))} if worse else {}
        return {**self.targets.noted, **more}

    @property
    def name(self) -> str:
        """Of the pairs, for messages."""
        return self.targets.name

    def target_size(self, pair: int) -> tuple[int, int]:
        """H, W in pixels of the upright target of a pair."""
        height, width = self.sizes[self.pairs.target[pair]].tolist()
        return height, width

    def box(self, pair: int) -> np.ndarray | None:
        """(4,) x1, y1, x2, y2 of what the target of a pair shows; None where it is not known."""
        box = self.boxes[pair]
        return None if np.isnan(box).any() else box

    def about(self, pair: int) -> dict[str, Any]:
        """What `probes.metrics.PCK.update` is told of a pair beside its points."""
        return {
            "size": self.target_size(pair), "box": self.box(pair),
            "picture": self.targets.target[pair], "category": self.categories[pair],
            "groups": self.groups[pair],
        }  # fmt: skip

    @cached_property
    def conditioned(self) -> str:
        """By what the model was told of single pictures: "{class} in the prompt", or ""."""
        return max((conditioned(one.spec, one.pictures) for one in self.stores), key=len)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the features, the pairs and what corresponds."""
        rows = np.stack([self.pairs.source, self.pairs.target])
        return fingerprint(self.identity, bytes_fingerprint(rows), self.targets.fingerprint)

    @cached_property
    def identity(self) -> str:
        """Hash of what the features were made of, whatever the cells."""
        return identity_of([(one.spec.to_dict(), one.model, one.pictures) for one in self.stores])

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(H, W) of all inputs; None where each has a size of its own."""
        return self.stores[0].spec.size

    def read(self, block: str, t: float) -> Any:
        """(N, C, h, w) of all files, read in slices; int8 as what it stands for."""
        found = [one[block, t] for one in self.stores]
        return found[0] if len(found) == 1 else Stacked(found)

    def cells(self, keys: Sequence[CellKey] | None = None) -> Cells:
        """Maps of all rows at some (block, t); None is all of them. Nothing is read before."""
        return Cells(
            {key: self.read(*key) for key in self.keys if keys is None or key in keys},
            sizes=self.sizes, placements=self.placements, input_size=self.input_size,
        )  # fmt: skip

    def shown(self, pair: int) -> np.ndarray:
        """(n,) bool: which points of a pair both inputs show."""
        found = np.ones(len(self.pairs.source_points[pair]), bool)
        for rows, points in self.sides.values():
            found &= self.placement(rows[pair]).valid(points[pair])
        return found

    @property
    def sides(self) -> dict[str, tuple[np.ndarray, Any]]:
        """Side, "source" or "target", → P rows and points, where these are known."""
        pairs = self.pairs
        found = {"source": (pairs.source, pairs.source_points)}
        if pairs.target_points is not None:
            found["target"] = (pairs.target, pairs.target_points)
        return found

    def placement(self, row: int) -> Placement:
        """Where the input of a row lies in its picture."""
        return Placement.of_numbers(self.placements[row], self.input_size, self.sizes[row])

    def take(self, pairs: Any) -> BoundPairs:
        """Some of the pairs, by slice, indices or mask."""
        rows = np.arange(len(self))[pairs]
        targets, pairs = self.targets.take(rows), self.pairs.take(rows)
        return replace(self, targets=targets, pairs=pairs, boxes=self.boxes[rows])

    def joined(self, other: BoundPairs) -> BoundPairs:
        """These pairs and others of the same files, after them."""
        if self.stores != other.stores or self.keys != other.keys:
            raise SpecError(f"{self.name} and {other.name} are bound to other files or cells; "
                            "expected the same")  # fmt: skip
        (a, b), left_out = (self.pairs, other.pairs), dict(self.left_out)
        for why, number in other.left_out.items():
            left_out[why] = left_out.get(why, 0) + number
        truths = a.target_points is not None and b.target_points is not None
        pairs = Pairs(
            np.concatenate([a.source, b.source]), np.concatenate([a.target, b.target]),
            (*a.source_points, *b.source_points),
            (*a.target_points, *b.target_points) if truths else None,
            groups=(*a.groups, *b.groups),
        )  # fmt: skip
        return replace(
            self, targets=JoinedPairs((self.targets, other.targets)), pairs=pairs,
            boxes=np.concatenate([self.boxes, other.boxes]), left_out=left_out,
            hidden=self.hidden + other.hidden,
        )  # fmt: skip


def bind(
    targets: PairTargets,
    stores: Sequence[FeatureStore],
    *,
    outside: str = "refuse",
    missing: str = "refuse",
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
) -> BoundPairs:
    """Find the pictures of pairs in feature files, by id.

    Args:
        targets: the pairs.
        stores: one file, or several of one model and spec that share the pictures; a picture that
            stands in two of them is taken from the first.
        outside: what becomes of points that an input does not show (`fit="crop"`): "refuse", or
            "wrong", which keeps and counts them.
        missing: what becomes of pairs whose pictures no file has: "refuse" or "leave-out".
        blocks, timesteps: only these; None means all.

    Raises:
        SpecError: vectors; files that do not fit together, from before 0.8 or without a picture;
            points that are not finite, lie outside their picture or are not shown; a picture that
            is another one by now; no pairs.
    """
    _check_words(outside, missing)
    stores = tuple(stores)
    keys = cells_of_files(stores, blocks, timesteps)
    source, target = _rows(targets, stores)
    kept, left_out = _there(targets, stores, source, target, missing)
    points = [len(targets.truth(pair).source_points) for pair in kept.tolist()]
    some = np.asarray(points, bool)
    if not some.all():
        left_out["no common points"] = int((~some).sum()) + left_out.get("no common points", 0)
        kept = kept[some]
    if not len(kept):
        raise SpecError(f"{targets.name}: no pair is left ({_counts(left_out) or 'none at all'})")
    if len(kept) < len(targets):
        targets = targets.take(kept)
    source, target = source[kept], target[kept]
    _check_contents(targets, stores, source, target)
    found = BoundPairs(
        targets, stores, keys, *_pairs(targets, source, target),
        np.concatenate([one.sizes for one in stores]),
        np.concatenate([one.placements for one in stores]), left_out,
    )  # fmt: skip
    return _inside(found, outside)


def _check_words(outside: str, missing: str) -> None:
    for name, value, known in (("outside", outside, OUTSIDE), ("missing", missing, MISSING)):
        if value not in known:
            raise SpecError(f"{name}={value!r}; expected {' or '.join(known)}")


def cells_of_files(
    stores: tuple[FeatureStore, ...], blocks: Any, timesteps: Any
) -> tuple[CellKey, ...]:
    """The cells of files that fit together and hold maps of pictures whose sizes are known."""
    if not stores:
        raise SpecError("no feature file; expected one, or several that share the pictures")
    for other in stores[1:]:
        check_alike(stores[0], other)
    name = str(stores[0].path)
    keys = choose_cells(name, cells_of(stores[0]), blocks, timesteps)
    for key in keys:
        if len(stores[0][key].shape) != 4:
            pool = stores[0].spec.pool
            why = f"was extracted with --pool {pool}" if pool != "none" else "is no map"
            raise SpecError(
                f"{name}: {cell_name(key)} holds vectors ({why}), in which no place can be found; "
                "extract with --pool none, or choose other blocks (-b)"
            )
    for one in stores:
        if one.sizes is None or one.placements is None:
            raise SpecError(
                f"{one.path}: the sizes of its pictures are not known (/sizes, /placements), as in "
                "files from before 0.8; extract it again (--overwrite)"
            )
    return keys


def _rows(targets: PairTargets, stores: tuple[FeatureStore, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(P,) and (P,) rows of all files; -1 where no file has the picture."""
    row_of = rows_by_id(stores)
    rows = np.array([*row_of.values(), -1], np.int64)
    source, target = targets.rows(list(row_of))
    return rows[source], rows[target]


def _there(
    targets: PairTargets, stores: Sequence[FeatureStore], source: np.ndarray, target: np.ndarray,
    missing: str,
) -> tuple[np.ndarray, dict[str, int]]:  # fmt: skip
    """Pairs whose pictures both have a row, and what was left out."""
    known, left_out = (source >= 0) & (target >= 0), dict(targets.left_out)
    if known.all():
        return np.arange(len(known)), left_out
    names = [targets.source[p] for p in np.flatnonzero(source < 0)]
    names += [targets.target[p] for p in np.flatnonzero(target < 0)]
    names, pairs = list(dict.fromkeys(names)), int((~known).sum())
    files = " and ".join(str(one.path) for one in stores)
    if missing == "refuse":
        skipped = [name for name in names for one in stores if name in one.skipped]
        why = f" ({len(skipped)} were skipped when it was made)" if skipped else ""
        raise SpecError(
            f"{files}: {len(names)} pictures of {targets.name} are not there{why}, such as "
            f"{_some(names)}: {pairs} of {len(known)} pairs name them; extract these pictures too, "
            "or leave such pairs out (--missing leave-out)"
        )
    left_out["pictures without features"] = pairs
    return np.flatnonzero(known), left_out


def _pairs(
    targets: PairTargets, source: np.ndarray, target: np.ndarray
) -> tuple[Pairs, np.ndarray]:
    """The rows with their points, and (P, 4) boxes."""
    truths = [targets.truth(pair) for pair in range(len(targets))]
    known = [truth.target_points is not None for truth in truths]
    if any(known) != all(known):
        raise SpecError(f"{named(targets, known.index(False))} has no points in the target, and "
                        "others have; expected them for all pairs, or for none")  # fmt: skip
    sides = [[_finite(targets, pair, truth, side) for pair, truth in enumerate(truths)]
             for side in ("source", "target")[: 1 + all(known)]]  # fmt: skip
    sides += [None] * (2 - len(sides))
    boxes = np.full((len(truths), 4), np.nan)
    for pair, truth in enumerate(truths):
        if truth.target_box is not None:
            boxes[pair] = truth.target_box
    return Pairs(source, target, *sides, groups=targets.groups), boxes


def _finite(targets: PairTargets, pair: int, truth: Truth, side: str) -> np.ndarray:
    try:
        return as_points(getattr(truth, f"{side}_points"))
    except ValueError as error:
        raise SpecError(f"{named(targets, pair)}, {side}: {error}") from error


def _inside(bound: BoundPairs, outside: str) -> BoundPairs:
    """The pairs, whose points lie in their pictures, and in what inputs show of them."""
    beyond, hidden = [], []  # (pair, side, point)
    used = np.unique([bound.pairs.source, bound.pairs.target]).tolist()
    places = {row: bound.placement(row) for row in used}
    for side, (rows, points) in bound.sides.items():
        for pair, (row, found) in enumerate(zip(rows.tolist(), points, strict=True)):
            place = places[row]
            height, width = place.picture_size
            edge = np.array([width, height]) - 0.5 + EDGE
            inside = ((found >= -0.5 - EDGE) & (found <= edge)).all(1)
            beyond += [(pair, side, k) for k in np.flatnonzero(~inside)]
            hidden += [(pair, side, k) for k in np.flatnonzero(inside & ~place.valid(found))]
    if beyond:
        raise SpecError(
            f"{len(beyond)} points lie outside their picture: {_point(bound, *beyond[0])}; "
            "expected x, y in pixels of the upright picture, from 0 on"
        )
    if hidden and outside == "refuse":
        raise SpecError(
            f"{len(hidden)} points are not in what the inputs show of their pictures (fit="
            f"{bound.stores[0].spec.fit}): {_point(bound, *hidden[0])}; extract with --fit squash "
            "or pad, or count them as wrong (--outside wrong)"
        )
    return replace(bound, hidden=len(hidden))


def _point(bound: BoundPairs, pair: int, side: str, point: int) -> str:
    rows, points = bound.sides[side]
    (x, y), (height, width) = points[pair][point], bound.sizes[rows[pair]]
    return (f"the first is ({x:g}, {y:g}) in {getattr(bound.targets, side)[pair]!r} of "
            f"{width}×{height} ({named(bound.targets, pair)})")  # fmt: skip


def _check_contents(
    targets: PairTargets, stores: Sequence[FeatureStore], source: np.ndarray, target: np.ndarray
) -> None:
    """SpecError if a picture holds something else than when its features were made.

    Of pictures that are not at hand, and files without digests, nothing can be said.
    """
    if all(one.digests is None for one in stores):
        return
    try:
        pictures = targets.pictures()
    except SourceError:
        return
    name_of = dict(zip([*source.tolist(), *target.tolist()], [*targets.source, *targets.target],
                       strict=True))  # fmt: skip
    place = {name: k for k, name in enumerate(pictures.ids)}
    first = 0
    for one in stores:
        mine = [(row - first, place[name]) for row, name in sorted(name_of.items())
                if 0 <= row - first < len(one) and name in place]  # fmt: skip
        if mine and pictures.reading != 1 and (other := changed_pictures(one, pictures, mine)):
            raise SpecError(
                f"{len(other)} pictures of {targets.name} hold something else than when "
                f"{one.path} was made: {_some(other)}; extract them again (--overwrite), or give "
                "the pairs of the pictures that it was made of"
            )
        first += len(one)


def changed_pictures(
    store: FeatureStore, pictures: Source, rows: list[tuple[int, int]]
) -> list[str]:
    """Ids of pictures, by (row, place in the source), that are there and are others by now."""
    seen = seen_in(store)
    if seen is None:
        return []
    rows, places = np.array(rows).T
    some = pictures.take(places)
    stats = None if seen.stats is None else seen.stats[rows]
    noted = Seen(some.ids, seen.digests[rows], stats, seen.when)
    found = look(some, noted).digests
    return [
        name
        for name, now, was in zip(some.ids, found, noted.digests, strict=True)
        if (now != was).any() and now.tobytes() != digest_of_nothing(name)
    ]


def named(targets: PairTargets, pair: int) -> str:
    """ "pair 3, 'a.jpg' → 'b.jpg'"."""
    return f"pair {pair}, {targets.source[pair]!r} → {targets.target[pair]!r}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + ", …" * (len(names) > NAMED)


def _counts(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left_out.items())
