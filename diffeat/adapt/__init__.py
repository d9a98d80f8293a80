"""Training through the backbone: fine-tuning it, and feeding its decoder back to its encoder."""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.adapt.classifier import BackboneClassifier
from diffeat.adapt.feedback import DifFeed, Feedback, feedback_links
from diffeat.adapt.finetune import FineTuning, parameter_groups

__all__ = [
    "BackboneClassifier",
    "DifFeed",
    "Feedback",
    "FineTuning",
    "feedback_links",
    "parameter_groups",
]
