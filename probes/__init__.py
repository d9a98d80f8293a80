"""Features in, predictions out: heads, matchers, metrics. Knows no backbone, no file."""

from probes.attention import AttentionProbe
from probes.batchnorm import BatchNormProbe
from probes.cells import Cells
from probes.conv import ConvProbe
from probes.difformer import DifFormerProbe
from probes.fitted import HeadError
from probes.knn import KNNProbe
from probes.linear import LinearProbe
from probes.many import ManyLogistic
from probes.maps import Maps
from probes.mlp import MLPProbe
from probes.multilabel import LinearMultilabelProbe, MLPMultilabelProbe, RidgeMultilabelProbe
from probes.network import NetworkHead, NetworkProbe
from probes.noise_conditional import NoiseConditionalProbe
from probes.objectives import Objective
from probes.pairs import Matches, Pairs
from probes.presets import PRESETS, preset
from probes.regression import MLPRegressionProbe, RidgeRegressionProbe
from probes.ridge import ManyRidge, RidgeProbe
from probes.saved import load, save

__all__ = [
    "PRESETS",
    "AttentionProbe",
    "BatchNormProbe",
    "Cells",
    "ConvProbe",
    "DifFormerProbe",
    "HeadError",
    "KNNProbe",
    "LinearMultilabelProbe",
    "LinearProbe",
    "MLPMultilabelProbe",
    "MLPProbe",
    "MLPRegressionProbe",
    "ManyLogistic",
    "ManyRidge",
    "Maps",
    "Matches",
    "NetworkHead",
    "NetworkProbe",
    "NoiseConditionalProbe",
    "Objective",
    "Pairs",
    "RidgeMultilabelProbe",
    "RidgeProbe",
    "RidgeRegressionProbe",
    "load",
    "preset",
    "save",
]
