"""How much memory there is, and whether an error says that there was none left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

PHRASES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What errors of torch say that have no class of their own."""
SYSTEM = Path("/")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, of its libraries or of Python means a lack of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in PHRASES)


def device_use(device: torch.device) -> float:
    """The share of a CUDA device's memory that is taken, by anybody."""
    free, total = torch.cuda.mem_get_info(device)
    return 1 - free / total


def own_use(device: torch.device) -> tuple[float, float]:
    """The shares of a CUDA device's memory that this process's tensors take, and that torch
    keeps for them."""
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.memory_allocated(device) / total, torch.cuda.memory_reserved(device) / total


def host_available(root: Path = SYSTEM) -> int | None:
    """Bytes that this process may still take, by the kernel and by its control groups.

    Returns:
        None where the system does not say (anything but Linux).
    """
    fields = _fields(root / "proc/meminfo")
    if "MemAvailable" not in fields:
        return None
    return max(0, min([fields["MemAvailable"] * 1024, *_group_limits(root)]))


def host_peak(root: Path = SYSTEM) -> tuple[int, int]:
    """Bytes of memory that this process holds, and the most that it ever held; 0 if unknown."""
    fields = _fields(root / "proc/self/status")
    return fields.get("VmRSS", 0) * 1024, fields.get("VmHWM", 0) * 1024


def _group_limits(root: Path) -> Iterator[int]:
    """What every control group around this process leaves; files that can be dropped count."""
    files = (("memory.max", "memory.current", "inactive_file"),
             ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))  # fmt: skip
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        version = 1 if controllers else 0
        if version and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if version else "")
        folder = top / path.strip("/")
        limit, current, idle = files[version]
        while True:
            most, used = _number(folder / limit), _number(folder / current)
            if most is not None and used is not None:
                yield most - used + _fields(folder / "memory.stat").get(idle, 0)
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of lines such as "MemAvailable:  123 kB"."""
    words = (line.replace(":", " ").split() for line in _lines(path))
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}
