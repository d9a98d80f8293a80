"""The engine of a Ray cluster, by Ray Data.

    tasks (runs of batches) → read and decode on any CPU → one actor per accelerator, which
    holds the model, computes and writes a shard → how many pictures are done

Ray streams pictures through its object store, keeps as many in flight as fit there, and runs
tasks of lost workers again. The driver holds the output's lock and merges at the end; a task
that was reported done, but whose shard is not there, is computed once more.

Source: Ray Data, stateful transforms (map with an actor pool).
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from diffeat.engines.base import TASK_BYTES, JobResult, complete, drive, tasks_of
from diffeat.errors import DeviceError, DiffeatError, SpecError, StoreError
from diffeat.extraction import Batch
from diffeat.store import ShardWriter, StoreWriter
from diffeat.threads import asked, set_threads, usable_cpus
from diffeat.work import Job, Span, Worker, errors_of

TASK_PIXELS = 128 << 20
"""Most bytes of decoded pictures that travel together."""
RETRIES = 3
"""How often Ray starts a lost worker, or a task of it, again."""
ROUNDS = 3
"""How often work is handed out again whose shards did not appear."""
READ_CPUS = 0.25
"""Of a decoding task: small, so that they fill the gaps that the actors leave."""


def run_ray(job: Job, processes: int | None = None, address: str | None = None) -> JobResult:
    """Do a job on a Ray cluster.

    Args:
        job: what to do; its output must lie on a file system that all nodes share.
        processes: actors; by default one per accelerator, or per node where there is none.
        address: "auto" or "ray://…" of a running cluster; None starts one on this machine.

    Raises:
        DeviceError: no such cluster.
        SpecError: Ray is not installed.
        StoreError: the output does not appear where the driver looks for it.
    """
    with redirect_stdout(sys.stderr):  # where Ray tells of lost actors; stdout is for the answer
        return _run(_ray(), job, processes, address)


def _run(ray: Any, job: Job, processes: int | None, address: str | None) -> JobResult:
    started = not ray.is_initialized()
    if started:
        _connect(ray, address, processes)
    elif address is not None:
        raise SpecError("this process is connected to a Ray cluster already; leave address out")
    try:
        crew = _Crew(ray, job, processes)
        job = crew.settle()
        found = complete(job)
        if found is not None:
            return found
        result = drive(job, crew.work, f"{crew.size} Ray actors", alone=False)
        return replace(result, converted=crew.converted)
    except ray.exceptions.RayError as error:
        raise StoreError(
            f"{job.path}: Ray gave up after {RETRIES} tries ({type(error).__name__}: "
            f"{str(error)[:300]}); finished pictures are kept: run the same command again"
        ) from error
    finally:
        if started:
            ray.shutdown()


def _ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # losses are told by us
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SpecError("engine ray needs Ray Data; pip install 'diffeat[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _connect(ray: Any, address: str | None, processes: int | None) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:  # a cluster of its own, which ends with us
        options |= {"num_cpus": max(usable_cpus(), processes or 1),
                    "include_dashboard": False}  # fmt: skip
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address or "local", **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own handler would abort the driver
    except Exception as error:  # Ray raises several kinds
        raise DeviceError(
            f"no Ray cluster at {address!r} ({str(error)[:200]}); expected 'auto' or the address "
            "of a running one, or no address for one on this machine"
        ) from error


def _knock(address: str | None) -> None:
    """OSError if nobody answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


class _Crew:
    """The actors of a job, and what they need.

    Args:
        ray: the module.
        job: what to do.
        processes: how many actors.
    """

    def __init__(self, ray: Any, job: Job, processes: int | None):
        self.ray = ray
        cluster = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
        wants_gpu = job.model.device == "cuda" or (job.model.device == "auto" and gpus)
        self.size = processes or (gpus if wants_gpu else nodes) or 1
        if wants_gpu and not gpus:
            raise DeviceError("device cuda, but the Ray cluster has no GPUs; use --device cpu")
        if wants_gpu and self.size > gpus:
            raise DeviceError(
                f"{self.size} actors with a GPU each are wanted, but the cluster has {gpus} GPUs; "
                "choose fewer processes, or --device cpu"
            )
        each = -(-self.size // nodes)
        threads = max(1, (asked() or cpus // nodes) // each)
        # half a CPU each at most, so that decoding always finds room
        self.needs = {"num_gpus": 1} if wants_gpu else {"num_cpus": min(1.0, cpus / self.size / 2)}
        # actors on GPUs have one each; on CPUs they share the memory of their node
        self.job = replace(job, sharing=1 if wants_gpu else each)
        self.told = _Told(ray.put(self.job), os.getcwd(), threads)
        self.converted = 0
        self._warned: set[str] = set()

    def settle(self) -> Job:
        """The job with what a worker makes of it; the driver needs no accelerator."""
        ask = self.ray.remote(_findings).options(max_retries=RETRIES, **self.needs)
        answer, said = self.ray.get(ask.remote(self.told))
        self._warn(said)
        if isinstance(answer, DiffeatError):
            raise answer
        self.job = self.job.told(answer)
        self.told = replace(self.told, reference=self.ray.put(self.job))
        return self.job

    def _warn(self, said: Sequence[str]) -> None:
        """What workers warn of, once each."""
        for text in said:
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, stacklevel=2)

    def work(self, writer: StoreWriter, bar: Any) -> int:
        """Have all remaining batches computed; returns the number of pictures."""
        done = 0
        for _ in range(ROUNDS):
            spans = writer.remaining(self.job.pictures)
            if not spans:
                return done
            for row in self._stream(spans):
                self._warn(row["warnings"])
                if row["error"] is not None:
                    raise row["error"]
                done += row["computed"]
                self.converted += row["converted"]
                bar.update(row["pictures"])
        if writer.remaining(self.job.pictures):
            raise StoreError(
                f"{self.job.path}: workers wrote shards, but {ROUNDS} times not all of them "
                "appeared beside the output; expected a folder that all nodes share"
            )
        return done

    def _stream(self, spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
        """One row per finished task, as they come."""
        data = self.ray.data
        data.DataContext.get_current().enable_progress_bars = False  # ours counts pictures
        tasks = self._tasks(spans)
        rows = data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
        with warnings.catch_warnings():
            # the only way to bound retries up to Ray 2.63, and said to end then
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            read = rows.map(_read, fn_args=(self.told,), num_cpus=READ_CPUS, max_retries=RETRIES)
            done = read.map(
                _Actor,
                fn_constructor_args=(self.told,),
                compute=data.ActorPoolStrategy(size=min(self.size, len(tasks))),
                max_restarts=RETRIES * self.size,
                max_task_retries=RETRIES,
                **self.needs,
            )
        return done.iter_rows()

    def _tasks(self, spans: Sequence[Span]) -> list[list[Span]]:
        """Tasks whose features fit a shard and whose pixels travel well."""
        height, width = self.job.size or (1024, 1024)
        pixels = 3 * height * width
        bound = max(self.job.bytes_per_picture, pixels * TASK_BYTES // TASK_PIXELS)
        return tasks_of(spans, bound, self.size)


@dataclass(frozen=True)
class _Told:
    """What goes to every worker.

    Attributes:
        reference: to the job, of which Ray keeps one copy on every node.
        folder: where the driver stands, since paths may be relative.
        threads: the worker's share of its node's cores.
    """

    reference: Any
    folder: str
    threads: int

    def job(self) -> Job:
        return _fetched(self)


@lru_cache(maxsize=1)
def _fetched(told: _Told) -> Job:
    """The job, brought to this process once and not with every task."""
    import ray

    set_threads(told.threads)
    if not os.path.isdir(told.folder):
        raise StoreError(
            f"{told.folder}: no such folder on {platform.node()}; expected a file system that all "
            "nodes share: start the command in a folder of it"
        )
    os.chdir(told.folder)
    return ray.get(told.reference)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings that are given meanwhile; nobody would see them on a worker."""
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: said.append(str(message))
        yield said


def _findings(told: _Told) -> tuple[dict[str, Any] | DiffeatError, list[str]]:
    with _heard() as said:
        try:
            return Worker(told.job()).findings, said
        except DiffeatError as error:  # as a value: Ray would run it again, and wrap it
            return error, said


def _read(row: dict[str, Any], told: _Told) -> dict[str, Any]:
    """Decode the pictures of a task."""
    try:
        batches = list(told.job().batches([tuple(span) for span in row["task"]]))
        return {"batches": batches, "error": None}
    except DiffeatError as error:
        return {"batches": [], "error": error}


class _Actor:
    """Holds the model; computes the batches of a task and writes them as a shard."""

    def __init__(self, told: _Told):
        self.error = None
        try:
            self.job = told.job()
            self.worker = Worker(self.job)
        except DiffeatError as error:
            self.error = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        found = {"pictures": 0, "computed": 0, "converted": 0, "error": row["error"] or self.error}
        with _heard() as said:
            try:
                if found["error"] is None:
                    found["pictures"], found["computed"] = self._write(row["batches"])
                    found["converted"] = sum(batch.converted for batch in row["batches"])
            except DiffeatError as failed:
                found["error"] = failed
        return {**found, "warnings": said}

    def _write(self, batches: Sequence[Batch]) -> tuple[int, int]:
        """Pictures of the batches, and how many of them went through the model."""
        pictures = computed = 0
        with ShardWriter(self.job.path, self.job.columns, self.job.source) as shards:
            for batch, rows in self.worker.compute(iter(batches)):
                shards.add(batch.span, batch.indices, rows, errors_of(batch))
                pictures += batch.span[1] - batch.span[0]
                computed += len(batch.indices)
        return pictures, computed
