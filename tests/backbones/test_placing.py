"""Requests for models, memory format, offloading, and random weights in half precision."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace

import pytest
import torch

import diffeat
from diffeat.backbones import ModelRequest, devices
from diffeat.backbones.placing import arrange
from diffeat.backbones.units import units
from diffeat.errors import SpecError
from diffeat.hooks import HookManager
from diffeat.loading import load_model
from tests.extraction.common import given, same, spec
from tests.pipelines import EACH_PATH, PATHS, WITH_VAE, levels, pictures


def load(folder, **options):
    return diffeat.load(str(folder), **{"device": "cpu", "dtype": "float32", **options})


def features(backbone, name, blocks="all", **options):
    found = diffeat.extract(backbone, pictures(2), spec(name, blocks, levels(name)[0], **options))
    return dict(found)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert torch.equal(found[key], values), key


def near(found, expected):
    """MKL adds in another order where copied weights are aligned otherwise."""
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        same(found[key], values)


# --- requests -------------------------------------------------------------------------------------


def test_another_process_can_load_the_same_model(folder_of):
    folder = folder_of("sd1")
    backbone = load(folder, dtype="bf16", channels_last=True, offload="vae")
    request = pickle.loads(pickle.dumps(backbone.request))
    assert request == ModelRequest(
        str(folder), "cpu", "bfloat16", channels_last=True, offload="vae"
    )
    again = load_model(request)
    assert again.request == request
    assert again.fingerprint == backbone.fingerprint
    equal(features(again, "sd1"), features(backbone, "sd1"))


def test_a_request_says_what_auto_meant(folder_of):
    assert diffeat.load(str(folder_of("pixel")), device="cpu").request.dtype == "float32"
    assert load(folder_of("pixel"), device="auto").request.device == "auto"


def test_files_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = ModelRequest("m", lora="a.safetensors", denoiser="~/b")
    assert request.lora == str(tmp_path / "a.safetensors")
    assert request.denoiser.endswith("/b")
    assert "~" not in request.denoiser


@pytest.mark.parametrize(
    ("short", "long"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")]
)
def test_short_names_of_precisions(short, long, folder_of):
    backbone = load(folder_of("pixel"), dtype=short)
    assert backbone.dtype == getattr(torch, long)
    assert backbone.request.dtype == long


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels_last": "yes"}, "channels_last='yes'; expected true, false or 'auto'"),
        ({"compile": "auto"}, "compile='auto'; expected true or false"),
        ({"offload": "block"}, "offload='block'; .*did you mean 'blocks'"),
        ({"offload": "blocks", "compile": True}, "do not go together"),
    ],
)
def test_what_cannot_be_meant(options, message, folder_of):
    with pytest.raises(SpecError, match=message):
        load(folder_of("pixel"), **options)


def test_every_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("auto", "cuda"):
        request = ModelRequest("m", device, compile=True)
        devices = [request.on(index).device for index in range(3)]
        assert devices == ["cuda:0", "cuda:1", "cuda:0"]
        assert replace(request.on(1), device=device) == request
    for device in ("cpu", "cuda:1"):
        assert ModelRequest("m", device).on(0).device == device


def test_without_gpus_a_worker_is_as_asked():
    if torch.cuda.is_available():
        assert ModelRequest("m").on(0).device == "cuda:0"
    else:
        assert ModelRequest("m").on(1) == ModelRequest("m")


# --- channels last --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH_PATH)
@pytest.mark.parametrize("pool", ["none"])
def test_the_memory_format_changes_no_feature(name, pool, folder_of):
    last, first = (load(folder_of(name), channels_last=asked) for asked in (True, False))
    assert last.channels_last
    assert not first.channels_last
    blocks = ("all", "net:*", *(("vae.**",) if name in WITH_VAE else ()))
    expected = features(first, name, blocks, pool=pool)
    for key, values in features(last, name, blocks, pool=pool).items():
        scale = max(1.0, float(expected[key].abs().max()))
        same(values / scale, expected[key] / scale)
        assert values.is_contiguous()


def test_convolutions_are_given_channels_last(folder_of):
    backbone = load(folder_of("sd1"), channels_last=True)
    seen = []
    layers = (backbone.denoiser.mid_block.resnets[0].conv1, backbone.vae.encoder.conv_in)
    hooks = [layer.register_forward_pre_hook(lambda m, x: seen.append((m, x[0])))
             for layer in layers]  # fmt: skip
    with given(backbone) as inputs:
        features(backbone, "sd1")
    for hook in hooks:
        hook.remove()
    assert {module for module, _ in seen} == set(layers)
    for module, x in (*seen, (layers[0], inputs[0][0])):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert module.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "expected"),
    [
        ("pixel", "cuda", "bfloat16", True),
        ("sd1", "cuda", "float16", True),
        ("dit", "cuda", "bfloat16", True),  # its VAE has convolutions
        ("dit-pixels", "cuda", "bfloat16", False),
        ("pixel", "cuda", "float32", False),
        ("pixel", "cpu", "float32", False),
        ("sd1", "cpu", "bfloat16", False),
    ],
)
def test_auto_is_for_convolutions_in_half_precision_on_a_gpu(
    name, device, dtype, expected, folder_of, monkeypatch
):
    backbone = load(folder_of(name), dtype=dtype)
    assert backbone.channels_last is False
    monkeypatch.setattr(backbone, "device", torch.device(device))
    arrange(backbone)
    assert backbone.channels_last is expected


# --- offloading -----------------------------------------------------------------------------------


@pytest.fixture
def journeys(monkeypatch):
    """What was copied to the device: names of weights cannot be told, so shapes."""
    copies = []

    def copied(weight, device):
        copies.append(weight.shape)
        return weight.clone()

    monkeypatch.setattr(devices, "copied", copied)
    return copies


def away(backbone, homes):
    """Weights of the denoiser that are not at home."""
    pairs = zip(backbone.denoiser.parameters(), homes, strict=True)
    return [weight for weight, home in pairs if weight.data_ptr() != home]


@pytest.mark.parametrize("model", PATHS)
def test_blocks_visit_the_device_one_at_a_time(model, folder_of, backbone_of, journeys):
    backbone = load(folder_of(model), offload="blocks", channels_last=False)
    plain = load(folder_of(model), channels_last=False)
    homes = [weight.data_ptr() for weight in backbone.denoiser.parameters()]
    blocks = units(backbone.denoiser)
    largest = max(len(list(block.parameters())) for block in blocks.values())
    most = []
    for block in blocks.values():
        block.register_forward_hook(lambda *_: most.append(len(away(backbone, homes))))
    names = [block.name for block in backbone.blocks]
    for wanted in (names, names[:1], names[len(names) // 2 : len(names) // 2 + 1], names):
        # the second and third forward are stopped inside, or just behind, a block
        near(features(backbone, model, wanted), features(plain, model, wanted))
        assert len(away(backbone, homes)) <= largest
    assert 0 < max(most) <= largest
    assert len(journeys) >= 2 * sum(len(list(block.parameters())) for block in blocks.values())


def test_taps_edits_and_maps_work_on_blocks_that_travel(folder_of, journeys):
    backbone, plain = load(folder_of("sd1"), offload="blocks"), load(folder_of("sd1"))
    names = [block.name for block in plain.tensors if not block.of_vae]
    near(features(backbone, "sd1", names), features(plain, "sd1", names))
    x = {"sample": torch.ones(1, 4, 16, 16), "timestep": torch.tensor([5]),
         "return_dict": False}  # fmt: skip
    x["encoder_hidden_states"] = torch.ones(1, *plain.embedding_shapes["encoder_hidden_states"])
    found = []
    for model in (backbone, plain):
        edits = {"down_blocks.0.resnets.0.conv1": lambda tensor: tensor * 2}
        with torch.no_grad(), HookManager(model.denoiser, {"a": "mid_block"}, edits=edits) as hooks:
            hooks.run(**x)
        found.append(hooks["a"])
    same(*found)
    assert journeys


@pytest.mark.parametrize("offload", ["vae", "blocks"])
def test_the_vae_visits_the_device(offload, folder_of, backbone_of, journeys, monkeypatch):
    backbone = load(folder_of("dit"), offload=offload)
    shapes = [tensor.shape for tensor in (*backbone.vae.parameters(), *backbone.vae.buffers())]
    homes = [tensor.data_ptr() for tensor in backbone.vae.parameters()]
    latents = backbone_of("dit").encode(pictures(2))
    monkeypatch.setattr(backbone, "device", torch.device("cuda"))  # a visit of the CPU is none
    found = backbone.encode(pictures(2))
    same(found[0], latents[0])
    same(found[1], latents[1])
    assert journeys == shapes
    assert [tensor.data_ptr() for tensor in backbone.vae.parameters()] == homes


@pytest.mark.parametrize("at", [1, 3, 30])
def test_no_memory_for_a_block_leaves_all_at_home(at, folder_of, journeys, monkeypatch):
    backbone, plain = load(folder_of("sd1"), offload="blocks"), load(folder_of("sd1"))
    homes = [weight.data_ptr() for weight in backbone.denoiser.parameters()]
    features(backbone, "sd1")  # leaves its last block there
    copy, count = devices.copied, len(journeys)

    def failing(weight, device):
        if len(journeys) - count >= at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return copy(weight, device)

    monkeypatch.setattr(devices, "copied", failing)
    x = {"sample": torch.ones(1, 4, 16, 16), "timestep": torch.tensor([5])}
    x["encoder_hidden_states"] = torch.ones(1, *plain.embedding_shapes["encoder_hidden_states"])
    for _ in range(2):  # again, it is not taken for one that is there
        with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
            backbone.denoiser(**x)
        assert not away(backbone, homes)
    monkeypatch.setattr(devices, "copied", copy)
    near(features(backbone, "sd1"), features(plain, "sd1"))


def test_no_memory_for_a_visit_brings_all_home(monkeypatch):
    module, weights = torch.nn.BatchNorm1d(3), []
    homes = [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())]

    def copied(weight, device):
        if len(weights) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        weights.append(weight.clone())
        return weights[-1]

    monkeypatch.setattr(devices, "copied", copied)
    with (
        pytest.raises(torch.OutOfMemoryError),
        devices.visiting(module, torch.device("cuda")),
    ):
        raise AssertionError("it runs although its weights are not there")
    assert len(weights) == 3
    assert [t.data_ptr() for t in (*module.parameters(), *module.buffers())] == homes


def test_nothing_travels_to_the_cpu_itself(folder_of, backbone_of):
    backbone = load(folder_of("sd1"), offload="blocks")
    homes = [weight.data_ptr() for weight in backbone.denoiser.parameters()]
    equal(features(backbone, "sd1"), features(backbone_of("sd1"), "sd1"))
    assert not away(backbone, homes)


@pytest.mark.parametrize("model", PATHS)
def test_blocks_hold_nearly_all_weights_and_none_twice(model, backbone_of):
    denoiser = backbone_of(model).denoiser
    blocks = units(denoiser)
    assert not any(b.startswith(f"{a}.") for a in blocks for b in blocks)
    held = [id(weight) for block in blocks.values() for weight in block.parameters()]
    assert len(held) == len(set(held))
    assert len(held) > 0.6 * len(list(denoiser.parameters()))


# --- random weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH_PATH)
def test_a_seed_means_the_same_in_every_precision(name, folder_of):
    dtype = "bfloat16"
    full, half = (load(f"{folder_of(name)}@random:3", dtype=d) for d in ("float32", dtype))
    expected = dict(full.denoiser.state_dict())
    computed = {key for key, _ in full.denoiser.named_buffers()}
    for key, value in half.denoiser.state_dict().items():
        wanted = expected[key] if key in computed else expected[key].to(getattr(torch, dtype))
        assert value.dtype == wanted.dtype, key
        assert torch.equal(value, wanted), key


def test_no_more_than_one_layer_is_built_in_fp32(folder_of, monkeypatch):
    wide, init = [], torch.nn.Linear.reset_parameters
    made = []

    def watched(layer):
        wide.append(sum(other.weight.dtype == torch.float32 for other in made))
        made.append(layer)
        init(layer)

    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", watched)
    load(f"{folder_of('dit')}@random", dtype="bfloat16")
    assert len(wide) > 20
    # a layer waits for the list that holds it to become part of a block
    assert max(wide) <= 3


def test_a_request_is_all_of_load(folder_of):
    import inspect

    assert list(asdict(ModelRequest("m"))) == list(inspect.signature(diffeat.load).parameters)
