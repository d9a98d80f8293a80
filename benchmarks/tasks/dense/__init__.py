"""Benchmarks of what is said at every pixel: segmentation and depth."""
