"""Depth heads: what they learn, in which range, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.nn import functional as F

import probes
from probes import Cells
from probes.aggregate import HyperfeatureMixer
from probes.augment import mirror_crop_scale
from probes.dense import DepthHead
from probes.dense.depth import BinnedDepth, PlainDepth, VPDDepth
from probes.metrics.depth import DepthErrors
from tests.probes.dense.toys import KEYS, MIXER, SIZE, metres_of, scenes
from tests.probes.interrupted import Stop, same

SHORT = {"steps": 6, "epochs": 3}


def head(**options):
    given = {"width": 16, "filters": (16, 16), "last": 16, "steps": 90, "epochs": 3,
             "learning_rate": 5e-3, "random_state": 0, "progress": False}  # fmt: skip
    return DepthHead(**{**given, **options})


@pytest.fixture(scope="module")
def data():
    cells, masks = scenes(40)
    return cells, metres_of(masks)


@pytest.fixture(scope="module")
def more():
    cells, masks = scenes(120, seed=2)
    return cells, metres_of(masks)


@pytest.fixture(scope="module")
def test_data():
    cells, masks = scenes(12, seed=1)
    return cells, metres_of(masks)


@pytest.fixture(scope="module")
def short(data):
    return head(**SHORT).fit(*data)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "vpd"}, {"kind": "fpn"}, {"kind": "dpt", "learning_rate": 2e-3},
        {"kind": "fpn", "output": "bins", "bins": 12, "objective": "log-l1 + 0.1*log-l2"},
        {"output": "learned-bins", "bins": 8},
    ],
)  # fmt: skip
def test_what_stands_beside_a_pixel(options, more, test_data):
    """1 m or 4 m at random, so that SILog of a constant is 100·ln(4)/2 = 69."""
    fitted = head(**options).fit(*more)
    score = fitted.score(*test_data)
    errors = DepthErrors()
    for found, truth in zip(fitted.predict(test_data[0]), test_data[1], strict=True):
        assert found.dtype == np.float32
        assert found.shape == SIZE
        assert 1e-3 <= found.min() <= found.max() <= 10
        errors.update(found, truth)
    assert score == pytest.approx(-errors.compute()["abs rel"])
    assert errors.compute()["SILog"] < 58


def test_scale_and_shift_alone(more, test_data):
    """Known up to a scale and a shift of each picture's own."""
    cells, depth = more
    rng = np.random.default_rng(0)
    other = depth * rng.uniform(0.3, 1, (120, 1, 1)) + rng.uniform(0, 2, (120, 1, 1))
    fitted = head(kind="fpn", objective="scale-shift").fit(cells, other.astype(np.float32), 0.2)
    assert "validation_aligned_abs_rel" in fitted.history_[0]
    errors = DepthErrors(align="scale-shift")
    for found, truth in zip(fitted.predict(test_data[0]), test_data[1], strict=True):
        errors.update(found, truth)
    assert errors.compute()["RMSE"] < 1.25  # of a constant 1.5
    assert fitted.score(*test_data) == pytest.approx(-errors.compute()["abs rel"])


def test_depth_is_read_at_pixels(short, data):
    with torch.no_grad():
        scores = short.module_.grid(*(torch.from_numpy(data[0][key][:3]) for key in KEYS))
    expected = F.interpolate(scores, SIZE, mode="bilinear").sigmoid()[:, 0] * (10 - 1e-3) + 1e-3
    found = np.stack([one for _, one in zip(range(3), short.predict(data[0]), strict=False)])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_the_grids_of_vpd():
    shapes = [(8, 64, 64), (6, 32, 32), (5, 16, 16), (5, 16, 16), (4, 8, 8)]
    net = VPDDepth(shapes, 1, 12, (6, 6, 6), 9)
    strides = [[layer.stride for layer in down if isinstance(layer, torch.nn.Conv2d)]
               for down in net.down]  # fmt: skip
    assert strides == [[(2, 2)] * 2, [(2, 2)], [], []]
    assert [layer.out_channels for layer in net.up if hasattr(layer, "out_channels")] == [
        12, 6, 6, 6, 9, 1,
    ]  # fmt: skip
    assert net.up[0].in_channels == 8 + 6 + 10 + 4
    maps = [torch.randn(1, *shape) for shape in shapes]
    assert net(*maps).shape == (1, 1, 128, 128)
    one = VPDDepth([(3, 12, 12)], 1, 12, (6, 6, 6), 9)  # no finer than twice the finest grid
    assert one(torch.randn(1, 3, 12, 12)).shape == (1, 1, 24, 24)
    odd = VPDDepth([(3, 15, 20), (3, 8, 10)], 1, 12, (6, 6, 6), 9)
    assert odd(torch.randn(1, 3, 15, 20), torch.randn(1, 3, 8, 10)).shape == (1, 1, 30, 40)


def test_bins():
    fixed = BinnedDepth(0.1, 10.0, 4, learned=False)
    edges = np.geomspace(0.1, 10, 9)
    np.testing.assert_allclose(fixed.centres.numpy(), edges[1::2], rtol=1e-5)
    logits = torch.randn(2, 4, 3, 3)
    shares = logits.softmax(1).numpy()
    expected = (shares * edges[1::2, None, None]).sum(1)
    np.testing.assert_allclose(fixed(logits).numpy(), expected, rtol=1e-5)
    assert list(fixed.parameters()) == []
    learned = BinnedDepth(0.1, 10.0, 4, learned=True)
    with torch.no_grad():
        learned.widths.copy_(torch.tensor([0.0, 5, 0, 0]))
    centres = learned.centres.detach()
    assert (centres.diff() > 0).all()
    assert 0.1 < centres.min() < centres.max() < 10
    plain = PlainDepth(1.0, 3.0)(torch.tensor([[[[-50.0, 0.0, 50.0]]]]))
    torch.testing.assert_close(plain, torch.tensor([[[1.0, 2.0, 3.0]]]))


def test_what_is_not_known_plays_no_part(data):
    cells, depth = data
    beyond = np.where(np.isnan(depth), np.float32(99), depth)  # further than can be said
    same(head(**SHORT).fit(cells, depth), head(**SHORT).fit(cells, beyond))
    some = depth.copy()
    some[:30] = np.nan
    found = head(**SHORT, batch_size=4).fit(cells, some)
    assert all(np.isfinite(seen["loss"]) for seen in found.history_)


def test_the_largest_of_training(data):
    cells, depth = data
    found = head(**SHORT, max_depth=None).fit(cells, depth)
    assert found.max_depth_ == 4
    assert max(one.max() for one in found.predict(cells)) <= 4


@pytest.mark.parametrize("output", ["plain", "learned-bins"])
def test_it_goes_on_and_comes_back(output, data, tmp_path):
    cells, depth = data
    options = {**SHORT, "output": output, "augment": mirror_crop_scale, "max_depth": None}
    if output == "plain":
        options |= {"kind": "fpn", "mixer": HyperfeatureMixer(**MIXER)}
    whole = head(**options).fit(cells, depth, 0.2)
    with pytest.raises(KeyboardInterrupt):
        head(**options, checkpoint=tmp_path, progress=Stop(24)).fit(cells, depth, 0.2)
    found = head(**options, checkpoint=tmp_path).fit(cells, depth, 0.2)
    same(found, whole)
    with pytest.raises(ValueError, match="depths was"):
        head(**options, checkpoint=tmp_path, min_depth=0.5).fit(cells, depth, 0.2)
    probes.save(found, tmp_path / "h.safetensors")
    back = probes.load(tmp_path / "h.safetensors")
    for one, other in zip(found.predict(cells[:3]), back.predict(cells[:3]), strict=True):
        assert one.tobytes() == other.tobytes()
    same(clone(back).fit(cells, depth, 0.2), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "bts"}, "expected one of vpd, dpt, fpn"),
        ({"output": "normal"}, "expected one of plain, bins, learned-bins"),
        ({"min_depth": 0.0}, "min_depth=0.0; expected a number > 0"),
        ({"max_depth": 1e-4}, "max_depth=0.0001; expected a number > min_depth"),
        ({"max_depth": float("nan")}, "max_depth=nan"),
        ({"bins": 0}, "bins=0"),
        ({"filters": (8, 0)}, r"filters=\(8, 0\)"),
        ({"objective": "rmse"}, "expected one of silog, scale-shift"),
        ({"lambda_": 2.0}, "lambda_=2.0"),
        ({"train_size": (2,)}, r"train_size=\(2,\)"),
        ({"min_depth": 5.0, "max_depth": 9.0}, "no pixel of 40 depth maps has a known depth"),
    ],
)
def test_parameters(options, message, data):
    with pytest.raises(ValueError, match=message):
        head(**{**SHORT, **options}).fit(*data)


def test_targets(data, short):
    cells, depth = data
    nothing = np.full_like(depth, np.nan)
    with pytest.raises(ValueError, match="known of no pixel"):
        short.score(cells, nothing)
    for largest in (10.0, None):
        with pytest.raises(ValueError, match="no pixel of 40 depth maps"):
            head(**SHORT, max_depth=largest).fit(cells, nothing)
    with pytest.raises(ValueError, match="the unit is not known"):
        head(**SHORT).fit(cells, np.ones(depth.shape, np.uint16))
    with pytest.raises(ValueError, match="24×20, its picture 24×24"):
        head(**SHORT).fit(cells, depth[..., :20])
    with pytest.raises(ValueError, match="39 depth maps for 40"):
        head(**SHORT).fit(cells, depth[1:])
    with pytest.raises(ValueError, match=r"expected maps \(C, h, w\)"):
        head(**SHORT).fit(Cells({("a", 1): np.zeros((40, 3))}, sizes=cells.sizes), depth)
    with pytest.raises(ValueError, match="validation depth"):
        head(**SHORT).fit(cells, depth, (cells[:4], depth[:4, :3]))
