"""Each head of attention on its own: label-free numbers of its queries, keys, values, outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffeat.backbones import Backbone
from diffeat.blocks import BlockInfo, resolve_blocks
from diffeat.errors import SpecError
from diffeat.images import Source
from diffeat.search.label_free.scores import PICTURES, FreeOptions, live_free_scores
from diffeat.search.label_free.table import FreeTable, head_of
from diffeat.search.tasks import CellKey
from diffeat.specs import ExtractSpec

KINDS = ("q", "k", "v", "z", "map")
"""What a head has: queries, keys, values, what it gives before the output projection, and its
attention map, whose channels are its keys."""
USUAL = ("q", "k", "v", "z")


def head_tensors(
    backbone: Backbone, patterns: Sequence[str] = ("all",), kinds: Sequence[str] = USUAL
) -> tuple[BlockInfo, ...]:
    """Tensors of attention that have heads and sites, in the order of execution.

    Args:
        backbone: whose.
        patterns: places, by name, wildcard or group (`docs/tensors.md`): of each the tensors of
            the kinds that it has; or tensors by their whole names.
        kinds: of KINDS.

    Returns:
        Tensors; a map comes head by head. Keys and values of text have no site, and are left out.

    Raises:
        SpecError: an unknown kind, or nothing that has heads.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise SpecError(f"kind {unknown[0]!r} is unknown; expected some of {', '.join(KINDS)}")
    wanted = [pattern for pattern in patterns if ":" in pattern]
    for place in (pattern for pattern in patterns if ":" not in pattern):
        resolve_blocks([place], backbone.tensors, backbone.aliases)  # a wrong name is told as such
        wanted += [each for kind in kinds if _has(backbone, each := f"{place}:*.{kind}")]
    found = resolve_blocks(wanted, backbone.tensors, backbone.aliases) if wanted else ()
    apart = [
        one
        for block in found
        if block.has_grid and block.heads
        for one in ([block] if not block.is_attention or block.head is not None
                    else map(block.of_head, range(block.heads)))
    ]  # fmt: skip
    if not apart:
        have = {b.name.partition(":")[0]: 0 for b in backbone.tensors if b.heads}
        hint = f"; places with attention are {', '.join(list(have)[:12])}" if have else ""
        raise SpecError(
            f"{', '.join(patterns)}: no tensor of the kinds {', '.join(kinds)} with heads and "
            f"sites{hint} (up.**, say, is all that lies in up)"
        )
    return tuple(apart)


def _has(backbone: Backbone, pattern: str) -> bool:
    """Whether a place has such a tensor."""
    try:
        return bool(resolve_blocks([pattern], backbone.tensors, backbone.aliases))
    except SpecError:
        return False


def head_scores(
    backbone: Backbone,
    source: Source,
    spec: ExtractSpec,
    kinds: Sequence[str] = USUAL,
    scores: Sequence[str] | None = None,
    options: FreeOptions | None = None,
    pictures: int = PICTURES,
    **run: Any,
) -> FreeTable:
    """Label-free numbers of every head of a model's attention, at every t.

    A tensor (N, heads·D, h, w) is read once and cut into its heads, so that a picture takes one
    forward a t and noising, however many heads there are.

    Args:
        backbone: from `diffeat.load`.
        source: pictures; labels play no part.
        spec: whose blocks are places or tensors, as `head_tensors` takes them.
        kinds, scores, options, pictures: see `head_tensors`, `live_free_scores`.
        run: further arguments of `live_free_scores`.

    Returns:
        A table whose blocks are "PLACE:KIND.hN".

    Raises:
        SpecError: nothing that has heads, or what `live_free_scores` cannot compute.
    """
    tensors = head_tensors(backbone, spec.blocks, kinds)
    count = {block.name: block.heads for block in tensors}
    spec = replace(spec, blocks=tuple(count), dtype="float32")

    def split(cell: CellKey, values: np.ndarray) -> Iterable[tuple[CellKey, np.ndarray]]:
        block, t = cell
        if head_of(block)[1] is not None:
            return [(cell, values)]
        parts = np.split(values, count[block], axis=1)
        return [((f"{block}.h{head}", t), part) for head, part in enumerate(parts)]

    how = {"scores": scores, "options": options, "pictures": pictures, "split": split}
    return live_free_scores(backbone, source, spec, **how, **run)
