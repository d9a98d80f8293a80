"""Files bound by the ids of their pictures."""

from __future__ import annotations

import numpy as np
import pytest

from diffeat.aggregation import open_sources
from diffeat.errors import SpecError, SpecMismatch
from diffeat.store import FeatureStore
from tests.search.matching.common import write_file
from tests.store.conftest import Job


def test_one_file_is_as_it_is(path):
    with FeatureStore(path) as store:
        found = open_sources([store])
        assert found.cells.keys == (("a", 10), ("a", 50), ("b", 10), ("b", 50))
        np.testing.assert_array_equal(found.cells["b", 10][3:5], store["b", 10][3:5])
        assert found.cells.input_size == (32, 40)
        some = open_sources([store], ["b"], [50])
        assert some.cells.keys == (("b", 50),)


def test_rows_are_bound_by_ids(tmp_path):
    """The second file has the pictures in reverse, and one more."""
    ids = tuple(f"{k}.png" for k in range(5))
    one = Job(tmp_path / "a.h5", 5, ids=ids).write()
    two = Job(tmp_path / "b.h5", 6, ids=(*ids[::-1], "x.png"), seed=1, model="m1").write()
    with FeatureStore(one) as a, FeatureStore(two) as b:
        with pytest.raises(SpecMismatch, match=r"5 in common.*b\.h5 has 1 that.*'x\.png'"):
            open_sources([a, b])
        found = open_sources([a, b], missing="leave-out")
        assert (found.ids, found.left_out) == (list(ids), {"pictures that not all files have": 1})
        np.testing.assert_array_equal(found.parts[1]["mid", 20][0:5], b["mid", 20][:5][::-1])


def test_several_files_in_one_frame(path, other):
    with FeatureStore(path) as a, FeatureStore(other) as b:
        cells = open_sources([a, b]).cells
        assert cells.keys[0] == ("1/a", 10)
        assert cells.keys[-1] == ("2/c", 0)
        np.testing.assert_array_equal(cells["2/c", 0][2:4], b["c", 0][2:4])
        with pytest.raises(SpecError, match=r"b\.h5|g\.h5 has none of the blocks"):
            open_sources([a, b], ["a"])
        assert open_sources([a, b], ["a", "c"], [10]).keys == ((("a", 10),), (("c", 0),))
        with pytest.raises(SpecError, match="no file has a block 'z'"):
            open_sources([a, b], ["a", "c", "z"])


def test_other_pictures_of_one_name(folder, path, tmp_path):
    """Their digests tell."""
    changed = write_file(tmp_path / "g.h5", folder, model="m1")
    changed.close()
    import h5py

    with h5py.File(tmp_path / "g.h5", "r+") as file:
        file["digests"][3] = 0
    words = r"1 pictures of one name .*'thing/03\.jpg'"
    with (
        FeatureStore(path) as a,
        FeatureStore(tmp_path / "g.h5") as b,
        pytest.raises(SpecMismatch, match=words),
    ):
        open_sources([a, b])


def test_vectors_and_nothing(tmp_path, folder):
    words = r"holds vectors .*--pool 1x1.*no places"
    with (
        write_file(tmp_path / "v.h5", folder, spec={"pool": "1x1"}) as store,
        pytest.raises(SpecError, match=words),
    ):
        open_sources([store])
    with pytest.raises(SpecError, match="no feature file"):
        open_sources([])
    with pytest.raises(SpecError, match="missing='drop'"):
        open_sources([store], missing="drop")
