"""Several cells as one: mixers that are trained for a task."""

from probes.aggregate.mixer import MixerHead, MixerProbe

__all__ = ["MixerHead", "MixerProbe"]
