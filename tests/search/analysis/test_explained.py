"""Which score is explained, and by which groups; of heads of numbers and of several cells."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.search.analysis.explained import Explanation, Features, Shares
from diffeat.search.applied import Applied
from diffeat.search.kept import HeadNote
from diffeat.specs import ExtractSpec
from probes import RidgeRegressionProbe, load
from tests.store.conftest import Job

CELLS = (("mid", 20), ("up.1", 60))


def test_groups_lie_where_features_do():
    """Two cells of 2 and 1 channels at 2 × 2 sites: channel-major, cell after cell."""
    features = Features(CELLS, (2, 1), (2, 2))
    block, names = features.groups("block")
    np.testing.assert_array_equal(block, [0] * 8 + [1] * 4)
    assert names == ["mid", "up.1"]
    site, names = features.groups("site")
    np.testing.assert_array_equal(site, [0, 1, 2, 3] * 3)
    assert names[2] == "row 1, column 0"
    channel, names = features.groups("channel")
    np.testing.assert_array_equal(channel, np.repeat([0, 1, 2], 4))
    assert names[2] == "up.1 t=60, channel 0"
    with pytest.raises(SpecError, match="by='sites'"):
        features.groups("sites")


def test_several_numbers_have_no_predicted_one():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    head = RidgeRegressionProbe().fit(X, X[:, :2])
    spec = ExtractSpec(timesteps=(20,), blocks=("mid",), pool="1x1")
    note = HeadNote(spec, CELLS[:1], {"name": "m"}, ("age", "size"))
    features = Features(CELLS[:1], (3,), (1, 1))
    with pytest.raises(SpecError, match="name one: age, size"):
        Explanation(Applied(head, note), features)
    assert Explanation(Applied(head, note), features, "size").which == "size"


def test_means_of_each_score():
    shares = Shares("t", ["t=20", "t=60"], ("a", "b", "c"), np.array([[2.0, 6], [1, 1], [0, 0]]),
                    np.array([[2.0, -6], [1, 1], [0, 0]]), np.array([2, 1, 0]))  # fmt: skip
    first, second = shares.rows(each=True)
    assert first == {
        "t": "t=60", "share": 0.7, "mean |phi|": pytest.approx(7 / 3),
        "mean phi": pytest.approx(-5 / 3), "most for": "b", "mean phi of a": -3.0,
        "mean phi of b": 1.0,
    }  # fmt: skip
    assert second["most for"] == "a"
    assert "mean phi of a" not in shares.rows()[0]


def test_a_heat_map_of_shares(diffeat, tmp_path):
    labels = np.arange(60) % 3
    job = Job(tmp_path / "f.h5", 60, shape=(3,), labels=labels, class_names=("a", "b", "c")).write()
    head = tmp_path / "h.safetensors"
    made = diffeat("probe", job, "-b", "mid", "-t", "20", "--save", head)
    assert made.code == 0, made.err
    answer = diffeat("explain", head, job, "--by", "channel", "--json", "--png", tmp_path / "e.png")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    known = [name for name in said["groups"][0] if name.startswith("mean phi of ")]
    assert known
    assert {name.rpartition(" ")[2] for name in known} <= {"a", "b", "c"}
    assert len(load(head).classes_) == 3
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.format == "PNG"
