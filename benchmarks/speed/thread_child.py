"""A process that extracts, probes or runs a small demo when it is told, and says what it took."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

TASKS = ("extraction", "probe", "demo")


def works(folder: Path, quick: bool) -> dict[str, Callable[[], Any]]:
    """What is done for every task; everything that is not the work is done here, before."""
    return {
        "extraction": _extraction(folder, quick),
        "probe": _probe(quick),
        "demo": _demo(folder, quick),
    }


def _extraction(folder: Path, quick: bool) -> Callable[[], Any]:
    """32 digits, unet-cifar10 at 32 pixels, two t, to a file."""
    import diffeat

    source = diffeat.open_source("digits").limit(4 if quick else 32)
    backbone = diffeat.load("unet-cifar10", "cpu")
    spec = diffeat.ExtractSpec((20, 60), ("up.0", "up.1"), pool="2x2")
    return lambda: diffeat.extract_to_file(
        backbone, source, spec, folder / "f.h5", overwrite=True, progress=False
    )


def _probe(quick: bool) -> Callable[[], Any]:
    """Eight cells of 1,100 training pictures × 384 features, ten classes, five C."""
    import numpy as np

    from benchmarks.searching import Logistic

    draw = np.random.default_rng(0)
    cells, pictures, width = (1, 60, 16) if quick else (8, 1400, 384)
    y = draw.integers(0, 10, pictures)
    X = draw.standard_normal((cells, pictures, width), np.float32)
    X += 0.2 * draw.standard_normal((10, width), np.float32)[y]
    held = pictures // 5
    return lambda: Logistic().fit(X[:, held:], y[held:], X[:, :held], y[:held])


def _demo(folder: Path, quick: bool) -> Callable[[], Any]:
    """The benchmark of `make demo`, with 120 digits, one t, and without its pictures."""
    from benchmarks.catalogue import open_benchmark
    from benchmarks.run import run_benchmark

    benchmark = open_benchmark("digits")
    extract = {**benchmark.extract, "timesteps": [60], "blocks": ["up.0", "up.1"]}
    benchmark = replace(benchmark, train_limit=60 if quick else 120, extract=extract, view={})

    def demo() -> None:
        shutil.rmtree(folder / "demo", ignore_errors=True)  # or it would be finished already
        run_benchmark(benchmark, folder / "demo", "cpu")

    return demo


def main(folder: str, length: str) -> None:
    """Read names of tasks from stdin; print {"seconds", "cpu_seconds"} as JSON for each."""
    from diffeat.threads import set_threads

    set_threads()
    known = works(Path(folder), length == "quick")
    for line in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            known[line.strip()]()
        found = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
