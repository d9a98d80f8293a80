"""One pair of pictures, extracted under text tensors of its own, and matched."""

from __future__ import annotations

from typing import Any

import torch

from diffeat.backbones.base import Backbone
from diffeat.errors import SourceError
from diffeat.extraction import extract
from diffeat.extraction.learned_prompts import STATES
from diffeat.specs import ExtractSpec
from diffeat.targets.pairs import PairTargets
from probes.cells import Cells
from probes.matching import NearestMatcher
from probes.pairs import Matches


def matched(
    backbone: Backbone,
    pairs: PairTargets,
    pair: int,
    states: torch.Tensor,
    spec: ExtractSpec,
    matcher: Any = None,
) -> Matches:
    """Points of a source, found in its target.

    Args:
        backbone: from `diffeat.load`.
        pairs, pair: which pair.
        states: (1, L, D) text tensors that both pictures are told.
        spec: what is extracted.
        matcher: of `probes.matching`; None: `NearestMatcher()`.
    """
    source = pairs.pictures()
    rows = [int(side[0]) for side in pairs.take([pair]).rows(source.ids)]
    if min(rows) < 0:
        raise SourceError(f"{pairs.name}: pictures of pair {pair} are not there")
    both = source.take(rows)
    features = extract(backbone, both, spec, embeddings={STATES: states})
    cells = Cells(
        dict(features), sizes=features.sizes, placements=features.placements,
        input_size=spec.size or backbone.native_size,
    )  # fmt: skip
    points = pairs.truth(pair).source_points
    matcher = NearestMatcher() if matcher is None else matcher
    return matcher.match(cells.maps(0), cells.maps(1), points)
