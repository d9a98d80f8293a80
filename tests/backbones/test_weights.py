"""Weights that are merged, swapped, random or missing; LoRA against diffusers' own adapters."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import diffusers
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import diffeat
from diffeat.backbones import FAMILIES
from diffeat.backbones.locate import known_models
from diffeat.backbones.weights import check_finite
from diffeat.errors import ModelError, NumericsError, SpecError
from tests.pipelines import BUILDERS, Plain, build, levels, pictures, prompt_and_label
from tests.twins import twin

EXACT = {"rtol": 1e-5, "atol": 1e-5}
WITH_LORA = ("sd1", "sdxl", "sd3", "flux")
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
RANK = 3
WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_FILE = "pytorch_lora_weights.safetensors"


def load(folder, **options):
    return diffeat.load(str(folder), **{"device": "cpu", "dtype": "float32", **options})


def features(backbone, name):
    """Every block's output for one picture without noise, by path."""
    t = levels(name)[1]
    fields = {"noise": "none", "dtype": "float32", **prompt_and_label(name)}
    found = diffeat.extract(backbone, pictures(1), diffeat.ExtractSpec(t, "all", **fields))
    return {block.path: found[block.name, t] for block in backbone.blocks}


def expected(plain: Plain, paths):
    """The same of a plain forward."""
    return plain.maps(paths, plain.encode(pictures(1)), levels(plain.name)[1])


def assert_same(found, wanted):
    """As another's features, or as a plain forward."""
    wanted = expected(wanted, found) if isinstance(wanted, Plain) else wanted
    for path, values in found.items():
        torch.testing.assert_close(values, wanted[path], **EXACT, msg=lambda m, p=path: f"{p}: {m}")


def assert_other(found, wanted):
    last = list(wanted)[-1]
    assert not torch.allclose(found[last], wanted[last], rtol=1e-2, atol=1e-2)


# --- LoRA -----------------------------------------------------------------------------------------


@torch.no_grad()
def adapted(name: str, folder: Path, alpha: int = RANK, layers=LORA_LAYERS) -> Plain:
    """A plain pipeline whose denoiser has an adapter that is active."""
    plain = Plain(name, folder)
    config = peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=layers,
                             init_lora_weights=False)  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    plain.denoiser.add_adapter(config)
    for path, weight in plain.denoiser.named_parameters():
        if "lora_" in path:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return plain


def adapter_of(plain: Plain) -> dict[str, torch.Tensor]:
    return peft.get_peft_model_state_dict(plain.denoiser)


def save_lora(plain: Plain, folder: Path, with_config: bool = False) -> Path:
    """The adapter in diffusers' layout, as its pipeline saves it."""
    options = {f"{plain.component}_lora_layers": adapter_of(plain)}
    if with_config:
        config = plain.denoiser.peft_config["default"].to_dict()
        options[f"{plain.component}_lora_adapter_metadata"] = config
    getattr(diffusers, plain.kind).save_lora_weights(folder, **options)
    return folder / LORA_FILE


def save_kohya(plain: Plain, path: Path, alpha: float) -> Path:
    """The adapter as kohya's scripts save it."""
    found = {}
    for key, weight in adapter_of(plain).items():
        place, letter = key.removesuffix(".weight").rsplit(".lora_", 1)
        place = f"lora_unet_{place.replace('.', '_')}"
        found[f"{place}.lora_{ {'A': 'down', 'B': 'up'}[letter] }.weight"] = weight.contiguous()
        found[f"{place}.alpha"] = torch.tensor(alpha)
    save_file(found, path)
    return path


@pytest.fixture(scope="module")
def lora_of(folder_of, tmp_path_factory):
    """(plain pipeline with its adapter, file of the adapter), by name; leave both as they are."""

    @cache
    def made(name):
        plain = adapted(name, folder_of(name))
        return plain, save_lora(plain, tmp_path_factory.mktemp("lora"))

    return made


@pytest.mark.parametrize("name", WITH_LORA)
def test_a_lora_equals_its_adapter(name, lora_of, backbone_of):
    plain, path = lora_of(name)
    merged, base = load(plain.folder, lora=path), backbone_of(name)
    found = features(merged, name)
    assert_same(found, plain)
    assert_other(found, features(base, name))
    # nothing of the adapter is left
    modules = [
        {path: type(module) for path, module in backbone.denoiser.named_modules()}
        for backbone in (merged, base)
    ]
    assert modules[0] == modules[1]
    assert merged.tensors == base.tensors
    assert merged.parameters == base.parameters
    assert not merged.denoiser.training
    assert not any(weight.requires_grad for weight in merged.denoiser.parameters())
    assert merged.fingerprint != base.fingerprint


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_a_lora_file_says_how_strong_it_is(name, folder_of, tmp_path):
    plain = adapted(name, folder_of(name), alpha=2 * RANK)
    merged = load(folder_of(name), lora=save_lora(plain, tmp_path, with_config=True))
    assert_same(features(merged, name), plain)


def test_a_lora_of_kohya(folder_of, tmp_path):
    layers = ["to_q", "to_v", "to_out.0", "proj_in", "conv1"]  # linear and convolution
    plain = adapted("sd1", folder_of("sd1"), alpha=2 * RANK, layers=layers)
    path = save_kohya(plain, tmp_path / "kohya.safetensors", 2.0 * RANK)
    assert_same(features(load(folder_of("sd1"), lora=path), "sd1"), plain)


def test_a_lora_of_kohya_for_flux(folder_of, backbone_of, tmp_path):
    # its names are those of the original code, where one layer makes queries, keys and values
    generator, width = torch.Generator().manual_seed(6), 32
    down = torch.randn(RANK, width, generator=generator)
    up = torch.randn(3 * width, RANK, generator=generator)
    place = "lora_unet_double_blocks_1_img_attn_qkv"
    weights = {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up,
               f"{place}.alpha": torch.tensor(2.0 * RANK)}  # fmt: skip
    save_file(weights, tmp_path / "kohya.safetensors")
    merged = load(folder_of("flux"), lora=tmp_path / "kohya.safetensors").denoiser
    added = (2 * up @ down).unflatten(0, (3, width))
    for path, weight in backbone_of("flux").denoiser.named_parameters():
        letter = path.removeprefix("transformer_blocks.1.attn.to_").removesuffix(".weight")
        expected = weight + added["qkv".index(letter)] if letter in ("q", "k", "v") else weight
        torch.testing.assert_close(merged.get_parameter(path), expected, **EXACT)


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_a_lora_in_half_precision(name, folder_of, lora_of):
    _, path = lora_of(name)
    whole, half = (load(folder_of(name), lora=path, dtype=d) for d in ("float32", "bfloat16"))
    weights = dict(whole.denoiser.named_parameters())
    for key, weight in half.denoiser.named_parameters():
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight.float(), weights[key], rtol=2e-2, atol=2e-2)


def test_a_lora_over_another_denoiser(folder_of, other_unet, lora_of):
    _, path = lora_of("sd1")
    plain = adapted("sd1", other_unet)
    merged = load(folder_of("sd1"), denoiser=other_unet / "unet", lora=path)
    assert_same(features(merged, "sd1"), plain)


@pytest.mark.parametrize(("of", "onto"), [("sd1", "flux"), ("flux", "sd1"), ("sd1", "sd3")])
def test_a_lora_of_another_kind_of_model(of, onto, folder_of, lora_of):
    _, path = lora_of(of)
    with pytest.raises(ModelError, match=r"changes no weight.*expected a LoRA of this model"):
        load(folder_of(onto), lora=path)


@pytest.mark.parametrize(("of", "onto"), [("sd1", "sd2"), ("sdxl", "sd1"), ("sd3", "flux")])
def test_a_lora_of_a_model_of_other_widths(of, onto, folder_of, lora_of):
    _, path = lora_of(of)
    with pytest.raises(ModelError, match=rf"{path}: cannot be merged") as caught:
        load(folder_of(onto), lora=path)
    assert len(str(caught.value)) < 1000  # not a line for every layer


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_a_lora_with_layers_that_the_model_lacks(name, folder_of, lora_of, tmp_path):
    weights, path = load_file(lora_of(name)[1]), tmp_path / LORA_FILE
    more = {k.replace("blocks.0.", "blocks.7."): v.clone() for k, v in weights.items()}
    save_file({**more, **weights}, path)
    with pytest.raises(ModelError, match=r"blocks\.7"):
        load(folder_of(name), lora=path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_lora_that_holds_no_numbers(value, folder_of, lora_of, tmp_path):
    weights, path = load_file(lora_of("sd1")[1]), tmp_path / LORA_FILE
    weights[min(weights)].view(-1)[0] = value
    save_file(weights, path)
    with pytest.raises(NumericsError, match=f"{path}.*inf or nan"):
        load(folder_of("sd1"), lora=path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_numbers_even_where_their_sum_is_none(dtype):
    layer = torch.nn.Linear(50, 40, dtype=dtype)
    torch.nn.init.constant_(layer.weight, torch.finfo(dtype).max)
    check_finite(layer, "here")
    for value in (float("nan"), float("inf"), -float("inf")):
        with torch.no_grad():
            layer.weight[7, 11] = value
        with pytest.raises(NumericsError, match="here: weight 'weight' holds inf or nan"):
            check_finite(layer, "here")


@pytest.mark.parametrize("name", ["sd1", "flux", "pixel"])
def test_an_architecture_without_weights_is_that_with_them(name, folder_of):
    bare, whole = (load(folder_of(name), device=device).denoiser for device in ("meta", "cpu"))
    assert {weight.device.type for weight in bare.parameters()} == {"meta"}
    shapes = [{k: v.shape for k, v in one.state_dict().items()} for one in (bare, whole)]
    assert shapes[0] == shapes[1]
    assert str(bare) == str(whole)


@pytest.mark.parametrize("name", ["pixel", "adm", "edm", "dit", "sit", "pixart-sigma"])
def test_models_that_take_no_lora(name, folder_of, lora_of):
    with pytest.raises(ModelError, match=r"Model takes no LoRA"):
        load(folder_of(name), lora=lora_of("sd1")[1])


@pytest.mark.parametrize("file", ["none.safetensors", "lora.bin", "lora.pt", "lora.ckpt", "."])
def test_a_file_that_is_no_lora(file, folder_of, tmp_path):
    if "lora" in file:
        torch.save({"unet.conv_in.lora_A.weight": torch.zeros(1)}, tmp_path / file)
    with pytest.raises(ModelError, match=r"no such LoRA; expected a \.safetensors file"):
        load(folder_of("sd1"), lora=tmp_path / file)


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_a_damaged_lora(name, folder_of, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(b"no header")
    with pytest.raises(ModelError, match=r"lora\.safetensors: cannot be"):
        load(folder_of(name), lora=tmp_path / "lora.safetensors")


@pytest.mark.parametrize("option", ["lora", "denoiser"])
def test_an_architecture_without_weights_has_none_to_change(option, folder_of, lora_of):
    paths = {"lora": lora_of("sd1")[1], "denoiser": folder_of("sd1") / "unet" / WEIGHTS}
    with pytest.raises(SpecError, match=f"'meta' has no weights.*{option}"):
        load(folder_of("sd1"), device="meta", **{option: paths[option]})


# --- another denoiser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_unet(tmp_path_factory):
    """The pipeline "sd1" with a U-Net of other weights."""
    folder = build("sd1", tmp_path_factory.mktemp("other") / "sd1")
    change(folder / "unet" / WEIGHTS, lambda _, weight: weight.flip(0) + 0.01)
    return folder


def change(path: Path, edit) -> None:
    """Replace every weight by edit(key, weight)."""
    weights = {key: edit(key, weight).contiguous() for key, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("where", ["unet", f"unet/{WEIGHTS}"])
def test_a_swapped_denoiser_equals_the_pipeline_with_it(where, folder_of, other_unet):
    swapped = load(folder_of("sd1"), denoiser=str(other_unet / where))
    found = features(swapped, "sd1")
    assert_same(found, Plain("sd1", other_unet))
    base = load(folder_of("sd1"))
    assert_other(found, features(base, "sd1"))
    assert len({b.fingerprint for b in (swapped, base, load(other_unet))}) == 3
    assert not any(weight.requires_grad for weight in swapped.denoiser.parameters())


def test_a_swapped_denoiser_in_shards(folder_of, other_unet, tmp_path):
    network = Plain("sd1", other_unet).denoiser
    network.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    swapped = load(folder_of("sd1"), denoiser=tmp_path)
    assert_same(features(swapped, "sd1"), features(load(other_unet), "sd1"))


@pytest.mark.parametrize("shards", ["10GB", "200KB"])
def test_copies_beside_the_weights_do_not_count(shards, folder_of, other_unet, tmp_path):
    network = Plain("sd1", other_unet).denoiser
    network.save_pretrained(tmp_path, max_shard_size=shards)
    zeros = {key: torch.zeros_like(weight) for key, weight in network.state_dict().items()}
    for word in ("fp16", "non_ema"):
        save_file(zeros, tmp_path / WEIGHTS.replace(".", f".{word}."))
    swapped = load(folder_of("sd1"), denoiser=tmp_path).denoiser.state_dict()
    assert all(torch.equal(weight, swapped[key]) for key, weight in network.state_dict().items())


@pytest.mark.parametrize("name", ["pixel", "adm", "edm", "dit", "sit", "sd3", "flux"])
def test_every_kind_of_denoiser_can_be_swapped(name, folder_of):
    folder = folder_of(name)
    part = Plain(name, folder).component
    swapped = load(f"{folder}@random:4", denoiser=folder / part)
    weights = load(folder).denoiser.state_dict()
    assert all(torch.equal(weights[k], w) for k, w in swapped.denoiser.state_dict().items())


def test_a_swapped_denoiser_of_a_ddpmpp(tmp_path):
    folder = twin("edm-cifar10", tmp_path / "edm").folder
    swapped = load(f"{folder}@random", denoiser=folder / "unet" / WEIGHTS)
    weights = load_file(folder / "unet" / WEIGHTS)
    assert all(torch.equal(weights[k], w) for k, w in swapped.denoiser.state_dict().items())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("conv_in.bias"), r"lacks 'conv_in\.bias'\)"),
        (lambda w: [w.pop(k) for k in sorted(w)[:3]], r"lacks 'conv_in\.bias' and 2 more\)"),
        (lambda w: w.update(odd=torch.ones(1)), r"does not know 'odd'\)"),
        (lambda w: w.update({"conv_in.bias": torch.ones(3)}), r"other shape of 'conv_in\.bias'\)"),
    ],
)
def test_weights_of_another_architecture(edit, message, folder_of, tmp_path):
    weights = load_file(folder_of("sd1") / "unet" / WEIGHTS)
    edit(weights)
    save_file(weights, tmp_path / "unet.safetensors")
    with pytest.raises(ModelError, match=rf"unet\.safetensors: not the weights .*{message}"):
        load(folder_of("sd1"), denoiser=tmp_path / "unet.safetensors")


def test_the_unet_of_another_model(folder_of):
    with pytest.raises(ModelError, match=r"not the weights of this denoiser \(.*'.*' and \d+ more"):
        load(folder_of("sd1"), denoiser=folder_of("sd2") / "unet")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_denoiser_that_holds_no_numbers(value, folder_of, tmp_path):
    shutil.copy(folder_of("sd1") / "unet" / WEIGHTS, tmp_path / WEIGHTS)
    spoilt = "mid_block.resnets.1.conv2.weight"
    change(tmp_path / WEIGHTS, lambda key, w: w.fill_(value) if key == spoilt else w)
    with pytest.raises(NumericsError, match=rf"{tmp_path}.*{spoilt}.*inf or nan"):
        load(folder_of("sd1"), denoiser=tmp_path / WEIGHTS)


@pytest.mark.parametrize("where", ["none", "none.safetensors", "unet.bin", "unet.pt", "."])
def test_a_denoiser_that_is_not_there(where, folder_of, tmp_path):
    if where.startswith("unet"):
        torch.save({}, tmp_path / where)
    with pytest.raises(ModelError, match=r"no such weights; expected a \.safetensors file, or"):
        load(folder_of("sd1"), denoiser=tmp_path / where)


def test_a_damaged_denoiser(folder_of, tmp_path):
    (tmp_path / WEIGHTS).write_bytes(b"no header")
    with pytest.raises(ModelError, match=rf"{WEIGHTS}: cannot be read"):
        load(folder_of("sd1"), denoiser=tmp_path)


# --- random weights -------------------------------------------------------------------------------

ONE_OF_EACH = {  # family → pipeline
    "pixel-unet": "pixel", "adm": "adm", "edm": "edm", "stable-diffusion": "sd2", "sdxl": "sdxl",
    "dit": "dit", "sit": "sit", "pixart": "pixart-sigma", "sd3": "sd35", "flux": "flux",
    "auraflow": "auraflow",
}  # fmt: skip


def test_every_family_is_here():
    assert set(ONE_OF_EACH) == {family.family for family in FAMILIES}
    assert set(ONE_OF_EACH.values()) <= set(BUILDERS)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_configurations_alone_make_a_random_model(family, folder_of, backbone_of, tmp_path):
    name = ONE_OF_EACH[family]
    left_out = shutil.ignore_patterns("*.safetensors", "text_encoder*", "tokenizer*")
    folder = shutil.copytree(folder_of(name), tmp_path / name, ignore=left_out)
    first, other = load(f"{folder}@random"), load(f"{folder}@random:1")
    assert first.family == family
    assert [block.name for block in first.blocks] == [b.name for b in backbone_of(name).blocks]
    found = features(first, name)
    assert all(torch.isfinite(values).all() for values in found.values())
    assert_other(features(other, name), found)
    assert first.fingerprint != other.fingerprint


# --- what is not supported ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pipeline", "part", "changes"),
    [
        ("sd15", "StableVideoDiffusionPipeline", "unet",
         {"_class_name": "UNetSpatioTemporalConditionModel"}),
        ("sd15", "StableDiffusionUpscalePipeline", "unet", {"num_class_embeds": 1000}),
        ("sd15", "StableUnCLIPPipeline", "unet", {"class_embed_type": "projection"}),
        ("sd15", "StableDiffusionInpaintPipeline", "unet", {"in_channels": 9}),
        ("flux1-dev", "FluxFillPipeline", "transformer", {"in_channels": 384}),
        ("sd3-medium", "WanPipeline", "transformer", {"_class_name": "WanTransformer3DModel"}),
    ],
)  # fmt: skip
def test_pipelines_that_are_not_supported(model, pipeline, part, changes, tmp_path):
    folder = shutil.copytree(known_models()[model], tmp_path / model)
    for path, values in (
        (folder / "model_index.json", {"_class_name": pipeline}),
        (folder / part / "config.json", changes),
    ):
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")
    with pytest.raises(ModelError, match=rf"{folder}: .*(not supported)"):
        load(folder, device="meta")
