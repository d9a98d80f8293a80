"""`diffeat match` of a clip: a textured square that moves by whole pixels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from probes.cells import Cells
from probes.metrics import VideoScores
from probes.propagation import LabelPropagator
from tests.clips import SIZE, moving_square, write_video

MODEL = "unet-cifar10"
CLEAN = ("-t", 0, "-b", "conv_in", "--noise", "none", "--dtype", "float32", "--size", "48x64")
COUNT, STEP = 6, 3
PALETTE = [0, 0, 0, 200, 10, 20, *[0] * 762]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """clips/bear: frames; truth/: masks; first.png."""
    folder = tmp_path_factory.mktemp("frames")
    frames, masks = moving_square(COUNT, step=STEP)
    for name in ("clips/bear", "truth"):
        (folder / name).mkdir(parents=True)
    for k, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        Image.fromarray(frame).save(folder / f"clips/bear/{k:05d}.png")
        image = Image.fromarray(mask)
        image.putpalette(PALETTE)
        image.save(folder / f"truth/{k:05d}.png")
    return folder


@pytest.fixture(scope="module")
def stored(place, tmp_path_factory) -> Path:
    from click.testing import CliRunner

    from diffeat.cli import cli

    path = tmp_path_factory.mktemp("stored") / "f.h5"
    arguments = ["extract", MODEL, f"clips:{place / 'clips'}", "-o", str(path), *map(str, CLEAN)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None, done.output
    return path


@pytest.fixture
def first(place) -> Path:
    return place / "truth" / "00000.png"


def by_hand(path: Path) -> list[np.ndarray]:
    """The masks from the feature file alone."""
    with h5py.File(path) as file:
        order = np.argsort([one.decode() for one in file["ids"]])
        maps = file["features/conv_in/t0"][:][order]
    cells = Cells({("conv_in", 0): maps}, sizes=np.tile(SIZE, (COUNT, 1)))
    return list(LabelPropagator().propagate(cells, moving_square(1)[1][0]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


class TestExtract:
    def test_rows_of_clips(self, stored):
        with h5py.File(stored) as file:
            assert [one.decode() for one in file["ids"]] == [f"bear#{k:03d}" for k in range(COUNT)]

    def test_a_video_and_every_second_frame(self, diffeat, tmp_path):
        path = write_video(tmp_path / "run.mp4", moving_square(5)[0])
        answer = diffeat("extract", MODEL, path, "-o", tmp_path / "f.h5", *CLEAN, "--every", 2)
        assert answer.code == 0, answer.err
        with h5py.File(tmp_path / "f.h5") as file:
            assert [one.decode() for one in file["ids"]] == ["run#000", "run#002", "run#004"]
        answer = diffeat("extract", MODEL, path, "-o", tmp_path / "f.h5", *CLEAN)
        assert "5 pictures, 2 computed now" in answer.out  # the others are there

    def test_every_of_what_are_no_clips(self, diffeat, place, tmp_path):
        answer = diffeat("extract", MODEL, place / "truth", "-o", tmp_path / "f.h5", "--every", 2,
                         *CLEAN)  # fmt: skip
        assert answer.code == 1
        assert "no frames of clips" in answer.err

    def test_a_damaged_video_is_skipped(self, diffeat, tmp_path):
        folder = tmp_path / "videos"
        folder.mkdir()
        write_video(folder / "good.mp4", moving_square(2)[0])
        (folder / "bad.mp4").write_bytes(b"nothing")
        asked = ("extract", MODEL, f"clips:{folder}", "-o", tmp_path / "f.h5", *CLEAN)
        answer = diffeat(*asked)
        assert answer.code == 1
        assert "bad.mp4: no video that can be read" in answer.err
        assert "--on-error skip" in answer.err
        answer = diffeat(*asked, "--on-error", "skip")
        assert answer.code == 0, answer.err
        assert "2 pictures, 1 skipped" in answer.out


class TestMask:
    def test_masks_of_a_file(self, diffeat, stored, place, first, tmp_path):
        out = tmp_path / "masks"
        answer = diffeat("match", stored, "bear", "--mask", first, "-o", out, "--png",
                         tmp_path / "strip.png", "--csv", tmp_path / "a.csv", "--truth",
                         place / "truth")  # fmt: skip
        assert answer.code == 0, answer.err
        wanted = by_hand(stored)
        assert sorted(path.name for path in out.iterdir()) == [f"{k:05d}.png" for k in range(COUNT)]
        for k in range(COUNT):
            with Image.open(out / f"{k:05d}.png") as image:
                assert image.mode == "P"
                assert image.getpalette()[:6] == PALETTE[:6]
                np.testing.assert_array_equal(np.asarray(image), wanted[k])
        scores = VideoScores()
        for labels, mask in zip(wanted, moving_square(COUNT, step=STEP)[1], strict=True):
            scores.update("bear", labels, mask)
        found = scores.compute()
        assert f"object 1: J {100 * found['J']:.1f}, F {100 * found['F']:.1f}" in answer.out
        rows = rows_of(tmp_path / "a.csv")
        assert [row["frame"] for row in rows] == [f"bear#{k:03d}" for k in range(COUNT)]
        assert [int(row["area"]) for row in rows] == [int(one.sum()) for one in wanted]
        assert rows[0]["J"] == rows[-1]["J"] == ""
        assert np.mean([float(row["J"]) for row in rows[1:-1]]) == pytest.approx(found["J"])
        with Image.open(tmp_path / "strip.png") as strip:
            assert strip.size[0] > 600

    def test_the_square_is_followed(self, stored):
        """Its corners alone are lost, where patches show the ground as well."""
        for labels, mask in zip(by_hand(stored), moving_square(COUNT, step=STEP)[1], strict=True):
            assert (labels & mask).sum() / (labels | mask).sum() > 0.75

    def test_by_folder_by_video_and_from_a_model(self, diffeat, stored, place, first, tmp_path):
        def masks(what, frames, *more):
            out = tmp_path / f"{len(list(tmp_path.iterdir()))}-masks"
            answer = diffeat("match", what, frames, "--mask", first, "-o", out, *more)
            assert answer.code == 0, answer.err
            return [read(out / f"{k:05d}.png") for k in range(COUNT)]

        np.testing.assert_array_equal(masks(stored, place / "clips/bear"), by_hand(stored))
        cache = tmp_path / "cache.h5"
        path = write_video(tmp_path / "bear.mp4", moving_square(COUNT, step=STEP)[0])
        found = masks(MODEL, path, *CLEAN, "--cache", cache)
        np.testing.assert_array_equal(found, by_hand(cache))
        for labels, mask in zip(found, moving_square(COUNT, step=STEP)[1], strict=True):
            assert (labels & mask).sum() / (labels | mask).sum() > 0.7

    def test_a_file_of_single_pictures(self, diffeat, place, first, tmp_path):
        """Whose ids are the files' names."""
        asked = ("extract", MODEL, place / "clips/bear", "-o", tmp_path / "flat.h5", *CLEAN)
        assert diffeat(*asked).code == 0
        answer = diffeat("match", tmp_path / "flat.h5", place / "clips/bear", "--mask", first, "-o",
                         tmp_path / "m")  # fmt: skip
        assert answer.code == 0, answer.err
        assert len(list((tmp_path / "m").iterdir())) == COUNT

    def test_options_reach_the_propagator(self, diffeat, stored, first, tmp_path):
        asked = ("--last", 1, "--radius", 2, "--top-k", 1, "--temperature", 0.1)
        answer = diffeat("match", stored, "bear", "--mask", first, *asked, "-o", tmp_path / "m")
        assert "LabelPropagator(last=1, radius=2, temperature=0.1, top_k=1)" in answer.out
        with h5py.File(stored) as file:
            cells = Cells({("a", 0): file["features/conv_in/t0"][:]},
                          sizes=np.tile(SIZE, (COUNT, 1)))  # fmt: skip
        how = LabelPropagator(last=1, radius=2, top_k=1, temperature=0.1)
        wanted = list(how.propagate(cells, moving_square(1)[1][0]))
        np.testing.assert_array_equal(read(tmp_path / "m/00005.png"), wanted[5])

    def test_json(self, diffeat, stored, place, first):
        answer = diffeat("match", stored, "bear", "--mask", first, "--truth", place / "truth",
                         "--json")  # fmt: skip
        found = json.loads(answer.out)
        assert (found["clip"], found["frames"], found["objects"]) == ("bear", COUNT, [1])
        assert 0.5 < found["scores"]["1"]["J&F"] <= 1
        assert len(found["rows"]) == COUNT

    def test_grey_masks_stay_grey(self, diffeat, stored, tmp_path):
        Image.fromarray(moving_square(1)[1][0] * 255).save(tmp_path / "m.png")
        answer = diffeat(
            "match", stored, "bear", "--mask", tmp_path / "m.png", "-o", tmp_path / "o"
        )
        assert "object 255" in answer.out
        with Image.open(tmp_path / "o/00003.png") as image:
            assert image.mode == "L"
            assert set(np.unique(np.asarray(image))) == {0, 255}


class TestPoints:
    def test_points_move_along(self, diffeat, stored, tmp_path):
        answer = diffeat("match", stored, "bear", "--points", "12,20 14,18", "-o",
                         tmp_path / "t.csv", "--png", tmp_path / "p.png")  # fmt: skip
        assert answer.code == 0, answer.err
        rows = rows_of(tmp_path / "t.csv")
        assert list(rows[0]) == ["frame", "point", "x", "y", "score", "valid"]
        assert len(rows) == 2 * COUNT
        for place, row in enumerate(rows):
            frame, point = divmod(place, 2)
            wanted = (12 + STEP * frame, 20) if point == 0 else (14 + STEP * frame, 18)
            assert (float(row["x"]), float(row["y"])) == wanted
            assert (row["frame"], row["point"]) == (f"bear#{frame:03d}", str(point + 1))
        assert (tmp_path / "p.png").is_file()
        chained = diffeat("match", stored, "bear", "--points", "12,20", "--chained", "--json")
        last = json.loads(chained.out)["rows"][-1]
        assert (last["x"], last["y"]) == (12 + STEP * (COUNT - 1), 20)


class TestRefused:
    @pytest.mark.parametrize(
        ("asked", "code", "message"),
        [
            (("bear",), 2, "what is to be followed through bear"),
            (("bear", "--mask", "FIRST", "--points", "1,1"), 2, "--mask with --points"),
            (("bear", "--mask", "FIRST"), 2, "nothing would come of it"),
            (("bear", "--points", "1,1"), 2, "nothing would come of it"),
            (("bear", "--mask", "FIRST", "--stride", "4"), 2, "--stride: not for a clip"),
            (("bear", "--mask", "FIRST", "--metric", "l2"), 2, "--metric: a mask is carried"),
            (("bear", "--mask", "FIRST", "-o", "m.csv"), 2, "masks go into a folder"),
            (("bear", "--points", "1,1", "--top-k", "3"), 2, "--top-k: for --mask"),
            (("bera", "--mask", "FIRST"), 2, "did you mean 'bear'"),
            (("bear", "--mask", "SMALL"), 2, "expected the 64×48 pixels of bear#000"),
            (("bear", "--mask", "EMPTY"), 2, "shows no object"),
            (("bear", "--mask", "COLOUR"), 1, "holds colours"),
            (("bear", "--mask", "LOSSY"), 1, "is a JPEG, which changes labels"),
            (("bear", "--mask", "OTHER", "--truth", "TRUTH"), 2, "shows none of the objects [200]"),
            (("bear", "--mask", "FIRST", "--truth", "TRUTH", "-o", "TRUTH"), 2, "the true masks"),
            (("bear", "--mask", "IN", "-o", "TRUTH"), 2, "holds the first mask, which could be"),
            (("CLIP", "--mask", "FIRST", "-o", "CLIP"), 2, "holds the frames, which could be"),
            (("bear", "--mask", "FIRST", "--truth", "."), 1, "0 masks for 6 frames"),
            (("a", "b", "--mask", "FIRST", "--last", "3"), 2, "--last: not for two pictures"),
        ],
    )
    def test_what_cannot_be_meant(
        self, diffeat, stored, place, first, tmp_path, monkeypatch, asked, code, message
    ):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        mask = Image.fromarray(read(first))
        made = {"FIRST": mask, "SMALL": mask.resize((32, 24)), "COLOUR": mask.convert("RGB"),
                "EMPTY": Image.new("P", mask.size), "LOSSY": mask.convert("L"),
                "OTHER": Image.fromarray(read(first) * 200)}  # fmt: skip
        names = {"TRUTH": place / "truth", "IN": first, "CLIP": place / "clips/bear"}
        for name, image in made.items():
            names[name] = tmp_path / f"{name}.{'jpg' if name == 'LOSSY' else 'png'}"
            image.save(names[name])
        shown = () if message == "nothing would come of it" else ("--json",)
        answer = diffeat("match", stored, *(names.get(one, one) for one in asked), *shown)
        assert (answer.code, message in answer.err) == (code, True), answer.err

    def test_frames_that_a_file_lacks(self, diffeat, place, first, tmp_path):
        asked = ("extract", MODEL, f"clips:{place / 'clips/bear'}", "-o", tmp_path / "f.h5", *CLEAN)
        assert diffeat(*asked, "--every", 2).code == 0
        follow = ("match", tmp_path / "f.h5", place / "clips/bear", "--mask", first, "--json")
        answer = diffeat(*follow)
        assert answer.code == 2
        assert "lacks 3 of 6 frames, the first 'bear#001'" in answer.err
        answer = diffeat(*follow, "--missing", "leave-out", "-o", tmp_path / "m")
        assert answer.code == 0, answer.err
        names = [path.name for path in sorted((tmp_path / "m").iterdir())]
        assert names == ["00000.png", "00002.png", "00004.png"]
        assert "3 of 6 frames are left out" in answer.err

    def test_several_clips(self, diffeat, stored, place, first, tmp_path):
        (tmp_path / "clips/goat").mkdir(parents=True)
        (tmp_path / "clips/bear").mkdir()
        for clip in ("goat", "bear"):
            Image.new("RGB", (4, 4)).save(tmp_path / "clips" / clip / "0.png")
        answer = diffeat("match", stored, tmp_path / "clips", "--mask", first, "--json")
        assert answer.code == 2
        assert "holds 2 clips (bear, goat); name one" in answer.err

    def test_vectors(self, diffeat, place, first, tmp_path):
        asked = ("extract", MODEL, f"clips:{place / 'clips'}", "-o", tmp_path / "f.h5", *CLEAN)
        assert diffeat(*asked, "--pool", "1x1").code == 0
        answer = diffeat("match", tmp_path / "f.h5", "bear", "--mask", first, "--json")
        assert answer.code == 2
        assert "holds vectors" in answer.err
