"""What all engines share: the driver's side of a job, and how work is cut into tasks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import StoreError
from diffeat.planning.start import begin
from diffeat.progress import counted, say, track
from diffeat.store import StoreWriter
from diffeat.store.format.manifest import CLASSES
from diffeat.work import Job, Span

TASK_BYTES = 32 << 20
"""Most bytes of features that one task of a pool gives."""
TASKS_PER_WORKER = 4
"""At least so many tasks each, so that a slow worker does not keep the others waiting."""


@dataclass(frozen=True)
class JobResult:
    """What a job did.

    Attributes:
        path: the feature file.
        status: "done", "resumed" (finished what an earlier run began), "grown" (added pictures to
            a finished file), "relabelled" (gave one other labels or another order, without any
            forward) or "already complete".
        pictures: rows in the file.
        computed: pictures that went through the model in this run.
        skipped: pictures left out because they could not be read.
        seconds: time from the first picture to the finished file.
        where: the device, or how many workers shared the work; empty if nothing was done.
        converted: of those computed, how many had an ICC profile by which they were brought to
            sRGB.
        classes: the model's class of each class of the pictures, where each has its own.
    """

    path: Path
    status: str
    pictures: int
    computed: int
    skipped: int
    seconds: float
    where: str = ""
    converted: int = 0
    classes: str = ""


def drive(
    job: Job, work: Callable[[StoreWriter, Any], int], where: str, alone: bool = True,
    shown: bool = True,
) -> JobResult:  # fmt: skip
    """Open the output, have the work done, merge the shards.

    Args:
        job: what to do, settled.
        work: gets the writer and a bar that counts pictures; sees to it that shards cover all
            of them, and returns how many went through the model.
        where: who works, for the result.
        alone: whether this process writes all shards itself.
        shown: whether the bar is the one that the user sees; else `work` has its own.

    Raises:
        DiffeatError: see the parts; finished pictures are kept whatever happens.
    """
    began = time.monotonic()
    with _writer(job, alone) as writer:
        if writer.complete:
            return _already_complete(job, writer)
        begin(job, len(job.source) - writer.done)
        status = "resumed" if writer.done else "done"
        if job.growth is not None:
            status = job.growth.status
            _tell_growth(job)
        with picture_bar(job, len(job.source), writer.done, shown=shown) as bar:
            computed = work(writer, bar)
        writer.finish(lambda it: track(it, desc="merge", unit="shards", show=job.progress))
    return _result(writer, status, computed, time.monotonic() - began, where)


def _tell_growth(job: Job) -> None:
    """Say what becomes of the finished file, where it grows."""
    if job.growth.lost:
        warnings.warn(f"{job.path} {job.growth.lost}", stacklevel=4)
    if job.progress is not False:
        say(f"note: {job.path}: {job.growth.told}")


def complete(job: Job) -> JobResult | None:
    """The result of doing nothing, if the output is already there; None if it is not.

    Raises:
        StoreError: something else lies there.
    """
    if job.growth is not None:  # then it is not, and what it has is compared before any work
        job.growth.check(job.request)
        return None
    if job.overwrite or not job.path.exists():
        return None
    with _writer(job, alone=False, noted=False) as writer:
        return _already_complete(job, writer) if writer.complete else None


def _writer(job: Job, alone: bool, noted: bool = True) -> StoreWriter:
    return StoreWriter(
        job.path, job.request, job.source, job.columns, job.overwrite, job.compression, alone,
        job.seen, job.growth, noted,
    )  # fmt: skip


def picture_bar(
    job: Job, total: int, done: int = 0, desc: str = "extract", shown: bool = True
) -> AbstractContextManager[Any]:
    """Counts pictures, for the user or for nobody."""
    show = job.progress if shown else False
    return counted(total, initial=done, desc=desc, unit="pictures", show=show)


def tasks_of(spans: Sequence[Span], bytes_per_picture: int, workers: int) -> list[list[Span]]:
    """Runs of neighbouring batches, small enough that every worker gets several.

    Args:
        spans: batches, ascending.
        bytes_per_picture: size of one picture's features.
        workers: how many share the work.
    """
    if not spans:
        return []
    largest = max(stop - start for start, stop in spans)
    by_size = max(1, TASK_BYTES // max(1, bytes_per_picture * largest))
    fair = max(1, len(spans) // (TASKS_PER_WORKER * workers))
    length = min(by_size, fair)
    return [list(spans[first : first + length]) for first in range(0, len(spans), length)]


def without(spans: Sequence[Span], covered: Sequence[Span]) -> list[Span]:
    """The spans that do not lie in shards already."""
    return [
        (start, stop)
        for start, stop in spans
        if not any(first <= start and stop <= last for first, last in covered)
    ]


def sharing(job: Job, workers: int) -> int:
    """How many of the workers of this machine share one device, and so its memory."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and job.model.device in ("auto", "cuda"):
        return -(-workers // count)
    return workers


def _already_complete(job: Job, writer: StoreWriter) -> JobResult:
    """The result of doing nothing; StoreError if pictures are missing that must not be."""
    if writer.skipped and job.on_error == "fail":
        name, reason = next(iter(writer.skipped.items()))
        raise StoreError(
            f"{job.path} is complete but for {len(writer.skipped)} skipped pictures (first "
            f"{name!r}: {reason}); accept that with --on-error skip, or repair them and pass "
            "--overwrite"
        )
    return _result(writer, "already complete", 0, 0.0)


def _result(writer: StoreWriter, status: str, computed: int, seconds: float, where="") -> JobResult:
    """Rows and skipped pictures are those of the file, whichever run met them."""
    counts = writer.rows, computed, len(writer.skipped)
    classes = writer.manifest.how.get(CLASSES, "")
    return JobResult(writer.path, status, *counts, seconds, where, classes=str(classes))
