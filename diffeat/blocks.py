"""Names of places in a denoiser, and how a user's patterns select them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffeat.errors import SpecError, nearest


@dataclass(frozen=True)
class BlockInfo:
    """A place in the denoiser whose output can be a feature.

    Attributes:
        name: canonical name, such as "up.1.res.0".
        path: path of the submodule in the denoiser.
        kind: "conv", "resnet", "attention", "stage" or "transformer".
        part: "encoder", "mid" or "decoder" of a U-Net; "blocks" of a transformer.
        channels: C of its output.
        stride: picture pixels per cell of its output, in each direction.
        layout: "NCHW", or "NLD" for tokens in row-major order.
        order: rank in the order of execution, from 0.
    """

    name: str
    path: str
    kind: str
    part: str
    channels: int
    stride: int
    layout: str
    order: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells (rows, columns) of the output for a picture of `size` (H, W) pixels."""
        return size[0] // self.stride, size[1] // self.stride


GROUPS = {
    "all": lambda block: True,
    "encoder": lambda block: block.part == "encoder",
    "decoder": lambda block: block.part == "decoder",
    "stages": lambda block: block.kind in ("stage", "transformer"),
}


def resolve_blocks(patterns: Iterable[str], blocks: Sequence[BlockInfo]) -> tuple[BlockInfo, ...]:
    """Select blocks by name, wildcard or group, in the order of execution.

    A wildcard matches within one part of a name: "up.*" selects up.0, up.1, …, and
    "up.*.res.*" their resnets. "up.**" selects all that begins with "up.". Groups: all,
    encoder, decoder, stages (stage outputs, or all transformer blocks).

    Raises:
        SpecError: a pattern selects nothing (names the nearest blocks), or none is given.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not patterns:
        raise SpecError("no block given; expected at least one, such as 'up.1', or 'all'")
    chosen: set[str] = set()
    for pattern in patterns:
        group = GROUPS.get(pattern)
        hits = [b.name for b in blocks if (group(b) if group else _matches(b.name, pattern))]
        if not hits and ":" in pattern:
            raise SpecError(
                f"block {pattern!r}: names of papers (dift:1) and kinds of tensor "
                "(up.1.attn.0:cross.q) are not in this version; expected a block's own name"
            )
        if not hits:
            names = [block.name for block in blocks]
            hint = nearest(pattern, names) or f"; it has {', '.join(_shorten(names))}"
            raise SpecError(
                f"block {pattern!r} selects nothing in this model{hint} "
                "(`diffeat blocks MODEL` lists all)"
            )
        chosen.update(hits)
    return tuple(block for block in blocks if block.name in chosen)


def _matches(name: str, pattern: str) -> bool:
    if pattern.endswith("**"):
        return name.startswith(pattern[:-2])
    have, want = name.split("."), pattern.split(".")
    return len(have) == len(want) and all(map(fnmatch.fnmatchcase, have, want))


def _shorten(names: list[str], most: int = 12) -> list[str]:
    return names if len(names) <= most else [*names[: most - 1], "…"]
