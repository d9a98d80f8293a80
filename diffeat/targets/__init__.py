"""Targets of pictures by their ids, with groups."""
