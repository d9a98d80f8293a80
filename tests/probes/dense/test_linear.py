"""Linear heads of pixels against scikit-learn and a hypercolumn that is built."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import probes
from probes import Cells
from probes.dense import (
    Column,
    DepthMaps,
    NearestMean,
    PixelLinear,
    PixelRegression,
    positions,
    with_positions,
)
from probes.dense.grams import PixelSums, pixel_moments
from probes.dense.linear import Ridge as FromSums
from probes.maps import Maps

SIZES = [(20, 26), (20, 26), (17, 30)]
PLACEMENTS = {
    "squash": None,
    "crop": [(1.5, -6, 1.4, -2)] * 3,
    "pad": [(0.7, 3, 0.7, 4)] * 3,
    "mirror": [(-0.9, 24, 1, 0)] * 3,
}


def cells_of(placement: str, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    arrays = {("a", 20.0): rng.normal(2, 1, (3, 3, 6, 6)),
              ("b", 20.0): rng.normal(size=(3, 2, 12, 9)),
              ("a", 50.0): rng.normal(size=(3, 3, 6, 6)).astype(np.float16)}  # fmt: skip
    return Cells(arrays, sizes=SIZES, placements=PLACEMENTS[placement], input_size=(24, 24))


def built(maps: Maps) -> np.ndarray:
    """(H, W, C) float64, one picture pixel after the other, by the rule of the placement."""
    (H, W), (U, V) = maps.size, maps.input_size
    sx, tx, sy, ty = maps.numbers
    found = []
    for values in maps.values.values():
        values = np.asarray(values, np.float64)
        _, h, w = values.shape
        k = np.clip((sy * (np.arange(H) + 0.5) + ty) * h / U - 0.5, 0, h - 1)
        m = np.clip((sx * (np.arange(W) + 0.5) + tx) * w / V - 0.5, 0, w - 1)
        k0, m0 = np.minimum(k.astype(int), h - 2), np.minimum(m.astype(int), w - 2)
        v, u = (k - k0)[:, None], (m - m0)[None]
        corner = [values[:, k0 + i][:, :, m0 + j] for i in (0, 1) for j in (0, 1)]
        found.append(corner[0] * (1 - v) * (1 - u) + corner[1] * (1 - v) * u
                     + corner[2] * v * (1 - u) + corner[3] * v * u)  # fmt: skip
    return np.concatenate(found).transpose(1, 2, 0)


@pytest.mark.parametrize("placement", list(PLACEMENTS))
def test_sums_are_those_of_built_pixels(placement):
    cells, rng = cells_of(placement), np.random.default_rng(1)
    sums, X, W, Y = PixelSums(8, 2), [], [], []
    for row in range(3):
        maps = cells.maps(row)
        w = rng.random(maps.size) * (rng.random(maps.size) < 0.7)
        y = rng.normal(size=(2, *maps.size))
        y[:, w == 0] = np.nan
        sums.add(Column(maps), w, y)
        X.append(built(maps).reshape(-1, 8))
        W.append(w.ravel())
        Y.append(np.nan_to_num(y).reshape(2, -1).T)
    X, W, Y = map(np.concatenate, (X, W, Y))
    assert sums.weight == pytest.approx(W.sum())
    np.testing.assert_allclose(sums.x, X.T @ W, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sums.xx, X.T @ (X * W[:, None]), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sums.xy, X.T @ (Y * W[:, None]), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sums.y, Y.T @ W, rtol=1e-9)


def test_moments_of_pixels():
    maps = cells_of("crop").maps(0)
    w = np.random.default_rng(3).random(maps.size)
    total, x, square = pixel_moments(Column(maps), w)
    whole = built(maps)
    assert total == pytest.approx(w.sum())
    np.testing.assert_allclose(x, (whole * w[..., None]).sum((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(square, (whole**2 * w[..., None]).sum((0, 1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("placement", list(PLACEMENTS))
def test_moments_and_gram_of_a_column(placement, dtype):
    given = cells_of(placement).maps(2)
    values = {key: (20 * np.asarray(one, np.float32)).astype(dtype)
              for key, one in given.values.items()}  # fmt: skip
    maps = Maps(values, given.size, given.input_size, given.placement)
    column, X = Column(maps), built(maps).reshape(-1, 8)
    mean, variance = column.moments()
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(variance, X.var(0), rtol=1e-7)
    np.testing.assert_allclose(column.gram(), X.T @ X, rtol=1e-7, atol=1e-6)
    seen = column.shown()
    X = X[seen.ravel()]
    np.testing.assert_allclose(column.moments(seen)[1], X.var(0), rtol=1e-7)
    np.testing.assert_allclose(column.gram(seen), X.T @ X, rtol=1e-7, atol=1e-6)


def test_labels_are_one_hot_targets():
    maps, rng = cells_of("crop").maps(0), np.random.default_rng(4)
    labels, w = rng.choice([0, 2, 255], maps.size), rng.random(maps.size)
    w[labels == 255] = 0
    sums = PixelSums(8, 4).add_labels(Column(maps), w, labels)
    X = built(maps).reshape(-1, 8)
    weighted = w.ravel()[:, None] * np.eye(256)[labels.ravel(), :4]
    np.testing.assert_allclose(sums.xy, X.T @ weighted, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sums.y, weighted.sum(0), rtol=1e-9)


def test_wide_products_come_in_blocks(monkeypatch):
    monkeypatch.setattr("probes.dense.grams.WIDE", 2)
    maps = cells_of("pad").maps(0)
    X = built(maps).reshape(-1, 8)
    np.testing.assert_allclose(Column(maps).gram(), X.T @ X, rtol=1e-6, atol=1e-5)


def planted(count: int = 6, seed: int = 0, classes: int = 3):
    """Masks that a linear rule of the pixels' features makes, with noise; void in a corner."""
    rng = np.random.default_rng(seed)
    arrays = {("a", 20.0): rng.normal(1, 3, (count, 4, 5, 5)).astype(np.float32),
              ("b", 20.0): rng.normal(size=(count, 3, 10, 10)).astype(np.float32)}  # fmt: skip
    cells = Cells(arrays, sizes=[(20, 24)] * count)
    rule = np.random.default_rng(9).normal(size=(7, classes))
    features = [built(cells.maps(row)) for row in range(count)]
    masks = [(one @ rule + rng.normal(0, 0.5, (20, 24, classes))).argmax(-1).astype(np.uint8)
             for one in features]  # fmt: skip
    for mask in masks:
        mask[:3, :4] = 255
    return cells, masks, np.stack(features)


@pytest.mark.parametrize("weight", [None, "balanced"])
def test_ridge_is_scikit_learns_over_all_pixels(weight):
    cells, masks, features = planted()
    head = PixelLinear(alphas=(0.1,), class_weight=weight).fit(cells, masks, classes=3)
    y = np.concatenate([mask.ravel() for mask in masks])
    kept, X = y != 255, features.reshape(-1, 7)
    X, y = X[kept], y[kept]
    w = np.ones(len(y)) if weight is None else (len(y) / 3 / np.bincount(y))[y]
    scaler = StandardScaler().fit(X, sample_weight=w)
    other = Ridge(alpha=0.1 * w.sum()).fit(scaler.transform(X), np.eye(3)[y], sample_weight=w)
    expected = scaler.transform(X) @ other.coef_.T + other.intercept_
    np.testing.assert_allclose(X @ head.coef_.T + head.intercept_, expected, rtol=1e-4, atol=1e-5)
    found = np.concatenate([one.ravel() for one in head.predict(cells)])[kept]
    assert (found == expected.argmax(1)).mean() > 0.999


def test_logistic_is_scikit_learns_on_its_pixels():
    cells, masks, features = planted()
    head = PixelLinear(kind="logistic", alphas=(1e-3,), pixels=10**6).fit(cells, masks, classes=3)
    y = np.concatenate([mask.ravel() for mask in masks])
    X = features.reshape(-1, 7)[y != 255]
    y = y[y != 255]
    scaler = StandardScaler().fit(X)
    other = LogisticRegression(C=1 / (1e-3 * len(y)), tol=1e-8, max_iter=1000)
    other.fit(scaler.transform(X), y)
    logits = X @ head.coef_.T + head.intercept_
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, other.predict_proba(scaler.transform(X)), atol=2e-3)


def test_penalty_is_chosen_on_validation():
    cells, masks, _ = planted(4)
    held = planted(4, seed=5)[:2]
    head = PixelLinear(alphas=(1e-3, 1.0, 1e4)).fit(cells, masks, held, classes=3)
    scores = [PixelLinear(alphas=(alpha,)).fit(cells, masks, classes=3).score(*held)
              for alpha in head.alphas]  # fmt: skip
    np.testing.assert_allclose(head.scores_, scores, atol=1e-6)
    assert head.alpha_ == head.alphas[int(np.argmax(scores))]
    share = PixelLinear(alphas=(1e-3, 1e4)).fit(cells, masks, 0.5, classes=3, groups=[0, 0, 1, 1])
    assert share.alpha_ == 1e-3
    np.testing.assert_allclose(
        share.coef_, PixelLinear(alphas=(1e-3,)).fit(cells, masks, classes=3).coef_
    )


@pytest.mark.parametrize("standardise", [True, False])
def test_all_penalties_from_one_decomposition(standardise):
    """Against the normal equations of built pixels, solved for each penalty."""
    cells, masks, features = planted()
    ridge = FromSums(sums_of(cells, masks), standardise)
    y = np.concatenate([mask.ravel() for mask in masks])
    X, Y = features.reshape(-1, 7)[y != 255], np.eye(3)[y[y != 255]]
    scale = X.std(0) if standardise else np.ones(7)
    Z = (X - X.mean(0)) / scale
    for alpha in (1e-3, 1.0, 1e3):
        W = np.linalg.solve(Z.T @ Z / len(Z) + alpha * np.eye(7), Z.T @ (Y - Y.mean(0)) / len(Z))
        once = FromSums(sums_of(cells, masks), standardise, several=False)
        for coef, intercept in (ridge.solved(alpha), once.solved(alpha)):
            np.testing.assert_allclose(coef, (W / scale[:, None]).T, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(intercept, Y.mean(0) - coef @ X.mean(0), rtol=1e-4)


def sums_of(cells, masks) -> PixelSums:
    sums = PixelSums(7, 3)
    for row, mask in enumerate(masks):
        sums.add_labels(Column(cells.maps(row)), mask != 255, mask)
    return sums


def test_a_penalty_below_rounding_errors():
    """The same map twice: both have the same, the least weights."""
    values = np.random.default_rng(0).normal(size=(2, 2, 4, 4))
    cells = Cells({("a", 0.0): values, ("b", 0.0): values}, sizes=[(8, 8)] * 2)
    masks = np.random.default_rng(1).integers(0, 2, (2, 8, 8))
    head = PixelLinear(alphas=(1e-20,)).fit(cells, masks)
    np.testing.assert_allclose(head.coef_[:, :2], head.coef_[:, 2:], rtol=1e-4)


def test_a_class_of_which_no_pixel_is_drawn_is_not_predicted():
    cells, masks, _ = planted()
    masks = [np.minimum(mask, 1) for mask in masks]
    masks[0][0, 0] = 2
    with pytest.warns(UserWarning, match="1 of 3 classes have no pixel in training"):
        head = PixelLinear(kind="logistic", pixels=30).fit(cells, masks, classes=3)
    assert not any((found == 2).any() for found in head.predict(cells))


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_an_absent_class_is_never_predicted(kind):
    cells, masks, _ = planted()
    masks = [np.where(mask == 1, 255, mask) for mask in masks]
    with pytest.warns(UserWarning, match=r"1 of 3 classes have no pixel in training \(dog\)"):
        head = PixelLinear(kind=kind).fit(cells, masks, classes=("cat", "dog", "cow"))
    assert not any((found == 1).any() for found in head.predict(cells))
    for shares in head.predict_proba(cells):
        np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
        assert (shares[1] == 0).all()


@pytest.mark.parametrize("space", ["log", "metres"])
def test_depth_is_scikit_learns(space):
    cells, _, features = planted()
    depth = [np.exp(0.2 * one @ np.arange(7) / 7).astype(np.float32) for one in features]
    depth[0][:5] = np.nan
    head = PixelRegression(space=space, alphas=(0.01,)).fit(cells, depth)
    y = np.concatenate([one.ravel() for one in depth]).astype(np.float64)
    X = features.reshape(-1, 7)[~np.isnan(y)]
    y = y[~np.isnan(y)]
    scaler = StandardScaler().fit(X)
    target = np.log(y) if space == "log" else y
    other = Ridge(alpha=0.01 * len(y)).fit(scaler.transform(X), target)
    expected = other.predict(scaler.transform(features.reshape(-1, 7)))
    expected = np.clip(np.exp(expected) if space == "log" else expected, y.min(), y.max())
    found = np.stack(list(head.predict(cells))).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert head.score(cells, depth) == pytest.approx(
        -np.mean(np.abs(expected.reshape(6, 20, 24)[~np.isnan(depth)] - y) / y), rel=1e-3
    )


def test_positions_are_where_pixels_lie():
    cells = Cells({("a", 0.0): np.zeros((1, 1, 4, 4))}, sizes=[(40, 60)])
    found = positions(cells).maps(0)
    at = Column(found).at(np.array([[20, 30], [9, 12]])).numpy()
    x, y = (np.array([30, 12]) + 0.5) / 60 * 2 - 1, (np.array([20, 9]) + 0.5) / 40 * 2 - 1
    np.testing.assert_allclose(at, np.stack([x, y, x * x, x * y, y * y], 1), atol=3e-3)


def test_positions_of_a_crop():
    cells = Cells({("a", 0.0): np.zeros((1, 1, 4, 4))}, sizes=[(40, 60)],
                  placements=[(1, -10, 1, -5)], input_size=(30, 30))  # fmt: skip
    joined = with_positions(cells, degree=1)
    assert joined.keys == (("a", 0.0), ("position", 0.0))
    at = Column(joined.maps(0)).at(np.array([[20, 30]])).numpy()[0, 1:]
    np.testing.assert_allclose(at, [30.5 / 60 * 2 - 1, 20.5 / 40 * 2 - 1], atol=1e-5)


def test_refusals():
    cells, masks, _ = planted(2)
    with pytest.raises(ValueError, match="every pixel of 2 masks is ignored"):
        PixelLinear().fit(cells, [np.full((20, 24), 255, np.uint8)] * 2)
    with pytest.raises(ValueError, match="every pixel is ignored"):
        PixelLinear().fit(cells, [np.full((20, 24), 255, np.uint8)] * 2, classes=2)
    for classes in (None, ("background", "horse")):  # 255 does not count
        with pytest.raises(ValueError, match=r"of one class.*masks of 0 and 255"):
            PixelLinear().fit(cells, [255 * (mask > 1) for mask in masks], classes=classes)
    with pytest.raises(ValueError, match=r"masks\[0\] is 20×23, its picture 20×24"):
        PixelLinear().fit(cells, [mask[:, 1:] for mask in masks], classes=3)
    with pytest.raises(ValueError, match=r"has the labels \[2\]; expected 0 … 1, and 255"):
        PixelLinear().fit(cells, masks, classes=2)
    with pytest.raises(ValueError, match="expected maps"):
        PixelLinear().fit(Cells({("a", 0): np.zeros((2, 3))}, sizes=[(20, 24)] * 2), masks)
    with pytest.raises(ValueError, match=r"memory_mb=0\.001"):
        PixelLinear(memory_mb=1e-3).fit(cells, masks, classes=3)
    with pytest.raises(ValueError, match=r"take pixels=\d+, or kind='ridge'"):
        PixelLinear(kind="logistic", memory_mb=1e-3).fit(cells, masks, classes=3)
    with pytest.raises(ValueError, match=r"holds 0; .* if 0 says so"):
        DepthMaps([np.zeros((20, 24), np.float32)] * 2, cells)[0]
    with pytest.raises(ValueError, match="the unit is not known"):
        PixelRegression().fit(cells, [mask.astype(np.uint16) for mask in masks])
    with pytest.raises(ValueError, match="known of no pixel"):
        PixelRegression().fit(cells, [np.full((20, 24), np.nan)] * 2)
    with pytest.raises(ValueError, match=r"holds -1; expected metres"):
        DepthMaps([np.full((20, 24), -1.0)] * 2, cells)[1]
    with pytest.raises(ValueError, match=r"the cells .* are missing"):
        PixelLinear().fit(cells, masks, classes=3).score(positions(cells), masks)


@pytest.mark.parametrize("head", [PixelLinear(), PixelRegression()])
def test_what_chooses_is_said_as_to_any_head(head):
    cells, masks, _ = planted(4)
    targets = masks if isinstance(head, PixelLinear) else [mask + 1.0 for mask in masks]
    for validation in ((cells, targets, 1), (cells,)):
        with pytest.raises(ValueError, match=f"validation has {len(validation)} members"):
            head.fit(cells, targets, validation)
    for validation in (-0.5, 1, "half"):
        with pytest.raises(ValueError, match=r"expected a number in \[0, 1\), or \(cells, "):
            head.fit(cells, targets, validation)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        head.fit(cells, targets, 0.5, groups=[0, 0, 1])


@pytest.mark.parametrize("what", ["linear", "nearest", "depth"])
def test_kept_and_loaded(what, tmp_path):
    cells, masks, features = planted()
    if what != "depth":
        kind = PixelLinear if what == "linear" else NearestMean
        head = kind().fit(cells, masks, classes=("cat", "dog", "cow"))
    else:
        head = PixelRegression().fit(cells, np.exp(features[..., 0]).astype(np.float32))
    probes.save(head, tmp_path / "head.safetensors")
    loaded = probes.load(tmp_path / "head.safetensors")
    for one, two in zip(head.predict(cells), loaded.predict(cells), strict=True):
        assert np.array_equal(one, two)


def test_features_as_they_come_are_scikit_learns_ridge():
    rng = np.random.default_rng(3)
    maps = (
        rng.normal(size=(2, 4, 6, 6)).astype(np.float32) * np.array([9, 1, 0.1, 2])[:, None, None]
    )
    cells = Cells({("a", 1): maps.astype(np.float32)}, sizes=np.full((2, 2), 6))
    masks = rng.integers(0, 3, (2, 6, 6))
    head = PixelLinear(alphas=(0.5,), standardise=False).fit(cells, masks, classes=3)
    X = maps.transpose(0, 2, 3, 1).reshape(-1, 4).astype(np.float32)
    expected = Ridge(alpha=0.5 * len(X)).fit(X, np.eye(3)[masks.ravel()])
    np.testing.assert_allclose(head.coef_, expected.coef_, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="kind='ridge'"):
        PixelLinear(kind="logistic", standardise=False).fit(cells, masks, classes=3)


@pytest.mark.parametrize("kind", ["masks", "depth"])
def test_given_validation_pictures_training_is_read_once(kind):
    rng = np.random.default_rng(0)

    class Read:
        def __init__(self, values):
            self.values, self.shape, self.dtype, self.rows = values, values.shape, values.dtype, []

        def __len__(self):
            return len(self.values)

        def __getitem__(self, key):
            self.rows += np.arange(len(self))[key].tolist()
            return self.values[key]

    maps = Read(rng.normal(size=(3, 4, 6, 6)).astype(np.float32))
    held = Read(rng.normal(size=(2, 4, 6, 6)).astype(np.float32))
    cells, held_cells = (Cells({("a", 1): one}, sizes=np.full((len(one), 2), 6))
                         for one in (maps, held))  # fmt: skip
    known = rng.integers(0, 2, (5, 6, 6)) if kind == "masks" else rng.uniform(1, 2, (5, 6, 6))
    head = PixelLinear() if kind == "masks" else PixelRegression()
    head.fit(cells, known[:3], (held_cells, known[3:]))
    assert maps.rows == [0, 1, 2]
    assert held.rows == [0, 1]
