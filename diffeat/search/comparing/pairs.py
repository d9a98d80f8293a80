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
from diffeat.search.matching.bound import BoundPairs, bind
from diffeat.search.matching.judge import FRACTIONS, Matching
from diffeat.search.matching.scored import matcher_text
from diffeat.search.splits import LEFT_OUT, TEST, Fractions
from diffeat.store import FeatureStore
from diffeat.targets.pairs.base import PairTargets
from probes.metrics.conventions import Convention
from probes.metrics.intervals import pair_weights

Chosen = tuple[Sequence[str] | None, Sequence[float] | None]
"""Blocks and native t of a file that are looked at; None means all."""


@dataclass(frozen=True)
class Counting:
    """How key points that are found are counted.

    Attributes:
        alpha: share of the reference that a point may be off.
        aggregate: over what shares are averaged (`probes.metrics.conventions.AGGREGATES`).
        reference: "box", "image" or "extent"; None is the target's box where all pairs have one,
            else the picture.

    Raises:
        SpecError: a word that means nothing.
    """

    alpha: float = 0.1
    aggregate: str = "point"
    reference: str | None = None

    def __post_init__(self) -> None:
        self.by(self.reference or "box")

    def convention(self, bound: BoundPairs) -> Convention:
        """The convention of some pairs."""
        return self.by(self.reference or ("image" if np.isnan(bound.boxes).any() else "box"))

    def by(self, reference: str) -> Convention:
        """The convention with a reference."""
        try:
            return Convention(reference, self.aggregate)
        except ValueError as error:
            raise SpecError(str(error)) from error


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
    stores: Sequence[FeatureStore],
    names: Sequence[str],
    targets: PairTargets,
    cells: Sequence[Chosen] | None = None,
    counting: Counting = Counting(),
    fractions: Fractions = FRACTIONS,
    seed: int = 0,
) -> PairedSystems:
    """Judges of files on the pairs whose pictures all of them have, in one split by groups.

    Args:
        stores: maps of the pictures; open as long as the judges are used.
        names: of the systems.
        targets: the pairs, with a truth.
        cells: of each file; None means all.
        counting: of points.
        fractions, seed: of the split; a pair whose groups lie in different parts is left out.

    Raises:
        SpecError: no pictures or pairs in common, a picture that changed, vectors, and what `bind`
            and `Matching` refuse.
    """
    common = common_pictures(stores)
    source, target = targets.rows(common.ids)
    kept = np.flatnonzero((source >= 0) & (target >= 0))
    lacking = len(targets) - len(kept)
    if not len(kept):
        raise SpecError(f"{targets.name}: no pair has both of its pictures in all of "
                        f"{', '.join(str(store.path) for store in stores)}")  # fmt: skip
    shared = targets.take(kept) if lacking else targets
    judges: dict[str, Matching] = {}
    for k, (store, name) in enumerate(zip(stores, names, strict=True)):
        blocks, timesteps = cells[k] if cells else (None, None)
        bound = bind(shared, [store], blocks=blocks, timesteps=timesteps)
        judge = Matching(bound, None, counting.convention(bound), (counting.alpha,),
                         fractions=fractions, seed=seed, source=name)  # fmt: skip
        judge.identity = fingerprint(bound.identity, checksums(store))
        judges[name] = judge
    first = judges[names[0]]
    tested = [first.groups[row] for row in np.flatnonzero(first.part == TEST)]
    if len({group for pair in tested for group in pair}) < 2:
        raise SpecError(f"{targets.name}: the test pairs are of fewer than two groups, so nothing "
                        "tells how far a difference can be believed; give more pairs or another "
                        "--split")  # fmt: skip
    floors = {"same place": pair_outcomes(first, first.same_place)}
    notes = _notes(first, lacking)
    return PairedSystems(judges, partial(pair_weights, tested, seed), floors, notes)


def _notes(judge: Matching, lacking: int) -> tuple[str, ...]:
    """What is to be known of the pairs."""
    left = dict(judge.bound.left_out)
    if lacking:
        left["not all systems have their pictures"] = lacking
    if apart := int((judge.part == LEFT_OUT).sum()):
        left["their groups lie in different parts"] = apart
    said = [f"{count:,} pairs left out: {why}" for why, count in left.items()]
    return (f"{judge.convention.line(judge.alphas)}; {matcher_text(judge.matcher)}", *said)
