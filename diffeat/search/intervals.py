"""How far a score on few test pictures can be believed: groups count, not pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

FEW, HANDFUL = 30, 10
"""Below FEW test pictures the 95 % interval is wider than a third; below HANDFUL a percentage
says nothing, and counts are given."""
RESAMPLES = 2000
DRAWN_AT_ONCE = 1 << 21
"""Numbers of pictures in draws that are held at a time."""


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy.

        (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n),  z = 1.96

    Args:
        accuracy: in [0, 1].
        count: n, the groups that the test pictures belong to: what was drawn independently.

    Source: Wilson, J. Am. Stat. Assoc. 1927.
    """
    from scipy.special import ndtri

    n, p, z = count, accuracy, ndtri(0.975)
    whole = 2 * (n + z**2)
    middle = (2 * n * p + z**2) / whole
    half = z / whole * math.sqrt(4 * n * p * (1 - p) + z**2)
    return (
        0.0 if p == 0 else float(middle - half),
        1.0 if p == 1 else float(middle + half),
    )


def resampled(groups: Sequence[str], seed: int = 0, draws: int = RESAMPLES) -> Iterator[np.ndarray]:
    """(B, n) int64 how often each of n pictures is there, of draws of whole groups, in pieces.

    Args:
        groups: n names of what each picture belongs to.
        draws: sum of the B.
    """
    from probes.metrics.intervals import drawn_groups

    _, place = np.unique(np.asarray(groups), return_inverse=True)
    step = max(1, DRAWN_AT_ONCE // len(place))
    for drawn in drawn_groups(int(place.max()) + 1, seed, draws, step):
        yield drawn[:, place]


def percentile_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of what was found in draws; None where all are nan."""
    values = np.asarray(values, np.float64)
    if np.isnan(values).all():
        return None
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def group_interval(values: np.ndarray, groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean, with whole groups drawn.

    Args:
        values: (n,) numbers of test pictures or pairs, such as errors in pixels.
        groups: n names of what each belongs to.
        seed: of the draws, of which there are `RESAMPLES`.

    Source: Field & Welsh 2007, "Bootstrapping clustered data" (the cluster bootstrap).
    """
    from probes.metrics.intervals import drawn_groups

    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)  # (G,)
    drawn = drawn_groups(len(sums), seed, RESAMPLES, max(1, DRAWN_AT_ONCE // len(sums)))
    return percentile_interval(np.concatenate([(c @ sums) / (c @ counts) for c in drawn]))


def accuracy_text(accuracy: float, count: int, groups: int | None = None) -> str:
    """ "90.3 % (95 % interval 81.3 to 95.2, Wilson) on 72 test pictures"; counts for a handful.

    Args:
        count: test pictures.
        groups: of how many groups they are; None means each is one of its own. The interval is
            that of so many independent pictures.
    """
    groups = count if groups is None else groups
    right = round(accuracy * count)
    if groups < HANDFUL:
        of = "" if groups == count else f" of {groups} groups"
        return f"{right} of {count} test pictures{of} right, too few for a percentage"
    low, high = (100 * end for end in accuracy_interval(accuracy, groups))
    kind = "Wilson" if groups == count else "Wilson of the groups"
    of = "" if groups == count else f" of {groups} groups"
    return (
        f"{100 * accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f}, {kind}) on {count} test "
        f"pictures{of}"
    )


def few_text(name: str, groups: int) -> str | None:
    """What to say where there are too few groups of test pictures; None where there are enough."""
    if groups >= FEW:
        return None
    low, high = (100 * end for end in accuracy_interval(0.5, groups))
    return (
        f"{name}: {groups} test pictures say little (half of them right would mean anything from "
        f"{low:.0f} to {high:.0f} %); give more pictures, or a test set of its own"
    )
