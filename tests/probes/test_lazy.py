"""Arrays that are read when they are asked for."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from probes.lazy import Deferred, Picked, Rows, Stacked, is_lazy


def test_stacked_files_read_like_one(tmp_path):
    whole = np.arange(48).reshape(8, 3, 2)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        first = file.create_dataset("a", data=whole[:5])
        stacked = Stacked([first, whole[5:]])
        assert stacked.shape == (8, 3, 2)
        assert is_lazy(stacked)
        np.testing.assert_array_equal(np.asarray(stacked), whole)
        for start in range(9):
            for stop in range(start, 10):
                np.testing.assert_array_equal(stacked[start:stop], whole[start:stop])
        rows = Rows(stacked)
        for picked in ([7, 0, 5, 5, 4], [1, 2], [], [6]):
            np.testing.assert_array_equal(rows[picked], whole[picked])


def test_stacked_of_different_shapes():
    with pytest.raises(ValueError, match="different shapes"):
        Stacked([np.zeros((2, 3)), np.zeros((2, 4))])


def test_picked_rows_of_picked_rows_are_one_step():
    whole = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    some = Picked(Rows(whole), np.array([8, 3, 4, 5]))
    again = Picked(Rows(some), np.array([1, 2, 3]))
    assert again.rows.values is whole
    np.testing.assert_array_equal(again[:], whole[[3, 4, 5]])
    np.testing.assert_array_equal(Rows(some)[[0, 3]], whole[[8, 5]])


def test_deferred_rows_are_made_when_they_are_asked_for():
    asked = []

    def read(rows):
        asked.append(rows)
        return np.arange(10.0)[rows, None]

    made = Deferred((10, 1), read, np.float32)
    rows = Rows(made)
    assert (len(rows), rows.nbytes, asked) == (10, 40, [])
    np.testing.assert_array_equal(rows[2:4], [[2], [3]])
    assert asked == [slice(2, 4)]


def test_gaps_are_allowed_where_they_are_meant():
    values = np.array([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(ValueError, match="contains nan"):
        Rows(values)[:]
    np.testing.assert_array_equal(Rows(values, gaps=True)[:], values.astype(np.float32))
    with pytest.raises(ValueError, match="contains inf"):
        Rows(np.array([np.inf]), gaps=True)[:]
