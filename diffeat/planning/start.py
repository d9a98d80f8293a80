"""What is said, and checked, when an extraction starts; and what is remembered when it ends.

It costs milliseconds: operations and rates are those that are remembered, or left out.
"""

from __future__ import annotations

import shutil
import warnings
from datetime import date
from pathlib import Path

from diffeat.errors import StoreError
from diffeat.extraction.plan import Plan
from diffeat.loading import load_model
from diffeat.planning.costs import bare_request, count_costs
from diffeat.planning.rates import (
    picture_flops,
    recall_costs,
    recall_rate,
    remember_costs,
    remember_rate,
)
from diffeat.planning.sizes import data_bytes, file_bytes, pooled_bytes
from diffeat.planning.words import disk_text, line_text, size_text, times_text
from diffeat.progress import say
from diffeat.work import Job, Worker

WORTH_SECONDS = 5.0
"""An extraction that took less tells nothing of the rate."""


def begin(job: Job, left: int) -> None:
    """Say what a job will take, where it wants that said, and see whether there is room for it.

    Args:
        job: settled.
        left: pictures that are still to be computed.

    Raises:
        StoreError: the pictures that are left alone need more disk than is free.
    """
    if job.announce and left:
        say(_line(job, left))
    check_room(job, left)


def check_room(job: Job, left: int) -> None:
    """Compare the disk that a job needs with what is free; shards and file lie side by side."""
    free = free_bytes(job.path)
    shards = data_bytes(job.columns, left)
    merged = data_bytes(job.columns, len(job.source)) if job.compression == "none" else 0
    smaller = "free some, or choose --pool, fewer blocks or t, --dtype int8, or another disk"
    if shards > free:
        raise StoreError(
            f"{job.path}: {left:,} pictures are left, which take {size_text(shards)} of disk, and "
            f"{size_text(free)} are free there; {smaller}"
        )
    if shards + merged > free:
        warnings.warn(
            f"{job.path} may not fit: parts of {size_text(shards)} and then a file of "
            f"{size_text(merged)} beside them, and {size_text(free)} are free there; {smaller}",
            stacklevel=4,
        )


def free_bytes(path: Path) -> int:
    """Bytes that are free where a file is to lie, whether its folder is there yet or not."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _line(job: Job, left: int) -> str:
    spec, effort = job.request.spec, job.effort
    costs, known = recall_costs(effort["work"]), recall_rate(effort["rate"])
    flops = None if costs is None else left * picture_flops(effort, costs)
    seconds = None if flops is None or known is None else flops / known["rate"]
    times = times_text(left, len(spec["timesteps"]), effort, spec["ensemble"], effort["timed"])
    count = len(job.source)
    disk = disk_text(
        file_bytes(job.columns, job.source), pooled_bytes(job.columns, count),
        job.compression != "none",
    )  # fmt: skip
    return line_text(times if left == count else f"the last {times}", flops, seconds, disk)


def end(worker: Worker, computed: int, seconds: float) -> None:
    """Remember how fast an extraction in this process was, decoding and writing included."""
    job = worker.settled
    if seconds < WORTH_SECONDS or job.size is None or not job.effort["forwards"]:
        return
    costs = recall_costs(job.effort["work"])
    if costs is None:
        bare = load_model(bare_request(worker.backbone.request))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said already
            plan = Plan(bare, job.spec, worker.plan.text_length)
        costs = count_costs(plan, plan.spec.tile or plan.size)
        remember_costs(job.effort["work"], costs)
    rate = computed * picture_flops(job.effort, costs) / seconds
    if rate > 0:
        remember_rate(
            job.effort["rate"],
            {"rate": rate, "rows": job.batch_size, "by": "extraction", "model": job.model.name,
             "pictures": computed, "seconds": round(seconds, 3), "on": str(date.today())},
        )  # fmt: skip
