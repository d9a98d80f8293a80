"""Every column of PICTURE_COLUMNS: written, read, verified, joined and exported as it says."""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffeat.errors import SpecMismatch, StoreError
from diffeat.store import PICTURE_COLUMNS, FeatureStore, merge_files, verify

NAMES = sorted(PICTURE_COLUMNS)


@pytest.fixture
def made(job):
    """Makes a file of 6 pictures with one column beside the features; returns path and values."""

    def make(name, file="one.h5", blocks=("mid",), first=0, seed=0, lacking=False):
        ids = tuple(f"{k + first:03d}.png" for k in range(6))
        one = job(file, count=6, blocks=blocks, ids=ids)
        if not lacking:
            shape, dtype = PICTURE_COLUMNS[name]["shape"], PICTURE_COLUMNS[name]["dtype"]
            rng = np.random.default_rng(seed)
            one.values[name] = rng.integers(1, 100, (6, *shape)).astype(dtype)
        return one.write(batch=4), one.values.get(name)

    return make


def column(path: Path, name: str) -> np.ndarray | None:
    """What plain h5py finds."""
    with h5py.File(path) as file:
        return file[name][:] if name in file else None


@pytest.mark.parametrize("name", NAMES)
def test_written_and_read(made, name):
    path, values = made(name)
    found = column(path, name)
    assert found.dtype == PICTURE_COLUMNS[name]["dtype"]
    np.testing.assert_array_equal(found, values)
    with h5py.File(path) as file:
        assert file[name].attrs["what"] == PICTURE_COLUMNS[name]["what"]
    with FeatureStore(path) as store:
        np.testing.assert_array_equal(store.picture_column(name), values)
        assert not [n for n in NAMES if n != name and store.picture_column(n) is not None]
    assert verify(path) == []


@pytest.mark.parametrize("name", NAMES)
def test_changed_rows_are_found(made, name):
    path, values = made(name)
    with h5py.File(path, "r+") as file:
        file[name][0] = values[0] + 1
    assert f"{name}: another checksum than when they were written" in verify(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["shape", "type", "rows"])
def test_another_shape_or_type_is_damage(made, name, wrong):
    path, values = made(name)
    other = {
        "shape": lambda: values[:, :-1],
        "type": lambda: values.astype(np.float16 if values.dtype.kind == "f" else np.int16),
        "rows": lambda: values[:-1],
    }[wrong]()
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = other
    with FeatureStore(path) as store, pytest.raises(StoreError, match=f"{name} .*has"):
        store.picture_column(name)
    assert [problem for problem in verify(path) if name in problem]


@pytest.mark.parametrize("name", NAMES)
def test_below_each_other(made, name, tmp_path):
    (one, values), (two, others) = made(name), made(name, "two.h5", first=6, seed=1)
    out = merge_files([one, two], tmp_path / "out.h5")
    np.testing.assert_array_equal(column(out, name), np.concatenate([values, others]))
    assert verify(out) == []


@pytest.mark.parametrize("name", NAMES)
def test_below_where_one_lacks_it(made, name, tmp_path):
    (one, _), (two, _) = made(name), made(name, "two.h5", first=6, lacking=True)
    if PICTURE_COLUMNS[name]["lacking"] == "refuse":
        with pytest.raises(SpecMismatch, match=f"first {name}"):
            merge_files([one, two], tmp_path / "out.h5")
        return
    with pytest.warns(UserWarning, match=f"/{name} is dropped, because .*two.h5 has none"):
        out = merge_files([one, two], tmp_path / "out.h5")
    assert column(out, name) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("same", [True, False])
def test_beside(made, name, same, tmp_path):
    (one, values) = made(name)
    two, _ = made(name, "two.h5", blocks=("up.1",), seed=0 if same else 1)
    if PICTURE_COLUMNS[name]["compared"] and not same:
        with pytest.raises(SpecMismatch, match=f"same ids, but {name} differ"):
            merge_files([one, two], tmp_path / "out.h5")
        return
    out = merge_files([one, two], tmp_path / "out.h5")
    np.testing.assert_array_equal(column(out, name), values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", [1, -1])
def test_beside_where_one_lacks_it(made, name, order, tmp_path):
    (one, _), (two, _) = made(name), made(name, "two.h5", blocks=("up.1",), lacking=True)
    paths = [one, two][::order]
    if PICTURE_COLUMNS[name]["lacking"] == "refuse":
        with pytest.raises(SpecMismatch, match=f"same ids, but {name} differ"):
            merge_files(paths, tmp_path / "out.h5")
        return
    with pytest.warns(UserWarning, match=f"/{name} is dropped"):
        out = merge_files(paths, tmp_path / "out.h5")
    assert column(out, name) is None


def test_where_all_lack_it_nothing_is_said(made, tmp_path):
    paths = [made("", f"{k}.h5", first=6 * k, lacking=True)[0] for k in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = merge_files(paths, tmp_path / "out.h5")
    assert not [name for name in NAMES if column(out, name) is not None]


@pytest.mark.parametrize("name", NAMES)
def test_exported(made, name, tmp_path):
    path, values = made(name)
    with FeatureStore(path) as store:
        store.export(tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert (name in found) is PICTURE_COLUMNS[name]["exported"]
        if name in found:
            np.testing.assert_array_equal(found[name], values)


def test_the_rules_that_users_know():
    """As documented, so that no line of the table changes unseen."""
    rules = {n: (k["lacking"], k["compared"], k["exported"]) for n, k in PICTURE_COLUMNS.items()}
    assert rules["boxes"] == ("refuse", True, True)
    assert rules["digests"] == ("drop", False, True)
    assert rules["file_stats"] == ("drop", False, False)
