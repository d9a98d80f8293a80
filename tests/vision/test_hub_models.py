"""Models of transformers, against plain forwards of theirs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from diffeat.errors import ModelError, NumericsError, SpecError
from diffeat.vision import load_vision
from tests.vision.conftest import by_hand, pictures

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""What BitImageProcessor scales with unless it is told otherwise."""


def inputs(source):
    return by_hand(source, 28, CLIP_MEAN, CLIP_STD)


def compare(found: np.ndarray, wanted: torch.Tensor) -> None:
    assert found.dtype == np.float32
    assert np.ptp(found, axis=0).max() > 1e-2  # pictures differ
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def source():
    return pictures()


@torch.inference_mode()
def test_dinov2_gives_its_class_token(saved, source):
    folder = saved("dino")
    last = hf.Dinov2Model.from_pretrained(folder).eval()(inputs(source)).last_hidden_state
    compare(load_vision(str(folder)).features(source), last[:, 0])
    compare(load_vision(str(folder), pool="cls").features(source), last[:, 0])
    compare(load_vision(str(folder), pool="mean").features(source), last[:, 1:].mean(1))


@torch.inference_mode()
def test_registers_belong_to_no_place(saved, source):
    folder = saved("registers")
    model = hf.Dinov2WithRegistersModel.from_pretrained(folder).eval()
    last = model(inputs(source)).last_hidden_state
    assert last.shape[1] == 4 + 4
    compare(load_vision(str(folder), pool="mean").features(source), last[:, 4:].mean(1))


@torch.inference_mode()
def test_of_clip_the_part_that_sees(saved, source):
    folder = saved("clip")
    found = hf.CLIPVisionModel.from_pretrained(folder).eval()(inputs(source))
    compare(load_vision(str(folder)).features(source), found.pooler_output)
    compare(load_vision(str(folder), pool="cls").features(source), found.last_hidden_state[:, 0])


@torch.inference_mode()
def test_convnext_gives_its_pooled_output(saved, source):
    folder = saved("convnext")
    found = hf.ConvNextModel.from_pretrained(folder).eval()(inputs(source))
    compare(load_vision(str(folder)).features(source), found.pooler_output)
    wanted = found.last_hidden_state.mean((2, 3))
    compare(load_vision(str(folder), pool="mean").features(source), wanted)
    with pytest.raises(SpecError, match="no class token"):
        load_vision(str(folder), pool="cls").features(source)


@torch.inference_mode()
def test_a_masked_autoencoder_sees_everything(saved, source):
    folder = saved("mae")
    path, held = folder / "config.json", (folder / "config.json").read_text()
    path.write_text(held.replace('"vit_mae"', '"vit"'))  # the same network, nothing masked
    plain = hf.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    path.write_text(held)
    last = plain(inputs(source)).last_hidden_state
    compare(load_vision(str(folder)).features(source), last[:, 0])
    compare(load_vision(str(folder), pool="mean").features(source), last[:, 1:].mean(1))


def test_random_weights_have_a_seed(saved, source):
    name = str(saved("dino"))
    state = torch.get_rng_state()
    first, again, other = (load_vision(name + end) for end in ("@random", "@random:0", "@random:1"))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, load_vision(name).fingerprint}) == 3
    np.testing.assert_array_equal(first.features(source), again.features(source))


def test_the_fingerprint_does_not_see_where_the_folder_lies(saved, tmp_path):
    folder = saved("dino")
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_vision(str(copy)).fingerprint == load_vision(str(folder)).fingerprint


def test_the_fingerprint_sees_pool_precision_and_preprocessing(saved):
    folder = saved("dino")
    found = [load_vision(str(folder)), load_vision(str(folder), pool="mean"),
             load_vision(str(folder), dtype="bfloat16")]  # fmt: skip
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    found.append(load_vision(str(folder)))
    assert len({model.fingerprint for model in found}) == 4
    assert found[2].features(pictures(2)).dtype == np.float32
    assert {model.width for model in found} == {16}


class TestDamage:
    def lose(self, folder, key):
        weights = load_file(folder / "model.safetensors")
        del weights[key]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def test_a_missing_weight(self, saved):
        folder = saved("dino")
        self.lose(folder, "layernorm.weight")
        with pytest.raises(ModelError, match=r"lack 'layernorm.weight'.*restore"):
            load_vision(str(folder))

    def test_a_missing_weight_of_the_part_that_sees(self, saved):
        folder = saved("clip")
        self.lose(folder, "vision_model.post_layernorm.weight")
        with pytest.raises(ModelError, match="post_layernorm"):
            load_vision(str(folder))

    def test_weights_that_no_feature_needs_may_be_missing(self, saved):
        clip, vit = saved("clip"), saved("vit")
        self.lose(clip, "text_model.final_layer_norm.weight")
        self.lose(vit, "pooler.dense.weight")
        assert load_vision(str(clip)).width == load_vision(str(vit)).width == 16

    def test_nan(self, saved):
        folder = saved("dino")
        weights = load_file(folder / "model.safetensors")
        weights["layernorm.bias"][3] = torch.nan
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(NumericsError, match=r"layernorm.bias.*inf or nan"):
            load_vision(str(folder))

    def test_pickled_weights_only_when_allowed(self, saved):
        folder = saved("dino")
        wanted = load_vision(str(folder)).fingerprint
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match="allow-pickle"):
            load_vision(str(folder))
        assert load_vision(str(folder), allow_pickle=True).fingerprint == wanted

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    def test_a_missing_file(self, saved, name):
        folder = saved("dino")
        (folder / name).unlink()
        with pytest.raises(ModelError, match=rf"{name} is missing"):
            load_vision(str(folder))

    def test_code_in_the_folder_is_not_run(self, saved, tmp_path):
        folder = saved("dino")
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M: pass\n")
        config = json.loads((folder / "config.json").read_text())
        config |= {
            "model_type": "evil",
            "auto_map": {"AutoModel": "evil.M", "AutoConfig": "evil.M"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_vision(str(folder))
        assert not (tmp_path / "ran").exists()

    def test_a_model_of_texts(self, saved, tmp_path):
        folder = saved("dino")
        config = hf.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                               intermediate_size=8, vocab_size=9)  # fmt: skip
        hf.BertModel(config).save_pretrained(folder)
        with pytest.raises(ModelError, match="no vision model"):
            load_vision(str(folder))


def test_no_network(monkeypatch):
    def refuse(*_args, **_options):
        raise OSError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    for name, hint in (("facebook/dinov2-base", "folder"), ("timm:test_vit", "@/path/model")):
        with pytest.raises(ModelError, match=rf"no route to the hub.*HF_HOME.*{hint}"):
            load_vision(name)


def test_what_the_hub_gives(saved, monkeypatch):
    folder = saved("dino")
    asked = {}

    def give(name, **options):
        asked.update(name=name, **options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", give)
    assert load_vision().fingerprint == load_vision(str(folder)).fingerprint
    assert asked["name"] == "facebook/dinov2-base"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["allow_patterns"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nothing"}, r"unknown.*timm:NAME"),
        ({"name": "a/b@what"}, "@random"),
        ({"device": "meta"}, "no weights"),
        ({"pool": "max"}, "default, cls, mean"),
        ({"dtype": "int8"}, "float32"),
    ],
)
def test_requests_that_cannot_be_meant(options, message):
    with pytest.raises((ModelError, SpecError, RuntimeError), match=message):
        load_vision(**options)
