"""Faults: kills, full disks and lost workers, each followed by the same command again.

Every scenario ends with a file that is compared, data set by data set, with that of an
undisturbed run.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

KILLS, QUICK_KILLS, SEED = 20, 2, 0


def run_faults(
    out: Path,
    kills: int | None = None,
    quick: bool = False,
    device: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
    seed: int = SEED,
) -> dict[str, Any]:
    """Disturb extractions in all ways and write faults.json.

    Args:
        out: folder for faults.json.
        kills: SIGKILLs at random times; by default 20, or 2 with `quick`.
        quick: a small extraction, without ranks, Ray and lost workers.
        device: of the models.
        tell: called with a line before every scenario.
        seed: of the moments.

    Returns:
        What faults.json holds.
    """
    from benchmarks.faults import disk, scenarios
    from benchmarks.faults.commands import check_system
    from benchmarks.machine import environment

    check_system()
    began = time.monotonic()
    kills = kills or (QUICK_KILLS if quick else KILLS)
    with tempfile.TemporaryDirectory(prefix="diffeat-faults-") as folder:
        lab = scenarios.Lab(Path(folder), device, scenarios.QUICK if quick else scenarios.FULL)
        tell("an undisturbed run …")
        reference = lab.undisturbed()
        done = _disturbed(scenarios.listed(lab, kills, quick, random.Random(seed)), tell)
    result = {
        "suite": "faults",
        "quick": quick,
        "seed": seed,
        "kills": kills,
        "disk": disk.way(),
        "command": lab.shown,
        "reference": reference,
        "scenarios": done,
        "equal": all(one["equal"] for one in done),
        "seconds": round(time.monotonic() - began, 1),
        "environment": environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "faults.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _disturbed(listed: Iterable[tuple[str, Any]], tell: Callable[[str], None]) -> list[dict]:
    from benchmarks.faults.scenarios import tried

    done = []
    for name, work in listed:
        tell(f"{name} …")
        done.append(asdict(tried(name, work)))
    return done
