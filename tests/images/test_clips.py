"""Folders of frames and video files as pictures."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.images import clip_of, load_batches, number_of, open_source, videos
from diffeat.images.clips import every_nth
from tests.clips import SIZE, grey_frames, moving_square, number_seen, write_video

KINDS = [("a.mp4", "mpeg4", 0), ("a.mp4", "libx264", 2), ("a.mkv", "libx264", 2),
         ("a.avi", "mpeg4", 0), ("a.avi", "mpeg4", 2), ("a.mov", "mpeg4", 2),
         ("a.webm", "libvpx-vp9", 0), ("a.webm", "libvpx", 0)]  # fmt: skip


def write_frames(folder, names, size=(4, 6)):
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), 8 * k, np.uint8)).save(folder / name)
    return folder


class TestFolders:
    def test_a_folder_of_frames_is_one_clip(self, tmp_path):
        write_frames(tmp_path / "bear", ["1.png", "2.png", "10.png"])
        source = open_source(f"clips:{tmp_path / 'bear'}")
        assert source.ids == ("bear#000", "bear#001", "bear#002")
        assert [number_seen(source.load(k)) for k in range(3)] == [0, 1, 2]  # 10 comes after 2
        assert source.targets["clip"].names == ("bear",)
        assert source.labels is None

    def test_without_the_prefix_it_is_a_folder_of_pictures(self, tmp_path):
        write_frames(tmp_path / "bear", ["1.png"])
        assert open_source(tmp_path / "bear").ids == ("1.png",)

    def test_folders_and_videos_below_are_clips(self, tmp_path):
        write_frames(tmp_path / "a" / "goat", ["0.png", "1.png"])
        write_frames(tmp_path / "b", ["0.png"])
        write_video(tmp_path / "a" / "run.mp4", grey_frames(3))
        (tmp_path / "notes.txt").write_text("x")
        source = open_source(f"clips:{tmp_path}")
        assert source.ids == ("a/goat#000", "a/goat#001", "a/run#000", "a/run#001", "a/run#002",
                              "b#000")  # fmt: skip
        assert source.left_out == {"kind .txt": 1}
        column = source.targets["clip"]
        assert [column.names[k] for k in column.values] == [clip_of(one) for one in source.ids]

    def test_frames_of_one_clip_are_one_group(self, tmp_path):
        from diffeat.targets import own_targets

        for clip in "ab":
            write_frames(tmp_path / clip, ["0.png", "1.png"])
        source = open_source(f"clips:{tmp_path}")
        source = source.labelled(np.array([0, 1, 0, 1]), ("x", "y"))
        assert own_targets(source).groups(source.ids) == ("a", "a", "b", "b")

    def test_digests_are_those_of_the_files(self, tmp_path):
        folder = write_frames(tmp_path / "bear", ["0.png"])
        wanted = hashlib.blake2b((folder / "0.png").read_bytes(), digest_size=16).digest()
        assert open_source(f"clips:{folder}").digests()[0].tobytes() == wanted

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["0.png", "a/0.png"], "both in it and in its folders"),
            (["a/0.png", "a.mp4"], "'a' is a folder of frames and a video"),
            (["a.mp4", "a.avi"], "two videos are called 'a'"),
            (["a.txt"], r"no frames and no videos \(left out: 1 of other kinds"),
        ],
    )
    def test_what_cannot_be_meant(self, tmp_path, files, message):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(SourceError, match=message):
            open_source(f"clips:{tmp_path}")

    def test_nothing_there(self, tmp_path):
        with pytest.raises(SourceError, match="is not there"):
            open_source(f"clips:{tmp_path / 'none'}")
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(SourceError, match="no video file"):
            open_source(f"clips:{tmp_path / 'a.txt'}")

    def test_a_folder_of_videos_says_how(self, tmp_path):
        (tmp_path / "a.mp4").write_bytes(b"x")
        with pytest.raises(SourceError, match="no pictures, but videos; name one, or clips:"):
            open_source(tmp_path)

    def test_every_nth_keeps_its_number(self, tmp_path):
        write_frames(tmp_path / "bear", [f"{k}.png" for k in range(7)])
        source = every_nth(open_source(f"clips:{tmp_path / 'bear'}"), 3)
        assert source.ids == ("bear#000", "bear#003", "bear#006")
        assert [number_seen(source.load(k)) for k in range(3)] == [0, 3, 6]
        with pytest.raises(SourceError, match="no frames of clips"):
            every_nth(open_source(tmp_path / "bear"), 2)


def test_ids():
    assert clip_of("a/b#1#0007") == "a/b#1"
    assert number_of("a/b#1#0007") == 7
    assert clip_of("a#07") is None
    assert clip_of("7.png") is None


class TestVideos:
    @pytest.mark.parametrize(("name", "codec", "b_frames"), KINDS)
    def test_in_order_and_in_any_order(self, tmp_path, name, codec, b_frames):
        path = write_video(tmp_path / name, grey_frames(24), codec, 5, b_frames)
        source = open_source(path)
        assert source.ids == tuple(f"a#{k:03d}" for k in range(24))
        assert [number_seen(source.load(k)) for k in range(24)] == list(range(24))
        order = list(range(24)) * 2
        random.Random(0).shuffle(order)
        videos._decoders.clear()
        assert [number_seen(source.load(k)) for k in order] == order

    def test_pixels_are_those_of_a_plain_decoder(self, tmp_path):
        av = pytest.importorskip("av")
        path = write_video(tmp_path / "a.mp4", moving_square(6)[0], "libx264")
        with av.open(str(path)) as container:
            plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        source = open_source(path)
        for k in (5, 0, 3):
            np.testing.assert_array_equal(np.asarray(source.load(k)), plain[k])

    def test_batches_in_order_decode_each_frame_once(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "a.mp4", grey_frames(30), gop=12)
        source = open_source(path)
        begun, plain = [], videos.Decoder._begin
        monkeypatch.setattr(videos.Decoder, "_begin",
                            lambda self, time: begun.append(time) or plain(self, time))  # fmt: skip
        spans = [(k, k + 6) for k in range(0, 30, 6)]
        batches = list(load_batches(source, spans, (8, 8), workers=3))
        seen = [round(float(one.mean()) / 8) for batch in batches for one in batch.pixels]
        assert seen == list(range(30))
        assert len(begun) <= 3  # threads may begin in another order

    def test_threads_share_a_decoder(self, tmp_path):
        source = open_source(write_video(tmp_path / "a.mp4", grey_frames(30)))
        order = [k for k in range(30) for _ in range(2)]
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda k: number_seen(source.load(k)), order)) == order

    def test_it_goes_to_other_processes(self, tmp_path):
        source = open_source(write_video(tmp_path / "a.mp4", grey_frames(5)))
        source.load(4)
        other = pickle.loads(pickle.dumps(source))
        assert other.ids == source.ids
        assert number_seen(other.load(2)) == 2
        assert number_seen(other.take([4, 1]).load(1)) == 1

    def test_few_decoders_stay_open(self, tmp_path):
        paths = [write_video(tmp_path / f"{k}.mp4", grey_frames(3)) for k in range(6)]
        source = open_source(f"clips:{tmp_path}")
        for k in range(len(source)):
            assert number_seen(source.load(k)) == k % 3
        mine = [one for one in videos._decoders.values() if one.path in paths]
        assert len(mine) == videos.OPEN

    def test_digest_of_a_frame(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", grey_frames(2))
        whole = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        digests = open_source(path).digests()
        for k in range(2):
            wanted = hashlib.blake2b(whole + str(k).encode(), digest_size=16).digest()
            assert digests[k].tobytes() == wanted

    def test_another_file_of_the_same_name_has_other_digests(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", grey_frames(2))
        before = open_source(path).digests()
        write_video(path, [255 - one for one in grey_frames(2)])
        os.utime(path, ns=(1, 1))
        assert (before != open_source(path).digests()).any(1).all()

    def test_a_gif_that_is_named_is_a_clip(self, tmp_path):
        frames = [Image.fromarray(one) for one in grey_frames(4)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        source = open_source(f"clips:{tmp_path / 'a.gif'}")
        assert [number_seen(source.load(k)) for k in range(4)] == [0, 1, 2, 3]
        assert open_source(tmp_path / "a.gif").ids == ("a.gif",)

    def test_a_phone_held_upright(self, tmp_path):
        """The matrix of a turn by 90° clockwise is written into the head of the file."""
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[:, :16] = 255  # a bar at the left
        path = write_video(tmp_path / "a.mp4", [frame] * 2)
        raw = bytearray(path.read_bytes())
        at = raw.index(b"tkhd") + 4 + 40
        turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
        raw[at : at + 36] = b"".join(one.to_bytes(4, "big", signed=True) for one in turn)
        path.write_bytes(bytes(raw))
        seen = np.asarray(open_source(path).load(0))
        assert seen.shape == (SIZE[1], SIZE[0], 3)
        assert seen[:12].mean() > 200  # clockwise, the left is the top
        assert seen[20:].mean() < 50


class TestDamage:
    @pytest.mark.parametrize("raw", [b"", b"no video", b"#EXTM3U\n#EXTINF:10,\nb.mp4\n"])
    def test_what_is_no_video_is_a_fault(self, tmp_path, raw):
        write_video(tmp_path / "b.mp4", grey_frames(2))
        (tmp_path / "a.mp4").write_bytes(raw)
        source = open_source(f"clips:{tmp_path}")
        assert source.ids == ("a#000", "b#000", "b#001")
        with pytest.raises(PictureError, match=r"a\.mp4: no video that can be read"):
            source.check_readable()
        with pytest.raises(PictureError, match="no video that can be read"):
            source.load(0)
        (batch,) = load_batches(source, [(0, 3)], (8, 8), on_error="skip")
        assert batch.indices == [1, 2]

    def test_a_video_whose_end_is_missing(self, tmp_path):
        frames = [np.random.default_rng(k).integers(0, 255, (*SIZE, 3), np.uint8)
                  for k in range(20)]  # fmt: skip
        path = write_video(tmp_path / "a.mp4", frames, movflags="faststart")
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) * 6 // 10])
        source = open_source(path)
        assert len(source) == 20  # as many as its head says
        lost = sorted(map(number_of, source.faults))
        assert lost == list(range(lost[0], 20))
        assert 8 <= lost[0] <= 13
        with pytest.raises(PictureError, match="fewer frames than its head says"):
            source.check_readable()
        for k in range(lost[0]):
            source.load(k)

    def test_a_video_whose_head_is_missing(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", grey_frames(20))
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])  # its index stands at its end
        assert list(open_source(path).faults) == ["a#000"]

    def test_a_cut_video_whose_head_counts_no_frames_is_warned_of(self, tmp_path):
        frames = [np.random.default_rng(k).integers(0, 255, (*SIZE, 3), np.uint8)
                  for k in range(30)]  # fmt: skip
        path = write_video(tmp_path / "a.mkv", frames)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])
        with pytest.warns(UserWarning, match=r"its head says 3\.0 s, and its frames end after 1"):
            source = open_source(path)
        assert 10 < len(source) < 20

    def test_what_is_damaged_within_is_skipped(self, tmp_path):
        frames = [np.random.default_rng(k).integers(0, 255, (*SIZE, 3), np.uint8)
                  for k in range(20)]  # fmt: skip
        path = write_video(tmp_path / "a.mp4", frames, "libx264", 5)
        raw = bytearray(path.read_bytes())
        middle = raw.index(b"mdat") + (len(raw) - raw.index(b"mdat")) // 2
        raw[middle : middle + 3000] = bytes(3000)
        path.write_bytes(bytes(raw))
        source = open_source(path)
        (batch,) = load_batches(source, [(0, 20)], (8, 8), on_error="skip")
        assert batch.errors
        assert {0, 1, 2, 19} <= set(batch.indices)
        assert "damaged or missing" in str(batch.errors[0])

    def test_a_video_that_is_gone(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", grey_frames(2))
        source = open_source(path)
        path.unlink()
        with pytest.raises(PictureError, match="cannot be read"):
            source.load(0)

    def test_sound_alone(self, tmp_path):
        av = pytest.importorskip("av")
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        assert "only sound" in open_source(path).faults["a#000"]

    def test_without_the_library(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "a.mp4", grey_frames(2))
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(SourceError, match=r"needs PyAV .*pip install 'diffeat\[video\]'"):
            open_source(path)


class TestOriginals:
    """Where the frames of a feature file lie."""

    @pytest.fixture
    def stored(self, tmp_path, monkeypatch):
        import diffeat

        write_frames(tmp_path / "data" / "bear", ["0.png", "1.png"], (32, 32))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "out").mkdir()
        spec = diffeat.ExtractSpec(timesteps=(20,), blocks=("conv_in",))
        backbone = diffeat.load("unet-cifar10", "cpu")
        diffeat.extract_to_file(backbone, open_source("clips:data"), spec, "out/f.h5")
        return tmp_path / "out" / "f.h5"

    @pytest.mark.parametrize("place", ["", "elsewhere"])
    def test_beside_the_file(self, stored, tmp_path, monkeypatch, place):
        import diffeat
        from diffeat.store import find_originals

        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / place)
        with diffeat.FeatureStore(stored) as store:
            assert store.pictures["beside"] == "clips:../data"
            source, places = find_originals(store, ["bear#001"])
        assert number_seen(source.load(places[0])) == 1

    def test_a_stranger_file_leads_nowhere(self, stored, tmp_path, monkeypatch):
        """A place that is whole is not followed, whatever stands before it."""
        from diffeat.errors import StoreError
        from diffeat.store import find_originals

        class Stranger:
            path, ids, digests = str(stored), ("bear#001",), None
            pictures = {"name": f"clips:{tmp_path / 'data'}", "beside": "clips:/etc", "reading": 2}  # noqa: RUF012

        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="outside the current folder"):
            find_originals(Stranger(), ["bear#001"])
