"""The supervised bottleneck: its loss against numpy, what it learns, how its matches are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

import probes
from probes import Cells, Maps, Pairs
from probes.aggregate import Bottleneck
from probes.aggregate.bottleneck import DroppedNet, key_point_loss
from probes.aggregate.correspondence import pair_table
from probes.matching import NearestMatcher, WindowSoftArgmaxMatcher

KEYS = [("up.1", 20), ("block.3", 0)]
GRID, CELL = 6, 8


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def read(values, column, row):
    """(C,) of a (C, H, W) map between sites, clamped."""
    _, h, w = values.shape
    column, row, found = np.clip(column, 0, w - 1), np.clip(row, 0, h - 1), 0.0
    for r in range(h):
        for c in range(w):
            found = found + max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c)) * values[:, r, c]
    return found


def naive(output, table, temperature, beta, dense) -> list[float]:
    """Loss by pair, in float64."""
    losses, half = [], len(output) // 2
    for f, g, row in zip(output[:half], output[half:], table, strict=True):
        points = row[5:].reshape(-1, 4)
        points = points[~np.isnan(points[:, 0])]
        a = unit(np.stack([read(f, *point[:2]) for point in points]))
        b = unit(np.stack([read(g, *point[2:]) for point in points]))
        similar = a @ b.T / temperature
        apart = -(np.diag(log_softmax(similar, 1)) + np.diag(log_softmax(similar, 0))).mean() / 2
        _, h, w = g.shape
        sites = unit(g.transpose(1, 2, 0).reshape(h * w, -1))
        share = softmax(a @ sites.T / beta, 1)
        rows, columns = np.divmod(np.arange(h * w), w)
        place = np.stack([share @ columns, share @ rows], 1)
        errors = np.linalg.norm(place - points[:, 2:], axis=1)
        losses.append(apart + dense * errors.mean() / max(h, w))
    return losses


@pytest.mark.parametrize(("temperature", "beta", "dense"), [(0.07, 0.02, 1.0), (1.0, 0.3, 5.0)])
def test_the_loss_is_that_of_plain_arithmetic(temperature, beta, dense):
    rng = np.random.default_rng(0)
    output = rng.normal(size=(6, 7, 5, 8))
    places = [rng.uniform(-0.5, [59.5, 39.5], (n, 2)) for n in (1, 4, 2)]
    places[1][0], places[1][1] = [-0.5, 39.5], [59.5, -0.5]  # beyond the outermost centres
    there = [rng.uniform(0, [59, 39], one.shape) for one in places]
    cells = Cells({("x", 1): np.zeros((6, 1, 2, 2))}, sizes=[(40, 60)] * 6)
    table, _ = pair_table(cells, Pairs([0, 1, 2], [3, 4, 5], places, there), (5, 8))
    want = naive(output, table, temperature, beta, dense)
    for reduction, expected in (("mean", np.mean(want)), ("sum", np.sum(want))):
        found = key_point_loss(torch.from_numpy(output), torch.from_numpy(table), reduction,
                               temperature, beta, dense)  # fmt: skip
        assert float(found) == pytest.approx(expected, rel=1e-9)


def test_the_loss_has_a_gradient_where_a_point_is_found_exactly():
    output = torch.zeros(2, 3, 1, 1).add_(1).requires_grad_()
    table = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0, 0.0]], dtype=torch.float64)
    key_point_loss(output, table, "mean").backward()
    assert torch.isfinite(output.grad).all()


def test_inputs_are_dropped_in_training_alone():
    torch.manual_seed(0)
    net = DroppedNet([(4, 3, 3)], ["a"], 8, (3, 3), dropout=0.5)
    x, seen = torch.ones(2000, 4, 3, 3), []
    net.bottlenecks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.train()(x)
    net.eval()(x)
    assert sorted(set(seen[0].unique().tolist())) == [0, 2]
    assert float((seen[0] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert (seen[1] == 1).all()


def world(count=14, seed=0):
    """Pictures with six points whose features say which they are, under stronger noise channels."""
    rng, codes = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(6, 5))
    maps = rng.normal(size=(count, 5, GRID, GRID)) * 0.2
    noise = 3 * rng.normal(size=(count, 9, GRID, GRID))
    points = np.empty((count, 6, 2))
    for n in range(count):
        places = rng.permutation(GRID * GRID)[:6]
        for k, place in enumerate(places):
            row, column = divmod(int(place), GRID)
            maps[n, :, row, column] += codes[k]
            points[n, k] = [(column + 0.5) * CELL - 0.5, (row + 0.5) * CELL - 0.5]
    both = np.concatenate([maps, noise], 1).astype(np.float32)
    other = rng.normal(size=(count, 4, 3, 3)).astype(np.float32)
    cells = Cells(dict(zip(KEYS, (both, other), strict=True)), sizes=[(GRID * CELL,) * 2] * count)
    a, b = (one.ravel() for one in np.indices((count, count)))
    kept = a != b
    names = [(str(x), str(y)) for x, y in zip(a[kept], b[kept], strict=True)]
    return cells, Pairs(a[kept], b[kept], points[a[kept]], points[b[kept]], groups=names)


def bottleneck(**options) -> Bottleneck:
    how = {"width": 24, "size": GRID, "steps": 150, "epochs": 2, "batch_size": 2, "random_state": 0}
    return Bottleneck(**{**how, "progress": False, "learning_rate": 1e-2, **options})


@pytest.fixture(scope="module")
def trained():
    cells, pairs = world()
    return bottleneck().fit(cells, pairs)


def share_found(cells, pairs, matcher) -> float:
    found = [np.linalg.norm(one.points - truth, axis=1) <= CELL / 2
             for one, truth in zip(matcher.match_pairs(cells, pairs), pairs.target_points,
                                   strict=True)]  # fmt: skip
    return np.concatenate(found).mean()


def test_it_finds_points_of_other_pictures_that_its_inputs_do_not(trained):
    cells, pairs = world(count=6, seed=1)
    matcher = NearestMatcher(resolution="site")
    before = share_found(Cells({KEYS[0]: cells[KEYS[0]]}, sizes=cells.sizes), pairs, matcher)
    after = share_found(trained.transform(cells), pairs, matcher)
    assert before < 0.4
    assert after > before + 0.3
    assert trained.history_[-1]["loss"] < trained.history_[0]["loss"]
    assert trained.transform(cells)["bottleneck", 0.0].shape == (6, 24, GRID, GRID)


def test_it_comes_back_from_a_file(trained, tmp_path):
    cells, _ = world(count=2)
    probes.save(trained, tmp_path / "b.safetensors", {"of": "maps"})
    back = probes.load(tmp_path / "b.safetensors")
    want, found = (one.transform(cells)["bottleneck", 0.0][:] for one in (trained, back))
    assert want.tobytes() == found.tobytes()
    assert back.get_params() == {**trained.get_params(), "device": "auto"}


def test_a_training_that_was_interrupted_is_not_that_of_another_loss(tmp_path):
    cells, pairs = world(count=3)
    options = {"steps": 2, "checkpoint": tmp_path}
    first = bottleneck(epochs=1, **options).fit(cells, pairs)
    again = bottleneck(epochs=1, **options).fit(cells, pairs)
    assert again.history_ == first.history_
    for other in ({"beta": 0.1}, {"dropout": 0.1}, {"temperature": 1}, {"dense": 0.5}):
        with pytest.raises(ValueError, match=r"checkpoint|training"):
            bottleneck(epochs=1, **options, **other).fit(cells, pairs)


@pytest.mark.parametrize(
    "wrong", [{"dropout": 1}, {"beta": 0}, {"temperature": -1}, {"dense": np.inf}, {"width": 2}]
)
def test_parameters_that_are_none(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bottleneck(**wrong).fit(*world(count=2))


def test_targets_that_are_no_pairs():
    with pytest.raises(ValueError, match=r"expected probes\.Pairs"):
        bottleneck().fit(world(count=2)[0], ["a", "b"])


@pytest.mark.parametrize("radius", [5, 7])
def test_windows_of_both_published_radii(radius):
    """24 × 24 sites, so that both windows leave most of them out; masked with -inf, not with 0."""
    rng, size = np.random.default_rng(0), (96, 96)
    values = rng.normal(size=(2, 6, 24, 24))
    source, target = (Maps({"a": torch.from_numpy(one)}, size, size) for one in values)
    points = (np.array([[2, 3], [20, 11], [12, 23]]) + 0.5) * 4 - 0.5
    found = WindowSoftArgmaxMatcher(radius=radius, temperature=0.04).match(source, target, points)
    for point, place in zip(points, found.points, strict=True):
        column, row = ((point + 0.5) / 4 - 0.5).astype(int)
        sites = unit(values[1].transpose(1, 2, 0))
        similar = sites @ unit(values[0][:, row, column])
        top, left = np.unravel_index(similar.argmax(), similar.shape)
        rows, columns = np.indices((24, 24))
        outside = (abs(rows - top) > radius) | (abs(columns - left) > radius)
        share = softmax(np.where(outside, -np.inf, similar / 0.04))
        want = [(share * (lines + 0.5) * 4).sum() - 0.5 for lines in (columns, rows)]
        np.testing.assert_allclose(place, want, atol=1e-6)
