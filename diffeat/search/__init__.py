"""What features are worth: the search over (t, block) of a task.

A `Judge` says how good a cell is; a strategy says which cells it is asked about; a `Finding` is
what came out. Every choice (setting, block, t, set, weight) is made on the validation part alone;
the test part is touched once per reported choice, after learning from training and validation
together.
"""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.search.asking import MEMORY, ask, ask_test
from diffeat.search.bandit import Bandit, run_bandit
from diffeat.search.best_spec import spec_of_cells, write_best_spec
from diffeat.search.classification import Classification
from diffeat.search.finding import Cell, Choice, Finding, Selection
from diffeat.search.frequency import (
    FrequencyGuess,
    frequency_guess,
    guess_frequency,
    high_frequency_ratio,
)
from diffeat.search.grid import Grid
from diffeat.search.halving import Halving, successive_halving
from diffeat.search.journal import Journal
from diffeat.search.judge import Judge, Mix, Outcome
from diffeat.search.kept import about_head, keep_head, load_head
from diffeat.search.live import LiveFeatures, live_frequency, live_task
from diffeat.search.measure import Measure
from diffeat.search.mixing import Mixed, train_mixer
from diffeat.search.multilabel import Multilabel
from diffeat.search.policy import Policy, Seen, run_policy, thumbnails
from diffeat.search.regression import Regression
from diffeat.search.repeats import Repeats, repeat_surface
from diffeat.search.report import SearchReport
from diffeat.search.run import SearchOptions, Strategy, run_search
from diffeat.search.scores import PENALTIES, SCORES, Score, score_of
from diffeat.search.sets import CellPairs, CellSets, best_pairs, greedy_sets
from diffeat.search.splits import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    split_by_hash,
    split_groups,
    split_pairs,
)
from diffeat.search.stored import made_of, task_from_store
from diffeat.search.surface import Surface, probe_surface, search_surface
from diffeat.search.tasks import Made, Task

__all__ = [
    "LEFT_OUT", "MEMORY", "PENALTIES", "SCORES", "TEST", "TRAIN", "VALIDATION",
    "Bandit", "Cell", "CellPairs", "CellSets", "Choice", "Classification", "Finding",
    "FrequencyGuess", "Grid", "Halving", "Journal", "Judge", "LiveFeatures", "Made", "Measure",
    "Mix", "Mixed", "Multilabel", "Outcome", "Policy", "Regression", "Repeats", "Score",
    "SearchOptions", "SearchReport", "Seen", "Selection", "Strategy", "Surface", "Task",
    "about_head", "ask", "ask_test", "best_pairs", "frequency_guess", "greedy_sets",
    "guess_frequency", "high_frequency_ratio", "keep_head", "live_frequency", "live_task",
    "load_head", "made_of", "probe_surface", "repeat_surface", "run_bandit",
    "run_policy", "run_search",
    "score_of", "search_surface", "spec_of_cells", "split_by_hash", "split_groups", "split_pairs",
    "successive_halving", "task_from_store", "thumbnails", "train_mixer", "write_best_spec",
]  # fmt: skip
