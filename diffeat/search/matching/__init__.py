"""How well features find what corresponds in pairs of pictures.

`bind` puts pairs beside the files that hold the features of their pictures, `score_pairs` streams
a matcher over them, `Matching` is the judge of a search, `DenseRecall` and `HomographyAccuracy`
are those of geometry.
"""

from diffeat.search.matching.bound import BoundPairs, bind
from diffeat.search.matching.geometry import DenseRecall, HomographyAccuracy
from diffeat.search.matching.judge import Matching
from diffeat.search.matching.scored import Scored, score_pairs

__all__ = ["BoundPairs", "DenseRecall", "HomographyAccuracy", "Matching", "Scored", "bind",
           "score_pairs"]  # fmt: skip
