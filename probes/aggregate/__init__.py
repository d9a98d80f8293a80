"""Several cells as one: mixers that are trained for a task."""

from probes.aggregate.hyperfeature_net import HyperfeatureNet
from probes.aggregate.hyperfeatures import HyperfeatureMixer
from probes.aggregate.mixer import MixerHead, MixerProbe

__all__ = ["HyperfeatureMixer", "HyperfeatureNet", "MixerHead", "MixerProbe"]
