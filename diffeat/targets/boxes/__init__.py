"""Boxes of things: what a detector is trained on and scored by."""

from diffeat.targets.boxes.base import BoxTargets, boxes_of_masks
from diffeat.targets.boxes.coco import open_coco

__all__ = ["BoxTargets", "boxes_of_masks", "open_coco"]
