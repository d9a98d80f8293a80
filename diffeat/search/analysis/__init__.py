"""What the features of a file have in common with others, cell by cell."""

from diffeat.search.analysis.alignment import (
    METRICS,
    align_features,
    check_request,
    default_metrics,
)
from diffeat.search.analysis.rows import cell_of, choose_rows, pictures_of, vectors
from diffeat.search.analysis.table import AlignedCell, AlignmentTable

__all__ = [
    "METRICS",
    "AlignedCell",
    "AlignmentTable",
    "align_features",
    "cell_of",
    "check_request",
    "choose_rows",
    "default_metrics",
    "pictures_of",
    "vectors",
]
