"""Part h of the speed suite: a surface of probes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import diffeat
from benchmarks.speed import probing, run_speed
from benchmarks.speed.table import markdown
from diffeat.extraction import Plan
from tests.benchmarks.test_speed import quick


class TestProbing:
    def test_both_sides_fit_the_same_cells(self):
        rng = np.random.default_rng(0)
        labels = np.arange(300) % 3
        centres = rng.normal(size=(3, 8))
        cells = {}
        for t, distance in ((20, 0.3), (60, 1.0)):
            X = (distance * centres[labels] + rng.normal(size=(300, 8))).astype(np.float32)
            cells["mid", t] = X[100:], X[:100]
        found = probing.race(cells, (labels[100:], labels[:100]), [0.01, 1.0])
        expected = []
        for X, held in cells.values():
            scores = [
                make_pipeline(StandardScaler(), LogisticRegression(C=C))
                .fit(X, labels[100:]).score(held, labels[:100])
                for C in (0.01, 1.0)
            ]  # fmt: skip
            expected.append(max(scores))
        assert found["sklearn_accuracy"] == pytest.approx(np.mean(expected))
        apart = 100 * (found["accuracy"] - found["sklearn_accuracy"])
        assert found["points_apart"]["mean"] == pytest.approx(apart)
        assert abs(apart) <= 1.0  # a picture of a hundred
        assert found["ratio"] == pytest.approx(
            found["sklearn_seconds"] / found["seconds"], rel=1e-3
        )

    def test_the_page_says_what_was_fitted(self, tmp_path, folder_of, monkeypatch):
        model = str(folder_of("pixel"))
        monkeypatch.setattr(probing, "BLOCKS", ("mid", "up.*"))
        result = run_speed(tmp_path, quick("h", model=model))
        part, page = result["parts"]["h"], markdown(result)
        spec = diffeat.ExtractSpec(probing.TIMESTEPS[:2], probing.BLOCKS)
        blocks = Plan(diffeat.load(model, "meta"), spec).blocks
        assert part["cells"] == 2 * len(blocks) > 4
        assert (part["training"], part["validation"]) == (100, 50)
        assert [len(run["penalties"]) for run in part["runs"]] == [1, 5]
        for run in part["runs"]:
            assert f"| {run['ratio']:.2f} | ≥ 10.0 |" in page

    def test_the_surface_of_the_target(self):
        backbone = diffeat.load(probing.MODEL, "meta")
        spec = diffeat.ExtractSpec(probing.TIMESTEPS, probing.BLOCKS, pool="1x1")
        plan = Plan(backbone, spec)
        assert (len(plan.levels), len(plan.blocks)) == (6, 12)

    def test_features_may_be_given(self, tmp_path, backbone_of):
        backbone = backbone_of("pixel")
        spec = diffeat.ExtractSpec((20,), ("mid",), pool="1x1")
        source = diffeat.open_source("digits").limit(150)
        diffeat.extract_to_file(backbone, source, spec, tmp_path / "f.h5", progress=False)
        part = probing.measure(quick("h", features=tmp_path / "f.h5"))
        assert (part["cells"], part["training"]) == (1, 100)
