"""Files from strangers: a StoreError at worst, and no other file is ever opened."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

from diffeat.errors import DiffeatError, StoreError
from diffeat.store import FeatureStore, verify


def use(path, rows: bool = True) -> None:
    """Look at everything that a FeatureStore offers; `rows` also reads features."""
    with FeatureStore(path) as store:
        assert len(store) == len(store.ids)
        assert store.labels is None or len(store.labels) == len(store)
        assert all(isinstance(name, str) for name in [*store.ids, *store.class_names])
        assert all(isinstance(text, str) for item in store.skipped.items() for text in item)
        assert isinstance(store.model, dict)
        assert isinstance(store.pictures, dict)
        assert isinstance(store.fingerprint, str)
        assert store.spec.blocks == tuple(store.blocks)
        for block in store.blocks:
            for t in store.timesteps:
                data = store[block, t]
                assert data.shape[0] == len(store)
                assert data.dtype.kind == "f"
                assert not rows or data[:2].shape == (2, 3, 2, 2)
                assert not rows or store.torch_dataset(block, t)[0][0].ndim == 3


@pytest.fixture
def stranger(job):
    """A sound file with labels and skipped pictures, to be spoilt; `change` gets it open."""
    path = job(labels=np.arange(10) % 2, class_names=("cat", "dog")).write(skip=(4,))

    def spoil(change):
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return spoil


def test_the_unspoilt_file_is_sound(stranger):
    path = stranger(lambda file: None)
    use(path)
    assert verify(path) == []


# --- not HDF5, or not whole -----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"id,label\na.png,1\n" * 100,
        b"\x89HDF\r\n\x1a\n",
        b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8,
        np.random.default_rng(0).bytes(10_000),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    ],
    ids=["empty", "zeros", "text", "signature", "signature+junk", "random", "png"],
)
@pytest.mark.parametrize("reader", [FeatureStore, verify])
def test_not_hdf5(tmp_path, content, reader):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"x\.h5"):
        reader(path)


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.95, 1])
@pytest.mark.parametrize("reader", [FeatureStore, verify])
def test_truncated(sound, fraction, reader):
    size = sound.stat().st_size
    os.truncate(sound, min(int(size * fraction), size - 1))
    with pytest.raises(StoreError):
        reader(sound)


def test_somebody_elses_hdf5(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((3, 4))
    with pytest.raises(StoreError, match="no diffeat feature file"):
        FeatureStore(path)


def test_a_newer_format_is_named(stranger):
    path = stranger(lambda file: file.attrs.__setitem__("format", 2))
    with pytest.raises(StoreError, match=r"format 2.*reads format 1"):
        FeatureStore(path)


def test_a_refused_file_is_closed_again(stranger):
    path = stranger(lambda file: file.__setitem__("away", h5py.ExternalLink("other.h5", "/")))
    with pytest.raises(StoreError):
        FeatureStore(path)
    with h5py.File(path, "r+") as file:  # HDF5 refuses this while a reader has it open
        assert "away" in file


# --- wrong types and contradictions ---------------------------------------------------------


def put(name: str, value):
    """Replace an object by a data set, or by a group if the value is None."""

    def change(file):
        if name in file:
            del file[name]
        if value is None:
            file.create_group(name)
        else:
            file[name] = value

    return change


def attr(name: str, value, where: str = "/"):
    """Set an attribute, or remove it if the value is None."""

    def change(file):
        if value is None:
            del file[where].attrs[name]
        else:
            file[where].attrs[name] = value

    return change


def huge(name: str, dtype):
    """A data set that claims 2^50 rows and stores none."""

    def change(file):
        del file[name]
        file.create_dataset(name, shape=(2**50,), dtype=dtype, chunks=(1024,))

    return change


def named_type(name: str):
    def change(file):
        del file[name]
        file[name] = np.dtype("f4")

    return change


STRING = h5py.string_dtype()
SPOILT = {
    "features is a data set": put("features", 1.0),
    "features is empty": put("features", None),
    "features is a type": named_type("features"),
    "ids is a group": put("ids", None),
    "ids is a type": named_type("ids"),
    "ids is one string": put("ids", "a"),
    "ids are numbers": put("ids", np.arange(9)),
    "ids are a table": put("ids", np.array([["a", "b"]] * 9, dtype=STRING)),
    "ids are not utf-8": put("ids", np.array([b"\xff\xfe"] * 9, dtype=STRING)),
    "ids are too few": put("ids", np.array(["a", "b"], dtype=STRING)),
    "ids claim 2^50 rows": huge("ids", STRING),
    "labels is a group": put("labels", None),
    "labels are text": put("labels", np.array(["a"] * 9, dtype=STRING)),
    "labels have no names": attr("names", None, "labels"),
    "labels' names are a number": attr("names", 7, "labels"),
    "labels are too few": put("labels", np.arange(3)),
    "labels claim 2^50 rows": huge("labels", np.int64),
    "skipped is a data set": put("skipped", 1),
    "skipped has no reasons": lambda file: file.__delitem__("skipped/reasons"),
    "skipped lengths differ": put("skipped/reasons", np.array(["a", "b"], dtype=STRING)),
    "skipped ids are numbers": put("skipped/ids", np.arange(1)),
    "format is text": attr("format", "one"),
    "format is a list": attr("format", [1, 1]),
    "format is missing": attr("format", None),
    "complete is missing": attr("complete", None),
    "complete is a list": attr("complete", [True, True]),
    "spec is missing": attr("spec", None),
    "spec is not JSON": attr("spec", "{timesteps"),
    "spec is a JSON list": attr("spec", "[]"),
    "spec is JSON null": attr("spec", "null"),
    "spec is a number": attr("spec", 5),
    "spec is not utf-8": attr("spec", np.bytes_(b"\xff\xfe")),
    "spec has no blocks": attr("spec", '{"timesteps": [20]}'),
    "spec has an unknown field": attr("spec", '{"timesteps": [20], "blocks": ["mid"], "x": 1}'),
    "spec has null blocks": attr("spec", '{"timesteps": [20], "blocks": null}'),
    "spec has numbers as blocks": attr("spec", '{"timesteps": [20], "blocks": [1]}'),
    "spec has a word as t": attr("spec", '{"timesteps": ["often"], "blocks": ["mid"]}'),
    "spec has a list as t": attr("spec", '{"timesteps": [[1]], "blocks": ["mid"]}'),
    "spec has nan as t": attr("spec", '{"timesteps": [NaN], "blocks": ["mid"]}'),
    "spec has inf as t": attr("spec", '{"timesteps": [Infinity], "blocks": ["mid"]}'),
    "spec has text as ensemble": attr(
        "spec", '{"timesteps": [20], "blocks": ["mid"], "ensemble": "2"}'
    ),
    "spec has a list as noise": attr("spec", '{"timesteps": [20], "blocks": ["mid"], "noise": []}'),
    "spec has a number as pool": attr("spec", '{"timesteps": [20], "blocks": ["mid"], "pool": 3}'),
    "spec is deep JSON": attr("spec", "[" * 50_000),
    "model is missing": attr("model", None),
    "model is not JSON": attr("model", "{"),
    "model is a JSON list": attr("model", "[]"),
    "pictures is missing": attr("pictures", None),
    "pictures is not JSON": attr("pictures", "'"),
    "fingerprint is missing": attr("fingerprint", None),
    "block is a data set": put("features/mid", 1.0),
    "block is a type": named_type("features/mid"),
    "t is a group": put("features/mid/t20", None),
    "t is a type": named_type("features/mid/t20"),
    "t is a scalar": put("features/mid/t20", 1.0),
    "t is text": put("features/mid/t20", np.array(["a"] * 9, dtype=STRING)),
    "t has too few rows": put("features/mid/t20", np.zeros((3, 3, 2, 2), np.float16)),
    "t is a record": put("features/mid/t20", np.zeros(9, [("a", "f4")])),
    "ids is a soft link to itself": put("ids", h5py.SoftLink("/ids")),
    "ids is a dangling soft link": put("ids", h5py.SoftLink("/nowhere")),
    "features is a soft-link loop": lambda file: (
        put("features", h5py.SoftLink("/b"))(file),
        put("b", h5py.SoftLink("/features"))(file),
    ),
    "block is a soft-link loop": put("features/mid", h5py.SoftLink("/features/mid")),
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_reading_a_spoilt_file(stranger, change):
    path = stranger(change)
    with pytest.raises(DiffeatError):
        use(path)


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_verifying_a_spoilt_file(stranger, change):
    path = stranger(change)
    try:
        problems = verify(path)
    except DiffeatError as error:
        problems = [str(error)]
    assert problems
    assert all(isinstance(problem, str) and problem for problem in problems)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.__setitem__("features/again", file["/"]),
        lambda file: file.__setitem__("features/mid/again", file["features"]),
        lambda file: file.__setitem__("unused", h5py.SoftLink("/unused")),
        lambda file: file.__setitem__("unused/more", np.arange(3)),
    ],
    ids=["ring through the root", "ring of groups", "unused soft-link loop", "unused data"],
)
def test_harmless_oddities_do_no_harm(stranger, change):
    path = stranger(change)
    use(path)
    assert verify(path) == []


@pytest.mark.parametrize("block", ["..", ".", "../../../x", "/x", "a/b", ""])
def test_block_names_that_climb_are_refused(stranger, block):
    """HDF5 takes them as plain names, but an export would be unpacked somewhere else."""

    def change(file):
        for t in (20, 60):
            if block.strip("./"):  # there need be none for the others
                file[f"features/{block}/t{t}"] = file[f"features/mid/t{t}"]
        spec = json.loads(file.attrs["spec"])
        file.attrs["spec"] = json.dumps({**spec, "blocks": [block]})

    with pytest.raises(StoreError, match="is no name of a block"):
        FeatureStore(stranger(change))


# --- links and storage in other files -------------------------------------------------------


def external_storage(file, target):
    del file["features/mid/t20"]
    file.create_dataset(
        "features/mid/t20", shape=(9, 3, 2, 2), dtype="f2", external=[(target, 0, 9 * 12 * 2)]
    )


def virtual(file, target, count=9, most=9):
    layout = h5py.VirtualLayout((count, 3, 2, 2), "f2", maxshape=(most, 3, 2, 2))
    source = h5py.VirtualSource(target, "x", (count, 3, 2, 2), maxshape=(most, 3, 2, 2))
    if most is None:
        source, layout.maxshape = source[: h5py.h5s.UNLIMITED], (None, 3, 2, 2)
        layout[: h5py.h5s.UNLIMITED] = source
    else:
        layout[:] = source
    del file["features/mid/t20"]
    file.create_virtual_dataset("features/mid/t20", layout)


def through_a_neighbour(file, target):
    """A link to a file in the same folder, which links on."""
    neighbour = os.path.join(os.path.dirname(file.filename), "neighbour.h5")
    with h5py.File(neighbour, "w") as other:
        other["mid"] = h5py.ExternalLink(target, "/mid")
    put("features/mid", h5py.ExternalLink("neighbour.h5", "/mid"))(file)


OUTSIDE = {
    "ids": lambda file, target: put("ids", h5py.ExternalLink(target, "/ids"))(file),
    "labels": lambda file, target: put("labels", h5py.ExternalLink(target, "/x"))(file),
    "features": lambda file, target: put("features", h5py.ExternalLink(target, "/"))(file),
    "block": lambda file, target: put("features/mid", h5py.ExternalLink(target, "/"))(file),
    "data set": lambda file, target: put("features/mid/t20", h5py.ExternalLink(target, "/x"))(file),
    "unused": lambda file, target: put("a/b/c", h5py.ExternalLink(target, "/"))(file),
    "behind a soft link": lambda file, target: (
        put("away", h5py.ExternalLink(target, "/"))(file),
        put("ids", h5py.SoftLink("/away/ids"))(file),
    ),
    "chained": through_a_neighbour,
    "external storage": external_storage,
    "virtual": virtual,
    "growing virtual": lambda file, target: virtual(file, target, most=None),
}


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
@pytest.mark.parametrize("change", OUTSIDE.values(), ids=OUTSIDE)
def test_other_files_are_never_opened(stranger, tripwire, change, relative):
    target = tripwire.path.name if relative else str(tripwire.path)
    path = stranger(lambda file: change(file, target))
    tripwire.arm()
    for reader in (FeatureStore, verify):
        with pytest.raises(StoreError, match="points to another file"):
            reader(path)
    assert not tripwire.touched


def test_the_tripwire_notices(stranger, tripwire):
    path = stranger(lambda file: OUTSIDE["ids"](file, str(tripwire.path)))
    tripwire.arm()
    with h5py.File(path) as file, pytest.raises((KeyError, OSError)):
        file["ids"]
    assert tripwire.touched


def test_nor_does_the_writer_open_them(job, tripwire):
    made = job()
    with h5py.File(made.write(), "r+") as file:
        OUTSIDE["ids"](file, str(tripwire.path))
    tripwire.arm()
    with pytest.raises(StoreError, match="points to another file"), made.writer():
        pass
    assert not tripwire.touched


def test_a_virtual_data_set_of_the_file_itself_is_read(stranger):
    def change(file):
        file.move("features/mid/t20", "kept")
        layout = h5py.VirtualLayout((9, 3, 2, 2), "f2")
        layout[:] = h5py.VirtualSource(".", "kept", (9, 3, 2, 2))
        file.create_virtual_dataset("features/mid/t20", layout)

    path = stranger(change)
    with FeatureStore(path) as store:
        np.testing.assert_array_equal(store["mid", 20][:], store.file["kept"][:])


# --- random damage --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_random_damage(sound, seed):
    content = bytearray(sound.read_bytes())
    rng = np.random.default_rng(seed)
    for position in rng.integers(len(content), size=1 + seed % 8):
        content[position] ^= 1 << int(rng.integers(8))
    sound.write_bytes(content)
    try:
        use(sound, rows=False)
        problems = verify(sound)
    except DiffeatError as error:
        problems = [str(error)]
    assert all(isinstance(problem, str) for problem in problems)
