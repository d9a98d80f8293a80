"""Pictures in segments: things that can be counted, and stuff."""

from diffeat.targets.panoptic.base import MaskSegments, PanopticTargets, panoptic_of_masks
from diffeat.targets.panoptic.coco import open_panoptic

__all__ = ["MaskSegments", "PanopticTargets", "open_panoptic", "panoptic_of_masks"]
