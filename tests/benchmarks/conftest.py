"""What tests of benchmark files share."""

from __future__ import annotations

import pytest

from tests.twins import DIVISORS, twin


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Name of a model → the model itself if it is bundled, else a shrunk twin of it."""
    folder = tmp_path_factory.mktemp("models")

    def made(name: str) -> str:
        if name not in DIVISORS:
            return name
        if not (folder / name).exists():
            twin(name, folder / name)
        return str(folder / name)

    return made
