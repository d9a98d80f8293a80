"""Files and parts of version 0.1.0, whose specs knew fewer fields."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from diffeat.errors import DiffeatError, SpecMismatch
from diffeat.search.stored import identity_of
from diffeat.specs import LATER, ExtractSpec, differences
from diffeat.store import FeatureStore, Manifest, verify

FIELDS = ("timesteps", "blocks", "pool", "ensemble", "seed", "noise", "prompt", "label", "latent",
          "size", "fit", "resample", "dtype")  # fmt: skip


def older(request: dict) -> dict:
    """A request as version 0.1.0 wrote it down."""
    spec = {name: value for name, value in request["spec"].items() if name in FIELDS}
    assert set(spec) == set(FIELDS)
    pictures = {name: request["pictures"][name] for name in ("name", "count", "fingerprint")}
    return {"spec": spec, "model": request["model"], "pictures": pictures}


def make_older(path) -> None:
    """Turn a feature file into one of version 0.1.0."""
    with h5py.File(path, "r+") as file:
        request = {name: json.loads(file.attrs[name]) for name in ("spec", "model", "pictures")}
        for name, value in older(request).items():
            file.attrs[name] = json.dumps(value)
        file.attrs["diffeat_version"] = "0.1.0"
        file.attrs["fingerprint"] = "f" * 32


def make_note_older(parts) -> None:
    note = parts / "request.json"
    note.write_text(json.dumps(older(json.loads(note.read_text()))))


def changed(made, **changes):
    """The manifest of a job with other fields in its spec."""
    manifest = made.manifest
    return Manifest({**manifest.spec, **changes}, manifest.model, manifest.pictures)


# --- fingerprints of 0.6 --------------------------------------------------------------------

PLAIN = {"timesteps": (20, 60), "blocks": ("mid", "up.1")}
RICH = {"timesteps": ("sigma=0.3",), "blocks": ("up.*",), "pool": "2x2", "flip": True,
        "size": (256, 256), "fit": "crop", "resample": "lanczos", "seed": 3,
        "label": "class"}  # fmt: skip
MODEL = {"name": "m", "family": "f", "fingerprint": "a" * 32, "dtype": "float32"}
PICTURES = {"name": "p", "count": 10, "fingerprint": "b" * 32, "conditions": None}


@pytest.mark.parametrize(
    ("fields", "spec", "request_", "features"),  # as version 0.6.0 computed them
    [
        (PLAIN, "ea5c411f6299b65a9c49f6afddf7587d", "5fe67891606a89b6e5c88493f159206d",
         "48e562296164441c23d4fcff10b4dcb1"),
        (RICH, "bbd8c438ff0b2814321e2826d66f2229", "a50cc393de3e75801546c906de9774c7",
         "f7e1d1dc596ca7f6280f690ee0abd053"),
    ],
)  # fmt: skip
def test_fingerprints_are_those_of_version_0_6(fields, spec, request_, features):
    """Of specs (names of benchmark files), of requests (files), of features (journals)."""
    made = ExtractSpec(**fields)
    assert made.fingerprint == spec
    assert Manifest(made.to_dict(), MODEL, PICTURES).fingerprint == request_
    assert identity_of([(made.to_dict(), MODEL, PICTURES)]) == features
    for name in LATER:  # written out at its default, as a hand may do it
        written = {**made.to_dict(), name: getattr(made, name)}
        assert ExtractSpec.from_dict(written).fingerprint == spec
        assert Manifest(written, MODEL, PICTURES).fingerprint == request_


def test_a_younger_field_counts_where_it_is_not_the_default():
    made = ExtractSpec(**PLAIN, mirror=True)
    assert made.to_dict()["mirror"] is True
    assert ExtractSpec.from_json(made.to_json()) == made
    assert made.fingerprint != ExtractSpec(**PLAIN).fingerprint
    assert differences(ExtractSpec(**PLAIN).to_dict(), made.to_dict()) == ["mirror: False → True"]
    assert differences(made.to_dict(), ExtractSpec(**PLAIN).to_dict()) == ["mirror: True → False"]


# --- finished files -------------------------------------------------------------------------


@pytest.fixture
def old(job):
    """A job, and its finished file from version 0.1.0."""
    made = job(labels=np.arange(10) % 2, class_names=("cat", "dog"))
    make_older(made.write())
    return made


def test_an_older_file_can_be_read(old):
    with FeatureStore(old.path) as store:
        assert store.spec == ExtractSpec(timesteps=(20, 60), blocks=("mid", "up.1"))
        assert (store.spec.steps, store.spec.scale_latent, store.spec.flip) == (50, True, False)
        assert store.boxes is None
        assert store.fingerprint == "f" * 32  # as it was written
        np.testing.assert_array_equal(store["mid", 20][:], old.values["features/mid/t20"])
    assert verify(old.path) == []


def test_an_older_file_answers_the_same_request(old):
    before = old.path.read_bytes()
    with old.writer() as writer:
        assert writer.complete
        assert writer.remaining(4) == []
    assert old.path.read_bytes() == before


def test_requests_with_and_without_the_younger_fields_are_equal(job):
    manifest = job().manifest
    again = Manifest(
        **older({"spec": manifest.spec, "model": manifest.model, "pictures": manifest.pictures})
    )
    assert again.fingerprint == manifest.fingerprint
    again.check_same(manifest, job().path)
    manifest.check_same(again, job().path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": True}, "flip: False → True"),
        ({"mirror": True}, "mirror: False → True"),
        ({"steps": 20}, "steps: 50 → 20"),
        ({"scale_latent": False}, "scale_latent: True → False"),
        ({"captions": "c.csv"}, "captions: False → True"),
        ({"embeddings": "e.safetensors"}, "embeddings: False → True"),
        ({"tile": [16, 16]}, r"tile: None → \[16, 16\]"),
        ({"heads": [0]}, r"heads: None → \[0\]"),
        ({"tokens": [0, 3]}, r"tokens: None → \[0, 3\]"),
        ({"discard": [7]}, r"discard: \[\] → \[7\]"),
        ({"seed": 1}, "seed: 0 → 1"),
    ],
)
def test_another_request_names_the_field_that_differs(old, change, message):
    found = Manifest(**older(vars(old.manifest)))
    with pytest.raises(SpecMismatch, match=rf"another spec \({message}\); choose another output"):
        changed(old, **change).check_same(found, old.path)


def test_other_captions_are_another_request(job):
    made = job()
    manifest = made.manifest
    first, second = (
        Manifest(manifest.spec, manifest.model, {**manifest.pictures, "conditions": conditions})
        for conditions in ("a" * 32, "b" * 32)
    )
    with pytest.raises(SpecMismatch, match=r"\(captions or embeddings: 'a+' → 'b+'\)"):
        second.check_same(first, made.path)
    with pytest.raises(SpecMismatch, match=r"\(captions or embeddings: None → 'b+'\)"):
        second.check_same(manifest, made.path)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("name", ["captions", "embeddings"])
def test_it_does_not_matter_where_captions_lie(job, name):
    made = job()
    here, there = changed(made, **{name: "a/text"}), changed(made, **{name: "b/other"})
    there.check_same(here, made.path)
    assert here.fingerprint == there.fingerprint


def test_a_field_of_a_later_version_is_named(job):
    made = job()
    with h5py.File(made.write(), "r+") as file:
        file.attrs["spec"] = json.dumps({**made.manifest.spec, "flavour": "sweet"})
    with pytest.raises(DiffeatError, match="a spec has no field 'flavour'"):
        FeatureStore(made.path)


# --- unfinished parts -----------------------------------------------------------------------


def test_older_parts_are_gone_on_with(job, each_batch_a_shard):
    made = job()
    make_note_older(made.begin((0, 4), (4, 8)))
    with made.writer() as writer:
        assert writer.done == 8
        assert writer.remaining(4) == [(8, 10)]
        made.add(writer, 8, 10)
        writer.finish()
    with h5py.File(made.path) as file:
        for name, values in made.values.items():
            np.testing.assert_array_equal(file[name][:], values)
        assert json.loads(file.attrs["spec"]) == made.manifest.spec
    assert verify(made.path) == []


def test_older_parts_of_another_request_are_refused(job):
    make_note_older(job().begin((0, 4)))
    with pytest.raises(SpecMismatch, match="seed: 0 → 3"), job(seed=3).writer():
        pass


def test_older_parts_of_padded_pictures_are_made_again(job, each_batch_a_shard):
    make_note_older(job(fit="pad").begin((0, 4)))  # version 0.1.0 kept no boxes
    made = job(fit="pad", boxes=True)
    with made.writer() as writer:
        assert writer.done == 0
        assert writer.remaining(64) == [(0, 10)]
        made.add(writer, 0, 10)
        writer.finish()
    assert verify(made.path) == []
    with FeatureStore(made.path) as store:
        np.testing.assert_array_equal(store.boxes, made.values["boxes"])
