"""Heads of a benchmark, and the page that shows them, against scikit-learn and plain arithmetic."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from mmap import mmap

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.features import as_maps, averaged
from benchmarks.files import Published
from benchmarks.machine import Stages
from benchmarks.page import page
from benchmarks.report import markdown, results_in
from benchmarks.run import run_benchmark
from benchmarks.tasks.classification.adapted import adapted_options
from benchmarks.tasks.classification.file import ClassificationBenchmark, System
from benchmarks.tasks.classification.tables import cells_text
from diffeat.errors import ModelError, SpecError
from diffeat.search import TEST, TRAIN, VALIDATION
from diffeat.search.splits import split_groups
from diffeat.store import FeatureStore

SHORT = {"epochs": 2, "batch_size": 32}
SMALL = {**SHORT, "width": 16, "heads": 2, "depth": 1, "augment": "mirror"}
SYSTEMS = (
    System("linear, 1×1", "linear", arguments={"pool": 1}),
    System("linear, 2×2", "linear"),
    System("set", "greedy", "all", {"most": 2}),
    System("k-NN", "KNNProbe"),
    System("MLP", "MLPProbe", arguments={"hidden": (8,), **SHORT}, seeds=(0, 1)),
    System("attention", "AttentionProbe", arguments=SMALL),
    System("DifFormer", "DifFormerProbe", "all", SMALL),
    System("mixer", "MixerProbe", "all", {**SHORT, "width": 16}),
    System("hyperfeatures", "HyperfeatureMixer", "all",
           {"width": 8, "size": 2, "steps": 4, "epochs": 2, "batch_size": 32}),
    System("any t", "ddae-noise-conditional", "best block", SHORT),
    System("alone", "Frozen", {"blocks": ["mid"], "timesteps": [20]},
           {"epochs": 1, "flip": False}),
)  # fmt: skip
BENCHMARK = ClassificationBenchmark(
    name="heads",
    title="150 digits <b>",
    model="unet-cifar10",
    train="digits",
    train_limit=150,
    split=(0.5, 0.25, 0.25),
    extract={"timesteps": [20, 60], "blocks": ["mid", "down.2"], "pool": "2x2", "size": 16},
    probe_pool="1x1",
    twin={"timesteps": [20]},
    penalties=(1e-3, 1e-1),
    systems=SYSTEMS,
    published=(
        Published("Somebody (2020)", "a larger model", 77.7, ("weights", "data"), "MLP"),
        Published("Others (2021)", "something else", 55.5),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def result(folder):
    return run_benchmark(BENCHMARK, folder, "cpu")


@pytest.fixture
def runs(result):
    return {system["name"]: system["runs"] for system in result["systems"]}


@pytest.fixture
def plain(folder, result):
    """Features, labels and parts, read by plain h5py."""
    (path,) = folder.glob("unet-cifar10-digits-*.h5")
    with h5py.File(path) as file:
        ids = [name.decode() for name in file["ids"][:]]
        best = result["surfaces"][0]["best"]
        X = file[f"features/{best['block']}/t{best['t']}"][:].astype(np.float64)
        y = file["labels"][:]
        return X, y, split_groups(ids, BENCHMARK.split, labels=y)[0]


class TestHeads:
    def test_all_are_there(self, result):
        assert [system["name"] for system in result["systems"]] == [one.name for one in SYSTEMS]
        assert [len(system["runs"]) for system in result["systems"]] == 4 * [1] + [2] + 6 * [1]

    @pytest.mark.parametrize(("name", "side"), [("linear, 1×1", 1), ("linear, 2×2", 2)])
    def test_linear_is_that_of_scikit_learn(self, runs, plain, name, side):
        X, y, part = plain
        if side == 1:
            X = X.reshape(len(X), -1, 4).mean(2)
        found = {}
        for C in BENCHMARK.penalties:
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=5000)
            )
            model.fit(X[part == TRAIN], y[part == TRAIN])
            found[C] = [model.score(X[part == p], y[part == p]) for p in (VALIDATION, TEST)]
        best = max(found, key=lambda C: (found[C][0], -C))
        (run,) = runs[name]
        assert run["setting"] == best
        # a picture on the edge between two classes may fall to either side
        assert run["validation"] == pytest.approx(found[best][0], abs=1.01 / (part == 1).sum())
        assert run["test"] == pytest.approx(found[best][1], abs=1.01 / (part == 2).sum())
        assert run["parameters"] == (X.shape[1] + 1) * 10

    def test_accuracies_are_shares_of_the_parts(self, result, runs):
        _, held, test = result["surfaces"][0]["counts"]
        for name, (run, *_) in runs.items():
            times = 2 if name == "any t" else 1
            for value, count in ((run["validation"], held), (run["test"], test)):
                assert value * count * times == pytest.approx(
                    round(value * count * times), abs=1e-6
                )

    def test_means_over_seeds(self, result):
        system = next(one for one in result["systems"] if one["name"] == "MLP")
        assert [run["seed"] for run in system["runs"]] == [0, 1]
        assert system["test"] == pytest.approx(sum(run["test"] for run in system["runs"]) / 2)

    def test_cells(self, result):
        cells = {system["name"]: system["cells"] for system in result["systems"]}
        best = result["surfaces"][0]["best"]
        assert list(cells["MLP"]) == [(best["block"], best["t"])]
        assert list(cells["any t"]) == [(best["block"], 20), (best["block"], 60)]
        assert len(cells["DifFormer"]) == 4
        assert list(cells["alone"]) == [("mid", 20)]

    def test_noise_levels_apart(self, runs):
        by_t = runs["any t"][0]["test_by_t"]
        assert set(by_t) == {"20.0", "60.0"}
        assert np.mean(list(by_t.values())) == pytest.approx(runs["any t"][0]["test"])

    def test_learning_curves_are_kept(self, runs):
        assert [epoch["epoch"] for epoch in runs["attention"][0]["history"]] == [1, 2]

    def test_a_second_run_trains_nothing(self, folder, result, monkeypatch):
        def never(*_, **__):
            raise AssertionError("trained again")

        monkeypatch.setattr("benchmarks.tasks.classification.systems._timed", never)
        monkeypatch.setattr("diffeat.search.scores.Logistic.fit", never)
        again = json.loads(json.dumps(run_benchmark(BENCHMARK, folder, "cpu")))
        assert again["finished"]["computed"] == 0
        stored = json.loads(json.dumps(result))
        assert again["systems"] == stored["systems"]
        assert again["surfaces"] == stored["surfaces"]
        assert all(stage["runs"] >= 2 for stage in again["stages"])

    def test_another_argument_is_another_system(self, folder, result):
        few = System("k-NN", "KNNProbe", arguments={"n_neighbors": 2})
        changed = run_benchmark(replace(BENCHMARK, published=(), systems=(few,)), folder, "cpu")
        assert changed["finished"]["computed"] == 1

    @pytest.mark.parametrize(
        ("system", "message"),
        [
            (System("a", "NoProbe"), "'a': head 'NoProbe' is unknown; expected one of linear"),
            (System("a", "MLPProbe", "all"), "'a'.*4 cells"),
            (System("a", "MLPProbe", arguments={"layers": 3}), "'a'.*layers"),
            (System("a", "linear", arguments={"C": 3}), "arguments C of a linear probe"),
            (
                System("a", "MLPProbe", {"blocks": ["mad"]}),
                "'a': blocks mad are not extracted; expected among down.2, mid",
            ),
            (System("a", "MLPProbe", arguments={"epochs": 0}), "'a': epochs"),
            (
                System("a", "ConvProbe", arguments={"augment": "flip"}),
                "augment 'flip'; expected mirror",
            ),
        ],
    )
    def test_bad_systems(self, folder, result, system, message):
        with pytest.raises(SpecError, match=message):
            run_benchmark(replace(BENCHMARK, published=(), systems=(system,)), folder, "cpu")

    def test_heads_are_checked_before_anything_is_extracted(self, tmp_path, monkeypatch):
        def never(*_, **__):
            raise AssertionError("loaded")

        monkeypatch.setattr("diffeat.load", never)
        for system in (System("a", "NoProbe"), System("a", "FineTuning", arguments={"epoch": 1})):
            with pytest.raises(SpecError, match="system 'a'"):
                run_benchmark(replace(BENCHMARK, published=(), systems=(system,)), tmp_path, "cpu")

    def test_sets_of_another_pool_are_other_sets(self, folder, result):
        wide = replace(BENCHMARK, published=(), systems=SYSTEMS[2:3], probe_pool="2x2")
        (found,) = run_benchmark(wide, folder, "cpu")["systems"]
        narrow = next(one for one in result["systems"] if one["name"] == "set")
        assert found["runs"][0]["fingerprint"] != narrow["runs"][0]["fingerprint"]
        widths = [one["runs"][0]["parameters"] / 10 - 1 for one in (narrow, found)]
        assert [width / 192 for width in widths] == [
            len(narrow["runs"][0]["set"]), 4 * len(found["runs"][0]["set"]),
        ]  # fmt: skip

    def test_too_little_memory_is_told_before_the_extraction(self, tmp_path):
        with pytest.raises(SpecError, match=r"--memory"):
            run_benchmark(BENCHMARK, tmp_path, "cpu", memory=100_000)
        assert not list(tmp_path.glob("*.h5"))

    def test_pictures_of_a_training_are_those_of_the_extraction(self):
        extract = {"size": 16, "fit": "crop", "prompt": "p", "pool": "1x1", "blocks": ["mid"]}
        benchmark = replace(BENCHMARK, extract=extract)
        assert adapted_options(benchmark) == {"size": 16, "fit": "crop", "prompt": "p"}

    def test_cells_that_cannot_be_meant(self):
        with pytest.raises(SpecError, match="cells have block; expected blocks, timesteps"):
            System("a", "linear", {"block": ["mid"]})
        with pytest.raises(SpecError, match="cells 'worst'; expected best, all, best block"):
            System("a", "linear", "worst")
        with pytest.raises(SpecError, match="no seeds"):
            System("a", "linear", seeds=())


class TestVision:
    def test_a_model_whose_weights_are_missing_is_told(self, folder, result, monkeypatch):
        def missing(name, *_):
            raise ModelError(f"{name} is not on this machine; give a file")

        monkeypatch.setattr("diffeat.vision.load_vision", missing)
        benchmark = replace(BENCHMARK, published=(), systems=(), vision=("timm:resnet18",))
        found = run_benchmark(benchmark, folder, "cpu")
        assert found["missing"] == {
            "timm:resnet18": "timm:resnet18 is not on this machine; give a file"
        }
        assert len(found["surfaces"]) == 3
        (folder / "only").mkdir(exist_ok=True)
        (folder / "only" / "heads.json").write_text(json.dumps(found), "utf-8")
        assert "Left out: timm:resnet18" in markdown(folder / "only")

    def test_its_linear_probe_stands_in_the_table(self, folder, result, monkeypatch):
        class Oracle:
            name, fingerprint = "oracle", "f"

            def features(self, source, keep=None):
                return np.eye(10, dtype=np.float32)[source.labels]

        monkeypatch.setattr("diffeat.vision.load_vision", lambda *_: Oracle())
        benchmark = replace(BENCHMARK, published=(), systems=(), vision=("oracle",))
        surface = run_benchmark(benchmark, folder, "cpu")["surfaces"][3]
        assert (surface["name"], surface["best"]["block"]) == ("oracle", "pooled")
        assert surface["best"]["test"] == 1.0


class TestFeatures:
    def test_maps_of_pooled_rows(self, folder, result):
        (path,) = folder.glob("unet-cifar10-digits-*.h5")
        with FeatureStore(path) as store:
            maps = as_maps(store["mid", 20], store, ("mid", 20))
            assert maps.shape == (150, 192, 2, 2)
            stored = store["mid", 20][10:13]
            np.testing.assert_array_equal(maps[10:13], stored.reshape(3, 192, 2, 2))
            means = stored.astype(np.float64).reshape(3, 192, 4).mean(2)
            np.testing.assert_allclose(averaged(maps, 1)[10:13], means, rtol=1e-5, atol=1e-6)
            with pytest.raises(SpecError, match="expected maps"):
                as_maps(np.zeros((4, 193)), store, ("mid", 20))

    def test_a_pool_that_is_no_square(self, folder, result):
        with pytest.raises(SpecError, match="probe_pool '2x1'; expected a square"):
            run_benchmark(replace(BENCHMARK, probe_pool="2x1"), folder, "cpu")


class TestStages:
    def test_figures_add_up_over_runs(self, tmp_path, monkeypatch):
        now = iter([0.0, 1.5, 10.0, 12.0])
        monkeypatch.setattr("time.monotonic", lambda: next(now))
        for _ in range(2):
            with Stages.open(tmp_path / "stages.json")("work"):
                pass
        (stage,) = Stages.open(tmp_path / "stages.json").done
        assert (stage["name"], stage["seconds"], stage["runs"]) == ("work", 3.5, 2)
        assert stage["peak_memory_mb"] > 1

    def test_peaks_inside_a_stage_count(self):
        stages = Stages()
        with stages("outer") as peaks:
            peaks.append(1e9)
        assert stages.done[0]["peak_memory_mb"] == 1e9

    def test_a_damaged_file_is_no_stop(self, tmp_path):
        (tmp_path / "stages.json").write_text('[{"name": "wo', "utf-8")
        with pytest.warns(UserWarning, match="times begin anew"):
            assert Stages.open(tmp_path / "stages.json").done == []

    def test_the_peak_is_that_of_the_stage(self):
        stages = Stages()
        with stages("large"), mmap(-1, 100 << 20) as large:  # which no allocator keeps
            for _ in range(100):
                large.write(bytes(1 << 20))
        with stages("small"):
            pass
        large, small = (stage["peak_memory_mb"] for stage in stages.done)
        assert large > small + 50


class Reader(HTMLParser):
    """Tables of a page, as lists of rows; fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.tables, self.best, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag in ("meta", "polyline", "circle"):
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            if ("class", "best") in attrs:
                self.best.append((len(self.tables) - 1, len(self.tables[-1]) - 1))

    def handle_endtag(self, tag):
        assert tag in ("polyline", "circle") or self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


@pytest.fixture
def read(folder, result, tmp_path):
    (tmp_path / "heads.json").write_text(json.dumps(result), "utf-8")
    reader = Reader()
    reader.feed(page(tmp_path))
    assert reader.open == []
    return reader


class TestPage:
    def test_titles_are_text(self, read):
        assert read.text.count("150 digits <b>") == 2

    def test_names_of_files_are_text(self, result, tmp_path):
        (tmp_path / "a<b>.json").write_text(json.dumps(result), "utf-8")
        assert "<b>" not in page(tmp_path)

    def test_other_files_are_passed_over(self, result, tmp_path):
        (tmp_path / "heads.json").write_text(json.dumps(result), "utf-8")
        (tmp_path / "stages.json").write_text("[]", "utf-8")
        (tmp_path / "else.json").write_text('{"suite": "else"}', "utf-8")
        assert [path.name for path, _ in results_in(tmp_path)] == ["heads.json"]
        (tmp_path / "stages.json").write_text("[", "utf-8")
        with pytest.raises(SpecError, match=r"stages.json is no JSON"):
            markdown(tmp_path)

    def test_heat_map_is_the_surface(self, read, result):
        surface = result["surfaces"][0]
        heat = next(table for table in read.tables if table[0] == ["", "t=20", "t=60"])
        shown = [row[1:] for row in heat[1:]]
        cells = {(c["block"], c["t"]): f"{100 * c['validation']:.1f}" for c in surface["cells"]}
        assert shown == [[cells[row[0], t] for t in (20, 60)] for row in heat[1:]]
        place, row = read.best[0]
        assert read.tables[place][row][0] == surface["best"]["block"]

    def test_heads_with_the_papers_beside(self, read, result):
        table = next(table for table in read.tables if table[0][0] == "head")
        rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[1:]}
        assert rows["MLP"]["paper %"] == "77.70 [1]"
        assert {row["paper %"] for name, row in rows.items() if name != "MLP"} == {""}
        for system in result["systems"]:
            shown = rows[system["name"]]["test %"]
            assert shown.split(" ±")[0] == f"{100 * system['test']:.1f}"

    def test_papers_without_a_row_of_ours_have_their_own(self, read):
        row = next(row for table in read.tables for row in table if row[0].startswith("Others"))
        assert row == ["Others (2021): something else", "", "", "", "", "55.50 [2]"]

    def test_every_head_of_several_epochs_has_a_curve(self, folder, result, tmp_path):
        (tmp_path / "heads.json").write_text(json.dumps(result), "utf-8")
        text = page(tmp_path)
        histories = [one["runs"][0].get("history", []) for one in result["systems"]]
        assert [len(history) for history in histories] == [0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 1]
        assert text.count("<polyline") == 6
        for numbers in re.findall(r"points='([^']*)'", text):
            points = np.array([[float(v) for v in pair.split(",")] for pair in numbers.split()])
            assert (points >= 0).all()
            assert (points <= (240, 110)).all()


def test_cells_in_words():
    assert (
        cells_text([("mid", 5), ("mid", 20), ("up.0", 5), ("up.0", 20)]) == "mid, up.0 × t = 5, 20"
    )
    assert cells_text([("mid", 5), ("up.0", 20)]) == "mid t = 5; up.0 t = 20"
