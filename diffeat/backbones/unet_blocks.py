"""The blocks of diffusers' U-Nets, read off their modules (shared by all U-Net families)."""

from __future__ import annotations

from torch import nn

from diffeat.blocks import BlockInfo


def list_unet_blocks(unet: nn.Module) -> list[BlockInfo]:
    """Name every stage, resnet and attention layer, in the order of execution.

    A stage's output is taken after its downsampler or upsampler, where it has one. Channels
    and strides follow from the modules' declarations; no forward runs.

    Returns:
        BlockInfos with strides in cells of the U-Net's input.
    """
    found: list[BlockInfo] = []

    def add(name: str, path: str, kind: str, part: str, channels: int, stride: int) -> None:
        found.append(BlockInfo(name, path, kind, part, channels, stride, "NCHW", len(found)))

    add("conv_in", "conv_in", "conv", "encoder", unet.conv_in.out_channels, 1)
    stride = 1
    for i, stage in enumerate(unet.down_blocks):
        channels = _add_layers(add, stage, f"down.{i}", f"down_blocks.{i}", "encoder", stride)
        stride *= 2 if _resamples(stage, "down") else 1
        add(f"down.{i}", f"down_blocks.{i}", "stage", "encoder", channels, stride)
    if unet.mid_block is not None:
        channels = _add_layers(add, unet.mid_block, "mid", "mid_block", "mid", stride)
        add("mid", "mid_block", "stage", "mid", channels, stride)
    for i, stage in enumerate(unet.up_blocks):
        channels = _add_layers(add, stage, f"up.{i}", f"up_blocks.{i}", "decoder", stride)
        stride //= 2 if _resamples(stage, "up") else 1
        add(f"up.{i}", f"up_blocks.{i}", "stage", "decoder", channels, stride)
    return found


def _resamples(stage: nn.Module, way: str) -> bool:
    """Whether a stage ends in a downsampler or upsampler; skip stages have a resnet for it."""
    plain = getattr(stage, f"{way}samplers", None)
    return bool(plain) or getattr(stage, f"resnet_{way}", None) is not None


def _add_layers(add, stage: nn.Module, name: str, path: str, part: str, stride: int) -> int:
    """Add a stage's resnets and attention layers; returns the stage's channels."""
    resnets = list(stage.resnets)
    attentions = list(getattr(stage, "attentions", None) or [])
    first = len(resnets) - len(attentions) if part == "mid" else 0
    # the mid block runs res 0, (attn 0, res 1), …; the others (res 0, attn 0), (res 1, …)
    for j, resnet in enumerate(resnets):
        if part == "mid" and j >= first > 0:
            _add_attention(add, attentions, j - first, name, path, part, resnet, stride)
        add(f"{name}.res.{j}", f"{path}.resnets.{j}", "resnet", part, resnet.out_channels, stride)
        if part != "mid":
            _add_attention(add, attentions, j, name, path, part, resnet, stride)
    return resnets[-1].out_channels


def _add_attention(add, attentions, j: int, name, path, part, resnet, stride) -> None:
    if j < len(attentions) and attentions[j] is not None:
        channels = resnet.in_channels if part == "mid" else resnet.out_channels
        add(f"{name}.attn.{j}", f"{path}.attentions.{j}", "attention", part, channels, stride)


def unet_multiple(unet: nn.Module) -> int:
    """Heights and widths of the U-Net's input must be multiples of this."""
    return 2 ** sum(_resamples(stage, "down") for stage in unet.down_blocks)
