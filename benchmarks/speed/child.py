"""One extraction in a fresh process, which prints its seconds and its peak memory as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.machine import peak_memory_mb


def run(order: dict[str, Any]) -> dict[str, float]:
    """Extract a folder of pictures; peak memory after loading the model and at the end."""
    import torch

    import diffeat

    torch.set_num_threads(order["threads"])
    backbone = diffeat.load(order["model"], order["device"])
    spec = diffeat.ExtractSpec((order["t"],), (order["block"],), pool="1x1")
    loaded = peak_memory_mb()
    source = diffeat.open_source(order["pictures"])
    done = diffeat.extract_to_file(backbone, source, spec, order["out"], progress=False)
    return {
        "seconds": round(done.seconds, 4),
        "loaded_mb": loaded,
        "peak_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
