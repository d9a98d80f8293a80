"""The `diffeat` command, run in this process, with its bundled model on a few pictures."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import signal
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffeat import __version__, open_source
from diffeat.cli import cli
from diffeat.extraction import Extractor

MODEL = "unet-cifar10"
EXTRACT = ("extract", MODEL, "digits", "--limit", "40")
POOLED = ("-t", "20,60", "-b", "mid", "--pool", "1x1")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """maps.h5 and pooled.h5 of 40 digits, written by the command; never write there."""
    folder = tmp_path_factory.mktemp("extracted")
    for name, options in (("maps", ("-t", "20", "-b", "up.0,mid")), ("pooled", POOLED)):
        done = CliRunner().invoke(cli, [*EXTRACT, "-o", str(folder / f"{name}.h5"), *options])
        assert done.exception is None, done.output
        assert "40 pictures, 40 computed now" in done.output
    return folder


@pytest.fixture
def maps(extracted, tmp_path) -> Path:
    return Path(shutil.copy(extracted / "maps.h5", tmp_path / "maps.h5"))


@pytest.fixture
def pooled(extracted, tmp_path) -> Path:
    return Path(shutil.copy(extracted / "pooled.h5", tmp_path / "pooled.h5"))


class TestExtract:
    def test_file_opens_with_plain_h5py(self, maps):
        with h5py.File(maps) as file:
            assert bool(file.attrs["complete"]) is True
            assert file.attrs["format"] == 1
            assert len(file["ids"]) == 40
            assert (np.bincount(file["labels"][:]) == 4).all()  # balanced over ten classes
            assert file["features/up.0/t20"].dtype == np.float16
            assert np.ptp(file["features/up.0/t20"][0]) > 0

    def test_a_second_run_has_nothing_to_do(self, diffeat, pooled):
        before = pooled.read_bytes()
        answer = diffeat(*EXTRACT, "-o", pooled, *POOLED)
        assert answer.code == 0
        assert "already complete" in answer.out
        assert pooled.read_bytes() == before
        again = json.loads(diffeat(*EXTRACT, "-o", pooled, *POOLED, "--json").out)
        assert again["status"] == "already complete"
        assert (again["pictures"], again["computed"], again["path"]) == (40, 0, str(pooled))

    def test_another_spec_is_refused_by_field(self, diffeat, pooled):
        before = pooled.read_bytes()
        answer = diffeat(*EXTRACT, "-o", pooled, *POOLED, "--seed", 1)
        assert answer.code == 1
        assert "seed: 0 → 1" in answer.err
        assert "--overwrite" in answer.err
        assert pooled.read_bytes() == before

    def test_overwrite(self, diffeat, pooled):
        before = pooled.read_bytes()
        answer = diffeat("extract", MODEL, "digits", "--limit", 10, "-o", pooled, "-t", 5, "-b",
                         "mid", "--pool", "1x1", "--overwrite")  # fmt: skip
        assert answer.code == 0
        assert "10 pictures, 10 computed now" in answer.out
        assert pooled.read_bytes() != before

    @pytest.mark.parametrize("suffix", ["toml", "json"])
    def test_spec_file(self, diffeat, tmp_path, suffix, pooled):
        text = {
            "toml": 'timesteps = [20, 60]\nblocks = ["mid"]\npool = "1x1"\n',
            "json": '{"timesteps": [20, 60], "blocks": ["mid"], "pool": "1x1"}',
        }[suffix]
        (tmp_path / f"spec.{suffix}").write_text(text, "utf-8")
        # the same spec as that of the options, so there is nothing to do
        answer = diffeat(*EXTRACT, "-o", pooled, "--spec", tmp_path / f"spec.{suffix}")
        assert answer.code == 0
        assert "already complete" in answer.out
        answer = diffeat(*EXTRACT, "-o", pooled, "--spec", tmp_path / f"spec.{suffix}", "-t", "21")
        assert answer.code == 1
        assert "timesteps: [20, 60] → [21]" in answer.err

    def test_options_complete_a_spec_file(self, diffeat, tmp_path, pooled):
        (tmp_path / "spec.toml").write_text('blocks = ["mid"]\npool = "1x1"\n', "utf-8")
        answer = diffeat(*EXTRACT, "-o", pooled, "--spec", tmp_path / "spec.toml", "-t", "20,60")
        assert answer.code == 0, answer.err
        assert "already complete" in answer.out

    @pytest.mark.parametrize("text", ["[1, 2]", '{"timesteps": 20, "blocks": "mid", "pool": 7}'])
    def test_a_spec_file_of_the_wrong_kind(self, diffeat, tmp_path, text):
        (tmp_path / "spec.json").write_text(text, "utf-8")
        answer = diffeat(*EXTRACT, "-o", tmp_path / "a.h5", "--spec", tmp_path / "spec.json")
        assert answer.code == 2
        assert "expected" in answer.err

    def test_folder_with_unicode_and_spaces(self, diffeat, tmp_path):
        folder = tmp_path / "meine Bilder ü"
        rng = np.random.default_rng(0)
        for label in ("Kätzchen süß", "狗"):
            (folder / label).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / label / f"Bild {number} é.png")
        out = tmp_path / "Merkmale ü.h5"
        answer = diffeat("extract", MODEL, folder, "-o", out, *POOLED)
        assert answer.code == 0
        assert "6 pictures" in answer.out
        with h5py.File(out) as file:
            assert file["ids"].asstr()[0] == "Kätzchen süß/Bild 0 é.png"
            assert file["labels"][:].tolist() == [0, 0, 0, 1, 1, 1]
        assert diffeat("verify", out).code == 0
        facts = json.loads(diffeat("info", out, "--json").out)
        assert facts["pictures"]["classes"] == ["Kätzchen süß", "狗"]

    def test_unreadable_pictures(self, diffeat, tmp_path):
        folder = tmp_path / "pictures"
        folder.mkdir()
        for number in range(4):
            Image.new("RGB", (16, 16), (60 * number, 0, 9)).save(folder / f"{number}.png")
        (folder / "2.png").write_bytes(b"not a picture")
        command = ("extract", MODEL, folder, "-o", tmp_path / "a.h5", *POOLED)
        stopped = diffeat(*command)
        assert stopped.code == 1
        assert "2.png" in stopped.err
        skipping = diffeat(*command, "--on-error", "skip")
        assert skipping.code == 0
        assert "3 pictures, 1 skipped" in skipping.out
        facts = json.loads(diffeat("info", tmp_path / "a.h5", "--json").out)
        assert list(facts["skipped"]) == ["2.png"]
        assert facts["pictures"]["rows"] == 3
        assert "2.png" in diffeat("info", tmp_path / "a.h5").out

    def test_more_noise_samples_change_the_features(self, diffeat, tmp_path):
        few = ("extract", MODEL, "digits", "--limit", "10", *POOLED, "--dtype", "float32")
        files = {n: tmp_path / f"{n}.h5" for n in (1, 2)}
        for number, path in files.items():
            assert diffeat(*few, "-o", path, "--ensemble", number).code == 0
        with h5py.File(files[1]) as one, h5py.File(files[2]) as two:
            a, b = (file["features/mid/t60"][:] for file in (one, two))
        assert a.shape == b.shape
        assert not np.allclose(a, b)

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (("-t", "20", "-b", "up.9"), 2, ["'up.9'", "did you mean 'up."]),
            (("-t", "2000", "-b", "mid"), 2, ["t=2000", "0 … 999"]),
            (("-t", "soon", "-b", "mid"), 2, ["'soon'", "expected a native timestep"]),
            (("-t", "20", "-b", "mid", "--pool", "3"), 2, ["pool='3'", "'2x2'"]),
            (("-t", "20", "-b", "mid", "--size", "big"), 2, ["--size", "480x640"]),
            (("-t", "20", "-b", "mid", "--size", "33"), 2, ["33×33", "multiples of 4"]),
            (("-t", "20", "-b", "mid", "--size", "0"), 2, ["size", "expected"]),
            (("-t", "20", "-b", "mid", "--ensemble", "0"), 2, ["ensemble=0", "at least 1"]),
            (("-t", "20", "-b", "mid", "--noise", "loud"), 2, ["'loud'", "per-image"]),
            (("-t", "20", "-b", "mid", "--dtype", "int4"), 2, ["'int4'", "float16"]),
            (("-t", "20", "-b", "mid", "--dtype", "bfloat16"), 2, ["bfloat16", "float16"]),
            (("-t", "20", "-b", "mid", "--prompt", "a cat"), 2, ["no text encoder", "prompt"]),
            (("-t", "20", "-b", "mid", "--batch-size", "0"), 2, ["--batch-size", "0"]),
            (("-t", "20", "-b", "mid", "--limit", "0"), 2, ["--limit"]),
            (("-t", "20", "-b", "mid", "--limit", "-3"), 2, ["--limit"]),
            (("-t", "20"), 2, ["no blocks", "-b"]),
            (("-b", "mid"), 2, ["no timesteps", "-t"]),
            (("-t", "20", "-b", "mid", "--device", "abacus"), 1, ["abacus", "cpu"]),
            (("-t", "20", "-b", "mid", "--spec", "no.toml"), 2, ["no.toml"]),
        ],
    )
    def test_wrong_options(self, diffeat, tmp_path, options, code, words, monkeypatch):
        monkeypatch.setattr("diffeat.extraction.Extractor.start", _never)
        answer = diffeat(*EXTRACT, "-o", tmp_path / "a.h5", *options)
        assert answer.code == code, answer
        for word in words:
            assert word in answer.err
        assert not (tmp_path / "a.h5").exists()

    @pytest.mark.parametrize(
        ("model", "pictures", "words"),
        [
            ("unet-cifar1", "digits", ["'unet-cifar1'", "did you mean", "expected"]),
            (MODEL, "digit", ["'digit'", "did you mean 'digits'"]),
            (MODEL, "no/such/folder", ["'no/such/folder'", "named data sets"]),
        ],
    )
    def test_wrong_model_or_pictures(self, diffeat, tmp_path, model, pictures, words):
        answer = diffeat("extract", model, pictures, "-o", tmp_path / "a.h5", *POOLED)
        assert answer.code == 1
        for word in words:
            assert word in answer.err

    def test_an_empty_folder(self, diffeat, tmp_path):
        (tmp_path / "empty").mkdir()
        answer = diffeat("extract", MODEL, tmp_path / "empty", "-o", tmp_path / "a.h5", *POOLED)
        assert answer.code == 1
        assert "no pictures found; expected files ending in" in answer.err

    def test_output_is_a_folder(self, diffeat, tmp_path):
        answer = diffeat(*EXTRACT, "-o", tmp_path, *POOLED)
        assert answer.code == 2
        assert f"'{tmp_path}' is a directory" in answer.err

    def test_output_is_somebody_elses_file(self, diffeat, tmp_path):
        (tmp_path / "notes.h5").write_text("mine")
        answer = diffeat(*EXTRACT, "-o", tmp_path / "notes.h5", *POOLED)
        assert answer.code == 1
        assert "notes.h5" in answer.err
        assert (tmp_path / "notes.h5").read_text() == "mine"


def _never(*_args, **_options):
    raise AssertionError("the pictures were extracted")


class TestFiles:
    def test_info(self, diffeat, maps):
        answer = diffeat("info", maps)
        assert answer.code == 0
        assert "2 feature sets of 40 pictures" in answer.out
        assert "40×192×16×16 float16" in answer.out

    def test_info_as_json_agrees_with_the_schedule(self, diffeat, maps):
        facts = json.loads(diffeat("info", maps, "--json").out)
        betas = np.linspace(1e-4, 0.02, 1000)  # Ho et al. 2020
        abar = np.prod(1 - betas[:21])
        for row in facts["features"]:
            assert row["alpha"] == pytest.approx(np.sqrt(abar), rel=1e-5)
            assert row["log_snr"] == pytest.approx(np.log(abar / (1 - abar)), rel=1e-4)
        assert [row["block"] for row in facts["features"]] == ["mid", "up.0"]  # as they run
        assert facts["pictures"]["rows"] == 40
        assert facts["model"]["name"] == MODEL

    def test_verify(self, diffeat, maps):
        answer = diffeat("verify", maps)
        assert (answer.code, answer.out) == (0, f"{maps}: sound\n")
        assert json.loads(diffeat("verify", maps, "--json").out)["sound"] is True

    def test_verify_finds_nan(self, diffeat, maps):
        with h5py.File(maps, "r+") as file:
            file["features/mid/t20"][7, 0, 0, 0] = np.nan
        answer = diffeat("verify", maps)
        assert answer.code == 1
        assert "features/mid/t20" in answer.out
        assert "nan" in answer.out
        stored = diffeat("verify", maps, "--json")
        assert stored.code == 1
        assert len(json.loads(stored.out)["problems"]) == 1

    @pytest.mark.parametrize("name", ["info", "verify", "view", "probe"])
    def test_files_that_are_not_ours(self, diffeat, tmp_path, name):
        missing = diffeat(name, tmp_path / "no.h5")
        assert missing.code == 1
        assert "no such file" in missing.err
        (tmp_path / "text.h5").write_text("hello")
        other = diffeat(name, tmp_path / "text.h5")
        assert other.code == 1
        assert "text.h5" in other.err


class TestView:
    def test_png(self, diffeat, maps, tmp_path):
        answer = diffeat("view", maps, "-o", tmp_path / "v.png", "-n", 3)
        assert answer.code == 0
        assert f"wrote {tmp_path / 'v.png'}" in answer.out
        with Image.open(tmp_path / "v.png") as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 300

    def test_chosen_pictures_and_blocks(self, diffeat, maps, tmp_path):
        with h5py.File(maps) as file:
            name = file["ids"].asstr()[5]
        options = ("--ids", name, "-b", "mid", "-t", "20")
        assert diffeat("view", maps, "-o", tmp_path / "small.png", *options).code == 0
        assert diffeat("view", maps, "-o", tmp_path / "large.png", "-n", 2).code == 0
        with Image.open(tmp_path / "small.png") as a, Image.open(tmp_path / "large.png") as b:
            assert a.width < b.width
            assert a.height < b.height

    def test_pooled_features_have_no_picture(self, diffeat, pooled, tmp_path):
        answer = diffeat("view", pooled, "-o", tmp_path / "v.png")
        assert answer.code == 2
        assert "pooled vectors" in answer.err
        assert "--pool none" in answer.err
        assert not (tmp_path / "v.png").exists()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("-b", "up.7"), ["up.7", "diffeat info"]),
            (("-t", "33"), ["has no t=33; it has 20"]),
            (("--ids", "nobody"), ["'nobody'", "digit-"]),
            (("-n", "0"), ["0"]),
        ],
    )
    def test_wrong_options(self, diffeat, maps, tmp_path, options, words):
        answer = diffeat("view", maps, "-o", tmp_path / "v.png", *options)
        assert answer.code == 2
        for word in words:
            assert word in answer.err

    def test_originals_elsewhere(self, diffeat, tmp_path):
        folder = tmp_path / "here"
        folder.mkdir()
        Image.radial_gradient("L").save(folder / "a.png")
        out = tmp_path / "a.h5"
        assert diffeat("extract", MODEL, folder, "-o", out, "-t", 20, "-b", "mid").code == 0
        folder.rename(tmp_path / "there")
        answer = diffeat("view", out, "-o", tmp_path / "alone.png")
        assert answer.code == 0
        assert "without the originals" in answer.out
        assert "--pictures" in answer.out
        wrong = diffeat("view", out, "-o", tmp_path / "v.png", "--pictures", tmp_path / "no")
        assert wrong.code == 1
        assert not (tmp_path / "v.png").exists()
        moved = ("--pictures", tmp_path / "there")
        assert diffeat("view", out, "-o", tmp_path / "v.png", *moved).code == 0
        assert (tmp_path / "v.png").is_file()


class TestProbe:
    split = ("--split", "0.4,0.3,0.3")

    def test_table_csv_and_png(self, diffeat, pooled, tmp_path):
        files = ("--csv", tmp_path / "t.csv", "--png", tmp_path / "t.png")
        answer = diffeat("probe", pooled, *self.split, *files)
        assert answer.code == 0, answer.err
        assert answer.out.count("*") == 1
        assert "best on validation: mid at t=" in answer.out
        with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["block"], row["t"]) for row in rows] == [("mid", "20"), ("mid", "60")]
        best = max(rows, key=lambda row: float(row["validation"]))
        assert f"{100 * float(best['validation']):.1f}*" in answer.out
        with Image.open(tmp_path / "t.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100

    def test_only_some_cells(self, diffeat, pooled):
        asked = ("probe", pooled, *self.split, "-b", "mid", "-t", "60", "--json")
        found = json.loads(diffeat(*asked).out)
        assert [(cell["block"], cell["t"]) for cell in found["cells"]] == [("mid", 60)]

    def test_json(self, diffeat, pooled):
        found = json.loads(diffeat("probe", pooled, *self.split, "-C", "0.01", "--json").out)
        assert sum(found["counts"]) == 40
        assert found["classes"] == 10
        assert {cell["setting"] for cell in found["cells"]} == {0.01}
        assert {cell["C"] for cell in found["cells"]} == {0.01}  # its name before
        assert found["best"] in found["cells"]

    def test_a_test_file(self, diffeat, pooled, tmp_path):
        # all digits but the forty: other pictures from the same model
        listed = tmp_path / "test"
        with h5py.File(pooled) as file:
            used = set(file["ids"].asstr()[:])
        source = open_source("digits")
        rest = source.take([k for k in range(200) if source.ids[k] not in used][:60])
        for index, (label, _) in enumerate(zip(rest.labels, rest.ids, strict=True)):
            (listed / str(label)).mkdir(parents=True, exist_ok=True)
            rest.load(index).save(listed / str(label) / f"{index}.png")
        out = tmp_path / "test.h5"
        assert diffeat("extract", MODEL, listed, "-o", out, *POOLED).code == 0
        found = json.loads(diffeat("probe", pooled, out, "--json").out)
        assert found["counts"][2] == 60
        assert sum(found["counts"][:2]) == 40
        assert found["best"]["test"] > 0.3  # chance is 0.1

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--split", "0.5,0.5"), ["--split", "three shares"]),
            (("--split", "1,1,1"), ["--split", "sum to 1"]),
            (("--split", "a,b,c"), ["--split", "0.6,0.2,0.2"]),
            (("--split", "1,0,0"), ["validation part", "more pictures"]),
            (("-C", "0"), ["-C", "positive"]),
            (("-C", "much"), ["-C", "positive"]),
        ],
    )
    def test_wrong_options(self, diffeat, pooled, options, words):
        answer = diffeat("probe", pooled, *options)
        assert answer.code == 2
        for word in words:
            assert word in answer.err

    def test_maps_cannot_be_tested_on_vectors(self, diffeat, maps, pooled):
        answer = diffeat("probe", pooled, maps)
        assert answer.code == 2
        assert "maps.h5" in answer.err

    def test_no_labels(self, diffeat, tmp_path):
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
        out = tmp_path / "a.h5"
        assert diffeat("extract", MODEL, tmp_path, "-o", out, *POOLED).code == 0
        answer = diffeat("probe", out)
        assert answer.code == 2
        assert "no labels" in answer.err
        assert "subfolder per class" in answer.err

    @pytest.mark.parametrize("option", ["--csv", "--png"])
    def test_an_output_that_cannot_be_written(self, diffeat, pooled, tmp_path, option):
        (tmp_path / "file").write_text("")
        answer = diffeat("probe", pooled, *self.split, option, tmp_path / "file" / "t.out")
        assert answer.code in (1, 2)
        assert "t.out" in answer.err


class TestMain:
    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help(self, diffeat, option):
        answer = diffeat(option)
        assert answer.code == 0
        for name in cli.commands:
            assert f"\n  {name} " in answer.out

    def test_commands(self):
        assert set(cli.commands) == {
            "models", "blocks", "recipes", "channels", "extract", "info", "verify", "merge",
            "plan", "export", "view", "probe", "align", "search", "predict", "match", "compare",
            "aggregate", "segment", "explain", "cluster", "heads",
        }  # fmt: skip

    def test_every_command_has_help(self, diffeat):
        for name in cli.commands:
            answer = diffeat(name, "--help")
            assert answer.code == 0
            assert f"diffeat {name}" in answer.out

    def test_version(self, diffeat):
        assert __version__ in diffeat("--version").out

    @pytest.mark.parametrize("args", [(), ("bogus",), ("info",), ("models", "--bogus")])
    def test_wrong_usage(self, diffeat, args):
        answer = diffeat(*args)
        assert answer.code == 2
        assert "Usage" in answer.err

    def test_ctrl_c_says_that_it_can_go_on(self, diffeat, monkeypatch, tmp_path):
        def interrupted(*_args, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr("diffeat.jobs.extract_to_file", interrupted, raising=False)
        answer = diffeat(*EXTRACT, "-o", tmp_path / "a.h5", *POOLED)
        assert answer.code == 130
        assert "interrupted" in answer.err
        assert "run the same command again" in answer.err

    def test_sigterm_leaves_a_file_that_the_next_run_finishes(self, diffeat, monkeypatch, tmp_path):
        forward, calls = Extractor.start, []

        def terminated(self, *args):
            calls.append(None)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGTERM)
            return forward(self, *args)

        command = (*EXTRACT, "-o", tmp_path / "a.h5", *POOLED, "--batch-size", 10)
        with monkeypatch.context() as patch:
            patch.setattr(Extractor, "start", terminated)
            stopped = diffeat(*command)
        assert stopped.code == 143
        assert "interrupted" in stopped.err
        resumed = json.loads(diffeat(*command, "--json").out)
        assert (resumed["status"], resumed["pictures"]) == ("resumed", 40)
        assert resumed["computed"] == 20  # two of four batches were kept
        assert diffeat("verify", tmp_path / "a.h5").code == 0

    def test_warnings_are_one_line_on_stderr(self, diffeat, monkeypatch):
        def warn():
            warnings.warn("something is odd", stacklevel=1)
            return []

        monkeypatch.setattr(importlib.import_module("diffeat.cli.models"), "_bundled", warn)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            answer = diffeat("models")
        assert answer.err == "warning: something is odd\n"
