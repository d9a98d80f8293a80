"""Pictures in segments: things that can be counted, and stuff."""

from diffeat.targets.panoptic.base import MaskSegments, PanopticTargets, panoptic_of_masks
from diffeat.targets.panoptic.coco import open_panoptic
from diffeat.targets.panoptic.opened import open_segments

__all__ = ["MaskSegments", "PanopticTargets", "open_panoptic", "open_segments", "panoptic_of_masks"]
