"""HPatches' homographies and TSS' flows."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError
from diffeat.targets.pairs import open_pairs, project
from tests.targets.pairs.layouts import HEIGHT, MATRIX, WIDTH, flo, hpatches, picture, tss, write


@pytest.fixture
def planes(tmp_path):
    hpatches(tmp_path)
    return tmp_path


@pytest.fixture
def flows(tmp_path):
    tss(tmp_path)
    return tmp_path


class TestPlanes:
    def test_pairs_are_of_the_first_picture_and_every_other(self, planes):
        pairs = open_pairs(planes, split="all")
        assert pairs.source[:2] == ("i_light/1.ppm", "i_light/1.ppm")
        assert pairs.target == ("i_light/2.ppm", "i_light/10.ppm", "v_talent/2.jpg",
                                "v_talent/10.jpg", "v_wall/2.png", "v_wall/10.png")  # fmt: skip
        assert pairs.categories == ("illumination",) * 2 + ("viewpoint",) * 4
        assert pairs.groups[5] == ("v_wall", "v_wall")
        assert pairs.sizes[5] == ((30, 41), (30, 50))

    @pytest.mark.parametrize(
        ("split", "count"), [("illumination", 2), ("viewpoint", 4), ("108", 4)]
    )
    def test_splits(self, planes, split, count):
        assert len(open_pairs(planes, split=split)) == count

    def test_homographies_are_those_of_the_files(self, planes):
        pairs = open_pairs(planes, split="all")
        assert np.array_equal(pairs.homography(0), MATRIX / 2)
        assert np.array_equal(pairs.take([3, 1]).homography(1), MATRIX / 10)

    def test_points_go_where_opencv_takes_them(self, planes):
        pairs = open_pairs(planes, split="all")
        truth = pairs.truth(0)
        wanted = cv2.perspectiveTransform(truth.source_points[None], MATRIX)[0]
        assert np.abs(truth.target_points - wanted).max() < 1e-9

    def test_the_grid_is_the_centres_of_equal_fields_that_stay_inside(self, planes):
        truth = open_pairs(planes, split="all").truth(0)
        x, y = np.meshgrid(
            (np.arange(16) + 0.5) * 41 / 16 - 0.5, (np.arange(16) + 0.5) * 30 / 16 - 0.5
        )
        every = np.stack([x.ravel(), y.ravel()], 1)
        there = cv2.perspectiveTransform(every[None], MATRIX)[0]
        inside = ((there >= -0.5) & (there <= (42 - 0.5, 30 - 0.5))).all(1)
        assert 0 < inside.sum() < 256
        assert np.abs(truth.source_points - every[inside]).max() < 1e-9

    @pytest.mark.parametrize("sign", [1, -1])
    def test_points_behind_the_camera_are_nowhere(self, sign):
        matrix = sign * np.array([[1.0, 0, 0], [0, 1, 0], [0.1, 0, 1]])
        points = np.array([[0.0, 0], [5, 5], [-9, 0], [-11, 0], [-10, 0]])
        found, inside = project(matrix, points, (30, 40))
        assert found[:2].tolist() == [[0, 0], [5 / 1.5, 5 / 1.5]]
        assert np.isnan(found[3:]).all()
        assert inside.tolist() == [True, True, False, False, False]

    @pytest.mark.parametrize(
        "text",
        ["1 0 0\n0 1 0\n", "1 0 0\n0 1 0\n0 0 x\n", "", "1 0 0\n" * 3, "1 0 0\n0 1 0\n0 0 nan\n",
         "1,0 0 0\n0 1 0\n0 0 1\n"],
    )  # fmt: skip
    def test_matrices_that_are_none(self, planes, text):
        write(planes / "v_wall/H_1_2", text)
        with pytest.raises(SourceError, match=r"v_wall/H_1_2: .*expected"):
            open_pairs(planes, split="all")

    def test_a_picture_in_two_forms(self, planes):
        picture(planes / "v_wall/2.jpg")
        with pytest.raises(SourceError, match=r"2 pictures 2\.\*; expected one"):
            open_pairs(planes, split="all")

    def test_pipes_are_not_waited_for(self, planes):
        (planes / "v_wall/H_1_2").unlink()
        os.mkfifo(planes / "v_wall/H_1_2")
        with pytest.raises(SourceError, match="no regular file"):
            open_pairs(planes, split="all")

    def test_the_fingerprint_goes_by_the_matrices(self, planes):
        before = open_pairs(planes, split="all").fingerprint
        write(planes / "v_wall/H_1_2", "1 0 0\n0 1 0\n0 0 1\n")
        assert open_pairs(planes, split="all").fingerprint != before


class TestFlows:
    def test_pairs_go_both_ways(self, flows):
        pairs = open_pairs(flows, split="all")
        assert pairs.source == tuple(
            f"{scene}/image{k}.png" for scene in ("JODS/apple_1", "PASCAL/bus") for k in (1, 2)
        )
        assert pairs.target[0] == pairs.source[1]
        assert pairs.categories == ("JODS", "JODS", "PASCAL", "PASCAL")
        assert pairs.groups[0] == ("JODS/apple_1", "JODS/apple_1")
        assert len(open_pairs(flows, split="JODS")) == 2

    def test_a_flow_is_valid_where_it_is_known_on_the_object(self, flows):
        flow, valid = open_pairs(flows, split="all").flow(1)
        assert flow.shape == (HEIGHT, WIDTH, 2)
        assert flow.dtype == np.float32
        wanted = np.zeros((HEIGHT, WIDTH), bool)
        wanted[1:20, 5:35] = True
        assert np.array_equal(valid, wanted)
        assert (flow[valid] == (-3, -2)).all()

    def test_the_other_side_is_led_back_into_the_picture_as_it_lies(self, flows):
        flow, valid = open_pairs(flows, split="PASCAL").flow(0)
        y, x = np.nonzero(valid)
        there = np.stack([x, y], 1) + flow[valid]
        # to (x + 3, y + 2) of the mirrored picture, whose pixels are W - 1 - x of the other
        assert np.array_equal(there, np.stack([WIDTH - 1 - (x + 3), y + 2], 1))

    def test_points_are_pixels_whose_place_is_known(self, flows):
        pairs = open_pairs(flows, split="all")
        truth = pairs.truth(0)
        flow, valid = pairs.flow(0)
        x, y = truth.source_points.astype(int).T
        assert valid[y, x].all()
        assert np.array_equal(truth.target_points, truth.source_points + flow[y, x])
        assert len(np.unique(truth.source_points, axis=0)) == len(truth.source_points) > 50

    def test_flows_are_read_when_they_are_asked_for(self, flows):
        pairs = open_pairs(flows, split="all")
        before = pairs.fingerprint
        values = np.full((HEIGHT, WIDTH, 2), 1.5)
        flo(flows / "JODS/apple_1/flow1.flo", values)
        assert (pairs.flow(0)[0] == 1.5).all()
        assert pairs.fingerprint != before

    @pytest.mark.parametrize("content", [b"", b"PIEH", b"HEIP" + bytes(12), b"PIEH" + bytes(8),
                                         b"PIEH" + b"\xff" * 8 + bytes(16)])  # fmt: skip
    def test_flows_that_are_none(self, flows, content):
        pairs = open_pairs(flows, split="all")
        (flows / "JODS/apple_1/flow1.flo").write_bytes(content)
        with pytest.raises(SourceError, match=r"flow1\.flo: .*are no \.flo; expected PIEH"):
            pairs.flow(0)

    def test_other_sizes_and_missing_files(self, flows):
        pairs = open_pairs(flows, split="all")
        flo(flows / "JODS/apple_1/flow1.flo", np.zeros((4, 5, 2)))
        with pytest.raises(SourceError, match=r"flow1\.flo: 5x4 pixels, its picture has 40x30"):
            pairs.flow(0)
        Image.new("L", (3, 3)).save(flows / "JODS/apple_1/mask2.png")
        with pytest.raises(SourceError, match=r"mask2\.png: 3x3 pixels"):
            pairs.flow(1)
        (flows / "JODS/apple_1/mask2.png").write_bytes(b"none")
        with pytest.raises(SourceError, match=r"mask2\.png: .*expected a mask"):
            pairs.flow(1)
        (flows / "JODS/apple_1/flow2.flo").unlink()
        with pytest.raises(SourceError, match=r"flow2\.flo: No such file"):
            pairs.flow(1)

    def test_other_words_for_the_side(self, flows):
        write(flows / "PASCAL/bus/flip_gt.txt", "yes")
        with pytest.raises(SourceError, match=r"flip_gt\.txt: 'yes'; expected 0 or 1"):
            open_pairs(flows, split="all")

    def test_links_out_of_the_folder(self, flows, tmp_path_factory):
        pairs = open_pairs(flows, split="all")
        other = tmp_path_factory.mktemp("other") / "flow1.flo"
        (flows / "JODS/apple_1/flow1.flo").rename(other)
        (flows / "JODS/apple_1/flow1.flo").symlink_to(other)
        with pytest.raises(SourceError, match="a link leads out"):
            pairs.flow(0)
