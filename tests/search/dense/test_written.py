"""Masks, depth and uncertainty as files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError, StoreError
from diffeat.search.dense.applied import Seen
from diffeat.search.dense.written import DenseFolder, file_names, in_millimetres, save_mask
from diffeat.viz.looks import Looks
from probes import load, save
from probes.cells import Cells
from probes.dense import NearestMean

NAMES = ("background", "car", "tree")
COLOURS = np.array([[0, 0, 0], [200, 10, 10], [3, 4, 5]], np.uint8)


def folder_of(place, ids, kind="masks", draw=False, **more):
    names = NAMES if kind == "masks" else ()
    applied = SimpleNamespace(kind=kind, names=names, ignore=255, most_uncertain=0.8)
    return DenseFolder(place, applied, ids, COLOURS, Looks(names, COLOURS) if draw else None,
                       **more)  # fmt: skip


def seen(values, row=0, uncertainty=None):
    return Seen(row, np.asarray(values), np.ones(np.shape(values), bool), uncertainty)


class TestNames:
    @pytest.mark.parametrize(
        ("ids", "names"),
        [
            (["a.png", "sub/b.JPG", "c"], ["a", "sub/b", "c"]),
            (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
            (["A.png", "a.png"], ["A.png", "a.png~2"]),
            (["../../etc/x.png", "/abs/y.png", "C:\\z.png"], ["etc/x", "abs/y", "C_/z"]),
            (["bear#001", "con.png", "a?b*.png"], ["bear#001", "_con", "a_b_"]),
            (["..", "", "///"], ["_", "_~2", "_~3"]),
            (["overlays/1.png", "Uncertainty/1.png"], ["overlays_/1", "Uncertainty_/1"]),
            (["a.png/1.jpg", "a.jpg"], ["a.png_/1", "a"]),
            (["v1.0/frame.01.png"], ["v1.0/frame.01"]),
        ],
    )  # fmt: skip
    def test_of_ids(self, ids, names):
        assert file_names(ids) == names

    def test_none_leads_out_and_no_two_are_alike(self, tmp_path):
        rng = np.random.default_rng(0)
        parts = ["..", ".", "", "a", "A", "b.png", "b.jpg", "\0", "overlays", "~", "a~2"]
        ids = list(dict.fromkeys("/".join(rng.choice(parts, 3)) for _ in range(300)))
        names = file_names(ids)
        assert len({name.casefold() for name in names}) == len(ids)
        for name in names:
            path = (tmp_path / f"{name}.png").resolve()
            assert path.is_relative_to(tmp_path)
            assert "\0" not in name


class TestMasks:
    def test_a_palette_and_indices(self, tmp_path):
        labels = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
        colours = np.array([[1, 2, 3], [40, 50, 60], [7, 8, 9]], np.uint8)
        save_mask(labels, tmp_path / "new/m.png", colours)
        with Image.open(tmp_path / "new/m.png") as image:
            assert image.mode == "P"
            assert image.getpalette()[:9] == colours.ravel().tolist()
            np.testing.assert_array_equal(np.asarray(image), labels)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[labels])
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.png"]

    def test_256_classes_fit_8_bits_and_more_16(self, tmp_path):
        for count, mode in ((256, "P"), (257, "I;16")):
            labels = np.array([[0, count - 1]], np.uint16)
            save_mask(labels, tmp_path / "m.png", np.zeros((count, 3), np.uint8))
            with Image.open(tmp_path / "m.png") as image:
                assert image.mode == mode
                assert np.asarray(image).tolist() == [[0, count - 1]]

    def test_classes_json(self, tmp_path):
        folder_of(tmp_path, ["a.png"], uncertain=True).begin()
        found = json.loads((tmp_path / "classes.json").read_text("utf-8"))
        assert found["classes"][1] == {"id": 1, "name": "car", "color": [200, 10, 10]}
        assert (len(found["classes"]), found["ignore"]) == (3, 255)
        assert found["uncertainty"]["scale"] == pytest.approx(0.8 / 255)

    def test_uncertainty_comes_back_by_its_scale(self, tmp_path):
        folder = folder_of(tmp_path, ["a.png"], uncertain=True)
        doubt = np.linspace(0, 0.8, 35, dtype=np.float32).reshape(5, 7)
        folder.add(seen(np.zeros((5, 7), np.uint8), uncertainty=doubt))
        with Image.open(tmp_path / "uncertainty/a.png") as image:
            assert image.mode == "L"
            np.testing.assert_allclose(np.asarray(image) * 0.8 / 255, doubt, atol=0.8 / 255 / 1.9)

    def test_overlays_lie_over_their_pictures(self, tmp_path):
        folder = folder_of(tmp_path, ["x/a.png"], draw=True, uncertain=True)
        picture = np.full((40, 220, 3), 128, np.uint8)
        labels = np.zeros((40, 220), np.uint8)
        labels[:, 100:] = 1
        doubt = np.full((40, 220), 0.1, np.float32)
        folder.add(seen(labels, uncertainty=doubt), lambda: picture)
        with Image.open(tmp_path / "overlays/x/a.jpg") as image:
            found = np.asarray(image).astype(int)
        assert found.shape[0] > 40
        assert np.abs(found[:40, :90] - 128).max() < 12  # through background
        wanted = 128 + 0.55 * (COLOURS[1].astype(float) - 128)
        assert np.abs(found[5:35, 110:] - wanted).max() < 12
        assert (tmp_path / "uncertainty/x/a.jpg").is_file()

    def test_a_picture_of_another_size(self, tmp_path):
        folder = folder_of(tmp_path, ["a.png"], draw=True)
        with pytest.raises(SpecError, match="5×4 pixels by now; its features are of 7×5"):
            folder.add(seen(np.zeros((5, 7), np.uint8)), lambda: np.zeros((4, 5, 3), np.uint8))


class TestDepth:
    def test_millimetres(self):
        depth = np.array([[0.0, 0.0004, 1.234, 65.535], [65.6, 1000, np.nan, np.inf]], np.float32)
        found, lost = in_millimetres(depth)
        assert found.tolist() == [[1, 1, 1234, 65535], [65535, 65535, 0, 0]]
        assert found.dtype == np.uint16
        assert lost == 2

    def test_files_and_their_unit(self, tmp_path):
        depth = np.random.default_rng(0).uniform(0.5, 9, (6, 8)).astype(np.float32)
        for kind in ("png", "npz"):
            folder = folder_of(tmp_path / kind, ["a.jpg"], "depth", True, format=kind)
            (tmp_path / kind).mkdir()
            folder.begin()
            folder.add(seen(depth))
            assert (tmp_path / kind / "colours/a.jpg").is_file()
        said = json.loads((tmp_path / "png/depth.json").read_text("utf-8"))
        with Image.open(tmp_path / "png/a.png") as image:
            found = np.asarray(image) * said["scale"]
        np.testing.assert_allclose(found, depth, atol=0.00051)
        with np.load(tmp_path / "npz/a.npz") as file:
            np.testing.assert_array_equal(file["depth"], depth)
        assert json.loads((tmp_path / "npz/depth.json").read_text("utf-8"))["unit"] == "metre"


class TestFoldersInUse:
    def folder(self, place, **made_by):
        return folder_of(place, ["a.png"], made_by=made_by)

    def test_what_others_wrote_stays(self, tmp_path):
        (tmp_path / "mine.txt").write_text("kept")
        with pytest.raises(SpecError, match=r"is in use: it holds 'mine.txt'"):
            self.folder(tmp_path).begin()
        self.folder(tmp_path).begin(overwrite=True)
        assert (tmp_path / "mine.txt").read_text() == "kept"

    def test_the_same_head_goes_on_and_another_does_not(self, tmp_path):
        self.folder(tmp_path, head="A", digest="1").begin()
        self.folder(tmp_path, head="A", digest="1").begin()
        with pytest.raises(SpecError, match="digest: 1 → 2"):
            self.folder(tmp_path, head="A", digest="2").begin()
        (tmp_path / "classes.json").write_text('{"classes": []}')
        with pytest.raises(SpecError, match="is not of this command"):
            self.folder(tmp_path, head="A", digest="1").begin()

    def test_a_file_that_cannot_be_written(self, tmp_path):
        (tmp_path / "a").write_text("a file where a folder should be")
        with pytest.raises(StoreError, match="cannot be written"):
            save_mask(np.zeros((2, 2), np.uint8), tmp_path / "a/m.png", np.zeros((1, 3), np.uint8))


def test_a_head_whose_ignored_label_is_below_0_is_kept(tmp_path):
    """As of more classes than 8 bits hold."""
    rng = np.random.default_rng(0)
    cells = Cells({("a", 0): rng.random((1, 3, 4, 4), np.float32)}, sizes=[[20, 20]])
    masks = np.arange(400).reshape(1, 20, 20) % 301 - 1
    head = NearestMean().fit(cells, masks, classes=300, ignore=-1)
    save(head, tmp_path / "h.safetensors")
    assert load(tmp_path / "h.safetensors").ignore_ == -1
