"""Label-free numbers of files and of models, against the numbers of whole arrays."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics.pairwise import cosine_similarity

from diffeat.errors import NumericsError, SpecError
from diffeat.extraction import extract
from diffeat.images import ArraySource
from diffeat.search import high_frequency_ratio
from diffeat.search.label_free import (
    FreeOptions,
    FreeTable,
    free_scores,
    live_free_scores,
)
from diffeat.search.label_free.table import head_of
from diffeat.specs import ExtractSpec
from tests.search.common import write_store

CELLS = [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def maps(seed: int = 0, count: int = 12) -> dict:
    rng = np.random.default_rng(seed)
    picture = np.random.default_rng(99).normal(size=(count, 4, 8, 8))
    noise = {cell: rng.normal(size=picture.shape) for cell in CELLS}
    levels = dict(zip(CELLS, (0.1, 1.0, 3.0, 9.0), strict=True))
    return {cell: picture + levels[cell] * eps for cell, eps in noise.items()}


@pytest.fixture
def stores(tmp_path):
    with (
        write_store(tmp_path / "a.h5", maps(0), seed=0) as first,
        write_store(tmp_path / "b.h5", maps(1), seed=1) as second,
    ):
        yield first, second


class TestOfFiles:
    def test_numbers_are_those_of_whole_arrays(self, stores):
        first, second = stores
        table = free_scores(first, again=second)
        assert table.scores == ("frequency", "lds", "rank", "massive", "agreement")
        assert list(table.cells) == CELLS
        for cell, found in table.cells.items():
            whole = first[cell][:].astype(np.float64)
            assert found["frequency"] == pytest.approx(high_frequency_ratio(whole).mean())
            rows = whole.transpose(0, 2, 3, 1).reshape(-1, 4)
            s = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
            assert found["rank"] == pytest.approx(np.exp(stats.entropy(s / s.sum())))
            energy = (whole**2).sum((0, 2, 3))
            assert found["largest_channel"] == pytest.approx(energy.max() / energy.sum())
            other = second[cell][:].astype(np.float64)
            same = np.mean([np.diag(cosine_similarity(whole[:, :, y, x], other[:, :, y, x]))
                            for y in range(8) for x in range(8)])  # fmt: skip
            assert found["same"] == pytest.approx(same)
            assert found["agreement"] == pytest.approx(found["same"] - found["other"])
        agreement = [found["agreement"] for found in table.cells.values()]
        assert agreement == sorted(agreement, reverse=True)  # noise grows

    def test_pictures_in_another_order(self, stores, tmp_path):
        first, second = stores
        table = free_scores(first, ["agreement"], second)
        order = np.roll(np.arange(12), 5)[::-1]
        turned = {cell: values[order] for cell, values in maps(1).items()}
        with write_store(tmp_path / "c.h5", turned, seed=1) as other:
            vars(other)["ids"] = [first.ids[row] for row in order]
            again = free_scores(first, ["agreement"], other)
            vars(other)["ids"][3] = "another"
            with pytest.raises(SpecError, match="lacks pictures of"):
                free_scores(first, ["agreement"], other)
        for cell, found in table.cells.items():
            assert again.cells[cell]["agreement"] == pytest.approx(found["agreement"])

    def test_some_cells_pictures_and_options(self, stores):
        first, _ = stores
        rows = np.array([0, 3, 7])
        options = FreeOptions(cutoff=0.3, near=2, far=5, distance="chebyshev")
        table = free_scores(
            first, ["frequency", "lds"], blocks=["b"], timesteps=[1], rows=rows,
            options=options,
        )  # fmt: skip
        assert (list(table.cells), table.pictures) == ([("b", 1)], 3)
        expected = high_frequency_ratio(first["b", 1][:][rows], 0.3).mean()
        assert table.cells["b", 1]["frequency"] == pytest.approx(expected)
        usual = free_scores(first, ["lds"], blocks=["b"], rows=rows)
        assert table.cells["b", 1]["lds"] != pytest.approx(usual.cells["b", 1]["lds"])

    def test_vectors_have_what_needs_no_map(self, tmp_path):
        vectors = {("a", 1): np.random.default_rng(0).normal(size=(9, 5))}
        with write_store(tmp_path / "v.h5", vectors) as store:
            assert free_scores(store).scores == ("rank", "massive")
            with pytest.raises(SpecError, match=r"'lds' needs maps.*--pool none"):
                free_scores(store, ["lds"])

    def test_what_cannot_be_had(self, stores, tmp_path):
        first, _ = stores
        with pytest.raises(SpecError, match=r"'ldss' is unknown \(did you mean 'lds'"):
            free_scores(first, ["ldss"])
        with pytest.raises(SpecError, match="second noising"):
            free_scores(first, ["agreement"])
        with pytest.raises(SpecError, match="no score"):
            free_scores(first, [])
        with pytest.raises(SpecError, match=r"'a' at t=1: near=1, far=99"):
            free_scores(first, ["lds"], options=FreeOptions(far=99))
        with pytest.raises(SpecError, match="another --seed"):
            free_scores(first, again=first)
        broken = {cell: np.where(np.arange(12)[:, None, None, None] == 4, np.inf, values)
                  for cell, values in maps().items()}  # fmt: skip
        with (
            write_store(tmp_path / "n.h5", broken) as store,
            pytest.raises(NumericsError, match=r"'a' at t=1.*nan or inf"),
        ):
            free_scores(store)


def pictures(count: int = 6) -> ArraySource:
    pixels = np.random.default_rng(5).integers(0, 255, (count, 16, 16, 3)).astype(np.uint8)
    return ArraySource("made", tuple(f"p{k}" for k in range(count)), None, (), pixels=pixels)


class TestOfModels:
    spec = ExtractSpec(timesteps=(5, 60), blocks=("mid", "up.0"), pool="none", dtype="float32",
                       size=16)  # fmt: skip

    def test_it_is_what_a_plain_extraction_gives(self, backbone_of):
        backbone, source = backbone_of("pixel"), pictures()
        table = live_free_scores(backbone, source, self.spec, batch_size=4)
        first = extract(backbone, source, self.spec)
        second = extract(backbone, source, ExtractSpec(**{**vars(self.spec), "seed": 1}))
        assert list(table.cells) == [("mid", 5), ("mid", 60), ("up.0", 5), ("up.0", 60)]
        for cell, found in table.cells.items():
            whole = first[cell].double()
            assert found["frequency"] == pytest.approx(high_frequency_ratio(whole.numpy()).mean())
            same = torch.cosine_similarity(whole, second[cell].double(), 1).mean()
            assert found["same"] == pytest.approx(float(same))

    def test_where_no_seed_changes_anything(self, backbone_of):
        clean = ExtractSpec(**{**vars(self.spec), "noise": "none"})
        table = live_free_scores(backbone_of("pixel"), pictures(3), clean)
        assert table.scores == ("frequency", "lds", "rank", "massive")
        with pytest.raises(SpecError, match="noise that a seed changes"):
            live_free_scores(backbone_of("pixel"), pictures(3), clean, ["agreement"])


class TestTable:
    table = FreeTable(
        "made", ("rank", "massive"),
        {("x:self.q.h0", 5): {"rank": 2.0, "massive": 0.0, "massive_channels": 0.0},
         ("x:self.q.h1", 5): {"rank": 3.0, "massive": 0.5, "massive_channels": 0.1},
         ("x:self.q.h10", 5): {"rank": 1.0, "massive": 0.25, "massive_channels": 0.1}}, 7,
    )  # fmt: skip

    def test_names_of_heads(self):
        assert head_of("up.1.attn.0:self.q.h3") == ("up.1.attn.0:self.q", 3)
        assert head_of("up.1") == ("up.1", None)

    def test_order_and_stars(self):
        head, *lines = self.table.lines("massive", 2)
        assert head.split() == ["block", "head", "t", "rank", "massive"]
        assert [line.split()[1] for line in lines] == ["0", "10"]  # less is better
        assert [("*" in line) for line in lines] == [True, False]
        assert self.table.best("rank") == ("x:self.q.h1", 5)

    def test_csv_and_json(self, tmp_path):
        self.table.write_csv(tmp_path / "t.csv")
        with open(tmp_path / "t.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["head"] for row in rows] == ["0", "1", "10"]
        assert float(rows[1]["massive"]) == 0.5
        found = json.loads(json.dumps(self.table.to_dict()))
        assert found["lower_is_better"] == ["massive"]
        assert found["best"]["rank"] == {"block": "x:self.q.h1", "t": 5}
        assert found["cells"][2]["rank"] == 1
