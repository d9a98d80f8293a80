"""Names that papers gave to tensors: every one of every known model, written out."""

from __future__ import annotations

from functools import cache

import pytest

import diffeat
from diffeat.backbones.locate import known_models
from diffeat.blocks import resolve_blocks

# --- output_blocks, unit by unit: a resnet, its attention, and the upsampler of its stage ---------

ADM_UP = [
    "up.0.attn.0", "up.0.attn.1", "up.0", "up.1.attn.0", "up.1.attn.1", "up.1",
    "up.2.attn.0", "up.2.attn.1", "up.2", "up.3.res.0", "up.3.res.1", "up.3",
    "up.4.res.0", "up.4.res.1", "up.4", "up.5.res.0", "up.5.res.1", "up.5",
]  # fmt: skip
ADM_DOWN = [
    "conv_in", "down.0.res.0", "down.0.res.1", "down.0", "down.1.res.0", "down.1.res.1", "down.1",
    "down.2.res.0", "down.2.res.1", "down.2", "down.3.attn.0", "down.3.attn.1", "down.3",
    "down.4.attn.0", "down.4.attn.1", "down.4", "down.5.attn.0", "down.5.attn.1",
]  # fmt: skip
SD_UP = [
    "up.0.res.0", "up.0.res.1", "up.0", "up.1.attn.0", "up.1.attn.1", "up.1",
    "up.2.attn.0", "up.2.attn.1", "up.2", "up.3.attn.0", "up.3.attn.1", "up.3",
]  # fmt: skip
SDXL_UP = [
    "up.0.attn.0", "up.0.attn.1", "up.0", "up.1.attn.0", "up.1.attn.1", "up.1",
    "up.2.res.0", "up.2.res.1", "up.2",
]  # fmt: skip
# what the same units are before the upsampler
ADM_LAYERS = [
    "up.0.attn.0", "up.0.attn.1", "up.0.attn.2", "up.1.attn.0", "up.1.attn.1", "up.1.attn.2",
    "up.2.attn.0", "up.2.attn.1", "up.2.attn.2", "up.3.res.0", "up.3.res.1", "up.3.res.2",
    "up.4.res.0", "up.4.res.1", "up.4.res.2", "up.5.res.0", "up.5.res.1", "up.5.res.2",
]  # fmt: skip
SD_LAYERS = [
    "up.0.res.0", "up.0.res.1", "up.0.res.2", "up.1.attn.0", "up.1.attn.1", "up.1.attn.2",
    "up.2.attn.0", "up.2.attn.1", "up.2.attn.2", "up.3.attn.0", "up.3.attn.1", "up.3.attn.2",
]  # fmt: skip
SDXL_LAYERS = [
    "up.0.attn.0", "up.0.attn.1", "up.0.attn.2", "up.1.attn.0", "up.1.attn.1", "up.1.attn.2",
    "up.2.res.0", "up.2.res.1", "up.2.res.2",
]  # fmt: skip
EDM_LAYERS = [  # one attention a stage, in its last unit
    "up.0.res.0", "up.0.res.1", "up.0.res.2", "up.0.res.3", "up.0.res.4",
    "up.1.res.0", "up.1.res.1", "up.1.res.2", "up.1.res.3", "up.1.attn.4",
    "up.2.res.0", "up.2.res.1", "up.2.res.2", "up.2.res.3", "up.2.res.4",
]  # fmt: skip
VAE_RESNETS = [
    "vae.down.0.res.0", "vae.down.0.res.1", "vae.down.1.res.0", "vae.down.1.res.1",
    "vae.down.2.res.0", "vae.down.2.res.1", "vae.down.3.res.0", "vae.down.3.res.1",
]  # fmt: skip
VAE_DECODER_RESNETS = [f"vae.up.{i}.res.{j}" for i in range(4) for j in range(3)]
FLUX_BLOCKS = [*(f"block.{k}" for k in range(19)), *(f"single.{k}" for k in range(38))]


def numbered(prefix: str, names: list[str], first: int = 0, kind: str = "") -> dict[str, str]:
    """prefix0 → names[0], prefix1 → names[1], …, counted from `first`."""
    return {f"{prefix}{k}": f"{name}{kind}" for k, name in enumerate(names, first)}


def every_unet(layers: list[str], stages: int, per_stage: int) -> dict[str, str]:
    return {
        **numbered("ddae:", layers, 1),
        **{f"hyperfeatures:{i}.{j}": f"up.{i}.res.{j}:increment"
           for i in range(stages) for j in range(per_stage)},
        "repfusion:mid": "mid.res.1:increment",
    }  # fmt: skip


def openai(up: list[str], layers: list[str]) -> dict[str, str]:
    row = [*ADM_DOWN, "mid", *up]
    return {
        **every_unet(layers, 6, 3),
        **numbered("dift:", up),
        **numbered("ddpm-seg:", up),
        **numbered("gdc:", row, 1),
        **numbered("difformer:", row, 1),
        **numbered("diffeed:", row, 1),
    }


def latent_unet(up: list[str], layers: list[str], entering: list[str]) -> dict[str, str]:
    """`entering` is what enters the last unit of each stage, before concatenation."""
    stages = len(entering)
    resnets = [f"up.{i}.res.{j}" for i in range(stages) for j in range(3)]
    return {
        **every_unet(layers, stages, 3),
        **{f"{name}:{i}": f"up.{i}" for name in ("dift", "sd4match") for i in range(stages)},
        **numbered("vpd:", up),
        **numbered("cleandift:us", up, 1),
        **numbered("odise:", resnets, kind=":in"),
        **numbered("odise:vae.", VAE_RESNETS, kind=":in"),
        **numbered("odise:vae-decoder.", VAE_DECODER_RESNETS, kind=":in"),
        **{f"sd-dino:s{5 - i}": name for i, name in enumerate(entering)},
    }


def transformer(blocks: list[str]) -> dict[str, str]:
    return {
        **numbered("repa:", blocks, 1),
        **numbered("ddae:layer-", blocks),
        **numbered("ditf:", blocks, kind=":adaln"),
    }


SD = {
    **latent_unet(SD_UP, SD_LAYERS, ["up.0.res.1", "up.1.attn.1", "up.2.attn.1", "up.3.attn.1"]),
    "uscsd:0": "up.1.attn.0:cross.map",
    "uscsd:1": "up.1.attn.1:cross.map",
    "uscsd:2": "up.1.attn.2:cross.map",
    "uscsd:3": "up.2.attn.0:cross.map",
}
ALIASES = {
    "adm-256": openai(ADM_UP, ADM_LAYERS),
    "edm-cifar10": every_unet(EDM_LAYERS, 3, 5),
    "sd15": SD,
    "sd21": SD,
    "sdxl": latent_unet(SDXL_UP, SDXL_LAYERS, ["up.0.attn.1", "up.1.attn.1", "up.2.res.1"]),
    "dit-xl-2-256": transformer([f"block.{k}" for k in range(28)]),
    "sit-xl-2-256": transformer([f"block.{k}" for k in range(28)]),
    "pixart-sigma": transformer([f"block.{k}" for k in range(28)]),
    "sd3-medium": transformer([f"block.{k}" for k in range(24)]),
    "flux1-dev": transformer(FLUX_BLOCKS),
}


@pytest.fixture(scope="module")
def full_of():
    return cache(lambda name: diffeat.load(name, device="meta"))


def test_every_known_model_is_here():
    assert set(known_models()) == set(ALIASES)


@pytest.mark.parametrize("model", ALIASES)
def test_every_alias_is_pinned(model, full_of):
    assert full_of(model).aliases == ALIASES[model]


# --- what the papers say of the tensors: channels, and stride in pixels ---------------------------

ADM_STRIDES = [32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1, 1]
PUBLISHED = {
    "sd21": {
        "dift:0": (1280, 32), "dift:1": (1280, 16), "dift:2": (640, 8), "dift:3": (320, 8),
        "cleandift:us3": (1280, 32), "cleandift:us6": (1280, 16), "cleandift:us9": (640, 8),
    },
    "sd15": {
        "vpd:1": (1280, 64), "vpd:4": (1280, 32), "vpd:7": (640, 16), "vpd:11": (320, 8),
        "odise:2": (2560, 64), "odise:5": (1920, 32), "odise:8": (960, 16), "odise:11": (640, 8),
        "odise:vae.5": (512, 4), "odise:vae.7": (512, 8),
        "sd-dino:s5": (1280, 64), "sd-dino:s4": (1280, 32), "sd-dino:s3": (640, 16),
        "sd-dino:s2": (320, 8),
        "repfusion:mid": (1280, 64),
        "hyperfeatures:0.0": (1280, 64), "hyperfeatures:1.2": (1280, 32),
        "hyperfeatures:2.1": (640, 16), "hyperfeatures:3.2": (320, 8),
    },
    "adm-256": {
        # blocks at 256 pixels: 32, 32, 32, 64 and 128 cells a side; b = 24 has 16
        "ddpm-seg:5": (1024, 8), "ddpm-seg:6": (512, 8), "ddpm-seg:7": (512, 8),
        "ddpm-seg:8": (512, 4), "ddpm-seg:12": (256, 2),
        "gdc:1": (256, 1), "gdc:19": (1024, 32), "gdc:24": (1024, 16), "gdc:37": (256, 1),
    },
    "dit-xl-2-256": {"ddae:layer-13": (1152, 16), "ddae:layer-27": (1152, 16)},
    "sit-xl-2-256": {"repa:8": (1152, 16), "repa:28": (1152, 16)},
    "flux1-dev": {"ditf:28": (3072, 16)},
}  # fmt: skip


@pytest.mark.parametrize("model", PUBLISHED)
def test_channels_and_strides_are_the_published(model, full_of):
    backbone = full_of(model)
    found = {}
    for alias in PUBLISHED[model]:
        (tensor,) = resolve_blocks(alias, backbone.tensors, backbone.aliases)
        found[alias] = (tensor.channels, tensor.stride)
    assert found == PUBLISHED[model]


def test_strides_of_all_the_units_of_dift_on_adm(full_of):
    backbone = full_of("adm-256")
    tensors = {tensor.name: tensor for tensor in backbone.tensors}
    strides = [tensors[backbone.aliases[f"dift:{k}"]].stride for k in range(18)]
    assert strides == ADM_STRIDES


def test_the_twelve_residual_branches_of_hyperfeatures(full_of):
    backbone = full_of("sd15")
    chosen = resolve_blocks("hyperfeatures:*", backbone.tensors, backbone.aliases)
    assert [tensor.channels for tensor in chosen] == [1280] * 6 + [640] * 3 + [320] * 3


def test_two_papers_mean_the_same_place(full_of):
    sd, adm, flux = (full_of(name).aliases for name in ("sd21", "adm-256", "flux1-dev"))
    assert sd["cleandift:us6"] == sd["dift:1"] == sd["sd4match:1"] == sd["vpd:5"] == "up.1"
    assert adm["gdc:24"] == adm["dift:4"] == adm["ddpm-seg:4"] == "up.1.attn.1"
    assert flux["ditf:28"] == "single.9:adaln"
    assert flux["ditf:24"] == "single.5:adaln"
    assert flux["ditf:18"] == "block.18:adaln"


# --- tiny pipelines -------------------------------------------------------------------------------


def test_every_alias_names_a_tensor(name, folder_of):
    backbone = diffeat.load(str(folder_of(name)), device="meta")
    names = {tensor.name for tensor in backbone.tensors}
    assert backbone.aliases
    assert set(backbone.aliases.values()) <= names
    assert not set(backbone.aliases) & names  # a name means one thing
    for alias, tensor in backbone.aliases.items():
        chosen = resolve_blocks(alias, backbone.tensors, backbone.aliases)
        assert [block.name for block in chosen] == [tensor]
