"""Labels and points of a clip's first frame carried to its other frames."""

from probes.propagation.labels import LabelPropagator
from probes.propagation.points import track_points

__all__ = ["LabelPropagator", "track_points"]
