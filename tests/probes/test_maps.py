"""Maps and where they lie: against torch's interpolation and the package's own placements."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffeat.coords import FITS, Placement, native_size
from probes import Cells, Maps

CELLS = {("mid", 20): (3, 4, 6), ("up.1", 20): (2, 8, 12), ("up.1", 60): (2, 1, 1)}


def made(size=(30, 50), input_size=(16, 24), placement=None, kind=torch.float32) -> Maps:
    random = torch.Generator().manual_seed(0)
    values = {cell: torch.randn(shape, generator=random).to(kind) for cell, shape in CELLS.items()}
    return Maps(values, size, input_size, placement)


def placed(fit: str, mirror: bool = False, picture=(30, 50)) -> tuple[Placement, Maps]:
    size = native_size(picture[::-1], 8) if fit == "native" else (16, 24)
    place = Placement.of_fit(picture, size, fit, mirror)
    return place, made(picture, size, place.numbers)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mirror", [False, True])
def test_points_and_sites_are_those_of_the_placement(fit, mirror):
    random = np.random.default_rng(0)
    for picture in ((30, 50), (7, 211), (90, 33), (1, 5)):
        place, maps = placed(fit, mirror, picture)
        points = random.uniform(-3, np.array(picture[::-1]) + 3, (40, 2))
        assert maps.valid(points).tolist() == place.valid(points).tolist()
        for cell, (_, *grid) in CELLS.items():
            expected = place.to_map(points, grid)
            np.testing.assert_allclose(maps.sites(points, cell), expected, atol=1e-12)
            expected = place.from_map(points, grid)
            np.testing.assert_allclose(maps.points(points, cell), expected, atol=1e-9)
            assert np.abs(maps.points(maps.sites(points, cell), cell) - points).max() < 1e-6


def test_without_a_placement_the_picture_was_squashed():
    maps, (_, squashed) = made(), placed("squash")
    points = np.random.default_rng(0).uniform(0, 30, (9, 2))
    for cell in CELLS:
        assert maps.sites(points, cell).tolist() == squashed.sites(points, cell).tolist()
    assert maps.valid([[-0.5, -0.5], [49.5, 29.5], [49.6, 3]]).tolist() == [True, True, False]


@pytest.mark.parametrize("cell", CELLS)
def test_resizing_is_that_of_torch(cell):
    maps = made()
    found, valid = maps.resize(cell)
    expected = F.interpolate(maps[cell][None], (30, 50), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert valid.shape == (30, 50)
    assert valid.all()


@pytest.mark.parametrize("cell", CELLS)
def test_sampling_is_that_of_torch(cell):
    maps, points = made(), np.random.default_rng(0).uniform(-0.5, (49.5, 29.5), (64, 2))
    found, valid = maps.sample(cell, points)
    normed = torch.from_numpy((points + 0.5) / (50, 30) * 2 - 1).float()[None, None]
    expected = F.grid_sample(
        maps[cell][None], normed, padding_mode="border", align_corners=False
    )[0, :, 0].T  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert valid.all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_map_of_coordinates_gives_them_back(fit, mirror):
    """Bilinear is exact on what is linear: between the outer centres, a cell's x, y are found."""
    place, _ = placed(fit, mirror)
    rows, columns = np.indices((8, 12))
    sites = np.stack([columns, rows], -1).reshape(-1, 2)
    x, y = place.from_map(sites, (8, 12)).T.reshape(2, 8, 12)
    maps = Maps({"xy": np.stack([x, y])}, (30, 50), place.input_size, place.numbers)
    points = np.random.default_rng(0).uniform(-0.5, (49.5, 29.5), (300, 2))
    found, valid = maps.sample("xy", points)
    site = maps.sites(points, "xy")
    within = ((site >= 0) & (site <= (11, 7))).all(1)
    assert 30 < within.sum() < 300
    assert valid[within].all()
    np.testing.assert_allclose(found[within], points[within], atol=1e-9)
    whole, shown = maps.resize("xy")
    np.testing.assert_array_equal(
        shown.reshape(-1), maps.valid(np.indices((30, 50))[::-1].reshape(2, -1).T)
    )
    for x, y in ((25, 15), (20, 11), (31, 18)):
        np.testing.assert_allclose(whole[:, y, x], [x, y], atol=1e-9)


def test_pixels_that_a_crop_cut_off_are_not_valid():
    place = Placement.of_fit((10, 40), (8, 8), "crop")  # columns 15 … 25
    maps = Maps({"a": np.zeros((1, 2, 2))}, (10, 40), (8, 8), place.numbers)
    _, valid = maps.resize("a")
    assert (valid == ((np.arange(40) >= 15) & (np.arange(40) < 25))).all()
    assert maps.sample("a", [[14, 5], [15, 5], [np.nan, 5]])[1].tolist() == [False, True, False]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_stay_tensors_and_halves_are_interpolated_in_float32(kind):
    maps = made(kind=kind)
    found = maps.sample(("mid", 20), [[3, 4]])[0]
    assert found.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert maps.resize(("mid", 20))[0].dtype == found.dtype


def test_arrays_stay_arrays():
    values = np.arange(12, dtype=np.float16).reshape(1, 3, 4)
    values.flags.writeable = False
    found = Maps({"a": values}, (3, 4), (3, 4)).sample("a", [[0, 0], [1.5, 1]])[0]
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [[0], [5.5]]
    assert found.dtype == np.float32


def test_gradients_go_through():
    values = torch.zeros(1, 3, 4, requires_grad=True)
    maps = Maps({"a": values}, (3, 4), (3, 4))
    maps.sample("a", [[1.25, 1]])[0].sum().backward()
    assert values.grad[0, 1].tolist() == [0, 0.75, 0.25, 0]
    assert float(values.grad.sum()) == 1


def test_bad_questions():
    maps = Maps({"a": np.zeros((3, 4)), "b": np.zeros((1, 2, 2))}, (4, 4), (4, 4))
    with pytest.raises(KeyError, match=r"c is none of the cells \['a', 'b'\]"):
        maps.sample("c", [[0, 0]])
    with pytest.raises(ValueError, match=r"cell a has shape \(3, 4\); expected a map"):
        maps.resize("a")
    with pytest.raises(ValueError, match=r"points have shape \(2,\)"):
        maps.sites([1, 2], "b")


# of many pictures


@pytest.fixture
def many(tmp_path):
    """Cells of five pictures, one of them in a file, with sizes and placements of a crop."""
    random = np.random.default_rng(0)
    sizes = random.integers(20, 60, (5, 2))
    places = [Placement.of_fit(size, (16, 24), "crop") for size in sizes.tolist()]
    arrays = {("mid", 20): random.normal(size=(5, 3, 4, 6)).astype("float16")}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = random.normal(size=(5, 2, 8, 12)).astype("float32")
        arrays["up.1", 20] = file["x"]
        numbers = np.stack([place.numbers for place in places])
        yield Cells(arrays, sizes=sizes, placements=numbers, input_size=(16, 24)), places


def test_the_maps_of_a_row(many):
    cells, places = many
    for row, place in enumerate(places):
        maps = cells.maps(row)
        assert (maps.size, maps.input_size) == (place.picture_size, (16, 24))
        assert list(maps.values) == list(cells.keys)
        for key in cells.keys:
            np.testing.assert_array_equal(maps[key], np.asarray(cells[key][row]))
            found = maps.sites([[7, 9]], key)
            np.testing.assert_allclose(found, place.to_map([[7, 9]], maps[key].shape[1:]))
    assert cells.maps(-1).size == cells.maps(4).size
    with pytest.raises(IndexError):
        cells.maps(5)


def test_rows_keep_their_sizes_and_placements(many):
    cells, places = many
    picked = cells[[4, 0, 3]][1:]
    for row, before in enumerate((0, 3)):
        maps = picked.maps(row)
        assert maps.size == places[before].picture_size
        assert maps.numbers == tuple(places[before].numbers)
        np.testing.assert_array_equal(maps["mid", 20], cells.maps(before)["mid", 20])


def test_where_maps_lie_is_told_without_reading_them(many, monkeypatch):
    cells, _ = many
    want = cells.maps(-2)
    monkeypatch.setattr("probes.lazy.Rows.__getitem__", None)
    found = cells.frame(-2)
    assert dict(found.values) == {}
    assert (found.size, found.input_size, found.numbers) == (
        want.size, want.input_size, want.numbers,
    )  # fmt: skip
    assert want.nbytes == 4 * (3 * 4 * 6 + 2 * 8 * 12)
    with pytest.raises(IndexError):
        cells.frame(5)


@pytest.mark.parametrize("mirror", [False, True])
def test_inputs_of_sizes_of_their_own(mirror):
    sizes = np.array([[31, 50], [16, 8]])
    places = [
        Placement.of_fit(s, native_size(s[::-1], 8), "native", mirror) for s in sizes.tolist()
    ]
    numbers = np.stack([place.numbers for place in places])
    cells = Cells({("a", 1): np.zeros((2, 1, 2, 2))}, sizes=sizes, placements=numbers)
    for row, place in enumerate(places):
        assert cells.maps(row).input_size == place.input_size
    crop = Placement.of_fit((31, 50), (8, 8), "crop").numbers
    cells = Cells({("a", 1): np.zeros((1, 1, 2, 2))}, sizes=sizes[:1], placements=crop[None])
    with pytest.raises(ValueError, match="does not show its whole picture of 31×50; give"):
        cells.maps(0)


def test_squashed_pictures_need_no_placements():
    cells = Cells({("a", 1): np.arange(8.0).reshape(2, 1, 2, 2)}, sizes=[[4, 4], [2, 6]])
    assert cells.maps(1).sample(("a", 1), [[1, 0], [4, 1]])[0].tolist() == [[4], [7]]


def test_cells_that_cannot_be_placed():
    arrays = {("a", 1): np.zeros((2, 1, 2, 2))}
    with pytest.raises(ValueError, match=r"sizes of the pictures are not known.*before 0\.8"):
        Cells(arrays).maps(0)
    with pytest.raises(ValueError, match=r"sizes have shape \(3, 2\); expected \(2, 2\)"):
        Cells(arrays, sizes=np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"placements have shape \(2, 3\); expected \(2, 4\)"):
        Cells(arrays, sizes=np.ones((2, 2)), placements=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"rows of shape \(5,\); expected maps"):
        Cells({("a", 1): np.zeros((2, 5))}, sizes=np.ones((2, 2))).maps(0)
