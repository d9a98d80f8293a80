"""Heads that say something at every pixel: classes or depth, from maps on their own grids."""

from probes.dense.base import DenseHead, Segmenter
from probes.dense.column import Column
from probes.dense.ensemble import DDPM_SEG, PixelMLPEnsemble
from probes.dense.nearest_mean import NearestMean
from probes.dense.pixels import PixelPool
from probes.dense.truth import Masks

__all__ = [
    "DDPM_SEG", "Column", "DenseHead", "Masks", "NearestMean", "PixelMLPEnsemble", "PixelPool",
    "Segmenter",
]  # fmt: skip
