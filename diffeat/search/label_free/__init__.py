"""Numbers of a cell that need no label, each head on its own, and which of them to trust."""

from diffeat.search.label_free.heads import head_scores, head_tensors
from diffeat.search.label_free.scores import (
    SCORES,
    FreeOptions,
    free_scores,
    live_free_scores,
)
from diffeat.search.label_free.table import FreeTable
from diffeat.search.label_free.trust import Trust, trust

__all__ = [
    "SCORES",
    "FreeOptions",
    "FreeTable",
    "Trust",
    "free_scores",
    "head_scores",
    "head_tensors",
    "live_free_scores",
    "trust",
]
