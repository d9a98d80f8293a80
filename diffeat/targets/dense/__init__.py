"""What is known of every pixel: masks of classes, and depth."""

from diffeat.targets.dense.base import DenseTargets
from diffeat.targets.dense.opened import open_dense

__all__ = ["DenseTargets", "open_dense"]
