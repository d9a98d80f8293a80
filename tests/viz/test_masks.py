"""Colours of classes, masks over pictures, legends and sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.viz import class_colours, class_overlay, distinct_colours, mask_sheet
from diffeat.viz.masks import class_entries, coloured, edges, heat, legend, with_legend


def lab(colours: np.ndarray) -> np.ndarray:
    """CIE Lab by Pillow's LittleCMS."""
    from PIL import ImageCms

    image = Image.fromarray(colours[None].astype(np.uint8))
    to = ImageCms.createProfile("LAB", 6504)
    found = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), to, outputMode="LAB")
    values = np.asarray(found).astype(np.float64)[0]
    signed = values[:, 1:].astype(np.uint8).astype(np.int8)
    return np.concatenate([values[:, :1] * 100 / 255, signed], 1)


def nearest(points: np.ndarray) -> float:
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    return apart[~np.eye(len(points), dtype=bool)].min()


class TestColours:
    def test_of_fewer_classes_they_are_those_of_more_cut_off(self):
        most = distinct_colours(300)
        for count in (0, 1, 7, 40, 256):
            np.testing.assert_array_equal(distinct_colours(count), most[:count])
        assert len({tuple(one) for one in most.tolist()}) == 300
        assert distinct_colours(5000).shape == (5000, 3)

    def test_the_first_are_okabe_and_itos(self):
        wanted = ["e69f00", "56b4e9", "009e73", "cc79a7", "0072b2", "d55e00", "f0e442"]
        assert [bytes(one).hex() for one in distinct_colours(7)] == wanted

    @pytest.mark.parametrize(("count", "least"), [(20, 15), (40, 9)])
    def test_no_two_are_alike(self, count, least):
        """Farther apart than as many of a colour circle, and than what a glance tells apart."""
        from matplotlib import colormaps

        found = nearest(lab(distinct_colours(count)))
        circle = 255 * colormaps["hsv"](np.arange(count) / count)[:, :3]
        assert found > least
        assert found > nearest(lab(circle))

    def test_background_is_grey_and_takes_no_colour(self):
        found = class_colours(["car", "Background", "tree"])
        assert found[1].tolist() == [96, 96, 96]
        np.testing.assert_array_equal(found[[0, 2]], distinct_colours(2))

    def test_those_of_a_data_set(self):
        own = [[1, 2, 3], [250, 0, 9]]
        assert class_colours(["a", "b"], own).tolist() == own
        for wrong in ([[1, 2, 3]], [[0.5, 1, 1], [1, 1, 1]], [[1, 2, 3], [1, 2, 256]]):
            with pytest.raises(SpecError, match="expected 2 colours"):
                class_colours(["a", "b"], wrong)


class TestOverlay:
    def test_shares_edges_and_what_is_clear(self):
        picture = np.full((6, 8, 3), 100, np.uint8)
        labels = np.zeros((6, 8), np.uint8)
        labels[:, 4:] = 1
        labels[0, 7] = 255
        colours = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
        found = class_overlay(picture, labels, colours, share=0.5)
        assert found[3, 0].tolist() == [150, 50, 50]
        assert found[3, 3].tolist() == [200, 0, 0]  # an edge is in full colour
        assert found[3, 4].tolist() == [0, 0, 200]
        assert found[0, 7].tolist() == [100, 100, 100]
        clear = class_overlay(picture, labels, colours, clear=[0], share=0.5)
        assert (clear[:, :4] == 100).all()
        with pytest.raises(SpecError, match="the mask is 5×8; expected 6×8"):
            class_overlay(picture, labels[:5], colours)

    def test_edges_of_a_width(self):
        labels = np.zeros((5, 9), int)
        labels[:, 4:] = 1
        assert np.flatnonzero(edges(labels)[2]).tolist() == [3, 4]
        assert np.flatnonzero(edges(labels, 2)[2]).tolist() == [2, 3, 4, 5]
        assert not edges(np.zeros((3, 3), int)).any()

    def test_coloured(self):
        colours = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
        found = coloured(np.array([[0, 1], [2, -1]]), colours)
        assert found.tolist() == [[[1, 2, 3], [4, 5, 6]], [[255] * 3] * 2]

    def test_heat_is_brighter_where_numbers_are_larger(self):
        values = np.linspace(0, 1, 11, dtype=np.float32)[None]
        bright = heat(values, 0, 1).astype(int).sum(-1)[0]
        assert (np.diff(bright) > 0).all()
        assert heat(np.array([[np.nan]]), 0, 1)[0, 0].tolist() == [200, 200, 200]
        over = heat(values, 0, 1, np.full((1, 11, 3), 255, np.uint8))
        assert over[0, 0].min() >= 0.35 * 255 - 1


class TestLegend:
    def test_boxes_are_there_in_as_many_lines_as_needed(self):
        colours = distinct_colours(9)
        entries = [(colour, f"class {k}") for k, colour in enumerate(colours)]
        wide, narrow = legend(entries, 900), legend(entries, 200)
        assert len(narrow) > 2 * len(wide)
        for sheet in (wide, narrow):
            assert sheet.shape[1] in (900, 200)
            there = {tuple(one) for one in sheet.reshape(-1, 3).tolist()}
            assert {tuple(one) for one in colours.tolist()} <= there
        assert legend([], 50).shape == (0, 50, 3)

    def test_a_long_name_is_cut_off(self):
        found = legend([((9, 9, 9), "x" * 500)], 200)
        assert (found[:, -6:] == 255).all()

    def test_under_a_picture(self):
        picture = np.full((30, 40, 3), 7, np.uint8)
        found = with_legend(picture, [((255, 0, 0), "a")])
        assert found.shape[1] == 200
        np.testing.assert_array_equal(found[:30, :40], picture)
        assert [255, 0, 0] in found[30:].reshape(-1, 3).tolist()

    def test_entries_of_what_is_there(self):
        colours = distinct_colours(3)
        found = class_entries([0.25, 0.0, 0.75], ["a", "b", "c"], colours)
        assert [text for _, text in found] == ["c 75.0 %", "a 25.0 %"]


class TestSheet:
    def rows(self, count=2):
        rng = np.random.default_rng(0)
        labels = np.zeros((20, 30), np.uint8)
        labels[5:15, 10:20] = 1
        return [{"input": rng.integers(0, 255, (20, 30, 3), np.uint8), "truth": labels,
                 "prediction": np.roll(labels, k), "uncertainty": rng.random((20, 30))}
                for k in range(count)]  # fmt: skip

    def test_what_it_shows(self, tmp_path):
        names, colours = ["ground", "thing", "unseen"], [[9, 99, 9], [99, 9, 200], [1, 250, 250]]
        mask_sheet(self.rows(), tmp_path / "s.png", names=names, colours=colours,
                   heads=["a.png", "b.png"], title="A headline", side=60)  # fmt: skip
        with Image.open(tmp_path / "s.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[1] >= 4 * 150
        there = {tuple(one) for one in pixels.reshape(-1, 3).tolist()}
        assert {(9, 99, 9), (99, 9, 200)} <= there
        assert (1, 250, 250) not in there  # the legend has what occurs
        # two rows of two masks of 100 sites, each 2×2 pixels, and the box of the legend
        assert (pixels == [99, 9, 200]).all(-1).sum() >= 4 * 100 * 4

    def test_numbers_share_a_scale_down_a_column(self, tmp_path):
        rows = [{"depth": np.full((8, 8), value)} for value in (1.0, 2.0, 3.0)]
        mask_sheet(rows, tmp_path / "s.png", side=64)
        with Image.open(tmp_path / "s.png") as image:
            there = {tuple(one) for one in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
        from matplotlib import colormaps

        for place in (0.0, 0.5, 1.0):
            wanted = np.round(255 * np.array(colormaps["magma"](place)[:3]))
            assert tuple(wanted.astype(int).tolist()) in there

    @pytest.mark.parametrize(("columns", "shape"), [(1, (20, 10)), (2, (96, 128)), (4, (30, 20))])
    def test_nothing_that_is_written_is_clipped_or_written_over(
        self, columns, shape, tmp_path, monkeypatch
    ):
        headings = ["input", "a network with a rather long name", "uncertainty", "truth, in metres"]
        row = {name: np.full(shape, 7.125, np.float32) for name in headings[4 - columns :]}
        drawn = []
        monkeypatch.setattr("diffeat.viz.masks.save", lambda figure, *_: drawn.append(figure))
        title = "Depth at every pixel of one room, by few labelled pictures"
        mask_sheet([row] * 2, tmp_path / "s.png", heads=["WWWWWWWWWWWWWWWWWWWWWWWWWWWWW.png"] * 2,
                   units=dict.fromkeys(row, "m"), title=title, side=128,
                   notes=[dict.fromkeys(row, "mIoU 61.0 %")] * 2)  # fmt: skip
        (figure,) = drawn
        width, height = figure.get_size_inches() * figure.dpi
        figure.canvas.draw()
        places = [text.get_window_extent() for text in figure.texts]
        assert all(one.x0 >= 0 and one.y0 >= 0 for one in places)
        assert all(one.x1 <= width and one.y1 <= height for one in places)
        for k, one in enumerate(places):
            assert not any(one.overlaps(other) for other in places[k + 1 :])
        text = " ".join(" ".join(one.get_text().split()) for one in figure.texts)
        assert text.count("7.12 … 7.12 m") == 2 * columns  # also where there is a note
        assert title in text

    def test_columns_stand_below_each_other(self, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("diffeat.viz.masks.save", lambda figure, *_: drawn.append(figure))
        rows = [{name: np.zeros(shape, np.uint8) for name in ("input", "truth")}
                for shape in ((200, 240), (240, 180))]  # fmt: skip
        mask_sheet(rows, tmp_path / "s.png", names=["a"])
        places = [text.get_position()[0] for text in drawn[0].texts]
        assert len(set(places[:4])) == 2
        assert places[:2] == places[2:4]

    def test_what_is_no_picture(self, tmp_path):
        with pytest.raises(SpecError, match="no pictures"):
            mask_sheet([], tmp_path / "s.png")
        with pytest.raises(SpecError, match="expected a picture"):
            mask_sheet([{"input": np.zeros((4, 4, 4), np.uint8)}], tmp_path / "s.png")
