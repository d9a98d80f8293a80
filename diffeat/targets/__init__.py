"""What pictures are to be told apart by: targets by picture id, with groups.

A reader gives one `Targets`, whatever the layout: the labels that a source or a feature file has
itself, a table, or WebDataset tars. Masks, pairs, videos and depth are further readers and kinds.
"""

from diffeat.images.columns import KINDS
from diffeat.targets.base import Targets
from diffeat.targets.by_id import RowsById, match_ids
from diffeat.targets.keyed import KeyedTargets, own_targets
from diffeat.targets.labels import Labelled, labelled, labels_for, open_targets, with_labels

__all__ = [
    "KINDS",
    "KeyedTargets",
    "Labelled",
    "RowsById",
    "Targets",
    "labelled",
    "labels_for",
    "match_ids",
    "open_targets",
    "own_targets",
    "with_labels",
]
