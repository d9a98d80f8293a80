"""How many CPUs this process may use, and how many threads its work gets.

torch, numpy and SciPy start a thread per CPU of the machine, whatever a container's quota says,
and let threads that wait spin. Where others compute too, a spinning thread takes the CPU from
the one that it waits for. So: threads that wait soon sleep (`let_waiting_sleep`, before a
library loads), and there are no more of them than CPUs (`usable_cpus`). Small probes take one:
`probes.threads`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from diffeat.errors import SpecError

VARIABLE = "DIFFEAT_THREADS"
"""Environment variable: what `--threads` is where it is not given; worker processes inherit it."""
WAITING: tuple[dict[str, str | None], ...] = (
    # libgomp counts 100 000 loops as a millisecond: a tenth of one bridges the gap between two
    # layers, where waking a thread would cost more; other OpenMPs know only to sleep at once
    {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": None},
    {"OPENBLAS_THREAD_TIMEOUT": "4"},  # 2^4 cycles, the least, in place of 2^26
)
"""For each kind of pool: environment variables → values; None is one that we need not set."""
OPENMP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
Roots = Path | str


def let_waiting_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads of OpenMP and OpenBLAS sleep; what the user has said of a pool is kept.

    Only libraries that are loaded afterwards look at it.
    """
    for variables in WAITING:
        if not any(name in environment for name in variables):
            environment.update({name: value for name, value in variables.items() if value})


def usable_cpus(root: Roots = "/") -> int:
    """CPUs that this process may use: the least of its affinity, its cgroups' quotas and what
    the machine has; at least 1.

    A quota of 1.5 CPUs counts as 2.

    Args:
        root: of the file system, with proc/self and sys/fs/cgroup.

    Source: Linux, cgroups(7): cpu.max (version 2), cpu.cfs_quota_us (version 1).
    """
    found = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        found.append(len(os.sched_getaffinity(0)))
    quota = cgroup_quota(root)
    if quota is not None:
        found.append(math.ceil(quota))
    return max(1, min(found))


def cgroup_quota(root: Roots = "/") -> float | None:
    """The least quota of CPUs of this process' control groups and of those above them.

    Args:
        root: as for `usable_cpus`.

    Returns:
        CPUs, or None without a quota.
    """
    root = Path(root)
    folder = root / "sys/fs/cgroup"
    quotas = []
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            places, read = (folder, folder / "unified"), _quota_v2
        elif "cpu" in controllers.split(","):
            places, read = (folder / controllers, folder / "cpu"), _quota_v1
        else:
            continue
        for place in places:
            quotas += [read(group) for group in _and_above(place, path)]
    return min((quota for quota in quotas if quota), default=None)


def _and_above(folder: Path, path: str) -> Iterator[Path]:
    """A control group, its parent, … up to the root of the hierarchy.

    In a container without a name space of its own the path is the host's, and only the root,
    which is the container's group, is there.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for length in range(len(parts), -1, -1):
        yield folder.joinpath(*parts[:length])


def _quota_v2(group: Path) -> float | None:
    for line in _lines(group / "cpu.max"):
        return _share(*[*line.split(), "", ""][:2])
    return None


def _quota_v1(group: Path) -> float | None:
    quota, period = (
        next(iter(_lines(group / f"cpu.cfs_{name}_us")), "") for name in ("quota", "period")
    )
    return _share(quota, period)


def _share(quota: str, period: str) -> float | None:
    """Microseconds of CPU per microseconds; None for "max", -1 and what is no number."""
    with suppress(ValueError):
        if int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def parse_threads(value: int | str | None, named: str = "threads") -> int | None:
    """A number of threads, or None for "auto".

    Raises:
        SpecError: neither.
    """
    if value is None or value == "auto":
        return None
    with suppress(TypeError, ValueError):
        if not isinstance(value, (bool, float)) and int(value) >= 1:
            return int(value)
    raise SpecError(f"{named} {value!r}; expected a number of at least 1, or auto")


def asked(environment: Mapping[str, str] = os.environ) -> int | None:
    """The number that DIFFEAT_THREADS says; None where it says auto or nothing.

    Raises:
        SpecError: it says something else.
    """
    return parse_threads(environment.get(VARIABLE) or None, VARIABLE)


def ask(value: int | str) -> None:
    """Note a number of threads, or "auto", for this process and those that it starts.

    Raises:
        SpecError: neither.
    """
    parse_threads(value)
    os.environ[VARIABLE] = str(value)


def automatic(workers: int = 1) -> int:
    """Threads of each of the workers on this machine where nobody gave a number.

    OMP_NUM_THREADS and its like, where they are set, are what torch has taken already.
    """
    import torch

    now = torch.get_num_threads()
    if not any(name in os.environ for name in OPENMP):
        now = min(now, usable_cpus())
    return max(1, now // workers)


def set_threads(threads: int | str = "auto", workers: int = 1) -> int:
    """Set the threads of torch and of numpy's and SciPy's BLAS in this process.

    Args:
        threads: a number for this process (with several workers: for all of them together);
            "auto" for DIFFEAT_THREADS or, without it, all CPUs that the process may use
            (`usable_cpus`), or as many as OMP_NUM_THREADS says.
        workers: processes of this machine that share them.

    Returns:
        How many threads this process has.

    Raises:
        SpecError: no such number.
    """
    import torch

    number = parse_threads(threads) or asked()
    number = automatic(workers) if number is None else max(1, number // workers)
    torch.set_num_threads(number)
    _limit_blas(number)
    return number


def _limit_blas(number: int) -> None:
    """No more threads than that in the BLAS libraries that are loaded."""
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if library.num_threads > number:
            library.set_num_threads(number)
