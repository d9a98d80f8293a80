"""Judges of several feature files on the same pictures, whose pixels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search.comparing.pairs import FilesOf
from diffeat.search.comparing.shared import checksums, common_pictures
from diffeat.search.dense.depth import KINDS
from diffeat.search.dense.judge import DenseJudge
from diffeat.search.dense.task import DenseChoice, bound_of, digests_of, parts_of
from diffeat.search.splits import Fractions
from diffeat.store import FeatureStore

if TYPE_CHECKING:
    from diffeat.targets.dense import DenseTargets

Cells = tuple[Sequence[str] | None, Sequence[float] | None]
"""Blocks and native t of a file that are looked at; None means all."""


@dataclass(frozen=True, eq=False)
class DenseSystems:
    """What `compare` takes for pictures whose pixels are known.

    Attributes:
        judges: system → judge, all with the same pictures and parts.
        notes: how is counted, and what was left out.
    """

    judges: Mapping[str, DenseJudge]
    notes: tuple[str, ...]


def dense_systems(
    stores: Sequence[Sequence[FeatureStore]],
    names: Sequence[str],
    choice: DenseChoice,
    cells: Sequence[Cells] | None = None,
    split: Fractions | None = None,
    seed: int = 0,
    duplicates: str = "warn",
    allow_conditioned: bool = False,
    opened: Sequence[DenseTargets] | None = None,
) -> DenseSystems:
    """Judges of files on the pictures that the targets and all of them have, in one split.

    Args:
        stores: of each system, one file or several that share the pictures, with maps; open as
            long as the judges are used.
        names: of the systems.
        choice: what is known of pixels, and what learns.
        cells: of each system; None means all.
        split, seed, duplicates: of `parts_of`.
        opened: the targets of the choice, where they are open already.

    Raises:
        SpecError: no pictures in common, a picture that changed, vectors, features that were told
            what their pictures show.
    """
    sets = choice.opened([stores[0]]) if opened is None else opened
    pictures = common_pictures([FilesOf.of(files) for files in stores]).ids
    shared = [_shared(one, pictures) for one in sets]
    lacking = sum(map(len, sets)) - sum(map(len, shared))
    more = {"counting": choice.counting} if choice.kind == "masks" else {}
    bound, told = [], []
    for k, files in enumerate(stores):
        why = (conditioned(one.spec, one.pictures) for one in files)
        told.append(max(why, key=len))
        check_targets(names[k], told[k], allow_conditioned)
        bound.append(bound_of(choice, [files], shared, *(cells[k] if cells else (None, None))))
    known = next((one for one in bound if one.digests is not None), bound[0])
    part = parts_of(known.sets, digests_of(known), split, seed, duplicates)
    judges: dict[str, DenseJudge] = {}
    for one, why, name in zip(bound, told, names, strict=True):
        judge = KINDS[one.kind](one, part, choice.head, name, seed, why, **more)
        judge.identity = fingerprint(judge.identity, [checksums(file) for file in one.files])
        judges[name] = judge
    return DenseSystems(judges, _notes(judges[names[0]], lacking))


def _shared(targets: DenseTargets, pictures: Sequence[str]) -> DenseTargets:
    """Those whose pictures all systems have."""
    kept = np.flatnonzero(targets.rows(pictures) >= 0)
    if not len(kept):
        raise SpecError(f"{targets.name}: no picture is in all of the files; expected features of "
                        "the pictures that it names")  # fmt: skip
    return targets.take(kept) if len(kept) < len(targets) else targets


def _notes(judge: DenseJudge, lacking: int) -> tuple[str, ...]:
    """How is counted, and what was left out."""
    left = dict(judge.bound.left_out)
    if lacking:
        left["not all systems have their pictures"] = lacking
    said = [f"{count:,} left out: {why}" for why, count in left.items()]
    return (f"{judge.choice.name}, pixel by pixel; {judge.counted}", *said)
