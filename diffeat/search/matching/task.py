"""The judge of correspondence from what a command line says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.matching.bound import BoundPairs, bind
from diffeat.search.matching.judge import FRACTIONS, Matching
from diffeat.search.splits import LEFT_OUT, TEST, VALIDATION, Fractions, split_pairs
from diffeat.store import FeatureStore
from diffeat.targets.pairs import PairTargets, open_pairs
from probes.matching import NearestMatcher
from probes.matching.base import CHOICES
from probes.metrics.conventions import AGGREGATES, REFERENCES, Convention
from probes.metrics.pck import ALPHAS

MATCHER_MB = 512.0
"""What a matcher may hold, where memory allows so much."""
RESOLUTIONS = CHOICES["resolution"]


@dataclass(frozen=True)
class PairChoice:
    """Pairs, and how what is found of them is counted.

    Attributes:
        pairs: a list, a named set or a folder (see `diffeat.targets.pairs.open_pairs`).
        test_pairs: the same for the test; None splits `pairs`.
        alphas: shares of the reference; cells are judged by the first.
        reference, aggregate: see `probes.metrics.conventions`; None is the box where each target
            has one, else its picture.
        resolution: of the matcher.
        outside: what becomes of points that an input does not show: "refuse" or "wrong".
        missing: what becomes of pairs whose pictures no file has: "refuse" or "leave-out".

    Raises:
        SpecError: no pairs, unknown words.
    """

    pairs: str | None = None
    test_pairs: str | None = None
    alphas: tuple[float, ...] = ALPHAS
    reference: str | None = None
    aggregate: str = "point"
    resolution: str = "picture"
    outside: str = "refuse"
    missing: str = "refuse"

    def __post_init__(self) -> None:
        if self.pairs is None:
            raise SpecError("matching is scored on pairs; expected a list, a named set such as "
                            "spair:test or a folder in its layout (--pair-list)")  # fmt: skip
        for name, known in (("reference", (None, *REFERENCES)), ("aggregate", AGGREGATES),
                            ("resolution", RESOLUTIONS)):  # fmt: skip
            if getattr(self, name) not in known:
                raise SpecError(f"{name}={getattr(self, name)!r}; expected "
                                f"{', '.join(word for word in known if word)}")  # fmt: skip

    def opened(self) -> list[PairTargets]:
        """The pairs, and the test pairs where they are pairs of their own."""
        names = [name for name in (self.pairs, self.test_pairs) if name]
        return [open_pairs(name) for name in names]


def parts_of(
    targets: Sequence[PairTargets | BoundPairs], split: Fractions | None = None, seed: int = 0
) -> np.ndarray:
    """(P,) parts of the pairs of one list, or of a list that chooses and one of the test.

    Pairs that choose and have a group of the test are in no part.

    Args:
        split: of one list: shares of the groups in training, validation and test, of which
            training is for nothing; None shares validation and test equally.

    Raises:
        SpecError: no pairs to choose by, or to test on.
    """
    first, tested = targets[0], targets[1] if len(targets) > 1 else None
    if tested is None:
        part = split_pairs(*zip(*first.groups, strict=True), split or FRACTIONS, seed)[0]
        names = first.name
    else:
        taken = {name for pair in tested.groups for name in pair}
        shared = [a in taken or b in taken for a, b in first.groups]
        part = np.append(np.where(shared, LEFT_OUT, VALIDATION), np.full(len(tested), TEST))
        names = f"{first.name} without groups (persons, scenes, pictures) of {tested.name}"
    for number, what in ((VALIDATION, "validation"), (TEST, "test")):
        if not (part == number).any():
            raise SpecError(f"{names}: no {what} pairs are left; a pair is in a part if the groups "
                            "of both pictures are: give more pairs, or another split")  # fmt: skip
    return part


def matching_judge(
    choice: PairChoice,
    stores: Sequence[FeatureStore],
    split: Fractions | None = None,
    seed: int = 0,
    memory: int | None = None,
    device: str = "auto",
    opened: Sequence[PairTargets] | None = None,
    **cells: Any,
) -> Matching:
    """The judge of pairs whose pictures lie in one feature file or more.

    Args:
        split, seed: see `parts_of`.
        memory: bytes that the matcher may hold half of.
        device: of the matcher.
        opened: the pairs of the choice, where they are open already.
        cells: `blocks` and `timesteps`, only these.

    Raises:
        SpecError: as `bind` and `parts_of`.
    """
    targets = choice.opened() if opened is None else opened
    how = {"outside": choice.outside, "missing": choice.missing, **cells}
    bound = [bind(one, stores, **how) for one in targets]
    both = bound[0] if len(bound) == 1 else bound[0].joined(bound[1])
    part = parts_of(bound, split, seed)
    limit = MATCHER_MB if memory is None else min(MATCHER_MB, memory / 2**21)
    matcher = NearestMatcher(resolution=choice.resolution, memory_mb=limit, device=device)
    reference = choice.reference or ("image" if np.isnan(both.boxes).any() else "box")
    return Matching(both, part, Convention(reference, choice.aggregate), choice.alphas, matcher)
