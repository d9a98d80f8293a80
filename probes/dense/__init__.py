"""Heads that say something at every pixel: classes or depth, from maps on their own grids."""

from probes.dense.base import DenseHead, Segmenter
from probes.dense.column import Column
from probes.dense.nearest_mean import NearestMean
from probes.dense.truth import Masks

__all__ = ["Column", "DenseHead", "Masks", "NearestMean", "Segmenter"]
