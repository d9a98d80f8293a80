"""From a name to a backbone: bundled, local, hub, random, damaged."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import nn

import diffeat
from diffeat.backbones import bundled_models
from diffeat.errors import DeviceError, DiffeatError, ModelError, NumericsError, SpecError
from tests.pipelines import (
    EACH_PATH,
    NATIVE,
    Plain,
    build,
    levels,
    pictures,
    prompt_and_label,
    save_pixel,
    save_stable_diffusion,
)

PARTS = ("unet", "vae", "text_encoder")
FEW = ("pixel", "adm", "sd1", "sdxl", "dit", "sd35", "flux")


def load(folder, **options):
    return diffeat.load(str(folder), **{"device": "cpu", **options})


def features(backbone, model="sd1"):
    block, t = backbone.blocks[-1].name, levels(model)[0]
    asked = diffeat.ExtractSpec(t, block, dtype="float32", **prompt_and_label(model))
    return diffeat.extract(backbone, pictures(1), asked)[block, t]


def assert_same_features(backbone, other, model="sd1"):
    # the same weights at another address may go through other CPU kernels
    torch.testing.assert_close(
        features(backbone, model), features(other, model), rtol=1e-5, atol=1e-5
    )


def weights_file(folder: Path, part: str) -> Path:
    (path,) = (folder / part).glob("*.safetensors")
    return path


def change_weights(folder: Path, part: str, change) -> None:
    """Apply `change` to the dict of a component's weights."""
    path = weights_file(folder, part)
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def pickle_weights(folder: Path, parts=PARTS) -> None:
    for part in parts:
        path = weights_file(folder, part)
        name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()


def halve_weights(folder: Path, parts=PARTS) -> None:
    """Keep half-precision copies only, named as the hub does."""
    for part in parts:
        path = weights_file(folder, part)
        half = {name: weight.half() for name, weight in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- where models come from --------------------------------------------------------------------


@pytest.mark.parametrize("model", ["pixel", "sd1"])
def test_nothing_is_said_where_accelerate_is_not_installed(model, folder_of, monkeypatch, caplog):
    """diffusers would say six lines with every component if it were asked for less memory."""
    from diffusers.models import modeling_utils
    from diffusers.utils import import_utils, logging

    monkeypatch.setattr(import_utils, "_accelerate_available", False)
    monkeypatch.setattr(modeling_utils, "is_accelerate_available", lambda: False)
    logging.enable_propagation()
    try:
        load(folder_of(model))
        assert "accelerate" not in caplog.text
    finally:
        logging.disable_propagation()


@pytest.mark.parametrize("model", bundled_models())
def test_bundled_models_load_offline(model, no_network):
    backbone = diffeat.load(model, device="cpu")
    label = None if backbone.classes is None else 0
    asked = diffeat.ExtractSpec(50, "all", pool="1x1", label=label)
    found = diffeat.extract(backbone, pictures(1, backbone.native_size), asked)
    assert [value.shape for value in found.values()] == [(1, b.channels) for b in backbone.blocks]


def test_the_bundled_unet_equals_a_plain_forward():
    plain = Plain("unet-cifar10", bundled_models()["unet-cifar10"])
    backbone = diffeat.load("unet-cifar10", device="cpu", dtype="float32")
    images = pictures(2)
    asked = diffeat.ExtractSpec(60, "all", noise="none", dtype="float32")
    found = diffeat.extract(backbone, images, asked)
    expected = plain.maps([block.path for block in backbone.blocks], plain.encode(images), 60)
    for block in backbone.blocks:
        torch.testing.assert_close(
            found[block.name, 60], expected[block.path], rtol=1e-5, atol=1e-5
        )


def test_a_folder_is_taken_as_it_is_written(copy_of, monkeypatch):
    folder = copy_of("pixel")
    monkeypatch.chdir(folder.parent)
    for name in (folder.name, f"./{folder.name}", f"{folder}/"):
        assert_same_features(load(name), load(folder), "pixel")


def test_a_folder_may_have_an_at_sign_in_its_path(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("pixel"), tmp_path / "me@home" / "pixel")
    assert_same_features(load(folder), load(folder_of("pixel")), "pixel")


@pytest.mark.parametrize("model", ["unet-cifar", "unet-cifar01", "unet-cifar@random"])
def test_an_unknown_model_names_the_nearest(model):
    with pytest.raises(ModelError, match="did you mean 'unet-cifar10'"):
        diffeat.load(model, device="cpu")


def test_a_model_like_no_other_lists_what_there_is():
    with pytest.raises(ModelError, match=r"'zzz' is unknown; expected .*unet-cifar10.*hub id"):
        diffeat.load("zzz", device="cpu")


@pytest.mark.parametrize("suffix", ["@rnd", "@random:", "@random:x", "@random:-1", "@"])
def test_an_unknown_suffix(suffix):
    with pytest.raises(ModelError, match="expected '@random' or '@random:SEED'"):
        diffeat.load(f"unet-cifar10{suffix}", device="cpu")


# --- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that holds local folders and serves the files that are asked for."""
    held, asked = {}, []

    def snapshot_download(repo_id, *, allow_patterns=None, ignore_patterns=None, **_):
        asked.append(repo_id)
        if repo_id not in held:
            raise huggingface_hub.errors.LocalEntryNotFoundError("no route to the hub")
        source, target = held[repo_id], tmp_path / "hub" / repo_id
        names = [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
        for name in filter_repo_objects(
            names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    held["asked"] = asked
    return held


def test_an_unreachable_hub(hub):
    with pytest.raises(ModelError, match=r"'me/model'.*\(no route to the hub\).*pass its path"):
        diffeat.load("me/model", device="cpu")
    assert hub["asked"] == ["me/model"]


@pytest.mark.parametrize("error", [OSError("x\ny"), ValueError(), RuntimeError("a 401")])
def test_whatever_the_hub_raises(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match="cannot be fetched from the hub") as caught:
        diffeat.load("me/model", device="cpu")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("model", ["pixel", "sd1", "dit"])
def test_a_hub_id_equals_the_folder(model, hub, folder_of, tmp_path):
    hub["me/model"] = folder_of(model)
    backbone = diffeat.load("me/model", device="cpu")
    assert hub["asked"][0] == "me/model"
    assert_same_features(backbone, load(folder_of(model)), model)


def test_only_what_is_needed_is_fetched(hub, copy_of, tmp_path):
    folder = hub["me/model"] = copy_of("sd1")
    extra = [
        "v1-5-pruned.safetensors",
        "v1-5-pruned.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "safety_checker/model.safetensors",
    ]
    for name in extra:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    diffeat.load("me/model", device="cpu")
    assert [name for name in extra if (tmp_path / "hub" / "me" / "model" / name).exists()] == []


def test_a_random_twin_fetches_all_weights_but_the_denoisers(hub, folder_of, tmp_path):
    hub["me/model"] = folder_of("sd1")
    diffeat.load("me/model@random", device="cpu")
    fetched = {path.parent.name for path in (tmp_path / "hub").rglob("*.safetensors")}
    assert fetched == {"vae", "text_encoder"}


def test_an_architecture_fetches_no_weights(hub, folder_of, tmp_path):
    hub["me/model"] = folder_of("sd1")
    diffeat.load("me/model", device="meta")
    assert list((tmp_path / "hub").rglob("config.json"))
    assert list((tmp_path / "hub").rglob("*.safetensors")) == []


def test_a_random_twin_keeps_vae_and_text_encoder(folder_of):
    trained, twin = load(folder_of("sd1")), load(f"{folder_of('sd1')}@random")
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(trained.encode(pixels)[0], twin.encode(pixels)[0])
    prompts = [one.condition(["a"], [None])["encoder_hidden_states"] for one in (trained, twin)]
    assert torch.equal(*prompts)
    first = [next(one.denoiser.parameters()) for one in (trained, twin)]
    assert not torch.equal(*first)


@pytest.mark.parametrize("shard", ["evil.bin", "../vae/evil.safetensors", "/evil.safetensors"])
def test_an_index_may_name_nothing_but_safetensors_beside_it(copy_of, shard):
    folder = copy_of("pixel")
    index = {"metadata": {}, "weight_map": {"conv_in.weight": shard}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"expected \*\.safetensors in the same folder"):
        load(folder)


def test_half_precision_is_fetched_where_there_is_nothing_else(hub, copy_of):
    folder = hub["me/model"] = copy_of("sd1")
    halve_weights(folder)
    assert_same_features(diffeat.load("me/model", device="cpu"), load(folder))


def test_pickled_weights_on_the_hub_are_refused_unless_trusted(hub, copy_of, tmp_path):
    folder = hub["me/model"] = copy_of("pixel")
    pickle_weights(folder, ["unet"])
    with pytest.raises(ModelError, match="allow_pickle=True"):
        diffeat.load("me/model", device="cpu")
    assert list((tmp_path / "hub").rglob("*.bin")) == []


def test_trusted_pickled_weights_come_from_the_hub(hub, copy_of, folder_of):
    folder = hub["me/model"] = copy_of("pixel")
    pickle_weights(folder, ["unet"])
    trusted = diffeat.load("me/model", device="cpu", allow_pickle=True)
    assert_same_features(trusted, load(folder_of("pixel")), "pixel")


# --- random weights, and none ------------------------------------------------------------------


def all_weights(backbone) -> dict[str, torch.Tensor]:
    """Weights of everything that a forward runs through."""
    parts = {"denoiser": backbone.denoiser}
    parts |= {k: v for k, v in backbone.extras.items() if isinstance(v, nn.Module)}
    return {f"{p}.{n}": w for p, module in parts.items() for n, w in module.state_dict().items()}


@pytest.mark.parametrize("name", FEW)
def test_random_weights_are_the_same_every_time(name, folder_of):
    first = all_weights(load(f"{folder_of(name)}@random:3"))
    second = all_weights(load(f"{folder_of(name)}@random:3"))
    assert first.keys() == second.keys() == all_weights(load(folder_of(name))).keys()
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())


@pytest.mark.parametrize("name", FEW)
def test_random_weights_differ_by_seed_and_from_the_trained(name, folder_of):
    folder = folder_of(name)
    zero, one, trained = (
        features(load(f"{folder}{suffix}"), name) for suffix in ("@random", "@random:1", "")
    )
    assert not torch.allclose(zero, one, rtol=1e-2)
    assert not torch.allclose(zero, trained, rtol=1e-2)
    assert not torch.allclose(one, trained, rtol=1e-2)


def test_the_first_seed_is_zero(folder_of):
    folder = folder_of("pixel")
    first, zero = load(f"{folder}@random"), load(f"{folder}@random:0")
    assert_same_features(first, zero, "pixel")
    assert first.fingerprint == zero.fingerprint


def test_random_weights_do_not_depend_on_torch_random_state(folder_of):
    torch.manual_seed(1)
    first = load(f"{folder_of('sd1')}@random")
    torch.manual_seed(2)
    assert_same_features(load(f"{folder_of('sd1')}@random"), first)


@pytest.mark.parametrize("suffix", ["", "@random", "@random:7"])
@pytest.mark.parametrize("model", ["pixel", "sd1", "dit"])
def test_loading_leaves_torch_random_state_alone(model, suffix, folder_of):
    before = torch.get_rng_state()
    load(f"{folder_of(model)}{suffix}")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", EACH_PATH)
def test_meta_has_the_same_tensors_and_no_weights(name, folder_of, backbone_of):
    meta = load(folder_of(name), device="meta")
    assert meta.tensors == backbone_of(name).tensors
    assert meta.parameters == backbone_of(name).parameters
    assert {weight.device.type for weight in all_weights(meta).values()} == {"meta"}


def test_meta_needs_no_weights_on_disk(copy_of):
    folder = copy_of("sd1")
    for part in PARTS:
        weights_file(folder, part).unlink()
    assert load(folder, device="meta").blocks[0].name == "conv_in"
    assert load(f"{folder}@random").blocks[0].name == "conv_in"


def test_nothing_can_be_extracted_without_weights(folder_of):
    meta = load(folder_of("pixel"), device="meta")
    with pytest.raises(DiffeatError, match="meta"):
        features(meta, "pixel")


# --- weights on disk ---------------------------------------------------------------------------


def test_pickled_weights_are_refused_unless_trusted(copy_of, folder_of):
    folder = copy_of("sd1")
    pickle_weights(folder)
    with pytest.raises(ModelError, match=r"only pickled weights.*\.bin.*allow_pickle=True"):
        load(folder)
    trusted = load(folder, allow_pickle=True)
    assert_same_features(trusted, load(folder_of("sd1")))


@pytest.mark.parametrize("part", PARTS)
def test_pickled_weights_of_any_part_are_refused(part, copy_of):
    folder = copy_of("sd1")
    pickle_weights(folder, [part])
    with pytest.raises(ModelError, match=f"{part}.*only pickled weights"):
        load(folder)


def test_pickled_weights_beside_others_are_not_read(copy_of, folder_of):
    folder = copy_of("pixel")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    assert_same_features(load(folder), load(folder_of("pixel")), "pixel")
    assert load(folder).fingerprint == load(folder_of("pixel")).fingerprint


def test_half_precision_copies_alone_are_loaded(copy_of, folder_of):
    folder = copy_of("sd1")
    halve_weights(folder)
    half, full = all_weights(load(folder)), all_weights(load(folder_of("sd1")))
    assert half.keys() == full.keys()
    assert all(torch.equal(half[k], full[k].half().to(full[k].dtype)) for k in full)


def test_full_precision_is_preferred(copy_of, folder_of):
    folder = copy_of("pixel")
    path = weights_file(folder, "unet")
    zeros = {name: torch.zeros_like(weight) for name, weight in load_file(path).items()}
    save_file(zeros, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    assert_same_features(load(folder), load(folder_of("pixel")), "pixel")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("unet", "mid_block.resnets.1.conv2.weight"),
        ("vae", "encoder.conv_in.weight"),
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_weights_that_are_no_numbers(part, weight, value, copy_of):
    folder = copy_of("sd1")

    def damage(weights):
        (key,) = (key for key in weights if key.endswith(weight))
        weights[key].view(-1)[-1] = value

    change_weights(folder, part, damage)
    with pytest.raises(NumericsError, match=f"{part}.*{weight}.*inf or nan"):
        load(folder)


def test_the_vae_keeps_only_what_encodes(backbone_of):
    for model in ("sd1", "dit"):
        vae = backbone_of(model).vae
        assert list(vae.decoder.parameters()) == []
        assert {key.split(".")[0] for key in vae.state_dict()} == {"encoder", "quant_conv"}


def test_damage_in_the_decoder_does_no_harm(copy_of, folder_of):
    folder = copy_of("sd1")
    change_weights(folder, "vae", lambda w: w["decoder.conv_in.weight"].fill_(float("nan")))
    assert_same_features(load(folder), load(folder_of("sd1")))


def test_models_are_ready_for_inference(name, backbone_of):
    backbone = backbone_of(name)
    modules = [backbone.denoiser, *backbone.extras.values()]
    modules = [module for module in modules if isinstance(module, nn.Module)]
    assert not any(module.training for module in modules)
    assert not any(w.requires_grad for module in modules for w in module.parameters())


def test_loading_is_quiet_where_nobody_watches(folder_of, capfd):
    load(folder_of("sd1"))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# --- incomplete and damaged folders ------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("pixel", "unet"),
        ("sd1", "unet"),
        ("sd1", "vae"),
        ("sd1", "text_encoder"),
        ("sd1", "tokenizer"),
        ("sd1", "scheduler"),
        ("dit", "transformer"),
        ("dit", "vae"),
    ],
)
def test_a_missing_component(model, part, copy_of):
    folder = copy_of(model)
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=part if part not in ("unet", "transformer") else None):
        load(folder)


@pytest.mark.parametrize("part", PARTS)
def test_missing_weights(part, copy_of):
    folder = copy_of("sd1")
    weights_file(folder, part).unlink()
    with pytest.raises(ModelError, match=f"{part}: no weights"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs"])
@pytest.mark.parametrize("part", PARTS)
def test_damaged_weights(part, content, copy_of):
    folder = copy_of("sd1")
    weights_file(folder, part).write_bytes(content)
    with pytest.raises(ModelError, match=f"{part}.*restore"):
        load(folder)


@pytest.mark.parametrize("part", PARTS)
def test_truncated_weights(part, copy_of):
    folder = copy_of("sd1")
    path = weights_file(folder, part)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{part}.*restore"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("unet", "conv_in.weight"),
        ("vae", "encoder.conv_in.weight"),
        ("text_encoder", "encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_a_weight_that_is_left_out(part, weight, copy_of):
    folder = copy_of("sd1")

    def leave_out(weights):
        (key,) = (key for key in weights if key.endswith(weight))
        del weights[key]

    change_weights(folder, part, leave_out)
    with pytest.raises(ModelError, match=f"{part}.*{weight}"):
        load(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_weight_of_another_shape(part, copy_of):
    folder = copy_of("sd1")
    change_weights(folder, part, lambda w: w.update({sorted(w)[0]: torch.zeros(3)}))
    with pytest.raises(ModelError, match=part):
        load(folder)


@pytest.mark.parametrize(
    ("content", "suffix"), [("{", ""), ("{", "@random"), ("[]", ""), ("\udcff", "")]
)
@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_broken_json(file, content, suffix, copy_of):
    folder = copy_of("sd1")
    (folder / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError) as caught:
        load(f"{folder}{suffix}")
    assert file.split("/")[0] in str(caught.value)


def test_a_tokenizer_without_words(copy_of):
    folder = copy_of("sd1")
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelError, match=r"model_index\.json is missing; expected a diffusers"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["", "@random"])
def test_an_architecture_that_cannot_be_built(suffix, copy_of):
    folder = copy_of("pixel")
    change_json(folder / "unet" / "config.json", down_block_types=["NoSuchBlock"] * 3)
    with pytest.raises(ModelError, match=r"unet.*NoSuchBlock"):
        load(f"{folder}{suffix}")


# --- what is not supported ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "part", "change"),
    [
        ("pixel", "unet", {"_class_name": "UNet1DModel"}),
        ("pixel", "unet", {"class_embed_type": "timestep"}),
        ("sd1", "unet", {"addition_embed_type": "text_image"}),
        ("sd1", "unet", {"encoder_hid_dim_type": "text_proj"}),
        ("sd1", "unet", {"class_embed_type": "projection"}),
        ("dit", "transformer", {"norm_type": "ada_norm_single"}),
        ("dit", "transformer", {"_class_name": "HunyuanDiT2DModel"}),
        ("flux", "transformer", {"_class_name": "Flux2Transformer2DModel"}),
    ],
)
def test_an_unsupported_denoiser(model, part, change, copy_of):
    folder = copy_of(model)
    change_json(folder / part / "config.json", **change)
    change_json(folder / "model_index.json", _class_name="OddPipeline")
    with pytest.raises(ModelError, match=r"'OddPipeline' is not supported; .*UNet2DModel"):
        load(folder)


def test_the_refiner_of_sdxl_is_not_supported(copy_of):
    folder = copy_of("sdxl")
    change_json(folder / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    with pytest.raises(ModelError, match=r"'StableDiffusionXLPipeline' is not supported"):
        load(folder)


@pytest.mark.parametrize(
    ("model", "cls"), [("sd1", "FluxTransformer2DModel"), ("dit", "SD3Transformer2DModel")]
)
def test_weights_of_another_family(model, cls, copy_of):
    folder = copy_of(model)
    part = "unet" if model == "sd1" else "transformer"
    change_json(folder / part / "config.json", _class_name=cls)
    change_json(folder / "model_index.json", transformer=["diffusers", cls])
    if part == "unet":
        (folder / "unet").rename(folder / "transformer")
    with pytest.raises(ModelError, match="transformer"):
        load(folder)


def test_an_unsupported_pipeline(copy_of):
    folder = copy_of("pixel")
    change_json(folder / "model_index.json", _class_name="OddPipeline", unet=[None, None])
    shutil.rmtree(folder / "unet")
    with pytest.raises(ModelError, match="'OddPipeline' is not supported"):
        load(folder)


def test_a_scheduler_without_betas(copy_of):
    folder = copy_of("pixel")
    config = {"_class_name": "ScoreSdeVeScheduler", "num_train_timesteps": 2000}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match="ScoreSdeVeScheduler has no beta schedule"):
        load(folder)


@pytest.mark.parametrize(
    "change", [{"in_channels": 9}, {"num_class_embeds": 7}, {"class_embed_type": "timestep"}]
)
def test_denoisers_that_want_more_inputs(change, folder_of, tmp_path):
    scheduler = Plain("sd1", folder_of("sd1")).scheduler
    scheduler.register_to_config(steps_offset=1, clip_sample=False)
    save_stable_diffusion(tmp_path / "odd", scheduler, change, {})
    with pytest.raises(DiffeatError, match=f"{tmp_path / 'odd'}"):
        features(load(tmp_path / "odd"))


def test_a_timestep_as_class_is_not_supported(tmp_path):
    save_pixel(tmp_path / "odd", class_embed_type="timestep")
    with pytest.raises(DiffeatError, match=f"{tmp_path / 'odd'}"):
        features(load(tmp_path / "odd"), "pixel")


def test_a_unet_without_a_native_size(tmp_path):
    save_pixel(tmp_path / "any", sample_size=None)
    backbone = load(tmp_path / "any")
    assert features(backbone, "pixel").shape == (1, 8, *NATIVE)
    with pytest.raises(SpecError, match="multiples of 4"):
        diffeat.extract(backbone, pictures(1, (30, 32)), diffeat.ExtractSpec(20, "mid"))


def test_old_dit_folders_name_another_class(copy_of, folder_of):
    folder = copy_of("dit")
    change_json(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    change_json(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    assert_same_features(load(folder), load(folder_of("dit")), "dit")


# --- devices and precisions --------------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_where_there_is_none(device, no_gpu, folder_of):
    with pytest.raises(DeviceError, match=f"'{device}'.*sees 0 CUDA devices.*--device cpu"):
        load(folder_of("pixel"), device=device)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "", "fpga"])
def test_an_unknown_device(device, folder_of):
    with pytest.raises(DeviceError, match="expected auto, cpu or cuda"):
        load(folder_of("pixel"), device=device)


def test_auto_without_a_gpu(no_gpu, folder_of):
    backbone = load(folder_of("pixel"), device="auto", dtype="auto")
    assert (backbone.device.type, backbone.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes(dtype, copy_of):
    folder = copy_of("sd1")
    change_json(folder / "vae" / "config.json", force_upcast=False)
    assert {weight.dtype for weight in floating(load(folder, dtype=dtype))} == {
        getattr(torch, dtype)
    }


def floating(backbone, part=""):
    """Weights that are no integers, of everything or of one part."""
    found = all_weights(backbone).items()
    return [w for name, w in found if name.startswith(part) and w.is_floating_point()]


@pytest.mark.parametrize("suffix", ["", "@random"])
@pytest.mark.parametrize(
    ("dtype", "vae"),
    [("float32", "float32"), ("float16", "float32"), ("bfloat16", "bfloat16")],
)
def test_a_vae_that_overflows_in_half_precision_stays_in_full(dtype, vae, suffix, folder_of):
    backbone = load(f"{folder_of('sd1')}{suffix}", dtype=dtype)
    assert backbone.vae.config.force_upcast
    assert {weight.dtype for weight in floating(backbone, "vae.")} == {getattr(torch, vae)}
    for part in ("denoiser.", "text_encoder."):
        assert {weight.dtype for weight in floating(backbone, part)} == {getattr(torch, dtype)}
    assert backbone.encode(pictures(1))[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float64", "half", "", "fp8"])
def test_an_unknown_dtype(dtype, folder_of):
    with pytest.raises(SpecError, match="expected auto or float32, float16, bfloat16"):
        load(folder_of("pixel"), dtype=dtype)


# --- fingerprints ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_the_same_files_have_the_same_fingerprint(name, folder_of, tmp_path):
    again = build(name, tmp_path / "elsewhere")
    assert load(again).fingerprint == load(folder_of(name)).fingerprint


def test_fingerprints_differ_by_everything_that_changes_features(copy_of, folder_of):
    folder, changed = folder_of("sd1"), copy_of("sd1")
    found = [
        load(f"{folder}{suffix}", dtype=dtype).fingerprint
        for suffix in ("", "@random", "@random:1")
        for dtype in ("float32", "bfloat16")
    ]
    for part in PARTS:
        change_weights(changed, part, lambda w: w[sorted(w)[-1]].add_(1e-3))
        found.append(load(changed).fingerprint)
    scheduler = changed / "scheduler" / "scheduler_config.json"
    change_json(scheduler, beta_end=0.013)
    found.append(load(changed).fingerprint)
    assert len(set(found)) == len(found)
