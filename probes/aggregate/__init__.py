"""Several cells as one: sums, components, features of several models; mixers trained for a task."""

from probes.aggregate.bottleneck import Bottleneck
from probes.aggregate.co_pca import CoPCA
from probes.aggregate.frames import together
from probes.aggregate.fusing import Fusion
from probes.aggregate.hyperfeature_net import HyperfeatureNet
from probes.aggregate.hyperfeatures import HyperfeatureMixer
from probes.aggregate.mixer import MixerHead, MixerProbe
from probes.aggregate.pose import PoseAdapter, unmirrored, with_mirrored
from probes.aggregate.reductions import ConcatCells, PCACells, SumCells
from probes.aggregate.spatial import SpatialFusion

__all__ = [
    "Bottleneck",
    "CoPCA",
    "ConcatCells",
    "Fusion",
    "HyperfeatureMixer",
    "HyperfeatureNet",
    "MixerHead",
    "MixerProbe",
    "PCACells",
    "PoseAdapter",
    "SpatialFusion",
    "SumCells",
    "together",
    "unmirrored",
    "with_mirrored",
]
