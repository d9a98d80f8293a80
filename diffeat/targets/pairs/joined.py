"""Several sets of pairs as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Source
from diffeat.targets.pairs.base import PairTargets, Truth


@dataclass(frozen=True, eq=False)
class JoinedPairs(PairTargets):
    """Sets of pairs, one after the other; what corresponds is asked of each.

    Args:
        sets: of one kind.
        picked: (P, 2) int64 set and pair of each; None is all of them.

    Raises:
        SpecError: none, or of different kinds.
    """

    sets: tuple[PairTargets, ...]
    picked: np.ndarray = field(default=None)

    def __post_init__(self) -> None:
        if len(kinds := {one.kind for one in self.sets}) != 1:
            found = " and ".join(sorted(kinds)) or "nothing"
            raise SpecError(f"pairs of {found}; expected sets of one kind")
        picked = self.picked
        if picked is None:
            picked = np.array([(k, pair) for k, one in enumerate(self.sets)
                               for pair in range(len(one))], np.int64)  # fmt: skip
        object.__setattr__(self, "picked", picked.reshape(-1, 2))
        for name in ("source", "target", "groups", "categories"):
            values = [getattr(one, name) for one in self.sets]
            found = tuple(values[k][pair] for k, pair in self.picked.tolist())
            object.__setattr__(self, name, found)
        for name in ("left_out", "noted"):
            total: dict[str, int] = {}
            for one in self.sets:
                for why, count in getattr(one, name).items():
                    total[why] = total.get(why, 0) + count
            object.__setattr__(self, name, total)

    @property
    def name(self) -> str:
        return " and ".join(one.name for one in self.sets)

    @property
    def kind(self) -> str:
        return self.sets[0].kind

    def pictures(self) -> Source:
        """Those of the only set.

        Raises:
            SpecError: there are several, whose pictures may lie anywhere.
        """
        if len(self.sets) > 1:
            raise SpecError(f"{self.name}: pictures of several sets; ask each of them")
        return self.sets[0].pictures()

    def homography(self, pair: int) -> np.ndarray:
        """(3, 3) of a pair of a plane."""
        number, place = self.picked[pair].tolist()
        return self.sets[number].homography(place)

    @property
    def sizes(self) -> tuple:
        """P ((H, W), (H, W)) of pairs of planes."""
        return tuple(self.sets[number].sizes[place] for number, place in self.picked.tolist())

    @property
    def angles(self) -> np.ndarray:
        """(P,) degrees of pairs of RGB-D frames."""
        return np.array([self.sets[k].angles[pair] for k, pair in self.picked.tolist()])

    def truth(self, pair: int) -> Truth:
        number, place = self.picked[pair].tolist()
        return self.sets[number].truth(place)

    @property
    def fingerprint(self) -> str:
        return fingerprint([one.fingerprint for one in self.sets], self.picked.tolist())

    def take(self, pairs: Sequence[int] | np.ndarray) -> JoinedPairs:
        return JoinedPairs(self.sets, self.picked[np.arange(len(self))[pairs]])
