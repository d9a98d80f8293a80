"""The tensors of a model, place by place: generators that the families put together.

Strides are in cells of the latent. A generator that begins a place returns its output, so that
others can go on from there: `at = yield from transformer(…)`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import nn

from diffeat.blocks import VAE_DECODER, BlockInfo
from diffeat.hooks import Tap

Tensors = Iterator[BlockInfo]


def attention(
    at: BlockInfo, attn: nn.Module, path: str, prefix: str, tokens: str = "all",
    keys: str = "image", out: bool = True,
) -> Tensors:  # fmt: skip
    """Queries, keys, values, what heads give, output and map of one attention module.

    Args:
        at: the place that it belongs to.
        attn: with to_q, to_k, to_v and to_out.
        path: its path.
        prefix: "self", "cross" or "dual".
        tokens: which of its tokens are the image's.
        keys: what it attends to, "image" or "text".
        out: whether its output is the attention alone (and not already added to its input).
    """
    text = keys == "text"
    yield projection(at, attn, path, "to_q", f"{prefix}.q", tokens)
    for letter in "kv":
        yield projection(at, attn, path, f"to_{letter}", f"{prefix}.{letter}", tokens, text)
    yield of_heads(at, attn, path, f"{prefix}.z", tokens)
    if out:
        yield at.also(f"{prefix}.out", Tap(path), attn.to_q.in_features, "NLD", tokens=tokens)
    yield at.also(
        f"{prefix}.map", Tap(path, "attention"), 0, "map", tokens=tokens, keys=keys,
        heads=attn.heads,
    )  # fmt: skip


def projection(
    at: BlockInfo, attn: nn.Module, path: str, layer: str, name: str, tokens: str = "all",
    text: bool = False,
) -> BlockInfo:  # fmt: skip
    """What one of an attention's projections gives, its heads side by side.

    Every head is as wide as one of the queries, so keys and values of grouped-query attention
    count fewer heads: their width by that.

    Args:
        layer: the projection, such as "to_k".
        name: of the kind.
        text: whether the tokens are the text's.
    """
    width = getattr(attn, layer).out_features
    each = attn.to_q.out_features // attn.heads
    return at.also(
        name, Tap(f"{path}.{layer}"), width, "text" if text else "NLD", 0 if text else None,
        tokens=tokens, heads=width // each,
    )  # fmt: skip


def of_heads(at: BlockInfo, attn: nn.Module, path: str, name: str, tokens: str) -> BlockInfo:
    """softmax(q·kᵀ)·v of every head, side by side: what enters the output's projection.

    Where an attention has no such projection (single blocks of FLUX), what it returns.
    """
    out = getattr(attn, "to_out", None)
    tap = Tap(path) if out is None else Tap(f"{path}.to_out.0", "input")
    width = attn.to_q.out_features
    return at.also(name, tap, width, "NLD", tokens=tokens, heads=attn.heads)


def joint_attention(
    at: BlockInfo, attn: nn.Module, path: str, tokens: str, registers: int = 0
) -> Tensors:
    """One attention over image and text tokens; the text's projections are its own.

    Args:
        at: the place that it belongs to.
        attn: with to_q, … for the image and add_q_proj, add_k_proj, add_v_proj for the text.
        path: its path.
        tokens: where the image's tokens stand in the joint sequence, "first" or "last".
        registers: learned tokens before the text's.
    """
    for letter in "qkv":
        yield projection(at, attn, path, f"to_{letter}", f"self.{letter}")
    yield of_heads(at, attn, path, "self.z", "all")  # the text's part goes another way
    yield at.also("self.out", Tap(path), attn.to_q.in_features, "NLD")
    for letter in "kv":
        yield projection(at, attn, path, f"add_{letter}_proj", f"cross.{letter}", text=True)
    yield projection(at, attn, path, "add_q_proj", "text.q", text=True)
    yield from joint_maps(at, attn, path, tokens, registers)


def single_attention(
    at: BlockInfo, attn: nn.Module, path: str, tokens: str, registers: int = 0
) -> Tensors:
    """One attention over one sequence of text and image tokens, with the same weights."""
    for letter in "qkv":
        yield projection(at, attn, path, f"to_{letter}", f"self.{letter}", tokens)
    yield of_heads(at, attn, path, "self.z", tokens)
    yield at.also("self.out", Tap(path), attn.to_q.in_features, "NLD", tokens=tokens)
    yield projection(at, attn, path, "to_q", "text.q", tokens, text=True)
    yield from joint_maps(at, attn, path, tokens, registers)


def joint_maps(
    at: BlockInfo, attn: nn.Module, path: str, tokens: str, registers: int = 0
) -> Tensors:
    """Parts of a joint softmax: the image's queries by the image's, the text's and the
    registers' columns, and the text's queries by the image's columns."""
    how = {"tap": Tap(path, "attention"), "layout": "map", "tokens": tokens, "heads": attn.heads}
    yield at.also("self.map", channels=0, keys="image", **how)
    yield at.also("cross.map", channels=0, keys="text", **how)
    if registers:
        yield at.also("register.map", channels=registers, keys="register", **how)
    yield at.also("t2i.map", channels=0, keys="image", queries="text", **how)


def transformer(
    name: str, path: str, width: int, stride: int, attn: str, tap: Tap | None = None,
    tokens: str = "all", joined: str = "all",
) -> Generator[BlockInfo, None, BlockInfo]:  # fmt: skip
    """The output of a transformer block, what enters it, and its adaptive norm's output.

    The adaptive norm's output is what enters the self-attention: normalised, scaled and
    shifted by time and condition (DiTF's feature).

    Args:
        name: of the block.
        path: its path.
        width: D of the tokens.
        stride: cells of the latent per token, in each direction.
        attn: name of the self-attention inside the block.
        tap: where the image's output is, if not the block's only output.
        tokens: which tokens entering the self-attention are the image's.
        joined: which tokens are, where the block itself takes and gives one sequence.

    Returns:
        The place.
    """
    at = BlockInfo(
        name, path, "transformer", "blocks", width, stride, "NLD", tap=tap, tokens=joined
    )
    yield at
    yield at.also("in", Tap(path, "input"), width, tokens=joined)
    tokens = tokens if joined == "all" else joined
    yield at.also("adaln", Tap(f"{path}.{attn}", "input"), width, tokens=tokens)
    return at


def basic_block(at: BlockInfo, block: nn.Module, path: str) -> Tensors:
    """Tensors of a diffusers `BasicTransformerBlock`: self, cross, feed-forward."""
    yield from attention(at, block.attn1, f"{path}.attn1", "self")
    if block.attn2 is not None:
        yield from attention(at, block.attn2, f"{path}.attn2", "cross", keys="text")
    yield feed_forward(at, block.ff, f"{path}.ff")


def feed_forward(at: BlockInfo, ff: nn.Module, path: str) -> BlockInfo:
    """The inner activation: what enters the last linear layer."""
    last = len(ff.net) - 1
    return at.also("ff.inner", Tap(f"{path}.net.{last}", "input"), ff.net[last].in_features, "NLD")


def unpatchify(tokens: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """(n, L, p·p·C) tokens, row-major, cells before channels → (n, C, h, w)."""
    rows, columns = grid[0] // patch, grid[1] // patch
    cells = tokens.reshape(len(tokens), rows, columns, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def unpack(tokens: torch.Tensor, grid: tuple[int, int], side: int) -> torch.Tensor:
    """(n, L, C·s·s) tokens, row-major, channels before cells → (n, C, h, w)."""
    rows, columns = grid[0] // side, grid[1] // side
    cells = tokens.reshape(len(tokens), rows, columns, -1, side, side)
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def vae_tensors(vae: nn.Module, decoder: nn.Module | None = None) -> list[BlockInfo]:
    """The latent ("vae"), and the stages and resnets of the VAE; strides in pixels.

    Args:
        vae: what encodes.
        decoder: (post_quant_conv, decoder), without weights; its tensors are `vae.up.…`, of a
            decoding of the clean latent.
    """
    encoder, found, stride = vae.encoder, [], 1
    for i, stage in enumerate(encoder.down_blocks):
        found += _vae_resnets(stage, f"vae.down.{i}", f"down_blocks.{i}", stride, "vae")
        stride *= 2 if stage.downsamplers else 1
        channels = stage.resnets[-1].out_channels
        found.append(_of_vae(f"vae.down.{i}", f"down_blocks.{i}", channels, stride))
    middle = encoder.mid_block.resnets[-1].out_channels
    found += [_of_vae("vae.mid", "mid_block", middle, stride),
              _of_vae("vae", "", vae.config.latent_channels, stride)]  # fmt: skip
    for i, stage in enumerate(decoder[1].up_blocks if decoder is not None else ()):
        path = f"1.up_blocks.{i}"
        found += _vae_resnets(stage, f"vae.up.{i}", path, stride, VAE_DECODER)
        stride //= 2 if stage.upsamplers else 1
        channels = stage.resnets[-1].out_channels
        found.append(_of_vae(f"vae.up.{i}", path, channels, stride, VAE_DECODER))
    return found


def _of_vae(name: str, path: str, channels: int, stride: int, part: str = "vae", **more: Any):
    how = {"kind": "vae", "layout": "NCHW", "order": 0}
    return BlockInfo(name, path, part=part, channels=channels, stride=stride, **how, **more)


def _vae_resnets(
    stage: nn.Module, name: str, path: str, stride: int, part: str
) -> Iterator[BlockInfo]:
    """Output, input and residual branch of each resnet of a stage."""
    for j, resnet in enumerate(stage.resnets):
        each, at = f"{name}.res.{j}", f"{path}.resnets.{j}"
        yield _of_vae(each, at, resnet.out_channels, stride, part)
        yield _of_vae(f"{each}:in", at, resnet.in_channels, stride, part, tensor="in",
                      tap=Tap(at, "input"))  # fmt: skip
        yield _of_vae(f"{each}:increment", at, resnet.out_channels, stride, part,
                      tensor="increment", tap=Tap(f"{at}.conv2"))  # fmt: skip
