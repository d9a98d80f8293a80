"""Rows without training: k-means, position alone, labels in context."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from sklearn.base import clone
from sklearn.cluster import KMeans

from probes import Cells, load, save
from probes.dense import (
    DPTHead,
    FPNHead,
    InContext,
    KMeansSegmenter,
    MeanDepth,
    MeanMask,
    NearestMean,
    PixelLinear,
    PixelMLPEnsemble,
)
from probes.fitted import HeadError
from probes.matching import NearestMatcher


def scenes(count=6, seed=0, size=(16, 24), grid=(8, 12)):
    """Pictures of three classes in blocks, with features that tell them, and noise."""
    rng = np.random.default_rng(seed)
    colours = np.array([[4, 0, 0, 50], [0, 4, 0, -50], [0, 0, 4, 0]], np.float32)
    small = rng.integers(0, 3, (count, grid[0] // 2, grid[1] // 2)).repeat(2, 1).repeat(2, 2)
    values = colours[small].transpose(0, 3, 1, 2) + rng.normal(0, 0.3, (count, 4, *grid))
    factors = size[0] // grid[0], size[1] // grid[1]
    masks = small.repeat(factors[0], 1).repeat(factors[1], 2)
    return Cells({("a", 0): values.astype(np.float32)}, sizes=[size] * count), masks


def agreement(head, cells, masks):
    return np.mean(np.stack(list(head.predict(cells))) == masks)


@pytest.mark.parametrize(
    ("clusters", "naming"), [(3, "one-to-one"), (None, "majority"), (9, "majority")]
)
def test_k_means_finds_what_features_tell(clusters, naming):
    cells, masks = scenes()
    head = KMeansSegmenter(clusters=clusters, naming=naming, pixels=1200).fit(cells, masks)
    assert agreement(head, *scenes(seed=1)) > 0.8  # bilinear reading blurs the blocks' edges
    assert len(head.names_) == (clusters or 3)
    if naming == "one-to-one":
        assert sorted(head.names_) == [0, 1, 2]


def test_k_means_scores_are_distances():
    cells, masks = scenes(2)
    head = KMeansSegmenter(clusters=3, naming="one-to-one", pixels=10**6).fit(cells, masks)
    up = torch.nn.functional.interpolate(torch.from_numpy(cells["a", 0]), (16, 24), mode="bilinear")
    features = up.permute(0, 2, 3, 1).reshape(-1, 4).double().numpy()
    z = (features - features.mean(0)) / features.std(0)
    means = KMeans(3, n_init=5, random_state=1).fit(z)
    found = np.stack(list(head.predict(cells))).ravel()
    table = np.zeros((3, 3), int)
    np.add.at(table, (found, means.labels_), 1)
    assert table.max(1).sum() > 0.98 * len(found)  # the same clusters under other names
    plain = KMeansSegmenter(clusters=3, standardise=False, pixels=10**6).fit(cells, masks)
    assert not np.allclose(plain.weight_, head.weight_)


def test_k_means_names():
    cells, masks = scenes()
    masks = np.where(masks == 2, 255, masks)
    head = KMeansSegmenter(clusters=3, pixels=1200)
    with pytest.warns(UserWarning, match="1 of 3 classes"):
        head.fit(cells, masks, classes=["sky", "road", "car"])
    assert head.seen_.tolist() == [True, True, False]
    assert set(np.unique(np.stack(list(head.predict(cells))))) == {0, 1}
    with pytest.raises(ValueError, match="4 clusters and 3 classes"):
        KMeansSegmenter(clusters=4, naming="one-to-one").fit(cells, masks, classes=3)
    with pytest.raises(ValueError, match="expected one of majority, one-to-one"):
        KMeansSegmenter(naming="all").fit(cells, masks, classes=3)
    with pytest.raises(ValueError, match="every pixel is ignored"):
        KMeansSegmenter(clusters=3).fit(cells, np.full_like(masks, 255), classes=3)
    with pytest.raises(ValueError, match="for 99 clusters"):
        KMeansSegmenter(clusters=99, pixels=30).fit(cells, masks, classes=2)


def test_mean_mask_is_the_share_of_masks():
    cells, masks = scenes(7)
    masks[0, :4], masks[:, 8:, 20:] = 255, 255
    head = MeanMask(grid=8).fit(cells, masks)
    known = masks != 255
    there = known.reshape(7, 8, 2, 8, 3).sum((0, 2, 4))
    for k in range(3):
        each = (masks == k).reshape(7, 8, 2, 8, 3).sum((0, 2, 4))
        whole = (masks == k).sum() / known.sum()
        expected = np.where(there > 0, each / np.maximum(there, 1), whole)
        np.testing.assert_allclose(head.shares_[k], expected, atol=1e-6)
    shares = next(head.predict_proba(cells))
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-6)
    y, x = np.mgrid[:16, :24]
    at = [(y + 0.5) * 8 / 16 - 0.5, (x + 0.5) * 8 / 24 - 0.5]
    expected = [map_coordinates(one, at, order=1, mode="nearest") for one in head.shares_]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    found = next(head.predict(cells))
    chosen = np.take_along_axis(np.array(expected), found[None], 0)[0]
    np.testing.assert_allclose(chosen, np.max(expected, 0), atol=1e-6)
    assert 0 < head.score(cells, masks) < 1


def test_mean_mask_sees_no_feature():
    cells, masks = scenes(3)

    class Unread:
        shape, dtype = cells["a", 0].shape, np.dtype("float32")

        def __len__(self):
            return 3

        def __getitem__(self, _):
            raise AssertionError("a feature was read")

    blind = Cells({("a", 0): Unread()}, sizes=[(16, 24)] * 3)
    head = MeanMask(grid=40).fit(blind, masks)  # a finer grid than pixels
    found = list(head.predict(blind))
    assert found[0].shape == (16, 24)
    one = MeanMask(grid=40).fit(blind[:1], masks[:1])
    assert np.array_equal(next(one.predict(blind[:1])), masks[0])
    other = Cells({("a", 0): np.zeros((1, 4, 2, 2))}, sizes=[(5, 7)])
    assert next(head.predict(other)).shape == (5, 7)
    with pytest.raises(ValueError, match="every pixel is ignored"):
        MeanMask().fit(blind, np.full_like(masks, 255), classes=2)


def test_in_context_carries_masks():
    cells, masks = scenes()
    head = InContext(matcher=NearestMatcher(), references=3, stride=1).fit(cells, masks)
    assert agreement(head, *scenes(seed=1)) > 0.8
    itself = InContext(references=1).fit(cells, masks)
    assert [itself.chosen(cells.maps(row)).tolist() for row in range(6)] == [[k] for k in range(6)]
    assert agreement(itself, cells, masks) > 0.95
    first = InContext(references=2, choose="first").fit(cells, masks)
    assert first.chosen(cells.maps(5)).tolist() == [0, 1]
    assert not hasattr(first, "pooled_")
    assert clone(first).references == 2
    shares = next(first.predict_proba(cells))
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    assert np.array_equal(shares.argmax(0), next(first.predict(cells)))


def test_in_context_where_nothing_is_known():
    cells, masks = scenes(2)
    masks = np.where(masks == 2, 255, masks)
    masks[0] = 255
    head = InContext(references=1, choose="first").fit(cells, masks)
    shares = [(masks == k).sum() for k in range(2)]
    assert (next(head.predict(cells)) == np.argmax(shares)).all()
    np.testing.assert_allclose(head.prior_, np.array(shares) / sum(shares), rtol=1e-6)


def test_in_context_beyond_the_input():
    cells, masks = scenes(2)
    wide = np.full((2, 16, 40), 255)
    wide[:, :, 8:32] = masks
    placements = [(1.0, -8.0, 1.0, 0.0)] * 2  # a crop of the middle
    cropped = Cells({("a", 0): cells["a", 0]}, sizes=[(16, 40)] * 2, placements=placements,
                    input_size=(16, 24))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = InContext(references=1, stride=1).fit(cropped, wide)
    found = next(head.predict(cropped))
    assert np.array_equal(found[:, :8], found[:, 8:9].repeat(8, 1))
    assert np.array_equal(found[:, 32:], found[:, 31:32].repeat(8, 1))
    assert np.mean(found[:, 8:32] == masks[0]) > 0.95


def test_in_context_refuses():
    cells, masks = scenes(2)
    with pytest.raises(ValueError, match="choose='best'"):
        InContext(choose="best").fit(cells, masks)
    with pytest.raises(ValueError, match="references"):
        InContext(references=0).fit(cells, masks)
    head = InContext(references=1).fit(cells, masks)
    with pytest.raises(ValueError, match="missing"):
        head.predict(Cells({("b", 0): cells["a", 0]}, sizes=[(16, 24)] * 2))


@pytest.mark.parametrize("head", [KMeansSegmenter(pixels=600), MeanMask(grid=5), NearestMean()])
def test_kept(head, tmp_path):
    cells, masks = scenes(2)
    with pytest.warns(UserWarning, match="never predicted"):
        head.fit(cells, masks, classes=["sky", "road", "car", "none"])
    save(head, tmp_path / "head.safetensors")
    again = load(tmp_path / "head.safetensors")
    for found, expected in zip(again.predict(cells), head.predict(cells), strict=True):
        assert np.array_equal(found, expected)
    assert again.classes_.tolist() == ["sky", "road", "car", "none"]
    assert again.ignore_ == 255
    assert again.seen_.tolist() == head.seen_.tolist()


def test_references_are_not_kept(tmp_path):
    with pytest.raises(HeadError, match="InContext cannot be kept"):
        save(InContext().fit(*scenes(2)), tmp_path / "head.safetensors")


def rooms(count=5, size=(12, 20)):
    rng = np.random.default_rng(3)
    depths = rng.uniform(1, 4, (count, *size))
    depths[rng.random(depths.shape) < 0.2] = np.nan
    depths[:, :3, :4] = np.nan
    cells = Cells({("a", 0): np.zeros((count, 2, 3, 5), np.float32)}, sizes=[size] * count)
    return cells, depths, np.isfinite(depths)


@pytest.mark.parametrize("log", [False, True])
def test_mean_depth(log, tmp_path):
    cells, depths, known = rooms()
    head = MeanDepth(grid=4, log=log).fit(cells, depths)
    change, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    there = known.reshape(5, 4, 3, 4, 5).sum((0, 2, 4))
    values = np.where(known, change(np.where(known, depths, 1)), 0)
    sums = values.reshape(5, 4, 3, 4, 5).sum((0, 2, 4))
    expected = np.where(there > 0, sums / np.maximum(there, 1), values.sum() / known.sum())
    np.testing.assert_allclose(head.depths_[0], expected, rtol=1e-6)
    y, x = np.mgrid[:12, :20]
    at = [(y + 0.5) * 4 / 12 - 0.5, (x + 0.5) * 4 / 20 - 0.5]
    read = back(map_coordinates(head.depths_[0], at, order=1, mode="nearest"))
    found = list(head.predict(cells))
    np.testing.assert_allclose(found[1], read, rtol=1e-5)
    relative = [np.abs(read - depths[k])[known[k]] / depths[k][known[k]] for k in range(5)]
    assert head.score(cells, depths) == pytest.approx(-np.mean([one.mean() for one in relative]))
    save(head, tmp_path / "head.safetensors")
    again = load(tmp_path / "head.safetensors")
    assert np.array_equal(next(again.predict(cells)), found[0])


def test_mean_depth_of_nothing():
    cells, depths, _ = rooms()
    with pytest.raises(ValueError, match="no pixel of 5 depth maps is known"):
        MeanDepth().fit(cells, np.full_like(depths, np.nan))
    with pytest.raises(ValueError, match="its picture 12×20"):
        MeanDepth().fit(cells, depths[:, 1:])
    depths[2, 3, 4] = 0
    with pytest.raises(ValueError, match="expected metres above 0"):
        MeanDepth().fit(cells, depths)


SEGMENTERS = {
    "ridge": lambda: PixelLinear(),
    "logistic": lambda: PixelLinear(kind="logistic"),
    "ensemble": lambda: PixelMLPEnsemble(members=2, steps=4, epochs=1),
    "fpn": lambda: FPNHead(steps=2, epochs=1),
    "dpt": lambda: DPTHead(steps=2, epochs=1),
    "nearest-mean": NearestMean,
    "k-means": lambda: KMeansSegmenter(clusters=4),
    "mean-mask": MeanMask,
    "in-context": InContext,
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_one_pass_gives_mask_and_uncertainty(name, monkeypatch):
    cells, masks = scenes(3)
    head = SEGMENTERS[name]().fit(cells, masks)
    masks, doubts = list(head.predict(cells)), list(head.uncertainty(cells))
    passes, strips = [], head._strips
    monkeypatch.setattr(head, "_strips", lambda maps: passes.append(1) or strips(maps))
    for row, (found, doubt) in enumerate(head.predict_uncertain(cells)):
        assert np.array_equal(found, masks[row])
        assert np.array_equal(doubt, doubts[row])
        assert doubt.dtype == np.float32
        assert 0 <= doubt.min() <= doubt.max() <= head.most_uncertain + 1e-6
        assert len(passes) == row + 1


@pytest.mark.parametrize("ignore", [-1, 70_000, 2**40, -(2**40)])
@pytest.mark.parametrize("name", [name for name in SEGMENTERS if name != "in-context"])
def test_kept_with_any_ignored_label(name, ignore, tmp_path):
    cells, masks = scenes(2)
    masks = masks.astype(np.int64)
    masks[:, :2] = ignore
    head = SEGMENTERS[name]().fit(cells, masks, ignore=ignore)
    save(head, tmp_path / "head.safetensors")
    loaded = load(tmp_path / "head.safetensors")
    assert loaded.ignore_ == ignore
    for one, two in zip(head.predict_proba(cells), loaded.predict_proba(cells), strict=True):
        assert np.array_equal(one, two)
        np.testing.assert_allclose(one.sum(0), 1, atol=1e-5)


def test_classes_by_number_or_by_name():
    cells, masks = scenes(2)
    assert MeanMask().fit(cells, masks, classes=masks.max() + 1).classes_.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="classes='sky' is one name"):
        MeanMask().fit(cells, masks, classes="sky")
    with pytest.raises(ValueError, match="no classes"):
        MeanMask().fit(cells, masks, classes=[])
