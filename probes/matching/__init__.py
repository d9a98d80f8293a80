"""Where points of one picture lie in another, by their features."""

from probes.matching.nearest import NearestMatcher

__all__ = ["NearestMatcher"]
