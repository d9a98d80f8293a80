"""A linear layer in strips, against numpy's interpolation along one side and then the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.dense import Column, strips
from probes.maps import Maps

SHAPES = {("a", 20): (3, 4, 6), ("b", 20): (5, 8, 12), ("a", 50): (3, 4, 6), ("c", 20): (2, 30, 83)}
SIZE = (30, 83)
PLACEMENTS = {
    "squashed": (SIZE, None),
    "mirrored": (SIZE, (-1.0, 83.0, 1.0, 0.0)),
    "upside down": (SIZE, (1.0, 0.0, -1.0, 30.0)),
    "cropped": ((16, 40), (0.7, -9.0, 0.9, -4.0)),
    "smaller": ((60, 200), (200 / 83, 0.0, 2.0, 0.0)),
}


def made(place: str, dtype: str = "float32") -> Maps:
    rng = np.random.default_rng(0)
    values = {key: rng.normal(size=shape).astype(dtype) for key, shape in SHAPES.items()}
    return Maps(values, SIZE, *PLACEMENTS[place])


def read(maps: Maps) -> np.ndarray:
    """(C, H, W) float64: each side by `np.interp`, which goes on beyond the ends."""
    sx, tx, sy, ty = maps.placement or (1.0, 0.0, 1.0, 0.0)
    (height, width), found = maps.input_size, []
    for values in maps.values.values():
        h, w = values.shape[1:]
        columns = (sx * (np.arange(83) + 0.5) + tx) * w / width - 0.5
        rows = (sy * (np.arange(30) + 0.5) + ty) * h / height - 0.5
        along = np.apply_along_axis(lambda v, w=w, c=columns: np.interp(c, np.arange(w), v),
                                    2, values.astype(np.float64))  # fmt: skip
        found.append(np.apply_along_axis(lambda v, h=h, r=rows: np.interp(r, np.arange(h), v),
                                         1, along))  # fmt: skip
    return np.concatenate(found)


def linear(maps: Maps, outputs: int, rows: int | None = None) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, 13, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    found = torch.cat([strip for _, strip in Column(maps).linear(weight, bias, rows)], 1)
    whole = np.einsum("dc,chw->dhw", weight.double().numpy(), read(maps))
    return found, torch.from_numpy(whole + bias.double().numpy()[:, None, None]).float()


@pytest.mark.parametrize("place", PLACEMENTS)
@pytest.mark.parametrize("outputs", [1, 40])
def test_placements(place, outputs):
    torch.testing.assert_close(*linear(made(place), outputs), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("place", ["squashed", "upside down", "smaller"])
@pytest.mark.parametrize("rows", [None, 1, 4])
def test_products_are_made_as_strips_need_them(place, rows, monkeypatch):
    """A grid's products row by row, and few rows a strip."""
    monkeypatch.setattr(strips, "STRIP_BYTES", 1000)
    torch.testing.assert_close(*linear(made(place), 5, rows), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes(dtype):
    found, expected = linear(made("squashed", dtype), 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_no_row_of_a_grid_is_multiplied_twice(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_BYTES", 1000)
    seen, plain = [], strips.Products._made

    def counting(self, first, last):
        seen.extend((self.layer.grid, row) for row in range(first, last))
        return plain(self, first, last)

    monkeypatch.setattr(strips.Products, "_made", counting)
    linear(made("squashed"), 5)
    assert sorted(seen) == sorted((grid, row) for grid in {s[1:] for s in SHAPES.values()}
                                  for row in range(grid[0]))  # fmt: skip
