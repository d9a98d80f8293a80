"""Commands as a user would type them, watched and disturbed from outside (Linux only)."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py

from diffeat.errors import DeviceError, StoreError

PATIENCE = 120.0
"""Seconds after which a command hangs."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""One thread each: sums are cut by the number of threads."""
BAR = re.compile(rb"extract: +\d+%[^\r\n]*? (\d+)/\d+ \[")


@dataclass
class Command:
    """One run of a command in a session of its own.

    Its stderr is a terminal, so that it shows the bar of a user; `computed` is what the bar
    counted.

    Args:
        arguments: after `python`.
        out: the file for its stdout.
        warm: fork it from a process that has imported everything (`-m diffeat` alone).
    """

    arguments: Sequence[str]
    out: Path
    warm: bool = False
    said: bytes = b""
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 200))  # a bar needs room
        self._lock = threading.Lock()
        self._process = (self._forked if self.warm else self._started)(theirs)
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._listen, args=(ours, theirs), daemon=True)
        self._reader.start()

    def _started(self, terminal: int) -> subprocess.Popen:
        with open(self.out, "wb") as out:
            return subprocess.Popen(
                [sys.executable, *self.arguments],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=terminal,
                start_new_session=True,
                # a shell that starts us in the background lets children ignore Ctrl-C
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def _forked(self, terminal: int) -> Any:
        from benchmarks.faults import warm

        os.environ.update(ENVIRONMENT)
        given = list(self.arguments[2:]), str(self.out), os.ttyname(terminal)
        process = warm.server().Process(target=warm.work, args=given)
        process.start()
        return process

    def _listen(self, terminal: int, theirs: int) -> None:
        """Read until it has ended and nothing is left; our hold on the other side keeps it open."""
        while True:
            ended = not self.running
            while select.select([terminal], [], [], 0.02)[0]:
                self.said += os.read(terminal, 1 << 16)
            if ended:
                break
        os.close(theirs)
        os.close(terminal)

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        process = self._process
        with self._lock:  # two threads ask
            return process.exitcode if self.warm else process.poll()

    @property
    def running(self) -> bool:
        return self.code is None

    @property
    def text(self) -> str:
        """What it said to the user, without bars."""
        lines = re.split(rb"[\r\n]+", self.said)
        kept = [line for line in lines if line.strip() and not re.search(rb"\d+%\|", line)]
        return b"\n".join(kept).decode(errors="replace")

    @property
    def computed(self) -> int:
        """Pictures that went through the model in this run, by the bar.

        It begins with those of earlier runs, and steps back when a worker is lost.
        """
        return sum(max(0, after - before) for before, after in pairwise(self.counts))

    @property
    def counts(self) -> list[int]:
        """All numbers that the bar showed."""
        return [int(count) for count in BAR.findall(self.said)]

    def send(self, number: int, everybody: bool = False) -> None:
        """A signal, as by `kill`, or to all processes of the terminal, as by Ctrl-C."""
        (os.killpg if everybody else os.kill)(self.pid, number)

    def wait(self) -> int:
        """Its exit code, once it and all that it started are gone."""
        others = below(self.pid)
        try:
            until(lambda: not self.running, self, "its end")
            until(lambda: not any(map(alive, others)), self, "all that it started to end")
        except StoreError:
            for pid in [*below(self.pid), self.pid, *others]:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            raise
        self._reader.join()
        return self.code

    def result(self) -> dict[str, Any]:
        """What it answered with --json; {} where it failed."""
        with suppress(ValueError):
            text = self.out.read_text("utf-8")
            return json.loads(text[text.index("{") : text.rindex("}") + 1])
        return {}


def until(true: Callable[[], Any], command: Command, what: str) -> Any:
    """Wait for something to be true while a command runs; returns it."""
    end = time.monotonic() + PATIENCE
    while not (value := true()):
        if time.monotonic() > end:
            raise StoreError(f"waited in vain for {what}; the command said: {command.text}")
        time.sleep(0.002)
    return value


def shard_folder(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def shards(path: Path) -> list[Path]:
    return sorted(shard_folder(path).glob("shard-*.h5"))


def kept(path: Path, count: int) -> int:
    """Pictures that need not be computed again, by plain h5py."""
    if path.exists():
        return count
    covered: set[int] = set()
    for shard in shards(path):
        with h5py.File(shard) as file:
            for start, stop in file.attrs["spans"].tolist():
                covered |= set(range(start, stop))
    return len(covered)


# --- processes --------------------------------------------------------------------------------


def check_system() -> None:
    """DeviceError where processes cannot be watched in this way."""
    if not Path("/proc/self/task").is_dir():
        raise DeviceError("the faults are made through /proc, which only Linux has; run it there")


def below(pid: int) -> list[int]:
    """Children, their children, …"""
    found = []
    for child in _children(pid):
        found += [child, *below(child)]
    return found


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def command_of(pid: int) -> str:
    """How a process was called; Ray writes there what its workers do."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
