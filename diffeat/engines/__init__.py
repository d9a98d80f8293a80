"""Where an extraction runs: this process, several, the ranks of torchrun, or a Ray cluster.

Every engine does the same: workers compute batches of the same grid and write shards beside
the output, and one driver, which holds the output's lock, merges them at the end. So engines
may be changed between an interrupted run and the next, and all end with the same file.
"""

from diffeat.engines.base import JobResult
from diffeat.engines.choice import ENGINES, run_job

__all__ = ["ENGINES", "JobResult", "run_job"]
