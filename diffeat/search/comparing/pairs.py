"""Judges of several feature files on the same pairs of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.search.comparing.outcomes import Outcomes, pair_outcomes
from diffeat.search.comparing.run import Draws
from diffeat.search.comparing.shared import checksums, common_pictures
from diffeat.search.matching.judge import Matching
from diffeat.search.matching.scored import matcher_text
from diffeat.search.matching.task import PairChoice, matching_judge
from diffeat.search.splits import LEFT_OUT, TEST, Fractions
from diffeat.store import FeatureStore
from diffeat.targets.pairs.base import PairTargets
from probes.metrics.intervals import pair_weights

Cells = tuple[Sequence[str] | None, Sequence[float] | None]
"""Blocks and native t of a file that are looked at; None means all."""


@dataclass(frozen=True, eq=False)
class PairedSystems:
    """What `compare` takes for pairs, all of the same ones.

    Attributes:
        judges: system → judge.
        draws: weights of the test pairs, the groups of both pictures drawn anew.
        floors: the same place of the target.
        notes: how is counted, and what was left out.
    """

    judges: Mapping[str, Matching]
    draws: Draws
    floors: Mapping[str, Outcomes]
    notes: tuple[str, ...]


def paired_systems(
    stores: Sequence[Sequence[FeatureStore]],
    names: Sequence[str],
    choice: PairChoice,
    cells: Sequence[Cells] | None = None,
    split: Fractions | None = None,
    seed: int = 0,
    memory: int | None = None,
    device: str = "auto",
    opened: Sequence[PairTargets] | None = None,
) -> PairedSystems:
    """Judges of files on the pairs whose pictures all of them have, in one split by groups.

    Args:
        stores: of each system, one file or several that share the pictures, with maps; open as
            long as the judges are used.
        names: of the systems.
        choice: the pairs, and how what is found is counted.
        cells: of each system; None means all.
        split, seed, memory, device: of `matching_judge`.
        opened: the pairs of the choice, where they are open already.

    Raises:
        SpecError: no pictures or pairs in common, a picture that changed, vectors, and what
            `matching_judge` refuses.
    """
    sets = choice.opened() if opened is None else opened
    pictures = common_pictures([FilesOf.of(files) for files in stores]).ids
    shared = [_shared(one, pictures) for one in sets]
    lacking = sum(map(len, sets)) - sum(map(len, shared))
    judges: dict[str, Matching] = {}
    for k, (files, name) in enumerate(zip(stores, names, strict=True)):
        blocks, timesteps = cells[k] if cells else (None, None)
        judge = matching_judge(choice, files, split, seed, memory, device, shared,
                               blocks=blocks, timesteps=timesteps)  # fmt: skip
        sums = [checksums(store) for store in files]
        judge.source, judge.identity = name, fingerprint(judge.identity, sums)
        judges[name] = judge
    first = judges[names[0]]
    first.check()
    tested = [first.groups[row] for row in np.flatnonzero(first.part == TEST)]
    if first.tested_groups < 2:
        raise SpecError(f"{first.bound.name}: the test pairs are of fewer than two groups, so "
                        "nothing tells how far a difference can be believed; give more pairs or "
                        "another --split")  # fmt: skip
    floors = {"same place": pair_outcomes(first, first.same_place)}
    draws = partial(pair_weights, tested, seed)
    return PairedSystems(judges, draws, floors, _notes(first, lacking))


@dataclass(frozen=True, eq=False)
class FilesOf:
    """What `common_pictures` asks of a file, of several as one."""

    path: str
    ids: tuple[str, ...]
    digests: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, files: Sequence[FeatureStore]) -> FilesOf:
        row_of = {name: (k, row) for k, one in reversed(list(enumerate(files)))
                  for row, name in enumerate(one.ids)}  # fmt: skip
        path = " and ".join(str(one.path) for one in files)
        if any(one.digests is None for one in files):
            return cls(path, tuple(row_of), None)
        return cls(path, tuple(row_of), np.stack([files[k].digests[r] for k, r in row_of.values()]))


def _shared(targets: PairTargets, pictures: Sequence[str]) -> PairTargets:
    """The pairs whose pictures all systems have."""
    source, target = targets.rows(pictures)
    kept = np.flatnonzero((source >= 0) & (target >= 0))
    if not len(kept):
        raise SpecError(f"{targets.name}: no pair has both of its pictures in all of the files; "
                        "expected features of the pictures that it names")  # fmt: skip
    return targets.take(kept) if len(kept) < len(targets) else targets


def _notes(judge: Matching, lacking: int) -> tuple[str, ...]:
    """What is to be known of the pairs."""
    left = dict(judge.bound.left_out)
    if lacking:
        left["not all systems have their pictures"] = lacking
    if apart := int((judge.part == LEFT_OUT).sum()):
        left["their groups lie in different parts"] = apart
    said = [f"{count:,} pairs left out: {why}" for why, count in left.items()]
    said += [f"{judge.source}: {judge.told}"] if judge.told else []
    return (f"{judge.convention.line(judge.alphas)}; {matcher_text(judge.matcher)}", *said)
