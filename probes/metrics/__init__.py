"""What predictions and correspondences are worth, and what representations have in common."""

from probes.metrics.boundaries import BoundaryF, boundary_f
from probes.metrics.classification import (
    Accuracy,
    ConfusionMatrix,
    MeanIoU,
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)
from probes.metrics.conventions import PRESETS, Convention, conventions_of
from probes.metrics.depth import DepthErrors, depth_errors
from probes.metrics.detection import AveragePrecision
from probes.metrics.flow import FlowShare, FlowSmoothness, flow_error, flow_smoothness
from probes.metrics.homography import CornerError, corner_error, find_homography
from probes.metrics.intervals import (
    Interval,
    drawn_interval,
    group_interval,
    pair_interval,
    pair_weights,
)
from probes.metrics.label_free import (
    Agreement,
    EffectiveRank,
    MassiveEnergy,
    MassiveShare,
    NoiseAgreement,
    effective_rank,
    local_distant_similarity,
    massive_share,
    noise_agreement,
)
from probes.metrics.mask_precision import MaskAveragePrecision
from probes.metrics.panoptic import PanopticQuality
from probes.metrics.pck import PCK, pck
from probes.metrics.ranking import (
    MeanAveragePrecision,
    average_precision_score,
    mean_average_precision,
)
from probes.metrics.recall import Recall
from probes.metrics.regression import (
    MeanAbsoluteError,
    MeanSquaredError,
    R2Score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)
from probes.metrics.representations import (
    alignment,
    cknna,
    cknna_public,
    linear_cka,
    mutual_knn,
    uniformity,
)
from probes.metrics.risk_coverage import RiskCoverage, rank_correlation, risk_coverage
from probes.metrics.segmentation import Confusion
from probes.metrics.video import (
    JointPCK,
    VideoScores,
    contour_accuracy,
    joint_pck,
    region_similarity,
)

__all__ = [
    "PCK",
    "PRESETS",
    "Accuracy",
    "Agreement",
    "AveragePrecision",
    "BoundaryF",
    "Confusion",
    "ConfusionMatrix",
    "Convention",
    "CornerError",
    "DepthErrors",
    "EffectiveRank",
    "FlowShare",
    "FlowSmoothness",
    "Interval",
    "JointPCK",
    "MaskAveragePrecision",
    "MassiveEnergy",
    "MassiveShare",
    "MeanAbsoluteError",
    "MeanAveragePrecision",
    "MeanIoU",
    "MeanSquaredError",
    "NoiseAgreement",
    "PanopticQuality",
    "R2Score",
    "Recall",
    "RiskCoverage",
    "VideoScores",
    "accuracy_score",
    "alignment",
    "average_precision_score",
    "boundary_f",
    "cknna",
    "cknna_public",
    "confusion_matrix",
    "contour_accuracy",
    "conventions_of",
    "corner_error",
    "depth_errors",
    "drawn_interval",
    "effective_rank",
    "f1_score",
    "find_homography",
    "flow_error",
    "flow_smoothness",
    "group_interval",
    "jaccard_score",
    "joint_pck",
    "linear_cka",
    "local_distant_similarity",
    "massive_share",
    "mean_absolute_error",
    "mean_average_precision",
    "mean_squared_error",
    "mutual_knn",
    "noise_agreement",
    "pair_interval",
    "pair_weights",
    "pck",
    "precision_score",
    "r2_score",
    "rank_correlation",
    "recall_score",
    "region_similarity",
    "risk_coverage",
    "uniformity",
]
