"""The list of what old versions skip."""

from __future__ import annotations

import importlib
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.versions import GATES, Gate

ROOT = Path(__file__).resolve().parents[1]


def bounds() -> dict[str, Version]:
    """Package → the oldest version that setup.cfg admits."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]
    found = {}
    for requirement in (Requirement(line) for line in lines.splitlines() if line):
        (oldest,) = (pin.version for pin in requirement.specifier if pin.operator == ">=")
        found[requirement.name] = Version(oldest)
    return found


@pytest.mark.parametrize("gate", GATES.values(), ids=list(GATES))
class TestGates:
    def test_only_the_oldest_is_skipped(self, gate):
        """`make test` installs the newest versions, and skips nothing with them."""
        installed = Version(version(gate.package))
        assert not gate.active or installed == bounds()[gate.package]

    def test_the_bound_does_not_say_it_already(self, gate):
        assert bounds()[gate.package] < Version(gate.least)


def test_a_gate_that_is_too_high_is_seen():
    assert Gate("numpy", "999", "").active
    assert not Gate("numpy", "1.0", "").active


@pytest.mark.parametrize(
    "module", ["accelerate", "av", "datasets", "hdf5plugin", "peft", "pyarrow", "ray.data", "zarr"]
)
def test_what_the_extras_bring_can_be_imported(module):
    """A broken pair of versions would else only skip the tests of that library."""
    importlib.import_module(module)
