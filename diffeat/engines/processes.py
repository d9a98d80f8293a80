"""The engine of several processes on this machine, one model each.

The driver hands out tasks (runs of batches) and merges; workers write shards. A worker that is
lost (killed, out of memory) is replaced, and what it had not written is computed again. When
the driver is lost, workers end by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

from diffeat.engines.base import (
    JobResult,
    complete,
    drive,
    share_threads,
    tasks_of,
    without,
)
from diffeat.errors import DiffeatError, StoreError
from diffeat.store import ShardWriter, StoreWriter
from diffeat.work import Job, Order, Span, Worker, errors_of

LOSSES = 3
"""Workers that may be lost in a row, with no batch finished in between."""


def run_processes(job: Job, processes: int) -> JobResult:
    """Do a job with `processes` copies of the model on this machine."""
    pool = _Pool(job, processes)
    try:
        order = pool.order()
        found = complete(job, order.request, order.columns)
        return found or drive(
            job, order.request, order.columns, pool.work, f"{processes} processes"
        )
    finally:
        pool.close()


@dataclass
class _Hand:
    """One worker process as the driver sees it."""

    number: int
    process: Any
    pipe: Connection
    ready: bool = False
    task: list[Span] = field(default_factory=list)


class _Pool:
    """Worker processes, of which lost ones are replaced."""

    def __init__(self, job: Job, processes: int):
        self.job, self.size = job, processes
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[_Hand] = []
        self._order: Order | None = None
        self._losses = 0

    def order(self) -> Order:
        """What the first worker made of the job; the others use its batch size."""
        first = self._start(0)
        while self._order is None:
            self._listen([first], lambda _count: None)
            first = self._hands[0]
        return self._order

    def _start(self, number: int) -> _Hand:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(self.job, theirs, number, self.size, self._order),
            name=f"diffeat-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        hand = _Hand(number, process, ours)
        self._hands = [other for other in self._hands if other.number != number] + [hand]
        return hand

    def work(self, writer: StoreWriter, bar: tqdm) -> int:
        """Have all remaining batches computed; returns the number of pictures."""
        order = self._order
        spans = writer.remaining(order.pictures)
        tasks = deque(tasks_of(spans, order.bytes_per_picture, self.size))
        computed = 0

        def finished(count: int) -> None:
            nonlocal computed
            computed += count
            self._losses = 0
            bar.update(count)

        for number in range(1, min(self.size, len(tasks))):
            self._start(number)
        while tasks or any(hand.task for hand in self._hands):
            for hand in self._hands:
                if tasks and hand.ready and not hand.task:
                    hand.task = tasks.popleft()
                    self._tell(hand, hand.task)
            lost = self._listen(self._hands, finished)
            for task in filter(None, (without(task, writer.covered()) for task in lost)):
                tasks.appendleft(task)
        return computed

    def _tell(self, hand: _Hand, task: list[Span] | None) -> None:
        with suppress(OSError):  # it is gone, which its sentinel tells too
            hand.pipe.send(task)

    def _listen(self, hands: list[_Hand], finished: Callable[[int], None]) -> list[list[Span]]:
        """Wait for news; returns the tasks of workers that were lost."""
        by_pipe = {hand.pipe: hand for hand in hands}
        by_end = {hand.process.sentinel: hand for hand in hands}
        lost = []
        news = wait([*by_pipe, *by_end])
        for pipe in (item for item in news if item in by_pipe):
            self._hear(by_pipe[pipe], finished)
        for end in (item for item in news if item in by_end):
            hand = by_end[end]
            while self._hear(hand, finished):  # what it still said
                pass
            lost.append(hand.task)
            self._replace(hand)
        return lost

    def _hear(self, hand: _Hand, finished: Callable[[int], None]) -> bool:
        """One message of a worker; False if there is none (any more)."""
        try:
            if not hand.pipe.poll():
                return False
            what, value = hand.pipe.recv()
        except (EOFError, OSError):
            return False
        if what == "error":
            raise value
        if what == "ready":
            self._order = value
            hand.ready = True
        elif what == "batch":
            finished(value)
        elif what == "task":
            hand.task = []
        return True

    def _replace(self, hand: _Hand) -> None:
        """Start another worker in place of a lost one; StoreError if that happens too often."""
        hand.process.join()
        code = hand.process.exitcode
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._losses += 1
        if self._losses > LOSSES:
            raise StoreError(
                f"{self.job.path}: worker processes were lost {self._losses} times without "
                f"finishing a batch, last by {why} (9 is often a lack of memory); finished "
                "pictures are kept. Choose fewer processes or a smaller batch, and run the "
                "command again"
            )
        tqdm.write(f"worker {hand.number} was lost ({why}); it is replaced")
        hand.pipe.close()
        self._start(hand.number)

    def close(self) -> None:
        """Let workers put down what they finished, and end."""
        for hand in self._hands:
            self._tell(hand, None)
            hand.process.terminate()
        for hand in self._hands:
            hand.process.join(timeout=30)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            hand.pipe.close()


def _serve(job: Job, pipe: Connection, number: int, processes: int, order: Order | None) -> None:
    """A worker process: says what it made of the job, then computes task after task."""
    _end_with_the_driver()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then stops us
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        share_threads(processes)
        worker = Worker(replace(job, model=job.model.on(number)), order=order)
        pipe.send(("ready", worker.order))
        while (task := pipe.recv()) is not None:
            with ShardWriter(job.path, worker.order.columns, job.source) as shards:
                for batch, rows in worker.batches(task):
                    shards.add(batch.span, batch.indices, rows, errors_of(batch))
                    pipe.send(("batch", batch.span[1] - batch.span[0]))
            pipe.send(("task", None))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        pass  # the driver says why
    except DiffeatError as error:
        pipe.send(("error", error))
    except Exception as error:  # it would only happen again
        traceback.print_exc()
        pipe.send(("error", DiffeatError(f"a worker failed: {type(error).__name__}: {error}")))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_with_the_driver() -> None:
    """Nobody would merge what a worker without a driver writes, and a new run does its work."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="diffeat-watch", daemon=True).start()
