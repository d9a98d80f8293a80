"""`diffeat search`, `probe` and `compare` of masks and depth, with files of a planted cell."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from diffeat.search.dense import HeadChoice
from diffeat.search.kept import load_head
from tests.search.dense.common import BEST, CLASSES, write_file

PLAIN = ("--head", "nearest-mean")


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    found = tmp_path_factory.mktemp("other") / "g.h5"
    write_file(found, folder, noise={BEST: 3.0}, model="m1").close()
    return found


class TestProbe:
    def test_a_surface_of_mean_iou(self, diffeat, path, folder, tmp_path):
        answer = diffeat("probe", path, "--masks", folder, *PLAIN, "--json", "--csv",
                         tmp_path / "t.csv", "--save", tmp_path / "h.safetensors")  # fmt: skip
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert (told["best"]["block"], told["best"]["t"]) == BEST
        assert told["measure"]["name"] == "mIoU"
        assert told["aside"]["pixel accuracy"] > 0.9
        assert "position" in told["floor"]["of"]
        with (tmp_path / "t.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 4
        head, note = load_head(tmp_path / "h.safetensors")
        assert note.cells == (BEST,)
        assert note.class_names == CLASSES
        assert note.fitted is not None
        assert head.about_["task"] == "segmentation"
        assert head.about_["ignore"] == 255
        assert head.about_["scores"]["test"] == told["best"]["test"]

    def test_one_head_on_all_cells(self, diffeat, path, folder, tmp_path):
        kept = tmp_path / "h.safetensors"
        answer = diffeat("probe", path, "--masks", folder, *PLAIN, "--together", "-t", "10",
                         "--save", kept)  # fmt: skip
        assert answer.code == 0, answer.err
        assert "nearest-mean on a t=10 + b t=10: validation" in answer.out
        assert load_head(kept)[1].cells == (("a", 10), BEST)

    def test_few_labels(self, diffeat, path, folder, tmp_path):
        answer = diffeat("probe", path, "--masks", folder, *PLAIN, "--few", "1,3,all", "--draws",
                         "2", "-b", "b", "-t", "10", "--csv", tmp_path / "t.csv")  # fmt: skip
        assert answer.code == 0, answer.err
        assert "sd of draws" in answer.out
        with (tmp_path / "t.csv").open() as file:
            assert [row["draws"] for row in csv.DictReader(file)] == ["2", "2", "1"]

    def test_depth(self, diffeat, path, folder):
        answer = diffeat("probe", path, "--depth", folder, "--unit", "mm", "--json")
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert (told["best"]["block"], told["best"]["t"]) == BEST
        assert told["measure"] == {"name": "abs rel", "unit": "", "higher_is_better": False}
        assert told["best"]["test"] < 0.5 * told["floor"]["value"]
        assert told["aside"]["delta 1"] > 0.6

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("--masks", "M", "--labels", "t.csv"), "--labels: not for segmentation"),
            (("--masks", "M", "--task", "regression"), "--masks is for --task segmentation"),
            (("--depth", "M", "--task", "segmentation"), "--depth is for --task depth"),
            (("--depth", "M", "--masks", "M"), "expected one of them"),
            (("--depth", "M", "--classes", "a,b"), "--classes: not for depth"),
            (("--masks", "M", "--unit", "mm"), "--unit: not for masks"),
            (("--masks", "M", "--draws", "2"), "--draws is for --few"),
            (("--few", "1"), "--few: with --masks or --depth"),
            (("--masks", "M", "--few", "1,many"), "expected numbers of pictures"),
            (("--frame", "9x9"), "--frame: for --task matching"),
            (("--masks", "M", "--head", "vpd"), "expected one of ridge, logistic"),
            (("--masks", "M", "--few", "1", "--png", "a.png"), "heat maps are of single cells"),
            (("--masks", "M", "--few", "1", "--save", "h.safetensors"), "leave --few out"),
            (("--masks", "M", "--confusion", "c.png"), "--masks has classes of pixels"),
            (("--masks", "M", *PLAIN, "-C", "1"), "has no penalty to choose"),
            (("--task", "segmentation", *PLAIN), "masks of pictures are needed"),
            (("--task", "depth"), "needs --depth DIR|NAME"),
        ],
    )
    def test_what_does_not_go_together(self, diffeat, path, folder, arguments, told, tmp_path):
        given = [folder if one == "M" else one for one in arguments]
        answer = diffeat("probe", path, *given)
        assert answer.code in (1, 2)
        assert told in " ".join(answer.err.split())

    def test_what_a_folder_of_masks_alone_lacks(self, diffeat, path, folder, tmp_path):
        masks = tmp_path / "alone"
        shutil.copytree(folder / "masks", masks)
        lost = sorted(masks.rglob("*.png"))[0]
        lost.unlink()
        answer = diffeat("probe", path, "--masks", masks, "--classes", "ground,thing,sky", *PLAIN)
        assert answer.code in (1, 2)
        assert f"pictures have no mask or depth map: '{lost.stem}" in answer.err
        assert "--missing leave-out" in answer.err
        for one in masks.rglob("*.png"):
            one.unlink()
        answer = diffeat("probe", path, "--masks", masks, *PLAIN)
        assert "images/ beside masks/" in answer.err

    def test_vectors_are_refused(self, diffeat, folder, tmp_path):
        write_file(tmp_path / "v.h5", folder, spec={"pool": "1x1"}).close()
        answer = diffeat("probe", tmp_path / "v.h5", "--masks", folder, *PLAIN)
        assert answer.code == 2
        assert "extract with --pool none" in answer.err

    def test_features_that_were_told_what_is_shown(self, diffeat, folder, tmp_path):
        write_file(tmp_path / "c.h5", folder, spec={"prompt": "a photo of a {class}"}).close()
        answer = diffeat("probe", tmp_path / "c.h5", "--masks", folder, *PLAIN)
        assert answer.code == 2
        assert "conditioned on their own targets" in answer.err
        answer = diffeat("probe", tmp_path / "c.h5", "--masks", folder, *PLAIN,
                         "--allow-conditioned")  # fmt: skip
        assert answer.code == 0
        assert "not a measure of recognition" in answer.out


class TestSearch:
    def test_sets_and_a_folder_of_masks_alone(self, diffeat, path, folder, tmp_path):
        masks = tmp_path / "alone"
        shutil.copytree(folder / "masks", masks)
        answer = diffeat("search", path, "--masks", masks, "--classes", "ground,thing,sky", *PLAIN,
                         "--sets", "2", "--spec", tmp_path / "s.toml", "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert (told["best"]["block"], told["best"]["t"]) == BEST
        assert "sets" in told
        assert (tmp_path / "s.toml").is_file()

    def test_finished_cells_are_found_again(self, diffeat, path, folder, tmp_path):
        asked = ("search", path, "--masks", folder, *PLAIN, "--out", tmp_path / "kept", "--json")
        first, second = (json.loads(diffeat(*asked).out) for _ in range(2))
        assert first["computed"] > 0
        assert second["computed"] == 0
        assert second["best"] == first["best"]
        third = json.loads(diffeat(*asked, "--miou", "ddpm-seg").out)
        assert third["computed"] == first["computed"]

    def test_a_test_file(self, diffeat, folder, tmp_path):
        for name, rows in (("a", range(16)), ("b", range(16, 24))):
            write_file(tmp_path / f"{name}.h5", folder, rows).close()
        files = (tmp_path / "a.h5", tmp_path / "b.h5")
        answer = diffeat("search", *files, "--masks", folder, *PLAIN, "--json")
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)["surface"]
        assert told["counts"][2] == 8
        assert sum(told["counts"][:2]) == 16

    def test_a_test_file_of_corrupted_pictures(self, diffeat, folder, tmp_path):
        write_file(tmp_path / "a.h5", folder, range(16)).close()
        worse = {"corrupt": "gaussian_noise:3"}
        write_file(tmp_path / "b.h5", folder, range(16, 24), spec=worse).close()
        files = (tmp_path / "a.h5", tmp_path / "b.h5")
        answer = diffeat("search", *files, "--masks", folder, *PLAIN)
        assert answer.code == 0, answer.err
        assert "corrupted by gaussian_noise:3" in answer.out

    def test_straight_from_a_model(self, diffeat, folder, tmp_path):
        asked = ("search", "unet-cifar10", "--masks", folder, "-t", "20", "-b", "mid,up.0", *PLAIN,
                 "--out", tmp_path / "kept", "--json")  # fmt: skip
        answer = diffeat(*asked)
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert {cell["block"] for cell in told["surface"]["cells"]} == {"mid", "up.0"}
        assert 0 < told["best"]["validation"] < 1
        assert len(list((tmp_path / "kept").glob("*.h5"))) == 1

    def test_missing_features(self, diffeat, folder, tmp_path):
        write_file(tmp_path / "a.h5", folder, range(20)).close()
        asked = ("search", tmp_path / "a.h5", "--masks", folder, *PLAIN)
        answer = diffeat(*asked)
        assert answer.code == 2
        assert "4 of 24 pictures" in answer.err
        answer = diffeat(*asked, "--missing", "leave-out")
        assert answer.code == 0
        assert "4 left out: pictures without features" in answer.out

    def test_at_another_size(self, diffeat, path, folder):
        asked = ("search", path, "--masks", folder, *PLAIN, "--json", "--frame")
        small, large = (json.loads(diffeat(*asked, size).out) for size in ("8x10", "64x80"))
        assert small["best"]["validation"] != large["best"]["validation"]
        assert small["best"]["validation"] > 0.8


class TestCompare:
    def test_one_table(self, diffeat, path, other, folder, tmp_path):
        answer = diffeat("compare", path, other, "--masks", folder, *PLAIN, "--csv",
                         tmp_path / "t.csv", "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        first, second, floor = json.loads(answer.out)["systems"]
        assert first["test"] > second["test"] > floor["test"]
        assert second["difference_interval_95"][1] < 0
        assert np.isclose(second["difference"], second["test"] - first["test"])

    def test_vectors(self, diffeat, path, folder, tmp_path):
        write_file(tmp_path / "v.h5", folder, spec={"pool": "1x1"}).close()
        answer = diffeat("compare", path, tmp_path / "v.h5", "--masks", folder, *PLAIN)
        assert answer.code == 2
        assert "extract with --pool none for --task segmentation" in answer.err

    def test_a_model_beside_a_file(self, diffeat, path, folder, tmp_path):
        model = "mine=unet-cifar10 -t 20 -b mid"
        asked = ("compare", path, model, "--masks", folder, *PLAIN, "--out", tmp_path / "kept")
        answer = diffeat(*asked, "--json")
        assert answer.code == 0, answer.err
        first, second, _ = json.loads(answer.out)["systems"]
        assert first["test"] > second["test"]
        assert second["block"] == "mid"


def test_heads_have_one_list():
    from diffeat.cli.dense_options import HEADS
    from diffeat.search.dense.heads import DEPTH, LINEAR, MASKS, TOGETHER

    assert set(HEADS) == {*MASKS, *DEPTH}
    assert {*LINEAR, *TOGETHER} < set(HEADS)
    for kind in ("masks", "depth"):
        for name in MASKS if kind == "masks" else DEPTH:
            assert HeadChoice(name, seed=3).made(kind).get_params()  # which can be made
