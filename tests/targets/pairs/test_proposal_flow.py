"""PF-PASCAL and PF-WILLOW."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from diffeat.errors import SourceError
from diffeat.targets.pairs import open_pairs
from tests.targets.pairs.layouts import pf_pascal, pf_willow, picture, write


@pytest.fixture
def pascal(tmp_path):
    pf_pascal(tmp_path)
    return tmp_path


class TestPascal:
    def test_lists_without_points_take_those_that_both_pictures_have(self, pascal):
        pairs = open_pairs(pascal, split="trn")
        assert (pairs.source, pairs.target) == (("p.jpg", "q.jpg"), ("q.jpg", "r.jpg"))
        truth = pairs.truth(0)
        assert truth.source_points.tolist() == [[3, 4], [8.5, 9]]
        assert truth.target_points.tolist() == [[5, 6], [10, 11]]
        assert truth.names == ("0", "2")
        assert truth.target_box.tolist() == [1, 2, 30, 20]
        assert pairs.truth(1).names == ("1", "2")

    def test_mirrored_copies_are_left_out_and_counted(self, pascal):
        pairs = open_pairs(pascal, split="trn")
        assert pairs.left_out == {"pairs of mirrored copies (flip = 1)": 1}

    def test_lists_with_points(self, pascal):
        truth = open_pairs(pascal, split="test").truth(0)
        assert truth.source_points.tolist() == [[3, 4], [8.5, 9]]
        assert truth.target_points.tolist() == [[5, 6], [10, 11]]
        assert truth.names == ()
        assert truth.source_box.tolist() == [1, 2, 30, 20]

    def test_lists_with_points_need_no_annotations(self, pascal):
        for path in (pascal / "Annotations" / "cat").iterdir():
            path.unlink()
        truth = open_pairs(pascal, split="test").truth(0)
        assert truth.source_points.tolist() == [[3, 4], [8.5, 9]]
        assert truth.source_box is None

    def test_classes_are_names(self, pascal):
        assert open_pairs(pascal, split="trn").categories == ("cat", "cat")  # the eighth of VOC
        path = pascal / "trn_pairs.csv"
        path.write_text(path.read_text().replace(",8,", ",cat,"))
        assert open_pairs(pascal, split="trn").categories == ("cat", "cat")
        for number in ("0", "21", ""):
            path.write_text(f"source_image,target_image,class\np.jpg,q.jpg,{number}\n")
            with pytest.raises(SourceError, match=rf"class '{number}'; expected 1 to 20"):
                open_pairs(pascal, split="trn")

    def test_without_lists_every_two_pictures_of_a_class(self, pascal):
        for path in pascal.glob("*.csv"):
            path.unlink()
        pairs = open_pairs(pascal)
        assert pairs.name.endswith(":all")
        assert list(zip(pairs.source, pairs.target, strict=True)) == [
            ("p.jpg", "q.jpg"), ("p.jpg", "r.jpg"), ("q.jpg", "r.jpg"),
        ]  # fmt: skip
        assert pairs.truth(1).names == ("2",)

    @pytest.mark.parametrize("points", ["3;8.5,4;9;1,5;10,6;11", "3;x,4;9,5;10,6;11",
                                        "3;8.5,4;9,5,6"])  # fmt: skip
    def test_points_that_are_none(self, pascal, points):
        write(pascal / "test_pairs.csv", "source_image,target_image,class,XA,YA,XB,YB\n"
              f"p.jpg,q.jpg,8,{points}\n")  # fmt: skip
        with pytest.raises(SourceError, match=r"test_pairs\.csv, line 2: .*expected equally many"):
            open_pairs(pascal, split="test")

    def test_columns(self, pascal):
        write(pascal / "trn_pairs.csv", "source,target\np.jpg,q.jpg\n")
        with pytest.raises(SourceError, match="lacks source_image, target_image, class"):
            open_pairs(pascal, split="trn")

    @pytest.mark.parametrize(
        "content",
        [b"", b"MATLAB", b"MATLAB 5.0 MAT-file" + b"\0" * 200, {"points": np.eye(2)},
         {"kps": np.zeros((3, 3))}],
    )  # fmt: skip
    def test_annotations_that_are_none(self, pascal, content):
        path = pascal / "Annotations/cat/p.mat"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            savemat(path, content)
        with pytest.raises(SourceError, match=r"p\.mat: .*expected"):
            open_pairs(pascal, split="trn")

    def test_paths_that_lead_out(self, pascal):
        for name in ("../../x.jpg", "JPEGImages/../../x.jpg"):
            write(pascal / "trn_pairs.csv",
                  f"source_image,target_image,class\n{name},q.jpg,8\n")  # fmt: skip
            with pytest.raises(SourceError, match="leads out of the folder"):
                open_pairs(pascal, split="trn")
        write(pascal / "trn_pairs.csv", "source_image,target_image,class\np.jpg,q.jpg,../..\n")
        with pytest.raises(SourceError, match="leads out of the folder"):
            open_pairs(pascal, split="trn")


class TestWillow:
    def test_ten_points(self, tmp_path):
        pf_willow(tmp_path)
        pairs = open_pairs(tmp_path)
        assert pairs.source == ("duck(S)/1.png", "duck(S)/2.png")
        truth = pairs.truth(0)
        assert truth.source_points.tolist() == [[k, k + 10] for k in range(1, 11)]
        assert truth.target_points.tolist() == [[k + 1, k + 11] for k in range(1, 11)]
        assert truth.names[9] == "10"
        assert truth.source_box is None
        assert pairs.categories == ("duck(S)", "duck(S)")

    def test_classes_beside_the_list(self, tmp_path):
        pf_willow(tmp_path)
        (tmp_path / "PF-dataset" / "duck(S)").rename(tmp_path / "duck(S)")
        (tmp_path / "PF-dataset").rmdir()
        assert open_pairs(tmp_path).source == ("duck(S)/1.png", "duck(S)/2.png")

    def test_numbers_that_are_none(self, tmp_path):
        pf_willow(tmp_path)
        path = tmp_path / "test_pairs.csv"
        path.write_text(path.read_text().replace(",11,", ",elf,", 1))
        with pytest.raises(SourceError, match=r"line 2: .*elf.*10 points in pixels"):
            open_pairs(tmp_path)

    def test_columns(self, tmp_path):
        write(tmp_path / "test_pairs.csv", "imageA,imageB,XA1\na.png,b.png,1\n")
        picture(tmp_path / "a.png")
        with pytest.raises(SourceError, match=r"lacks XA2, XA3"):
            open_pairs(tmp_path)
