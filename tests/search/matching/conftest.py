from __future__ import annotations

import pytest

from diffeat.search.matching import bind
from tests.search.matching.common import pairs_of, write_file, write_pictures


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pairs") / "things")


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
    return pairs_of(folder)


@pytest.fixture
def bound(targets, store):
    return bind(targets, [store])
