"""Vision models of other libraries, as something to compare features with."""

from diffeat.vision.model import VisionModel, load_vision

__all__ = ["VisionModel", "load_vision"]
