from __future__ import annotations

import numpy as np
import pytest

from diffeat.errors import SpecError
from diffeat.search.comparing import compare, dense_systems
from diffeat.search.dense.task import DenseChoice, HeadChoice, parts_of
from diffeat.search.splits import LEFT_OUT, TEST, TRAIN, VALIDATION
from tests.search.dense.common import BEST, Planted, write_file

CHOICE = DenseChoice("masks", "planted", head=HeadChoice("nearest-mean"))


class TestCompare:
    @pytest.fixture
    def stores(self, tmp_path, folder):
        noise = {BEST: 3.0}
        with (
            write_file(tmp_path / "good.h5", folder) as good,
            write_file(tmp_path / "poor.h5", folder, range(22), noise, model="m1") as poor,
        ):
            yield good, poor

    def found(self, stores, folder, names=("good", "poor"), **how):
        choice = DenseChoice("masks", "x", head=HeadChoice("nearest-mean"), **how)
        files = [[one] for one in stores]
        return dense_systems(files, names, choice, seed=1, opened=[Planted(folder)])

    def test_the_same_pictures_and_parts(self, stores, folder):
        found = self.found(stores, folder)
        good, poor = found.judges.values()
        assert good.bound.ids == poor.bound.ids
        assert len(good.bound) == 22  # those that both have
        assert (good.part == poor.part).all()
        assert any("not all systems have" in note for note in found.notes)

    def test_a_table_with_paired_intervals(self, stores, folder):
        found = self.found(stores, folder)
        table = compare(found.judges, notes=found.notes)
        good, poor, floor = table.rows
        assert good.cell == poor.cell == BEST
        assert good.test > poor.test > floor.test
        assert poor.difference == pytest.approx(poor.test - good.test)
        assert poor.ends[0] < poor.difference < poor.ends[1] < 0
        assert "position" in floor.name
        judge = found.judges["good"]
        assert good.test == pytest.approx(judge.settle(judge.test(BEST, None))[0])

    def test_a_file_against_itself(self, stores, folder):
        found = self.found((stores[0], stores[0]), folder, ("a", "b"))
        row = compare(found.judges)["b"]
        assert row.difference == 0
        assert row.ends == (0, 0)

    def test_no_picture_in_common(self, tmp_path, folder, stores):
        with pytest.raises(SpecError, match="no picture is in all of the files"):
            dense_systems([[stores[0]], [stores[1]]], ("a", "b"), CHOICE,
                          opened=[Planted(folder, which=(22, 23))])  # fmt: skip

    def test_features_that_were_told_what_is_shown(self, tmp_path, folder):
        with (
            write_file(tmp_path / "t.h5", folder, spec={"prompt": "a {class}"}) as told,
            pytest.raises(SpecError, match=r"conditioned on their own targets .*prompt"),
        ):
            dense_systems([[told], [told]], ("a", "b"), CHOICE, opened=[Planted(folder)])


class TestParts:
    def test_no_group_lies_in_two_parts(self, folder):
        targets = Planted(folder)
        part = parts_of([targets], [None])
        assert set(part) == {TRAIN, VALIDATION, TEST}
        for name in set(targets.groups):
            assert len(set(part[np.array(targets.groups) == name])) == 1

    def test_a_test_set_of_its_own(self, folder):
        sets = [Planted(folder, which=range(16)), Planted(folder, which=range(16, 24))]
        part = parts_of(sets, [None, None])
        assert (part[16:] == TEST).all()
        assert set(part[:16]) == {TRAIN, VALIDATION}

    def test_copies_belong_together_or_are_left_out(self, folder):
        class Alone(Planted):
            groups = property(lambda self: self.ids)

        digests = np.arange(24, dtype=np.uint8)[:, None] * np.ones(16, np.uint8)
        digests[::2] = digests[1::2]  # pictures 2k and 2k + 1 are copies
        targets = Alone(folder)
        with pytest.warns(UserWarning, match="12 pictures are copies of others"):
            part = parts_of([targets], [digests])
        assert (part[::2] == part[1::2]).all()
        with pytest.warns(UserWarning, match="the copies were left out"):
            dropped = parts_of([targets], [digests], duplicates="drop")
        assert (dropped == LEFT_OUT).sum() == 12
