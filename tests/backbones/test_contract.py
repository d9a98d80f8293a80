"""What backbones declare and deliver, against plain diffusers forwards with plain torch hooks."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

import diffeat
from tests.pipelines import (
    FLOW,
    LABELLED,
    NATIVE,
    PROMPTED,
    TALL,
    TRANSFORMERS,
    Plain,
    gaussian,
    levels,
    pictures,
    prompt_and_label,
    save_pixel,
)

EXACT = {"rtol": 1e-5, "atol": 1e-5}
# one of each family, and of FLUX and DiT both kinds
EACH = ("pixel", "adm", "edm", "sd1", "sdxl", "dit", "dit-flow", "sit", "pixart-sigma", "sd3",
        "flux", "auraflow")  # fmt: skip
# every module of a diffusers denoiser that is a stage, a resnet, an attention layer or a block
PLACES = re.compile(
    r"conv_in|mid_block|(down|up)_blocks\.\d+|(single_|joint_)?transformer_blocks\.\d+"
    r"|(mid_block|(down|up)_blocks\.\d+)\.(resnets|attentions)\.\d+"
)


def spec(name, **options):
    options = {"timesteps": levels(name), "blocks": ("all",), "dtype": "float32", **options}
    return diffeat.ExtractSpec(**options, **prompt_and_label(name))


def quiet(name):
    """The less noisy t of a pipeline."""
    return levels(name)[1]


def places(denoiser):
    """Paths of all blocks; a layer's only transformer block counts as the layer."""
    found = set()
    for path, module in denoiser.named_modules():
        inner = len(getattr(module, "transformer_blocks", ()))
        found |= {path} if PLACES.fullmatch(path) else set()
        if ".attentions." in path and inner > 1:
            found |= {f"{path}.transformer_blocks.{k}" for k in range(inner)}
    return found


def noise_for(backbone, count, size, *members):
    return gaussian(count, *members, *backbone.latent_shape(size))


def test_every_block_equals_a_plain_forward(name, backbone_of, plain_of):
    """At other sizes: test_tensors.py."""
    backbone, plain, size = backbone_of(name), plain_of(name), NATIVE
    images = pictures(2, size)
    eps = noise_for(backbone, 2, size)
    features = diffeat.extract(backbone, images, spec(name), noise=eps)
    paths = [block.path for block in backbone.blocks]
    for t in levels(name):
        x = plain.noisy(plain.encode(images), eps, t)
        expected = plain.maps(paths, x, t)
        for block in backbone.blocks:
            torch.testing.assert_close(
                features[block.name, t],
                expected[block.path],
                **EXACT,
                msg=lambda text, block=block, t=t: f"{block.name} at t={t}: {text}",
            )


@pytest.mark.parametrize("size", [NATIVE, TALL])
def test_declarations_equal_real_outputs(name, size, backbone_of, plain_of):
    backbone, plain = backbone_of(name), plain_of(name)
    x = plain.encode(pictures(1, size))
    paths = [block.path for block in backbone.blocks]
    t = quiet(name)
    raw, maps = plain.activations(paths, x, t), plain.maps(paths, x, t)
    for block in backbone.blocks:
        _, channels, height, width = maps[block.path].shape
        assert block.channels == channels, block
        assert (height * block.stride, width * block.stride) == size, block
        assert block.grid(size) == (height, width), block
        assert block.layout == {3: "NLD", 4: "NCHW"}[raw[block.path].ndim], block


def test_declared_order_is_the_order_of_execution(name, backbone_of, plain_of):
    backbone, plain = backbone_of(name), plain_of(name)
    # hooks are attached in another order, so that theirs cannot be what is recorded
    paths = sorted(block.path for block in backbone.blocks)
    fired = list(plain.activations(paths, plain.encode(pictures(1)), quiet(name)))
    assert [block.path for block in backbone.blocks] == fired
    assert [block.order for block in backbone.blocks] == list(range(len(fired)))


def test_no_place_is_left_out(name, backbone_of, plain_of):
    real = places(plain_of(name).denoiser)
    declared = [block.path for block in backbone_of(name).blocks]
    assert set(declared) == real
    assert len(declared) == len(real)


def test_names_of_a_unet_are_pinned(backbone_of):
    assert [block.name for block in backbone_of("pixel-classes").blocks] == [
        "conv_in",
        "down.0.res.0", "down.0.attn.0", "down.0",
        "down.1.res.0", "down.1",
        "mid.res.0", "mid.attn.0", "mid.res.1", "mid",
        "up.0.res.0", "up.0.res.1", "up.0",
        "up.1.res.0", "up.1.attn.0", "up.1.res.1", "up.1.attn.1", "up.1",
    ]  # fmt: skip


def test_names_of_layers_with_several_transformer_blocks_are_pinned(backbone_of):
    assert [block.name for block in backbone_of("sdxl").blocks] == [
        "conv_in",
        "down.0.res.0", "down.0",
        "down.1.res.0", "down.1.attn.0", "down.1",
        "down.2.res.0", "down.2.attn.0.block.0", "down.2.attn.0.block.1", "down.2.attn.0", "down.2",
        "mid.res.0", "mid.attn.0.block.0", "mid.attn.0.block.1", "mid.attn.0", "mid.res.1", "mid",
        "up.0.res.0", "up.0.attn.0.block.0", "up.0.attn.0.block.1", "up.0.attn.0",
        "up.0.res.1", "up.0.attn.1.block.0", "up.0.attn.1.block.1", "up.0.attn.1", "up.0",
        "up.1.res.0", "up.1.attn.0", "up.1.res.1", "up.1.attn.1", "up.1",
        "up.2.res.0", "up.2.res.1", "up.2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("dit", ["block.0", "block.1", "block.2"]),
        ("sit", ["block.0", "block.1", "block.2"]),
        ("pixart-sigma", ["block.0", "block.1"]),
        ("sd3", ["block.0", "block.1"]),
        ("flux", ["block.0", "block.1", "single.0", "single.1"]),
        ("auraflow", ["block.0", "single.0", "single.1"]),
    ],
)
def test_names_of_a_transformer_are_pinned(model, names, backbone_of):
    assert [block.name for block in backbone_of(model).blocks] == names


def test_each_pipeline_is_of_its_family(name, backbone_of):
    # of several names that fit, the longest
    families = {
        "pixel": "pixel-unet", "pixel-classes": "adm", "adm": "adm", "edm": "edm",
        "sd1": "stable-diffusion", "sd2": "stable-diffusion", "sdxl": "sdxl", "dit": "dit",
        "sit": "sit", "pixart": "pixart", "sd3": "sd3", "flux": "flux", "auraflow": "auraflow",
    }  # fmt: skip
    fitting = max((key for key in families if name.startswith(key)), key=len)
    assert backbone_of(name).family == families[fitting]


def test_kinds_and_parts_follow_the_names(name, backbone_of):
    kinds = {"res": "resnet", "attn": "attention"}
    parts = {"down": "encoder", "mid": "mid", "up": "decoder", "conv_in": "encoder"}
    for block in backbone_of(name).blocks:
        words = block.name.split(".")
        if words[0] in ("block", "single"):
            assert (block.kind, block.part) == ("transformer", "blocks")
            continue
        if "block" in words:
            assert (block.kind, block.part) == ("transformer", parts[words[0]])
            continue
        inside = [kinds[word] for word in words if word in kinds]
        assert block.kind == (inside or ["conv" if block.name == "conv_in" else "stage"])[0]
        assert block.part == parts[words[0]]


def test_native_size_is_in_pixels(name, backbone_of):
    assert backbone_of(name).native_size == NATIVE


@pytest.mark.parametrize("pool", ["1x1", "2x2", "3x2"])
@pytest.mark.parametrize("model", ["pixel", "edm", "sd1", "dit", "flux", "auraflow"])
def test_pooled_features_are_adaptive_averages(model, pool, backbone_of, plain_of):
    backbone, plain = backbone_of(model), plain_of(model)
    images, eps = pictures(2, TALL), noise_for(backbone, 2, TALL)
    t = quiet(model)
    features = diffeat.extract(backbone, images, spec(model, timesteps=t, pool=pool), noise=eps)
    grid = tuple(map(int, pool.split("x")))
    paths = [block.path for block in backbone.blocks]
    maps = plain.maps(paths, plain.noisy(plain.encode(images), eps, t), t)
    for block in backbone.blocks:
        expected = F.adaptive_avg_pool2d(maps[block.path], grid).flatten(1)
        torch.testing.assert_close(features[block.name, t], expected, **EXACT)
        if pool == "1x1":
            mean = maps[block.path].mean((2, 3))
            torch.testing.assert_close(features[block.name, t], mean, **EXACT)


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_tokens_are_laid_out_row_by_row(model, backbone_of, plain_of):
    backbone, plain = backbone_of(model), plain_of(model)
    images = pictures(1, TALL)
    features = diffeat.extract(backbone, images, spec(model, timesteps=30, noise="none"))
    tokens = plain.activations(["transformer_blocks.1"], plain.encode(images), 30)
    columns = TALL[1] // backbone.blocks[1].stride
    for row, column in [(0, 0), (0, 3), (2, 1)]:
        token = tokens["transformer_blocks.1"][:, row * columns + column]
        torch.testing.assert_close(features["block.1", 30][:, :, row, column], token, **EXACT)


@pytest.mark.parametrize("model", LABELLED)
@pytest.mark.parametrize("label", [0, 4])
def test_labels_reach_the_denoiser(model, label, backbone_of, plain_of):
    backbone, plain, t = backbone_of(model), plain_of(model), quiet(model)
    last = backbone.blocks[-1]
    asked = diffeat.ExtractSpec(t, last.name, label=label, noise="none", dtype="float32")
    features = diffeat.extract(backbone, pictures(1), asked)
    x = plain.encode(pictures(1))
    expected = plain.maps([last.path], x, t, plain.condition(1, label=label))[last.path]
    other = plain.maps([last.path], x, t, plain.condition(1, label=2))[last.path]
    torch.testing.assert_close(features[last.name, t], expected, **EXACT)
    assert not torch.allclose(expected, other, **EXACT)


@pytest.mark.parametrize("model", [*TRANSFORMERS, "sit"])
def test_no_label_is_the_null_class_of_a_transformer(model, backbone_of, plain_of):
    t = quiet(model)
    asked = diffeat.ExtractSpec(t, "block.2", noise="none", dtype="float32")
    features = diffeat.extract(backbone_of(model), pictures(1), asked)
    plain = plain_of(model)
    null = plain.condition(1, label=plain.denoiser.config.num_embeds_ada_norm)
    expected = plain.maps(["transformer_blocks.2"], plain.encode(pictures(1)), t, null)
    torch.testing.assert_close(features["block.2", t], expected["transformer_blocks.2"], **EXACT)


@pytest.mark.parametrize("prompt", ["", "a cat", "dog at a cot"])
@pytest.mark.parametrize("model", PROMPTED)
def test_prompts_reach_the_denoiser(model, prompt, backbone_of, plain_of):
    backbone, plain, t = backbone_of(model), plain_of(model), quiet(model)
    last = backbone.blocks[-1]
    asked = diffeat.ExtractSpec(t, last.name, prompt=prompt, noise="none", dtype="float32")
    features = diffeat.extract(backbone, pictures(1), asked)
    x = plain.encode(pictures(1))
    expected = plain.maps([last.path], x, t, plain.condition(1, prompt))[last.path]
    torch.testing.assert_close(features[last.name, t], expected, **EXACT)
    other = plain.maps([last.path], x, t, plain.condition(1, "do"))[last.path]
    assert not torch.allclose(expected, other, **EXACT)


@pytest.mark.parametrize("model", FLOW)
@pytest.mark.parametrize(("asked", "native"), [(0.0, 0), (0.25, 250), (612, 612), (1.0, 1000)])
def test_flow_times_and_native_steps(model, asked, native, backbone_of, plain_of):
    backbone, plain = backbone_of(model), plain_of(model)
    last = backbone.blocks[-1]
    eps = noise_for(backbone, 1, NATIVE)
    features = diffeat.extract(
        backbone, pictures(1), spec(model, timesteps=asked, blocks=last.name), noise=eps
    )
    x = plain.noisy(plain.encode(pictures(1)), eps, native)
    expected = plain.maps([last.path], x, native)[last.path]
    torch.testing.assert_close(features[last.name, asked], expected, **EXACT)


@pytest.mark.parametrize("model", EACH)
def test_reduced_precision_equals_a_plain_forward_in_it(model, folder_of):
    backbone = diffeat.load(str(folder_of(model)), device="cpu", dtype="bfloat16")
    plain = Plain(model, folder_of(model), torch.bfloat16)
    last, t = backbone.blocks[-1], quiet(model)
    asked = spec(model, timesteps=t, blocks=last.name, noise="none")
    features = diffeat.extract(backbone, pictures(1), asked)
    expected = plain.maps([last.path], plain.encode(pictures(1)), t)[last.path]
    assert expected.dtype == torch.bfloat16
    torch.testing.assert_close(features[last.name, t], expected.float(), rtol=0, atol=0)


def test_skip_stages_declare_their_real_strides(tmp_path):
    save_pixel(
        tmp_path / "skip",
        block_out_channels=(32, 32),
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=32,
    )
    backbone, plain = (
        diffeat.load(str(tmp_path / "skip"), device="cpu"),
        Plain("", tmp_path / "skip"),
    )
    maps = plain.maps([block.path for block in backbone.blocks], pictures(1) * 2 - 1, 30)
    declared = {block.name: block.grid(NATIVE) for block in backbone.blocks}
    assert declared == {block.name: maps[block.path].shape[2:] for block in backbone.blocks}
