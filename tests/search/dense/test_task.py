"""Which pictures teach, choose and are reported on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.search.dense.task import parts_of
from diffeat.search.splits import LEFT_OUT, TEST, TRAIN, VALIDATION


def drives(name: str, owners: str) -> SimpleNamespace:
    ids = tuple(f"{name}{k}" for k in range(len(owners)))
    return SimpleNamespace(name=name, ids=ids, groups=tuple(owners))


def test_groups_of_test_teach_nothing():
    train, test = drives("train", "aabbccddeeff"), drives("test", "bbd")
    with pytest.warns(UserWarning, match=r"4 of 12 pictures are of groups .*\(b, d\)"):
        part = parts_of([train, test], [None, None])
    own = np.array(list(train.groups))
    assert (part[:12][np.isin(own, ["b", "d"])] == LEFT_OUT).all()
    others = part[:12][~np.isin(own, ["b", "d"])]
    assert set(others.tolist()) == {TRAIN, VALIDATION}
    for name in "acef":  # a drive is on one side
        assert len(set(part[:12][own == name].tolist())) == 1
    assert (part[12:] == TEST).all()


def test_nothing_is_left_to_train_on():
    with pytest.raises(SpecError, match=r"every group \(a, b\) is in the test set"):
        parts_of([drives("train", "aabb"), drives("test", "ab")], [None, None])
