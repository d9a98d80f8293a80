"""The blocks that a denoiser is built of: its resnets, attention layers and transformer blocks."""

from __future__ import annotations

from torch import nn

LISTS = (
    "resnets", "attentions", "downsamplers", "upsamplers", "transformer_blocks",
    "single_transformer_blocks", "joint_transformer_blocks",
)  # fmt: skip


def units(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Path → block, none inside another. Layers that hold transformer blocks are not listed,
    their blocks are."""
    found: dict[str, nn.Module] = {}
    for path, module in denoiser.named_modules():
        holder = path.rpartition(".")[0].rpartition(".")[2]
        if (
            holder in LISTS
            and not _holds_units(module)
            and next(module.parameters(), None) is not None
        ):
            found[path] = module
    return found


def _holds_units(module: nn.Module) -> bool:
    return any(isinstance(getattr(module, name, None), nn.ModuleList) for name in LISTS)
