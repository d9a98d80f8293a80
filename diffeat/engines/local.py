"""The engine of one process, this one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffeat.backbones import Backbone
from diffeat.engines.base import JobResult, complete, drive
from diffeat.planning.start import end
from diffeat.store import StoreWriter
from diffeat.work import Job, Worker, errors_of


def run_local(job: Job, backbone: Backbone | None = None) -> JobResult:
    """Do a job here; `backbone` is its model, where that is loaded already."""
    worker = Worker(job, backbone)
    found = complete(worker.job)
    if found is not None:
        return found
    # an impossible request fails here, before --overwrite would discard anything
    job = worker.settled

    def work(writer: StoreWriter, bar: Any) -> int:
        computed = 0
        for batch, rows in worker.batches(writer.remaining(job.pictures)):
            writer.add(batch.span, batch.indices, rows, errors_of(batch))
            computed += len(batch.indices)
            bar.update(batch.span[1] - batch.span[0])
        return computed

    result = drive(job, work, str(worker.backbone.device))
    end(worker, result.computed, result.seconds)
    return replace(result, converted=worker.converted)
