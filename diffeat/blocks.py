"""Names of places and tensors in a model, and how a user's patterns select them.

A name is PLACE or PLACE:KIND. Without a colon it means the place's output.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
        channels: C of it; of a head, its own; 0 for attention maps whose channels go by the
            picture or the text; the registers of a map onto them.
        stride: picture pixels per cell, in each direction; 0 for text tokens.
        layout: "NCHW"; "NHWC"; "NLD", image tokens in row-major order; "text", text tokens (L, D);
            "map", attention probabilities; "patches", tokens that hold p×p cells each.
        order: rank of the place in the order of execution, from 0.
        tensor: the kind of tensor, such as "cross.q"; "" is the place's output.
        tap: where it is read.
        tokens: which of the tokens are the image's: "all", "first" or "last".
        keys: of a map: "image", "text" or "register" keys.
        queries: of a map: whose queries. "image": a channel per key, a cell per query; "text":
            a channel per query, a cell per key.
        span: of the channels of what is read, those from … to (None is the end).
        heads: heads of attention in what is read, side by side in its channels (of maps: apart);
            0 where there are none. Keys and values may have fewer than queries.
        head: the one of them that is meant, from 0; None: all of them.
    """

    name: str
    path: str
    kind: str
    part: str
    channels: int
    stride: int
    layout: str = "NCHW"
    order: int = 0
    tensor: str = ""
    tap: Tap | None = None
    tokens: str = "all"
    keys: str = ""
    queries: str = "image"
    span: tuple[int, int | None] | None = None
    heads: int = 0
    head: int | None = None

    @property
    def where(self) -> Tap:
        """The tap; by default the output of the module at `path`."""
        return self.tap or Tap(self.path)

    def also(
        self, tensor: str, tap: Tap, channels: int, layout: str | None = None,
        stride: int | None = None, **how: Any,
    ) -> BlockInfo:  # fmt: skip
        """Another tensor of the same place; `layout` and `stride` as there, if not given."""
        return BlockInfo(
            f"{self.name}:{tensor}", tap.path, self.kind, self.part, channels,
            self.stride if stride is None else stride, layout or self.layout, self.order,
            tensor=tensor, tap=tap, **how,
        )  # fmt: skip

    def of_head(self, head: int) -> BlockInfo:
        """One head of it, as a tensor of its own: NAME.hN, with D = C / heads channels."""
        return replace(
            self, name=f"{self.name}.h{head}", tensor=f"{self.tensor}.h{head}", head=head,
            channels=self.channels if self.is_attention else self.channels // self.heads,
        )  # fmt: skip

    def kept_heads(self, wanted: Sequence[int] | None) -> Sequence[int] | None:
        """Which heads are kept, in this order, where `wanted` are asked for; None: all of them
        (of maps their mean). A tensor that is one head keeps that one."""
        if self.head is not None:
            return (self.head,)
        return wanted if self.heads else None

    # --- what it is, so that nobody else compares words ----------------------------------------

    @property
    def is_output(self) -> bool:
        """Whether it is the output of a block of the denoiser, as `all` selects them."""
        return not self.tensor and not self.of_network and not self.of_vae

    @property
    def of_vae(self) -> bool:
        """Whether the VAE has it, and not the denoiser."""
        return self.part in ("vae", VAE_DECODER)

    @property
    def of_network(self) -> bool:
        """Whether it enters or leaves the denoiser as a whole."""
        return self.part == "network"

    @property
    def is_text(self) -> bool:
        """Text tokens (L, D), which have no grid."""
        return self.layout == "text"

    @property
    def has_grid(self) -> bool:
        """Whether it has a vector for each cell of a grid over the picture."""
        return not self.is_text

    @property
    def is_tokens(self) -> bool:
        """Read as tokens (n, L, D), one per cell in row-major order."""
        return self.layout == "NLD"

    @property
    def is_channels_last(self) -> bool:
        """Read as maps (n, H, W, C)."""
        return self.layout == "NHWC"

    @property
    def is_patches(self) -> bool:
        """Read as tokens that hold the p×p cells of a patch each."""
        return self.layout == "patches"

    @property
    def is_attention(self) -> bool:
        """Attention probabilities; their channels are keys."""
        return self.layout == "map"

    @property
    def attends_to_image(self) -> bool:
        """Attention of the picture's cells to its cells: a channel per cell."""
        return self.is_attention and self.keys == self.queries == "image"

    @property
    def asked_by_text(self) -> bool:
        """Attention of text tokens to the picture's cells: a channel per text token."""
        return self.is_attention and self.queries == "text"

    @property
    def counts_text(self) -> bool:
        """Whether its shape goes by the number of text tokens."""
        return self.is_text or (self.is_attention and "text" in (self.keys, self.queries))

    @property
    def is_clean(self) -> bool:
        """The clean picture x0 that follows from the network's prediction."""
        return self.layout == "x0"

    @property
    def is_adaptive(self) -> bool:
        """The adaptive norm's output, before which channels can be discarded."""
        return self.tensor == "adaln"

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells (rows, columns) of the map for a picture of `size` (H, W) pixels."""
        return size[0] // self.stride, size[1] // self.stride

    def shape(
        self,
        size: tuple[int, int],
        text: int = 0,
        heads: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
    ) -> tuple[int, ...]:
        """Shape of one picture's tensor: (C, h, w), or (L, D) for text tokens.

        Args:
            size: (H, W) of the picture in pixels.
            text: number of text tokens, where it `counts_text`.
            heads: heads of attention that are kept; of a tensor that is one head, no others.
            tokens: channels of attention maps that are kept.

        Raises:
            SpecError: a key that the attention does not have.
        """
        many = len(heads) if heads is not None and self.heads and self.head is None else None
        width = self.channels if many is None else self.channels // self.heads * many
        if self.is_text:
            return text, width
        rows, columns = self.grid(size)
        if not self.is_attention:
            return width, rows, columns
        keys = rows * columns if self.attends_to_image else self.channels or text
        if tokens is not None and max(tokens) >= keys:
            of = "text tokens that ask" if self.asked_by_text else "keys"
            raise SpecError(f"tokens={max(tokens)}: the map {self.name!r} has {keys} {of}")
        kept = keys if tokens is None else len(tokens)
        return kept * (many or 1), rows, columns

    def stored_layout(self, pooled: bool) -> str:
        """What a file calls the form of its features: "NC", "NLD" (text) or "NCHW"."""
        if pooled:
            return "NC"
        return "NLD" if self.is_text else "NCHW"


def in_order(tensors: Iterable[BlockInfo]) -> Iterator[BlockInfo]:
    """The tensors with their ranks; what belongs to a place stands behind its output."""
    order = -1
    for block in tensors:
        order += block.is_output
        yield replace(block, order=order)


VAE_DECODER = "vae decoder"
"""Part of tensors of a VAE that decodes; those of its encoder are of the part "vae"."""
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
    "decoder:increment" is a kind throughout a group. With ".h3" behind a kind it is that head
    of it, a tensor of its own; ".h*" is every head.

    Args:
        patterns: what the user wrote.
        blocks: every tensor of the model.
        aliases: other name → canonical name, such as "dift:1" → "up.1".

    Raises:
        SpecError: a pattern selects nothing (names the nearest blocks, or how many heads there
            are), or none is given.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not patterns:
        raise SpecError("no block given; expected at least one, such as 'up.1', or 'all'")
    aliases, named = aliases or {}, {block.name: block for block in blocks}
    chosen: set[tuple[str, int | None]] = set()
    for pattern in patterns:
        whole, heads = split_head(pattern)
        hits = _select(whole, blocks) or [
            name for alias, name in aliases.items() if fnmatch.fnmatchcase(alias, whole)
        ]
        if not hits:
            raise SpecError(_nothing(pattern, blocks, aliases))
        if heads is None:
            chosen.update((name, None) for name in hits)
        else:
            chosen.update(_heads(pattern, heads, [named[name] for name in hits]))
    return tuple(
        block if head is None else block.of_head(head)
        for block in blocks
        for head in (None, *range(block.heads))
        if (block.name, head) in chosen
    )


HEAD = re.compile(r"(?P<whole>.+:.+)\.h(?P<heads>\d+|\*)")
"""A pattern of heads: NAME.h3, or NAME.h* for every one."""
OTHER_NAMES = {"i2t.map": "cross.map"}
"""Kind by another name → as it is called here."""


def split_head(name: str) -> tuple[str, str | None]:
    """ "block.9:self.q.h3" → ("block.9:self.q", "3"); without a head (name, None)."""
    found = HEAD.fullmatch(name)
    return (found["whole"], found["heads"]) if found else (name, None)


def _heads(pattern: str, heads: str, blocks: Sequence[BlockInfo]) -> list[tuple[str, int]]:
    """(name, head) that a pattern asks of some tensors; those without that head are left out."""
    found = [
        (block.name, head)
        for block in blocks
        for head in (range(block.heads) if heads == "*" else [int(heads)])
        if head < block.heads
    ]
    if not found:
        counts = {block.name: block.heads for block in blocks}
        most = max(counts, key=counts.get)
        have = f"has {counts[most]} (h0 … h{counts[most] - 1})" if counts[most] else "has none"
        raise SpecError(f"block {pattern!r}: no such head; {most} {have}")
    return found


def _select(pattern: str, blocks: Sequence[BlockInfo]) -> list[str]:
    """Names that a pattern of canonical form selects."""
    place, colon, tensor = pattern.partition(":")
    tensor = OTHER_NAMES.get(tensor, tensor)
    group = GROUPS.get(place)
    return [
        block.name
        for block in blocks
        if (fnmatch.fnmatchcase(block.tensor, tensor) if colon else not block.tensor)
        and bool(block.tensor) == bool(colon)
        and (
            group(block) and not block.of_network and not block.of_vae
            if group
            else _matches(block.name.partition(":")[0], place)
        )
    ]


def select_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a name, a wildcard or "all" selects, where nothing but names is known.

    As `resolve_blocks`, of what stands in a file; other groups and papers' names need the model.
    """
    if pattern in names or pattern == "all":
        return [name for name in names if pattern in (name, "all")]
    place, colon, tensor = pattern.partition(":")
    for other, own in OTHER_NAMES.items():
        if tensor == other or tensor.startswith(f"{other}.h"):
            tensor = own + tensor[len(other) :]
    apart = ((name, *name.partition(":")) for name in names)
    return [
        name
        for name, have, mark, kind in apart
        if mark == colon and _matches(have, place) and fnmatch.fnmatchcase(kind, tensor)
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
