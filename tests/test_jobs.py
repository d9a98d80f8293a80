"""Whole extractions with a tiny pixel U-Net: pictures in, one HDF5 file out."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import diffeat
from diffeat.errors import DiffeatError, PictureError, SpecError, SpecMismatch, StoreError
from diffeat.extraction import Extractor
from diffeat.images import ArraySource, open_source
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore, verify

SPEC = diffeat.ExtractSpec(timesteps=(20, 600), blocks=("mid", "up.0"), dtype="float32")
STRIDES = {"mid": 2, "up.0": 1}  # in pixels, of the tiny U-Net below


def save_tiny_pipeline(folder, seed: int) -> str:
    """A pipeline folder of a two-stage U-Net for 16×16 pictures."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than such a small model gains by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="module")
def backbone(model_folder):
    return diffeat.load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def other_backbone(tmp_path_factory):
    return diffeat.load(save_tiny_pipeline(tmp_path_factory.mktemp("other"), seed=1), device="cpu")


@pytest.fixture
def forwards(backbone):
    """Grows by the number of rows of every forward of the denoiser."""
    rows: list[int] = []
    handle = backbone.denoiser.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(len(kwargs["sample"])), with_kwargs=True
    )
    yield rows
    handle.remove()


@pytest.fixture
def each_batch_a_shard(monkeypatch):
    monkeypatch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 24, 3), np.uint8)


def array_source(count: int = 11, **fields) -> ArraySource:
    ids = tuple(f"picture-{k:03d}" for k in range(count))
    return ArraySource(name="arrays", ids=ids, pixels=pictures(count), **fields)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three pictures each, with names that are not ASCII."""
    for k, pixels in enumerate(pictures(6)):
        path = tmp_path / "in" / ("cat", "hünd")[k % 2] / f"ä {k} 猫.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "in"


def content(path) -> dict[str, np.ndarray]:
    """All data sets of a file by name, read with plain h5py."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.__setitem__(name, item[:]) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def assert_same(found, wanted, atol=None) -> None:
    found, wanted = content(found), content(wanted)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        if atol is None or values.dtype.kind != "f":
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def reference(backbone, tmp_path_factory):
    """The file of `array_source()`, made in one go with batches of 4."""
    path = tmp_path_factory.mktemp("reference") / "features.h5"
    result = extract_to_file(backbone, array_source(), SPEC, path, batch_size=4)
    assert result.status == "done"
    return path


# --- what lies in the file ------------------------------------------------------------------


def test_features_equal_those_in_memory(backbone, folder, tmp_path):
    source = open_source(folder)
    result = extract_to_file(backbone, source, SPEC, tmp_path / "f.h5", batch_size=4)
    assert (result.status, result.pictures, result.computed, result.skipped) == ("done", 6, 6, 0)
    images = [Image.open(folder / name) for name in source.ids]
    memory = diffeat.extract(backbone, images, SPEC, ids=source.ids, batch_size=4)
    with h5py.File(tmp_path / "f.h5") as file:
        assert tuple(file["ids"].asstr()[:]) == source.ids
        assert list(file["labels"].attrs["names"]) == ["cat", "hünd"]
        assert file["labels"][:].tolist() == [0, 0, 0, 1, 1, 1]
        assert set(file["features"]) == {"mid", "up.0"}
        for block in SPEC.blocks:
            for t in SPEC.timesteps:
                stored = file[f"features/{block}/t{t}"]
                assert stored.dtype == np.float32
                np.testing.assert_allclose(stored[:], memory[block, t].numpy(), atol=1e-5)


def test_feature_attributes_against_diffusers(reference, model_folder):
    from diffusers import DDPMScheduler

    abar = DDPMScheduler.from_pretrained(model_folder, subfolder="scheduler").alphas_cumprod
    with h5py.File(reference) as file:
        for block, stride in STRIDES.items():
            for t in SPEC.timesteps:
                data = file[f"features/{block}/t{t}"]
                a = float(abar[t])
                assert data.shape == (11, 32, 16 // stride, 16 // stride)
                assert data.attrs["block"] == block
                assert data.attrs["t"] == t
                assert data.attrs["alpha"] == pytest.approx(a**0.5, rel=1e-6)
                assert data.attrs["sigma"] == pytest.approx((1 - a) ** 0.5, rel=1e-5)
                assert data.attrs["log_snr"] == pytest.approx(np.log(a / (1 - a)), rel=1e-5)
                assert data.attrs["layout"] == "NCHW"
                assert data.attrs["stride"] == stride
                assert data.attrs["channels"] == 32


def test_root_attributes(reference, backbone):
    with h5py.File(reference) as file:
        assert file.attrs["format"] == 1
        assert file.attrs["diffeat_version"] == diffeat.__version__
        assert bool(file.attrs["complete"])
        spec = json.loads(file.attrs["spec"])
        model = json.loads(file.attrs["model"])
        assert len(file.attrs["fingerprint"]) >= 16
        assert "labels" not in file
    assert spec["timesteps"] == [20, 600]
    assert spec["blocks"] == ["mid", "up.0"]
    assert spec["size"] == [16, 16]
    assert model["fingerprint"] == backbone.fingerprint


@pytest.mark.parametrize(("pool", "shape"), [("1x1", (32,)), ("2x2", (128,)), ("none", (32, 8, 8))])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_pooling_and_dtype(backbone, tmp_path, pool, shape, dtype):
    spec = replace(SPEC, blocks=("mid",), pool=pool, dtype=dtype)
    extract_to_file(backbone, array_source(3), spec, tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        data = file["features/mid/t20"]
        assert data.shape == (3, *shape)
        assert data.dtype == np.dtype(dtype)
        assert data.attrs["layout"] == ("NCHW" if pool == "none" else "NC")


@pytest.mark.parametrize("t", ["sigma=1.0", "snr=1"])
def test_levels_by_ratio_are_stored_by_native_t(backbone, tmp_path, t):
    spec = replace(SPEC, timesteps=(t,), blocks=("mid",))
    extract_to_file(backbone, array_source(2), spec, tmp_path / "f.h5")
    with FeatureStore(tmp_path / "f.h5") as store:
        (native,) = store.timesteps
        assert store["mid", native].attrs["t"] == native
        assert abs(store["mid", native].attrs["log_snr"]) < 0.02


def test_five_thousand_class_names(backbone, tmp_path):
    names = tuple(f"class-{k}-{'n' * 20}" for k in range(5000))
    labels = np.array([4999, 0, 2500])
    source = array_source(3, labels=labels, class_names=names)
    extract_to_file(backbone, source, replace(SPEC, pool="1x1"), tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        assert tuple(file["labels"].attrs["names"]) == names
        assert file["labels"][:].tolist() == labels.tolist()


def test_a_sound_file_verifies(reference):
    assert verify(reference) == []


# --- what must not matter -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_matter(backbone, reference, tmp_path, workers):
    path = tmp_path / "f.h5"
    extract_to_file(backbone, array_source(), SPEC, path, batch_size=4, workers=workers)
    assert_same(path, reference)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_batch_size_does_not_matter(backbone, reference, tmp_path, batch_size):
    path = tmp_path / "f.h5"
    extract_to_file(backbone, array_source(), SPEC, path, batch_size=batch_size)
    assert_same(path, reference, atol=1e-5)


def test_shards_do_not_matter(backbone, reference, tmp_path, each_batch_a_shard):
    extract_to_file(backbone, array_source(), SPEC, tmp_path / "f.h5", batch_size=4)
    assert_same(tmp_path / "f.h5", reference)


def test_order_does_not_matter(backbone, folder, tmp_path):
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    found = {}
    for order, lines in {"forward": names, "backward": names[::-1]}.items():
        listed = folder / f"{order}.txt"
        listed.write_text("\n".join(lines), encoding="utf-8")
        path = tmp_path / f"{order}.h5"
        extract_to_file(backbone, open_source(listed), SPEC, path, batch_size=4)
        found[order] = content(path)
        assert found[order]["ids"].tolist() == [name.encode() for name in lines]
    for name, values in found["forward"].items():
        if name.startswith("features/"):
            np.testing.assert_allclose(found["backward"][name][::-1], values, rtol=0, atol=1e-5)


def test_a_subset_has_the_same_features(backbone, reference, tmp_path):
    chosen = [9, 2, 5]
    extract_to_file(backbone, array_source().take(chosen), SPEC, tmp_path / "f.h5")
    whole, part = content(reference), content(tmp_path / "f.h5")
    for name, values in part.items():
        if name.startswith("features/"):
            np.testing.assert_allclose(values, whole[name][chosen], rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(values, whole[name][chosen])


def test_the_seed_does_matter(backbone, reference, tmp_path):
    extract_to_file(backbone, array_source(), replace(SPEC, seed=1), tmp_path / "f.h5")
    name = "features/mid/t600"
    assert np.abs(content(tmp_path / "f.h5")[name] - content(reference)[name]).max() > 0.01


# --- once more with the same, or with another request ---------------------------------------


def test_a_second_run_does_nothing(backbone, tmp_path, forwards):
    path = tmp_path / "f.h5"
    first = extract_to_file(backbone, array_source(), SPEC, path)
    before = path.stat()
    forwards.clear()
    second = extract_to_file(backbone, array_source(), SPEC, path)
    after = path.stat()
    assert (first.status, second.status) == ("done", "already complete")
    assert (second.computed, second.pictures, second.skipped) == (0, 11, 0)
    assert forwards == []
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert os.listdir(tmp_path) == ["f.h5"]


def test_one_forward_row_per_picture_and_t(backbone, tmp_path, forwards):
    extract_to_file(backbone, array_source(), SPEC, tmp_path / "f.h5", batch_size=4)
    assert sum(forwards) == 11 * len(SPEC.timesteps)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"timesteps": (20,)}, "timesteps"),
        ({"blocks": ("mid",)}, "blocks"),
        ({"pool": "2x2"}, "pool"),
        ({"ensemble": 2}, "ensemble"),
        ({"seed": 1}, "seed"),
        ({"noise": "shared"}, "noise"),
        ({"steps": 20}, "steps"),
        ({"latent": "sample"}, "latent"),
        ({"scale_latent": False}, "scale_latent"),
        ({"flip": True}, "flip"),
        ({"tile": (16, 16)}, "tile"),
        ({"size": (32, 32)}, "size"),
        ({"fit": "crop"}, "fit"),
        ({"resample": "nearest"}, "resample"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_another_spec_is_refused(backbone, reference, forwards, change, named):
    before = reference.stat().st_mtime_ns
    with pytest.raises(SpecMismatch, match=rf"another spec \({named}: ") as caught:
        extract_to_file(backbone, array_source(), replace(SPEC, **change), reference)
    assert "; " not in str(caught.value).partition("another spec (")[2].partition(")")[0]
    assert reference.stat().st_mtime_ns == before
    assert forwards == []


def test_other_pictures_are_refused(backbone, reference):
    with pytest.raises(
        SpecMismatch,
        match=r"6 pictures are gone \(picture-005, .*-007, …\);",
    ):
        extract_to_file(backbone, array_source(5), SPEC, reference)


def test_another_model_is_refused(other_backbone, reference):
    with pytest.raises(SpecMismatch, match=r"\(model: "):
        extract_to_file(other_backbone, array_source(), SPEC, reference)


def test_another_word_for_the_same_is_the_same_request(backbone, reference, forwards):
    same = replace(SPEC, latent="mode", size=16, blocks=("up.0", "m*d"), timesteps=("20", 600.0))
    assert extract_to_file(backbone, array_source(), same, reference).status == "already complete"
    assert forwards == []


def test_overwrite(backbone, other_backbone, tmp_path):
    path = tmp_path / "f.h5"
    extract_to_file(backbone, array_source(), SPEC, path)
    result = extract_to_file(other_backbone, array_source(5), SPEC, path, overwrite=True)
    assert (result.status, result.pictures, result.computed) == ("done", 5, 5)
    with FeatureStore(path) as store:
        assert len(store) == 5
        assert store.model["fingerprint"] == other_backbone.fingerprint


@pytest.mark.parametrize(
    ("wrong", "options"),
    [
        ({"prompt": "a cat"}, {}),
        ({"captions": "pictures"}, {}),
        ({"label": 3}, {}),
        ({"label": "class"}, {}),
        ({"heads": (0,)}, {}),
        ({"noise": "inversion", "steps": 50, "timesteps": (21,)}, {}),
        ({"tile": (32, 32)}, {}),
        ({"fit": "native"}, {}),
        ({}, {"batch_size": -1}),
    ],
)
def test_a_request_that_cannot_be_meant_leaves_nothing_behind(backbone, tmp_path, wrong, options):
    path = tmp_path / "f.h5"
    with pytest.raises(SpecError):
        extract_to_file(backbone, array_source(2), replace(SPEC, **wrong), path, **options)
    assert os.listdir(tmp_path) == []
    assert extract_to_file(backbone, array_source(2), SPEC, path).status == "done"


def test_a_request_that_cannot_be_meant_does_not_cost_the_old_file(backbone, tmp_path):
    path = tmp_path / "f.h5"
    extract_to_file(backbone, array_source(2), SPEC, path)
    with pytest.raises(SpecError):
        extract_to_file(
            backbone, array_source(2), replace(SPEC, prompt="a cat"), path, overwrite=True
        )
    assert verify(path) == []


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (replace(SPEC, dtype="bfloat16"), {}),
        (replace(SPEC, blocks=("up.9",)), {}),
        (replace(SPEC, timesteps=(1000,)), {}),
        (SPEC, {"on_error": "ignore"}),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(backbone, tmp_path, spec, options):
    with pytest.raises(SpecError):
        extract_to_file(backbone, array_source(2), spec, tmp_path / "f.h5", **options)
    assert os.listdir(tmp_path) == []


def test_output_is_a_folder(backbone, tmp_path):
    with pytest.raises(StoreError, match="is a folder"):
        extract_to_file(backbone, array_source(2), SPEC, tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_is_something_else(backbone, tmp_path, overwrite):
    path = tmp_path / "f.h5"
    path.write_text("notes that took years")
    if overwrite:
        extract_to_file(backbone, array_source(2), SPEC, path, overwrite=True)
        assert verify(path) == []
    else:
        with pytest.raises(StoreError):
            extract_to_file(backbone, array_source(2), SPEC, path)
        assert path.read_text() == "notes that took years"


def test_output_in_an_impossible_place(backbone, tmp_path, forwards):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        extract_to_file(backbone, array_source(2), SPEC, tmp_path / "file" / "f.h5")
    assert forwards == []


# --- interruptions --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("shards", ["many", "one"])
def test_an_interrupted_run_goes_on(backbone, reference, tmp_path, monkeypatch, error, shards):
    if shards == "many":
        monkeypatch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)
    path = tmp_path / "f.h5"
    calls = []
    original = Extractor.start

    def break_down(self, batch):
        calls.append(list(batch.ids))
        if len(calls) == 3:
            raise error("in the third batch")
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "start", break_down)
        with pytest.raises(error):
            extract_to_file(backbone, array_source(), SPEC, path, batch_size=4)
    assert not path.exists()
    result = extract_to_file(backbone, array_source(), SPEC, path, batch_size=4)
    assert (result.status, result.computed, result.pictures) == ("resumed", 3, 11)
    assert_same(path, reference)
    assert os.listdir(tmp_path) == ["f.h5"]


def test_going_on_with_another_batch_size(backbone, reference, tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    with monkeypatch.context() as patch:
        original = Extractor.start
        calls = []

        def break_down(self, *args):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(self, *args)

        patch.setattr(Extractor, "start", break_down)
        with pytest.raises(KeyboardInterrupt):
            extract_to_file(backbone, array_source(), SPEC, path, batch_size=4)
    with pytest.warns(UserWarning, match="batch_size: 4 → 3"):
        result = extract_to_file(backbone, array_source(), SPEC, path, batch_size=3)
    assert result.computed == 7
    assert_same(path, reference, atol=1e-5)


def test_numbers_that_are_not_finite_stop_the_run(backbone, tmp_path, monkeypatch):
    spec = replace(SPEC, dtype="float16")
    plain = Extractor.keep
    monkeypatch.setattr(Extractor, "keep", lambda self, *args: plain(self, *args) * 1e9)
    with pytest.raises(DiffeatError, match="inf or nan"):
        extract_to_file(backbone, array_source(3), spec, tmp_path / "f.h5")
    assert not (tmp_path / "f.h5").exists()


# --- pictures that cannot be read -----------------------------------------------------------


@pytest.fixture
def damaged(folder):
    """The folder with one empty file and one truncated picture."""
    (folder / "cat" / "bad empty.png").write_bytes(b"")
    whole = next((folder / "hünd").glob("*.png")).read_bytes()
    (folder / "hünd" / "bad cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_fail_names_the_picture(backbone, damaged, tmp_path):
    with pytest.raises(PictureError, match=r"cat/bad empty\.png") as caught:
        extract_to_file(backbone, open_source(damaged), SPEC, tmp_path / "f.h5", batch_size=2)
    assert caught.value.picture == "cat/bad empty.png"
    assert not (tmp_path / "f.h5").exists()


def test_skip_records_what_was_left_out(backbone, folder, damaged, tmp_path):
    path = tmp_path / "f.h5"
    source = open_source(damaged)
    result = extract_to_file(backbone, source, SPEC, path, batch_size=2, on_error="skip")
    assert (result.pictures, result.computed, result.skipped) == (6, 6, 2)
    with FeatureStore(path) as store:
        assert set(store.skipped) == {"cat/bad empty.png", "hünd/bad cut.png"}
        assert "not a picture" in store.skipped["cat/bad empty.png"]
        assert "cannot be decoded" in store.skipped["hünd/bad cut.png"]
        assert store.labels.tolist() == [0, 0, 0, 1, 1, 1]
        good = [name for name in source.ids if "bad" not in name]
        assert store.ids == good
        images = [Image.open(folder / name) for name in good]
        memory = diffeat.extract(backbone, images, SPEC, ids=good)
        np.testing.assert_allclose(store["mid", 20][:], memory["mid", 20].numpy(), atol=1e-5)
    assert verify(path) == []


def test_rows_of_a_complete_file_with_skipped_pictures(backbone, damaged, tmp_path):
    path = tmp_path / "f.h5"
    for status in ("done", "already complete"):
        result = extract_to_file(backbone, open_source(damaged), SPEC, path, on_error="skip")
        assert (result.status, result.pictures) == (status, 6)


def test_a_run_that_failed_on_a_picture_goes_on_with_skip(
    backbone, damaged, tmp_path, each_batch_a_shard
):
    path = tmp_path / "f.h5"
    (damaged / "cat" / "bad empty.png").unlink()
    source = open_source(damaged)
    with pytest.raises(PictureError, match="bad cut"):
        extract_to_file(backbone, source, SPEC, path, batch_size=1)
    result = extract_to_file(backbone, source, SPEC, path, batch_size=1, on_error="skip")
    assert (result.status, result.computed, result.skipped, result.pictures) == (
        "resumed",
        3,
        1,
        6,
    )


def test_nothing_readable_and_then_repaired(backbone, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("a.png\nb.png\n")
    path = tmp_path / "f.h5"
    with pytest.raises(StoreError, match=r"every picture was skipped.*no such file"):
        extract_to_file(backbone, open_source(listed), SPEC, path, on_error="skip")
    assert not path.exists()
    for name in ("a.png", "b.png"):
        Image.fromarray(pictures(1)[0]).save(tmp_path / name)
    result = extract_to_file(backbone, open_source(listed), SPEC, path, on_error="skip")
    assert (result.pictures, result.computed) == (2, 2)


def test_a_file_name_that_is_no_text_is_refused_before_the_work(backbone, tmp_path, forwards):
    (tmp_path / "in").mkdir()
    Image.fromarray(pictures(1)[0]).save(tmp_path / "in" / "a.png")
    os.rename(tmp_path / "in" / "a.png", os.fsencode(tmp_path / "in") + b"/\xff.png")
    with pytest.raises(DiffeatError, match="UTF-8"):
        extract_to_file(backbone, open_source(tmp_path / "in"), SPEC, tmp_path / "f.h5")
    assert forwards == []


# --- what the user sees ---------------------------------------------------------------------


@pytest.mark.parametrize("progress", [False, None])
def test_no_bar_where_the_output_is_no_terminal(backbone, tmp_path, capfd, progress):
    extract_to_file(backbone, array_source(2), SPEC, tmp_path / "f.h5", progress=progress)
    assert capfd.readouterr() == ("", "")


def test_a_bar_when_asked_for(backbone, tmp_path, capfd):
    extract_to_file(backbone, array_source(2), SPEC, tmp_path / "f.h5", progress=True)
    shown = capfd.readouterr().err
    assert "extract" in shown
    assert "2/2" in shown


# replaced pictures, and outputs that must survive


def test_a_picture_replaced_under_its_name_is_noticed(backbone, folder, tmp_path):
    target = tmp_path / "f.h5"
    extract_to_file(backbone, open_source(folder), SPEC, target)
    Image.fromarray(pictures(1, seed=9)[0]).save(next(folder.rglob("*.png")))
    with pytest.raises(SpecMismatch, match="pictures"):
        extract_to_file(backbone, open_source(folder), SPEC, target)


def test_a_folder_may_move(backbone, folder, tmp_path):
    target = tmp_path / "f.h5"
    extract_to_file(backbone, open_source(folder), SPEC, target)
    moved = folder.rename(tmp_path / "elsewhere")
    result = extract_to_file(backbone, open_source(moved), SPEC, target)
    assert result.status == "already complete"


def test_overwriting_that_fails_keeps_the_old_file(backbone, damaged, tmp_path):
    target = tmp_path / "f.h5"
    extract_to_file(backbone, array_source(), SPEC, target)
    before = target.read_bytes()
    with pytest.raises(PictureError):
        extract_to_file(backbone, open_source(damaged), SPEC, target, overwrite=True)
    assert target.read_bytes() == before


def test_a_file_with_skipped_pictures_does_not_pass_for_a_full_one(backbone, damaged, tmp_path):
    target = tmp_path / "f.h5"
    extract_to_file(backbone, open_source(damaged), SPEC, target, on_error="skip")
    with pytest.raises(StoreError, match="--on-error skip"):
        extract_to_file(backbone, open_source(damaged), SPEC, target, on_error="fail")
