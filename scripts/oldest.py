"""The oldest versions that setup.cfg admits, as constraints for pip.

    python scripts/oldest.py > oldest.txt
    pip install --constraint oldest.txt --editable '.[dev]'

`make test-oldest` does so in an environment of its own and runs the tests there.
"""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?>=(?P<oldest>[0-9.]+)(,.*)?")


def requirements(setup: Path = SETUP) -> list[str]:
    """What diffeat and its extra `dev` require, a line of setup.cfg each."""
    parser = ConfigParser()
    parser.read(setup)
    lines = [parser["options"]["install_requires"], parser["options.extras_require"]["dev"]]
    return [line.strip() for part in lines for line in part.splitlines() if line.strip()]


def oldest(required: list[str]) -> list[str]:
    """Each requirement's lower bound as the only version allowed.

    Args:
        required: requirements such as `ray[data]>=2.51,<2.64`.

    Returns:
        Constraints such as `ray==2.51`, in the same order; pip reads 2.51 as 2.51.0.

    Raises:
        ValueError: a requirement has no lower bound, so nothing says what its oldest version is.
    """
    constraints = []
    for requirement in required:
        match = REQUIREMENT.fullmatch(requirement.replace(" ", ""))
        if match is None:
            raise ValueError(f"{requirement!r} of setup.cfg: expected NAME>=VERSION")
        constraints.append(f"{match['name']}=={match['oldest']}")
    return constraints


if __name__ == "__main__":
    print("\n".join(oldest(requirements())))
