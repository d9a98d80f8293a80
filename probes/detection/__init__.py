"""Boxes on frozen maps: a feature pyramid under torchvision's detector."""

from probes.detection.boxes import Boxes
from probes.detection.detector import BoxDetector

__all__ = ["BoxDetector", "Boxes"]
