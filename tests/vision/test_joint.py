"""Pictures, patches and words in one space, against transformers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from diffeat.errors import ModelError, SpecError
from diffeat.vision.joint import JointModel
from tests.mask2former import save_clip, save_mask2former


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("joint")
    save_clip(root / "clip")
    return root


@pytest.fixture(scope="module")
def model(root):
    return JointModel.load(root / "clip", "cpu")


@pytest.fixture(scope="module")
def plain(root):
    import transformers as hf

    return hf.CLIPModel.from_pretrained(root / "clip").eval()


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def given(x):
    """As its own preprocessing has it."""
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@torch.no_grad()
def test_pictures_and_texts(model, plain, x):
    ids = model.tokenizer(["a cat", "dog"], padding="max_length", return_tensors="pt")
    wanted = plain(pixel_values=given(x), **ids)
    unit = torch.nn.functional.normalize(model.pictures(x), dim=1)
    torch.testing.assert_close(unit, wanted.image_embeds, rtol=1e-4, atol=1e-5)
    texts = torch.nn.functional.normalize(model.texts(["a cat", "dog"]), dim=1)
    torch.testing.assert_close(texts, wanted.text_embeds, rtol=1e-4, atol=1e-5)
    assert model.scale == pytest.approx(float(plain.logit_scale.exp()))
    assert (model.width, model.side, model.grid) == (8, 28, (2, 2))


@torch.no_grad()
def test_the_class_token_as_a_patch_would_be_the_picture(model, plain, x):
    """The same norm and projection: of the class token they give transformers' embedding."""
    found = model.patches(x)
    assert found.shape == (2, 8, 2, 2)
    tokens = plain.vision_model(pixel_values=given(x)).last_hidden_state
    norm = plain.vision_model.post_layernorm
    first = plain.visual_projection(norm(tokens[:, 0]))
    torch.testing.assert_close(first, model.pictures(x), rtol=1e-4, atol=1e-5)
    last = plain.visual_projection(norm(tokens[:, 4]))  # the patch below, at the right
    torch.testing.assert_close(found[:, :, 1, 1], last, rtol=1e-4, atol=1e-5)


def test_words_are_means_of_templates(model):
    found = model.words(["cat", "dog"], ["{}", "a {}"])
    for word, one in zip(("cat", "dog"), found, strict=True):
        each = model.texts([word, f"a {word}"]).numpy()
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(0)
        np.testing.assert_allclose(one, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    with pytest.raises(SpecError, match="tokens"):
        model.words(["a very long name of a thing"])
    with pytest.raises(SpecError, match="expected texts with"):
        model.words(["cat"], ["photo"])


def test_other_weights_have_another_fingerprint(model, root):
    other = JointModel.load(f"{root / 'clip'}@random:3", "cpu")
    assert other.weights != model.weights
    assert other.text_files == model.text_files
    assert other.fingerprint != model.fingerprint


class TestRefusals:
    def test_without_weights(self, root, tmp_path):
        shutil.copytree(root / "clip", tmp_path / "clip")
        (tmp_path / "clip" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="a CLIP without weights; expected"):
            JointModel.load(tmp_path / "clip", "cpu")
        assert JointModel.load(f"{tmp_path / 'clip'}@random", "cpu").width == 8

    def test_without_projections(self, root, tmp_path, plain):
        import transformers as hf

        shutil.copytree(root / "clip", tmp_path / "clip")
        config = hf.CLIPVisionConfig.from_pretrained(root / "clip")
        hf.CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
        with pytest.raises(ModelError, match="without text_model, "):
            JointModel.load(tmp_path / "clip", "cpu")

    def test_weights_that_lack_some(self, root, tmp_path):
        shutil.copytree(root / "clip", tmp_path / "clip")
        path = tmp_path / "clip" / "config.json"
        config = json.loads(path.read_text("utf-8"))
        config["vision_config"]["num_hidden_layers"] = 2
        path.write_text(json.dumps(config), "utf-8")
        with pytest.raises(ModelError, match="the weights lack"):
            JointModel.load(tmp_path / "clip", "cpu")

    def test_other_models(self, tmp_path):
        save_mask2former(tmp_path / "m2f")
        for name in (tmp_path / "m2f", "nowhere"):
            with pytest.raises(ModelError, match=r"without text_model|no such folder"):
                JointModel.load(name, "cpu")
