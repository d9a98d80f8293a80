"""Inside the hooks: from what a tap read to the feature that is kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from diffeat.attention import AttentionInputs
from diffeat.backbones.devices import constant
from diffeat.backbones.tensors import unpatchify
from diffeat.blocks import BlockInfo
from diffeat.extraction.plan import Plan
from diffeat.hooks import Call, HookManager, Tap

STEP = "\0step"
"""Name of the tap that reads the network's prediction for the next step of a trajectory."""


class Reducer:
    """Turns what a tap read into a feature: tokens to a map, then pooling.

    Attributes:
        size: (H, W) in pixels of the pictures in the current forward.
        level: (x, t, alpha, sigma) of the current forward, for predictions.
    """

    def __init__(self, plan: Plan):
        self.plan, self.backbone = plan, plan.backbone
        self.size: tuple[int, int] = plan.size or plan.backbone.native_size
        self.level: tuple[torch.Tensor, ...] = ()
        self._by_name = {block.name: block for block in plan.blocks}

    def run(
        self, hooks: HookManager, x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        """One denoiser forward of x_t under `hooks`.

        Args:
            x: (n, C, h, w) fp32.
            levels: (n, 3) fp64 of t, alpha, sigma.
            condition: one row per row of x.

        Returns:
            t, alpha, sigma, each (n, 1, 1, 1) fp32.
        """
        schedule = self.backbone.schedule
        columns = levels.float().unsqueeze(-1).unsqueeze(-1).unsqueeze(-1).unbind(1)
        self.level = (x, *columns)
        given = self.backbone.as_input(schedule.scaled(x, columns[2]).to(self.backbone.dtype))
        told = schedule.told(levels[:, 0], self.plan.whole)
        hooks.run(**self.backbone.call_arguments(given, told, condition))
        return columns

    def __call__(self, name: str, read: Any) -> torch.Tensor:
        """The feature (n, …) of one tap; never a view of a live activation."""
        if name == STEP:
            return self.backbone.to_latent(read, self._latent_grid).float().clone()
        block = self._by_name[name]
        tensor = self.tensor(block, read)
        pool = self.plan.pool
        if block.layout == "text":
            if block.tokens == "last":  # one sequence, whose text stands first
                tensor = tensor[:, : self.backbone.text_tokens(self.plan.text_length)]
            return tensor.mean(1) if pool else tensor.clone()
        if pool is None:
            return tensor.clone(memory_format=torch.contiguous_format)
        if pool == (1, 1):
            return tensor.mean((2, 3))
        return F.adaptive_avg_pool2d(tensor, pool).flatten(1)

    def tensor(self, block: BlockInfo, read: Any) -> torch.Tensor:
        """(n, C, h, w), or (n, L, D) for text tokens."""
        if isinstance(read, Call):
            read = self._discarded(block, read)
        if block.layout == "x0":
            x, t, alpha, sigma = self.level
            output = self.backbone.to_latent(read, self._latent_grid).float()
            return self.backbone.schedule.split(x, output, t, alpha, sigma)[0]
        if isinstance(read, AttentionInputs):
            return self._map(block, read)
        if block.layout == "patches":
            return unpatchify(read, self._latent_grid, self.backbone.multiple)
        if block.layout == "NLD":
            if read.ndim == 4:  # a 1×1 convolution in place of a linear layer
                return read
            grid = block.grid(self.size)
            read = read[:, _image_tokens(block, grid[0] * grid[1], read.shape[1])]
            read = read.transpose(1, 2).unflatten(2, grid)
        if block.layout == "NHWC":
            read = read.permute(0, 3, 1, 2)
        if block.span is not None:
            read = read[:, slice(*block.span)]
        return read

    @property
    def _latent_grid(self) -> tuple[int, int]:
        return self.backbone.latent_shape(self.size)[1:]

    def _map(self, block: BlockInfo, inputs: AttentionInputs) -> torch.Tensor:
        """(n, heads' · keys', h, w) probabilities of the image's queries."""
        grid, spec = block.grid(self.size), self.plan.spec
        queries, total = inputs.query.shape[2], inputs.key.shape[2]
        image = _image_tokens(block, grid[0] * grid[1], queries)
        keys = torch.arange(total, device=inputs.key.device)
        if block.tokens == "all":  # it attends to nothing but the one or the other
            kept = keys
        elif block.keys == "image":
            kept = keys[image]
        else:
            kept = torch.cat([keys[: image.start], keys[image.stop :]])
        if spec.tokens is not None:
            kept = kept[constant(spec.tokens, torch.long, kept.device)]
        maps = inputs.probabilities(spec.heads, image, kept)
        if spec.heads is not None:  # (n, heads, cells, keys) → heads · keys channels
            maps = maps.permute(0, 2, 1, 3).flatten(2)
        return maps.transpose(1, 2).unflatten(2, grid)

    def _discarded(self, block: BlockInfo, call: Call) -> torch.Tensor:
        """What enters the self-attention when some channels entering the block are 0.

        DiTF (Gan et al. 2025): AdaLN(x with its massive channels set to 0). The block's own
        norm is run, on the changed input, up to its attention.
        """
        channels = constant(self.plan.spec.discard, torch.long, call.tensor.device)
        changed = call.tensor.index_fill(-1, channels, 0)
        call = call.replace(changed)
        inner = block.path.removeprefix(self.plan.place(block).path + ".")
        hooks = HookManager(call.module, {"a": Tap(inner, "input")}, stop_after_last=True)
        with hooks:
            hooks.run(*call.args, **call.kwargs)
        return hooks["a"]


def _image_tokens(block: BlockInfo, count: int, total: int) -> slice:
    """Which of `total` tokens are the `count` cells of the image."""
    if block.tokens == "first":
        return slice(0, count)
    return slice(total - count, total) if block.tokens == "last" else slice(0, total)
