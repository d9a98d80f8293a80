"""The engine of several processes on this machine, one model each.

The driver hands out tasks (runs of batches) and merges; workers write shards. A worker that is
lost (killed, out of memory) is replaced, and what it had not written is computed again. When
the driver is lost, workers end by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from diffeat.engines.base import (
    JobResult,
    complete,
    drive,
    sharing,
    tasks_of,
    without,
)
from diffeat.errors import DiffeatError, SourceError, StoreError
from diffeat.progress import say
from diffeat.store import ShardWriter, StoreWriter
from diffeat.threads import set_threads
from diffeat.work import Job, Span, Worker, errors_of

LOSSES = 3
"""Workers that may be lost in a row, with no batch finished in between."""
PATIENCE = 30
"""Seconds that a worker has to put down what it finished."""


def run_processes(job: Job, processes: int) -> JobResult:
    """Do a job with `processes` copies of the model on this machine."""
    pool = _Pool(job, processes)
    try:
        job = pool.settle()
        found = complete(job)
        if found is not None:
            return found
        result = drive(job, pool.work, f"{processes} processes", alone=False)
        return replace(result, converted=pool.converted)
    finally:
        pool.close(at_once=True)


@dataclass
class _Hand:
    """One worker process as the driver sees it.

    Attributes:
        task: the batches that it works on.
        finished: those of them that it has computed → how many pictures went through the model.
    """

    number: int
    process: Any
    pipe: Connection
    ready: bool = False
    task: list[Span] = field(default_factory=list)
    finished: dict[Span, int] = field(default_factory=dict)


class _Pool:
    """Worker processes, of which lost ones are replaced."""

    def __init__(self, job: Job, processes: int):
        self.job, self.size = job, processes
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[_Hand] = []
        self._losses = self._computed = self.converted = 0
        self._bar: Any = None

    def settle(self) -> Job:
        """The job with what the first worker made of it; the others use its batch size."""
        self._start(0)
        while not self.job.settled:
            self._listen()
        return self.job

    def _start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(self.job, theirs, number, self.size),
            name=f"diffeat-{number}",
            daemon=True,
        )
        try:
            with _deaf():
                process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise SourceError(
                f"{self.job.source.name} cannot be sent to another process ({error}); use a class "
                "that stands at the top of a module, or one process"
            ) from error
        theirs.close()
        hand = _Hand(number, process, ours)
        self._hands = [other for other in self._hands if other.number != number] + [hand]

    def work(self, writer: StoreWriter, bar: Any) -> int:
        """Have all remaining batches computed; returns the number of pictures."""
        self._bar, done = bar, False
        try:
            self._hand_out(writer)
            done = True
        finally:  # while the writer is there to take what workers put down
            self.close(at_once=not done)
        return self._computed

    def _hand_out(self, writer: StoreWriter) -> None:
        spans = writer.remaining(self.job.pictures)
        tasks = deque(tasks_of(spans, self.job.bytes_per_picture, self.size))
        for number in range(1, min(self.size, len(tasks))):
            self._start(number)
        while tasks or any(hand.task for hand in self._hands):
            for hand in self._hands:
                if tasks and hand.ready and not hand.task:
                    hand.task = tasks.popleft()
                    self._tell(hand, hand.task)
            for hand in self._listen():
                missing = without(hand.task, writer.covered())
                for start, stop in set(missing) & set(hand.finished):
                    self._count(-hand.finished[start, stop], start - stop)
                if missing:
                    tasks.appendleft(missing)

    def _count(self, computed: int, pictures: int) -> None:
        self._computed += computed
        if self._bar is not None:
            self._bar.update(pictures)

    def _tell(self, hand: _Hand, task: list[Span] | None) -> None:
        with suppress(OSError):  # it is gone, which its sentinel tells too
            hand.pipe.send(task)

    def _listen(self) -> list[_Hand]:
        """Wait for news; returns workers that were lost, in whose place others have started."""
        by_pipe = {hand.pipe: hand for hand in self._hands}
        by_end = {hand.process.sentinel: hand for hand in self._hands}
        lost = []
        news = wait([*by_pipe, *by_end])
        for pipe in (item for item in news if item in by_pipe):
            self._hear(by_pipe[pipe])
        for end in (item for item in news if item in by_end):
            hand = by_end[end]
            while self._hear(hand):  # what it still said
                pass
            lost.append(hand)
            self._replace(hand)
        return lost

    def _hear(self, hand: _Hand) -> bool:
        """One message of a worker; False if there is none (any more)."""
        try:
            if not hand.pipe.poll():
                return False
            what, value = hand.pipe.recv()
        except (EOFError, OSError):
            return False
        if what == "error":
            raise value
        if what == "warning":
            warnings.warn(value, stacklevel=2)
        elif what == "ready":
            self.job, hand.ready = self.job.told(value), True
        elif what == "batch":
            span, computed = value
            hand.finished[span] = computed
            self._losses = 0
            self._count(computed, span[1] - span[0])
        elif what == "task":
            self.converted += value
            hand.task, hand.finished = [], {}
        return True

    def _replace(self, hand: _Hand) -> None:
        """Start another worker in place of a lost one; StoreError if that happens too often."""
        hand.process.join()
        code = hand.process.exitcode
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._losses += 1
        if not self.job.settled and code > 0:  # it never began, and would not the next time
            raise StoreError(
                f"{self.job.path}: the first worker process ended at its start ({why}; what it "
                "said is above). In a script, call it below `if __name__ == '__main__':`, "
                "since every process imports the script"
            )
        if self._losses > LOSSES:
            raise StoreError(
                f"{self.job.path}: worker processes were lost {self._losses} times without "
                f"finishing a batch, last by {why} (9 is often a lack of memory); finished "
                "pictures are kept. Choose fewer processes or a smaller batch, and run the "
                "command again"
            )
        say(f"warning: worker {hand.number} was lost ({why}); it is replaced")
        hand.pipe.close()
        self._start(hand.number)

    def close(self, at_once: bool) -> None:
        """End the workers; they put down what they finished, also if that must be at once."""
        for hand in self._hands:
            self._tell(hand, None)
            if at_once:
                hand.process.terminate()
        for hand in self._hands:
            hand.process.join(timeout=PATIENCE)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            hand.pipe.close()
        self._hands = []


@contextmanager
def _deaf() -> Iterator[None]:
    """A process started here does not hear Ctrl-C, which is for the driver."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(job: Job, pipe: Connection, number: int, processes: int) -> None:
    """A worker process: works until it is told to end, whenever that is, and ends in silence."""
    _end_with_the_driver()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over = threading.Event()

    def interrupt(*_: object) -> None:
        if not over.is_set():  # else it ends anyway, and nobody would catch it
            raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)  # until here the default ends it, in silence too
        try:
            _work(job, pipe, number, processes)
        finally:
            over.set()
    except KeyboardInterrupt:
        pass  # the driver says why


def _work(job: Job, pipe: Connection, number: int, processes: int) -> None:
    """Say what it made of the job, then compute task after task."""
    one_at_a_time = threading.Lock()

    def say(what: str, value: Any = None) -> None:
        with one_at_a_time:
            pipe.send((what, value))

    warnings.showwarning = lambda message, *_: say("warning", str(message))
    try:
        job = replace(job, model=job.model.on(number), sharing=sharing(job, processes))
        set_threads(workers=processes)
        worker = Worker(job)
        say("ready", worker.findings)
        while (task := pipe.recv()) is not None:
            with ShardWriter(job.path, worker.job.columns, worker.job.source) as shards:
                for batch, rows in worker.batches(task):
                    shards.add(batch.span, batch.indices, rows, errors_of(batch))
                    say("batch", (batch.span, len(batch.indices)))
            say("task", worker.converted)
            worker.converted = 0
    except (EOFError, BrokenPipeError):
        pass  # the driver says why
    except DiffeatError as error:
        say("error", error)
    except Exception as error:  # it would only happen again
        traceback.print_exc()
        say("error", DiffeatError(f"a worker failed: {type(error).__name__}: {error}"))


def _end_with_the_driver() -> None:
    """Nobody would merge what a worker without a driver writes, and a new run does its work."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="diffeat-watch", daemon=True).start()
