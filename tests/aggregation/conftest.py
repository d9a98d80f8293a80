from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffeat.store import FeatureStore
from tests.search.matching.common import write_file, write_pictures


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """24 pictures of 12 persons, and their pairs."""
    return write_pictures(tmp_path_factory.mktemp("pairs") / "things")


@pytest.fixture(scope="session")
def path(folder, tmp_path_factory) -> Path:
    """Maps of 12 channels on 8×10 sites; cell ("b", 10) shows the key points, ("a", 50) nothing."""
    found = tmp_path_factory.mktemp("features") / "f.h5"
    write_file(found, folder).close()
    return found


@pytest.fixture(scope="session")
def other(folder, tmp_path_factory) -> Path:
    """Another model on the same pictures, in another order of files."""
    found = tmp_path_factory.mktemp("other") / "g.h5"
    write_file(found, folder, noise={("c", 0): 2.0}, model="m1").close()
    return found


@pytest.fixture(scope="session")
def fewer(folder, tmp_path_factory) -> Path:
    """Another model on all pictures but the last four."""
    found = tmp_path_factory.mktemp("fewer") / "h.h5"
    write_file(found, folder, rows=range(20), noise={("c", 0): 2.0}, model="m1").close()
    return found


@pytest.fixture
def read():
    """Everything of one cell of a file as float64."""

    def values(path: Path, block: str, t: float) -> np.ndarray:
        with FeatureStore(path) as store:
            return store[block, t][:].astype(np.float64)

    return values
