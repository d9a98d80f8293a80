"""The judge of correspondence from what a command line says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.search.matching.bound import BoundPairs, bind
from diffeat.search.matching.geometry import SHARES, DenseRecall, HomographyAccuracy
from diffeat.search.matching.judge import FRACTIONS, Matching
from diffeat.search.matching.scored import check_said
from diffeat.search.splits import LEFT_OUT, TEST, VALIDATION, Fractions, split_pairs
from diffeat.store import FeatureStore
from diffeat.targets.pairs import PairTargets, open_pairs
from probes.matching import MutualMatcher, NearestMatcher
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
        alphas: shares of the reference; cells are judged by the first. None are the task's own.
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
    alphas: tuple[float, ...] | None = None
    reference: str | None = None
    aggregate: str = "point"
    resolution: str = "picture"
    outside: str = "refuse"
    missing: str = "refuse"

    def __post_init__(self) -> None:
        if self.pairs is None:
            raise SpecError("matching is scored on pairs; expected a list, a named set such as "
                            "spair:test or a folder in its layout (--pairs)")  # fmt: skip
        for name, known in (("reference", (None, *REFERENCES)), ("aggregate", AGGREGATES),
                            ("resolution", RESOLUTIONS)):  # fmt: skip
            if getattr(self, name) not in known:
                raise SpecError(f"{name}={getattr(self, name)!r}; expected "
                                f"{', '.join(word for word in known if word)}")  # fmt: skip

    def opened(self) -> list[PairTargets]:
        """The pairs, and the test pairs where they are pairs of their own."""
        names = [name for name in (self.pairs, self.test_pairs) if name]
        return [open_pairs(name) for name in names]

    def check(self, targets: Sequence[PairTargets]) -> None:
        """SpecError where pairs lack what the choice asks for; no feature is needed for that."""
        way = Convention(self.reference or "image", self.aggregate)
        for one in targets:
            check_said(one, [way])


def parts_of(
    targets: Sequence[PairTargets | BoundPairs], split: Fractions | None = None, seed: int = 0
) -> np.ndarray:
    """(P,) parts of the pairs of one list, or of a list that chooses and one of the test.

    Pairs that choose and have a group of the test are in no part.

    Args:
        split: of one list: shares of the groups in training, validation and test, of which
            training is for a mixer alone; None shares validation and test equally. With a list of
            the test the first one is shared between training and validation, in the ratio of
            these; None is validation alone.

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
        chosen = _without_test(first, split, seed)
        part = np.append(np.where(shared, LEFT_OUT, chosen), np.full(len(tested), TEST))
        names = f"{first.name} without groups (persons, scenes, pictures) of {tested.name}"
    for number, what in ((VALIDATION, "validation"), (TEST, "test")):
        if not (part == number).any():
            raise SpecError(f"{names}: no {what} pairs are left; a pair is in a part if the groups "
                            "of both pictures are: give more pairs, or another split")  # fmt: skip
    return part


def _without_test(first: Any, split: Fractions | None, seed: int) -> np.ndarray | int:
    """(P,) training and validation of pairs that have a test of their own."""
    if split is None or not split[0] or not sum(split[:2]):
        return VALIDATION
    shares = split[0] / sum(split[:2]), split[1] / sum(split[:2]), 0.0
    return split_pairs(*zip(*first.groups, strict=True), shares, seed)[0]


def matching_judge(
    choice: PairChoice,
    stores: Sequence[FeatureStore],
    split: Fractions | None = None,
    seed: int = 0,
    memory: int | None = None,
    device: str = "auto",
    opened: Sequence[PairTargets] | None = None,
    task: str = "matching",
    **cells: Any,
) -> Matching:
    """The judge of pairs whose pictures lie in one feature file or more.

    Args:
        split, seed: see `parts_of`.
        memory: bytes that the matcher may hold half of.
        device: of the matcher.
        opened: the pairs of the choice, where they are open already.
        task: "matching", "homography" (of planes) or "depth" (of RGB-D frames).
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
    options = {"memory_mb": limit, "device": device}
    if task == "homography":
        return _of_planes(choice, both, part, MutualMatcher(**options))
    matcher = NearestMatcher(resolution=choice.resolution, **options)
    if task == "depth":
        if choice.reference not in (None, "image") or choice.aggregate != "point":
            raise SpecError("--task depth counts points by the side of the picture; leave "
                            "--reference and --aggregate out")  # fmt: skip
        return DenseRecall(both, part, choice.alphas or SHARES, matcher)
    reference = choice.reference or ("image" if np.isnan(both.boxes).any() else "box")
    way = Convention(reference, choice.aggregate)
    return Matching(both, part, way, choice.alphas or ALPHAS, matcher)


def _of_planes(
    choice: PairChoice, both: BoundPairs, part: np.ndarray, matcher: MutualMatcher
) -> HomographyAccuracy:
    """What counts points has nothing to say there."""
    plain = PairChoice(choice.pairs)
    names = ("alphas", "reference", "aggregate", "resolution")
    if odd := [name for name in names if getattr(choice, name) != getattr(plain, name)]:
        raise SpecError(f"--task homography counts planes whose corners are found within 3 px; "
                        f"leave {', '.join(odd)} out")  # fmt: skip
    return HomographyAccuracy(both, part, matcher=matcher)
