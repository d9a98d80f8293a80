"""Features for other programs: .npz and Zarr."""

from __future__ import annotations

import errno
import json
import sys
import tracemalloc

import numpy as np
import pytest
import zarr

from diffeat.errors import SpecError, StoreError
from diffeat.store import FeatureStore


@pytest.fixture(params=["float16", "float32", "int8"])
def made(request, job):
    """A labelled job with skipped pictures and boxes; its file is written."""
    found = job(
        dtype=request.param,
        fit="pad",
        boxes=True,
        labels=np.arange(10) % 2,
        class_names=("cat", "dög"),
        ids=tuple(f"ä/{k}" + "x" * k for k in range(10)),
    )
    found.write(skip=(4,))
    return found


def test_npz(made, tmp_path):
    with FeatureStore(made.path) as store:
        out = store.export(tmp_path / "x.npz")
        with np.load(out, allow_pickle=False) as found:
            assert set(found.files) == {
                *(name for name in made.values),
                *("ids", "labels", "class_names", "skipped/ids", "skipped/reasons"),
                *("spec", "model", "pictures", "how", "fingerprint"),
            }
            for block in store.blocks:
                for t in store.timesteps:
                    values = found[f"features/{block}/t{t}"]
                    assert values.dtype == store[block, t].dtype
                    np.testing.assert_array_equal(values, store[block, t][:])
            assert found["ids"].tolist() == store.ids
            assert found["class_names"].tolist() == ["cat", "dög"]
            np.testing.assert_array_equal(found["labels"], store.labels)
            np.testing.assert_array_equal(found["boxes"], store.boxes)
            assert json.loads(str(found["spec"])) == store.spec.to_dict()
            assert found["skipped/reasons"].tolist() == ["reason 4"]


def test_zarr(made, tmp_path):
    with FeatureStore(made.path) as store:
        out = store.export(tmp_path / "x.zarr")
        root = zarr.open_group(str(out), mode="r")
        assert root.metadata.zarr_format == 3
        assert set(root["features"]) == {"mid", "up.1"}
        for block in store.blocks:
            for t in store.timesteps:
                array = root[f"features/{block}/t{t}"]
                assert array.dtype == store[block, t].dtype
                np.testing.assert_array_equal(array[:], store[block, t][:])
                attrs = dict(array.attrs)
                assert attrs == {**made.attrs(block, t), "log_snr": attrs["log_snr"]}
        assert root["ids"][:].tolist() == store.ids
        assert root["class_names"][:].tolist() == ["cat", "dög"]
        np.testing.assert_array_equal(root["labels"][:], store.labels)
        np.testing.assert_array_equal(root["boxes"][:], store.boxes)
        assert root.attrs["spec"] == store.spec.to_dict()
        assert root.attrs["fingerprint"] == store.fingerprint
        assert root["skipped/ids"][:].tolist() == [made.source.ids[4]]


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_int8_as_it_is(job, tmp_path, suffix):
    with FeatureStore(job(dtype="int8").write()) as store:
        out = store.export(tmp_path / f"x{suffix}", keep_int8=True)
        found = np.load(out) if suffix == ".npz" else zarr.open_group(str(out), mode="r")
        view = store["mid", 20]
        np.testing.assert_array_equal(found["features/mid/t20"][:], view.stored[:])
        np.testing.assert_array_equal(found["scales/mid/t20"][:], view.scales[:])
        assert found["features/mid/t20"].dtype == np.int8


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_some_of_it(job, tmp_path, suffix):
    with FeatureStore(job().write()) as store:
        out = store.export(tmp_path / f"x{suffix}", blocks=["up.1"], timesteps=[60])
        if suffix == ".npz":
            names = [name for name in np.load(out).files if name.startswith("features")]
        else:
            group = zarr.open_group(str(out), mode="r")["features"]
            names = [f"features/{block}/{t}" for block in group for t in group[block]]
        assert names == ["features/up.1/t60"]
        with pytest.raises(SpecError, match=r"no block 'up\.2'"):
            store.export(tmp_path / f"y{suffix}", blocks=["up.2"])


@pytest.mark.parametrize("name", ["x", "x.h5", "x.npy"])
def test_other_names(sound, tmp_path, name):
    with FeatureStore(sound) as store, pytest.raises(SpecError, match=r"\.npz or \.zarr"):
        store.export(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_an_output_that_is_there(sound, tmp_path, suffix):
    out = tmp_path / f"x{suffix}"
    with FeatureStore(sound) as store:
        store.export(out, blocks=["mid"])
        with pytest.raises(StoreError, match="--overwrite"):
            store.export(out)
        store.export(out, blocks=["up.1"], overwrite=True)
    found = np.load(out) if suffix == ".npz" else zarr.open_group(str(out), mode="r")
    assert "features/up.1/t20" in found
    assert "features/mid/t20" not in found
    assert len(list(tmp_path.glob("x*"))) == 1


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_a_failure_leaves_nothing(sound, tmp_path, suffix):
    def stop_after_two(arrays):
        yield from arrays[:2]
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(tmp_path.iterdir())
    with FeatureStore(sound) as store, pytest.raises(StoreError, match="disk is full"):
        store.export(tmp_path / f"x{suffix}", progress=stop_after_two)
    assert sorted(tmp_path.iterdir()) == before


def test_without_zarr(sound, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with (
        FeatureStore(sound) as store,
        pytest.raises(StoreError, match=r"pip install 'diffeat\[zarr\]'"),
    ):
        store.export(tmp_path / "x.zarr")


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_memory_does_not_grow_with_the_features(job, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("diffeat.store.format.checksums.BLOCK_BYTES", 1 << 20)
    path = job(count=200, shape=(128, 16, 16)).write()
    with FeatureStore(path) as store:
        store.export(tmp_path / f"warm{suffix}", blocks=["mid"], timesteps=[20])
        tracemalloc.start()
        store.export(tmp_path / f"x{suffix}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < path.stat().st_size / 4
