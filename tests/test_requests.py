"""Which extractions are the same: those of version 0.1.0, and captions and labels of pictures."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

import diffeat
from diffeat.errors import SpecError, SpecMismatch
from diffeat.extraction import Extractor
from diffeat.images import ArraySource
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore
from diffeat.work import Worker

SPEC = diffeat.ExtractSpec((20, 600), ("mid", "up.0"), dtype="float32")
YOUNGER = {"steps", "captions", "embeddings", "scale_latent", "tile", "flip", "heads", "tokens",
           "discard"}  # fmt: skip


def source(count: int = 11, **fields) -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), np.uint8)
    ids = tuple(f"picture-{k:03d}" for k in range(count))
    return ArraySource(name="arrays", ids=ids, pixels=pixels, **fields)


def content(path) -> dict[str, np.ndarray]:
    """Features by name, read with plain h5py."""
    found = {}
    with h5py.File(path) as file:
        for block, group in file["features"].items():
            found |= {f"{block}/{t}": data[:] for t, data in group.items()}
    return found


# --- what version 0.1.0 left ----------------------------------------------------------------


def older(request: dict) -> dict:
    """A request as version 0.1.0 wrote it."""
    assert set(request["spec"]) > YOUNGER
    spec = {name: value for name, value in request["spec"].items() if name not in YOUNGER}
    pictures = {key: value for key, value in request["pictures"].items() if key != "conditions"}
    return {"spec": spec, "model": request["model"], "pictures": pictures}


def test_a_file_of_an_older_version_is_complete(backbone_of, tmp_path, monkeypatch):
    path, backbone = tmp_path / "f.h5", backbone_of("pixel")
    extract_to_file(backbone, source(), SPEC, path)
    with h5py.File(path, "r+") as file:
        request = {name: json.loads(file.attrs[name]) for name in ("spec", "model", "pictures")}
        file.attrs.update({name: json.dumps(value) for name, value in older(request).items()})
        file.attrs["diffeat_version"] = "0.1.0"
    monkeypatch.setattr(Extractor, "start", None)  # nothing is to be computed
    assert extract_to_file(backbone, source(), SPEC, path).status == "already complete"
    with pytest.raises(SpecMismatch, match=r"another spec \(flip: False → True\)"):
        extract_to_file(backbone, source(), replace(SPEC, flip=True), path)


def test_a_run_that_an_older_version_began_goes_on(backbone_of, tmp_path, monkeypatch):
    monkeypatch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)
    backbone, original = backbone_of("pixel"), Extractor.start
    whole, path = tmp_path / "whole.h5", tmp_path / "f.h5"
    extract_to_file(backbone, source(), SPEC, whole, batch_size=4)

    def break_down(self, batch):
        if "picture-004" in batch.ids:
            raise KeyboardInterrupt
        return original(self, batch)

    columns = Worker._columns

    def without(self, *args):
        return tuple(c for c in columns(self, *args) if c.name not in ("sizes", "placements"))

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "start", break_down)
        patch.setattr(Worker, "_columns", without)
        with pytest.raises(KeyboardInterrupt):
            extract_to_file(backbone, source(), SPEC, path, batch_size=4)
    note = tmp_path / "f.h5.parts" / "request.json"
    note.write_text(json.dumps(older(json.loads(note.read_text()))))
    with pytest.warns(UserWarning, match="goes on without /sizes and /placements"):
        result = extract_to_file(backbone, source(), SPEC, path, batch_size=4)
    assert (result.status, result.computed) == ("resumed", 7)
    found, wanted = content(path), content(whole)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


# --- prompts and labels of pictures ---------------------------------------------------------


def test_captions_that_come_with_the_pictures(backbone_of, tmp_path):
    backbone, texts = backbone_of("sd1"), ("a cat", "do", "")
    pictures = source(3, captions=texts)
    spec = diffeat.ExtractSpec(200, "up.1", captions="pictures", dtype="float32")
    extract_to_file(backbone, pictures, spec, tmp_path / "f.h5", batch_size=2)
    images = [pictures.load(k) for k in range(3)]
    plain = replace(spec, captions=None)
    memory = diffeat.extract(backbone, images, plain, ids=pictures.ids, prompts=texts)
    with FeatureStore(tmp_path / "f.h5") as store:
        np.testing.assert_allclose(store["up.1", 200][:], memory["up.1", 200], atol=1e-5)
    other = source(3, captions=("a cat", "do", "a"))
    with pytest.raises(SpecMismatch, match=r"\(captions or embeddings: "):
        extract_to_file(backbone, other, spec, tmp_path / "f.h5")


def test_captions_that_nobody_asked_for_do_not_matter(backbone_of, tmp_path):
    backbone, spec = backbone_of("pixel"), replace(SPEC, pool="1x1")
    extract_to_file(backbone, source(3, captions=("a", "b", "c")), spec, tmp_path / "f.h5")
    again = extract_to_file(backbone, source(3), spec, tmp_path / "f.h5")
    assert again.status == "already complete"


def test_pictures_without_captions(backbone_of, tmp_path):
    spec = diffeat.ExtractSpec(200, "up.1", captions="pictures")
    with pytest.raises(SpecError, match="captions='pictures', but arrays has none; give a CSV or"):
        extract_to_file(backbone_of("sd1"), source(2), spec, tmp_path / "f.h5")
    assert os.listdir(tmp_path) == []


def test_captions_for_a_model_that_does_not_read(backbone_of, tmp_path):
    spec = replace(SPEC, captions="pictures")
    with pytest.raises(SpecError, match="no text encoder"):
        extract_to_file(
            backbone_of("pixel"), source(2, captions=("a", "b")), spec, tmp_path / "f.h5"
        )
    assert os.listdir(tmp_path) == []


def test_the_class_of_each_picture_is_its_label(backbone_of, tmp_path):
    backbone, labels = backbone_of("adm-classes"), np.array([2, 0, 4])
    pictures = source(3, labels=labels, class_names=tuple("01234"))
    spec = diffeat.ExtractSpec(200, "mid", label="class", dtype="float32")
    extract_to_file(backbone, pictures, spec, tmp_path / "f.h5", batch_size=2)
    images = [pictures.load(k) for k in range(3)]
    plain = replace(spec, label=None)
    memory = diffeat.extract(backbone, images, plain, ids=pictures.ids, labels=labels.tolist())
    with FeatureStore(tmp_path / "f.h5") as store:
        np.testing.assert_allclose(store["mid", 200][:], memory["mid", 200], atol=1e-5)
        assert store.spec.label == "class"


@pytest.mark.parametrize("word", ["{class}", "{category}"])
def test_the_name_of_the_class_is_in_the_prompt(backbone_of, tmp_path, word):
    backbone = backbone_of("sd1")
    pictures = source(2, labels=np.array([1, 0]), class_names=("a_cat", "dog"))
    spec = diffeat.ExtractSpec(200, "up.1", prompt=f"at {word}", dtype="float32")
    extract_to_file(backbone, pictures, spec, tmp_path / "f.h5")
    images, texts = [pictures.load(k) for k in range(2)], ["at dog", "at a cat"]
    plain = replace(spec, prompt="")
    memory = diffeat.extract(backbone, images, plain, ids=pictures.ids, prompts=texts)
    with FeatureStore(tmp_path / "f.h5") as store:
        np.testing.assert_allclose(store["up.1", 200][:], memory["up.1", 200], atol=1e-5)


def test_one_picture_with_two_prompts(backbone_of):
    backbone = backbone_of("sd1")
    picture = source(1).load(0)
    spec = diffeat.ExtractSpec(200, "up.1", noise="none", dtype="float32")
    texts = ["a cat", "do"]
    twice = diffeat.extract(backbone, [picture] * 2, spec, ids=["a", "a"], prompts=texts)
    apart = diffeat.extract(backbone, [picture] * 2, spec, ids=["a", "b"], prompts=texts)
    np.testing.assert_allclose(twice["up.1", 200], apart["up.1", 200], atol=1e-5)
