"""Parts of a picture without labels: merged attention, cut graphs, clusters; matched to classes."""

from probes.parts.base import PictureParts
from probes.parts.clusters import KMeansParts, PictureKMeans
from probes.parts.cuts import DiffCut, affinities, recursive_cut
from probes.parts.matched import MatchedParts
from probes.parts.merging import DiffSeg, aggregate_attention

__all__ = [
    "DiffCut",
    "DiffSeg",
    "KMeansParts",
    "MatchedParts",
    "PictureKMeans",
    "PictureParts",
    "affinities",
    "aggregate_attention",
    "recursive_cut",
]
