"""What features are worth: the search over (t, block) of a classification task.

Every choice (setting, block, t, set) is made on the validation part alone; the test part is
touched once per reported choice, by a probe refitted on training and validation together.
"""

from diffeat.search.bandit import Bandit, run_bandit
from diffeat.search.best_spec import spec_of_cells, write_best_spec
from diffeat.search.frequency import FrequencyGuess, frequency_guess, high_frequency_ratio
from diffeat.search.grid import MEMORY, probe_surface, search_surface
from diffeat.search.halving import Halving, successive_halving
from diffeat.search.journal import Journal
from diffeat.search.live import LiveFeatures, live_frequency, live_task
from diffeat.search.repeats import Repeats, repeat_surface
from diffeat.search.report import SearchReport
from diffeat.search.run import SearchOptions, run_search
from diffeat.search.scores import PENALTIES, SCORES, Outcome, Score, score_of
from diffeat.search.sets import CellSets, best_pairs, greedy_sets
from diffeat.search.stored import task_from_store
from diffeat.search.surface import Cell, Surface
from diffeat.search.tasks import TEST, TRAIN, VALIDATION, Task, split_by_hash

__all__ = [
    "MEMORY",
    "PENALTIES",
    "SCORES",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Bandit",
    "Cell",
    "CellSets",
    "FrequencyGuess",
    "Halving",
    "Journal",
    "LiveFeatures",
    "Outcome",
    "Repeats",
    "Score",
    "SearchOptions",
    "SearchReport",
    "Surface",
    "Task",
    "best_pairs",
    "frequency_guess",
    "greedy_sets",
    "high_frequency_ratio",
    "live_frequency",
    "live_task",
    "probe_surface",
    "repeat_surface",
    "run_bandit",
    "run_search",
    "score_of",
    "search_surface",
    "spec_of_cells",
    "split_by_hash",
    "successive_halving",
    "task_from_store",
    "write_best_spec",
]
