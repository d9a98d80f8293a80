"""The engine of torchrun: every rank runs the same command, and does its share.

    torchrun --nproc-per-node 2 -m diffeat extract MODEL PICTURES -o F.h5 …

Rank 0 holds the output and says what is left to do; ranks take contiguous shares of it and
write shards. When a rank is lost, torchrun stops the others (what they finished stays) and,
with --max-restarts, starts all of them again, which continues.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

from diffeat.engines.base import JobResult, drive, picture_bar, sharing
from diffeat.errors import DiffeatError, SourceError, StoreError
from diffeat.hashing import fingerprint
from diffeat.store import ShardWriter, StoreWriter
from diffeat.threads import set_threads
from diffeat.work import Job, Span, Worker, errors_of

PATIENCE = timedelta(days=30)
"""How long a rank waits for slower ones; torchrun stops all as soon as one is lost."""


def is_rank(least: int = 2) -> bool:
    """Whether torchrun (or a launcher like it) started this process as one of several.

    Args:
        least: how many ranks there must be.
    """
    return int(os.environ.get("WORLD_SIZE", "0")) >= least and "RANK" in os.environ


def run_ranks(job: Job) -> JobResult | None:
    """Do this rank's share of a job; rank 0 gives the result, the others None."""
    with _group() as (rank, world):
        local = int(os.environ.get("LOCAL_RANK", rank))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        job = replace(job, model=job.model.on(local), sharing=sharing(job, here))
        set_threads(workers=here)
        worker = _agreed(job, rank)
        if rank == 0:
            return _lead(worker, world)
        shares = _told(None, rank)
        if shares is not None:
            _gathered(_share(worker, shares[rank], rank, world))
            _gathered(worker.converted)
        return None


@contextmanager
def _group():
    """(rank, number of ranks), with torch's process group open."""
    import torch.distributed as dist

    if dist.is_initialized():  # the caller's own
        yield dist.get_rank(), dist.get_world_size()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def _agreed(job: Job, rank: int) -> Worker:
    """This rank's worker, with the findings of rank 0 (which has measured the batch size, say)."""
    worker = said = None
    if rank == 0:
        try:
            worker = Worker(job)
            said = worker.findings, fingerprint(job.source.ids, job.source.reading)
        except DiffeatError as error:
            said = error
    said = _told(said, rank)
    if isinstance(said, DiffeatError):
        raise said
    findings, ids = said
    if fingerprint(job.source.ids, job.source.reading) != ids:
        raise SourceError(
            f"rank {rank} found other pictures in {job.source.name} than rank 0; expected the same "
            "files on every node"
        )
    return worker or Worker(job.told(findings))


def _lead(worker: Worker, world: int) -> JobResult:
    """Rank 0: say who does what, do the first share, merge."""
    job, told, converted = worker.settled, False, 0

    def work(writer: StoreWriter, bar: Any) -> int:
        nonlocal told, converted
        spans = writer.remaining(job.pictures)
        shares = _shares(spans, world)
        told = True
        _told(shares, 0)
        computed = _gathered(_share(worker, shares[0], 0, world))
        converted = _gathered(worker.converted)
        return computed

    try:
        result = drive(job, work, f"{world} ranks", alone=False, shown=False)
        return replace(result, converted=converted)
    finally:
        if not told:  # nothing to do, or the output cannot be written
            _told(None, 0)


def _shares(spans: Sequence[Span], world: int) -> list[list[Span]]:
    """As many runs of neighbouring batches as there are ranks, as equal as may be."""
    edges = [len(spans) * rank // world for rank in range(world + 1)]
    return [list(spans[a:b]) for a, b in pairwise(edges)]


def _share(worker: Worker, spans: Sequence[Span], rank: int, world: int) -> int:
    """Compute and write the batches of one rank; rank 0 shows how far it is.

    Returns:
        How many pictures went through the model.
    """
    job, total = worker.job, sum(stop - start for start, stop in spans)
    computed = 0
    with (
        picture_bar(job, total, desc=f"extract, rank {rank} of {world}", shown=rank == 0) as bar,
        ShardWriter(job.path, job.columns, job.source) as shards,
    ):
        for batch, rows in worker.batches(spans):
            shards.add(batch.span, batch.indices, rows, errors_of(batch))
            computed += len(batch.indices)
            bar.update(batch.span[1] - batch.span[0])
    return computed


def _told(value: Any, rank: int) -> Any:
    """What rank 0 says."""
    import torch.distributed as dist

    box = [value if rank == 0 else None]
    with _losses_explained():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def _gathered(count: int) -> int:
    """The sum over all ranks, when all of them have come so far."""
    import torch.distributed as dist

    counts: list[int] = [0] * dist.get_world_size()
    with _losses_explained():
        dist.all_gather_object(counts, count)
    return sum(counts)


@contextmanager
def _losses_explained():
    try:
        yield
    except RuntimeError as error:  # of gloo
        raise StoreError(
            f"another rank was lost ({str(error)[:80]}); finished pictures are kept: run the same "
            "command again"
        ) from error
