"""RGB-D frames: where surfaces lie in the other picture, what hides, which pairs are made."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SourceError, SpecError
from diffeat.targets.pairs import DepthRule, open_depth, open_pairs
from diffeat.targets.pairs.frames import REGISTERED, Frames
from diffeat.targets.pairs.reprojection import (
    Camera,
    View,
    angle_between,
    registered,
    reproject,
)
from tests.targets.rooms import (
    CENTRE,
    COLOUR_FOCAL,
    POSES,
    SIZE,
    all_pixels,
    colour_pose,
    depth_map,
    pose_of,
    true_match,
    write_frame,
    write_room,
)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room") / "kitchen")


@pytest.fixture
def own_room(room, tmp_path):
    return shutil.copytree(room, tmp_path / "kitchen")


def exact_view(number: int) -> View:
    """By rays, without a depth camera beside it."""
    camera = Camera((COLOUR_FOCAL, COLOUR_FOCAL), tuple(CENTRE.tolist()), SIZE)
    pose = colour_pose(POSES[number])
    return View(camera, pose, depth_map(pose, COLOUR_FOCAL))


def away_from_edges(depth: np.ndarray, points: np.ndarray, by: int) -> np.ndarray:
    """(n,) bool: which points have no step of depth within so many pixels, and no border."""
    x, y = np.rint(np.where(np.isfinite(points), points, -99)).astype(int).T
    inside = (x >= by) & (y >= by) & (x < SIZE[1] - by) & (y < SIZE[0] - by)
    around = [
        depth[(y + dy).clip(0, SIZE[0] - 1), (x + dx).clip(0, SIZE[1] - 1)]
        for dy in range(-by, by + 1)
        for dx in range(-by, by + 1)
    ]
    return inside & (np.ptp(around, axis=0) < 0.3)


class TestReprojection:
    @pytest.mark.parametrize("pair", [(0, 10), (10, 20), (20, 0), (690, 720)])
    def test_where_rays_say(self, pair):
        source, target = map(exact_view, pair)
        points = all_pixels()
        found, shown = reproject(points, source, target)
        at, free = true_match(points, source.pose, target.pose)
        assert np.abs(found[free] - at[free]).max() < 1e-9
        sure = away_from_edges(target.depth, at, 1) & away_from_edges(source.depth, points, 1)
        assert sure.sum() > 5000
        assert (shown == free)[sure].all()
        hidden = sure & ~free
        assert hidden.sum() > 100  # the box hides some of the wall

    def test_the_way_back_is_checked(self):
        source, target = exact_view(0), exact_view(20)
        dented = View(target.camera, target.pose, target.depth * 1.015)  # within the tolerance
        points = all_pixels()
        found, shown = reproject(points, source, dented)
        _, checked = reproject(points, source, dented, check=0.2)
        assert checked.sum() < shown.sum()
        # what a target's surface at 1.5 % more looks like from the source, by hand
        row = np.flatnonzero(shown)[::501]
        for k in row:
            u, v = found[k]
            z = dented.depth_at(found[k : k + 1])[0]
            place = np.array(
                [(u - CENTRE[0]) / COLOUR_FOCAL * z, (v - CENTRE[1]) / COLOUR_FOCAL * z, z]
            )
            world = target.pose[:3, :3] @ place + target.pose[:3, 3]
            seen = source.pose[:3, :3].T @ (world - source.pose[:3, 3])
            back = seen[:2] / seen[2] * COLOUR_FOCAL + CENTRE
            assert checked[k] == (np.hypot(*(back - points[k])) <= 0.2)

    def test_nothing_is_said_without_depth_or_behind_the_camera(self):
        source, target = exact_view(0), exact_view(10)
        blind = View(source.camera, source.pose, np.full(SIZE, np.nan))
        assert not reproject(all_pixels(), blind, target)[1].any()
        assert not reproject(all_pixels(), source, View(target.camera, target.pose, blind.depth))[
            1
        ].any()
        turned = View(target.camera, pose_of(180, (0, 0, 0)), target.depth)
        found, shown = reproject(all_pixels(), source, turned)
        assert np.isnan(found).all()
        assert not shown.any()

    def test_depth_of_one_camera_on_the_picture_of_another(self):
        seen_by = Camera((585 / 4, 585 / 4), tuple(CENTRE.tolist()), SIZE)
        camera = Camera((COLOUR_FOCAL, COLOUR_FOCAL), tuple(CENTRE.tolist()), SIZE)
        found = registered(depth_map(POSES[0]), seen_by, camera, (-0.025, 0, 0))
        truth = depth_map(colour_pose(POSES[0]), COLOUR_FOCAL)
        sure = away_from_edges(truth, all_pixels(), 2).reshape(SIZE) & np.isfinite(found)
        assert sure.mean() > 0.6
        np.testing.assert_allclose(found[sure], truth[sure], atol=1e-9)

    def test_angles_are_between_the_axes(self):
        one, other = exact_view(20), exact_view(10)
        assert angle_between(one, other) == pytest.approx(22, abs=1e-5)
        rolled = one.pose.copy()
        rolled[:3, :3] = one.pose[:3, :3] @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        assert angle_between(one, View(one.camera, rolled, one.depth)) == pytest.approx(0, abs=1e-5)

    def test_a_smaller_picture_has_a_smaller_focal_length(self):
        whole = Camera((585, 585), (319.5, 239.5), (480, 640))
        half = whole.scaled((240, 320))
        assert half.focal == (292.5, 292.5)
        assert half.centre == (159.5, 119.5)  # the middle stays the middle


class TestFrames:
    def test_views_are_those_of_rays(self, room):
        frames = Frames.open(room)
        assert frames.numbers == tuple(POSES)
        for name, number in zip(frames.colours, frames.numbers, strict=True):
            view, exact = frames.view(name), exact_view(number)
            np.testing.assert_allclose(view.pose, exact.pose, atol=1e-12)
            assert view.camera.focal == pytest.approx((COLOUR_FOCAL, COLOUR_FOCAL))
            sure = away_from_edges(exact.depth, all_pixels(), 2).reshape(SIZE)
            sure &= np.isfinite(view.depth)
            assert sure.sum() > 5000
            assert (
                np.abs(view.depth - exact.depth)[sure].max() < 0.03
            )  # two pixels of the wall at 20°

    def test_no_depth_is_none(self, own_room):
        values = np.asarray(Image.open(own_room / "frame-000000.depth.png"))
        view = Frames.open(own_room, calibration=REGISTERED).view("frame-000000.color.png")
        assert np.isnan(view.depth[:10, :20]).all()
        np.testing.assert_array_equal(view.depth[20:], values[20:] / 1000)

    def test_intrinsics_of_the_folder_count(self, own_room):
        np.savetxt(own_room / "camera-intrinsics.txt", [[100, 0, 80], [0, 90, 60], [0, 0, 1]])
        view = Frames.open(own_room, calibration=REGISTERED).view("frame-000010.color.png")
        assert (view.camera.focal, view.camera.centre) == ((100, 90), (80, 60))
        np.savetxt(own_room / "camera-intrinsics.txt", [[585, 0, 320], [0, 585, 240], [0, 0, 1]])
        with pytest.raises(SourceError, match="none of a depth map of 120×160"):
            Frames.open(own_room, calibration=REGISTERED).view("frame-000020.color.png")

    def test_incomplete_frames_are_left_out_and_counted(self, own_room):
        (own_room / "frame-000010.pose.txt").unlink()
        (own_room / "frame-000020.depth.png").rename(own_room / "elsewhere.png")
        os.symlink(own_room / "elsewhere.png", own_room / "frame-000020.depth.png")
        frames = Frames.open(own_room)
        assert frames.numbers == (0, 690, 700, 710, 720)
        assert sum(frames.left_out.values()) == 2

    @pytest.mark.parametrize(
        ("text", "what"),
        [("1 0 0", "3 numbers"), ("nan " * 16, "0 of them finite"), ("x", "cannot be read"),
         ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "no rotation")],
    )  # fmt: skip
    def test_bad_poses(self, own_room, text, what):
        (own_room / "frame-000000.pose.txt").write_text(text)
        with pytest.raises(SourceError, match=what):
            Frames.open(own_room).view("frame-000000.color.png")

    def test_bad_depth(self, own_room):
        path = own_room / "frame-000000.depth.png"
        Image.new("RGB", (160, 120)).save(path)
        with pytest.raises(SourceError, match="expected 16-bit grey"):
            Frames.open(own_room).view("frame-000000.color.png")
        path.write_bytes(b"no picture")
        with pytest.raises(SourceError, match=r"depth\.png: cannot be read"):
            Frames.open(own_room).view("frame-000000.color.png")


class TestPairs:
    def test_truth_is_what_rays_say(self, room):
        pairs = open_depth(room, "all", rule=DepthRule(points=80))
        assert len(pairs) > 8
        by_name = {f"frame-{number:06d}.color.png": pose for number, pose in POSES.items()}
        for place in range(len(pairs)):
            truth = pairs.truth(place)
            source, target = (by_name[n] for n in (pairs.source[place], pairs.target[place]))
            at, _ = true_match(truth.source_points, colour_pose(source), colour_pose(target))
            missed = np.linalg.norm(truth.target_points - at, axis=1)
            assert len(missed) == 80
            assert np.median(missed) < 0.3
            assert (missed < 1.5).mean() > 0.97  # but at edges of the box
            turn = np.degrees(np.arccos(source[:3, 2] @ target[:3, 2]))
            assert pairs.angles[place] == pytest.approx(turn, abs=1e-4)

    def test_colours_are_alike_where_they_correspond(self, room):
        pairs, rng = open_depth(room, "all"), np.random.default_rng(0)
        pictures = pairs.pictures()
        shown = {n: np.asarray(pictures.load(k), float) for k, n in enumerate(pictures.ids)}

        def colours(name, points):
            x, y = np.rint(points).astype(int).clip(0, np.array(SIZE[::-1]) - 1).T
            return shown[name][y, x]

        off, by_chance = [], []
        for place in range(len(pairs)):
            truth = pairs.truth(place)
            a = colours(pairs.source[place], truth.source_points)
            b = colours(pairs.target[place], truth.target_points)
            off.append(np.abs(a - b).mean())
            by_chance.append(np.abs(a - rng.permutation(b)).mean())
        assert np.mean(off) < 0.15 * np.mean(by_chance)

    def test_splits_go_by_the_number_of_the_frame(self, room):
        numbers = {
            part: {int(n[6:12]) for n in (*pairs.source, *pairs.target)}
            for part, pairs in ((p, open_depth(room, p)) for p in ("trn", "val", "all"))
        }
        assert numbers["trn"] <= {0, 10, 20, 690}
        assert numbers["val"] <= {700, 710, 720}
        assert min(len(numbers["trn"]), len(numbers["val"])) >= 2
        assert numbers["all"] == set(POSES)
        assert open_depth(room, "test").fingerprint == open_depth(room, "val").fingerprint
        assert len(open_pairs(f"{room}:val")) == len(open_depth(room, "val"))
        with pytest.raises(SourceError, match="no split is named"):
            open_pairs(room)

    def test_bins_share_the_pairs(self, room):
        rule = DepthRule(angles=(0, 8, 16, 180), overlap=0.2)
        everything = open_depth(room, "all", 1000, rule)
        many = np.histogram(everything.angles, rule.angles)[0]
        assert min(many) >= 2
        six = open_depth(room, "all", 6, rule)
        assert np.histogram(six.angles, rule.angles)[0].tolist() == [2, 2, 2]
        assert set(zip(six.source, six.target, strict=True)) <= set(
            zip(everything.source, everything.target, strict=True)
        )
        assert six.left_out["pairs of frames that were not drawn"] == len(everything) - 6
        assert (six.overlaps >= 0.2).all()

    def test_the_same_folder_gives_the_same_pairs(self, room, own_room):
        one, other = open_depth(room, "all", 5), open_depth(own_room, "all", 5)
        assert (one.source, one.target) == (other.source, other.target)
        assert one.fingerprint == other.fingerprint
        np.testing.assert_array_equal(one.truth(3).target_points, other.truth(3).target_points)
        some = one.take([3, 0])
        np.testing.assert_array_equal(some.truth(0).source_points, one.truth(3).source_points)
        assert (some.angles == one.angles[[3, 0]]).all()
        assert some.fingerprint != one.fingerprint
        write_frame(own_room, 0, pose_of(1, (0, 0, 0)))
        assert open_depth(own_room, "all", 5).fingerprint != one.fingerprint
        assert open_depth(room, "all", 5, DepthRule(seed=1)).fingerprint != one.fingerprint

    def test_groups_are_frames(self, room):
        pairs = open_depth(room, "trn")
        assert pairs.groups[0] == (pairs.source[0], pairs.target[0])
        source, target = pairs.rows(pairs.pictures().ids)
        assert [pairs.pictures().ids[row] for row in source] == list(pairs.source)
        assert (source != target).all()

    def test_what_cannot_be_meant(self, room, tmp_path):
        wrong = [{"rule": DepthRule(**one)} for one in ({"points": 0}, {"overlap": 0},
                                                        {"angles": (30, 0)})]  # fmt: skip
        for one in [{"split": "tes"}, {"count": 0}, *wrong]:
            with pytest.raises(SpecError, match="expected"):
                open_depth(room, **one)
        with pytest.raises(SourceError, match=r"no two of 7 frames show 100%"):
            open_depth(room, rule=DepthRule(overlap=0.999))
        with pytest.raises(SourceError, match="no RGB-D frames"):
            open_depth(tmp_path)
