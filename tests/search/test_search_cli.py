"""`diffeat search`, from a file and straight from a model."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

import diffeat as package
from diffeat.extraction import batch_size
from tests.search.common import BEST, arrays_of, dark_and_bright, labels_of, write_store
from tests.search.test_frequency import noise_maps

MODEL = "unet-cifar10"
LIVE = ("-t", "20,300", "-b", "up.0.res.0,up.0.attn.0", "--score", "knn", "--split", "0.4,0.3,0.3")


@pytest.fixture
def file(tmp_path):
    labels = labels_of(120)
    write_store(tmp_path / "a.h5", arrays_of(labels), labels).close()
    return tmp_path / "a.h5"


@pytest.fixture
def folder(tmp_path):
    return dark_and_bright(tmp_path / "pictures")


class TestFile:
    def test_table_csv_png_and_spec(self, diffeat, file, tmp_path):
        outputs = ("--csv", tmp_path / "t.csv", "--png", tmp_path / "t.png",
                   "--spec", tmp_path / "best.toml")  # fmt: skip
        answer = diffeat("search", file, "--score", "knn", *outputs)
        assert answer.code == 0, answer.err
        assert "best on validation: b at t=10" in answer.out
        assert answer.out.count("*") == 1
        with open(tmp_path / "t.csv", newline="", encoding="utf-8") as csv_file:
            assert len(list(csv.DictReader(csv_file))) == 4
        with Image.open(tmp_path / "t.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
        spec = package.ExtractSpec.from_file(tmp_path / "best.toml")
        assert (spec.blocks, spec.timesteps) == (("b",), (10,))

    def test_json_and_resuming(self, diffeat, file, tmp_path):
        args = ("search", file, "--score", "ridge", "--repeats", 3, "--sets", 2, "--json",
                "--out", tmp_path / "kept")  # fmt: skip
        first, second = (json.loads(diffeat(*args).out) for _ in range(2))
        assert (first["best"]["block"], first["best"]["t"]) == BEST
        assert first["computed"] > 0 == first["found"]
        assert second["computed"] == 0
        assert {**second, "found": 0, "computed": first["computed"]} == first

    def test_some_cells_halving_and_a_bandit(self, diffeat, file):
        answer = diffeat("search", file, "-t", "10,50", "-b", "b", "--halving", "--bandit", 5,
                         "-C", "1,5", "--score", "knn", "--agent", "thompson")  # fmt: skip
        assert answer.code == 0, answer.err
        assert re.search(r"bandit: t=10 after 5 pulls \(t=10: \d, t=50: \d\)", answer.out)
        assert "successive halving: 2 cells" in answer.out
        one = diffeat("search", file, "-t", 10, "--bandit", 5)
        assert one.code == 2
        assert "has one t, so there is nothing for a bandit to learn" in one.err

    def test_frequencies_of_maps(self, diffeat, tmp_path):
        labels = labels_of(40)
        write_store(tmp_path / "m.h5", noise_maps(), labels).close()
        split = ("--split", "0.5,0.25,0.25", "--score", "knn")
        answer = diffeat("search", tmp_path / "m.h5", "--frequency", *split)
        assert answer.code == 0, answer.err
        assert "highest a at t=3" in answer.out

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("-b", "c"), ["no block 'c'", "it has a, b"]),
            (("-t", "11"), ["no t=11"]),
            (("-t", "sigma=1"), ["no sigma=1", "nearest are t=10"]),
            (("--pool", "1x1", "--noise-seed", 1), ["--pool, --noise-seed", "straight from"]),
            (("--split", "0.7,0.3,0"), ["test part is empty"]),
            (("--split", "1,1,1"), ["sum to 1"]),
            (("--memory", "many"), ["2GiB"]),
            (("--memory", "1KiB"), ["'a' at t=10", "--memory"]),
            (("--frequency",), ["holds vectors", "--pool none"]),
            (("--halving", "--png", "x.png"), ["--png"]),
            (("--halving", "--html", "x.html"), ["--html"]),
            (("--halving", "--sets", 2), ["choose one"]),
            (("-C", "0"), ["positive"]),
            (("-C", "inf"), ["positive"]),
            (("-C", "nan"), ["positive"]),
            (("-C", "1.5", "--score", "knn"), ["whole numbers"]),
            (("--seed", -1), ["--seed"]),
            (("--csv", "/dev/null/a.csv"), ["nothing can be written there"]),
            (("--spec", "a.json"), ["says JSON", ".toml is what this writes"]),
        ],
    )
    def test_wrong_options(self, diffeat, file, options, words):
        answer = diffeat("search", file, *options)
        assert answer.code == 2, answer.err
        for word in words:
            assert word in answer.err

    def test_selectors_side_by_side(self, diffeat, file):
        args = ("search", file, "--score", "ridge", "--selectors")
        answer = diffeat(*args)
        assert answer.code == 0, answer.err
        rows = answer.out.split("selectors (")[1].splitlines()[1:6]
        assert rows[0].split()[:3] == ["selector", "validation", "test"]
        for row, name in zip(rows[2:], ("grid search", "learned agent", "trained mixer"),
                             strict=True):  # fmt: skip
            assert row.startswith(name)
        found = json.loads(diffeat(*args, "--json").out)
        assert [one["selector"] for one in found["selectors"]] == [
            row[:13].strip() for row in rows[2:]
        ]
        assert found["selectors"][0]["test"] == found["best"]["test"]
        assert found["bandit"]["chosen"]["test"] == found["selectors"][1]["test"]
        assert sum(cell["weight"] for cell in found["mixer"]["weights"]) == pytest.approx(1)

    @pytest.mark.parametrize("verb", ["probe", "search"])
    def test_a_task_that_there_is_not(self, diffeat, file, verb):
        assert diffeat(verb, file, "--task", "classification").code == 0
        answer = diffeat(verb, file, "--task", "tracking")
        assert answer.code == 2
        assert "'tracking' is unknown" in answer.err
        assert "expected classification" in answer.err

    def test_no_labels(self, diffeat, tmp_path):
        write_store(tmp_path / "a.h5", arrays_of(labels_of(30))).close()
        answer = diffeat("search", tmp_path / "a.h5")
        assert answer.code == 2
        assert "no labels" in answer.err

    def test_no_labels_but_a_guess(self, diffeat, tmp_path):
        write_store(tmp_path / "a.h5", noise_maps()).close()
        file, spec = tmp_path / "a.h5", tmp_path / "best.toml"
        answer = diffeat("search", file, "--frequency", "-b", "b", "--spec", spec)
        assert answer.code == 0, answer.err
        lines = answer.out.splitlines()
        assert lines[1].split() == ["block", "t=1", "t=2", "t=3"]
        assert lines[3].startswith("b")
        assert lines[3].split()[1].endswith("*")
        assert lines[-1] == "highest: b at t=1"
        chosen = package.ExtractSpec.from_file(spec)
        assert (chosen.blocks, chosen.timesteps) == (("b",), (1,))
        ratios = json.loads(diffeat("search", file, "--frequency", "--json").out)["ratios"]
        assert len(ratios) == 6
        for given, words in (
            (("--sets", 2, "--cell-pairs"), "--sets, --cell-pairs: "),
            (("--score", "knn", "-C", "3"), "--score, -C: "),
            ((tmp_path / "b.h5",), "b.h5: "),
        ):
            refused = diffeat("search", file, *given, "--frequency")
            assert refused.code == 2
            assert words in refused.err
            assert "has no labels" in refused.err

    def test_the_guess_leaves_test_pictures_out(self, diffeat, tmp_path):
        arrays = noise_maps(60)
        for maps in arrays.values():
            maps[:, :, 0, 0] += np.arange(60)[:, None] / 6  # so that every picture counts
        labels = labels_of(60)
        with write_store(tmp_path / "a.h5", arrays, labels) as store:
            task = package.search.task_from_store(store)
            expected = package.search.frequency_guess(store, task.cells, rows=task.seen)
        found = json.loads(diffeat("search", tmp_path / "a.h5", "--frequency", "--json").out)
        assert found["frequency"]["pictures"] == len(task.seen) < 60
        for row in found["frequency"]["ratios"]:
            assert row["ratio"] == expected.ratios[row["block"], row["t"]]

    def test_nothing_is_made_twice(self, diffeat, file, tmp_path):
        asked = ("search", file, "--score", "ridge", "--bandit", 6, "--out", tmp_path / "kept")
        first, second = diffeat(*asked), diffeat(*asked)
        assert first.code == 0, first.err
        made = len(list((tmp_path / "kept").iterdir()))
        assert len(list((tmp_path / "kept").glob("pull-*"))) == 6
        assert f"{made} results were there already, 0 computed now" in second.out


class TestModel:
    def test_the_same_as_from_a_file_and_back(self, diffeat, folder, tmp_path):
        spec = tmp_path / "best.toml"
        live = diffeat("search", MODEL, folder, *LIVE, "--json", "--spec", spec)
        assert live.code == 0, live.err
        out = tmp_path / "f.h5"
        made = diffeat("extract", MODEL, folder, "-o", out, *LIVE[:4], "--pool", "1x1")
        assert made.code == 0, made.err
        stored = json.loads(diffeat("search", out, *LIVE[4:], "--json").out)
        found = json.loads(live.out)
        assert found == stored
        # the winner is extracted from the file that was written
        best = tmp_path / "best.h5"
        again = diffeat("extract", MODEL, folder, "-o", best, "--spec", spec)
        assert again.code == 0, again.err
        cell = found["best"]["block"], found["best"]["t"]
        with package.FeatureStore(best) as one, package.FeatureStore(out) as whole:
            assert (one.blocks, one.timesteps) == ([cell[0]], [cell[1]])
            # another number of t's in a batch may change the last bits
            np.testing.assert_allclose(one[cell][:], whole[cell][:], rtol=2e-3, atol=1e-3)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ((), ["needs -t and -b"]),
            (("-t", "20", "-b", "mid", "--pool", "none"), ["1x1"]),
            (("-t", "20", "-b", "middle"), ["'middle'"]),
            (("-t", "20", "-b", "mid", "--batch-size", "0"), ["at least 1, or auto"]),
        ],
    )
    def test_wrong_options(self, diffeat, folder, options, words):
        answer = diffeat("search", MODEL, folder, *options)
        assert answer.code == 2
        for word in words:
            assert word in answer.err

    def test_a_measured_batch_size(self, diffeat, folder, monkeypatch, tmp_path):
        """It is measured by the first forward and then remembered."""
        monkeypatch.setenv("DIFFEAT_CACHE", str(tmp_path / "cache"))
        asked = []
        monkeypatch.setattr(batch_size, "measure", lambda *_, **__: asked.append(1) or 4)
        live = diffeat("search", MODEL, folder, *LIVE, "--batch-size", "auto", "--json")
        plain = diffeat("search", MODEL, folder, *LIVE, "--batch-size", "4", "--json")
        assert live.code == 0, live.err
        assert len(asked) == 1
        assert json.loads(live.out) == json.loads(plain.out)

    def test_no_labels_but_a_guess(self, diffeat, folder, tmp_path):
        flat, spec = folder / "0", tmp_path / "best.toml"
        answer = diffeat("search", MODEL, flat, *LIVE[:4], "--frequency", "--spec", spec)
        assert answer.code == 0, answer.err
        assert package.ExtractSpec.from_file(spec).size == (32, 32)
        assert "mean of 20 pictures; no labels" in answer.out
        assert "up.0.attn.0" in answer.out

    def test_a_model_needs_pictures(self, diffeat):
        answer = diffeat("search", MODEL)
        assert answer.code == 2
        assert "needs PICTURES" in answer.err
