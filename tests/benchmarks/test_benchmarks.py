"""Benchmarks, the surface that they measure, and the report that is printed from its files."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.__main__ import RESULTS, cli
from benchmarks.catalogue import FOLDER, benchmark_names, open_benchmark
from benchmarks.files import Published
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks.classification.file import ClassificationBenchmark
from benchmarks.tasks.classification.tables import closing, summary
from diffeat.errors import SpecError
from diffeat.specs import ExtractSpec

TINY = ClassificationBenchmark(
    name="tiny",
    title="120 digits",
    model="unet-cifar10",
    train="digits",
    train_limit=120,
    split=(0.4, 0.3, 0.3),
    extract={"timesteps": [20], "blocks": ["mid", "down.2"], "pool": "1x1"},
    view={"pictures": "photos", "blocks": ["mid"], "timesteps": [20], "size": [32, 48]},
    published=(Published("Somebody (2020)", "a better model", 99.9, ("weights",), "surface"),),
)


ON_LABELS = [name for name in benchmark_names() if hasattr(open_benchmark(name), "split")]


class TestFiles:
    @pytest.mark.parametrize("name", benchmark_names())
    def test_every_file_opens_and_makes_sense(self, name):
        benchmark = open_benchmark(name)
        assert benchmark.name == name
        assert benchmark.title
        if hasattr(benchmark, "extract"):  # masks of pictures need no features
            assert ExtractSpec.from_dict(benchmark.extract).blocks
        # a figure from a paper says whose it is, from when, how it was got and what differs
        assert all(re.search(r"\(.*(19|20)\d\d\)", one.source) for one in benchmark.published)
        assert all(one.setup and one.differs for one in benchmark.published)

    @pytest.mark.parametrize("name", ON_LABELS)
    def test_every_file_of_labelled_pictures(self, name):
        benchmark = open_benchmark(name)
        assert abs(sum(benchmark.split) - 1) < 1e-9
        assert set(benchmark.view) <= {"pictures", "blocks", "timesteps", "size"}
        rows = {"", "surface", *(system.name for system in benchmark.systems)}
        assert {one.beside for one in benchmark.published} <= rows
        assert len({system.name for system in benchmark.systems}) == len(benchmark.systems)

    def test_every_file_is_found(self):
        assert benchmark_names() == sorted(path.stem for path in FOLDER.iterdir())

    def test_an_unknown_benchmark_suggests_one(self):
        with pytest.raises(SpecError, match=r"'digit' is unknown.*did you mean 'digits'"):
            open_benchmark("digit")

    def test_a_file_of_ones_own(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_bytes((FOLDER / "digits.toml").read_bytes())
        mine = open_benchmark(str(path))
        assert mine == replace(open_benchmark("digits"), name="mine")
        with pytest.raises(SpecError, match=r"other\.toml: no such benchmark file"):
            open_benchmark(str(tmp_path / "other.toml"))
        for taken in ("digits", "speed"):
            path.rename(tmp_path / f"{taken}.toml")
            path = tmp_path / f"{taken}.toml"
            with pytest.raises(SpecError, match=f"'{taken}' is that of another benchmark"):
                open_benchmark(str(path))
        assert open_benchmark(str(FOLDER / "digits.toml")) == open_benchmark("digits")

    def test_a_name_of_its_own(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text('name = "../elsewhere"\n' + (FOLDER / "digits.toml").read_text(), "utf-8")
        with pytest.raises(SpecError, match="no field 'name'"):
            open_benchmark(str(path))

    def test_an_unknown_field(self, tmp_path, monkeypatch):
        text = 'title = "a"\nmodel = "b"\ntrain = "c"\ntrian_limit = 3\n[extract]\n'
        (tmp_path / "odd.toml").write_text(text, "utf-8")
        monkeypatch.setattr("benchmarks.catalogue.FOLDER", tmp_path)
        with pytest.raises(SpecError, match="trian_limit"):
            open_benchmark("odd")

    def test_list(self):
        shown = CliRunner().invoke(cli, ["list"])
        assert shown.exit_code == 0
        listed = [line.split()[0] for line in shown.output.splitlines()]
        assert listed == [*benchmark_names(), "faults", "speed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def result(folder):
    return run_benchmark(TINY, folder, "cpu")


@pytest.fixture
def stored(folder, result) -> dict:
    return json.loads((folder / "tiny.json").read_text("utf-8"))


class TestRun:
    def test_json_holds_the_result(self, result, stored):
        assert stored == json.loads(json.dumps(result))
        assert [surface["name"] for surface in stored["surfaces"]] == [
            "unet-cifar10", "unet-cifar10@random", "raw pixels",
        ]  # fmt: skip
        assert [len(surface["cells"]) for surface in stored["surfaces"]] == [2, 2, 1]

    def test_all_systems_see_the_same_pictures(self, stored):
        counts = [surface["counts"] for surface in stored["surfaces"]]
        assert counts[0] == counts[1] == counts[2]
        assert sum(counts[0]) == 120

    def test_the_twin_has_other_weights(self, stored):
        assert stored["models"][0]["fingerprint"] != stored["models"][1]["fingerprint"]

    def test_pixels_are_worth_something(self, stored):
        assert stored["surfaces"][2]["best"]["test"] > 3 * stored["chance"]

    def test_chance_is_that_of_one_class(self, stored):
        tested = stored["surfaces"][0]["counts"][2]
        assert stored["chance"] * tested == pytest.approx(round(stored["chance"] * tested))
        assert 0 <= stored["chance"] < 0.4

    def test_csv_holds_every_cell(self, folder, stored):
        with open(folder / "tiny.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = [(row["features"], row["block"], float(row["validation"])) for row in rows]
        assert found == [
            (surface["name"], cell["block"], round(cell["validation"], 4))
            for surface in stored["surfaces"]
            for cell in surface["cells"]
        ]

    @pytest.mark.parametrize("name", ["tiny.png", "tiny-maps.png"])
    def test_pictures(self, folder, result, name):
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 100

    def test_a_second_run_computes_no_features(self, folder, stored, monkeypatch):
        def never(*_):
            raise AssertionError("features were computed again")

        monkeypatch.setattr("diffeat.extraction.Extractor.start", never)
        again = run_benchmark(replace(TINY, view={}), folder, "cpu")
        assert json.loads(json.dumps(again["surfaces"])) == stored["surfaces"]

    def test_a_test_set_of_its_own(self, tmp_path):
        rng = np.random.default_rng(0)
        for part, count in (("train", 30), ("test", 4)):
            for label, red in (("dark", 40), ("light", 180)):
                (tmp_path / part / label).mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(red, red + 60, (8, 8, 3), np.uint8)
                    Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
        benchmark = ClassificationBenchmark(
            name="pair", title="pair", model="unet-cifar10", train=str(tmp_path / "train"),
            test=str(tmp_path / "test"), train_limit=50,
            extract={"timesteps": [20], "blocks": ["conv_in"], "pool": "1x1"},
        )  # fmt: skip
        measured = run_benchmark(benchmark, tmp_path / "out", "cpu")
        counts = measured["surfaces"][0]["counts"]
        assert (sum(counts[:2]), counts[2]) == (50, 8)
        assert measured["chance"] == 0.5
        assert measured["surfaces"][2]["best"]["test"] == 1.0  # brightness tells them apart


def figures(text: str) -> list[str]:
    """Every number with one digit after the point, in order."""
    return re.findall(r"\d+\.\d(?!\d)", text)


class TestReport:
    def test_summary_shows_the_figures_of_the_json(self, stored):
        lines = closing(stored).splitlines()[2:]
        for line, surface in zip(lines[:3], stored["surfaces"], strict=True):
            best = surface["best"]
            assert line.startswith(surface["name"])
            assert best["block"] in line
            wanted = [f"{100 * best['validation']:.1f}", f"{100 * best['test']:.1f}"]
            assert figures(line) == wanted
        assert figures(lines[3]) == [f"{100 * stored['chance']:.1f}"]

    @pytest.fixture
    def page(self, folder, result, tmp_path) -> str:
        shutil.copy(folder / "tiny.json", tmp_path)
        return markdown(tmp_path)

    def test_markdown_shows_the_figures_of_the_json(self, page, stored):
        for surface in stored["surfaces"]:
            best = surface["best"]
            row = next(x for x in page.splitlines() if x.startswith(f"| {surface['name']} |"))
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            t = "" if surface["name"] == "raw pixels" else "20"
            assert cells[1:5] == [
                best["block"], t, f"{100 * best['validation']:.1f}", f"{100 * best['test']:.1f}",
            ]  # fmt: skip
        assert f"| chance |  |  |  | {100 * stored['chance']:.1f} |  |" in page

    def test_markdown_names_counts_and_published_values(self, page, stored):
        train, held, test = stored["surfaces"][0]["counts"]
        assert f"{train} training, {held} validation and {test} test pictures" in page
        row = next(x for x in page.splitlines() if x.startswith("| unet-cifar10 |"))
        assert row.endswith("| 99.90 [1] |")  # in a column of its own
        note = "[1] Somebody (2020): a better model: 99.90 %. Not comparable: other weights."
        assert note in page
        tables = re.findall(r"^\|[-|]+\|$", page, re.MULTILINE)
        assert len(tables) == 2

    def test_report_prints_the_page(self, folder, page, tmp_path):
        shown = CliRunner().invoke(cli, ["report", "--results", str(tmp_path)])
        assert shown.exit_code == 0
        assert shown.output.strip() == page.strip()

    def test_run_prints_and_records(self, folder, result, stored, tmp_path, monkeypatch):
        monkeypatch.setattr("benchmarks.catalogue.open_benchmark", lambda name: TINY)
        monkeypatch.setattr("benchmarks.run.run_benchmark", lambda *_: stored)
        monkeypatch.setattr("benchmarks.__main__.RESULTS", tmp_path / "results")
        shown = CliRunner().invoke(cli, ["run", "tiny", "--out", str(folder), "--record"])
        assert shown.exception is None, shown.exception
        assert summary(stored) in shown.output
        recorded = {path.name for path in (tmp_path / "results").iterdir()}
        assert recorded == {"tiny.json", "tiny.csv", "tiny.png", "tiny-maps.png"}


def test_recorded_pictures_are_drawn_again_from_their_json(tmp_path):
    for name in ("digits-heads.json", "faults.json"):
        shutil.copy(RESULTS / name, tmp_path)
    shown = CliRunner().invoke(cli, ["redraw", "--results", str(tmp_path)])
    assert shown.exception is None, shown.exception
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"digits-heads.png", "digits-heads-curves.png"}
    with Image.open(tmp_path / "digits-heads.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100
