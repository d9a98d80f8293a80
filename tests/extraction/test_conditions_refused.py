"""Conditions that cannot be meant, and what the engine still gets wrong about them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch

import diffeat
from diffeat.errors import SpecError
from diffeat.images import ArraySource
from diffeat.jobs import extract_to_file
from tests.extraction.common import T, condition_of, output_of, same
from tests.pipelines import NATIVE, pictures

NONE = torch.zeros(1, 12, 16)  # embeddings of sd1


def spec(**options):
    return diffeat.ExtractSpec(T, "mid", **options)


@pytest.mark.parametrize(
    ("model", "options", "given", "message"),
    [
        ("pixel", {"prompt": "a"}, {}, "has no text encoder; leave out the prompt"),
        ("dit", {}, {"prompts": ["", "a"]}, "has no text encoder"),
        ("sd1", {}, {"labels": [0, 1]}, "not class-conditional; leave the label out"),
        ("pixel", {"label": 1}, {}, "not class-conditional"),
        ("dit", {}, {"labels": [0, 6]}, "label 6 is out of range.*0 … 4"),
        ("dit", {}, {"labels": [-1, 0]}, "label -1 is out of range"),
        ("pixel-classes", {}, {"labels": [0, None]}, "needs a class label; expected 0 … 4"),
        ("dit", {"label": "class"}, {}, "label='class', but these pictures have no classes"),
        ("sd1", {"prompt": "a {class}"}, {}, "'a {class}' names the class, but these pictures"),
        ("sd1", {"prompt": "a {category}"}, {}, "names the class"),
        ("sd1", {}, {"prompts": ["a"]}, "prompts: expected 2 texts, one per picture"),
        ("sd1", {}, {"prompts": "ab"}, "prompts: expected 2 texts, one per picture"),
        ("dit", {}, {"labels": [1]}, "1 labels for 2 pictures"),
        ("sd1", {"prompt": "a"}, {"prompts": ["a", "b"]}, "prompts= is given and the spec has a p"),
        ("sd1", {"captions": "x.csv"}, {"prompts": ["a", "b"]}, "prompts= is given and the spec"),
        ("sd1", {"prompt": "a"}, {"embeddings": {"encoder_hidden_states": NONE}}, "embeddings= is"),
        ("sd1", {}, {"prompts": ["a", "b"], "embeddings": {"encoder_hidden_states": NONE}},
         "prompts and embeddings are given"),
        ("sd1", {"embeddings": "no.safetensors"}, {}, "no.safetensors: no such file"),
        ("sd1", {"embeddings": "setup.cfg"}, {}, r"expected a \.safetensors file"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_meant(model, options, given, message, backbone_of):
    options = {"blocks": "block.0"} | options if model == "dit" else options
    asked = diffeat.ExtractSpec(T, options.pop("blocks", "mid"), **options)
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of(model), pictures(2), asked, **given)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "a", "captions": "b.csv"},
        {"prompt": "a", "embeddings": "b.safetensors"},
        {"captions": "a.csv", "embeddings": "b.safetensors"},
        {"label": "cat"},
        {"label": 1.5},
        {"captions": 3},
        {"embeddings": 3},
        {"prompt": None},
    ],
)
def test_specs_that_contradict_themselves(options):
    with pytest.raises(SpecError, match="|".join(options)):
        spec(**options)


def test_a_damaged_file_of_embeddings(backbone_of, tmp_path):
    (tmp_path / "e.safetensors").write_bytes(b"\xff" * 20)
    asked = spec(embeddings=tmp_path / "e.safetensors")
    with pytest.raises(SpecError, match=r"e\.safetensors.*expected a \.safetensors file"):
        diffeat.extract(backbone_of("sd1"), pictures(1), asked)


@pytest.mark.parametrize(
    ("model", "options", "fields", "message"),
    [
        ("dit", {"label": "class"}, {}, "label='class', but these pictures have no classes"),
        ("dit", {"label": "class"}, {"labels": np.array([0, 7]), "class_names": tuple("abcdefgh")},
         "classes of .* have numbers only, and .* names such as 'a'"),
        ("sd1", {"prompt": "a {class}"}, {}, "names the class"),
        ("sd1", {"label": "class"}, {"labels": np.array([0, 1]), "class_names": ("a", "b")},
         "not class-conditional"),
        ("sd1", {"embeddings": "no.safetensors"}, {}, "no such file"),
    ],
)  # fmt: skip
def test_sources_that_do_not_fit(model, options, fields, message, backbone_of, tmp_path):
    pixels = np.zeros((2, *NATIVE, 3), np.uint8)
    source = ArraySource(name="two", ids=("a", "b"), pixels=pixels, **fields)
    asked = diffeat.ExtractSpec(T, "block.0" if model == "dit" else "mid", **options)
    with pytest.raises((SpecError, OSError), match=message):
        extract_to_file(backbone_of(model), source, asked, tmp_path / "f.h5")
    assert not (tmp_path / "f.h5").exists()


# --- what is wrong today --------------------------------------------------------------------------


def test_one_picture_under_several_prompts(backbone_of, plain_of):
    plain, image = plain_of("sd1"), pictures(1)
    asked = diffeat.ExtractSpec(T, "up.1", noise="none", dtype="float32")
    found = diffeat.extract(
        backbone_of("sd1"), image.expand(2, -1, -1, -1), asked, prompts=["a cat", "do"], ids="xx"
    )["up.1", T]
    for row, text in enumerate(("a cat", "do")):
        condition = condition_of(plain, 1, prompt=text)
        same(found[row : row + 1], output_of(plain, "up.1", plain.encode(image), T, condition))


@pytest.mark.parametrize("model", ["sd1", "pixel-classes"])
def test_own_classes_of_pictures_with_prompts(model, backbone_of):
    prompts = ["a", "b"] if model == "sd1" else ["", ""]
    try:
        diffeat.extract(backbone_of(model), pictures(2), spec(label="class"), prompts=prompts)
    except SpecError:
        return
    raise AssertionError("label='class' was accepted for pictures without classes")


def test_labels_that_are_no_whole_numbers(backbone_of):
    found = None
    with suppress(SpecError, TypeError):
        found = diffeat.extract(backbone_of("pixel-classes"), pictures(2), spec(), labels=[1.7, 0])
    assert found is None
