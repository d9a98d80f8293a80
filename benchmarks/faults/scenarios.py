"""What is done to an extraction, one function per kind of fault."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults import disk
from benchmarks.faults.commands import (
    Command,
    below,
    command_of,
    kept,
    shard_folder,
    shards,
    until,
)
from benchmarks.faults.content import digest, hashes
from diffeat.errors import StoreError

MODEL, BROKEN, TRIES = "unet-cifar10", 7, 4


@dataclass(frozen=True)
class Size:
    """How large the extraction is."""

    pictures: int
    ensemble: int
    warm: bool  # commands are forked from a process that has imported everything


FULL, QUICK = Size(200, 2, warm=False), Size(48, 1, warm=True)


@dataclass(frozen=True)
class Scenario:
    """What happened in one scenario.

    Attributes:
        name, did: what was disturbed, and what was done to it.
        runs: times that the command was started, with the disturbed ones.
        codes: their exit codes; negative for a signal.
        kept: pictures that were in shards after the last disturbance.
        again: pictures that were computed more than once; None where no bar counts them.
        equal: the file holds what the undisturbed run made.
        different: data sets that are not equal, or why there is nothing to compare.
        sha256: of all that the file holds.
        seconds: from the first start to the end.
    """

    name: str
    did: str
    runs: int
    codes: list[int]
    kept: int
    again: int | None
    equal: bool
    different: list[str]
    sha256: str
    seconds: float


class Lab:
    """One extraction that is made again and again.

    Args:
        folder: where everything lies; short-lived.
        device: of the model.
        size: of the extraction.
    """

    def __init__(self, folder: Path, device: str, size: Size):
        self.folder, self.size = folder, size
        self._pictures = _save_pictures(folder / "pictures", size.pictures)
        self._spec = [
            "-t", "20,60", "-b", "up.0,up.1", "--ensemble", str(size.ensemble), "--fit", "pad",
            "--dtype", "float32", "--batch-size", "16", "--on-error", "skip", "--device", device,
            "--json",
        ]  # fmt: skip
        self.shown = " ".join(["diffeat extract", MODEL, "PICTURES -o F.h5", *self._spec])
        self._count = self._started = 0
        self.wanted: dict[str, str] = {}
        self.seconds: dict[tuple[str, ...], float] = {}

    def new_path(self) -> Path:
        self._count += 1
        return self.folder / f"{self._count:03d}" / "f.h5"

    def arguments(self, path: Path, how: Sequence[str] = ()) -> list[str]:
        """The command without `python`."""
        launcher, options = (how, ()) if "torch.distributed.run" in how else (("-m",), how)
        return [*launcher, "diffeat", "extract", MODEL, str(self._pictures), "-o", str(path),
                *self._spec, *options]  # fmt: skip

    def start(self, path: Path, how: Sequence[str] = ()) -> Command:
        path.parent.mkdir(exist_ok=True)
        self._started += 1
        out = path.parent / f"out-{self._started}"
        return Command(self.arguments(path, how), out, self.size.warm)

    def undisturbed(self) -> dict[str, object]:
        """One process, from beginning to end; everything else is compared with its file."""
        path = self.new_path()
        self.time(path, ())
        self.wanted = hashes(path)
        self.bytes = path.stat().st_size
        return {
            "pictures": self.size.pictures,
            "bytes": self.bytes,
            "sha256": digest(self.wanted),
            "hashes": self.wanted,
            "work_seconds": round(self.seconds[()], 2),
        }

    def time(self, path: Path, how: tuple[str, ...]) -> Command:
        """Measure from the beginning of the work, when its folder appears, to the end."""
        command = begun(self, path, how)
        began = time.monotonic()
        if command.wait() != 0:
            raise StoreError(f"an undisturbed run failed: {command.text}")
        self.seconds[how] = time.monotonic() - began
        return command

    def finish(
        self,
        name: str,
        did: str,
        path: Path,
        commands: list[Command],
        how: Sequence[str] = (),
        counts: bool = True,
    ) -> Scenario:
        """Run the same command until it is done, and compare."""
        codes = [command.wait() for command in commands]
        saved = kept(path, self.size.pictures)
        while codes[-1] != 0 and len(codes) < TRIES + 1:
            commands.append(self.start(path, how))
            codes.append(commands[-1].wait())
        if codes[-1] != 0:
            raise StoreError(f"{name}: it was not done after {TRIES} runs: {commands[-1].text}")
        computed = sum(command.computed for command in commands)
        again = computed - self.size.pictures if counts else None
        return self.compare(name, did, path, codes, saved, again, commands[0].began)

    def compare(self, name, did, path, codes, saved, again, began) -> Scenario:
        found = hashes(path)
        names = sorted({*found, *self.wanted})
        different = [one for one in names if found.get(one) != self.wanted.get(one)]
        if shard_folder(path).exists():
            different.append("parts are left")
        path.unlink()
        return Scenario(
            name=name, did=did, runs=len(codes), codes=codes, kept=saved, again=again,
            equal=not different, different=different, sha256=digest(found),
            seconds=round(time.monotonic() - began, 1),
        )  # fmt: skip


Work = Callable[[str], Scenario]
PROCESSES = ("--processes", "2")
RAY = ("--engine", "ray", "--processes", "2")
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--max-restarts", "1", "-m")  # fmt: skip


def listed(lab: Lab, kills: int, quick: bool, draw: random.Random) -> Iterator[tuple[str, Work]]:
    """All scenarios, in order."""
    engines = [()] if quick else [(), PROCESSES]
    if not quick:
        yield "two processes, undisturbed", partial(whole, lab)
    for k in range(kills):
        how = engines[k % len(engines)]
        engine = "two processes" if how else "one process"
        yield f"kill {k + 1} of {kills}, {engine}", partial(random_kill, lab, how, draw)
    yield "full disk", partial(full_disk, lab)
    how = () if quick else PROCESSES
    yield "SIGTERM", partial(stopped, lab, signal.SIGTERM, how)
    yield "Ctrl-C", partial(stopped, lab, signal.SIGINT, how)
    if quick:
        return
    yield "lost worker", partial(lost, lab, PROCESSES, "spawn_main", "one of two workers")
    ranks = "one of two ranks (torchrun --max-restarts 1)"
    yield "lost rank", partial(lost, lab, RANKS, "diffeat extract", ranks)
    yield "lost Ray actor", partial(lost, lab, RAY, "_Actor", "one of two Ray actors")
    yield "lost Ray driver", partial(lost_driver, lab, RAY)


def tried(name: str, work: Work) -> Scenario:
    """A scenario, also where it did not come to its end; the others still say something."""
    began = time.monotonic()
    try:
        return work(name)
    except StoreError as error:
        seconds = round(time.monotonic() - began, 1)
        return Scenario(name, "failed", 0, [], 0, None, False, [str(error)], "", seconds)


def begun(lab: Lab, path: Path, how: Sequence[str], shard: bool = False) -> Command:
    """The command, when its folder of parts appears, or the first shard."""
    command = lab.start(path, how)
    there = partial(shards, path) if shard else shard_folder(path).exists
    until(lambda: there() or not command.running, command, "the beginning")
    return command


def whole(lab: Lab, name: str) -> Scenario:
    """Two processes make what one makes; also says how long they take."""
    path = lab.new_path()
    command = lab.time(path, PROCESSES)
    return lab.finish(name, "nothing", path, [command], PROCESSES)


def random_kill(lab: Lab, how: tuple[str, ...], draw: random.Random, name: str) -> Scenario:
    """SIGKILL to the command at a random moment of its work, merging included."""
    path, moment = lab.new_path(), draw.uniform(0, lab.seconds[how])
    command = begun(lab, path, how)
    time.sleep(moment)
    if not command.running:  # it was faster than the undisturbed run: another moment
        if command.wait() != 0:
            raise StoreError(f"{name}: it failed before it was killed: {command.text}")
        path.unlink()
        return random_kill(lab, how, draw, name)
    command.send(signal.SIGKILL)
    command.wait()
    merging = b"merge:" in command.said
    did = f"SIGKILL {moment:.1f} s after work began" + (", while merging" if merging else "")
    return lab.finish(name, did, path, [command], how)


def stopped(lab: Lab, number: int, how: tuple[str, ...], name: str) -> Scenario:
    """SIGTERM to the command, or Ctrl-C to all processes of its terminal."""
    path = lab.new_path()
    command = begun(lab, path, how, shard=bool(how))
    command.send(number, everybody=number == signal.SIGINT)
    code = command.wait()
    words = "interrupted: finished batches are kept"
    if code != 128 + number or words not in command.text or "Traceback" in command.text:
        raise StoreError(f"{name}: exit code {code}, and it said: {command.text}")
    to = "the command" if number == signal.SIGTERM else "all its processes"
    return lab.finish(name, f"{signal.Signals(number).name} to {to}", path, [command], how)


def lost(lab: Lab, how: tuple[str, ...], word: str, what: str, name: str) -> Scenario:
    """SIGKILL to a worker after the first shard; the command itself goes on."""
    path = lab.new_path()
    command = begun(lab, path, how, shard=True)
    workers = [pid for pid in below(command.pid) if word in command_of(pid)]
    if len(workers) < 2:
        raise StoreError(f"{name}: {len(workers)} workers; it said: {command.text}")
    os.kill(workers[-1], signal.SIGKILL)
    did = f"SIGKILL to {what} after the first shard"
    return lab.finish(name, did, path, [command], how, counts=how == PROCESSES)


def lost_driver(lab: Lab, how: tuple[str, ...], name: str) -> Scenario:
    """SIGKILL to the driver after the first shard; all that it started must end."""
    path = lab.new_path()
    command = begun(lab, path, how, shard=True)
    command.send(signal.SIGKILL)
    command.wait()
    did = "SIGKILL to the driver after the first shard"
    return lab.finish(name, did, path, [command], how, counts=False)


def full_disk(lab: Lab, name: str) -> Scenario:
    """The disk is full during the work, then during the merge, then there is room."""
    began, path = time.monotonic(), lab.new_path()
    path.parent.mkdir()
    out = lab.folder / f"{path.parent.name}.h5"
    told = disk.on_small_disk(lab.arguments(path), path, out, lab.bytes, lab.size.warm)
    said = " / ".join(told["said"])
    if told["codes"] != [1] * (len(told["codes"]) - 1) + [0] or "Traceback" in said:
        raise StoreError(f"{name} ({told['way']}): exit codes {told['codes']}; it said: {said}")
    if told["way"] != disk.LIMIT and said.count("the disk is full") != len(told["codes"]) - 1:
        raise StoreError(f"{name} ({told['way']}): the reason is not told: {said}")
    full = "in the work, then in the merge" if len(told["codes"]) > 2 else "in the merge"
    did = f"{told['way']}: full {full}"
    return lab.compare(name, did, out, told["codes"], told["kept"], None, began)


def _save_pictures(folder: Path, count: int) -> Path:
    """Pictures in two classes, tall ones so that they are padded; one cannot be read."""
    draw = np.random.default_rng(0)
    for k in range(count):
        path = folder / f"class-{k * 2 // count}" / f"{k:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(draw.integers(0, 256, (8, 6, 3), np.uint8))
        small.resize((60, 80), Image.Resampling.BICUBIC).save(path)
        if k == BROKEN:
            path.write_bytes(path.read_bytes()[:200])
    return folder
