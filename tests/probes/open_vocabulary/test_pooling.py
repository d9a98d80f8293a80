"""Features of masks, against maps that are really upsampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from probes.open_vocabulary.pooling import hard_masks, mask_weights, pool_masks


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 4, 6)).astype(np.float32)
    masks = rng.random((7, 13, 17)) < 0.3
    masks[2] = False
    masks[3] = False
    masks[3, 12, 16] = True
    return maps, masks


def upsampled(maps: np.ndarray, size) -> np.ndarray:
    return interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")[0].numpy()


class TestOwnPixels:
    def test_the_mean_of_the_upsampled_map(self, given):
        maps, masks = given
        features, valid = pool_masks(maps, masks)
        whole = upsampled(maps, (13, 17))
        for q, mask in enumerate(masks):
            wanted = whole[:, mask].mean(1) if mask.any() else np.zeros(5)
            np.testing.assert_allclose(features[q], wanted, atol=1e-5)
        assert valid.tolist() == [True, True, False, True, True, True, True]

    def test_masks_coarser_than_the_map(self, given):
        maps, _ = given
        masks = np.array([[[True, False], [False, True]]])
        found = pool_masks(maps, masks).features[0]
        np.testing.assert_allclose(found, upsampled(maps, (2, 2))[:, masks[0]].mean(1), atol=1e-6)

    def test_pieces_are_the_same_as_all_at_once(self, given):
        maps, masks = given
        few = pool_masks(maps, masks, memory_mb=13 * 17 * 4 * 2 / 2**20)
        assert torch.equal(few.features, pool_masks(maps, masks).features)

    def test_logits_are_inside_above_zero(self, given):
        maps, masks = given
        logits = np.where(masks, 0.1, -3.0).astype(np.float32)
        np.testing.assert_array_equal(
            pool_masks(maps, logits).features, pool_masks(maps, masks).features
        )

    def test_weights_sum_to_one(self, given):
        _, masks = given
        sums = mask_weights(masks, (4, 6)).sum((1, 2))
        np.testing.assert_allclose(sums, masks.any((1, 2)).astype(float), atol=1e-6)

    def test_gradients_reach_the_map(self, given):
        maps, masks = given
        maps = torch.from_numpy(maps).requires_grad_()
        pool_masks(maps, masks).features[0].sum().backward()
        np.testing.assert_allclose(maps.grad[0], mask_weights(masks, (4, 6))[0], atol=1e-6)


class TestSites:
    def test_hard_masks_of_the_maps_grid(self):
        """By hand: 4×4 pixels on 2×2 sites; a site's centre lies between four pixels."""
        mask = np.zeros((2, 4, 4), bool)
        mask[0, :2, :2] = mask[0, 2, 2] = True  # all of the first site, a quarter of the last
        mask[1, 3, :] = True  # half of the pixels round two centres: not more than ½
        assert hard_masks(mask, (2, 2)).tolist() == [
            [[True, False], [False, False]], [[False, False], [False, False]],
        ]  # fmt: skip
        maps = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
        features, valid = pool_masks(maps, mask, sites=(2, 2))
        assert features[0].tolist() == [0.0]
        assert valid.tolist() == [True, False]

    def test_logits_are_resized_before_they_are_cut(self):
        logits = np.full((1, 4, 4), -1.0, np.float32)
        logits[0, 3, 3] = 9.0  # (9 - 1 - 1 - 1) / 4 > 0: the site is inside by its logit
        assert hard_masks(logits, (2, 2))[0].tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 3)), np.zeros((1, 3, 3), bool), "the map has shape"),
        (np.zeros((2, 3, 3)), np.zeros((3, 3), bool), "masks have shape"),
        (np.zeros((2, 3, 3)), np.zeros((1, 3, 3), np.int64), "expected bool, or logits"),
        (np.full((2, 3, 3), np.nan), np.ones((1, 3, 3), bool), "nan or inf"),
    ],
)
def test_refusals(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        pool_masks(maps, masks)


def test_no_masks_have_no_features():
    features, valid = pool_masks(np.zeros((2, 3, 3), np.float32), np.zeros((0, 5, 5), bool))
    assert features.shape == (0, 2)
    assert valid.shape == (0,)
