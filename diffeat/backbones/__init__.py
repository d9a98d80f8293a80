"""Pretrained diffusion models as feature extractors; one short file per family."""

from diffeat.backbones.base import Backbone
from diffeat.backbones.loading import FAMILIES
from diffeat.backbones.locate import bundled_models
from diffeat.backbones.request import ModelRequest

__all__ = ["FAMILIES", "Backbone", "ModelRequest", "bundled_models"]
