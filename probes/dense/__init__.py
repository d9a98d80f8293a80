"""Heads that say something at every pixel: classes or depth, from maps on their own grids."""

from probes.dense.base import DenseHead, Segmenter
from probes.dense.column import Column
from probes.dense.depth import DepthHead
from probes.dense.dpt import DPTHead
from probes.dense.ensemble import DDPM_SEG, PixelMLPEnsemble
from probes.dense.fpn import FPNHead
from probes.dense.in_context import InContext
from probes.dense.k_means import KMeansSegmenter
from probes.dense.linear import PixelLinear
from probes.dense.mean_depth import MeanDepth
from probes.dense.nearest_mean import NearestMean
from probes.dense.pixels import PixelPool
from probes.dense.position import MeanMask
from probes.dense.positions import positions, with_positions
from probes.dense.presets import PUBLISHED, published
from probes.dense.regression import PixelRegression
from probes.dense.truth import DepthMaps, Masks

__all__ = [
    "DDPM_SEG",
    "PUBLISHED",
    "Column",
    "DPTHead",
    "DenseHead",
    "DepthHead",
    "DepthMaps",
    "FPNHead",
    "InContext",
    "KMeansSegmenter",
    "Masks",
    "MeanDepth",
    "MeanMask",
    "NearestMean",
    "PixelLinear",
    "PixelMLPEnsemble",
    "PixelPool",
    "PixelRegression",
    "Segmenter",
    "positions",
    "published",
    "with_positions",
]
