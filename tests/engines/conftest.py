"""One model, one folder of pictures, and what one process makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffeat.engines import processes
from tests.engines.common import content, extract, save_pictures


@pytest.fixture(scope="session")
def model(folder_of) -> Path:
    return folder_of("pixel")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def reference(model, pictures, tmp_path_factory) -> dict[str, tuple]:
    """What one undisturbed process makes."""
    path = tmp_path_factory.mktemp("reference") / "f.h5"
    extract(model, pictures, path, engine="local")
    return content(path)


@pytest.fixture
def quick(server, monkeypatch):
    """Let the engine of processes start its workers in this way."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda kind: server)
