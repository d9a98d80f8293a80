"""Vision models of other libraries, as something to compare features with."""

from diffeat.vision.model import DEFAULT, VisionModel, load_vision

__all__ = ["DEFAULT", "VisionModel", "load_vision"]
