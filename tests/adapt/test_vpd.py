"""VPD: trained on toy pictures whose parts have names, frozen and fine-tuned, masks and depth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffeat
from diffeat.adapt import VPD
from diffeat.adapt.vpd_network import GAMMA
from diffeat.cli import cli
from diffeat.errors import SpecError
from diffeat.extraction import extract
from diffeat.extraction.learned_prompts import STATES
from diffeat.specs import ExtractSpec
from diffeat.targets.dense import open_dense
from diffeat.words.vocabulary import Vocabulary
from probes.objectives import Objective
from probes.training import validate
from tests.adapt.named_masks import WORDS, draw

SETTINGS = {
    "blocks": ("vpd:1", "vpd:4"), "attention": ("down.*.attn.*:cross.map", "up.*.attn.*:cross.map"),
    "size": 32, "width": 24, "epochs": 5, "batch_size": 2, "learning_rate": 1e-2,
    "templates": ("{}", "a {}"), "dropout": 0.0, "progress": False,
}  # fmt: skip


def model(backbone, words=WORDS, **more) -> VPD:
    return VPD(backbone, words, **{**SETTINGS, **more})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("vpd")


@pytest.fixture(scope="module")
def targets(root):
    return draw(root / "train", 10, 0)


@pytest.fixture(scope="module")
def held(root):
    return draw(root / "val", 6, 1)


@pytest.fixture(scope="module")
def trained(backbone_of, targets, held):
    return model(backbone_of("sd1")).fit(targets, held)


def loss_of(vpd, targets) -> float:
    objective: Objective = vpd._objective()
    return validate(vpd.module_, objective, vpd._data(vpd.module_, targets))["validation_loss"]


class TestTraining:
    def test_tokens_change_and_validation_loss_falls(self, trained, held):
        module = trained.module_
        assert loss_of(trained, held) < 0.95 * trained.start_["validation_loss"]
        moved = (module.context - module.classes).detach().abs()
        assert moved.max() > 10 * GAMMA
        gamma = module.adapter.gamma.detach().clone()
        whole = loss_of(trained, held)
        with torch.no_grad():
            module.adapter.gamma.zero_()  # the head as it was trained, the tokens as they began
        assert loss_of(trained, held) > whole
        with torch.no_grad():
            module.adapter.gamma.copy_(gamma)

    def test_a_frozen_denoiser_stays_and_a_tuned_copy_changes(self, backbone_of, targets):
        backbone, few = backbone_of("sd1"), targets.take(range(2))
        before = {k: v.clone() for k, v in backbone.denoiser.state_dict().items()}
        frozen = model(backbone, epochs=1).fit(few)
        names = {name.partition(".")[0] for name, _ in frozen.module_.named_parameters()}
        assert names == {"adapter", "head"}
        tuned = model(backbone, epochs=1, finetune=True, backbone_learning_rate=1e-3).fit(few)
        for name, value in backbone.denoiser.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(weight.grad is None for weight in backbone.denoiser.parameters())
        changed = {k for k, v in tuned.module_.denoiser.state_dict().items()
                   if not torch.equal(v, before[k])}  # fmt: skip
        assert any("attn2.to_k" in name for name in changed)

    def test_going_on_gives_the_same_bits(self, backbone_of, targets, held, tmp_path):
        few, some = targets.take(range(4)), held.take(range(2))
        whole = model(backbone_of("sd1"), epochs=2).fit(few, some)
        model(backbone_of("sd1"), epochs=2)  # another one draws nothing of its numbers
        dying = model(backbone_of("sd1"), epochs=2, checkpoint=tmp_path)
        plain = dying._data

        def failing(module, one):
            data, left = plain(module, one), [3]

            def batches(rng):
                for batch in type(data).shuffled(data, rng):
                    left[0] -= 1
                    if left[0] < 0:
                        raise KeyboardInterrupt
                    yield batch

            data.shuffled = batches
            return data

        dying._data = failing
        with pytest.raises(KeyboardInterrupt):
            dying.fit(few, some)
        again = model(backbone_of("sd1"), epochs=2, checkpoint=tmp_path).fit(few, some)
        for name, value in whole.module_.state_dict().items():
            assert torch.equal(value, again.module_.state_dict()[name]), name
        with pytest.raises(ValueError, match="words was"):
            model(backbone_of("sd1"), {"cat": [], "dog": [], "sky": []}, epochs=2,
                  checkpoint=tmp_path).fit(few, some)  # fmt: skip

    def test_depth(self, backbone_of, root, diffeat):
        folder = root / "depth"
        (folder / "images").mkdir(parents=True)
        (folder / "depth").mkdir()
        rng = np.random.default_rng(0)
        for k in range(4):
            metres = np.repeat(np.linspace(1 + k % 2, 4, 24)[:, None], 32, 1)
            pixels = np.repeat((metres * 60)[..., None], 3, 2) + rng.normal(0, 5, (24, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"images/{k}.png")
            Image.fromarray((metres * 1000).astype(np.uint16)).save(folder / f"depth/{k}.png")
        targets = open_dense(str(folder), kind="depth", unit="mm")
        vpd = model(backbone_of("sd1"), "kitchen,bath", task="depth", max_depth=6.0, last=16,
                    filters=(8, 8, 8)).fit(targets, targets)  # fmt: skip
        assert vpd.history_[-1]["validation_loss"] < vpd.start_["validation_loss"]
        (found,) = vpd.predict([targets.pictures().load(0)])
        assert found.shape == (24, 32)
        assert found.dtype == np.float32
        assert 0 < found.min() < found.max() < 6
        known = targets.target(0)
        assert np.abs(found - known).mean() / known.mean() < 1
        errors = [np.mean(np.abs(one - targets.target(k)) / targets.target(k)) for k, one in
                  enumerate(vpd.predict(targets.pictures().load(k) for k in range(4)))]  # fmt: skip
        assert vpd.score(targets) == pytest.approx(-np.mean(errors), rel=1e-5)
        path = vpd.save(root / "depth.safetensors")
        name, pictures = backbone_of("sd1").request.name, folder / "images"
        how = "--device", "cpu", "--model-dtype", "float32"
        answer = diffeat("predict", path, pictures, "-o", root / "maps", "--model", name,
                         "--format", "npz", "--json", *how)  # fmt: skip
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["predicted"] == 4
        with np.load(root / "maps" / "0.npz") as file:
            np.testing.assert_array_equal(file["depth"], found)
        refused = diffeat("segment", name, pictures, "--head", path, "-o", root / "m", *how)
        assert refused.code == 2
        assert "which gives depth; apply it with: diffeat predict" in refused.err

    def test_a_tuned_copy_runs_without_its_own_dropout(self, backbone_of):
        vpd = model(backbone_of("sd1"), finetune=True)
        vpd.vocabulary_ = Vocabulary.of(WORDS)
        module = vpd._built(torch.zeros(3, backbone_of("sd1").embedding_shapes[STATES][-1]))
        module.train()
        assert module.head.training
        assert not any(one.training for one in module.denoiser.modules())

    def test_more_classes_than_255(self, backbone_of, targets):
        """Class 255 is one, and no hole."""
        names = ["sky", "dog", *(f"word {k}" for k in range(253)), "cat", "more"]
        assert names.index("cat") == 255
        few = targets.take([0, 1])
        vpd = model(backbone_of("sd1"), names, templates="plain", epochs=1).fit(few)
        labels = vpd._data(vpd.module_, few).truth(0)
        np.testing.assert_array_equal(labels, np.array([255, 1, 0])[few.target(0)])
        assert 0 <= vpd.score(few) <= 1


class TestShown:
    def test_what_a_crop_leaves_out_does_not_count(self, backbone_of, targets, root):
        wide = draw(root / "wide", 2, 7, size=(24, 60))
        vpd = model(backbone_of("sd1"), epochs=1, fit_by="crop").fit(wide)
        shown = vpd.shown(wide.pictures().load(0))
        assert shown.shape == (24, 60)
        assert shown[:, 18:42].all()  # the middle square
        assert not shown[:, :18].any()
        assert not shown[:, 42:].any()
        found = [one[:, 18:42] for one in vpd.predict(wide.pictures().load(k) for k in (0, 1))]
        truth = [np.asarray(wide.target(k))[:, 18:42] for k in (0, 1)]
        a, b = np.concatenate(found).ravel(), np.concatenate(truth).ravel()
        overlaps = [((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in np.unique(b)]
        assert vpd.score(wide) == pytest.approx(np.mean(overlaps))
        squashed = model(backbone_of("sd1"), epochs=1).fit(targets.take([0]))
        assert squashed.shown(wide.pictures().load(0)).all()


class TestWhatItIsTold:
    def test_maps_are_those_of_an_extraction_with_the_same_context(
        self, backbone_of, targets, tmp_path, trained
    ):
        """Of plain features by ready embeddings; attention averaged over layers by hand."""
        from safetensors.torch import save_file

        picture = targets.pictures().load(0)
        context = trained.module_.context.detach()
        save_file({"encoder_hidden_states": context[None].contiguous()}, tmp_path / "e.safetensors")
        spec = ExtractSpec(
            (1,), (*SETTINGS["blocks"], *SETTINGS["attention"]), size=32, noise="none",
            scale_latent=False, embeddings=str(tmp_path / "e.safetensors"), dtype="float32",
        )  # fmt: skip
        kept = {block: one[0] for (block, _), one in
                extract(backbone_of("sd1"), [picture], spec).items()}  # fmt: skip
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        with torch.no_grad():
            found = [one[0] for one in trained.module_.maps(pixels)]
        attention = [one for name, one in kept.items() if name.endswith("cross.map")]
        assert len(attention) == 5
        assert {one.shape[0] for one in attention} == {3}
        (grid,) = {tuple(one.shape[1:]) for one in attention}
        torch.testing.assert_close(found[2], torch.as_tensor(sum(attention) / 5), atol=2e-5,
                                   rtol=1e-4)  # fmt: skip
        assert found[2].shape[1:] == grid
        for one, name in zip(found, trained.module_._forward.features, strict=False):
            torch.testing.assert_close(one, torch.as_tensor(kept[name]), atol=2e-5, rtol=1e-4)

    def test_shares_and_masks_are_of_the_picture_s_size(self, trained):
        rng = np.random.default_rng(5)
        picture = rng.integers(0, 255, (21, 47, 3), np.uint8)
        shares = trained.predict_proba(picture)
        np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
        (mask,) = trained.predict([picture])
        np.testing.assert_array_equal(mask, shares.argmax(0))
        assert mask.shape == (21, 47)


class TestKept:
    def test_loaded_it_says_the_same(self, trained, backbone_of, targets, root):
        path = trained.save(root / "v.safetensors")
        again = VPD.load(path, backbone_of("sd1"))
        assert again.fingerprint == trained.fingerprint
        picture = targets.pictures().load(1)
        np.testing.assert_array_equal(
            again.predict_proba(picture), trained.predict_proba(picture)
        )  # fmt: skip
        assert again.score(targets.take([0, 1])) == trained.score(targets.take([0, 1]))

    def test_a_tuned_denoiser_comes_back(self, backbone_of, targets, root):
        backbone, few = backbone_of("sd1"), targets.take([0, 1])
        tuned = model(backbone, epochs=1, finetune=True, backbone_learning_rate=1e-3).fit(few)
        again = VPD.load(tuned.save(root / "tuned.safetensors"), backbone)
        picture = targets.pictures().load(2)
        said = again.predict_proba(picture)
        np.testing.assert_array_equal(said, tuned.predict_proba(picture))
        weights = again.module_.denoiser.state_dict()
        for name, value in tuned.module_.denoiser.state_dict().items():
            assert torch.equal(value, weights[name]), name
        again.module_.denoiser.load_state_dict(backbone.denoiser.state_dict())
        assert np.abs(again.predict_proba(picture) - said).max() > 1e-4  # it is what is looked at

    def test_it_knows_its_pictures(self, trained, backbone_of, targets, held, root):
        again = VPD.load(trained.save(root / "k.safetensors"), backbone_of("sd1"))
        other = draw(root / "other", 3, 9)
        for one in (trained, again):
            assert one.known_among(targets.pictures()).count == 10
            assert one.known_among(held.pictures()).count == 6
            assert one.known_among(other.pictures()).count == 0

    def test_another_model_is_refused_by_name(self, trained, backbone_of, root):
        path = trained.save(root / "w.safetensors")
        with pytest.raises(SpecError, match="trained with the denoiser of"):
            VPD.load(path, backbone_of("sd2"))
        (root / "x.safetensors").write_bytes(path.read_bytes()[:-40])
        with pytest.raises(SpecError, match="damaged"):
            VPD.load(root / "x.safetensors", backbone_of("sd1"))
        with pytest.raises(SpecError, match="no such file"):
            VPD.load(root / "none.safetensors", backbone_of("sd1"))

    def test_segment(self, trained, diffeat, backbone_of, targets, root):
        path = trained.save(root / "s.safetensors")
        folder, out = root / "train", root / "out"
        name = backbone_of("sd1").request.name
        answer = diffeat(
            "segment", name, folder / "images", "--head", path, "-o", out, "--truth", folder,
            "--uncertainty", "--overlay", "--device", "cpu", "--model-dtype", "float32", "--json",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        said = json.loads(answer.out)
        assert said["predicted"] == 10
        assert said["scores"]["mIoU"] == pytest.approx(trained.score(targets))
        assert said["fitted_on"] == {"count": 10, "compared": 10, "sampled": False}
        assert "no score of them is a test" in answer.err
        first = targets.ids[0]
        mask = np.array(Image.open(out / f"{first.removesuffix('.png')}.png"))
        np.testing.assert_array_equal(mask, next(trained.predict([targets.pictures().load(0)])))
        refused = diffeat("segment", root / "f.h5", "--head", path, "-o", out)
        assert refused.code == 2
        assert "takes pictures and no features" in refused.err

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ((), "nothing would come of it"),
            (("--json", "--overlay"), "--overlay is for -o"),
            (("--json", "--batch-size", "2"), "leave --batch-size out"),
        ],
    )
    def test_segment_refuses(self, trained, diffeat, backbone_of, root, options, told):
        path = trained.save(root / "r.safetensors")
        name, pictures = backbone_of("sd1").request.name, root / "train" / "images"
        refused = diffeat("segment", name, pictures, "--head", path, *options)
        assert refused.code == 2
        assert told in refused.err

    def test_predict_says_who_gives_masks(self, trained, diffeat, root):
        path = trained.save(root / "p.safetensors")
        refused = diffeat("predict", path, root / "train" / "images")
        assert refused.code == 2
        assert f"--head {path} -o masks/" in refused.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"task": "words"}, "task='words'"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"max_depth": 0}, "max_depth"),
        ({"patience": 2}, "needs validation"),
        ({"words": "cat,cat,dog,sky"}, "there twice"),
        ({"words": "cat,dog"}, "no word of"),
        ({"blocks": ("down.0.attn.0:cross.map",), "attention": ()}, "no block has a map"),
        ({"blocks": ("vpd:1", "down.0.attn.0:cross.k")}, "have no map"),
        ({"blocks": "vpd:1"}, "as a tuple"),
        ({"attention": ("up.*.attn.*:self.map",)}, "attention of the image to the image"),
        ({"dropout": 1}, "dropout=1"),
        ({"filters": (8, 0)}, "filters="),
    ],
)
def test_what_cannot_be_meant(backbone_of, targets, more, told):
    with pytest.raises(SpecError, match=told):
        model(backbone_of("sd1"), **more).fit(targets.take([0]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_applied_and_trained_on_but_not_tuned(
    folder_of, backbone_of, targets, trained, root, dtype
):
    half = diffeat.load(str(folder_of("sd1")), device="cpu", dtype=dtype)
    with pytest.raises(SpecError, match="rounded away"):
        model(half, finetune=True).fit(targets)
    again = VPD.load(trained.save(root / f"{dtype}.safetensors"), half)
    picture = targets.pictures().load(0)
    here, there = again.predict_proba(picture), trained.predict_proba(picture)
    assert 0 < np.abs(here - there).max() < 0.1
    assert np.isfinite(model(half, epochs=1).fit(targets.take([0])).history_[0]["loss"])


def test_a_model_without_text(targets):
    with pytest.raises(SpecError, match="no one text encoder"):
        model(diffeat.load("unet-cifar10", device="cpu")).fit(targets)


def test_the_command_is_one_of_the_house():
    assert "segment" in cli.commands
