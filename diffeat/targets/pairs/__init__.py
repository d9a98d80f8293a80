"""What corresponds in pairs of pictures: one reader per layout."""

from diffeat.targets.pairs.base import PairTargets, PointPairs, Truth

__all__ = ["PairTargets", "PointPairs", "Truth"]
