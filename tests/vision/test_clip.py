"""A CLIP that names masks, against the plain forward of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffeat.errors import ModelError
from diffeat.vision.clip import ClipNamer
from diffeat.words.vocabulary import Vocabulary
from tests.mask2former import save_clip, save_mask2former


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_mask2former(root / "m2f")
    save_clip(root / "clip")
    return root


class TestClip:
    @torch.no_grad()
    def test_the_models_own_similarity(self, data):
        """Of a mask over all of a picture: transformers' forward; synonyms by the larger one."""
        import transformers as hf

        words = Vocabulary.of({"cat": ["kitten"], "dog": [], "sky": []})
        namer = ClipNamer(str(data / "clip"), words, ["a photo of a {}."])
        picture = np.random.default_rng(1).integers(0, 256, (28, 28, 3), np.uint8)
        found = namer.scores(picture, np.ones((1, 28, 28), bool))
        processor = hf.CLIPProcessor(
            hf.AutoImageProcessor.from_pretrained(data / "clip"),
            hf.CLIPTokenizer.from_pretrained(data / "clip"),
        )  # fmt: skip
        texts = [f"a photo of a {word}." for word in ("cat", "kitten", "dog", "sky")]
        inputs = processor(text=texts, images=picture, return_tensors="pt", padding=True)
        logits = hf.CLIPModel.from_pretrained(data / "clip").eval()(**inputs).logits_per_image[0]
        wanted = torch.stack([logits[:2].max(), logits[2], logits[3]]).double().softmax(0)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-4)

    def test_it_sees_nothing_outside_of_the_mask(self, data):
        namer = ClipNamer(str(data / "clip"), Vocabulary.of("cat,dog"), ["{}"])
        rng = np.random.default_rng(2)
        picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
        mask = np.zeros((1, 40, 40), bool)
        mask[0, 5:20, 8:30] = mask[0, 20:33, 15:20] = True
        other = np.where(mask[0][..., None], picture, rng.integers(0, 256, picture.shape, np.uint8))
        found = namer.scores(picture, mask)
        np.testing.assert_array_equal(found, namer.scores(other.astype(np.uint8), mask))
        assert np.abs(found - namer.scores(255 - picture, mask)).max() > 1e-6
        assert namer.scores(picture, mask[:0]).shape == (0, 2)

    def test_refusals(self, data):
        with pytest.raises(ModelError, match="no such folder"):
            ClipNamer("nowhere", Vocabulary.of("cat"), ["{}"])
        with pytest.raises(ModelError, match="is a 'mask2former', no CLIP"):
            ClipNamer(str(data / "m2f"), Vocabulary.of("cat"), ["{}"])
