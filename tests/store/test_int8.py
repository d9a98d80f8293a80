"""Features in eight bits: the error bound, the file, and the view that gives floats."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from diffeat.errors import NumericsError, StoreError
from diffeat.store import FeatureStore, verify
from diffeat.store.format.quantize import dequantize, quantize

SHAPES = {"map": ((6, 5, 4), 1), "tokens": ((7, 12), 1), "vector": ((70,), 32), "short": ((5,), 32)}


def groups_of(values: np.ndarray, group: int) -> list[np.ndarray]:
    """Channels of one row that share a scale, one array each."""
    return [values[k : k + group] for k in range(0, len(values), group)]


@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e-42, 1e30, 3e38])
@pytest.mark.parametrize(("shape", "group"), SHAPES.values(), ids=SHAPES)
def test_the_error_is_at_most_half_a_step(shape, group, factor):
    rng = np.random.default_rng(0)
    values = (rng.uniform(-1, 1, size=(9, *shape)) * factor).astype(np.float32)
    values[:, 0] *= 1e-3  # groups of very different size
    quantized, scales = quantize(values, group, "x")
    assert quantized.dtype == np.int8
    assert scales.shape == (9, -(-shape[0] // group))
    assert np.abs(quantized.astype(int)).max() <= 127
    for row in range(9):
        pieces = zip(groups_of(values[row], group), groups_of(quantized[row], group), strict=True)
        for k, (x, q) in enumerate(pieces):
            scale = scales[row, k].astype(np.longdouble)
            error = np.abs(x.astype(np.longdouble) - q.astype(np.longdouble) * scale)
            assert error.max() <= scale / 2
            assert scale <= np.abs(x).max() * (1 + 1e-6) / 127 + 2e-45  # no coarser than needed


def test_zeros_stay_zeros_and_extremes_are_kept():
    values = np.zeros((2, 3, 4), np.float32)
    values[1, 1] = [0, -5, 2.5, 5]
    quantized, scales = quantize(values, 1, "x")
    assert (scales[0] == 0).all()
    found = dequantize(quantized, scales, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_array_equal(found[1, [0, 2]], 0)
    np.testing.assert_allclose(found[1, 1, [1, 3]], [-5, 5], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(job, value):
    made = job(dtype="int8")
    made.values["features/up.1/t60"][3, 1, 0, 0] = value
    with pytest.raises(NumericsError, match=r"features/up\.1/t60: inf or nan"):
        made.write()


@pytest.fixture(params=SHAPES)
def made(request, job):
    return job(dtype="int8", shape=SHAPES[request.param][0], labels=np.arange(10) % 2,
               class_names=("a", "b"))  # fmt: skip


def expected(made, name: str) -> np.ndarray:
    """What a file gives for a column, by numpy alone."""
    values = made.values[name].astype(np.float64)
    group = 1 if len(made.shape) > 1 else 32
    out = np.empty(values.shape)
    for row in range(len(values)):
        for k in range(0, made.shape[0], group):
            x = values[row, k : k + group]
            scale = np.float64(np.float32(np.abs(x).max() / 127))
            out[row, k : k + group] = np.rint(x / scale) * scale
    return out.astype(np.float32)


def test_the_file_by_plain_h5py(made):
    group = 1 if len(made.shape) > 1 else 32
    with h5py.File(made.write()) as file:
        data, scales = file["features/mid/t20"], file["scales/mid/t20"]
        assert (data.dtype, data.shape) == (np.int8, (10, *made.shape))
        assert (scales.dtype, scales.shape) == (np.float32, (10, -(-made.shape[0] // group)))
        assert data.attrs["quantization"] == "absmax"
        assert data.attrs["group"] == group
        assert data.attrs["scale"] == "scales/mid/t20"
        assert data.attrs["sigma"] == pytest.approx(0.4358)
        steps = np.repeat(scales[:], group, axis=1)[:, : made.shape[0]]
        steps = steps.reshape(10, made.shape[0], *[1] * (len(made.shape) - 1))
        np.testing.assert_allclose(
            data[:] * steps, expected(made, "features/mid/t20"), rtol=1e-6, atol=0
        )


def test_a_store_gives_floats(made):
    with FeatureStore(made.write()) as store:
        view = store["up.1", 60]
        assert (view.shape, view.dtype, view.ndim) == (
            (10, *made.shape),
            np.float32,
            1 + len(made.shape),
        )
        assert len(view) == 10
        assert view.chunks is None
        assert view.attrs["t"] == 60
        assert store.stored_dtype("up.1", 60) == "int8"
        wanted = expected(made, "features/up.1/t60")
        np.testing.assert_allclose(view[:], wanted, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(view), wanted, rtol=1e-6)
        np.testing.assert_allclose(view[2:9], wanted[2:9], rtol=1e-6)
        assert np.asarray(view, np.float64).dtype == np.float64
        feature, label = store.torch_dataset("up.1", 60)[3]
        np.testing.assert_allclose(feature.numpy(), wanted[3], rtol=1e-6)
        assert label == 1
    assert verify(made.path) == []


MASK = np.array([True, False, True, False, False, True, False])
KEYS = [
    3, -1, np.int64(2), slice(2, 7), slice(None, None, 3), slice(5, 5), [1, 4, 8], [8, 1, 1], [],
    [-1, 0], np.arange(10) % 2 == 0, ..., (slice(None), 2), (slice(1, 4), slice(0, 2)), (2, 1),
    (slice(None), [0, 2, 5]), (slice(None), [5, 0, 0]), (4, [5, 0]), (..., 1),
    (slice(2, 4), ..., 0),
    (slice(None), slice(None), 1), (slice(None), slice(None), slice(1, 3), 0), (7, 2, 3, 1),
    (slice(None), 3, [0, 2]), ([1, 3], slice(1, 3)), (0, ..., slice(0, 2)),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_as_numpy_does(job, key):
    made = job(dtype="int8", shape=(6, 5, 4))
    with FeatureStore(made.write()) as store:
        view = store["mid", 20]
        everything = view[:]
        wanted = everything[key if not isinstance(key, list) else np.array(key, int)]
        found = view[key]
        assert np.shape(found) == wanted.shape
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "key", [10, -11, [0, 10], np.ones(9, bool), "mid", 1.5, None, (0,) * 5, (..., ...), [[0, 1]],
            slice(None, None, -1)],
    ids=str,
)  # fmt: skip
def test_indices_that_make_no_sense(job, key):
    with (
        FeatureStore(job(dtype="int8", shape=(6, 5, 4)).write()) as store,
        pytest.raises((IndexError, TypeError, ValueError)),
    ):
        store["mid", 20][key]


def test_going_on_with_int8(job, each_batch_a_shard):
    whole, made = job("whole.h5", dtype="int8"), job(dtype="int8")
    whole.write()
    made.begin((0, 4), (8, 10))
    made.write()
    with h5py.File(whole.path) as one, h5py.File(made.path) as two:
        for name in ("features/mid/t20", "scales/mid/t20", "scales/up.1/t60"):
            np.testing.assert_array_equal(one[name][:], two[name][:])


def put(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def attr(name, value):
    def change(file):
        if value is None:
            del file["features/mid/t20"].attrs[name]
        else:
            file["features/mid/t20"].attrs[name] = value

    return change


SPOILT = {
    "no scales": lambda file: file.__delitem__("scales/mid/t20"),
    "no word of quantization": attr("quantization", None),
    "another quantization": attr("quantization", "zeropoint"),
    "scale is missing": attr("scale", None),
    "scales of another t": attr("scale", "scales/mid/t60"),
    "scales elsewhere": attr("scale", "/etc/passwd"),
    "scales are the ids": attr("scale", "ids"),
    "scale is a number": attr("scale", 3),
    "no group": attr("group", None),
    "group of 0": attr("group", 0),
    "group of 2": attr("group", 2),
    "group is text": attr("group", "1"),
    "groups are a list": attr("group", [1, 1]),
    "scales are whole numbers": put("scales/mid/t20", np.ones((10, 3), np.int64)),
    "scales are doubles": put("scales/mid/t20", np.ones((10, 3), np.float64)),
    "too few scales": put("scales/mid/t20", np.ones((10, 2), np.float32)),
    "scales of too few rows": put("scales/mid/t20", np.ones((9, 3), np.float32)),
    "scales are a group": lambda file: (
        file.__delitem__("scales/mid/t20"), file.create_group("scales/mid/t20"),
    ),
    "scales lie in another file": put("scales/mid/t20", h5py.ExternalLink("other.h5", "/x")),
    "scales are a link to themselves": put("scales/mid/t20", h5py.SoftLink("/scales/mid/t20")),
    "16 bits": put("features/mid/t20", np.ones((10, 3, 2, 2), np.int16)),
}  # fmt: skip


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_file_is_refused(job, change):
    path = job(dtype="int8").write()
    with h5py.File(path, "r+") as file:
        change(file)

    def use():
        with FeatureStore(path) as store:
            store["mid", 20][:]

    with pytest.raises(StoreError, match=path.name):
        use()
    try:
        problems = verify(path)
    except StoreError as error:
        problems = [str(error)]
    assert problems


def test_scales_that_are_not_finite_are_found(job):
    path = job(dtype="int8").write()
    with h5py.File(path, "r+") as file:
        file["scales/mid/t20"][3, 1] = np.inf
    (problem,) = verify(path)
    assert problem == "scales/mid/t20, rows from 0: inf or nan"
