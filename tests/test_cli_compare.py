"""`diffeat compare`: what is typed, what comes out, and what is refused before any work."""

from __future__ import annotations

import csv
import json

import click
import numpy as np
import pytest
from PIL import Image

from diffeat import FeatureStore
from diffeat.cli.systems import parse_systems
from tests.search.common import arrays_of, dark_and_bright, labels_of, write_store

WEAK = {("a", 10): 0.0, ("b", 10): 0.2}
STRONG = {("a", 10): 0.2, ("b", 10): 1.5}


@pytest.fixture
def files(tmp_path):
    """A weak and a strong file of the same pictures."""
    labels = labels_of(200)
    for name, strength in (("weak", WEAK), ("strong", STRONG)):
        write_store(tmp_path / f"{name}.h5", arrays_of(labels, strength=strength), labels).close()
    return tmp_path / "weak.h5", tmp_path / "strong.h5"


@pytest.fixture
def folder(tmp_path):
    return dark_and_bright(tmp_path / "pictures")


class TestNames:
    def test_options_of_one_system_in_one_argument(self):
        unet, dino = parse_systems(
            ["unet-cifar10 -t 20,60 -b up.0,up.1 --pool 2x2", "dino=timm:vit@/a/b=c.safetensors"]
        )
        assert (unet.name, unet.what) == ("unet-cifar10", "unet-cifar10")
        assert unet.values["timesteps"] == ("20", "60")
        assert (unet.values["blocks"], unet.values["pool"]) == (("up.0", "up.1"), "2x2")
        assert (dino.name, dino.what) == ("dino", "timm:vit@/a/b=c.safetensors")
        [sigma] = parse_systems(["sd21 -t sigma=0.3 -b up.1"])
        assert (sigma.name, sigma.values["timesteps"]) == ("sd21", ("sigma=0.3",))

    def test_short_names_and_those_that_are_taken(self, tmp_path):
        (tmp_path / "my model").mkdir()
        (tmp_path / "b=c.h5").touch()
        found = parse_systems(
            [str(tmp_path / "my model"), str(tmp_path / "b=c.h5"), "timm:vit@/w/x.safetensors",
             "m@random:3", "m -t 20", "m -t 60", "m -t 60"]
        )  # fmt: skip
        names = [one.name for one in found]
        assert names == ["my model", "b=c", "timm:vit", "m@random:3", "m timesteps=20",
                         "m timesteps=60", "m timesteps=60 (2)"]  # fmt: skip
        assert [one.is_file for one in found[:3]] == [False, True, False]

    def test_twins_have_no_weights_of_others(self):
        timm, unet = parse_systems(["timm:vit@/w/x.safetensors", "u=unet --lora a.safetensors"])
        assert (timm.twin().name, timm.twin().what) == ("timm:vit@random", "timm:vit@random")
        assert (unet.twin().name, unet.twin().what) == ("u@random", "unet@random")
        assert unet.twin().values["lora"] is None

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("unet --blok up.1", "No such option.*such as 'unet-cifar10 -t 20"),
            ("unet 'up.1", "No closing quotation"),
            ("unet up.1", "unexpected extra argument"),
            ("  ", "empty system"),
            ("f.h5 --pool 2x2", "pool would make other features"),
        ],
    )
    def test_refusals(self, text, words):
        with pytest.raises(click.UsageError, match=words):
            parse_systems([text])


class TestFiles:
    def test_table_csv_json_and_picture(self, diffeat, files, tmp_path):
        outputs = ("--csv", tmp_path / "t.csv", "--png", tmp_path / "t.png")
        answer = diffeat("compare", *files, "--task", "classification", *outputs)
        assert answer.code == 0, answer.err
        lines = answer.out.splitlines()
        assert lines[0].startswith("classification: accuracy in % on the same 40 test pictures")
        assert lines[3].startswith("weak ")
        assert lines[3].endswith("reference")
        assert lines[4].split()[:3] == ["strong", "b", "t=10"]
        assert lines[4].endswith("better")
        assert lines[5].startswith("most frequent class")
        assert lines[6].startswith("differences are to weak")
        assert "fewer than 500" in lines[7]
        with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
            assert [row["verdict"] for row in csv.DictReader(file)][:2] == ["reference", "better"]
        with Image.open(tmp_path / "t.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
        again = diffeat("compare", *files, "--json", "--against", "strong", "--simultaneous")
        found = json.loads(again.out)
        assert (found["against"], found["intervals"]) == ("strong", "simultaneous")
        assert found["systems"][0]["verdict"] == "worse"
        assert f"{100 * found['systems'][1]['test']:.1f}" in lines[4]

    def test_cells_of_a_file_and_the_file_against_itself(self, diffeat, files):
        strong = files[1]
        answer = diffeat("compare", strong, f"a={strong} -b a", strong, "--json")
        rows = json.loads(answer.out)["systems"]
        assert [row["system"] for row in rows[:3]] == [str(strong), "a", f"{strong} (2)"]
        assert [row["block"] for row in rows[:3]] == ["b", "a", "b"]
        assert (rows[1]["verdict"], rows[2]["verdict"]) == ("worse", "no difference shown")
        assert rows[2]["difference_interval_95"] == [0, 0]

    def test_finished_scores_are_kept(self, diffeat, files, tmp_path):
        args = ("compare", *files, "--out", tmp_path / "kept", "--json")
        first, second = (json.loads(diffeat(*args).out) for _ in range(2))
        assert (first["found"], first["computed"]) == (0, 6)
        assert (second["found"], second["computed"]) == (6, 0)
        assert first["systems"] == second["systems"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--task", "tracking"), ["'tracking' is unknown", "classification"]),
            (("--against", "wek"), ["did you mean 'weak'"]),
            (("--pictures", "x"), ["for models", "made already"]),
            (("--size", "32"), ["--size: for models"]),
            (("--twin",), ["none of these is a model"]),
            (("unet-cifar10",), ["needs --pictures FOLDER"]),
            (("--csv", "a.png"), ["says PNG"]),
            (("--png", "/dev/null/a.png"), ["nothing can be written there"]),
            (("none.h5",), ["none.h5"]),
            (("--task", "regression", "--score", "knn"), ["scored by ridge"]),
        ],
    )
    def test_refusals(self, diffeat, files, options, words):
        answer = diffeat("compare", *files, *options)
        assert answer.code in (1, 2), answer.err
        for word in words:
            assert word in answer.err

    def test_one_alone(self, diffeat, files):
        answer = diffeat("compare", files[0])
        assert answer.code == 2
        assert "nothing to compare with" in answer.err
        assert "`diffeat search`" in answer.err


class TestModels:
    def test_with_twins_defaults_and_a_file(self, diffeat, folder, folder_of, tmp_path):
        """A U-Net's default grid, its twin, and a transformer with cells of its own."""
        systems = (folder_of("pixel"), f"dit={folder_of('dit-pixels')} -t 20 -b block.0")
        args = ("compare", *systems, "--pictures", folder, "--twin", "--out", tmp_path / "kept",
                "--score", "knn", "--json")  # fmt: skip
        answer = diffeat(*args)
        assert answer.code == 0, answer.err
        found = json.loads(answer.out)
        names = [row["system"] for row in found["systems"]]
        assert names == ["pixel", "pixel@random", "dit", "dit@random", "most frequent class"]
        assert "pixel: looks at sigma=0.1, sigma=0.3, sigma=0.75 × up.0, up.1" in answer.err
        assert "dit: looks" not in answer.err
        kept = sorted((tmp_path / "kept").glob("*.h5"))
        assert len(kept) == 4
        with FeatureStore(kept[0]) as store:
            assert store.blocks == ["block.0"]
            assert store.spec.pool == "1x1"
            assert len(store) == 40
        again = diffeat(*args)
        assert json.loads(again.out)["computed"] == 0
        assert "extract" not in again.err
        third = diffeat("compare", systems[1], kept[0], "--pictures", folder, "--score", "knn",
                        "--out", tmp_path / "kept", "--json")  # fmt: skip
        rows = json.loads(third.out)["systems"]
        assert rows[1]["difference_interval_95"] == [0, 0]

    def test_without_a_folder_nothing_is_kept(self, diffeat, folder, folder_of, tmp_path):
        before = set(tmp_path.rglob("*.h5"))
        model = f"{folder_of('pixel')} -t 20 -b up.0"
        answer = diffeat("compare", model, f"two={model} --pool 2x2", "--pictures", folder,
                         "--score", "knn", "--limit", 30)  # fmt: skip
        assert answer.code == 0, answer.err
        assert "--out FOLDER keeps them" in answer.err
        assert set(tmp_path.rglob("*.h5")) == before

    @pytest.mark.parametrize(
        ("second", "words"),
        [
            ("-t 20 -b up.7", "block 'up.7' selects nothing"),
            ("-t 5000 -b up.0", "5000"),
            ("-t 20 -b up.0 --prompt {class}", "conditioned on their own targets"),
        ],
    )
    def test_what_the_second_cannot_do_is_told_before_the_first_runs(
        self, diffeat, folder, folder_of, second, words
    ):
        model = folder_of("pixel")
        answer = diffeat("compare", f"{model} -t 20 -b up.0", f"{model} {second}", "--pictures",
                         folder)  # fmt: skip
        assert answer.code == 2, answer.err
        assert words in answer.err
        assert "plan" not in answer.err

    @pytest.mark.parametrize(
        ("cell", "words"),
        [(" -b none", "has no block 'none'"), (" -t 30", "30"),
         ("", "has none of the pictures that models are given: ")],
    )  # fmt: skip
    def test_what_a_file_lacks_is_told_before_a_model_runs(
        self, diffeat, files, folder, monkeypatch, cell, words
    ):
        monkeypatch.setattr("diffeat.jobs.extract_to_file", lambda *_, **__: pytest.fail("it ran"))
        answer = diffeat("compare", f"{files[0]}{cell}", "unet-cifar10 -t 20 -b mid",
                         "--pictures", str(folder))  # fmt: skip
        assert answer.code == 2
        assert words in answer.err

    def test_pictures_without_labels(self, diffeat, folder, folder_of):
        model = f"{folder_of('pixel')} -t 20 -b up.0"
        answer = diffeat("compare", model, f"{model} --noise none", "--pictures", folder / "0")
        assert answer.code == 2
        assert "has no labels" in answer.err
        assert "plan" not in answer.err

    def test_features_that_are_told_their_classes_are_not_computed(
        self, diffeat, folder, folder_of, tmp_path
    ):
        model = f"{folder_of('pixel')} -t 20 -b up.0"
        answer = diffeat("compare", model, f"{model} --label class", "--pictures", folder,
                         "--out", tmp_path / "kept")  # fmt: skip
        assert answer.code == 2
        assert "conditioned on their own targets" in answer.err
        assert not list((tmp_path / "kept").glob("*.h5"))


@pytest.fixture
def pairs(tmp_path):
    """A list of pairs of twelve pictures, each of a bright square that lies elsewhere."""
    rng, corners = np.random.default_rng(0), {}
    for k in range(12):
        pixels = rng.integers(0, 60, (16, 16, 3))
        corners[k] = rng.integers(1, 10, 2)  # x, y
        x, y = corners[k]
        pixels[y : y + 4, x : x + 4] += 180
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{k}.png")
    rows = ["source,target,source_x,source_y,target_x,target_y"]
    for a, b in ((a, b) for a in range(12) for b in range(12) if a != b):
        rows.append(
            f"{a}.png,{b}.png,{corners[a][0]},{corners[a][1]},{corners[b][0]},{corners[b][1]}"
        )
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "pairs.csv"


class TestMatching:
    def test_models_a_file_and_the_same_place(self, diffeat, pairs, folder_of, tmp_path):
        model = folder_of("pixel")
        args = ("compare", f"one={model} -t 20 -b up.0,up.1", f"two={model}@random -t 20 -b up.1",
                "--pairs", pairs, "--out", tmp_path / "kept", "--alpha", 0.15, "--size", "16",
                "--aggregate", "pair", "--split", "0,0.4,0.6")  # fmt: skip
        answer = diffeat(*args)
        assert answer.code == 0, answer.err
        lines = answer.out.splitlines()
        assert lines[0].startswith("matching: PCK@0.15 in % on the same")
        assert "test pairs" in lines[0]
        assert [line.split()[0] for line in lines[3:6]] == ["one", "two", "same"]
        assert "per pair" in answer.out
        assert "NearestMatcher" in answer.out
        assert lines[-1] == "inputs, height × width in pixels: one 16×16, two 16×16"
        again = json.loads(diffeat(*args, "--json").out)
        assert again["computed"] == 0
        assert again["rows_are"] == "pairs"
        kept = next((tmp_path / "kept").glob("one-*.h5"))
        third = diffeat(*args[:2], kept, *args[3:], "--json", "--png", tmp_path / "m.png")
        rows = json.loads(third.out)["systems"]
        assert rows[1]["difference_interval_95"] == [0, 0]
        assert (tmp_path / "m.png").stat().st_size > 5000

    def test_lists_of_their_own_for_choice_and_test(self, diffeat, pairs, folder_of, tmp_path):
        head, *rows = pairs.read_text().splitlines()
        for name, low in (("choose", True), ("test", False)):
            both = [
                [int(cell.partition(".")[0]) < 4 for cell in row.split(",")[:2]] for row in rows
            ]
            mine = [row for row, (a, b) in zip(rows, both, strict=True) if a == b == low]
            (tmp_path / f"{name}.csv").write_text("\n".join([head, *mine]) + "\n")
        model = f"{folder_of('pixel')} -t 20 -b up.1"
        answer = diffeat("compare", model, f"{model} --noise none", "--task", "matching", "--pairs",
                         tmp_path / "choose.csv", "--test-pairs", tmp_path / "test.csv", "--out",
                         tmp_path / "kept", "--json")  # fmt: skip
        assert answer.code == 0, answer.err
        counts = json.loads(answer.out)["counts"]
        assert counts == {"training": 0, "validation": 12, "test": 56}
        assert len(list((tmp_path / "kept").glob("*.h5"))) == 4

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--task", "matching"), ["needs --pairs"]),
            (("--task", "classification", "--pairs", "p.csv"), ["--pairs: for --task matching"]),
            (("--task", "matching", "--pairs", "p.csv", "--score", "knn", "--column", "x"),
             ["--score", "--column", "of tasks whose pictures have labels", "(--pairs, "]),
            (("--task", "matching", "--pairs", "none.csv"), ["none.csv"]),
            (("--task", "matching", "--pairs", "p", "--pictures", "x"), ["those that its --pairs"]),
            (("--alpha", 0), ["--alpha"]),
        ],
    )  # fmt: skip
    def test_refusals(self, diffeat, files, options, words):
        answer = diffeat("compare", *files, *options)
        assert answer.code in (1, 2), answer.err
        for word in words:
            assert word in answer.err

    def test_vectors_and_averages_that_there_are_not(self, diffeat, files, pairs, folder_of):
        matching = ("--task", "matching", "--pairs", pairs)
        model = f"{folder_of('pixel')} -t 20 -b up.0"
        answer = diffeat("compare", model, f"b={model} --pool 2x2", *matching)
        assert answer.code == 2
        assert "--pool 2x2 gives vectors" in answer.err
        answer = diffeat("compare", model, files[0], *matching)
        assert answer.code == 2
        assert "holds vectors (--pool 1x1)" in answer.err
        assert "plan" not in answer.err
        answer = diffeat("compare", model, f"b={model}", *matching, "--aggregate", "points")
        assert answer.code == 2
        assert "aggregate='points'; expected" in answer.err
