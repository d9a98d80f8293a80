"""Clusters of pictures against their labels."""
