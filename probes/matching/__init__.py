"""Where points of one picture lie in another, by their features."""

from probes.matching.base import Matcher
from probes.matching.flow import Flow
from probes.matching.mutual import MutualMatcher
from probes.matching.nearest import NearestMatcher
from probes.matching.paired import Paired
from probes.matching.soft import (
    KernelSoftArgmaxMatcher,
    SoftArgmaxMatcher,
    WindowSoftArgmaxMatcher,
)
from probes.matching.warp import warp

__all__ = [
    "Flow",
    "KernelSoftArgmaxMatcher",
    "Matcher",
    "MutualMatcher",
    "NearestMatcher",
    "Paired",
    "SoftArgmaxMatcher",
    "WindowSoftArgmaxMatcher",
    "warp",
]
