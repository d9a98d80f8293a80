"""What vision models declare and deliver, against plain forwards of timm and transformers with
plain torch hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import diffeat
from tests.vision.conftest import save_hub_model

EXACT = {"rtol": 1e-5, "atol": 1e-5}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINOV3 = "vit_small_patch16_dinov3"
REGISTERS = "vit_small_patch14_reg4_dinov2"
SWIN = "swin_tiny_patch4_window7_224"
# pictures of another size than the model's own, and how timm is told that it may come
OTHER = {
    "test_vit": ((96, 64), {"dynamic_img_size": True}),
    "vit_pwee_patch16_reg1_gap_256": ((64, 96), {"dynamic_img_size": True}),
    REGISTERS: ((56, 84), {"dynamic_img_size": True}),
    DINOV3: ((64, 96), {}),
    "test_efficientnet": ((96, 64), {}),
    "test_convnext": ((96, 64), {}),
    SWIN: ((96, 64), {"strict_img_size": False}),
    "test_resnet": ((64, 96), {}),
    "dino": ((56, 42), {}),
    "registers": ((42, 56), {}),
    "vit": ((56, 42), {}),
    "clip": ((42, 56), {}),
    "siglip": ((42, 56), {}),
    "mae": ((28, 28), {}),
    "hub-convnext": ((32, 64), {}),
    "hub-resnet": ((32, 64), {}),
    "hub-swin": ((32, 64), {}),
}
PREFIX = {"dino": 1, "registers": 4, "vit": 1, "mae": 1, "clip": 1}
SMALL = [name for name in OTHER if name not in (REGISTERS, DINOV3, SWIN)]


@dataclass
class Plain:
    """A model without diffeat.

    Attributes:
        module: as its library loads it.
        mean, std: how its library says that pictures are normalised.
        prefix: tokens before the picture's.
        nhwc: whether 4-d outputs have their channels last.
        call: normalised pictures → what the forward is given.
    """

    module: torch.nn.Module
    mean: Any
    std: Any
    prefix: int
    nhwc: bool
    call: Callable

    @torch.inference_mode()
    def activations(self, paths, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the modules at `paths` gave, in the order in which they did."""
        found, handles = {}, []

        def keep(path):
            def hook(_module, _inputs, output):
                output = output[0] if isinstance(output, tuple) else output
                found[path] = output.clone()

            return hook

        for path in paths:
            handles.append(self.module.get_submodule(path).register_forward_hook(keep(path)))
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        dtype = next(self.module.parameters()).dtype
        self.call(self.module, ((images - mean) / std).to(dtype))
        for handle in handles:
            handle.remove()
        return found

    def map(self, raw: torch.Tensor, size) -> torch.Tensor:
        """(n, C, h, w) of an activation."""
        if raw.ndim == 4:
            return raw.permute(0, 3, 1, 2) if self.nhwc else raw
        tokens = raw[:, self.prefix :]
        rows = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
        return tokens.unflatten(1, (rows, -1)).permute(0, 3, 1, 2)


def _perturbed(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that hide nothing: no layer scale of 1e-5, no bias of 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return module.eval()


def _of_timm(name: str, folder) -> tuple[str, Plain]:
    plain = _perturbed(timm.create_model(name, **OTHER[name][1]))
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in plain.state_dict().items()}, path)
    config = plain.pretrained_cfg
    call = lambda module, x: module(x)  # noqa: E731
    return f"timm:{name}@{path}", Plain(
        plain, config["mean"], config["std"], getattr(plain, "num_prefix_tokens", 0),
        "swin" in name, call,
    )  # fmt: skip


def _of_hub(name: str, folder) -> tuple[str, Plain]:
    import transformers as hf

    path = save_hub_model(name.removeprefix("hub-"), folder / name)
    classes = {"clip": hf.CLIPVisionModel, "siglip": hf.SiglipVisionModel}
    plain = classes.get(name, hf.AutoModel).from_pretrained(path).eval()
    plain = getattr(plain, "vision_model", plain)

    def call(module, x):
        own = tuple(x.shape[2:]) == (28, 28)
        if name == "mae":
            module.config.mask_ratio = 0.0
            return module(x, noise=torch.arange(4.0).expand(len(x), -1))
        tokens = name in ("vit", "clip", "siglip")
        return module(x, interpolate_pos_encoding=True) if tokens and not own else module(x)

    return f"transformers:{path}", Plain(
        plain, CLIP_MEAN, CLIP_STD, PREFIX.get(name, 0), False, call
    )


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """(backbone, plain) in fp32 by name."""
    folder, made = tmp_path_factory.mktemp("vision"), {}

    def model(name: str):
        if name == DINOV3 and not timm.is_model(name):
            pytest.skip(f"timm {timm.__version__} has no DINOv3")
        if name not in made:
            build = _of_timm if timm.is_model(name) else _of_hub
            full, plain = build(name, folder)
            made[name] = diffeat.load(full, device="cpu", dtype="float32"), plain
        return made[name]

    return model


def images(size, count=2):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def spec(*blocks, **options):
    return diffeat.ExtractSpec(0, blocks or "all", dtype="float32", **options)


def check(backbone, plain, size) -> None:
    shown = images(size)
    features = diffeat.extract(backbone, shown, spec())
    raw = plain.activations([block.path for block in backbone.blocks], shown)
    for block in backbone.blocks:
        wanted = plain.map(raw[block.path], size)
        assert block.channels == wanted.shape[1], block
        assert block.grid(size) == wanted.shape[2:], block
        assert (block.stride * wanted.shape[2], block.stride * wanted.shape[3]) == size, block
        layout = "NLD" if raw[block.path].ndim == 3 else "NHWC" if plain.nhwc else "NCHW"
        assert block.layout == layout
        torch.testing.assert_close(
            features[block.name, 0], wanted, **EXACT,
            msg=lambda text, block=block: f"{block.name}: {text}",
        )  # fmt: skip
        assert wanted.std() > 1e-3


@pytest.mark.parametrize("name", OTHER)
def test_every_map_equals_a_plain_forward(name, model_of):
    backbone, plain = model_of(name)
    check(backbone, plain, OTHER[name][0])


@pytest.mark.parametrize("name", ["test_vit", REGISTERS, DINOV3])
@torch.inference_mode()
def test_maps_are_those_that_timm_itself_lays_out(name, model_of):
    backbone, plain = model_of(name)
    size = OTHER[name][0]
    names = [block.name for block in backbone.blocks if block.kind == "transformer"]
    features = diffeat.extract(backbone, images(size), spec(*names))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (plain.mean, plain.std))
    maps = plain.module.forward_intermediates(
        (images(size) - mean) / std, norm=False, intermediates_only=True, output_fmt="NCHW"
    )
    for block, wanted in zip(names, maps, strict=True):
        torch.testing.assert_close(features[block, 0], wanted, **EXACT)


@pytest.mark.parametrize("name", SMALL)
def test_every_map_equals_a_plain_forward_at_the_models_own_size(name, model_of):
    backbone, plain = model_of(name)
    check(backbone, plain, backbone.native_size)


@pytest.mark.parametrize("name", OTHER)
def test_declared_order_is_the_order_of_execution(name, model_of):
    backbone, plain = model_of(name)
    paths = sorted(block.path for block in backbone.blocks)
    fired = list(plain.activations(paths, images(OTHER[name][0], 1)))
    assert [block.path for block in backbone.blocks] == fired
    assert [block.order for block in backbone.blocks] == list(range(len(fired)))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("test_vit", [f"blocks.{k}" for k in range(6)] + ["norm"]),
        (REGISTERS, [f"blocks.{k}" for k in range(12)] + ["norm"]),
        (DINOV3, [f"blocks.{k}" for k in range(12)] + ["norm"]),
        ("test_efficientnet", [f"blocks.{k}" for k in range(5)]),
        ("test_convnext", [f"stages.{k}" for k in range(4)]),
        (SWIN, [f"layers.{k}" for k in range(4)] + ["norm"]),
        ("test_resnet", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("dino", ["blocks.0", "blocks.1", "norm"]),
        ("clip", ["blocks.0", "blocks.1"]),
        ("siglip", ["blocks.0", "blocks.1", "norm"]),
        ("hub-convnext", ["stages.0", "stages.1"]),
        ("hub-resnet", ["stages.0", "stages.1"]),
        ("hub-swin", ["stages.0", "stages.1", "norm"]),
    ],
)
def test_names_are_pinned(name, blocks, model_of):
    assert [block.name for block in model_of(name)[0].blocks] == blocks


@pytest.mark.parametrize("name", ["test_vit", REGISTERS, DINOV3, "dino", "clip", "mae"])
def test_queries_keys_and_values_are_what_the_projections_give(name, model_of):
    backbone, plain = model_of(name)
    size, width = OTHER[name][0], backbone.blocks[0].channels
    names = [f"blocks.1:self.{letter}" for letter in "qkv"]
    features = diffeat.extract(backbone, images(size), spec(*names))
    layers = {
        "dino": [f"attention.attention.{word}" for word in ("query", "key", "value")],
        "clip": [f"self_attn.{letter}_proj" for letter in "qkv"],
    }
    place = next(block.path for block in backbone.blocks if block.name == "blocks.1")
    if name in OTHER and timm.is_model(name):
        raw = plain.activations([f"{place}.attn.qkv"], images(size))[f"{place}.attn.qkv"]
        each = [raw[..., k * width : (k + 1) * width] for k in range(3)]
    else:
        inner = layers["clip" if name == "clip" else "dino"]
        paths = [f"{place}.{path}" for path in inner]
        if paths[0] not in dict(plain.module.named_modules()):  # as later versions call them
            paths = [f"{place}.attention.{letter}_proj" for letter in "qkv"]
        raw = plain.activations(paths, images(size))
        each = [raw[path] for path in paths]
    for key, wanted in zip(names, each, strict=True):
        torch.testing.assert_close(features[key, 0], plain.map(wanted, size), **EXACT)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "dino"])
def test_reduced_precision_equals_a_plain_forward_in_it(name, model_of):
    backbone, plain = model_of(name)
    size, last = OTHER[name][0], backbone.blocks[-1]
    half = diffeat.load(backbone.name, device="cpu", dtype="bf16")
    found = diffeat.extract(half, images(size), spec(last.name))[last.name, 0]
    plain.module.to(torch.bfloat16)
    try:
        raw = plain.activations([last.path], images(size))[last.path]
    finally:
        plain.module.float()
        plain.module.load_state_dict(backbone.denoiser.state_dict())
    assert raw.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain.map(raw, size).float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "hub-swin"])
def test_a_forward_ends_with_the_last_block(name, model_of):
    backbone, _ = model_of(name)
    ran = []
    handles = [block_module.register_forward_hook(lambda *_, path=path: ran.append(path))
               for path, block_module in backbone.denoiser.named_modules()
               if path in {block.path for block in backbone.blocks}]  # fmt: skip
    diffeat.extract(backbone, images(OTHER[name][0]), spec(backbone.blocks[0].name))
    for handle in handles:
        handle.remove()
    assert ran == [backbone.blocks[0].path]


def test_groups_and_names_from_the_end(model_of):
    from diffeat.blocks import resolve_blocks

    def chosen(name, *patterns):
        backbone, _ = model_of(name)
        return [b.name for b in resolve_blocks(patterns, backbone.tensors, backbone.aliases)]

    assert chosen("test_vit", "blocks.-1", "blocks.-6") == ["blocks.0", "blocks.5"]
    assert chosen("test_vit", "stages") == [f"blocks.{k}" for k in range(6)]
    assert chosen("test_vit", "blocks.*:self.k")[-1] == "blocks.5:self.k"
    assert chosen("test_resnet", "stages.0", "stages.-1") == ["layer1", "layer4"]
    assert chosen("test_resnet", "encoder") == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert chosen("hub-convnext", "stages.*") == ["stages.0", "stages.1"]


def test_the_default_size_is_the_models_own(model_of):
    assert model_of("test_vit")[0].native_size == (160, 160)
    assert model_of(REGISTERS)[0].native_size == (518, 518)
    assert model_of("dino")[0].native_size == (28, 28)
    bare = diffeat.load("timm:tf_efficientnet_b1", device="meta")
    assert bare.native_size == (256, 256)  # 240, brought to a multiple of its stride
