"""A CLIP that names masks, against the plain forward of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffeat.errors import ModelError, SpecError
from diffeat.vision.clip import AT_ONCE, ClipNamer
from diffeat.vision.joint import JointModel
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
        with pytest.raises(ModelError, match="expected a CLIP"):
            ClipNamer(str(data / "m2f"), Vocabulary.of("cat"), ["{}"])
        with pytest.raises(SpecError, match="tokens"):  # nothing is cut in silence
            ClipNamer(str(data / "clip"), Vocabulary.of("cat " * 40), ["{}"])

    @torch.no_grad()
    def test_long_masks_are_seen_whole(self, data):
        """Squashed to the input by Pillow's bicubic, as near as 8 bits are; many at a time."""
        import transformers as hf
        from PIL import Image

        rng = np.random.default_rng(3)
        picture = rng.integers(0, 256, (5, 60, 3), np.uint8).repeat(8, 0)
        masks = np.zeros((AT_ONCE + 3, 40, 60), bool)
        for k, mask in enumerate(masks):
            mask[10:22, k : k + 41] = True
        words = Vocabulary.of("cat,dog")
        namer = ClipNamer(JointModel.load(data / "clip", "cpu"), words, ["{}"])
        found = namer.scores(picture, masks)
        model = hf.CLIPModel.from_pretrained(data / "clip").eval()
        tokenizer = hf.CLIPTokenizer.from_pretrained(data / "clip")
        processor = hf.AutoImageProcessor.from_pretrained(data / "clip")
        texts = tokenizer(["cat", "dog"], return_tensors="pt", padding=True)
        for k in (0, AT_ONCE + 2):
            crop = Image.fromarray(picture[10:22, k : k + 41]).resize((28, 28), Image.BICUBIC)
            pixels = processor(images=crop, return_tensors="pt").pixel_values
            wanted = model(pixel_values=pixels, **texts).logits_per_image[0].double().softmax(0)
            np.testing.assert_allclose(found[k], wanted, atol=2e-3)
