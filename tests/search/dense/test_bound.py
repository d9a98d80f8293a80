from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffeat.errors import SpecError
from diffeat.search.dense import bind_dense
from diffeat.store import FeatureStore
from probes.maps import Maps
from tests.search.dense.common import (
    BEST,
    COUNT,
    GRID,
    NOISE,
    SIZE,
    Planted,
    depth_of,
    maps_of,
    mask_of,
    size_of,
    write_file,
)


class TestBinding:
    def test_rows_follow_the_targets_and_not_the_file(self, folder, store):
        some = Planted(folder, which=(5, 0, 17))
        bound = bind_dense(some, [store])
        assert len(bound) == 3
        assert bound.ids == ("05.png", "00.png", "17.png")
        assert bound.groups == ("p2", "p0", "p8")
        assert bound.sizes.tolist() == [list(size_of(row)) for row in (5, 0, 17)]
        planted = maps_of((5, 0, 17), NOISE[BEST], list(NOISE).index(BEST))
        for k in range(3):
            maps = bound.cells([BEST]).maps(k)
            np.testing.assert_array_equal(maps[BEST], planted[k].astype(np.float16))
            np.testing.assert_array_equal(bound.masks[k], mask_of((5, 0, 17)[k]))
        assert bound.noted == {"pictures of the files have no target": COUNT - 3}

    def test_maps_lie_where_the_file_says(self, bound):
        maps = bound.cells([BEST]).maps(2)  # a squashed picture
        assert maps.size == (48, 40)
        assert maps.input_size == SIZE
        squashed = Maps(maps.values, (48, 40), SIZE)  # what a squash means, without a placement
        points = np.array([[0.0, 0.0], [39.0, 47.0], [12.5, 30.0]])
        np.testing.assert_allclose(maps.sites(points, BEST), squashed.sites(points, BEST))

    def test_masks_are_read_once_and_by_row(self, folder, store):
        read = []

        class Counting(Planted):
            def target(self, k):
                read.append(k)
                return super().target(k)

        bound = bind_dense(Counting(folder), [store])
        assert read == []
        some = bound.masks[[3, 7]]
        assert [one.shape for one in some] == [size_of(3), size_of(7)]
        bound.masks[3]
        assert read == [3, 7]
        with pytest.raises(ValueError, match="read-only"):
            some[0][0, 0] = 9

    def test_a_training_and_a_test_set_stand_one_after_the_other(self, folder, store):
        first, second = Planted(folder, range(8)), Planted(folder, range(8, 12))
        both = bind_dense(first, [store]).joined(bind_dense(second, [store]))
        assert len(both) == 12
        assert both.ids[8:] == second.ids
        np.testing.assert_array_equal(both.masks[9], mask_of(9))
        found = both.cells([BEST]).maps(9)[BEST]
        planted = maps_of((9,), NOISE[BEST], list(NOISE).index(BEST))[0]
        np.testing.assert_array_equal(found, planted.astype(np.float16))

    def test_sets_of_other_classes_are_not_joined(self, folder, store):
        first = bind_dense(Planted(folder), [store])
        other = bind_dense(replace(Planted(folder), classes=("ground", "sky", "thing")), [store])
        with pytest.raises(SpecError, match="expected the same classes in one order"):
            first.joined(other)

    def test_another_frame_moves_masks_by_nearest(self, folder, store):
        bound = bind_dense(Planted(folder), [store], frame=(16, 20))
        assert (bound.sizes == (16, 20)).all()
        for row in (0, 2):  # Pillow's nearest takes the pixel in which a centre lies, too
            shrunk = Image.fromarray(mask_of(row)).resize((20, 16), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(bound.masks[row], np.asarray(shrunk))
        maps = bound.cells([BEST]).maps(2)
        corners = maps.sites([[-0.5, -0.5], [19.5, 15.5]], BEST)  # the whole picture still
        np.testing.assert_allclose(corners, [[-0.5, -0.5], [GRID[1] - 0.5, GRID[0] - 0.5]])

    def test_depth_keeps_what_is_not_known(self, folder, store):
        bound = bind_dense(Planted(folder, kind="depth"), [store], frame=(16, 20))
        shrunk = Image.fromarray(depth_of(0)).resize((20, 16), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(bound.masks[0], np.asarray(shrunk))
        assert np.isnan(bound.masks[0]).any()

    def test_what_is_known_is_told_by_its_fingerprint(self, folder, store):
        plain = bind_dense(Planted(folder), [store])
        fewer = bind_dense(Planted(folder, which=range(20)), [store])
        framed = bind_dense(Planted(folder), [store], frame=(16, 20))
        assert len({one.fingerprint for one in (plain, fewer, framed)}) == 3
        assert plain.identity != fewer.identity


class TestRefused:
    def bound(self, tmp_path, folder, targets=None, **how):
        with write_file(tmp_path / "g.h5", folder, **how) as store:
            return bind_dense(targets or Planted(folder), [store])

    def test_vectors(self, tmp_path, folder):
        with pytest.raises(SpecError, match=r"holds vectors .*--pool none"):
            self.bound(tmp_path, folder, spec={"pool": "1x1"})

    def test_files_that_do_not_know_where_maps_lie(self, tmp_path, folder):
        with pytest.raises(SpecError, match=r"from before 0\.8; extract it again"):
            self.bound(tmp_path, folder, without=("sizes", "placements"))

    def test_pictures_without_features(self, tmp_path, folder):
        with pytest.raises(SpecError, match=r"2 of 24 pictures .* such as '22.png', '23.png'"):
            self.bound(tmp_path, folder, rows=range(22))
        with write_file(tmp_path / "h.h5", folder, rows=range(22)) as store:
            bound = bind_dense(Planted(folder), [store], missing="leave-out")
        assert len(bound) == 22
        assert bound.left_out == {"pictures without features": 2}

    def test_no_picture_in_common(self, folder, store):
        class Others(Planted):
            ids = property(lambda self: tuple(f"other-{k}.png" for k in self.which))

        with pytest.raises(SpecError, match=r"has no picture of planted.*'00.png' there"):
            bind_dense(Others(folder), [store], missing="leave-out")

    def test_pictures_that_are_others_by_now(self, tmp_path, path):
        from tests.search.dense.common import write_pictures

        folder = write_pictures(tmp_path / "things")
        Image.new("RGB", SIZE[::-1]).save(folder / "images/03.png")
        with FeatureStore(path) as store, pytest.raises(SpecError, match="hold something else"):
            bind_dense(Planted(folder), [store])

    def test_targets_of_pictures_of_another_size(self, folder, store):
        sizes = np.array([size_of(row) for row in range(COUNT)])
        sizes[4] = 64, 80
        with pytest.raises(SpecError, match=r"'04.png': 64×80 there, 32×40 in the file"):
            bind_dense(replace(Planted(folder), sizes=sizes), [store])

    def test_an_unknown_word(self, folder, store):
        with pytest.raises(SpecError, match="expected refuse or leave-out"):
            bind_dense(Planted(folder), [store], missing="maybe")
