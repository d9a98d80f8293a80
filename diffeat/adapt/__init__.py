"""Training through the backbone: fine-tuning it, feeding its decoder back to its encoder, learning
prompts for it, a copy of it that needs no noise, names of masks, and masks told classes."""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.adapt.classifier import BackboneClassifier
from diffeat.adapt.clean import CleanDIFT
from diffeat.adapt.feedback import DifFeed, Feedback, feedback_links
from diffeat.adapt.finetune import FineTuning, parameter_groups
from diffeat.adapt.odise import ODISE
from diffeat.adapt.point_prompts import PointPrompts
from diffeat.adapt.prompts import PromptTuning
from diffeat.adapt.vpd import VPD

__all__ = [
    "ODISE",
    "VPD",
    "BackboneClassifier",
    "CleanDIFT",
    "DifFeed",
    "Feedback",
    "FineTuning",
    "PointPrompts",
    "PromptTuning",
    "feedback_links",
    "parameter_groups",
]
