"""Benchmarks of boxes."""
