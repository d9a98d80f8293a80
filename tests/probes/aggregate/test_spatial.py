"""Weights that vary in space: against plain arithmetic, and what they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from probes import Cells
from probes.aggregate import HyperfeatureMixer, HyperfeatureNet, SpatialFusion
from probes.aggregate.spatial import SpatialNet

KEYS = [("a", 1), ("b", 1), ("a", 5)]
SHAPES = [(5, 4, 4), (6, 2, 3), (5, 4, 4)]


def arrays(count=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *shape, generator=rng) for shape in SHAPES]


def nets():
    found = []
    for kind in (HyperfeatureNet, SpatialNet):
        torch.manual_seed(0)
        found.append(kind(SHAPES, [block for block, _ in KEYS], 12, (4, 5)))
        found[-1].scalars.data = torch.tensor([0.5, 2.0, -1.0])
    return found


def test_it_begins_as_the_mixer_without_places():
    plain, spatial = nets()
    np.testing.assert_allclose(*(net(*arrays()).detach() for net in (plain, spatial)), atol=1e-6)


def test_it_is_a_weighted_sum_at_every_site():
    _, net = nets()
    for gate in net.gates:
        torch.nn.init.normal_(gate[2].weight, std=30)  # far apart, so that sums have to be scaled
    found, weights = net(*arrays()).detach(), net.site_weights(*arrays()).detach()
    blocks, parts, scores = ["a", "b", "a"], [], []
    for k, array in enumerate(arrays()):
        at = ["a", "b"].index(blocks[k])
        z = net.bottlenecks[at](array, (4, 5), before=True).detach().double()
        gate = net.gates[at].double()
        scores.append(net.scalars[k].double().detach() + gate(z)[:, 0].detach())
        net.gates[at].float()
        parts.append(z)
    scores = torch.stack(scores, 1).numpy()  # (n, S, H, W)
    share = np.exp(scores - scores.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    assert share.max() > 0.999
    assert (share.argmax(1) != share.argmax(1)[:, :1, :1]).any()
    np.testing.assert_allclose(weights, share, atol=1e-4)
    want = sum(share[:, k, None] * parts[k].numpy() for k in range(3))
    np.testing.assert_allclose(found, want, atol=1e-4)


def halves(count=160, seed=0):
    """One cell knows the class on the left of a picture, the other on the right; the other halves
    say another class. A channel tells which half is to be believed."""
    rng = np.random.default_rng(seed)
    y, lies = rng.integers(0, 2, (2, count))
    left = np.arange(6) < 3
    found = {}
    for key, own in ((("a", 1), left), (("a", 5), ~left)):
        says = np.where(own, y[:, None], lies[:, None])[:, None] * 2 - 1  # (N, 1, W)
        maps = 0.3 * rng.normal(size=(count, 6, 6, 6))
        maps[:, 0] += says * 2
        maps[:, 1] += np.where(own, 2, -2)
        found[key] = maps.astype(np.float32)
    return Cells(found, sizes=[(24, 24)] * count), y


def fitted(kind, cells, y):
    how = {"width": 16, "size": 6, "steps": 120, "epochs": 2, "batch_size": 16, "sharpness": 10.0}
    return kind(**how, learning_rate=3e-3, random_state=0, progress=False).fit(
        cells, y, objective="classification"
    )


def test_weights_follow_the_places_that_know(tmp_path):
    (cells, y), (test, truth) = halves(), halves(seed=1)
    spatial = fitted(SpatialFusion, cells, y)
    assert spatial.score(test, truth) > 0.95
    maps = test.maps(0)
    weights = spatial.weights_of(maps)
    total = sum(weights.values())
    np.testing.assert_allclose(total, 1, atol=1e-5)
    # inwards by one: a 3×3 convolution sees both halves at their border
    assert weights["a", 1][:, :2].mean() > weights["a", 1][:, 4:].mean() + 0.3
    assert weights["a", 5][:, 4:].mean() > weights["a", 5][:, :2].mean() + 0.3
    probes.save(spatial, tmp_path / "s.safetensors")
    back = probes.load(tmp_path / "s.safetensors")
    assert (back.predict(test) == spatial.predict(test)).all()
    made = [one.transform(test)["spatial", 0.0][:3] for one in (spatial, back)]
    assert made[0].tobytes() == made[1].tobytes()
    assert made[0].shape == (3, 16, 6, 6)


def test_one_weight_for_all_places_is_no_attribute_of_it():
    cells, y = halves(12)
    spatial = SpatialFusion(width=4, size=2, steps=1, epochs=1, progress=False, random_state=0)
    assert isinstance(spatial, HyperfeatureMixer)
    spatial.fit(cells, y, objective="classification")
    with pytest.raises(AttributeError, match="weights_of"):
        _ = spatial.weights_
    with pytest.raises(ValueError, match="are missing"):
        spatial.weights_of(Cells({("b", 1): cells["a", 1]}, sizes=cells.sizes).maps(0))
