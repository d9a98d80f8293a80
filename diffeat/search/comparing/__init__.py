"""Several systems on the same pictures or pairs: one table, with intervals of their differences."""

from diffeat.search.comparing.defaults import SIGMAS, default_blocks
from diffeat.search.comparing.dense import DenseSystems, dense_systems
from diffeat.search.comparing.outcomes import Outcomes, floor_of, outcomes_of
from diffeat.search.comparing.run import compare
from diffeat.search.comparing.shared import Common, common_pictures, shared_tasks
from diffeat.search.comparing.table import Comparison, Row

__all__ = [
    "SIGMAS",
    "Common",
    "Comparison",
    "DenseSystems",
    "Outcomes",
    "Row",
    "common_pictures",
    "compare",
    "default_blocks",
    "dense_systems",
    "floor_of",
    "outcomes_of",
    "shared_tasks",
]
