"""Sums, joined channels and principal components against float64 resizes and scikit-learn."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from probes import Cells, HeadError, Maps, load, save
from probes.aggregate import ConcatCells, PCACells, SumCells
from probes.lazy import Deferred

SHAPES = {("a", 1): (5, 3, 4), ("b", 2): (7, 6, 8), ("c", 2): (4, 5, 3)}
EQUAL = {("a", 1): (5, 3, 4), ("b", 2): (5, 6, 8)}


def cells_of(shapes=None, count=6, seed=0, offset=0.0) -> Cells:
    rng = np.random.default_rng(seed)
    shapes = shapes or SHAPES
    arrays = {
        key: (rng.normal(size=(count, *shape)) * rng.uniform(0.5, 4, (shape[0], 1, 1)) + offset)
        .astype(np.float32)
        for key, shape in shapes.items()
    }  # fmt: skip
    return Cells(arrays, sizes=[(30, 40)] * count)


def up(values, grid) -> np.ndarray:
    """Bilinear by weights of the four neighbours, site by site."""
    values = np.asarray(values, np.float64)
    n, channels, h, w = values.shape
    found = np.zeros((n, channels, *grid))
    for y in range(grid[0]):
        for x in range(grid[1]):
            row = np.clip((y + 0.5) * h / grid[0] - 0.5, 0, h - 1)
            column = np.clip((x + 0.5) * w / grid[1] - 0.5, 0, w - 1)
            top, left = int(row), int(column)
            for r, v in ((top, 1 - row + top), (min(top + 1, h - 1), row - top)):
                for c, u in ((left, 1 - column + left), (min(left + 1, w - 1), column - left)):
                    found[:, :, y, x] += v * u * values[:, :, r, c]
    return found


def unit(values, axis=1):
    return values / np.linalg.norm(values, axis=axis, keepdims=True)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("size", [None, (4, 9)])
def test_joined_and_added_on_one_grid(size, normalise):
    cells, grid = cells_of(EQUAL), size or (6, 8)
    own = [np.asarray(cells[key], np.float64) for key in cells.keys]
    parts = [up(unit(values) if normalise else values, grid) for values in own]
    joined = ConcatCells(normalise=normalise, size=size).fit(cells).transform(cells)
    assert joined.keys == (("concat", 0.0),)
    assert joined["concat", 0.0].shape == (6, 10, *grid)
    np.testing.assert_allclose(joined["concat", 0.0][:], np.concatenate(parts, 1), atol=1e-5)
    added = SumCells(normalise=normalise, size=size, mean=False, weights=(3, 0.5)).fit(cells)
    found = added.transform(cells)["sum", 0.0][:]
    np.testing.assert_allclose(found, 3 * parts[0] + 0.5 * parts[1], atol=2e-5)
    mean = SumCells(normalise=normalise, size=size).fit(cells).transform(cells)["sum", 0.0][1:3]
    np.testing.assert_allclose(mean, (parts[0] + parts[1])[1:3] / 2, atol=1e-5)


def test_what_comes_out_lies_where_what_went_in_lay():
    cells = cells_of(EQUAL)
    made = SumCells().fit(cells).transform(cells)
    assert (made.sizes == cells.sizes).all()
    assert made.placements is None
    maps = SumCells().fit(cells).transform_maps(cells.maps(2))
    assert maps.size == (30, 40)
    np.testing.assert_array_equal(maps["sum", 0.0], made["sum", 0.0][2:3][0])


@pytest.mark.parametrize(("normalise", "offset"), [(False, 0.0), (False, 1000.0), (True, 0.0)])
def test_components_are_those_of_all_sites_of_the_resized_cells(normalise, offset):
    cells = cells_of(offset=offset)
    own = [np.asarray(cells[key], np.float64) for key in cells.keys]
    parts = [up(unit(values) if normalise else values, (6, 8)) for values in own]
    sites = np.concatenate(parts, 1).transpose(0, 2, 3, 1).reshape(-1, 16)
    expected = PCA(9).fit(sites)
    found = PCACells(components=9, normalise=normalise).fit(cells)
    rtol = 1e-9 if not normalise else 1e-5  # unit vectors are float32
    np.testing.assert_allclose(found.mean_, expected.mean_, rtol=1e-6, atol=1e-7)
    variance = expected.explained_variance_ * (len(sites) - 1) / len(sites)
    np.testing.assert_allclose(found.explained_variance_, variance, rtol=rtol)
    np.testing.assert_allclose(found.explained_variance_ratio_, expected.explained_variance_ratio_,
                               rtol=rtol)  # fmt: skip
    subspaces = [axes.T @ axes for axes in (found.components_, expected.components_)]
    np.testing.assert_allclose(*subspaces, atol=1e-4 if normalise else 1e-7)
    largest = np.abs(found.components_).argmax(1)
    assert (found.components_[np.arange(9), largest] > 0).all()
    made = found.transform(cells)["pca", 0.0][:].transpose(0, 2, 3, 1).reshape(-1, 9)
    want = expected.transform(sites)
    want *= np.sign((want * made).sum(0))
    np.testing.assert_allclose(made, want, atol=1e-4 * max(1, offset / 100))


def test_pieces_do_not_change_the_components(monkeypatch):
    cells = cells_of(count=9)
    whole = PCACells(components=4).fit(cells)
    monkeypatch.setattr("probes.aggregate.grids.CHUNK_BYTES", 2)
    monkeypatch.setattr("probes.aggregate.base.CHUNK_BYTES", 2)
    pieces = PCACells(components=4).fit(cells)
    np.testing.assert_allclose(pieces.components_, whole.components_, atol=1e-10)
    found, rows = pieces.transform(cells), np.array([7, 0, 3])
    np.testing.assert_allclose(
        found[rows].rows(("pca", 0.0))[:], whole.transform(cells).rows(("pca", 0.0))[rows],
        atol=1e-5,
    )  # fmt: skip


def test_memory_does_not_grow_with_pictures(monkeypatch):
    monkeypatch.setattr("probes.aggregate.grids.CHUNK_BYTES", 1 << 20)
    rng, shape = np.random.default_rng(0), (16, 12, 12)

    def read(rows):
        return rng.normal(size=(len(np.arange(10**6)[rows]), *shape)).astype(np.float32)

    def peak(count) -> int:
        tracemalloc.start()
        PCACells(components=4).fit({("a", 1): Deferred((count, *shape), read, np.float32)})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(2000) < 1.2 * peak(200)
    assert 4 * 2000 * np.prod(shape) > 10 * (1 << 20)


def test_more_components_than_channels_are_all_channels():
    cells = cells_of()
    found = PCACells(components=400).fit(cells)
    assert found.components_.shape == (16, 16)
    assert found.transform(cells)["pca", 0.0].shape == (6, 16, 6, 8)


def test_vectors_of_length_0_stay_0():
    values = np.zeros((2, 3, 2, 2), np.float32)
    values[0] = 4
    found = ConcatCells(normalise=True).fit({("a", 1): values}).transform({("a", 1): values})
    np.testing.assert_allclose(found["concat", 0.0][:], values / 4 / 3**0.5, rtol=1e-6)


def test_maps_of_tensors_of_any_kind():
    cells = cells_of(EQUAL)
    maps = cells.maps(0)
    want = ConcatCells().fit(cells).transform_maps(maps)["concat", 0.0]
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        values = {key: torch.from_numpy(maps[key]).to(kind) for key in maps.values}
        found = ConcatCells().fit(cells).transform_maps(Maps(values, maps.size, maps.size))
        assert found["concat", 0.0].dtype == np.float32
        np.testing.assert_allclose(found["concat", 0.0], want, atol=0.1)


class TestRefused:
    def test_sums_of_other_channels(self):
        with pytest.raises(ValueError, match=r"3 numbers of channels .*concat"):
            SumCells().fit(cells_of())

    @pytest.mark.parametrize("weights", [(1,), (-1, 1), (0, 0), (np.nan, 1)])
    def test_weights(self, weights):
        with pytest.raises(ValueError, match="expected 2 numbers >= 0, one a cell"):
            SumCells(weights=weights).fit(cells_of(EQUAL))

    @pytest.mark.parametrize("size", [(0, 3), (2,), (2.5, 2)])
    def test_sizes(self, size):
        found = ConcatCells(size=size).fit(cells_of(EQUAL))
        with pytest.raises(ValueError, match="size="):
            found.transform(cells_of(EQUAL))

    def test_vectors(self):
        with pytest.raises(ValueError, match="expected maps"):
            PCACells().fit({("a", 1): np.zeros((3, 4))})

    def test_components(self):
        with pytest.raises(ValueError, match="components=0"):
            PCACells(components=0).fit(cells_of())

    @pytest.mark.parametrize("lacking", ["mean_", "components_"])
    def test_a_file_without_axes(self, lacking, tmp_path):
        found = PCACells(components=2).fit(cells_of())
        delattr(found, lacking)
        save(found, tmp_path / "p.safetensors")
        with pytest.raises(HeadError, match="the axes are not those of"):
            load(tmp_path / "p.safetensors")

    def test_nan(self):
        values = np.ones((3, 4, 2, 2), np.float32)
        values[2, 1] = np.nan
        with pytest.raises(ValueError, match="nan"):
            PCACells().fit({("a", 1): values})

    def test_other_cells_and_channels(self):
        found = ConcatCells().fit(cells_of(EQUAL))
        with pytest.raises(ValueError, match="are missing"):
            found.transform({("a", 1): np.zeros((2, 5, 3, 3))})
        with pytest.raises(ValueError, match="of 5 channels, as in fit"):
            found.transform(cells_of({**EQUAL, ("b", 2): (6, 3, 3)}))
