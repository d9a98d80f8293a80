"""Commands as a user would type them, watched and disturbed from outside (Linux only)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from diffeat.errors import DeviceError, StoreError

PATIENCE = 300.0
"""Seconds after which a command hangs."""
BAR = re.compile(rb"extract: +\d+%[^\r\n]*? (\d+)/\d+ \[")


@dataclass
class Command:
    """One run of a command in a session of its own.

    Its stderr is a terminal, so that it shows the bar of a user; `computed` is what the bar
    counted.

    Args:
        arguments: after `python`.
        path: the feature file that it makes.
    """

    arguments: Sequence[object]
    path: Path
    said: bytes = b""
    out: bytes = b""
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        ours, theirs = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, *map(str, self.arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
            # a shell that starts us in the background lets children ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        self.pid = self._process.pid
        self._readers = [
            threading.Thread(target=self._listen, args=(ours,), daemon=True),
            threading.Thread(target=self._collect, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _listen(self, terminal: int) -> None:
        with suppress(OSError):  # a terminal ends with an error when nobody writes to it any more
            while piece := os.read(terminal, 1 << 16):
                self.said += piece
        os.close(terminal)

    def _collect(self) -> None:
        while piece := self._process.stdout.read(1 << 16):
            self.out += piece
        self._process.stdout.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def text(self) -> str:
        """What it said to the user, without bars."""
        lines = re.split(rb"[\r\n]+", self.said)
        kept = [line for line in lines if line.strip() and not re.search(rb"\d+%\|", line)]
        return b"\n".join(kept).decode(errors="replace")

    @property
    def computed(self) -> int:
        """Pictures that went through the model, beside those of earlier runs, by the bar."""
        counts = [int(count) for count in BAR.findall(self.said)]
        return max(counts) - counts[0] if counts else 0

    def send(self, number: int, everybody: bool = False) -> None:
        """A signal, as by `kill`, or to all processes of the terminal, as by Ctrl-C."""
        (os.killpg if everybody else os.kill)(self.pid, number)

    def wait(self) -> int:
        """Its exit code, once it and all that it started are gone."""
        others = below(self.pid)
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in [*below(self.pid), self.pid]:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            raise StoreError(f"a command hung; it said: {self.text}") from None
        until(lambda: not any(map(alive, others)), self, "all that it started to end")
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def result(self) -> dict[str, Any]:
        """What it answered with --json; {} where it failed."""
        with suppress(ValueError):
            text = self.out.decode()
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


def parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def shards(path: Path) -> list[Path]:
    return sorted(parts_of(path).glob("shard-*.h5"))


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
