"""The table of a feature file, against numpy and scikit-learn on the plain HDF5 file."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from diffeat.errors import DiffeatError, NumericsError, SpecError
from diffeat.images import ArraySource
from diffeat.search.analysis import METRICS, align_features, cell_of, choose_rows, pictures_of
from diffeat.store import FeatureStore
from diffeat.viz import heat_map
from tests.store.conftest import Job

COUNT, BLOCKS, STEPS = 24, ("mid", "up.1"), (20, 60)


@pytest.fixture
def job(tmp_path):
    def make(name: str = "a.h5", **fields) -> Job:
        return Job(tmp_path / name, **{"count": COUNT, "shape": (6,), **fields})

    return make


@pytest.fixture
def other():
    return np.random.default_rng(5).normal(size=(COUNT, 9))


def plain(job: Job, block: str, t: int) -> np.ndarray:
    with h5py.File(job.path) as file:
        return file[f"features/{block}/t{t}"][:].astype(np.float64)


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the definition, with N × N kernels."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def shared_neighbours(x: np.ndarray, y: np.ndarray, k: int) -> float:
    near = [
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(v).kneighbors(return_distance=False)
        for v in (x, y)
    ]
    return np.mean([len({*a} & {*b}) / k for a, b in zip(*near, strict=True)])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def uniformity(x: np.ndarray) -> float:
    x = unit(x)
    squares = ((x[:, None] - x) ** 2).sum(-1)[np.triu_indices(len(x), 1)]
    return np.log(np.exp(-2 * squares).mean())


def test_every_cell_is_that_of_the_file(job, other):
    one = job()
    with FeatureStore(one.write()) as store:
        table = align_features(store, other, k=4, other_name="other")
    assert table.metrics == ["cka", "cka-debiased", "knn", "cknna", "cknna-public", "uniformity"]
    assert [(c.block, c.t) for c in table.cells] == [(b, t) for b in BLOCKS for t in STEPS]
    for cell in table.cells:
        x = plain(one, cell.block, cell.t)
        assert cell.values["cka"] == pytest.approx(cka(x, other), rel=1e-5)
        assert cell.values["knn"] == pytest.approx(shared_neighbours(x, other, 4))
        assert cell.values["uniformity"] == pytest.approx(uniformity(x), rel=1e-5)
    assert len({round(cell.values["cka"], 6) for cell in table.cells}) == 4


def test_maps_and_tokens_are_averaged_over_places(job, other):
    for shape, places in (((5, 3, 2), (2, 3)), ((7, 5), (1,))):
        one = job(f"{len(shape)}.h5", shape=shape)
        with FeatureStore(one.write()) as store:
            table = align_features(store, other, ["cka"], timesteps=[60], blocks=["mid"])
        wanted = cka(plain(one, "mid", 60).mean(places), other)
        assert [cell.values["cka"] for cell in table.cells] == [pytest.approx(wanted, rel=1e-5)]


def test_alignment_of_two_noisings(job):
    first, second = job(seed=0), job("b.h5", seed=1)
    with FeatureStore(first.write()) as store, FeatureStore(second.write()) as again:
        table = align_features(store, again=again)
    assert table.metrics == ["uniformity", "alignment"]
    for cell in table.cells:
        x, y = (unit(plain(one, cell.block, cell.t)) for one in (first, second))
        assert cell.values["alignment"] == pytest.approx(((x - y) ** 2).sum(1).mean(), rel=1e-5)
    lowest = min(table.cells, key=lambda cell: cell.values["alignment"])
    assert table.best("alignment") is lowest


def test_rows_of_another_file_are_found_by_their_ids(job):
    ids = tuple(f"p{k}" for k in range(COUNT))
    turned = np.random.default_rng(0).permutation(COUNT)
    first = job(ids=ids)
    second = job("b.h5", ids=tuple(ids[k] for k in turned), seed=1)
    with FeatureStore(first.write()) as store, FeatureStore(second.write()) as more:
        rows = np.array([1, 5, 20])
        found = cell_of(more, "up.1", 20, store, rows)
        place = [int(np.flatnonzero(turned == row)[0]) for row in rows]
        np.testing.assert_array_equal(found, plain(second, "up.1", 20)[place].astype("f4"))
        with pytest.raises(SpecError, match=r"no block 'up\.2'"):
            cell_of(more, "up.2", 20, store, rows)


def test_a_balanced_choice_of_rows(job):
    labels = np.repeat([0, 1, 2], 8)
    one = job(labels=labels, class_names=("a", "b", "c"))
    with FeatureStore(one.write()) as store:
        rows = choose_rows(store, 9, seed=3)
        assert np.bincount(labels[rows]).tolist() == [3, 3, 3]
        # the same pictures as an extraction with --limit would take
        assert [store.ids[row] for row in rows] == list(one.source.limit(9, 3).ids)
        assert choose_rows(store, 1000).tolist() == list(range(COUNT))


def test_a_balanced_choice_where_a_class_has_no_pictures(job):
    labels = np.repeat([0, 2, 3], 8)
    one = job(labels=labels, class_names=("a", "b", "c", "d"))
    with FeatureStore(one.write()) as store:
        assert np.bincount(labels[choose_rows(store, 9)]).tolist() == [3, 0, 3, 3]


class TestPictures:
    def source(self, one: Job, changed: bool = False) -> ArraySource:
        """Those of the job in another order."""
        ids = tuple(reversed(one.source.ids))
        pixels = one.source.pixels[::-1].copy()
        pixels[3] += changed
        return ArraySource("pictures", ids, None, (), pixels)

    def test_in_the_order_of_the_file(self, job):
        one = job()
        with FeatureStore(one.write()) as store:
            found = pictures_of(store, [2, 0], self.source(one))
            assert found.ids == (store.ids[2], store.ids[0])

    def test_missing(self, job):
        one = job()
        with (
            FeatureStore(one.write()) as store,
            pytest.raises(SpecError, match=r"lacks 1 of the 24 pictures.*'class/000.png'"),
        ):
            pictures_of(store, [2, 1], self.source(one).take(range(COUNT - 1)))

    def test_others_with_the_same_ids(self, job):
        one = job()
        with (
            FeatureStore(one.write()) as store,
            pytest.warns(UserWarning, match=r"other contents or classes than made-up"),
        ):
            pictures_of(store, [2, 1], self.source(one, changed=True))


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metrics": ["ckaa"]}, "did you mean 'cka'"),
            ({"metrics": []}, "no metric"),
            ({"metrics": ["alignment"]}, "another --seed"),
            ({"k": COUNT}, f"k={COUNT} neighbours.*2 to {COUNT - 1}"),
            ({"k": 1}, "expected 2"),
            ({"rows": np.array([3]), "metrics": ["cka"]}, "1 pictures; expected at least 2"),
            ({"rows": np.arange(3), "metrics": ["cka-debiased"]}, "at least 4"),
            ({"blocks": ["up.11"]}, "no block 'up.11'.*did you mean 'up.1'"),
            ({"timesteps": [30]}, "no t=30; it has 20, 60"),
        ],
    )
    def test_requests(self, job, other, options, message):
        with FeatureStore(job().write()) as store, pytest.raises(SpecError, match=message):
            align_features(store, other[: len(options.get("rows", other))], **options)

    def test_nothing_to_compare_with(self, job):
        with FeatureStore(job().write()) as store, pytest.raises(SpecError, match="--with"):
            align_features(store, metrics=["cka"])

    def test_other_features_of_other_pictures(self, job, other):
        with FeatureStore(job().write()) as store:
            with pytest.raises(SpecError, match=r"dino: shape \(23, 9\)"):
                align_features(store, other[1:], other_name="dino")
            other[3, 2] = np.nan
            with pytest.raises(NumericsError, match="inf or nan"):
                align_features(store, other)

    def test_nan_in_the_file(self, job, other):
        one = job()
        one.values["features/up.1/t60"][7, 2] = np.nan
        with FeatureStore(one.write()) as store:
            with pytest.raises(NumericsError, match=r"up.1 at t=60 contains nan.*leave the cell"):
                align_features(store, other)
            assert align_features(store, other, blocks=["mid"]).pictures == COUNT

    def test_a_cell_that_never_changes(self, job, other):
        one = job()
        one.values["features/mid/t20"][:] = 0.5
        with (
            FeatureStore(one.write()) as store,
            pytest.raises(NumericsError, match=r"mid at t=20: no linear CKA.*without spread"),
        ):
            align_features(store, other)

    def test_again_must_be_the_same_but_for_its_noise(self, job):
        files = [job().write(), job("same.h5").write(), job("m.h5", seed=1, model="m1").write(),
                 job("few.h5", seed=1, count=10).write(),
                 job("c.h5", seed=1, fit="crop").write()]  # fmt: skip
        messages = ("has the noise of", "different models", "lacks 14 of the 24 pictures",
                    "in another way than .*fit")  # fmt: skip
        with FeatureStore(files[0]) as store:
            for path, message in zip(files[1:], messages, strict=True):
                with FeatureStore(path) as again, pytest.raises(DiffeatError, match=message):
                    align_features(store, again=again)


class TestOutput:
    @pytest.fixture
    def table(self, job, other):
        with FeatureStore(job().write()) as store:
            return align_features(store, other, ["cka", "uniformity"], other_name="dino")

    def test_text(self, table):
        lines = table.table().splitlines()
        assert lines[0].split() == ["block", "t", "cka", "uniformity"]
        assert len(lines) == 2 + 4
        assert sum(line.count("*") for line in lines) == 2
        best = table.best("cka")
        row = next(line for line in lines[2:] if line.split()[:2] == [best.block, str(best.t)])
        assert f"{best.values['cka']:.4f}*" in row

    def test_small_numbers_are_no_zeros(self, table):
        table.cells[0].values["uniformity"] = -3.21e-5
        assert "-3.21e-05" in table.table().splitlines()[2]

    def test_csv_and_json(self, table, tmp_path):
        table.write_csv(tmp_path / "a.csv")
        table.write_json(tmp_path / "a.json")
        rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
        held = json.loads((tmp_path / "a.json").read_text())
        assert held == table.to_dict()
        assert len(rows) == len(held["cells"]) == 4
        for row, cell in zip(rows, held["cells"], strict=True):
            assert (row["block"], float(row["t"])) == (cell["block"], cell["t"])
            assert float(row["cka"]) == pytest.approx(cell["cka"], rel=1e-8)
            assert float(row["log_snr"]) == pytest.approx(cell["log_snr"], abs=1e-4)
            assert row["other"] == "dino"

    def test_the_best_of_each_panel_is_framed(self, table, tmp_path):
        path = tmp_path / "a.png"
        heat_map(table.grids, path, "title", shared=False)
        pixels = np.asarray(Image.open(path).convert("RGB"))
        red = np.argwhere((pixels == (255, 0, 0)).all(-1))
        half = pixels.shape[1] / 2
        for panel, metric in enumerate(table.metrics):
            inside = red[(red[:, 1] >= half) == bool(panel)].mean(0)
            best = table.best(metric)
            upper = inside[0] < pixels.shape[0] / 2
            assert upper == (best.block == "mid"), metric

    def test_titles_are_there_for_all(self):
        assert len({metric.title for metric in METRICS.values()}) == len(METRICS) == 7
