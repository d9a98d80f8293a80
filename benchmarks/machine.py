"""What a result was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from typing import Any

PACKAGES = ("diffeat", "torch", "diffusers", "transformers", "scikit-learn", "h5py", "numpy")


def environment() -> dict[str, Any]:
    """Versions, processor and threads, for the JSON of every result."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
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


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()
