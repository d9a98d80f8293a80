"""Labels over the inputs, against the way of masks in `diffeat.images`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffeat.coords import Placement
from diffeat.images.masks import move_mask
from probes import Cells
from probes.dense.framed import Framing, label_size, over_input
from probes.dense.truth import DepthMaps, Masks
from probes.held_out import split_rows

INPUT = (16, 24)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(16, 24), (33, 20), (7, 50), (48, 72)])
@pytest.mark.parametrize("grid", [INPUT, (5, 7), (40, 40), (1, 1)])
def test_labels_go_where_masks_go(size, fit, mirror, grid):
    place = Placement.of_fit(size, INPUT, fit, mirror)
    mask = np.random.default_rng(0).integers(0, 200, size).astype(np.uint8)
    cells = Cells({("a", 0): np.zeros((1, 1, 2, 3))}, sizes=[size], placements=[place.numbers],
                  input_size=INPUT)  # fmt: skip
    found = over_input(mask, cells.frame(0), grid, 255)
    assert np.array_equal(found, move_mask(mask, place, grid))
    assert found.dtype == mask.dtype


def cells_of(count=5):
    return Cells({("a", 0): np.zeros((count, 1, 2, 3))}, sizes=[(4, 6)] * count)


def test_batches_read_what_they_need():
    class Watched(list):
        def __getitem__(self, row):
            seen.append(row)
            return super().__getitem__(row)

    seen, cells = [], cells_of()
    values = Watched(np.random.default_rng(1).integers(0, 3, (5, 4, 6)))
    make = Framing(cells.keys, (2, 3), 2, 1 << 20, torch.device("cpu"))
    targets = make.targets(Masks(values, cells, 3))
    assert targets.shape == (5, 2, 3)
    assert seen == []
    batches = make.batches(cells, targets, np.array([1, 3]))
    ((_, found),) = batches.ordered()
    assert seen == [1, 2, 3]  # a run of rows, as files are read
    expected = np.stack([values[row][1::2, 1::2] for row in (1, 3)])  # a centre on an edge: after
    assert np.array_equal(found.numpy(), expected)
    assert found.dtype == torch.int64


def test_depths_keep_their_gaps():
    cells, depth = cells_of(1), np.full((1, 4, 6), np.nan, np.float32)
    depth[0, 1, 1] = 7.5
    make = Framing(cells.keys, (2, 3), 2, 1 << 20, torch.device("cpu"))
    found = make.targets(DepthMaps(depth, cells))[:]
    assert np.array_equal(found, [[[7.5, np.nan, np.nan], [np.nan] * 3]], equal_nan=True)


def test_rows_are_split_by_groups():
    rng = np.random.default_rng(0)
    groups = np.array(list("aabbccddee"))
    rows, held = split_rows(10, 0.4, groups, rng)
    assert sorted([*rows, *held]) == list(range(10))
    assert len(held) == 4
    assert not {*groups[rows]} & {*groups[held]}
    assert [len(part) for part in split_rows(10, 0.3, None, rng)] == [7, 3]
    assert [len(part) for part in split_rows(10, 0, None, rng)] == [10, 0]
    with pytest.raises(ValueError, match="inconsistent numbers"):
        split_rows(9, 0.4, groups, rng)


def test_size_of_labels():
    assert label_size(cells_of(), (1, 1)) == (4, 4)
    assert label_size(cells_of(), (2, 3)) == (4, 6)  # no more than pixels
    assert label_size(cells_of(), (5, 9)) == (5, 9)  # no less than the grid
