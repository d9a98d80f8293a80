"""`diffeat aggregate`: options, outputs, exit codes; training, keeping, applying."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diffeat.store import FeatureStore, verify
from probes import load, training
from tests.search.matching.common import write_file, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pairs") / "things")


@pytest.fixture(scope="module")
def path(folder, tmp_path_factory):
    found = tmp_path_factory.mktemp("features") / "f.h5"
    write_file(found, folder).close()
    return found


@pytest.fixture
def fit(folder, path, tmp_path):
    """Arguments of a short training."""
    return ("aggregate", path, "--fit", "hyperfeatures", "--task", "matching", "--pairs",
            f"{folder}:trn", "--split", "0.5,0.3,0.2", "--steps", 60, "--epochs", 3, "--width", 16,
            "--grid", 10, "--sharpness", 10, "--learning-rate", 0.01, "--save",
            tmp_path / "m.safetensors")  # fmt: skip


def test_every_way_without_targets(diffeat, path, tmp_path):
    for name, channels, more in (
        ("concat", 48, ("--concat",)), ("sum", 12, ("--sum",)), ("pca", 5, ("--pca", 5)),
        ("co_pca", 8, ("--co-pca", 2)), ("fused", 48, ("--fuse", "--weights", "1,1,2,1")),
    ):  # fmt: skip
        out = tmp_path / f"{name}.h5"
        answer = diffeat("aggregate", path, "-o", out, *more)
        assert answer.code == 0, answer.err
        assert f"{out}: 24 pictures, {name} {channels}×8×10 float16" in answer.out
        assert verify(out) == []


def test_other_commands_take_the_file(diffeat, folder, path, tmp_path):
    out = tmp_path / "o.h5"
    assert diffeat("aggregate", path, "-o", out, "--concat", "-b", "b", "-t", 10).code == 0
    info = diffeat("info", out)
    assert "concat of toy (aggregate, float32)" in info.out
    assert "made of   f.h5" in info.out
    assert diffeat("verify", out).code == 0
    assert diffeat("export", out, "-o", tmp_path / "o.npz").code == 0
    pairs = ("--pairs", f"{folder}:trn", "--json")
    found = json.loads(diffeat("match", out, *pairs).out)["tables"]
    plain = json.loads(diffeat("match", path, "-b", "b", "-t", 10, *pairs).out)["tables"]
    assert found[0]["rows"] == plain[0]["rows"] if "rows" in found[0] else found
    searched = diffeat("search", out, f"{folder}:trn", "--task", "matching", "--json")
    assert json.loads(searched.out)["best"]["block"] == "concat"


def test_json_a_second_run_and_another(diffeat, path, tmp_path):
    args = ("aggregate", path, "-o", tmp_path / "o.h5", "--json")
    first = json.loads(diffeat(*args, "--pca", 3).out)
    assert (first["block"], first["shape"], first["complete_before"]) == ("pca", [3, 8, 10], False)
    again = diffeat(*args, "--pca", 3)
    assert json.loads(again.out)["complete_before"]
    assert "is complete; nothing to do" in again.err
    other = diffeat(*args, "--pca", 4)
    assert (other.code, "how: 'pca:3' → 'pca:4'" in other.err) == (1, True)
    assert diffeat(*args, "--pca", 4, "--overwrite").code == 0


class TestTraining:
    @pytest.mark.filterwarnings("always:.*were trained on targets")
    def test_kept_drawn_and_applied(self, diffeat, fit, path, folder, tmp_path):
        pictures = ("--weights-png", tmp_path / "w.png", "--history-png", tmp_path / "h.png")
        answer = diffeat(*fit, *pictures, "-o", tmp_path / "o.h5", "--json")
        assert answer.code == 0, answer.err
        found = json.loads(answer.out)
        assert found["epochs"] == 3
        assert sum(one["weight"] for one in found["weights"]) == pytest.approx(1)
        best = max(found["weights"], key=lambda one: one["weight"])
        assert (best["block"], best["t"]) == ("b", 10)  # where the key points are seen
        for name in ("w.png", "h.png"):
            with Image.open(tmp_path / name) as picture:
                assert picture.width > 100
        mixer = load(tmp_path / "m.safetensors")
        with FeatureStore(path) as store, FeatureStore(tmp_path / "o.h5") as made:
            from diffeat.aggregation import open_sources

            wanted = mixer.transform(open_sources([store]).cells)["hyperfeatures", 0.0][:]
            got = made["hyperfeatures", 0][:]
            np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())
        applied = diffeat("aggregate", path, "-o", tmp_path / "p.h5", "--mixer",
                          tmp_path / "m.safetensors")  # fmt: skip
        assert applied.code == 0, applied.err
        train, held, _ = found["counts"]
        assert "was fitted on targets of 20 of these pictures" in applied.err
        assert train + held < 56
        with FeatureStore(tmp_path / "p.h5") as other:
            np.testing.assert_array_equal(other["hyperfeatures", 0][:], got)
        scored = diffeat("match", tmp_path / "p.h5", "--pairs", f"{folder}:trn")
        assert "its maps were trained on targets of 20 of these pictures" in scored.err

    @pytest.mark.parametrize("kind", ["bottleneck", "spatial"])
    def test_other_kinds(self, diffeat, fit, kind, path, tmp_path):
        answer = diffeat(*fit, "--fit", kind, "--steps", 6, "-o", tmp_path / "o.h5")
        assert answer.code == 0, answer.err
        again = diffeat("aggregate", path, "--mixer", tmp_path / "m.safetensors", "-o",
                        tmp_path / "p.h5")  # fmt: skip
        assert again.code == 0, again.err
        with FeatureStore(tmp_path / "o.h5") as one, FeatureStore(tmp_path / "p.h5") as two:
            assert one.blocks == [kind]
            np.testing.assert_array_equal(one[kind, 0][:], two[kind, 0][:])

    def test_goes_on_from_a_checkpoint(self, diffeat, fit, tmp_path):
        """Three epochs in two runs are three epochs in one, to the bit."""
        assert diffeat(*fit, "--steps", 9).code == 0
        whole = (tmp_path / "m.safetensors").read_bytes()
        kept = ("--checkpoint", tmp_path / "kept", "--steps", 9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("probes.training.write_checkpoint", stopping())
            stopped = diffeat(*fit, *kept)
        assert stopped.code == 130
        assert "finished epochs are kept in" in stopped.err
        answer = diffeat(*fit, *kept, "--json")
        assert answer.code == 0, answer.err
        assert load(tmp_path / "m.safetensors").weights_ == weights_in(whole, tmp_path)

    def test_refused_field_by_field(self, diffeat, fit, folder, tmp_path):
        assert diffeat(*fit, "--steps", 3).code == 0
        for name, fields, words in (
            ("model", {"model": "m7"}, "model: toy (m7) → toy (m0)"),
            ("seed", {"spec": {"seed": 5}}, "seed: 5 → 0"),
            ("cells", {"noise": {("a", 10): 1.0, ("b", 10): 1.0}}, "cells: without a at t=50"),
        ):
            write_file(tmp_path / f"{name}.h5", folder, **fields).close()
            answer = diffeat("aggregate", tmp_path / f"{name}.h5", "-o", tmp_path / "x.h5",
                             "--mixer", tmp_path / "m.safetensors")  # fmt: skip
            assert (answer.code, words in answer.err) == (1, True), answer.err
        predicted = diffeat("predict", tmp_path / "m.safetensors", tmp_path / "seed.h5")
        assert predicted.code == 2
        assert "apply it with diffeat aggregate --mixer" in predicted.err

    def test_for_labels(self, diffeat, path, folder, tmp_path):
        table = tmp_path / "labels.csv"
        rows = [f"thing/{row:02}.jpg,{'ab'[row % 2]},{row / 7}" for row in range(24)]
        table.write_text("\n".join(["id,label,age", *rows]))
        args = ("aggregate", path, "--fit", "hyperfeatures", "--labels", table, "--grid", 8,
                "--width", 8, "--epochs", 2, "--steps", 4, "--json")  # fmt: skip
        for task, column, measure in (("classification", "label", "accuracy"),
                                      ("regression", "age", "r2")):  # fmt: skip
            saved = tmp_path / f"{task}.safetensors"
            answer = diffeat(*args, "--task", task, "--column", column, "--save", saved)
            assert answer.code == 0, answer.err
            assert json.loads(answer.out)["validation"]["name"] == measure
            predicted = diffeat("predict", saved, path, "--json")  # it predicts, too
            assert predicted.code == 0, predicted.err
        assert json.loads(predicted.out)["pictures"] == 24

    def test_what_is_missing(self, diffeat, path, folder, tmp_path):
        saved = ("--save", tmp_path / "m.safetensors")
        base = ("aggregate", path, "--fit", "hyperfeatures", *saved)
        bare = tmp_path / "bare.csv"
        bare.write_text("source,target,source_x,source_y\na.png,b.png,1,2\n")
        for more, words in (
            ((), "needs --task"),
            (("--task", "matching"), "learns from --pairs"),
            (("--task", "regression", "--fit", "bottleneck"), "is trained for matching"),
            (("--task", "matching", "--fit", "spatial", "--weights-png", "w.png"),
             "vary over the sites"),
            (("--task", "classification"), "has no labels"),
            (("--task", "classification", "--pairs", bare), "learns from --pairs"),
            (("--task", "matching", "--pairs", bare), "bare.csv"),
            (("--task", "matching", "--pairs", f"{folder}:trn", "--split", "1,0,0"),
             "no validation pairs"),
        ):  # fmt: skip
            answer = diffeat(*base, *more)
            assert answer.code in (1, 2)
            assert words in " ".join(answer.err.split()), answer.err
        assert not (tmp_path / "m.safetensors").exists()


def stopping():
    """Ctrl-C after a checkpoint."""
    whole = training.write_checkpoint

    def write(*args, **options):
        whole(*args, **options)
        raise KeyboardInterrupt

    return write


def weights_in(content: bytes, folder) -> dict:
    (folder / "whole.safetensors").write_bytes(content)
    return load(folder / "whole.safetensors").weights_


def test_straight_from_pictures(diffeat, folder_of, tmp_path):
    """What a mixer makes of pictures is what it makes of the file that they would be."""
    things = write_pictures(tmp_path / "things", count=6)
    pictures = things / "JPEGImages"
    spec = ("-t", "20,300", "-b", "stages", "--size", 16, "--device", "cpu")
    model, maps = folder_of("pixel"), tmp_path / "maps.h5"
    assert diffeat("extract", model, pictures, "-o", maps, *spec).code == 0
    kept = tmp_path / "p.safetensors"
    first = diffeat("aggregate", maps, "--pca", 3, "-o", tmp_path / "a.h5", "--save", kept)
    assert first.code == 0, first.err
    live = diffeat("aggregate", model, pictures, "--mixer", kept, "-o", tmp_path / "b.h5",
                   "--device", "cpu")  # fmt: skip
    assert live.code == 0, live.err
    with FeatureStore(tmp_path / "a.h5") as a, FeatureStore(tmp_path / "b.h5") as b:
        assert a.ids == b.ids
        assert a.model["fingerprint"] == b.model["fingerprint"]
        np.testing.assert_allclose(a["pca", 0][:], b["pca", 0][:], atol=5e-3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("-o", "o.h5"), "nothing: expected one of --concat"),
        (("-o", "o.h5", "--concat", "--sum"), "--concat and --sum: expected one of"),
        (("--concat",), "-o says which file"),
        (("-o", "o.npz", "--concat"), "says NumPy"),
        (("-o", "/dev/null/o.h5", "--concat"), "nothing can be written there"),
        (("-o", "o.h5", "--pca", "2", "--weights", "1,2"), "--weights with --pca"),
        (("-o", "o.h5", "--pca", "2", "--task", "matching"), "--task: for --fit, which trains"),
        (("-o", "o.h5", "--pca", "2", "--limit", "3"), "--limit: for MODEL PICTURES"),
        (("-o", "o.h5", "--fuse", "--weights", "1,x"), "weights such as 1,0.5"),
        (("-o", "o.h5", "--mixer", "gone.safetensors"), "gone.safetensors"),
    ],
)
def test_wrong_usage(diffeat, path, more, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = diffeat("aggregate", path, *more)
    assert answer.code in (1, 2)
    assert words in " ".join(answer.err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_model_needs_a_kept_one(diffeat):
    answer = diffeat("aggregate", "unet-cifar10", "digits", "-o", "o.h5", "--concat")
    assert answer.code == 2
    assert "MODEL PICTURES --mixer M" in " ".join(answer.err.split())


def test_help_is_grouped(diffeat):
    text = diffeat("aggregate", "--help").out
    headings = ("What is made (one of these)", "Of which maps", "The file", "--fit", "Options")
    places = [text.index(f"\n{heading}:\n") for heading in headings]
    assert places == sorted(places)
    assert text.count("All channels side by side") == 1
