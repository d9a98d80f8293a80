"""Inside the hooks: from what a tap read to the feature that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from diffeat.attention import AttentionInputs
from diffeat.backbones.devices import constant
from diffeat.backbones.tensors import unpatchify
from diffeat.blocks import BlockInfo
from diffeat.extraction.plan import Plan
from diffeat.hooks import Call, HookManager, Tap

Size = tuple[int, int]


def feature(plan: Plan, block: BlockInfo, read: Any, size: Size, x_t: tuple = ()) -> torch.Tensor:
    """The feature of one tap: tokens to a map, then pooling; never a view of a live activation.

    Args:
        plan: what is kept.
        block: which tensor.
        read: what its tap read.
        size: (H, W) in pixels of the pictures in this forward.
        x_t: (x, t, alpha, sigma) of this forward, for predictions: x is (n, C, h, w), the
            others (n, 1, 1, 1).

    Returns:
        (n, C, h, w) or (n, L, D) unpooled; (n, C·k·k) or (n, D) pooled.
    """
    tensor = unpooled(plan, block, read, size, x_t)
    if block.is_text:
        return tensor.mean(1) if plan.pool else tensor.clone()
    if plan.spec.low_pass is not None:
        tensor = low_passed(tensor, plan.spec.low_pass)
    if plan.pool is None:
        return tensor.clone(memory_format=torch.contiguous_format)
    if plan.pool == (1, 1):
        return tensor.mean((2, 3))
    return F.adaptive_avg_pool2d(tensor, plan.pool).flatten(1)


def unpooled(plan: Plan, block: BlockInfo, read: Any, size: Size, x_t: tuple = ()) -> torch.Tensor:
    """What a tap read, before pooling: (n, C, h, w), or (n, L, D) for text tokens."""
    backbone = plan.backbone
    if isinstance(read, Call):
        read = _discarded(plan, block, read)
    if block.is_clean:
        x, t, alpha, sigma = x_t
        output = backbone.to_latent(read, tuple(x.shape[2:])).float()
        return backbone.schedule.predict_x0_eps(x, output, t, alpha, sigma)[0]
    if isinstance(read, AttentionInputs):
        return _map(plan, block, read, size)
    if block.is_text and block.tokens == "last":  # one sequence, whose text stands first
        read = read[:, : backbone.text_tokens(plan.text_length)]
    if block.is_patches:
        return unpatchify(read, backbone.latent_shape(size)[1:], backbone.multiple)
    if block.is_tokens and read.ndim == 3:  # 4 of a 1×1 convolution in place of a linear layer
        grid = block.grid(size)
        read = read[:, _image_tokens(block, grid[0] * grid[1], read.shape[1])]
        read = read.transpose(1, 2).unflatten(2, grid)
    if block.is_channels_last:
        read = read.permute(0, 3, 1, 2)
    if block.span is not None:
        read = read[:, slice(*block.span)]
    if block.heads and (heads := block.kept_heads(plan.spec.heads)) is not None:
        read = of_heads(read, block.heads, heads)
    return read


def of_heads(tensor: torch.Tensor, count: int, heads: Sequence[int]) -> torch.Tensor:
    """Some of the `count` heads that lie side by side in the last axis of tokens (n, L, C), or
    in the channels of maps (n, C, h, w); in the order given."""
    axis = 1 if tensor.ndim == 4 else 2
    apart = tensor.unflatten(axis, (count, -1))
    if len(heads) == 1:
        return apart.select(axis, heads[0])
    chosen = apart.index_select(axis, constant(heads, torch.long, tensor.device))
    return chosen.flatten(axis, axis + 1)


def low_passed(maps: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Maps (n, C, h, w) without their frequencies above a radius: an ideal low-pass.

    Kept are the terms of the 2-D discrete Fourier transform with 2·|(f_y, f_x)| ≤ cutoff, f in
    cycles per site, so that 1 is the Nyquist frequency of a row or column. Worked out in fp32;
    maps go on periodically. Source: HeFT (2025), the idea; its cut-off is not verified.
    """
    rows, columns = maps.shape[2:]
    how = {"dtype": torch.float64, "device": maps.device}
    fy, fx = torch.fft.fftfreq(rows, **how), torch.fft.rfftfreq(columns, **how)
    kept = 2 * torch.hypot(fy[:, None], fx[None]) <= cutoff
    spectrum = torch.fft.rfft2(maps.float()) * kept
    return torch.fft.irfft2(spectrum, s=(rows, columns)).to(maps.dtype)


def _map(plan: Plan, block: BlockInfo, inputs: AttentionInputs, size: Size) -> torch.Tensor:
    """(n, heads' · channels', h, w) probabilities: a cell per query and a channel per key, or
    the other way round where text tokens ask the image's cells."""
    grid, heads = block.grid(size), block.kept_heads(plan.spec.heads)
    queries, total = inputs.query.shape[2], inputs.key.shape[2]
    image = _image_tokens(block, grid[0] * grid[1], queries)
    keys = torch.arange(total, device=inputs.key.device)
    others = torch.cat([keys[: image.start], keys[image.stop :]])  # text tokens, of a joint one
    if block.tokens == "all" or block.attends_to_image:  # nothing but the one or the other
        channels = keys if block.tokens == "all" else keys[image]
    else:
        channels = others[: block.channels] if block.keys == "register" else others
    if plan.spec.tokens is not None:
        channels = channels[constant(plan.spec.tokens, torch.long, channels.device)]
    if block.asked_by_text:
        maps = inputs.probabilities(heads, channels, keys[image])  # (n, heads?, channels, cells)
        return (maps if heads is None else maps.flatten(1, 2)).unflatten(2, grid)
    maps = inputs.probabilities(heads, image, channels)  # (n, heads?, cells, channels)
    if heads is not None:
        maps = maps.permute(0, 2, 1, 3).flatten(2)
    return maps.transpose(1, 2).unflatten(2, grid)


def _discarded(plan: Plan, block: BlockInfo, call: Call) -> torch.Tensor:
    """What enters the self-attention when some channels entering the block are 0.

    DiTF (Gan et al. 2025): AdaLN(x with its massive channels set to 0). The block's own
    norm is run, on the changed input, up to its attention.
    """
    channels = constant(plan.spec.discard, torch.long, call.tensor.device)
    call = call.replace(call.tensor.index_fill(-1, channels, 0))
    inner = block.path.removeprefix(plan.place(block).path + ".")
    hooks = HookManager(call.module, {"a": Tap(inner, "input")}, True, lambda _name, read: read)
    with hooks:
        hooks.run(*call.args, **call.kwargs)
    return hooks["a"]


def _image_tokens(block: BlockInfo, count: int, total: int) -> slice:
    """Which of `total` tokens are the `count` cells of the image."""
    if block.tokens == "first":
        return slice(0, count)
    return slice(total - count, total) if block.tokens == "last" else slice(0, total)
