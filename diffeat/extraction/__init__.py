"""The engine: from pictures and a spec to features, one forward per (picture, t, member)."""

from diffeat.extraction.api import extract
from diffeat.extraction.batch import Batch
from diffeat.extraction.batch_size import resolve_batch
from diffeat.extraction.batches import run_batch, start_batch
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.features import Features, Key
from diffeat.extraction.forward import PREDICTION, Forward
from diffeat.extraction.massive import massive_channels
from diffeat.extraction.noising import draw_noise, noise_names
from diffeat.extraction.pending import Pending
from diffeat.extraction.plan import Plan, load_for
from diffeat.extraction.views import extractor_for

__all__ = [
    "PREDICTION",
    "Batch",
    "Conditions",
    "Extractor",
    "Features",
    "Forward",
    "Key",
    "Pending",
    "Plan",
    "draw_noise",
    "extract",
    "extractor_for",
    "load_for",
    "massive_channels",
    "noise_names",
    "resolve_batch",
    "run_batch",
    "start_batch",
]
