"""DAVIS and JHMDB in their own layouts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.images import open_source
from diffeat.targets.video import open_video
from diffeat.targets.video.jhmdb import JOINTS
from tests.clips import SIZE, moving_square, write_davis, write_jhmdb


class TestDavis:
    def test_one_object_of_2016(self, tmp_path):
        targets = open_video(f"{write_davis(tmp_path / 'any', 2016)}:val")
        assert [(clip.name, len(clip)) for clip in targets.clips] == [("bear", 6), ("goat", 6)]
        assert targets.clips[0].frames[5] == "bear#005"
        assert targets.kind == "masks"
        _, masks = moving_square(6, step=2)
        mask = targets.mask(targets.clips[1], 3)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, masks[3])  # 255 is object 1
        assert targets.objects(targets.clips[1]) == (1,)
        assert targets.joints(targets.clips[0]) is None

    def test_objects_of_2017_are_indices(self, tmp_path):
        targets = open_video(write_davis(tmp_path, 2017), "val")
        mask = targets.mask(targets.clips[0], 2)
        assert set(np.unique(mask)) == {0, 1, 2}
        assert targets.objects(targets.clips[0]) == (1, 2)

    def test_2016_of_the_package_of_2017_is_one_object(self, tmp_path, monkeypatch):
        folder = write_davis(tmp_path / "DAVIS", 2017)
        (folder / "ImageSets/2016").mkdir()
        (folder / "ImageSets/2016/val.txt").write_text("goat\n")
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        targets = open_video("davis2016:val")
        assert [clip.name for clip in targets.clips] == ["goat"]
        assert set(np.unique(targets.mask(targets.clips[0], 0))) == {0, 1}

    def test_lists_of_2016s_own_package(self, tmp_path):
        folder = write_davis(tmp_path, 2016)
        (folder / "ImageSets/2016").rename(folder / "ImageSets/480p")
        lines = [f"/JPEGImages/480p/goat/{k:05d}.jpg /Annotations/480p/goat/{k:05d}.png"
                 for k in range(6)]  # fmt: skip
        (folder / "ImageSets/480p/val.txt").write_text("\n".join(lines))
        assert [clip.name for clip in open_video(folder, "val").clips] == ["goat"]

    def test_the_set_is_a_source(self, tmp_path, monkeypatch):
        write_davis(tmp_path / "davis2017", 2017)
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        source = open_source("davis2017:val")
        assert source.ids == tuple(f"{clip}#{k:03d}" for clip in ("bear", "goat") for k in range(6))
        assert source.ids == open_video("davis2017:val").pictures().ids
        assert source.load(0).size == SIZE[::-1]

    def test_what_is_not_annotated(self, tmp_path):
        folder = write_davis(tmp_path, 2017)
        for k in range(1, 6):
            (folder / f"Annotations/480p/goat/{k:05d}.png").unlink()
        targets = open_video(folder, "val")
        assert targets.mask(targets.clips[1], 1) is None
        (folder / "Annotations/480p/goat/00000.png").unlink()
        with pytest.raises(
            SourceError, match=r"00000\.png: missing; expected the mask of the first"
        ):
            open_video(folder, "val")

    def test_the_fingerprint_is_of_the_masks(self, tmp_path):
        folder = write_davis(tmp_path, 2017)
        before = open_video(folder, "val").fingerprint
        assert before == open_video(folder, "val").fingerprint
        Image.new("P", SIZE[::-1]).save(folder / "Annotations/480p/goat/00003.png")
        assert before != open_video(folder, "val").fingerprint

    def test_bad_masks(self, tmp_path):
        folder = write_davis(tmp_path, 2017)
        place = folder / "Annotations/480p/bear"
        Image.new("RGB", SIZE[::-1]).save(place / "00001.png")
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(place / "00002.png")
        (place / "00003.png").write_bytes(b"x")
        targets = open_video(folder, "val")
        for frame, message in ((1, "holds colours"), (2, "labels up to 255"), (3, "no mask that")):
            with pytest.raises(PictureError, match=message):
                targets.mask(targets.clips[0], frame)

    @pytest.mark.parametrize("kind", ["JPEGImages", "Annotations"])
    def test_no_link_leads_out(self, tmp_path, kind):
        folder = write_davis(tmp_path / "d", 2017)
        (inner,) = (folder / kind / "480p/bear").glob("00001.*")
        inner.rename(tmp_path / inner.name)
        inner.symlink_to(tmp_path / inner.name)

        def first():
            targets = open_video(folder, "val")
            return targets.mask(targets.clips[0], 1)

        with pytest.raises((SourceError, PictureError), match="link leads"):
            first()

    @pytest.mark.parametrize("line", ["..", "a/../..", "none"])
    def test_bad_lists(self, tmp_path, line):
        folder = write_davis(tmp_path, 2017)
        (folder / "ImageSets/2017/val.txt").write_text(line)
        with pytest.raises(SourceError, match=r"names no clip|expected the frames of"):
            open_video(folder, "val")


class TestJhmdb:
    def test_joints_count_from_zero(self, tmp_path):
        wanted = write_jhmdb(tmp_path)
        targets = open_video(f"{tmp_path}:test1")
        assert [clip.name for clip in targets.clips] == ["catch/a_ball"]
        assert targets.clips[0].frames[1] == "catch/a_ball#001"
        np.testing.assert_allclose(targets.joints(targets.clips[0]), wanted["catch/a_ball"])
        assert targets.mask(targets.clips[0], 0) is None
        assert targets.joints(targets.clips[0]).shape == (5, len(JOINTS), 2)

    def test_training_clips(self, tmp_path, monkeypatch):
        write_jhmdb(tmp_path / "JHMDB")
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        assert [clip.name for clip in open_video("jhmdb:train1").clips] == ["catch/b_ball"]
        assert open_source("jhmdb:test1").ids[0] == "catch/a_ball#000"

    def test_frames_without_joints_are_left_out(self, tmp_path):
        write_jhmdb(tmp_path)
        place = tmp_path / "Rename_Images/catch/a_ball"
        Image.new("RGB", SIZE[::-1]).save(place / "00006.png")
        assert len(open_video(tmp_path, "test1").clips[0]) == 5
        for k in (5, 6):
            (place / f"{k:05d}.png").unlink()
        with pytest.raises(SourceError, match="joints of 5 frames"):
            open_video(tmp_path, "test1")

    def test_a_damaged_file(self, tmp_path):
        write_jhmdb(tmp_path)
        path = tmp_path / "joint_positions/catch/a_ball/joint_positions.mat"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(SourceError, match="joint_positions"):
            open_video(tmp_path, "test1")

    def test_a_damaged_list(self, tmp_path):
        write_jhmdb(tmp_path)
        (tmp_path / "splits/catch_test_split1.txt").write_text("a_ball.avi 7\n")
        with pytest.raises(SourceError, match=r"expected VIDEO\.avi and 1"):
            open_video(tmp_path, "test1")


class TestOpened:
    @pytest.mark.parametrize(
        ("name", "message"),
        [("davis2016:val", "is not on this machine"), ("davis2018:val", "did you mean 'davis201"),
         ("none", "no folder or set of videos")],
    )  # fmt: skip
    def test_nothing_there(self, tmp_path, monkeypatch, name, message):
        monkeypatch.setenv("DIFFEAT_DATA", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SourceError, match=message):
            open_video(name)

    def test_no_layout_and_no_split(self, tmp_path):
        with pytest.raises(SourceError, match="no layout of videos that is known"):
            open_video(tmp_path)
        write_davis(tmp_path, 2017)
        with pytest.raises(SourceError, match="no split is named; expected one of val"):
            open_video(tmp_path)
        with pytest.raises(SourceError, match="no split 'best'"):
            open_video(tmp_path, "best")
