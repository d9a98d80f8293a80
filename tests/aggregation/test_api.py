"""`diffeat.aggregate`, compared with plain arithmetic on the arrays of the files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

import diffeat
from diffeat.errors import NumericsError, SpecError, SpecMismatch, StoreError
from diffeat.images.columns import TargetColumn
from diffeat.noise import NO_T
from diffeat.search.matching import bind
from diffeat.store import FeatureStore, merge_files, verify
from probes.aggregate import ConcatCells, Fusion, PCACells
from probes.saved import save
from tests.search.matching.common import pairs_of
from tests.store.conftest import Job


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class TestNumbers:
    def test_concat(self, path, read):
        wanted = np.concatenate([read(path, *key) for key in (("a", 10), ("a", 50), ("b", 10),
                                                              ("b", 50))], 1)  # fmt: skip
        found = diffeat.aggregate(path, "concat")
        assert found.keys == (("concat", 0.0),)
        np.testing.assert_array_equal(found["concat", 0], wanted)

    def test_sum_with_weights(self, path, read):
        found = diffeat.aggregate(path, "sum:1,3", blocks=["b"])["sum", 0]
        wanted = (read(path, "b", 10) + 3 * read(path, "b", 50)) / 4
        np.testing.assert_allclose(found, wanted, atol=1e-4)

    def test_pca_against_an_svd(self, path, read):
        found = diffeat.aggregate(path, "pca:3", blocks=["b"], timesteps=[10])["pca", 0]
        sites = np.moveaxis(read(path, "b", 10), 1, -1).reshape(-1, 12)
        sites -= sites.mean(0)
        axes = np.linalg.svd(sites, full_matrices=False)[2][:3]
        axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
        wanted = np.moveaxis((sites @ axes.T).reshape(24, 8, 10, 3), -1, 1)
        np.testing.assert_allclose(found, wanted, atol=2e-3)

    def test_two_models_fused(self, path, other, read):
        found = diffeat.aggregate([path, other], "fuse:1,0.5", blocks=["b", "c"], timesteps=[10])
        wanted = [unit(read(path, "b", 10)), 0.5 * unit(read(other, "c", 0))]
        np.testing.assert_allclose(found["fused", 0], np.concatenate(wanted, 1), atol=1e-5)

    def test_in_memory(self, path, read):
        arrays = {("b", 10): read(path, "b", 10).astype(np.float32)}
        np.testing.assert_array_equal(
            diffeat.aggregate(arrays, "concat")["concat", 0][:], arrays["b", 10]
        )
        with pytest.raises(SpecError, match="in memory are not written"):
            diffeat.aggregate(arrays, "concat", "x.h5")
        with pytest.raises(SpecError, match="none of the features"):
            diffeat.aggregate(arrays, "concat", blocks=["z"])

    def test_of_open_stores_nothing_is_read_before(self, path):
        with FeatureStore(path) as store:
            found = diffeat.aggregate(store, "concat")
            one = found.rows(("concat", 0.0))[5:6]
        with pytest.raises((ValueError, OSError)):
            found.rows(("concat", 0.0))[5:6]
        assert one.shape == (1, 48, 8, 10)


class TestFile:
    @pytest.fixture
    def job(self, tmp_path):
        age = TargetColumn("number", (), np.arange(7.0))
        known = {"labels": np.arange(7) % 2, "class_names": ("cat", "dog"), "targets": {"age": age}}
        found = Job(tmp_path / "f.h5", 7, boxes=True, **known)
        found.write(skip=(2,))
        return found

    def test_everything_is_carried_over(self, job, tmp_path):
        out = diffeat.aggregate(job.path, "concat", tmp_path / "o.h5")
        assert verify(out) == []
        with FeatureStore(job.path) as old, FeatureStore(out) as new:
            assert (new.blocks, new.timesteps) == (["concat"], [NO_T])
            assert new.ids == old.ids
            assert new.class_names == old.class_names
            assert new.skipped == old.skipped == {"class/002.png": "reason 2"}
            np.testing.assert_array_equal(new.labels, old.labels)
            np.testing.assert_array_equal(new.targets["age"].values, old.targets["age"].values)
            np.testing.assert_array_equal(new.boxes, old.boxes)
            wanted = np.concatenate([old[b, t][:] for b in old.blocks for t in old.timesteps], 1)
            np.testing.assert_array_equal(new["concat", 0][:], wanted)
            assert new.how["of"][0]["fingerprint"] == old.fingerprint
            assert new.model["of"][0]["spec"] == old.spec.to_dict()
            assert new.pictures["fingerprint"] == old.pictures["fingerprint"]
        with h5py.File(out) as file:  # plain h5py reads it
            assert file.attrs["complete"]
            assert file["features/concat/t0"].shape == (6, 12, 2, 2)

    def test_sizes_and_places_are_those_of_the_first(self, path, other, tmp_path):
        out = diffeat.aggregate([path, other], "fuse", tmp_path / "o.h5")
        with FeatureStore(path) as old, FeatureStore(out) as new:
            for name in ("sizes", "placements", "digests"):
                np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
            assert new.placement(2).picture_size == (48, 40)

    @pytest.mark.parametrize(("dtype", "most"), [("float32", 0), ("float16", 2e-3), ("int8", 0.15)])
    def test_dtypes(self, path, read, tmp_path, dtype, most):
        out = diffeat.aggregate(path, "concat", tmp_path / "o.h5", blocks=["b"], timesteps=[10],
                                dtype=dtype)  # fmt: skip
        assert verify(out) == []
        off = np.abs(read(out, "concat", 0) - read(path, "b", 10)).max()
        assert off <= most
        with FeatureStore(out) as store:
            assert store.stored_dtype("concat", 0) == dtype

    def test_what_float16_does_not_hold(self, tmp_path):
        job = Job(tmp_path / "f.h5", 4, dtype="float32")
        for values in job.values.values():
            values *= 1e5
        job.write()
        with pytest.raises(NumericsError, match="float16 does not; write float32"):
            diffeat.aggregate(job.path, "concat", tmp_path / "o.h5")
        assert not (tmp_path / "o.h5").exists()
        assert sorted(one.name for one in tmp_path.iterdir()) == ["f.h5"]
        diffeat.aggregate(job.path, "concat", tmp_path / "o.h5", dtype="float32")

    def test_compressed(self, job, tmp_path):
        out = diffeat.aggregate(job.path, "concat", tmp_path / "o.h5", compression="gzip")
        assert verify(out) == []
        with FeatureStore(out) as store:
            assert store.compression == "gzip"

    def test_memory_does_not_grow_with_the_rows(self, tmp_path, monkeypatch):
        """Rows are made some at a time."""
        job = Job(tmp_path / "f.h5", 40, shape=(8, 16, 16))
        job.write(batch=40)
        monkeypatch.setattr("diffeat.store.join.derived.BLOCK_BYTES", 3 * 4 * 32 * 256)
        monkeypatch.setattr("probes.aggregate.base.CHUNK_BYTES", 1)
        seen, whole = [], ConcatCells._apply

        def apply(self, arrays):
            seen.append(len(arrays[0]))
            return whole(self, arrays)

        monkeypatch.setattr(ConcatCells, "_apply", apply)
        diffeat.aggregate(job.path, "concat", tmp_path / "o.h5")
        assert seen == [1] * 40
        assert verify(tmp_path / "o.h5") == []

    def test_pictures_that_are_left_out(self, path, fewer, tmp_path):
        with pytest.raises(SpecMismatch, match=r"different pictures .20 in common"):
            diffeat.aggregate([path, fewer], "fuse", tmp_path / "o.h5")
        out = diffeat.aggregate([path, fewer], "fuse", tmp_path / "o.h5", missing="leave-out")
        with FeatureStore(out) as new, FeatureStore(path) as old:
            assert (len(new), new.pictures["count"]) == (20, 20)
            assert new.pictures["fingerprint"] != old.pictures["fingerprint"]


class TestAgain:
    def test_a_second_run_does_nothing_and_another_is_refused(self, path, tmp_path):
        out = tmp_path / "o.h5"
        diffeat.aggregate(path, "pca:3", out)
        before = out.stat()
        diffeat.aggregate(path, "pca:3", out)
        assert out.stat().st_mtime_ns == before.st_mtime_ns
        for more, words in (
            ({"how": "pca:4"}, "how: 'pca:3' → 'pca:4'"),
            ({"how": "pca:3", "blocks": ["a"]}, "cells of file 1"),
            ({"how": "pca:3", "dtype": "float32"}, "dtype: 'float16' → 'float32'"),
        ):
            with pytest.raises(SpecMismatch, match=words):
                diffeat.aggregate(path, out=out, **more)
        diffeat.aggregate(path, "concat", out, overwrite=True)
        with FeatureStore(out) as store:
            assert store.blocks == ["concat"]

    def test_a_file_that_is_no_aggregation_is_not_replaced(self, path, other, tmp_path):
        with pytest.raises(SpecMismatch, match="was not made by an aggregation"):
            diffeat.aggregate(path, "concat", other)

    def test_a_source_is_not_replaced(self, path, tmp_path):
        link = tmp_path / "link.h5"
        link.symlink_to(path)
        for out in (path, link):
            with pytest.raises(SpecError, match="is what the maps are made of"):
                diffeat.aggregate(path, "concat", out, overwrite=True)

    def test_other_labels_are_another_file(self, tmp_path):
        job = Job(tmp_path / "f.h5", 6, labels=np.arange(6) % 2, class_names=("a", "b"))
        job.write()
        diffeat.aggregate(job.path, "concat", tmp_path / "o.h5")
        job.labels = np.arange(6)[::-1] % 2
        job.write(overwrite=True)
        with pytest.raises(SpecMismatch, match="labels"):
            diffeat.aggregate(job.path, "concat", tmp_path / "o.h5")

    def test_what_a_kill_leaves_is_written_over(self, path, tmp_path):
        for name in (".o.h5.tmp", ".o.h5.lock"):
            (tmp_path / name).write_bytes(b"half of a file")
        diffeat.aggregate(path, "concat", tmp_path / "o.h5")
        assert verify(tmp_path / "o.h5") == []
        assert [one.name for one in tmp_path.iterdir()] == ["o.h5"]

    @pytest.mark.slow
    def test_killed_in_the_middle(self, path, tmp_path):
        """No file, or a sound one, at any moment; what a kill leaves is written over."""
        out = tmp_path / "o.h5"
        code = (
            "import sys, time, diffeat; from probes.aggregate import ConcatCells as C; "
            "whole = C._apply\n"
            "def slow(self, arrays):\n"
            "    print('begun', flush=True); time.sleep(30); return whole(self, arrays)\n"
            f"C._apply = slow; diffeat.aggregate({str(path)!r}, 'concat', {str(out)!r})"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"begun\n"
        with pytest.raises(StoreError, match="another process is writing"):
            diffeat.aggregate(path, "concat", out)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not out.exists()
        assert list(tmp_path.iterdir())
        diffeat.aggregate(path, "concat", out)
        assert verify(out) == []
        assert [one.name for one in tmp_path.iterdir()] == ["o.h5"]


class TestAggregators:
    def test_fitted_on_one_file_applied_to_another(self, folder, path, tmp_path, read):
        """Axes of the one; refused for another model, field by field."""
        from diffeat.aggregation import open_sources
        from diffeat.aggregation.trained import keep

        mine = tmp_path / "p.safetensors"
        with FeatureStore(path) as store:
            sources = open_sources([store], ["b"])
            pca = PCACells(components=2).fit(sources.cells)
            keep(pca, sources, mine)
        found = diffeat.aggregate(path, str(mine))["pca", 0]
        with FeatureStore(path) as store:
            wanted = pca.transform(open_sources([store], ["b"]).cells)["pca", 0.0][:]
        np.testing.assert_array_equal(found, wanted)

        from tests.search.matching.common import write_file

        noise = {("b", 10): 0.0, ("b", 50): 4.0}
        other = write_file(tmp_path / "o.h5", folder, noise=noise, model="m9", spec={"seed": 3})
        other.close()
        with pytest.raises(SpecMismatch, match=r"model: toy .m9. → toy .m0.; seed: 3 → 0"):
            diffeat.aggregate(tmp_path / "o.h5", str(mine))
        cells = write_file(tmp_path / "c.h5", folder, noise={("b", 10): 0.0})
        cells.close()
        with pytest.raises(SpecMismatch, match="cells: without b at t=50"):
            diffeat.aggregate(tmp_path / "c.h5", str(mine))
        with pytest.raises(SpecError, match="2 files for an aggregator of 1"):
            diffeat.aggregate([path, tmp_path / "c.h5"], str(mine))
        with pytest.raises(SpecError, match="takes the cells that it was fitted on"):
            diffeat.aggregate(path, str(mine), blocks=["a"])

    def test_of_two_models_kept(self, path, other, tmp_path):
        """Both files are asked for, in their order."""
        from diffeat.aggregation import open_sources
        from diffeat.aggregation.trained import keep
        from diffeat.search import load_head

        wanted = diffeat.aggregate([path, other], "fuse:1,0.5")["fused", 0]
        with FeatureStore(path) as a, FeatureStore(other) as b:
            sources = open_sources([a, b])
            fused = Fusion(weights=(1, 0.5)).fit(sources.parts)
            keep(fused, sources, tmp_path / "f.safetensors")
        out = diffeat.aggregate([path, other], tmp_path / "f.safetensors", tmp_path / "o.h5",
                                dtype="float32")  # fmt: skip
        with FeatureStore(out) as store:
            np.testing.assert_array_equal(store["fused", 0][:], wanted)
        with pytest.raises(SpecMismatch, match=r"model: toy .m1. → toy .m0."):
            diffeat.aggregate([other, path], tmp_path / "f.safetensors")
        with pytest.raises(SpecError, match=r"1 files for an aggregator of 2: toy \+ toy"):
            diffeat.aggregate(path, tmp_path / "f.safetensors")
        with pytest.raises(StoreError, match="takes features of several files"):
            load_head(tmp_path / "f.safetensors")

    def test_one_aggregator_makes_one_model(self, folder, path, tmp_path):
        """Two files of one kept aggregator can be merged; of two fits they cannot."""
        from tests.search.matching.common import write_file

        halves = []
        for k, rows in enumerate((range(12), range(12, 24))):
            write_file(tmp_path / f"{k}.h5", folder, rows=rows).close()
            halves.append(tmp_path / f"{k}.h5")
        with FeatureStore(path) as store:
            from diffeat.aggregation import open_sources

            fitted = PCACells(components=2).fit(open_sources([store]).cells)
        outs = [diffeat.aggregate(one, fitted, tmp_path / f"o{k}.h5")
                for k, one in enumerate(halves)]  # fmt: skip
        merge_files(outs, tmp_path / "both.h5")
        with FeatureStore(tmp_path / "both.h5") as both:
            assert len(both) == 24
        own = [diffeat.aggregate(one, "pca:2", tmp_path / f"p{k}.h5")
               for k, one in enumerate(halves)]  # fmt: skip
        with pytest.raises(SpecMismatch, match="model"):
            merge_files(own, tmp_path / "neither.h5")

    def test_pairs_are_bound_to_derived_files(self, folder, path, tmp_path):
        out = diffeat.aggregate(path, "concat", tmp_path / "o.h5", blocks=["b"], timesteps=[10])
        with FeatureStore(out) as store:
            bound = bind(pairs_of(folder), [store])
            assert bound.keys == (("concat", NO_T),)
            assert bound.input_size == (32, 40)

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("pca:0", "whole number of components"),
            ("pca:x", "whole number of components"),
            ("fuse:a,b", "weights such as 1,0.5"),
            ("concat:3", "concat alone"),
            ("conact", "did you mean|concat"),
            (3, "how=3"),
            ("fuse:1,2,3", "expected 4 numbers|one a group"),
        ],
    )
    def test_what_cannot_be_meant(self, path, how, words):
        with pytest.raises(SpecError, match=words):
            diffeat.aggregate(path, how)

    def test_a_head_is_no_aggregator(self, path, tmp_path):
        from probes import RidgeProbe

        X = np.random.default_rng(0).normal(size=(8, 3))
        save(RidgeProbe().fit(X, np.arange(8) % 2), tmp_path / "h.safetensors")
        with pytest.raises(StoreError, match="holds a RidgeProbe, which predicts"):
            diffeat.aggregate(path, tmp_path / "h.safetensors")
        with pytest.raises(StoreError, match="no such file"):
            diffeat.aggregate(path, tmp_path / "gone.safetensors")
