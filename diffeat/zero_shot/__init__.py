"""What needs the network and no training: heat maps of words, masks by words, parts of pictures."""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.zero_shot.heat import HeatOptions, WordHeat
from diffeat.zero_shot.painted import Painted, decode, paint
from diffeat.zero_shot.pictures import heat_maps, pieces_of_heat
from diffeat.zero_shot.prompts import WordRun, runs_of
from diffeat.zero_shot.word_masks import Background, WordMasks, heat_on

__all__ = [
    "Background",
    "HeatOptions",
    "Painted",
    "WordHeat",
    "WordMasks",
    "WordRun",
    "decode",
    "heat_maps",
    "heat_on",
    "paint",
    "pieces_of_heat",
    "runs_of",
]
