"""What tests skip with old versions of a library, and why: one list, that a test holds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import pytest
from packaging.version import Version


@dataclass(frozen=True)
class Gate:
    """A test that wants a library of at least some version.

    Attributes:
        package: its name.
        least: the oldest version with which the test passes, as far as it was tried.
        reason: what older ones cannot do.
    """

    package: str
    least: str
    reason: str

    @property
    def active(self) -> bool:
        """Whether the installed version is older."""
        return Version(version(self.package)) < Version(self.least)


GATES = {
    "mixed labels": Gate("scikit-learn", "1.9.1", "1.6 scores numbers against words as wrong"),
    "routed score": Gate(
        "scikit-learn", "1.9.1", "1.6 searches a grid over a pipeline without what its score wants"
    ),
    "empty folder": Gate("datasets", "5.2", "4.0 divides by zero as it saves a set without rows"),
}


def wants(name: str) -> pytest.MarkDecorator:
    """The mark of a test that a gate of the list may skip."""
    gate = GATES[name]
    reason = f"{gate.package} {gate.least} or newer: {gate.reason}"
    return pytest.mark.skipif(gate.active, reason=reason)
