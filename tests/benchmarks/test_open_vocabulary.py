"""Open vocabularies: whole runs on tiny sets, against what must come out of true and no masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.catalogue import open_benchmark
from benchmarks.page import page
from benchmarks.report import markdown
from benchmarks.run import run_benchmark
from benchmarks.tasks import task_named
from benchmarks.tasks.open_vocabulary.clip import ClipNamer, named_as
from benchmarks.tasks.open_vocabulary.file import System
from diffeat.errors import ModelError, SpecError
from diffeat.targets.panoptic import open_panoptic
from diffeat.words.vocabulary import Vocabulary
from tests import parts
from tests.mask2former import save_mask2former
from tests.panoptic_sets import ade20k, coco

RECIPES = ("odise-coco", "odise-ade")
WORDS = ("cat", "dog", "sky", "grass")


def save_clip(folder):
    """A tiny CLIP with its tokenizer and preprocessing."""
    import transformers as hf

    hf.utils.logging.disable_progress_bar()
    tokenizer = parts.tokenizer(folder)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32}  # fmt: skip
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 20,
            "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}  # fmt: skip
    vision = {**small, "image_size": 28, "patch_size": 14}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        hf.CLIPModel(config).save_pretrained(folder)
    hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
                          ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    coco(root / "coco", "train2017", range(100, 106))
    coco(root / "coco", "val2017", range(4))
    ade20k(root / "ADEChallengeData2016", "train", range(100, 103))
    ade20k(root / "ADEChallengeData2016", "val")
    save_mask2former(root / "m2f")
    save_clip(root / "clip")
    return root


@pytest.fixture(autouse=True)
def _there(data, monkeypatch):
    monkeypatch.setenv("DIFFEAT_DATA", str(data))


def small(name="odise-coco", **changes):
    plain = {"proposals": "./m2f", "clip": "./clip", "test_limit": 3}
    return replace(open_benchmark(name), **plain, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def result(data, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEAT_DATA", str(data))
        return run_benchmark(small(), folder, "cpu")


def numbers(result, label) -> dict[str, float]:
    (row,) = (one for one in result["rows"] if one["label"] == label)
    return {one["name"]: one["value"] for one in row["scores"]}


class TestARun:
    def test_true_masks_lie_right_whatever_they_are_called(self, result):
        for label in ("true masks, CLIP", "true masks, chance"):
            found = numbers(result, label)
            assert found["PQ"] < 1
            assert found["RQ"] >= found["PQ"]

    def test_the_commonest_class_over_all(self, result, data):
        """Grass; its IoU is its share of the pixels that are known."""
        assert result["commonest"] == "grass"
        truth = open_panoptic(f"{data}/coco:val2017").of([f"{k:012d}.jpg" for k in range(4)])
        found = numbers(result, "one segment of the commonest class")
        assert found["AP"] == 0
        assert found["PQ of things"] == 0
        shares = [(truth.labels(row) == 3).sum() / (truth.labels(row) < 255).sum()
                  for row in range(4)]  # fmt: skip
        assert min(shares) / 4 <= found["mIoU"] <= max(shares) / 4

    def test_a_head_that_is_not_there_is_left_out(self, result):
        assert list(result["missing"]) == ["ODISE's head on Mask2Former's masks"]

    def test_tables_and_pages(self, result, folder):
        text = task_named("open-vocabulary").summary(result)
        assert "one segment of the commonest class" in text
        shown = markdown(folder)
        assert "55.40 [1]" in shown
        assert "Left out: ODISE's head on Mask2Former's masks:" in shown
        assert "PQ − that of Mask2Former's masks and classes" in shown
        assert "55.40 [1]" in page(folder)

    def test_differences_are_to_the_first_row(self, result):
        first, *others = result["rows"]
        assert "beside" not in first["scores"][0]
        for row in others:
            score = row["scores"][0]
            wanted = score["value"] - first["scores"][0]["value"]
            assert score["beside"]["value"] == pytest.approx(wanted)


def test_right_names_on_true_masks_are_perfect(data, tmp_path, monkeypatch):
    """A namer that reads the truth: PQ, AP and mIoU are 1."""
    from benchmarks.tasks.open_vocabulary import measure

    def told(self, system):
        def named(row, picture, found):
            segments = self.test.segmented(row).segments
            return np.eye(len(self.test.classes))[[one["class"] for one in segments]]

        return named

    monkeypatch.setattr(measure.Run, "_by_chance", told)
    systems = (System("told", "truth", "chance"),)
    found = numbers(run_benchmark(small("odise-ade", systems=systems), tmp_path, "cpu"), "told")
    assert found == pytest.approx(dict.fromkeys(found, 1))
    assert len(found) == 7


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
        with pytest.raises(ModelError, match="2 classes, the set has 4"):
            named_as("cat,dog", WORDS)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_can_be_meant(name):
    benchmark = open_benchmark(name)
    assert benchmark.task == "open-vocabulary"
    kinds = {(one.masks, one.names) for one in benchmark.systems}
    assert {("truth", "chance"), ("whole", "frequent"), ("random", "clip")} <= kinds


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"systems": (System("a", "mine", "clip"),)}, "masks = 'mine'; expected proposals"),
        ({"systems": (System("a", "truth", "own"),)}, "names = 'own' are those of proposals"),
        ({"systems": (System("a", "truth", "odise"),)}, "head goes with names = 'odise'"),
        ({"systems": ()}, "no systems"),
        ({"templates": ("a photo",)}, "where the word goes"),
    ],
)
def test_files_that_cannot_be_meant(changes, said):
    with pytest.raises(SpecError, match=said):
        small(**changes)
