"""Templates, and classes as means of what a text encoder makes of them."""

from __future__ import annotations

import hashlib

import pytest
import torch

import diffeat
from diffeat.errors import SourceError, SpecError
from diffeat.words.embeddings import class_embeddings
from diffeat.words.templates import IMAGENET, templates_of, texts_of
from tests.pipelines import BUILDERS


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "sd1"
    BUILDERS["sd1"](folder)
    return diffeat.load(str(folder), device="cpu", dtype="float32")


def test_eighty_different_templates_with_one_hole_each():
    assert len(set(IMAGENET)) == len(IMAGENET) == 80
    assert all(text.count("{}") == 1 for text in IMAGENET)
    assert {"itap of a {}.", "a photo of the hard to see {}.", "the origami {}."} <= set(IMAGENET)
    lines = "\n".join(sorted(IMAGENET)).encode()  # of the list in VPD's public code
    assert hashlib.sha256(lines).hexdigest().startswith("a8a4822f2921936e")


def test_templates_of_names_files_and_lists(tmp_path):
    assert templates_of("imagenet-80") == IMAGENET
    (tmp_path / "t.txt").write_text("a {}\n\nthe {} here\n")
    assert templates_of(tmp_path / "t.txt") == templates_of(["a {}", "the {} here"])
    assert texts_of(["x", "y"], ["a {}", "{}!"]) == ["a x", "x!", "a y", "y!"]


@pytest.mark.parametrize(
    ("said", "told"),
    [("imagenet", "imagenet-80"), (["a"], "one {}"), (["{} {}"], "one {}"), ([], "no text")],
)
def test_what_is_no_template(said, told):
    with pytest.raises(SpecError, match=told):
        templates_of(said)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="templates"):
        templates_of(tmp_path / "none.txt")


def test_embeddings_are_means_of_transformers_own_pooled_states(backbone):
    words, templates = {"cat": ["kit"], "dog": []}, ["a {}", "my {}"]
    found = class_embeddings(backbone, words, templates)
    tokenizer, encoder = backbone.extras["tokenizer"], backbone.extras["text_encoder"]

    def pooled(text):
        tokens = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length,
                           return_tensors="pt")  # fmt: skip
        with torch.no_grad():
            return encoder(tokens.input_ids).pooler_output[0]

    cat = torch.stack([pooled(t) for t in ("a cat", "my cat", "a kit", "my kit")]).mean(0)
    dog = torch.stack([pooled(t) for t in ("a dog", "my dog")]).mean(0)
    torch.testing.assert_close(found, torch.stack([cat, dog]))
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_models_and_words_that_will_not_do(backbone):
    with pytest.raises(SpecError, match="no one text encoder"):
        class_embeddings(diffeat.load("unet-cifar10", device="cpu"), "cat")
    with pytest.raises(SpecError, match="there twice"):
        class_embeddings(backbone, "cat,cat")
    with pytest.raises(SpecError, match="tokens"):
        class_embeddings(backbone, "cat " * 200, ["{}"])
