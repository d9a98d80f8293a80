"""`diffeat predict`, and --save of `probe` and `search`: five commands from pictures to a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import diffeat as package
import probes
import probes.aggregate
from diffeat.search.applied import pieces_of_pictures
from diffeat.search.kept import about_head, load_head
from diffeat.search.stored import made_of
from probes.saved import digest_of
from tests.search.common import BEST, arrays_of, labels_of, write_store

MODEL = "unet-cifar10"
OPTIONS = ("-t", "20", "-b", "up.0.res.0,up.0.attn.0")
TINY = {"epochs": 1, "batch_size": 8, "progress": False, "random_state": 0}


@pytest.fixture
def files(tmp_path):
    """A training and a test file of different pictures."""
    found = []
    for name, seed in (("train", 0), ("test", 1)):
        labels = labels_of(160, seed)
        path = tmp_path / f"{name}.h5"
        arrays = arrays_of(labels)
        if name == "test":
            arrays = {cell: values + np.float32(0.01) for cell, values in arrays.items()}
        write_store(path, arrays, labels).close()
        found.append(path)
    return found


@pytest.fixture
def folder(tmp_path):
    """Two classes of small pictures: dark and bright."""
    rng = np.random.default_rng(0)
    for index in range(40):
        place = tmp_path / "pictures" / ("bright" if index % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 130, (16, 16, 3)) + 120 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return tmp_path / "pictures"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rewritten(path: Path, change) -> Path:
    """A head with other metadata."""
    with safe_open(path, "pt") as file:
        head = json.loads(file.metadata()["head"])
    change(head)
    tensors = load_file(path)
    head.pop("blake2b")
    head["blake2b"] = digest_of(head, tensors)
    save_file(tensors, path, {"head": json.dumps(head)})
    return path


class TestFromFiles:
    @pytest.mark.parametrize("args", [("probe",), ("search", "--score", "logistic", "--sets", 2),
                                      ("search", "--score", "ridge", "--cell-pairs"),
                                      ("search", "--score", "knn", "--halving")])  # fmt: skip
    def test_its_accuracy_is_the_one_that_was_reported(self, diffeat, tmp_path, args):
        labels = labels_of(200)
        write_store(tmp_path / "f.h5", arrays_of(labels), labels).close()
        head = tmp_path / "h.safetensors"
        verb, *more = args
        answer = diffeat(verb, tmp_path / "f.h5", *more, "--json", "--save", head)
        assert answer.code == 0, answer.err
        assert "fitted on both" in answer.err
        found = json.loads(answer.out)
        answer = diffeat("predict", head, tmp_path / "f.h5", "-o", tmp_path / "p.csv", "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["fitted_on_these"] is True
        # over the test part alone, by the plain table
        rows = rows_of(tmp_path / "p.csv")
        part, _ = package.search.split_groups([row["id"] for row in rows], labels=labels)
        right = np.array([int(row["class"]) for row in rows]) == labels
        reported = found["best"]["test"]
        scores = load_head(head)[0].about_["scores"]
        assert right[part == package.search.TEST].mean() == pytest.approx(scores["test"], abs=1e-12)
        if len(load_head(head)[1].cells) == 1:
            assert scores["test"] == reported

    def test_a_head_of_one_file_tells_the_test_file(self, diffeat, files, tmp_path):
        head = tmp_path / "h.safetensors"
        found = json.loads(diffeat("probe", *files, "--json", "--save", head).out)
        answer = diffeat("predict", head, files[1], "--json")
        summary = json.loads(answer.out)
        assert summary["accuracy"] == found["best"]["test"]
        assert (summary["labelled"], summary["pictures"]) == (160, 160)
        assert sum(summary["counts"].values()) == 160
        assert not summary["fitted_on_these"]

    def test_a_table_on_the_terminal_and_a_column_per_class(self, diffeat, files, tmp_path):
        head = tmp_path / "h.safetensors"
        diffeat("probe", files[0], "--save", head)
        answer = diffeat("predict", head, files[0], "--limit", 12, "--all")
        lines = answer.out.splitlines()
        heading = ["id", "class", "probability", *(f"probability of {k}" for k in range(3))]
        assert lines[0].split() == " ".join(heading).split()
        assert len([line for line in lines if line.startswith("p")]) == 10
        assert "… and 2 more" in answer.out
        assert "of the 12 that have labels, of which the head knows some" in answer.out

    def test_probabilities_are_those_of_the_head(self, diffeat, files, tmp_path):
        head, table = tmp_path / "h.safetensors", tmp_path / "p.csv"
        diffeat("probe", files[0], "--save", head)
        diffeat("predict", head, files[1], "--all", "-o", table)
        with package.FeatureStore(files[1]) as store:
            expected = probes.load(head).predict_proba(np.asarray(store[BEST][:], np.float32))
            ids = store.ids
        rows = rows_of(table)
        assert [row["id"] for row in rows] == ids
        found = [[float(row[f"probability of {k}"]) for k in range(3)] for row in rows]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        best = [float(row["probability"]) for row in rows]
        np.testing.assert_allclose(best, expected.max(1), rtol=1e-6)
        assert [int(row["class"]) for row in rows] == expected.argmax(1).tolist()
        assert not list(tmp_path.glob(".*"))

    def test_labels_of_other_classes_are_not_compared(self, diffeat, files, tmp_path):
        head = tmp_path / "h.safetensors"
        diffeat("probe", files[0], "--save", head)
        rewritten(head, lambda h: h["about"].update(class_names=["a", "b", "c"]))
        answer = diffeat("predict", head, files[1], "--json")
        summary = json.loads(answer.out)
        assert summary["accuracy"] is None
        assert set(summary["counts"]) == {"a", "b", "c"}
        rewritten(head, lambda h: h["about"].update(class_names=["2", "0", "1"]))
        turned = json.loads(diffeat("predict", head, files[1], "--json").out)
        assert turned["accuracy"] < 0.5  # compared by name, not by index

    def test_two_classes_and_a_head_without_probabilities(self, diffeat, tmp_path):
        labels = labels_of(120) % 2
        write_store(tmp_path / "f.h5", arrays_of(labels), labels, classes=2).close()
        head, table = tmp_path / "h.safetensors", tmp_path / "p.csv"
        diffeat("search", tmp_path / "f.h5", "--score", "ridge", "--save", head)
        assert diffeat("predict", head, tmp_path / "f.h5", "-o", table, "--all").code == 0
        for row in rows_of(table):
            scores = [float(row["score of 0"]), float(row["score of 1"])]
            assert scores[0] == -scores[1]
            assert int(row["class"]) == int(np.argmax(scores))
            assert float(row["score"]) == max(scores)


class TestRefused:
    @pytest.fixture
    def head(self, diffeat, files, tmp_path):
        diffeat("probe", files[0], "--save", tmp_path / "h.safetensors")
        return tmp_path / "h.safetensors"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda a: a["spec"].update(size=[64, 64], seed=3),
                "seed: 0 → 3; size: None → [64, 64] (",
            ),
            (lambda a: a["spec"].update(seed=3), "seed: 0 → 3"),
            (lambda a: a["model"].update(fingerprint="other"), "model: toy (m0) → toy (other)"),
            (lambda a: a["cells"].append({"block": "z", "t": 10}), "without z at t=10"),
            (lambda a: a.pop("cells"), "does not say what features"),
            (lambda a: a["spec"].update(planets=3), "does not say what features"),
        ],
    )
    def test_other_features_field_by_field(self, diffeat, head, files, tmp_path, change, message):
        rewritten(head, lambda h: change(h["about"]))
        answer = diffeat("predict", head, files[1], "-o", tmp_path / "p.csv")
        assert answer.code == 1
        assert message in answer.err
        assert not (tmp_path / "p.csv").exists()

    def test_another_storage_is_warned_of(self, diffeat, head, files):
        rewritten(head, lambda h: h["about"]["spec"].update(dtype="float32"))
        answer = diffeat("predict", head, files[1])
        assert answer.code == 0
        assert "stored as float16, the head's were float32" in answer.err

    def test_features_that_were_told_their_targets(self, diffeat, head, files, tmp_path):
        rewritten(head, lambda h: h["about"].update(conditioned="label=class"))
        answer = diffeat("predict", head, files[1])
        assert answer.code == 2
        assert "conditioned on their own targets (label=class)" in answer.err
        table = tmp_path / "p.csv"
        assert diffeat("predict", head, files[1], "--allow-conditioned", "-o", table).code == 0
        assert "not a measure of recognition" in rows_of(table)[0]["conditioned"]

    def test_no_head_and_no_features(self, diffeat, head, files, tmp_path):
        answer = diffeat("predict", files[0], files[1])
        assert answer.code == 1
        assert "holds no head" in answer.err
        answer = diffeat("predict", tmp_path / "none.safetensors", files[1])
        assert answer.code == 1
        assert "no such file" in answer.err
        assert diffeat("predict", head, tmp_path / "none.h5").code == 1

    def test_options_of_pictures_with_a_file(self, diffeat, head, files):
        answer = diffeat("predict", head, files[1], "--model", MODEL)
        assert answer.code == 2
        assert "--model is for PICTURES" in answer.err

    def test_outputs_of_other_kinds(self, diffeat, head, files, tmp_path):
        assert diffeat("predict", head, files[1], "-o", tmp_path / "p.png").code == 2
        assert diffeat("probe", files[0], "--save", tmp_path / "h.pkl").code == 2

    def test_nan_among_the_features(self, diffeat, head, tmp_path):
        labels = labels_of(20)
        arrays = arrays_of(labels)
        arrays[BEST][3, 2] = np.nan
        write_store(tmp_path / "n.h5", arrays, labels).close()
        answer = diffeat("predict", head, tmp_path / "n.h5", "-o", tmp_path / "p.csv")
        assert answer.code == 1
        assert "nan or inf" in answer.err
        assert not list(tmp_path.glob("*p.csv*"))

    def test_features_of_another_width(self, diffeat, head, tmp_path):
        labels = labels_of(20)
        write_store(tmp_path / "w.h5", arrays_of(labels, width=4), labels).close()
        answer = diffeat("predict", head, tmp_path / "w.h5")
        assert answer.code == 2
        assert "do not fit the head" in answer.err


class TestOtherHeads:
    """What no command fits yet, kept with the `about` that commands write."""

    def applied(self, diffeat, tmp_path, head, arrays, fitted, y, names=None):
        labels = labels_of(30)
        path, kept = tmp_path / "f.h5", tmp_path / "h.safetensors"
        write_store(path, arrays, labels).close()
        more = {"t": 10} if isinstance(head, probes.NoiseConditionalProbe) else {}
        head.fit(fitted, y, **more)
        with package.FeatureStore(path) as store:
            probes.save(head, kept, about_head(made_of(store), list(arrays), names))
        answer = diffeat("predict", kept, path, "-o", tmp_path / "p.csv", "--json")
        assert answer.code == 0, answer.err
        return rows_of(tmp_path / "p.csv"), json.loads(answer.out)

    @pytest.fixture
    def X(self):
        return np.random.default_rng(0).normal(size=(30, 5)).astype("f2").astype("f4")

    def test_numbers(self, diffeat, tmp_path, X):
        y = X[:, :2] @ [[1.0, 2], [3, 4]]
        head = probes.RidgeRegressionProbe()
        rows, summary = self.applied(diffeat, tmp_path, head, {("a", 10): X}, X, y[:, 0], [])
        assert list(rows[0]) == ["id", "value"]
        found = [float(row["value"]) for row in rows]
        np.testing.assert_allclose(found, head.predict(X), rtol=1e-5)
        assert (summary["predicts"], summary["accuracy"]) == ("numbers", None)
        rows, _ = self.applied(
            diffeat, tmp_path / "2", head, {("a", 10): X}, X, y, ["height", "width"]
        )
        assert list(rows[0]) == ["id", "value of height", "value of width"]

    def test_several_labels(self, diffeat, tmp_path, X):
        head = probes.LinearMultilabelProbe()
        y = (X[:, :3] > 0).astype(int)
        names = ["cat", "dog", "owl"]
        rows, _ = self.applied(diffeat, tmp_path, head, {("a", 10): X}, X, y, names)
        assert list(rows[0]) == ["id", *(f"probability of {name}" for name in names)]
        found = [[float(row[f"probability of {name}"]) for name in names] for row in rows]
        np.testing.assert_allclose(found, head.predict_proba(X), rtol=1e-5)

    @pytest.mark.parametrize(
        "head",
        [
            probes.ConvProbe(channels=(8,), **TINY),
            probes.aggregate.MixerProbe(width=8, **TINY),
            probes.NoiseConditionalProbe(**TINY),
            probes.LinearProbe(),
        ],
        ids=lambda head: type(head).__name__,
    )
    def test_heads_of_maps_cells_and_noise_levels(self, diffeat, tmp_path, head):
        maps = np.random.default_rng(0).normal(size=(30, 4, 2, 2)).astype("f2").astype("f4")
        arrays = {("a", 10): maps}
        several = isinstance(head, probes.aggregate.MixerProbe)
        if several:
            arrays[("b", 10)] = -maps
        fitted = arrays if several else maps
        if isinstance(head, probes.LinearProbe):
            fitted = maps.reshape(30, -1)
        y = np.arange(30) % 3
        rows, _ = self.applied(diffeat, tmp_path, head, arrays, fitted, y, ["x", "y", "z"])
        more = {"t": 10} if isinstance(head, probes.NoiseConditionalProbe) else {}
        expected = head.predict(fitted, **more)
        assert [row["class"] for row in rows] == [["x", "y", "z"][k] for k in expected]

    def test_many_probes_are_no_head(self, diffeat, files, tmp_path, X):
        many = probes.ManyRidge().fit(X[None], np.arange(30) % 2, X[None], np.arange(30) % 2)
        with package.FeatureStore(files[0]) as store:
            about = about_head(made_of(store), [BEST])
        probes.save(many, tmp_path / "m.safetensors", about)
        answer = diffeat("predict", tmp_path / "m.safetensors", files[0])
        assert answer.code == 2
        assert "many.probe(g)" in answer.err


class TestFromPictures:
    @pytest.fixture
    def head(self, diffeat, folder, tmp_path):
        """Of a search straight from the model."""
        args = ("--score", "knn", "--split", "0.4,0.3,0.3", "-C", 3)
        path = tmp_path / "live.safetensors"
        answer = diffeat("search", MODEL, folder, *OPTIONS, *args, "--save", path)
        assert answer.code == 0, answer.err
        return path

    def test_pictures_and_their_file_give_one_table(self, diffeat, folder, head, tmp_path):
        assert diffeat("extract", MODEL, folder, "-o", tmp_path / "f.h5", *OPTIONS, "--pool",
                       "1x1").code == 0  # fmt: skip
        before = sorted(path.name for path in tmp_path.iterdir())
        answer = diffeat("predict", head, tmp_path / "f.h5", "-o", tmp_path / "a.csv")
        assert answer.code == 0, answer.err
        answer = diffeat("predict", head, folder, "-o", tmp_path / "b.csv", "--json")
        assert answer.code == 0, answer.err
        assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
        summary = json.loads(answer.out)
        assert summary["accuracy"] > 0.9
        assert set(summary["counts"]) == {"bright", "dark"}
        after = sorted(path.name for path in tmp_path.iterdir())
        assert after == sorted([*before, "a.csv", "b.csv"])

    def test_pictures_of_training_are_known_under_any_name(self, diffeat, folder, head, tmp_path):
        """28 of 40, by the split; in a flat folder, under other names, and in a feature file."""
        (tmp_path / "flat").mkdir()
        for place in folder.rglob("*.png"):
            (tmp_path / "flat" / f"new-{place.name}").write_bytes(place.read_bytes())
        Image.new("RGB", (16, 16), "red").save(tmp_path / "flat" / "unseen.png")
        answer = diffeat("predict", head, tmp_path / "flat", "--json")
        assert json.loads(answer.out)["fitted_on"] == {
            "count": 28, "compared": 41, "sampled": False,
        }  # fmt: skip
        told = "the head was fitted on 28 of these {} pictures, so no score of them is a test\n"
        assert f"warning: {told.format(41)}" in answer.err
        diffeat("extract", MODEL, folder, "-o", tmp_path / "f.h5", *OPTIONS, "--pool", "1x1")
        assert told.format(40) in diffeat("predict", head, tmp_path / "f.h5").err
        only = tmp_path / "only"
        only.mkdir()
        (tmp_path / "flat" / "unseen.png").rename(only / "unseen.png")
        answer = diffeat("predict", head, only, "--json")
        assert not json.loads(answer.out)["fitted_on_these"]
        assert "fitted on" not in answer.err

    def test_few_pictures_and_pictures_without_labels(self, diffeat, folder, head):
        answer = diffeat("predict", head, folder, "--limit", 6, "--batch-size", 2)
        assert answer.code == 0, answer.err
        assert "6 pictures" in answer.out
        answer = diffeat("predict", head, folder / "bright", "--json")
        summary = json.loads(answer.out)
        assert (summary["pictures"], summary["accuracy"]) == (20, None)
        assert summary["counts"]["bright"] >= 18

    def test_another_model_is_refused(self, diffeat, folder, head):
        answer = diffeat("predict", head, folder, "--model", f"{MODEL}@random")
        assert answer.code == 1
        assert "is not the one that the head's features are of" in answer.err

    def test_pictures_are_read_batch_by_batch(self, folder, head, monkeypatch):
        source = package.open_source(folder)
        loaded, load = [], type(source).load
        monkeypatch.setattr(
            type(source), "load", lambda self, index: loaded.append(index) or load(self, index)
        )
        backbone = package.load(MODEL, device="cpu", dtype="float32")
        note = load_head(head)[1]
        _, pieces = pieces_of_pictures(backbone, source, note, batch_size=2, workers=1)
        piece = next(pieces)
        assert piece.rows.tolist() == [0, 1]
        assert set(note.cells) <= set(piece.arrays)
        assert len(loaded) < 20
        pieces.close()

    def test_nothing_of_a_file_runs(self, head):
        assert all(isinstance(value, torch.Tensor) for value in load_file(head).values())
