"""The speed suite: what the engine costs above the least work possible, as ratios in one run."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.settings import Settings

PARTS = {
    "a": ("overhead", "extraction to a file against the bare truncated forwards"),
    "b": ("surface", "a surface of 11 t × 12 blocks against a run per cell and a run per t"),
    "c": ("ensemble", "an ensemble of 8 against eight passes"),
    "d": ("disk", "writing behind the compute, reading against the raw disk"),
    "e": ("growth", "time and memory by the number of pictures and of blocks"),
    "f": ("accelerator", "pictures per second and share of a GPU's bf16 matrix peak"),
    "g": ("scale", "what bounds an extraction on many machines"),
    "h": ("probing", "a surface of linear probes at once against scikit-learn cell by cell"),
    "i": (
        "threads",
        "the default number of threads against the others, idle and beside a neighbour",
    ),
    "j": ("matching", "points found by features at every pixel, against upsampling the features"),
    "k": ("propagation", "labels carried through a clip, against the dense affinity"),
    "l": ("dense", "an ensemble of MLPs on hypercolumns that are never built, all at once"),
}


def run_speed(
    out: Path, settings: Settings, tell: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Run parts of the suite and write speed.json after each of them.

    Parts that lie in `out` from an earlier run of the same kind stay there, each with the
    machine that it was measured on; so a long suite can be run part by part, and (f) on
    another machine.

    Args:
        out: folder for speed.json.
        settings: what is measured, and where.
        tell: called with a line before every part.

    Returns:
        What speed.json holds: {"suite", "quick", "parts": {letter: result}}.
    """
    from benchmarks.machine import environment

    out.mkdir(parents=True, exist_ok=True)
    path = out / "speed.json"
    result = {"suite": "speed", "quick": settings.quick, "parts": _earlier(path, settings.quick)}
    for letter in settings.parts:
        module, title = PARTS[letter]
        tell(f"({letter}) {title} …")
        began = time.monotonic()
        measured = importlib.import_module(f"benchmarks.speed.{module}").measure(settings)
        result["parts"][letter] = {
            "title": title,
            **measured,
            "seed": settings.seed,
            "seconds": round(time.monotonic() - began, 1),
            "environment": environment(),
        }
        result["parts"] = dict(sorted(result["parts"].items()))
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _earlier(path: Path, quick: bool) -> dict[str, Any]:
    """The parts of an earlier run that was as long; none of an older layout."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found["parts"] if "parts" in found and found.get("quick") == quick else {}
