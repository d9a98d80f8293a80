"""Names of tensors with a colon, and the boxes of padded pictures."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from diffeat.errors import SpecError, StoreError
from diffeat.store import FeatureStore, verify

BLOCKS = ("mid", "up.1.res.0:increment", "up.1.attn.0:cross.map")


# --- names with a colon ---------------------------------------------------------------------


def test_kinds_of_tensor_are_groups_of_their_own(job):
    made = job(blocks=BLOCKS)
    with h5py.File(made.write()) as file:
        assert set(file["features"]) == set(BLOCKS)
        for block in BLOCKS:
            for t in (20, 60):
                name = f"features/{block}/t{t}"
                np.testing.assert_array_equal(file[name][:], made.values[name])
                assert file[name].attrs["block"] == block


def test_reading_kinds_of_tensor(job):
    made = job(blocks=BLOCKS)
    with FeatureStore(made.write()) as store:
        assert store.blocks == list(BLOCKS)
        for block in BLOCKS:
            wanted = made.values[f"features/{block}/t60"]
            np.testing.assert_array_equal(store[block, 60][:], wanted)
            feature, _ = store.torch_dataset(block, 60)[3]
            assert torch.equal(feature, torch.from_numpy(wanted[3]).float())


def test_a_kind_is_no_part_of_its_place(job):
    with (
        FeatureStore(job(blocks=BLOCKS).write()) as store,
        pytest.raises(SpecError, match=r"no block 'mid:increment'.*it has mid, up\.1\.res\.0:incr"),
    ):
        store["mid:increment", 20]


def test_a_sound_file_of_kinds(job):
    assert verify(job(blocks=BLOCKS).write(skip=(2,))) == []


@pytest.mark.parametrize("block", BLOCKS)
def test_numbers_that_are_not_finite_in_a_kind(job, block):
    path = job(blocks=BLOCKS).write()
    with h5py.File(path, "r+") as file:
        file[f"features/{block}/t60"][3, 0, 1, 1] = np.nan
    (problem,) = verify(path)
    assert problem.startswith(f"features/{block}/t60, rows from ")
    assert "inf or nan" in problem


def test_a_missing_kind(job):
    path = job(blocks=BLOCKS).write()
    with h5py.File(path, "r+") as file:
        del file[f"features/{BLOCKS[2]}"]
    problems = [problem.split(";")[0] for problem in verify(path)]
    assert problems == [f"features/{BLOCKS[2]}/t{t} is missing" for t in (20, 60)]


def test_going_on_with_kinds(job, each_batch_a_shard):
    made = job(blocks=BLOCKS)
    made.begin((0, 4))
    with made.writer() as writer:
        assert writer.remaining(4) == [(4, 8), (8, 10)]
        for start, stop in writer.remaining(4):
            made.add(writer, start, stop)
        writer.finish()
    with h5py.File(made.path) as file:
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values)


# --- boxes ----------------------------------------------------------------------------------


@pytest.fixture
def padded(job):
    """A job of padded pictures."""
    return job(fit="pad", boxes=True)


def test_boxes_lie_beside_the_features(padded):
    with h5py.File(padded.write()) as file:
        assert set(file) == {"ids", "features", "boxes"}
        assert (file["boxes"].shape, file["boxes"].dtype) == ((10, 4), np.int32)
        np.testing.assert_array_equal(file["boxes"][:], padded.values["boxes"])
        assert file["features"].attrs["timesteps"].tolist() == [20, 60]


@pytest.mark.parametrize("skip", [(), (0, 7)])
def test_every_row_has_its_box(padded, skip, each_batch_a_shard):
    with FeatureStore(padded.write(skip=skip)) as store:
        kept = [k for k in range(10) if k not in skip]
        np.testing.assert_array_equal(store.boxes, padded.values["boxes"][kept])
        assert store.boxes.dtype == np.int32
        assert len(store.boxes) == len(store)
        np.testing.assert_array_equal(store["mid", 20][:], padded.values["features/mid/t20"][kept])


def test_only_padded_pictures_have_boxes(job):
    with FeatureStore(job().write()) as store:
        assert store.boxes is None


def test_a_sound_file_with_boxes(padded):
    assert verify(padded.write(skip=(3,))) == []


def test_boxes_of_an_earlier_run_are_kept(padded, each_batch_a_shard):
    padded.begin((0, 4), (4, 8))
    with padded.writer() as writer:
        assert writer.done == 8
        padded.add(writer, 8, 10)
        writer.finish()
    with FeatureStore(padded.path) as store:
        np.testing.assert_array_equal(store.boxes, padded.values["boxes"])


def test_boxes_that_are_no_data_set(padded):
    path = padded.write()
    with h5py.File(path, "r+") as file:
        del file["boxes"]
        file.create_group("boxes")
    with pytest.raises(StoreError), FeatureStore(path) as store:
        _ = store.boxes


def test_boxes_in_another_file_are_refused(padded, tripwire):
    path = padded.write()
    with h5py.File(path, "r+") as file:
        del file["boxes"]
        file["boxes"] = h5py.ExternalLink(tripwire.path.name, "/boxes")
    tripwire.arm()
    with pytest.raises(StoreError, match="points to another file"):
        FeatureStore(path)
    assert not tripwire.touched


def flip_a_bit(file):
    data = file["boxes"]
    offset = data.id.get_offset()
    with open(file.filename, "r+b") as raw:
        raw.seek(offset)
        byte = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([byte ^ 0x10]))


def replace(value):
    def change(file):
        del file["boxes"]
        file["boxes"] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        flip_a_bit,
        replace(np.zeros((9, 4), np.int32)),
        replace(np.zeros((10, 3), np.int32)),
        replace(np.full((10, 4), -1)),
    ],
    ids=["flipped bit", "too few", "too narrow", "negative"],
)
def test_damaged_boxes_are_found(padded, change):
    path = padded.write()
    with h5py.File(path, "r+") as file:
        change(file)
    try:
        problems = verify(path)
    except StoreError as error:  # refused at the door is as good
        problems = [str(error)]
    assert any("boxes" in problem for problem in problems)
