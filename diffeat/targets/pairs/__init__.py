"""What corresponds in pairs of pictures: one reader per layout."""

from diffeat.targets.pairs.base import PairTargets, PointPairs, Truth
from diffeat.targets.pairs.depth import DepthPairs, DepthRule, open_depth
from diffeat.targets.pairs.flows import FlowPairs
from diffeat.targets.pairs.opened import open_pairs
from diffeat.targets.pairs.planes import HomographyPairs, project

__all__ = [
    "DepthPairs",
    "DepthRule",
    "FlowPairs",
    "HomographyPairs",
    "PairTargets",
    "PointPairs",
    "Truth",
    "open_depth",
    "open_pairs",
    "project",
]
