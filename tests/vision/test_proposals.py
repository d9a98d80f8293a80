"""Masks of a Mask2Former, against plain forwards of transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.coords import Placement
from diffeat.errors import ModelError, NumericsError
from diffeat.vision.proposals import Mask2Former, Proposals
from tests.mask2former import NAMES, QUERIES, WIDTH, mask2former, save_mask2former
from tests.vision.conftest import pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_mask2former(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return Mask2Former(folder, "cpu")


@pytest.fixture
def copy(folder, tmp_path):
    """Another folder with the same files."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def picture(height: int = 50, width: int = 70, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@torch.no_grad()
def test_what_the_network_says(model):
    """The same weights, on pixels that are prepared by hand."""
    found = model.propose(picture(64, 96), grid=True)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pixels = (picture(64, 96) / 255 - mean) / std
    pixels = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
    wanted = mask2former()(pixel_values=pixels)
    torch.testing.assert_close(found.masks, wanted.masks_queries_logits[0], rtol=1e-3, atol=1e-4)
    shares = wanted.class_queries_logits[0].softmax(-1)
    torch.testing.assert_close(found.scores, shares[:, :3].sum(1))
    torch.testing.assert_close(found.class_scores, shares[:, :3])
    last = wanted.transformer_decoder_last_hidden_state[0]
    torch.testing.assert_close(found.features, last, rtol=1e-3, atol=1e-4)
    assert (found.features.shape, found.classes) == ((QUERIES, WIDTH), NAMES)
    assert found.masks.shape == (QUERIES, 16, 24)
    assert float(found.masks.std()) > 1e-6


def test_masks_of_the_pictures_size(model):
    found = model.propose(Image.fromarray(picture()))
    grid = model.propose(picture(), grid=True)
    assert found.masks.shape == (QUERIES, 50, 70)
    assert (grid.placement.input_size, grid.placement.picture_size) == ((64, 96), (50, 70))
    torch.testing.assert_close(grid.on_picture().masks, found.masks)
    assert found.on_picture() is found
    assert [len(one) for one in model.run(pictures(2))] == [QUERIES] * 2


def test_where_a_mask_lies():
    """Logits that grow evenly are, at every pixel, what its place says; padding is cut off."""
    place = Placement(1.5, 0.0, 2.0, 0.0, (64, 96), (24, 40))  # 48 × 60 of the input are picture
    rows, columns = np.mgrid[:16, :24].astype(np.float32)
    masks = torch.from_numpy(np.stack([rows, columns]))
    found = Proposals(masks, placement=place).on_picture()
    y, x = np.mgrid[:24, :40]
    for values, pixels, s, at in ((y, 64, 2.0, 16), (x, 96, 1.5, 24)):
        site = (s * (values + 0.5)) * at / pixels - 0.5
        seen = found.masks[0 if at == 16 else 1].numpy()
        inside = np.s_[3:-3, 3:-3]
        np.testing.assert_allclose(seen[inside], site[inside], atol=1e-4)
    assert found.placement is None


def test_some_of_the_masks(model):
    found = model.propose(picture())
    some = found.take(torch.tensor([4, 1]))
    torch.testing.assert_close(some.masks, found.masks[[4, 1]])
    torch.testing.assert_close(some.class_scores, found.class_scores[[4, 1]])
    bare = Proposals(found.masks).take(found.scores > 2)
    assert (len(bare), bare.scores) == (0, None)


def test_random_weights_are_the_same_for_a_seed(folder):
    one, two = (Mask2Former(f"{folder}@random:3", "cpu") for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != Mask2Former(f"{folder}@random", "cpu").fingerprint
    assert one.fingerprint != Mask2Former(folder, "cpu").fingerprint


class TestRefused:
    def test_without_weights(self, copy):
        (copy / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="a Mask2Former without weights; expected"):
            Mask2Former(copy)
        assert len(Mask2Former(f"{copy}@random", "cpu").classes) == 3

    def test_pickles(self, copy):
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"pickled weights alone \(pytorch_model.bin\)"):
            Mask2Former(copy)

    def test_another_architecture(self, copy):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "model_type": "maskformer"}))
        with pytest.raises(ModelError, match="is a 'maskformer', no Mask2Former"):
            Mask2Former(copy)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    def test_lacking_files(self, copy, name):
        (copy / name).unlink()
        with pytest.raises(ModelError, match=f"{name} is missing"):
            Mask2Former(copy)

    def test_damaged_weights(self, copy):
        (copy / "model.safetensors").write_bytes(b"\xff" * 100)
        with pytest.raises(ModelError, match="cannot be loaded as a Mask2Former"):
            Mask2Former(copy)

    def test_lacking_weights(self, copy):
        from safetensors.torch import load_file, save_file

        weights = load_file(copy / "model.safetensors")
        lacking = next(key for key in sorted(weights) if "class_predictor" in key)
        del weights[lacking]
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=f"lack '{lacking}'"):
            Mask2Former(copy)

    def test_weights_that_are_no_numbers(self, folder):
        model = Mask2Former(folder, "cpu")
        for weight in model.module.parameters():
            weight.fill_(float("nan"))
        with pytest.raises(NumericsError, match="inf or nan"):
            model.propose(picture())

    def test_no_such_folder(self):
        with pytest.raises(ModelError, match="no such folder; expected one with"):
            Mask2Former("nowhere")
