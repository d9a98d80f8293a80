"""What a result was measured on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffeat
from diffeat.store.format.atomic import write_synced
from diffeat.threads import usable_cpus

PACKAGES = ("torch", "diffusers", "transformers", "timm", "scikit-learn", "h5py", "numpy")
STAGE = ("name", "seconds", "runs", "peak_memory_mb")


def environment() -> dict[str, Any]:
    """Versions, processor and threads, for the JSON of every result."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        # an editable installation's metadata stays at the version that was installed first
        "packages": {"diffeat": diffeat.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MiB.

    Linux's own figure is that of the program that runs now; getrusage's is at least what the
    parent held when it started this process, so a small child of a large one looks large.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            line = next(line for line in file if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024, 1)
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def reset_peak_memory() -> None:
    """Let `peak_memory_mb` count from here on, where Linux allows it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return


class Stages:
    """What each part of some work took, over all runs that it needed.

    Attributes:
        path: a JSON file that carries the figures from run to run; None keeps none.
        done: a dict per stage: name, seconds (of all runs), runs, and peak_memory_mb (the
            largest, resident, of this process and not of those that it started).
    """

    def __init__(self, path: Path | None = None, done: Sequence[dict[str, Any]] = ()):
        self.path, self.done = path, list(done)

    @classmethod
    def open(cls, path: Path) -> Stages:
        """Go on where earlier runs ended."""
        return cls(path, _stages_in(path))

    @contextmanager
    def __call__(self, name: str) -> Iterator[list[float]]:
        """Measure a stage; what resets the peak inside it adds its own peaks to the list."""
        reset_peak_memory()
        began, peaks = time.monotonic(), []
        try:
            yield peaks
        finally:
            self._add(name, time.monotonic() - began, max([*peaks, peak_memory_mb()]))

    def _add(self, name: str, seconds: float, memory: float) -> None:
        stage = next((one for one in self.done if one["name"] == name), None)
        if stage is None:
            stage = {"name": name, "seconds": 0.0, "runs": 0, "peak_memory_mb": 0.0}
            self.done.append(stage)
        stage["seconds"] = round(stage["seconds"] + seconds, 1)
        stage["runs"] += 1
        stage["peak_memory_mb"] = max(stage["peak_memory_mb"], memory)
        if self.path is not None:
            write_synced(self.path, (json.dumps(self.done, indent=1) + "\n").encode())


def _stages_in(path: Path) -> list[dict[str, Any]]:
    """Stages of earlier runs; a file that is none counts as none."""
    try:
        stages = json.loads(path.read_text("utf-8"))
        return [{key: stage[key] for key in STAGE} for stage in stages]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path}: not usable ({error!r}); times begin anew", stacklevel=2)
        return []


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()
