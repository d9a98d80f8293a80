from __future__ import annotations

import pytest

from diffeat.search.dense import bind_dense
from tests.search.dense.common import Planted, write_file, write_pictures


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("dense") / "things")


@pytest.fixture(scope="session")
def path(folder, tmp_path_factory):
    found = tmp_path_factory.mktemp("features") / "f.h5"
    write_file(found, folder).close()
    return found


@pytest.fixture
def store(path):
    from diffeat.store import FeatureStore

    with FeatureStore(path) as store:
        yield store


@pytest.fixture
def targets(folder):
    return Planted(folder)


@pytest.fixture
def bound(targets, store):
    return bind_dense(targets, [store])
