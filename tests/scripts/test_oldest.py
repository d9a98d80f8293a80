"""scripts/oldest.py: the constraints under which `make test-oldest` installs."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.scripts.conftest import SCRIPTS


@pytest.fixture(scope="module")
def oldest():
    sys.path.insert(0, str(SCRIPTS))
    import oldest

    yield oldest
    sys.path.remove(str(SCRIPTS))


def test_lower_bounds(oldest):
    required = ["torch>=2.6", "ray[data] >= 2.51, <2.64", "huggingface_hub>=0.34.1"]
    assert oldest.oldest(required) == ["torch==2.6", "ray==2.51", "huggingface_hub==0.34.1"]


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.6", "torch>2.6"])
def test_what_has_no_lower_bound_is_refused(oldest, requirement):
    with pytest.raises(ValueError, match=r"expected NAME>=VERSION"):
        oldest.oldest([requirement])


def test_every_requirement_of_the_package_and_its_tests():
    """Against setup.cfg, read by the parser of pip's own requirements."""
    printed = subprocess.run(
        [sys.executable, SCRIPTS / "oldest.py"], capture_output=True, text=True, check=True
    ).stdout
    pinned = {}
    for line in printed.splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        pinned[canonicalize_name(requirement.name)] = pin.version
    setup = ConfigParser()
    setup.read(SCRIPTS.parent / "setup.cfg")
    lines = (setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]).split(
        "\n"
    )
    wanted = {}
    for requirement in (Requirement(line) for line in lines if line):
        (bound,) = (pin.version for pin in requirement.specifier if pin.operator == ">=")
        wanted[canonicalize_name(requirement.name)] = bound
    assert pinned == wanted
    assert {"torch", "numpy", "ray", "zarr", "pytest", "ruff"} <= set(pinned)
