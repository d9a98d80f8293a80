"""Names of places and tensors in a model, and how a user's patterns select them.

A name is PLACE or PLACE:KIND. Without a colon it means the place's output.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffeat.errors import SpecError, nearest
from diffeat.hooks import Tap


@dataclass(frozen=True)
class BlockInfo:
    """A tensor of the model that can be a feature.

    Attributes:
        name: canonical name, such as "up.1.res.0" or "up.1.attn.0:cross.q".
        path: path of the submodule in the denoiser (or in the VAE's encoder).
        kind: what the place is: "conv", "resnet", "attention", "stage", "transformer", "norm",
            "network" or "vae".
        part: "encoder", "mid" or "decoder" of a U-Net; "blocks" of a transformer; "network";
            "vae".
        channels: C of it; 0 for attention maps, whose channels are their keys.
        stride: picture pixels per cell, in each direction; 0 for text tokens.
        layout: "NCHW"; "NHWC"; "NLD", image tokens in row-major order; "text", text tokens (L, D);
            "map", attention probabilities; "patches", tokens that hold p×p cells each.
        order: rank of the place in the order of execution, from 0.
        tensor: the kind of tensor, such as "cross.q"; "" is the place's output.
        tap: where it is read.
        tokens: which of the tokens are the image's: "all", "first" or "last".
        keys: of a map: "image" or "text" keys.
        span: of the channels of what is read, those from … to (None is the end).
    """

    name: str
    path: str
    kind: str
    part: str
    channels: int
    stride: int
    layout: str
    order: int
    tensor: str = ""
    tap: Tap | None = None
    tokens: str = "all"
    keys: str = ""
    span: tuple[int, int | None] | None = None

    @property
    def where(self) -> Tap:
        """The tap; by default the output of the module at `path`."""
        return self.tap or Tap(self.path)

    @property
    def is_output(self) -> bool:
        """Whether it is the output of a block of the denoiser, as `all` selects them."""
        return not self.tensor and self.part not in ("network", "vae")

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells (rows, columns) of the map for a picture of `size` (H, W) pixels."""
        return size[0] // self.stride, size[1] // self.stride


GROUPS = {
    "all": lambda block: True,
    "encoder": lambda block: block.part == "encoder",
    "decoder": lambda block: block.part == "decoder",
    "stages": lambda block: (
        block.kind == "stage" or (block.kind == "transformer" and block.part == "blocks")
    ),
}


def resolve_blocks(
    patterns: Iterable[str],
    blocks: Sequence[BlockInfo],
    aliases: Mapping[str, str] | None = None,
) -> tuple[BlockInfo, ...]:
    """Select tensors by name, wildcard, group or a paper's name, in the order of execution.

    A wildcard matches within one part of a name: "up.*" selects up.0, up.1, …, and
    "up.*.res.*" their resnets. "up.**" selects all that begins with "up.". A pattern without a
    colon selects outputs only; "up.*.attn.*:cross.q" and "block.*:self.*" select kinds of
    tensor. Groups: all, encoder, decoder, stages (stage outputs, or all transformer blocks);
    "decoder:increment" is a kind throughout a group.

    Args:
        patterns: what the user wrote.
        blocks: every tensor of the model.
        aliases: other name → canonical name, such as "dift:1" → "up.1".

    Raises:
        SpecError: a pattern selects nothing (names the nearest blocks), or none is given.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not patterns:
        raise SpecError("no block given; expected at least one, such as 'up.1', or 'all'")
    aliases = aliases or {}
    chosen: set[str] = set()
    for pattern in patterns:
        hits = _select(pattern, blocks) or [
            name for alias, name in aliases.items() if fnmatch.fnmatchcase(alias, pattern)
        ]
        if not hits:
            raise SpecError(_nothing(pattern, blocks, aliases))
        chosen.update(hits)
    return tuple(block for block in blocks if block.name in chosen)


def _select(pattern: str, blocks: Sequence[BlockInfo]) -> list[str]:
    """Names that a pattern of canonical form selects."""
    place, colon, tensor = pattern.partition(":")
    group = GROUPS.get(place)
    return [
        block.name
        for block in blocks
        if (fnmatch.fnmatchcase(block.tensor, tensor) if colon else not block.tensor)
        and bool(block.tensor) == bool(colon)
        and (
            group(block) and block.part not in ("network", "vae")
            if group
            else _matches(block.name.partition(":")[0], place)
        )
    ]


def _nothing(pattern: str, blocks: Sequence[BlockInfo], aliases: Mapping[str, str]) -> str:
    """Why a pattern selects nothing, and what to write instead."""
    names = [block.name for block in blocks]
    place, colon, _ = pattern.partition(":")
    kinds = [block.tensor for block in blocks if block.name.startswith(place + ":")]
    system = [alias for alias in aliases if alias.startswith(place + ":")]
    if colon and kinds:
        hint = f"; {place} has {', '.join(_shorten(kinds))}"
    elif colon and system:
        hint = f"; of {place} this model has {', '.join(_shorten(system))}"
    else:
        outputs = [block.name for block in blocks if block.is_output]
        near = nearest(pattern, [*names, *aliases])
        hint = near or f"; it has {', '.join(_shorten(outputs))}"
    return (
        f"block {pattern!r} selects nothing in this model{hint} "
        "(`diffeat blocks MODEL --tensors` lists all)"
    )


def _matches(name: str, pattern: str) -> bool:
    if pattern.endswith("**"):
        return name.startswith(pattern[:-2])
    have, want = name.split("."), pattern.split(".")
    return len(have) == len(want) and all(map(fnmatch.fnmatchcase, have, want))


def _shorten(names: list[str], most: int = 12) -> list[str]:
    return names if len(names) <= most else [*names[: most - 1], "…"]
