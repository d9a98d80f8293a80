"""The tensors of diffusers' U-Nets, read off their modules (shared by all U-Net families)."""

from __future__ import annotations

from collections.abc import Generator

from torch import nn

from diffeat.backbones.tensors import Tensors, attention, basic_block
from diffeat.blocks import BlockInfo
from diffeat.hooks import Tap


def list_unet_tensors(unet: nn.Module) -> Tensors:
    """Name every stage, resnet and attention layer, and their further tensors.

    A stage's output is taken after its downsampler or upsampler, where it has one. Channels
    and strides follow from the modules' declarations; no forward runs.

    Yields:
        BlockInfos in the order of execution, with strides in cells of the U-Net's input.
    """
    channels, stride = unet.conv_in.out_channels, 1
    yield BlockInfo("conv_in", "conv_in", "conv", "encoder", channels, stride)
    for i, stage in enumerate(unet.down_blocks):
        path = f"down_blocks.{i}"
        channels = yield from _layers(stage, f"down.{i}", path, "encoder", stride, channels)
        inner, stride = stride, stride * (2 if _resamples(stage, "down") else 1)
        at = BlockInfo(f"down.{i}", path, "stage", "encoder", channels, stride)
        yield from _output(at, stage, "down", inner)
    if unet.mid_block is not None:
        channels = yield from _layers(unet.mid_block, "mid", "mid_block", "mid", stride, channels)
        yield BlockInfo("mid", "mid_block", "stage", "mid", channels, stride)
    for i, stage in enumerate(unet.up_blocks):
        path = f"up_blocks.{i}"
        channels = yield from _layers(stage, f"up.{i}", path, "decoder", stride, channels)
        inner, stride = stride, stride // (2 if _resamples(stage, "up") else 1)
        at = BlockInfo(f"up.{i}", path, "stage", "decoder", channels, stride)
        yield from _output(at, stage, "up", inner)


def _resamples(stage: nn.Module, way: str) -> bool:
    """Whether a stage ends in a downsampler or upsampler; skip stages have a resnet for it."""
    plain = getattr(stage, f"{way}samplers", None)
    return bool(plain) or getattr(stage, f"resnet_{way}", None) is not None


def _output(at: BlockInfo, stage: nn.Module, way: str, stride: int) -> Tensors:
    """A stage's output, and its result before its resampler, where it has one."""
    yield at
    if getattr(stage, f"{way}samplers", None):
        before = Tap(f"{at.path}.{way}samplers.0", "input")
        yield at.also("pre", before, at.channels, stride=stride)


def _layers(
    stage: nn.Module, name: str, path: str, part: str, stride: int, trunk: int
) -> Generator[BlockInfo, None, int]:
    """A stage's resnets and attention layers; `trunk` is the channels that enter it.

    Returns:
        The stage's channels.
    """
    resnets = list(stage.resnets)
    attentions = list(getattr(stage, "attentions", None) or [])
    first = len(resnets) - len(attentions) if part == "mid" else 0

    def attended(j: int, channels: int) -> Tensors:
        layer = attentions[j] if j < len(attentions) else None
        if layer is not None and not isinstance(layer, nn.Identity):
            at = BlockInfo(
                f"{name}.attn.{j}", f"{path}.attentions.{j}", "attention", part, channels, stride
            )
            yield from _attention(at, layer)

    # the mid block runs res 0, (attn 0, res 1), …; the others (res 0, attn 0), (res 1, …)
    for j, resnet in enumerate(resnets):
        if part == "mid" and j >= first > 0:
            yield from attended(j - first, resnet.in_channels)
        place = f"{name}.res.{j}", f"{path}.resnets.{j}"
        at = BlockInfo(*place, "resnet", part, resnet.out_channels, stride)
        yield from _resnet(at, resnet, trunk)
        trunk = resnet.out_channels
        if part != "mid":
            yield from attended(j, resnet.out_channels)
    return trunk


def _resnet(at: BlockInfo, resnet: nn.Module, trunk: int) -> Tensors:
    yield at
    entering = Tap(at.path, "input")
    yield at.also("in", entering, resnet.in_channels)
    if at.part == "decoder" and resnet.in_channels > trunk:  # diffusers puts the skip behind
        yield at.also("trunk", entering, trunk, span=(0, trunk))
        yield at.also("skip", entering, resnet.in_channels - trunk, span=(trunk, None))
    yield at.also("increment", Tap(f"{at.path}.conv2"), resnet.out_channels)


def _attention(at: BlockInfo, layer: nn.Module) -> Tensors:
    """An attention layer with its tensors, or with the transformer blocks inside it."""
    blocks = list(getattr(layer, "transformer_blocks", ()))
    inner = [f"{at.path}.transformer_blocks.{k}" for k in range(len(blocks))]
    if len(blocks) > 1:
        for k, (block, path) in enumerate(zip(blocks, inner, strict=True)):
            one = BlockInfo(f"{at.name}.block.{k}", path, "transformer", at.part,
                            layer.inner_dim, at.stride, "NLD")  # fmt: skip
            yield one
            yield from basic_block(one, block, path)
    yield at
    if len(blocks) == 1:
        yield at.also("block", Tap(inner[0]), layer.inner_dim, "NLD")
        yield from basic_block(at, blocks[0], inner[0])
    if not blocks:  # it adds its input itself, so its output is the layer's
        yield from attention(at, layer, at.path, "self", out=False)


def unet_multiple(unet: nn.Module) -> int:
    """Heights and widths of the U-Net's input must be multiples of this."""
    return 2 ** sum(_resamples(stage, "down") for stage in unet.down_blocks)
