"""Segmentation and depth: which (block, t) tells them best, and what few labels are worth."""

from diffeat.search.dense.bound import BoundDense, bind_dense
from diffeat.search.dense.depth import DepthEstimation
from diffeat.search.dense.heads import HeadChoice
from diffeat.search.dense.judge import DenseJudge, Segmentation
from diffeat.search.dense.labels import FewLabels, few_labels

__all__ = [
    "BoundDense",
    "DenseJudge",
    "DepthEstimation",
    "FewLabels",
    "HeadChoice",
    "Segmentation",
    "bind_dense",
    "few_labels",
]
