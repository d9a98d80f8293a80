"""Masks named by words: panoptic quality, mean IoU and AP."""
