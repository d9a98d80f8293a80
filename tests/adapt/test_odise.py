"""ODISE: trained on toy pictures whose parts have names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.adapt import ODISE
from diffeat.adapt.captioner import gates
from diffeat.adapt.odise_data import NamedPictures, overlaps
from diffeat.adapt.odise_named import NamedMasks
from diffeat.adapt.odise_tiles import Frame
from diffeat.errors import PictureError, SpecError
from diffeat.vision.joint import JointModel
from diffeat.vision.proposals import Proposals
from diffeat.words.vocabulary import Vocabulary
from probes.tensor_files import read_tensors, read_texts, write_tensors
from tests.adapt.named_masks import COLOURS, draw, model
from tests.mask2former import save_clip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("odise")


@pytest.fixture(scope="module")
def clip(root):
    return JointModel.load(str(save_clip(root / "clip")), "cpu")


@pytest.fixture(scope="module")
def targets(root):
    return draw(root / "train", 10, 0)


@pytest.fixture(scope="module")
def held(root):
    return draw(root / "val", 6, 1)


@pytest.fixture(scope="module")
def trained(backbone_of, clip, targets, held):
    return model(backbone_of("sd1"), clip).fit(targets, held)


def of_row(targets, row):
    picture, truth = targets.pictures().load(row), targets.target(row)
    labels = np.unique(truth)
    return picture, np.stack([truth == k for k in labels]), labels


class TestTraining:
    def test_validation_loss_falls_and_captions_change(self, trained, held):
        assert trained.score(held)["validation_loss"] < 0.8 * trained.start_["validation_loss"]
        best = trained.history_[trained.best_epoch_ - 1]
        assert trained.score(held)["validation_loss"] == pytest.approx(best["validation_loss"])
        assert best["validation_accuracy"] > trained.start_["validation_accuracy"]
        captioner = trained.module_.captioner
        with torch.no_grad():
            contexts, offsets = captioner(torch.randn(2, 8))
        assert (contexts - captioner.empty).abs().max() > 1e-3  # no empty text any more
        assert (contexts[0] - contexts[1]).abs().max() > 1e-4  # and another for every picture
        assert offsets.abs().max() > 1e-3
        assert gates(captioner)["words"] > 1e-3

    def test_only_what_is_trained_changes(self, backbone_of, clip, targets):
        backbone = backbone_of("sd1")
        frozen = (backbone.denoiser, backbone.vae, backbone.extras["text_encoder"], clip.model)
        before = [{k: v.clone() for k, v in one.state_dict().items()} for one in frozen]
        found = model(backbone, clip, epochs=1, time_offset=False, pooling="sites")
        found.fit(targets.take(range(2)))
        for module, was in zip(frozen, before, strict=True):
            assert all(torch.equal(v, was[k]) for k, v in module.state_dict().items())
            assert all(weight.grad is None for weight in module.parameters())
        names = {name.partition(".")[0] for name, _ in found.module_.named_parameters()}
        assert names == {"captioner", "pyramid", "naming"}
        assert all(weight.grad is not None for weight in found.module_.parameters())

    def test_going_on_gives_the_same_bits(self, backbone_of, clip, targets, held, tmp_path):
        few, some = targets.take(range(3)), held.take(range(2))
        given = backbone_of("sd1"), clip
        whole = model(*given, epochs=2).fit(few, some)
        dying = model(*given, epochs=2, checkpoint=tmp_path)
        dying._data = lambda module, one, propose: _Failing(
            ODISE._data(dying, module, one, propose), 3
        )
        with pytest.raises(KeyboardInterrupt):
            dying.fit(few, some)
        again = model(*given, epochs=2, checkpoint=tmp_path).fit(few, some)
        for name, value in whole.module_.state_dict().items():
            assert torch.equal(value, again.module_.state_dict()[name]), name
        assert [one["loss"] for one in again.history_] == [one["loss"] for one in whole.history_]
        changed = model(*given, epochs=2, checkpoint=tmp_path)
        changed.vocabulary = {"cat": ["kitty"], "dog": [], "sky": []}
        with pytest.raises(ValueError, match="words was"):
            changed.fit(few, some)


class _Failing:
    """Batches that end with an interruption after so many, of training."""

    def __init__(self, data, left):
        self.data, self.left = data, left

    def __getattr__(self, name):
        return getattr(self.data, name)

    def __len__(self):
        return len(self.data)

    def shuffled(self, rng):
        for batch in self.data.shuffled(rng):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield batch


class TestFiles:
    def test_the_same_names(self, trained, held, clip, backbone_of, tmp_path):
        path = trained.save(tmp_path / "o.safetensors")
        again = ODISE.load(path, backbone_of("sd1"), clip)
        picture, masks, _ = of_row(held, 0)
        found, wanted = again.name(picture, masks), trained.name(picture, masks)
        assert np.array_equal(found.scores, wanted.scores)
        assert found.classes == wanted.classes
        assert again.blocks == trained.blocks
        assert again.vocabulary_.words[1] == "kit"

    def test_other_models_are_refused_field_by_field(
        self, trained, clip, backbone_of, root, tmp_path
    ):
        path = trained.save(tmp_path / "o.safetensors")
        with pytest.raises(SpecError, match=r"the denoiser of .*; with the text encoder of"):
            ODISE.load(path, backbone_of("sd2"), clip)
        other = JointModel.load(f"{root / 'clip'}@random:7", "cpu")
        with pytest.raises(SpecError, match="trained with the CLIP of") as refused:
            ODISE.load(path, backbone_of("sd1"), other)
        assert "tokenizer" not in str(refused.value)
        assert "denoiser" not in str(refused.value)

    def test_damaged_files(self, trained, clip, backbone_of, tmp_path):
        path = trained.save(tmp_path / "o.safetensors")
        tensors, texts = read_tensors(path), read_texts(path)
        said = json.loads(texts["said"])
        given = backbone_of("sd1"), clip
        for change in ({"words": [[]]}, {"settings": {**said["settings"], "channels": 12}},
                       {"settings": {"epochs": "many"}}, {"models": 3}):  # fmt: skip
            write_tensors(path, tensors, {**texts, "said": json.dumps({**said, **change})})
            with pytest.raises(SpecError):
                ODISE.load(path, *given)
        write_tensors(path, tensors, {"format": "other"})
        with pytest.raises(SpecError, match="format 'other'; expected diffeat-odise-2"):
            ODISE.load(path, *given)
        pickled = tmp_path / "o.pt"
        torch.save(tensors, pickled)
        for wrong in (pickled, tmp_path / "none.safetensors"):
            with pytest.raises(SpecError, match="no such file"):
                ODISE.load(wrong, *given)
        pickled.rename(path)
        with pytest.raises(SpecError, match="damaged"):
            ODISE.load(path, *given)
        with pytest.raises(SpecError, match=r"ends in \.safetensors"):
            trained.save(pickled)


class TestNames:
    def test_a_mask_by_hand(self, trained, held):
        """A tile, its levels upsampled, their sum averaged over a mask's pixels."""
        picture, masks, _ = of_row(held, 1)
        module = trained.module_
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            levels = module.of_tiles(x[None], 32)
            pooled, valid = module.pooled(x, torch.from_numpy(masks))
        whole = sum(
            torch.nn.functional.interpolate(one, (32, 32), mode="bilinear") for one in
            levels.values()
        )[0]  # fmt: skip
        wanted = np.stack([whole.numpy()[:, mask].mean(1) for mask in masks])
        np.testing.assert_allclose(pooled, wanted, rtol=1e-3, atol=1e-4)
        assert valid.all()

    def test_wide_pictures_are_put_together_from_tiles(self, trained):
        x = torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))
        module = trained.module_
        with torch.no_grad():
            found = module.levels(x)
            left = module.of_tiles(x[None, :, :, :32], 32)
            right = module.of_tiles(x[None, :, :, 8:], 32)
        for stride in (2, 4):
            cells = 8 // stride
            torch.testing.assert_close(found[stride][:, :, :cells], left[stride][0, :, :, :cells])
            both = (left[stride][0, :, :, cells:] + right[stride][0, :, :, :-cells]) / 2
            torch.testing.assert_close(found[stride][:, :, cells:-cells], both)

    def test_words_in_another_order_and_other_words(self, trained, held):
        picture, masks, _ = of_row(held, 0)
        plain = trained.name(picture, masks, clip_weights=None)
        turned = trained.name(picture, masks, vocabulary="sky,dog,kit", clip_weights=None)
        assert turned.classes == ("sky", "dog", "kit")
        np.testing.assert_allclose(turned.scores[:, 1] / turned.scores[:, 0],
                                   plain.scores[:, 1] / plain.scores[:, 2], rtol=1e-5)  # fmt: skip
        np.testing.assert_allclose(plain.scores.sum(1), 1)
        with pytest.raises(SpecError, match="the word 'dog' is there twice"):
            trained.name(picture, masks, vocabulary=["dog", "cat", "dog"])
        with pytest.raises(SpecError, match="tokens"):
            trained.name(picture, masks, vocabulary=["a cat in a box of wood on a table"])

    def test_fused_by_hand(self, trained, held):
        """w .3 of "dog", which was trained with, and .7 of "cow", which was not."""
        picture, masks, _ = of_row(held, 0)
        given = {"vocabulary": "dog,cow"}
        a = trained.name(picture, masks, clip_weights=None, **given).scores
        b = trained.by_patches(picture, masks, "dog,cow")
        product = a ** [0.7, 0.3] * b ** [0.3, 0.7]
        found = trained.name(picture, masks, **given).scores
        np.testing.assert_allclose(found, product / product.sum(1, keepdims=True), rtol=1e-9)
        told = trained.name(picture, masks, clip_scores=b[:, ::-1], **given).scores
        product = a ** [0.7, 0.3] * b[:, ::-1] ** [0.3, 0.7]
        np.testing.assert_allclose(told, product / product.sum(1, keepdims=True), rtol=1e-9)

    def test_empty_masks_have_no_name(self, trained, held):
        picture, masks, _ = of_row(held, 0)
        masks = np.concatenate([masks, np.zeros_like(masks[:1])])
        found = trained.name(picture, masks)
        assert found.valid.tolist() == [True, True, False]
        assert found.labels[2] == -1
        assert not found.class_scores[2].any()
        assert trained.name(picture, masks[:0]).scores.shape == (0, 3)

    def test_labels_with_no_object(self):
        scores, nothing = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0.2, 0.5])
        found = NamedMasks(("a", "b"), scores, nothing, np.array([True, True]))
        assert found.labels.tolist() == [0, -1]  # .48 against .2; .35 against .5
        np.testing.assert_allclose(found.class_scores, [[0.48, 0.32], [0.15, 0.35]])


class TestSegments:
    def test_true_masks_get_their_pixels_back(self, trained, held):
        picture, masks, _ = of_row(held, 0)
        names = trained.name(picture, masks).labels
        found = trained.segment(picture, masks)
        wanted = np.full(found.shape, -1)
        for mask, name in zip(masks, names, strict=True):
            wanted[mask] = name
        assert np.array_equal(found, wanted)
        assert (trained.segment(picture, masks[:1])[~masks[0]] == -1).all()

    def test_things(self, trained, held):
        picture, masks, _ = of_row(held, 0)
        logits = torch.from_numpy(np.where(masks, 5.0, -5.0).astype(np.float32))
        found = trained.segment(picture, Proposals(logits), things={0, 1, 2})
        assert [one["area"] for one in found.segments] == masks.sum((1, 2)).tolist()
        names = trained.name(picture, masks).labels.tolist()
        assert [one["class"] for one in found.segments] == names


class TestProposals:
    def test_no_object_and_queries(self, backbone_of, clip, targets, held):
        """Proposals: true masks, and one corner that is none; queries that tell which."""

        def propose(picture):
            pixels = np.asarray(picture).astype(int)
            far = np.stack([np.abs(pixels - c).sum(2) for c in COLOURS.values()])
            best = far.argmin(0)
            masks = [best == k for k in np.unique(best) if (best == k).sum() > 40]
            corner = np.zeros(best.shape, bool)
            corner[:4, :4] = True
            masks = np.stack([*masks, corner])
            queries = torch.zeros(len(masks), 3)
            queries[-1] = 1
            return Proposals(torch.from_numpy(np.where(masks, 3.0, -3.0)).float(),
                             features=queries)  # fmt: skip

        found = model(backbone_of("sd1"), clip, void=True, query_width=3, epochs=2)
        found.fit(targets.take(range(8)), propose=propose)
        picture = held.pictures().load(0)
        named = found.name(picture, propose(picture), clip_weights=None)
        assert named.nothing[-1] > 0.5 > named.nothing[:-1].max()
        assert named.labels[-1] == -1
        with pytest.raises(SpecError, match="queries have shape None"):
            found.name(picture, propose(picture).masks)

    def test_overlaps(self):
        a = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
        b = torch.tensor([[[1, 0], [1, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]).bool()
        torch.testing.assert_close(
            overlaps(a, b), torch.tensor([[1 / 3, 0.5, 0.0], [0.0, 0.0, 0.0]])
        )

    def test_masks_without_a_site_are_left_out(self, root, held):
        words, frame = Vocabulary.of("cat,dog,sky"), Frame(32, 64, 8, 32)
        data = NamedPictures(held, words, frame, 2, 1, torch.device("cpu"))
        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, 3, 3] = masks[1, 2:6, 2:6] = True
        assert data.shown(masks).tolist() == [False, True]
        data.stride = None
        assert data.shown(masks).tolist() == [True, True]


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"epochs": 0}, "epochs=0"),
            ({"pooling": "soft"}, "pooling='soft'; expected pixels or sites"),
            ({"patience": 2}, "patience=2 needs validation"),
            ({"divisor": 6}, "divisor=6; expected a multiple"),
            ({"learning_rate": 0}, "learning_rate=0"),
            ({"blocks": ("odise:99",)}, "odise:99"),
            ({"templates": ("a photo",)}, "expected texts with {}"),
        ],
    )
    def test_settings(self, backbone_of, clip, targets, fields, message):
        with pytest.raises(SpecError, match=message):
            model(backbone_of("sd1"), clip, **fields).fit(targets)

    def test_words(self, backbone_of, clip, targets):
        with pytest.raises(SpecError, match="the word 'cat' is there twice"):
            ODISE(backbone_of("sd1"), clip, ["cat", "dog", "cat"]).fit(targets)
        with pytest.raises(SpecError, match="has the class 'sky', which is no word of"):
            ODISE(backbone_of("sd1"), clip, "cat,dog").fit(targets)

    def test_models(self, backbone_of, clip, targets):
        with pytest.raises(SpecError, match="not told one text"):
            model(backbone_of("pixel"), clip, blocks=("up.0",)).fit(targets)
        with pytest.raises(SpecError, match="expected a JointModel"):
            model(backbone_of("sd1"), "openai/clip").fit(targets)
        with pytest.raises(SpecError, match="not trained yet"):
            model(backbone_of("sd1"), clip).name(np.zeros((8, 8, 3)), np.ones((1, 8, 8), bool))

    def test_masks_of_another_size(self, trained, held):
        picture, masks, _ = of_row(held, 0)
        with pytest.raises(SpecError, match=r"masks have shape \(2, 16, 32\); expected"):
            trained.name(picture, masks[:, ::2])
        with pytest.raises(SpecError, match=r"masks are torch\.int64"):
            trained.segment(picture, masks.astype(np.int64))

    def test_masks_of_a_set_that_do_not_fit_their_pictures(self, root, clip, backbone_of):
        odd = draw(root / "odd", 1, 5)
        path = odd.pictures().paths[0]
        Image.open(path).resize((20, 20)).save(path)
        with pytest.raises(PictureError, match="is 32×32; expected 20×20"):
            model(backbone_of("sd1"), clip).fit(odd)
