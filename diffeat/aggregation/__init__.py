"""Maps of several cells as one: file to file, or features to features.

diffeat.aggregate("f.h5", "concat", out="one.h5")          a file of one block, "concat"
diffeat.aggregate(["sd.h5", "dino.h5"], "fuse")["fuse", 0]   rows that are made when read
"""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.aggregation.api import aggregate
from diffeat.aggregation.methods import METHODS, method_of
from diffeat.aggregation.sources import Sources, open_sources
from diffeat.aggregation.written import is_complete, write_aggregated

__all__ = [
    "METHODS",
    "Sources",
    "aggregate",
    "is_complete",
    "method_of",
    "open_sources",
    "write_aggregated",
]
