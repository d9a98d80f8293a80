"""Segmentation and depth: features and what is known of pixels, judged, applied, written."""
