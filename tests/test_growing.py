"""A folder that grows: what is finished stays, what is new is computed alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image

import diffeat
from diffeat.errors import SpecMismatch, StoreError
from diffeat.images import Source, open_source
from diffeat.images.columns import TargetColumn
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore, StoreWriter, look_at_parts, merge_parts, verify
from tests.test_jobs import content, pictures, save_tiny_pipeline

SPEC = diffeat.ExtractSpec(timesteps=(20, 600), blocks=("mid", "up.0"), dtype="float32")
FIRST = ("cat/b.png", "cat/d.png", "dog/b.png", "dog/c.png", "dog/d.png")
LATER = ("ant/x.png", "cat/a.png", "cat/c.png", "dog/e.png")
"""Before, between and behind the first, one in a class that moves all the others."""
EVERY = sorted((*FIRST, *LATER))
PIXELS = dict(zip(EVERY, pictures(len(EVERY)), strict=True))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return diffeat.load(save_tiny_pipeline(tmp_path_factory.mktemp("tiny"), seed=0), device="cpu")


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "in", FIRST)
    return tmp_path / "in"


def put(folder, names, seed=None) -> None:
    """Pictures, each with its own pixels, or with others by a seed."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = PIXELS[name] if seed is None else pictures(1, seed)[0]
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture
def rows(backbone):
    """Grows by the number of rows of every forward."""
    found: list[int] = []
    handle = backbone.denoiser.register_forward_pre_hook(
        lambda _module, _args, kwargs: found.append(len(kwargs["sample"])), with_kwargs=True
    )
    yield found
    handle.remove()


def extract(backbone, source, path, spec=SPEC, **options):
    source = source if isinstance(source, Source) else open_source(source)
    return extract_to_file(
        backbone, source, spec, path, **{"batch_size": 4, "progress": False, **options}
    )


def interrupted(backbone, source, path, monkeypatch, after: int = 1, **options):
    """A run that ends when so many batches are in shards."""
    add, done = StoreWriter.add, []

    def adding(self, *batch):
        add(self, *batch)
        done.append(batch)
        if len(done) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)
        patch.setattr(StoreWriter, "add", adding)
        with pytest.raises(KeyboardInterrupt):
            extract(backbone, source, path, **options)


def as_if_in_one_go(backbone, path, source, spec=SPEC, atol=1e-5, **options):
    """Compare a grown file with one of the same pictures that was made at once."""
    fresh = path.with_name("fresh.h5")
    fresh.unlink(missing_ok=True)
    extract(backbone, source, fresh, spec, **options)
    found, wanted = content(path), content(fresh)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        if values.dtype.kind == "f" and name.startswith("features"):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    with FeatureStore(path) as one, FeatureStore(fresh) as other:
        assert one.class_names == other.class_names
        assert one.skipped == other.skipped
        assert list(one.skipped) == list(other.skipped)
        assert one.pictures == other.pictures
        assert one.fingerprint == other.fingerprint
    with h5py.File(path) as one, h5py.File(fresh) as other:
        for name in wanted:
            attrs = [{k: v for k, v in file[name].attrs.items() if k not in ("blake2b", "when")}
                     for file in (one, other)]  # fmt: skip
            assert str(attrs[0]) == str(attrs[1]), name
    assert verify(path) == []
    assert not path.with_name(path.name + ".parts").exists()


def test_new_pictures_are_computed_alone(backbone, folder, tmp_path, rows):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    before = content(path)
    put(folder, LATER)
    rows.clear()
    result = extract(backbone, folder, path)
    assert (result.status, result.pictures, result.computed) == ("grown", 9, 4)
    assert sum(rows) == 4 * len(SPEC.timesteps)
    after = content(path)
    kept = [EVERY.index(name) for name in FIRST]
    for name in ("features/mid/t20", "features/up.0/t600", "digests", "sizes", "placements"):
        np.testing.assert_array_equal(after[name][kept], before[name])
    with FeatureStore(path) as store:
        assert store.ids == EVERY
        assert store.class_names == ["ant", "cat", "dog"]
        assert store.labels.tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
        assert [made["pictures"] for made in store.how["added"]] == [4]
        assert store.how["batch_size"] == 4
    as_if_in_one_go(backbone, path, folder)
    assert extract(backbone, folder, path).status == "already complete"


def test_new_pictures_have_the_bits_that_they_have_by_themselves(backbone, folder, tmp_path):
    """They are batched as a set of their own, wherever they stand among the others."""
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER)
    extract(backbone, folder, path)
    whole = open_source(folder)
    alone = whole.take([whole.ids.index(name) for name in LATER])
    extract(backbone, alone, tmp_path / "alone.h5")
    found, wanted = content(path), content(tmp_path / "alone.h5")
    places = [EVERY.index(name) for name in LATER]
    for name in (name for name in wanted if name.startswith("features")):
        np.testing.assert_array_equal(found[name][places], wanted[name])


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "int8"}, {"pool": "2x2", "dtype": "int8"}, {"fit": "pad", "dtype": "float16"}],
)
def test_other_ways_of_keeping_grow_too(backbone, folder, tmp_path, changes):
    spec, path = replace(SPEC, **changes), tmp_path / "f.h5"
    extract(backbone, folder, path, spec, compression="gzip")
    before = content(path)
    put(folder, LATER)
    assert extract(backbone, folder, path, spec, compression="gzip").computed == 4
    after, kept = content(path), [EVERY.index(name) for name in FIRST]
    for name in (name for name in after if name.startswith(("features", "scales", "boxes"))):
        np.testing.assert_array_equal(after[name][kept], before[name])
    shutil.copy(path, tmp_path / "g.h5")
    extract(backbone, folder, tmp_path / "one.h5", spec)
    with FeatureStore(path) as one, FeatureStore(tmp_path / "one.h5") as other:
        for block in SPEC.blocks:
            np.testing.assert_allclose(one[block, 20][:], other[block, 20][:], atol=0.02)
        assert one.fingerprint == other.fingerprint


def test_two_growths_in_a_row(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER[:1])
    assert extract(backbone, folder, path).computed == 1
    put(folder, LATER[1:])
    assert extract(backbone, folder, path).computed == 3
    with FeatureStore(path) as store:
        assert [made["pictures"] for made in store.how["added"]] == [1, 3]
    as_if_in_one_go(backbone, path, folder)


def test_a_growth_that_was_killed_goes_on(backbone, folder, tmp_path, monkeypatch, rows):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path, batch_size=2)
    before = path.read_bytes()
    put(folder, LATER)
    interrupted(backbone, folder, path, monkeypatch, batch_size=2)
    assert path.read_bytes() == before  # whole and readable all the time
    assert look_at_parts(path).finished == 7
    with pytest.raises(StoreError, match="again, which joins them"):
        merge_parts(path, overwrite=True)
    rows.clear()
    result = extract(backbone, folder, path, batch_size=2)
    assert (result.status, result.computed) == ("grown", 2)
    assert sum(rows) == 2 * len(SPEC.timesteps)
    as_if_in_one_go(backbone, path, folder)


def test_a_growth_that_was_killed_and_grew_again(backbone, folder, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER[:3])
    interrupted(backbone, folder, path, monkeypatch, batch_size=2)
    put(folder, LATER[3:])
    result = extract(backbone, folder, path)
    assert (result.status, result.computed) == ("grown", 2)
    with FeatureStore(path) as store:
        assert [made["pictures"] for made in store.how["added"]] == [2, 2]
    as_if_in_one_go(backbone, path, folder)


def test_a_first_run_that_was_killed_goes_on_with_more(backbone, folder, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    interrupted(backbone, folder, path, monkeypatch, batch_size=2)
    assert look_at_parts(path).finished == 2
    put(folder, LATER)
    for attempt in (1, 2):  # killed again, on the way to the larger set
        interrupted(backbone, folder, path, monkeypatch, batch_size=2)
        assert look_at_parts(path).finished == 2 + 2 * attempt
    result = extract(backbone, folder, path, batch_size=2)
    assert (result.status, result.computed) == ("resumed", 3)
    as_if_in_one_go(backbone, path, folder)


def test_killed_between_joining_and_clearing_up(backbone, folder, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER)
    with monkeypatch.context() as patch:
        patch.setattr("diffeat.store.write.folder.ShardFolder.remove", lambda self: None)
        extract(backbone, folder, path)
    assert path.with_name("f.h5.parts").exists()
    assert extract(backbone, folder, path).status == "already complete"
    as_if_in_one_go(backbone, path, folder)


def test_unreadable_pictures_are_tried_again(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    for name in ("cat/c.png", "dog/e.png"):
        (folder / name).write_bytes(b"none")
    extract(backbone, folder, path, on_error="skip")
    put(folder, LATER[:3])  # one of the two is repaired
    result = extract(backbone, folder, path, on_error="skip")
    assert (result.status, result.computed, result.skipped) == ("grown", 3, 1)
    as_if_in_one_go(backbone, path, folder, on_error="skip")


def test_other_labels_need_no_forward(backbone, folder, tmp_path, rows, capsys):
    path, source = tmp_path / "f.h5", open_source(folder)
    extract(backbone, source, path)
    before = content(path)
    rows.clear()
    other = replace(source, labels=np.array([1, 0, 1, 0, 2]), class_names=("x", "y", "z"))
    with pytest.warns(UserWarning, match=r"loses labels \(cat, dog\), which"):
        result = extract(backbone, other, path, progress=None)
    assert (result.status, result.computed, rows) == ("relabelled", 0, [])
    assert "the same with other labels, which it takes on without any" in capsys.readouterr().err
    with FeatureStore(path) as store:
        assert store.labels.tolist() == [1, 0, 1, 0, 2]
        assert store.class_names == ["x", "y", "z"]
        assert "added" not in store.how
    after = content(path)
    np.testing.assert_array_equal(after["features/mid/t20"], before["features/mid/t20"])
    assert extract(backbone, other, path).status == "already complete"


def test_labels_and_targets_are_not_lost_in_silence(backbone, folder, tmp_path):
    source, path = open_source(folder), tmp_path / "f.h5"
    ages = TargetColumn("number", (), np.arange(5.0))
    extract(backbone, replace(source, targets={"age": ages}), path)
    put(folder, LATER)
    with pytest.warns(UserWarning, match=r"f.h5 loses labels \(cat, dog\) and targets \(age\), "):
        extract(backbone, replace(open_source(folder), labels=None, class_names=()), path)
    with FeatureStore(path) as store:
        assert (store.labels, list(store.targets)) == (None, [])


def test_a_growing_file_is_not_stored_otherwise_in_silence(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path, compression="gzip")
    put(folder, LATER)
    with pytest.warns(UserWarning, match="with compression gzip and is written anew with none"):
        extract(backbone, folder, path)
    with FeatureStore(path) as store:
        assert (store.compression, len(store)) == ("none", len(EVERY))


def test_another_order_needs_no_forward(backbone, folder, tmp_path, rows):
    path, source = tmp_path / "f.h5", open_source(folder)
    extract(backbone, source, path)
    rows.clear()
    result = extract(backbone, source.take([3, 0, 4, 1, 2]), path)
    assert (result.status, result.computed, rows) == ("relabelled", 0, [])
    as_if_in_one_go(backbone, path, source.take([3, 0, 4, 1, 2]))


# what is refused, by name


def refused(backbone, folder, path, message, **options):
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(SpecMismatch, match=message):
        extract(backbone, folder, path, **options)
    assert (path.read_bytes() if path.exists() else None) == before


def test_all_that_changed_is_named_at_once(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, FIRST[1:3], seed=1)
    refused(backbone, folder, path, r"2 pictures changed \(cat/d\.png, dog/b\.png\); choose")
    put(folder, LATER)
    (folder / FIRST[0]).unlink()
    message = r"2 pictures changed \(cat/d\.png, dog/b\.png\), 1 is gone \(cat/b\.png\), 4 are new;"
    refused(backbone, folder, path, f"was made of other pictures: {message}")
    refused(
        backbone, folder, path, rf"another spec \(seed: 0 → 1\) and of other pictures: {message}",
        spec=replace(SPEC, seed=1),
    )  # fmt: skip
    put(folder, FIRST, seed=2)
    refused(backbone, folder, path, r"5 pictures changed \(cat/b.png, cat/d.png, dog/b.png, …\)")


def test_gone_pictures_are_named(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    (folder / FIRST[0]).unlink()
    refused(backbone, folder, path, r"1 picture is gone \(cat/b\.png\); choose another output")


def test_another_spec_and_new_pictures(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER)
    message = r"another spec \(seed: 0 → 1\) and of other pictures"
    refused(backbone, folder, path, message, spec=replace(SPEC, seed=1))
    assert not path.with_name("f.h5.parts").exists()


def test_parts_name_what_changed_among_them(backbone, folder, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    interrupted(backbone, folder, path, monkeypatch, after=2, batch_size=2)
    put(folder, FIRST[:1], seed=1)
    refused(backbone, folder, path, r"4 are finished; of these 1 picture changed \(cat/b\.png\)")


def test_a_file_without_digests_does_not_grow(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER)
    with h5py.File(path, "a") as file:
        del file["digests"]
    message = r"4 pictures are new \(.*, …\); which .* told, because it has no"
    refused(backbone, folder, path, message)


def test_a_damaged_file_does_not_grow(backbone, folder, tmp_path):
    path = tmp_path / "f.h5"
    extract(backbone, folder, path)
    put(folder, LATER)
    with h5py.File(path, "a") as file:
        file["features/mid/t20"][0] += 1
    with pytest.raises(StoreError, match="features/mid/t20 has another checksum"):
        extract(backbone, folder, path)
