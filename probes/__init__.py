"""Features in, predictions out: heads with scikit-learn manners. Knows no backbone, no file."""

from probes.linear import LinearProbe

__all__ = ["LinearProbe"]
