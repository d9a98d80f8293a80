"""Models of timm, against plain forwards of timm after preprocessing by Pillow and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffeat.errors import ModelError
from diffeat.vision import load_vision
from tests.vision.conftest import pictures


def prepared(source, model) -> torch.Tensor:
    """(N, 3, H, W): the shorter side to input / crop_pct, its middle, scaled."""
    config = model.pretrained_cfg
    side = config["input_size"][-1]
    larger = int(side / config["crop_pct"])
    method = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}[config["interpolation"]]
    edge = round((larger - side) / 2)
    found = []
    for pixels in source.pixels:
        resized = np.asarray(Image.fromarray(pixels).resize((larger, larger), method))
        inner = resized[edge : edge + side, edge : edge + side] / 255
        found.append((inner - np.array(config["mean"])) / np.array(config["std"]))
    return torch.from_numpy(np.stack(found).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.fixture
def weights(tmp_path):
    """Saves seeded weights of a timm model; the file and the model without its classifier."""

    def save(name: str, **options):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = timm.create_model(name, **options)
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        plain = timm.create_model(name, num_classes=0)
        kept = {k: v for k, v in model.state_dict().items() if k in plain.state_dict()}
        plain.load_state_dict(kept)
        return path, plain.eval()

    return save


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
@torch.inference_mode()
def test_features_are_those_of_a_plain_forward(weights, name):
    path, plain = weights(name)
    source = pictures(3, 24)
    inputs = prepared(source, plain)
    model = load_vision(f"timm:{name}@{path}")
    found = model.features(source)
    assert found.shape == (3, model.width)
    np.testing.assert_allclose(found, plain(inputs).numpy(), rtol=1e-4, atol=1e-5)
    last = plain.forward_features(inputs)
    wanted = last[:, plain.num_prefix_tokens :].mean(1) if last.ndim == 3 else last.mean((2, 3))
    mean = load_vision(f"timm:{name}@{path}", pool="mean").features(source)
    np.testing.assert_allclose(mean, wanted.numpy(), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_class_token(weights):
    path, plain = weights("test_vit")
    source = pictures(2, 24)
    found = load_vision(f"timm:test_vit@{path}", pool="cls").features(source)
    wanted = plain.forward_features(prepared(source, plain))[:, 0]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no class token"):
        _ = load_vision("timm:test_resnet@random", pool="cls").width


def test_a_file_may_lack_the_classifier(weights):
    path, _ = weights("test_resnet", num_classes=0)
    assert not any(key.startswith("fc.") for key in load_file(path))
    assert load_vision(f"timm:test_resnet@{path}").width == 96


def test_a_file_may_lack_nothing_else(weights):
    path, _ = weights("test_resnet")
    held = load_file(path)
    del held["layer2.0.conv1.weight"]
    save_file(held, path)
    with pytest.raises(ModelError, match=r"not the weights of timm's test_resnet.*layer2.0.conv1"):
        load_vision(f"timm:test_resnet@{path}")


def test_a_file_of_another_model(weights):
    path, _ = weights("test_vit")
    with pytest.raises(ModelError, match="not the weights of timm's test_resnet"):
        load_vision(f"timm:test_resnet@{path}")
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not the weights"):
        load_vision(f"timm:test_vit@{path}")


def test_random_weights_have_a_seed():
    state = torch.get_rng_state()
    names = ("timm:test_vit@random", "timm:test_vit@random:0", "timm:test_vit@random:5")
    first, again, other = map(load_vision, names)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_weights_of_the_hub(weights, tmp_path, monkeypatch):
    path, _ = weights("test_vit")
    wanted = load_vision(f"timm:test_vit@{path}").fingerprint
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_a, **_o: str(folder))
    with pytest.raises(ModelError, match=r"no .safetensors weights.*allow-pickle"):
        load_vision("timm:test_vit.r160_in1k")
    path.rename(folder / "model.safetensors")
    assert load_vision("timm:test_vit.r160_in1k").fingerprint == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet51", "did you mean.*resnet50"),
        ("timm:test_vit.other", "expected one of r160_in1k"),
        ("timm:test_vit@what", "@random:SEED"),
        ("timm:test_vit@/nowhere.safetensors", "is no file"),
        ("timm:", "timm has no model"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ModelError, match=message):
        load_vision(name)
