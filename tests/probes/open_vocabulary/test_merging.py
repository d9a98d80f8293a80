"""Merging against arithmetic, and against the rule as transformers has it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probes.open_vocabulary.merging import (
    THRESHOLDS,
    instances,
    panoptic,
    probabilities,
    semantic,
)

SCORES = np.array([[0.9, 0.05], [0.1, 0.85], [0.95, 0.0], [0.3, 0.3]])
"""Four masks, of class 0, 1, 0 and of nothing much."""
ROWS = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1.0]])


def masks(rows: np.ndarray = ROWS, height: int = 1) -> np.ndarray:
    """(Q, height, W) of one row each."""
    return np.repeat(rows[:, None], height, 1)


def test_semantic_is_the_sum_over_masks():
    found = semantic(SCORES, masks())
    np.testing.assert_allclose(found[0, 0], [1.2, 1.2, 1.2, 1.25, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found[1, 0], [0.35, 0.35, 0.35, 0.3, 1.15, 1.15], rtol=1e-6)
    assert found.argmax(0).tolist() == [[0, 0, 0, 0, 1, 1]]


def test_probabilities_are_torchs_sigmoid():
    logits = torch.tensor([-300.0, -4.0, 0.0, 0.5, 90.0])
    np.testing.assert_allclose(probabilities(logits), torch.sigmoid(logits), atol=1e-7)


class TestInstances:
    def test_worth_is_the_score_times_the_mean_of_the_mask(self):
        rows = np.array([[1, 0.6, 0.2], [0.4, 0.4, 0.4], [0, 0.9, 0.0]])
        found = instances([[0.5, 0.4], [1, 0.0], [0.1, 0.8]], masks(rows))
        assert found.labels.tolist() == [1, 0, 1, 0]  # the second mask is nowhere
        np.testing.assert_allclose(found.scores, [0.8 * 0.9, 0.5 * 0.8, 0.4 * 0.8, 0.1 * 0.9],
                                   rtol=1e-6)  # fmt: skip
        assert found.masks[:, 0].astype(int).tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 0],
                                                          [0, 1, 0]]  # fmt: skip

    def test_top_counts_before_things(self):
        found = instances(SCORES, masks(), things={1}, top=3)
        assert (found.labels.tolist(), found.scores.tolist()) == ([1], [0.85])

    def test_least_score_and_none_at_all(self):
        assert len(instances(SCORES, masks(), least_score=0.87).labels) == 2
        assert instances(SCORES, masks(), things=()).masks.shape == (0, 1, 6)
        with pytest.raises(ValueError, match="top=0"):
            instances(SCORES, masks(), top=0)


class TestPanoptic:
    def test_things_stay_apart(self):
        found = panoptic(SCORES, masks(), things={0, 1})
        assert found.ids.tolist() == [[1, 1, 1, 3, 2, 2]]
        assert found.segments == [
            {"id": 1, "class": 0, "score": 0.9, "area": 3},
            {"id": 2, "class": 1, "score": 0.85, "area": 2},
            {"id": 3, "class": 0, "score": 0.95, "area": 1},
        ]

    def test_stuff_is_one_segment(self):
        found = panoptic(SCORES, masks(height=2), things={1})
        assert found.ids.tolist() == [[1, 1, 1, 1, 2, 2]] * 2
        assert [one["area"] for one in found.segments] == [8, 4]
        assert found.segments[0]["score"] == 0.9  # of the first

    def test_a_mask_that_others_hide_is_dropped(self):
        """The second mask covers 4 pixels and wins 3: .75 of itself."""
        rows = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1.0]])
        found = panoptic([[0.95, 0], [0, 0.9]], masks(rows), {0, 1})
        assert found.ids.tolist() == [[1, 1, 1, 0, 0, 0]]
        found = panoptic([[0.95, 0], [0, 0.9]], masks(rows), {0, 1}, overlap_threshold=0.75)
        assert found.ids.tolist() == [[1, 1, 1, 2, 2, 2]]

    def test_pixels_below_a_half_belong_to_nobody(self):
        found = panoptic([[0.9, 0]], masks(np.array([[0.9, 0.5, 0.49, 0]])), {0})
        assert found.ids.tolist() == [[1, 1, 0, 0]]

    def test_the_product_decides(self):
        """.8·.6 = .48 is less than .5·.99; by the mask alone it is the same, by score not."""
        rows = np.array([[0.6, 0.6], [0.99, 0.0]])
        found = panoptic([[0.8], [0.5]], masks(rows), {0}, object_mask_threshold=0,
                         overlap_threshold=0.5)  # fmt: skip
        assert found.ids.tolist() == [[2, 1]]

    def test_odises_threshold_keeps_all_that_is_something(self):
        scores = np.array([[0.2, 0.1], [0.3, 0.4]])
        rows = np.array([[1, 1, 0, 0], [0, 0, 1, 1.0]])
        assert panoptic(scores, masks(rows), {0}).segments == []
        found = panoptic(scores, masks(rows), {0}, void=[0.7, 0.3], **THRESHOLDS["odise"])
        assert found.ids.tolist() == [[0, 0, 1, 1]]

    def test_tiny_segments(self):
        found = panoptic(SCORES, masks(), things={0, 1}, smallest=2)
        assert found.ids.tolist() == [[1, 1, 1, 0, 2, 2]]
        assert [one["id"] for one in found.segments] == [1, 2]

    def test_equal_to_transformers(self):
        """Saturated scores, because its copy thresholds the products instead of the masks."""
        from transformers import Mask2FormerImageProcessor

        generator = torch.Generator().manual_seed(4)
        coarse = torch.randn(1, 12, 12, 12, generator=generator)
        logits = torch.nn.functional.interpolate(40 * coarse, size=(384, 384), mode="bicubic")
        classes = torch.full((1, 12, 6), -30.0)
        classes[0, torch.arange(12), torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2, 0, 1, 5])] = 30.0
        wanted = Mask2FormerImageProcessor().post_process_panoptic_segmentation(
            SimpleNamespace(class_queries_logits=classes, masks_queries_logits=logits),
            threshold=0.8, overlap_mask_area_threshold=0.1, label_ids_to_fuse={2, 3, 4},
        )[0]  # fmt: skip
        shares = classes[0].softmax(-1)
        found = panoptic(shares[:, :-1], logits[0].sigmoid(), {0, 1}, void=shares[:, -1],
                         overlap_threshold=0.1)  # fmt: skip
        assert len(found.segments) >= 5
        # pixels whose best mask lies below a half belong to nobody here
        there = found.ids > 0
        assert there.mean() > 0.8
        assert np.array_equal(found.ids[there], wanted["segmentation"].numpy()[there])
        seen = {one["id"]: one["label_id"] for one in wanted["segments_info"]}
        assert {one["id"]: one["class"] for one in found.segments} == seen


@pytest.mark.parametrize(
    ("scores", "pixels", "said"),
    [
        (np.zeros((3, 2)), masks(), r"shape \(3, 2\), masks \(4, 1, 6\)"),
        (10 * SCORES, masks(), "class scores go from 0 to 9.5; expected probabilities"),
        (SCORES, masks() - 2, "masks go from -2 to -1"),
    ],
)
def test_refusals(scores, pixels, said):
    for merge in (semantic, instances, lambda a, b: panoptic(a, b, {0})):
        with pytest.raises(ValueError, match=said):
            merge(scores, pixels)
    with pytest.raises(ValueError, match=r"void has shape \(2,\)"):
        panoptic(SCORES, masks(), {0}, void=[0, 1])
