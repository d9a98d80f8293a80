"""How far a score on few test pictures can be believed."""

from __future__ import annotations

FEW, HANDFUL = 30, 10
"""Below FEW test pictures the 95 % interval is wider than a third; below HANDFUL a percentage
says nothing, and counts are given."""


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy.

        (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n),  z = 1.96

    Args:
        accuracy: in [0, 1].
        count: n, test pictures, or groups of them that were drawn independently.

    Source: Wilson, J. Am. Stat. Assoc. 1927.
    """
    from scipy.stats import binomtest

    found = binomtest(round(accuracy * count), count).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def accuracy_text(accuracy: float, count: int) -> str:
    """ "90.3 % (95 % interval 81.3 to 95.2, Wilson) on 72 test pictures"; counts for a handful."""
    right = round(accuracy * count)
    if count < HANDFUL:
        return f"{right} of {count} test pictures right, too few for a percentage"
    low, high = (100 * end for end in accuracy_interval(accuracy, count))
    return (
        f"{100 * accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f}, Wilson) on {count} test "
        "pictures"
    )


def few_text(name: str, count: int) -> str | None:
    """What to say where there are too few test pictures; None where there are enough."""
    if count >= FEW:
        return None
    low, high = (100 * end for end in accuracy_interval(0.5, count))
    return (
        f"{name}: {count} test pictures say little (half of them right would mean anything from "
        f"{low:.0f} to {high:.0f} %); give more pictures, or a test set of its own"
    )
