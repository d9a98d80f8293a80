"""Video: what does not move by hand arithmetic, whole runs on small clips and shrunk twins."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

import diffeat
from benchmarks.catalogue import benchmark_names, open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks.matching.file import Measured
from benchmarks.tasks.video.counted import MASKS, Counted, joints
from benchmarks.tasks.video.file import VideoBenchmark
from benchmarks.tasks.video.scored import propagator_of
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.specs import ExtractSpec
from diffeat.targets.video import open_video
from probes.cells import Cells
from probes.metrics import JointPCK, VideoScores
from probes.propagation import LabelPropagator
from tests.clips import SIZE, moving_square, write_davis, write_jhmdb
from tests.twins import twin

CLIPS = ("bear", "goat", "sheep")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_davis(root / "davis2016", 2016, CLIPS)
    write_davis(root / "davis2017", 2017)
    write_jhmdb(root / "jhmdb")
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(**fields) -> VideoBenchmark:
    plain = {
        "name": "small", "title": "Small", "task": "video", "clips": "davis2016:val",
        "models": (Measured("unet-cifar10"), Measured("./zoo/none")), "radius": 0.25,
        "extract": {"timesteps": [20], "blocks": ["conv_in", "up.2"], "size": [16, 24]},
        "twin": {"blocks": ["up.2"]}, "pixels": (24, 32), "last": 3,
    }  # fmt: skip
    return VideoBenchmark(**{**plain, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small(), folder, "cpu")


def row_of(result, label: str) -> dict:
    return next(row for row in result["rows"] if row["label"].startswith(label))


class TestCounted:
    def test_masks_are_a_mean_over_objects(self):
        # two clips: one object with J .2, F .4; two objects with J sum 1, F sum 2
        one = Counted(np.array([[[0.2, 0.4]], [[1.0, 2.0]]]), np.array([[1], [2]]), MASKS)
        np.testing.assert_allclose(one.numbers()[0], [0.6, 0.4, 0.8])
        np.testing.assert_allclose(one.of_clips(), [[0.3, 0.2, 0.4], [0.75, 0.5, 1]])

    def test_joints_count_alike(self):
        one = Counted(np.array([[[1, 2], [0, 4]]]), np.array([[2, 4]]), joints((0.1, 0.2)))
        np.testing.assert_allclose(one.numbers()[0], [0.25, 1])  # not 1/6 and 1

    def test_intervals_draw_clips(self):
        rng = np.random.default_rng(0)
        one = Counted(rng.uniform(size=(30, 1, 2)), np.ones((30, 1)), MASKS)
        first = one.intervals()[0]
        each = one.of_clips()[:, 0]
        wide = 2 * 1.96 * each.std() / np.sqrt(30)
        assert first.value == pytest.approx(each.mean())
        assert first.high - first.low == pytest.approx(wide, rel=0.1)
        assert [end.low for end in one.intervals(one)] == [0, 0, 0]


class TestFile:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"radius": 0}, "radius = 0"), ({"radius": 2.5}, "radius = 2.5"),
            ({"last": 0}, "last = 0"), ({"fewer": {"a": 0}}, "expected whole frames for 'a'"),
            ({"pixels": (3,)}, "expected H and W"), ({"alphas": ()}, "alphas"),
            ({"models": ()}, "no models"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_meant(self, fields, message):
        with pytest.raises(SpecError, match=message):
            small(**fields)

    def test_radius_by_the_map(self):
        assert propagator_of(small(radius=0.14), "a", (60, 107)).radius == 15
        assert propagator_of(small(radius=15), "a", (60, 107)).radius == 15
        assert propagator_of(small(radius=0.01), "a", (6, 10)).radius == 1

    def test_a_clip_of_fewer_frames(self):
        one = open_benchmark("davis2017-dift-sd21")
        assert propagator_of(one, "shooting", (64, 112)).last == 10
        assert propagator_of(one, "bear", (64, 112)).last == 28

    def test_one_clip_cannot_choose(self, data, tmp_path):
        lines = data / "davis2016/ImageSets/2016"
        (lines / "train.txt").write_text("bear\n")
        with pytest.raises(SpecError, match="2 cells, and one clip cannot choose"):
            run_benchmark(small(clips="davis2016:train", pixels=()), tmp_path, "cpu")
        assert not list(tmp_path.rglob("*.h5*"))  # it is told before any work


class TestMasks:
    def test_rows(self, result):
        assert [row["label"] for row in result["rows"]] == [
            "unet-cifar10", "unet-cifar10@random", "raw pixels (7×7 patches at 24×32)",
            "the first mask stays where it is",
        ]  # fmt: skip
        assert list(result["missing"]) == ["none"]

    def test_what_stays_by_hand(self, result):
        """J of two 16 × 16 squares that lie d pixels apart is (16 − d) / (16 + d)."""
        clips = row_of(result, "the first")["clips"]
        for clip in CLIPS:
            step = 1 + len(clip) % 3
            j = np.mean([(16 - step * k) / (16 + step * k) for k in range(1, 5)])
            assert clips[clip][1] == pytest.approx(j)

    def test_a_model_by_its_file(self, result, folder):
        """The twin has one cell: its numbers from the feature file alone."""
        path = next(folder.glob("unet-cifar10@random*.h5"))
        scores = VideoScores()
        with h5py.File(path) as file:
            ids = [one.decode() for one in file["ids"]]
            maps = file["features/up.2/t20"][:].astype(np.float32)
        for clip in CLIPS:
            rows = [ids.index(f"{clip}#{k:03d}") for k in range(6)]
            cells = Cells({("up.2", 20): maps[rows]}, sizes=np.tile(SIZE, (6, 1)))
            _, masks = moving_square(6, step=1 + len(clip) % 3)
            how = LabelPropagator(last=3, radius=6)
            for labels, mask in zip(how.propagate(cells, masks[0]), masks, strict=True):
                scores.update(clip, labels, mask)
        found = row_of(result, "unet-cifar10@random")
        assert found["cells"] == {clip: ["up.2", 20] for clip in CLIPS}
        wanted = scores.compute()
        for one in found["scores"]:
            assert one["value"] == pytest.approx(wanted[one["name"]])

    def test_a_clip_is_reported_with_what_is_best_on_the_others(self, result, folder):
        lines = [line.split(",") for line in (folder / "small.csv").read_text().splitlines()[1:]]
        of = {(line[1], line[3]): float(line[4]) for line in lines if line[0] == "unet-cifar10"}
        row = row_of(result, "unet-cifar10")
        for clip in CLIPS:
            others = [one for one in CLIPS if one != clip]
            best = max(("conv_in", "up.2"), key=lambda b: np.mean([of[b, one] for one in others]))
            assert row["cells"][clip] == [best, 20]
            assert row["clips"][clip][0] == pytest.approx(of[best, clip], abs=1e-6)

    def test_textures_are_followed(self, result):
        """Raw pixels find a square that moves over a ground that does not."""
        assert row_of(result, "raw")["scores"][0]["value"] > 0.8
        assert row_of(result, "raw")["above"][0]["low"] > 0

    def test_a_second_run_counts_nothing(self, result, folder):
        again = run_benchmark(small(), folder, "cpu")
        assert again["finished"]["computed"] == 0
        assert again["rows"] == result["rows"]

    def test_the_report(self, result, folder):
        text = markdown(folder)
        assert "| features | block and t | chosen at % | J&F % | J % | F % |" in text
        assert "| features | bear | goat | sheep |" in text
        assert "those that are best on all other clips" in text
        assert "J&F of labels that stay where they are" in text
        assert "By clip" in page(folder)
        assert (folder / "small.png").is_file()


@pytest.mark.parametrize("name", benchmark_names())
def test_every_table_has_rows_to_compare_with(name):
    one = open_benchmark(name)
    if one.task == "video":
        assert one.pixels
        assert one.vision
        assert any(model.twin for model in one.models)


def test_blocks_of_the_bundled_model():
    one = open_benchmark("davis2016")
    backbone = diffeat.load("unet-cifar10", "cpu")
    for twins in ({}, one.twin):
        Plan(backbone, ExtractSpec.from_dict({**one.extract, **twins}))


@pytest.mark.parametrize(
    ("name", "recipe", "model"),
    [("davis2017-dift-sd21", "dift-sd21-davis", "sd21"),
     ("davis2017-dift-adm", "dift-adm-davis", "adm-256"),
     ("jhmdb-dift-sd21", "dift-sd21-davis", "sd21")],
)  # fmt: skip
def test_published_set_ups_run_on_shrunk_twins(name, recipe, model, tmp_path):
    one = open_benchmark(name)
    wanted = diffeat.load_recipe(recipe).spec
    size = (512, 704) if name.startswith("jhmdb") else wanted.size  # of frames of 4 to 3
    assert ExtractSpec.from_dict(one.extract) == replace(wanted, size=size)
    twin(model, tmp_path / model)
    models = (replace(one.models[0], name=str(tmp_path / model), twin=False, label=model),)
    shrunk = replace(one, models=models, vision=(), pixels=(6, 8),
                     extract={**one.extract, "size": [64, 64], "ensemble": 2})  # fmt: skip
    result = run_benchmark(shrunk, tmp_path / "run", "cpu")
    assert result["rows"][0]["label"] == model
    assert result["rows"][0]["selected"] is None
    names = [score["name"] for score in result["rows"][0]["scores"]]
    text = markdown(tmp_path / "run")
    assert "[1] DIFT (Tang et al. 2023)" in text
    if name.startswith("jhmdb"):
        assert names == ["PCK@0.1", "PCK@0.2"]
        check_joints_that_stay(result["rows"][-1])
        assert "nothing can be said of what is above the floor" in text
    else:
        assert names == ["J&F", "J", "F"]
        assert {clip["objects"] for clip in result["clips"]} == {2}


def check_joints_that_stay(row: dict) -> None:
    targets = open_video("jhmdb:test1")
    truth, pck = targets.joints(targets.clips[0]), JointPCK((0.1, 0.2))
    for frame in truth[1:]:
        pck.update(truth[0], frame)
    found = {one["name"]: one["value"] for one in row["scores"]}
    assert found == {f"PCK@{alpha:g}": pytest.approx(v) for alpha, v in pck.compute().items()}
    assert 0 < found["PCK@0.1"] < found["PCK@0.2"]
