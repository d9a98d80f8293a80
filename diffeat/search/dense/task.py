"""The judge of masks or depth from what a command line says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SourceError, SpecError
from diffeat.images import Source
from diffeat.search.dense.bound import MISSING, BoundDense, Size, bind_dense
from diffeat.search.dense.depth import KINDS
from diffeat.search.dense.heads import HeadChoice
from diffeat.search.dense.judge import SHARES, DenseJudge
from diffeat.search.splits import Fractions
from diffeat.search.stored import check_pair, parted, wanted
from diffeat.store import FeatureStore
from diffeat.targets import Labelled
from probes.metrics.segmentation import POLICIES

if TYPE_CHECKING:
    from diffeat.targets.dense import DenseTargets

OPTION = {"masks": "--masks", "depth": "--depth"}
"""Kind of the targets → how the command line names them."""


@dataclass(frozen=True)
class DenseChoice:
    """What is known of pixels, and how what is found of them is counted.

    Attributes:
        kind: "masks" or "depth".
        targets: a folder or a named set (see `diffeat.targets.dense.open_dense`).
        test_targets: the same for the test; None splits `targets`, or with a test file takes
            those of its pictures from `targets` too.
        classes: names of the classes, or a file with a name a line; None is what the set says.
        ignore: numbers in masks that do not count, beside those that the set says.
        unit: of depth in whole numbers: "mm", "cm", "m", or metres of one step; None: see
            `open_dense`.
        missing: what becomes of masks whose picture no file has: "refuse" or "leave-out".
        frame: (H, W) to score at; None is the pictures' own size.
        counting: of mIoU (see `Segmentation`).
        head: which learns.

    Raises:
        SpecError: no targets, unknown words.
    """

    kind: str
    targets: str | None = None
    test_targets: str | None = None
    classes: tuple[str, ...] | Path | None = None
    ignore: tuple[int, ...] = ()
    unit: str | None = None
    missing: str = "refuse"
    frame: Size | None = None
    counting: str = "standard"
    head: HeadChoice = field(default_factory=HeadChoice)

    def __post_init__(self) -> None:
        if self.targets is None:
            raise SpecError(f"{self.kind} of pictures are needed; expected a folder, or a named "
                            f"set such as camvid:train ({OPTION[self.kind]})")  # fmt: skip
        for name, known in (("missing", MISSING), ("counting", tuple(POLICIES))):
            if getattr(self, name) not in known:
                raise SpecError(f"{name}={getattr(self, name)!r}; expected {', '.join(known)}")

    def opened(self, pictures: Sequence[Any] = ()) -> list[DenseTargets]:
        """The targets, and those of the test where they are a set of their own.

        Args:
            pictures: of each set a source or the feature files, which say whose masks lie in a
                folder that holds masks alone.
        """
        names = [name for name in (self.targets, self.test_targets) if name]
        beside = [*pictures, *pictures][: len(names)] or [None] * len(names)
        return [self._open(name, one) for name, one in zip(names, beside, strict=True)]

    def _open(self, name: str, pictures: Any) -> DenseTargets:
        from diffeat.targets.dense import open_dense
        from diffeat.targets.dense.folders import has_masks_of

        how: dict[str, Any] = {"kind": self.kind, "missing": self.missing, "unit": self.unit}
        if self.classes is not None:
            how["classes"] = self.classes
        if self.ignore:
            how["ignore"] = self.ignore
        try:
            return open_dense(name, **how)
        except SourceError as error:
            if pictures is None or not Path(name).is_dir():
                raise
            try:
                return open_dense(name, **how, **_named(pictures))
            except SourceError as other:
                if has_masks_of(Path(name), _ids(pictures)):
                    raise
                raise error from other  # which says what layouts there are


def _ids(pictures: Any) -> list[str]:
    """Of a source, or of feature files."""
    if isinstance(pictures, Source):
        return list(pictures.ids)
    return list(dict.fromkeys(name for one in pictures for name in one.ids))


def _named(pictures: Any) -> dict[str, Any]:
    """How `open_dense` is told of pictures: a source, or ids and sizes of feature files."""
    if isinstance(pictures, Source):
        return {"pictures": pictures}
    files = list(pictures)
    known = [one for one in files if one.sizes is not None]
    return {
        "pictures": _ids(files),
        "sizes": {name: tuple(map(int, size)) for one in known
                  for name, size in zip(one.ids, one.sizes, strict=True)},
    }  # fmt: skip


def parts_of(
    sets: Sequence[DenseTargets],
    digests: Sequence[np.ndarray | None],
    split: Fractions | None = None,
    seed: int = 0,
    duplicates: str = "warn",
) -> np.ndarray:
    """(N,) parts of the pictures of one set, or of one that teaches and one of the test.

    By the groups of the targets; without such copies of a picture belong together. A set with a
    test of its own gives training and validation, 80 to 20; pictures of groups that test has, such
    as other frames of its drive, are left out of it, with a warning.

    Args:
        digests: of each set, (n, 16) uint8 of the pictures; None where they are not known.
    """
    ids, groups = [one.ids for one in sets], [tuple(one.groups) for one in sets]
    labels = [Labelled(np.zeros(len(one), np.int64), (), owners)
              for one, owners in zip(ids, groups, strict=True)]  # fmt: skip
    if all(owners == tuple(one) for one, owners in zip(ids, groups, strict=True)):
        # each picture is a group of its own, but for copies
        labels = [one._replace(groups=None) for one in labels]
    elif len(sets) > 1 and (shared := set(groups[0]) & set(groups[1])):
        labels[0] = _without(sets[0], shared)
    found = parted(sets[0].name, ids, labels, digests, split or SHARES, seed, duplicates)
    return found["part"]


def _without(one: DenseTargets, shared: set[str]) -> Labelled:
    """Of a training set: pictures of groups that test has belong to nothing, and have no part."""
    out = np.array([name in shared for name in one.groups])
    if out.all():
        raise SpecError(f"{one.name}: every group ({', '.join(sorted(shared)[:3])}) is in the test "
                        "set, too; expected others to train on")  # fmt: skip
    warnings.warn(
        f"{one.name}: {int(out.sum())} of {len(out)} pictures are of groups that the test set has "
        f"({', '.join(sorted(shared)[:3])}), and are left out of training",
        stacklevel=2,
    )
    owners = tuple(name if own else group
                   for name, group, own in zip(one.ids, one.groups, out, strict=True))  # fmt: skip
    return Labelled(np.where(out, -1, 0), (), owners)


def bound_of(
    choice: DenseChoice,
    stores: Sequence[Sequence[FeatureStore]],
    opened: Sequence[DenseTargets] | None = None,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
) -> BoundDense:
    """The pictures of one set, or of a training and a test set, with their features.

    Args:
        stores: files of the training pictures, and where they are others those of the test.
        opened: the targets of the choice, where they are open already.
    """
    sets = list(choice.opened(stores) if opened is None else opened)
    both = len(sets) == 1 and len(stores) == 2  # one set that names the pictures of two files
    sets, files = (sets * 2 if both else sets), [*stores, *stores][:2]
    missing = "leave-out" if both else choice.missing
    bound = [bind_dense(one, files[k], blocks, timesteps, missing, choice.frame)
             for k, one in enumerate(sets)]  # fmt: skip
    lacking = len(sets[0].ids) - sum(map(len, bound))
    if both and lacking > 0 and choice.missing == "refuse":
        raise SpecError(
            f"{lacking} of {len(sets[0].ids)} pictures of {sets[0].name} are in neither file; "
            "extract these pictures too, or leave them out (--missing leave-out)"
        )
    return bound[0] if len(bound) == 1 else bound[0].joined(bound[1])


def dense_judge(
    choice: DenseChoice,
    stores: Sequence[Sequence[FeatureStore]],
    split: Fractions | None = None,
    seed: int = 0,
    duplicates: str = "warn",
    allow_conditioned: bool = False,
    opened: Sequence[DenseTargets] | None = None,
    **cells: Any,
) -> DenseJudge:
    """The judge of pictures whose pixels are known, in one feature file or two.

    Args:
        stores, opened: of `bound_of`.
        split, seed, duplicates: of `parts_of`.
        allow_conditioned: also features that were told their pictures' categories; marked.
        cells: `blocks` and `timesteps`, only these.

    Raises:
        SpecError: as `bind_dense`; features that were told what the pictures show.
    """
    why = [check_targets(str(one.path), conditioned(one.spec, one.pictures), allow_conditioned)
           for files in stores for one in files]  # fmt: skip
    if len(stores) == 2:
        first = stores[0][0]
        check_pair(first, stores[1][0], duplicates, wanted(first, **cells))
    bound = bound_of(choice, stores, opened, **cells)
    part = parts_of(bound.sets, digests_of(bound), split, seed, duplicates)
    more = {"counting": choice.counting} if bound.kind == "masks" else {}
    why = max(why, key=len)
    return KINDS[bound.kind](bound, part, choice.head, seed=seed, conditioned=why, **more)


def digests_of(bound: BoundDense) -> list[np.ndarray | None]:
    """Of each set, (n, 16) uint8; None where they are not known."""
    if bound.digests is None:
        return [None] * len(bound.sets)
    return np.split(bound.digests, np.cumsum([len(one.ids) for one in bound.sets])[:-1])
