"""Several extractions on one Ray cluster, which takes seconds to start; prints what happened.

Run as a program: Ray's own warnings are not ours, and its processes end with this one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from diffeat.engines import on_ray
from tests.engines.common import (
    SPEC,
    alive,
    below,
    command_of,
    extract,
    parts_of,
    shards,
    until,
)


def actors() -> list[int]:
    """Processes of this cluster that hold a model and work: Ray names them after what they do."""
    return [pid for pid in below(os.getpid()) if "ray::" in command_of(pid)
            and "_Actor" in command_of(pid)]  # fmt: skip


def told(*arguments, **options) -> dict:
    began = time.monotonic()
    try:
        result = extract(*arguments, engine="ray", processes=2, **options)
        found = {**vars(result), "path": str(result.path)}
    except Exception as error:
        found = {"error": type(error).__name__, "message": str(error)}
    return {**found, "took": time.monotonic() - began}


def killing(path: Path, killed: dict) -> None:
    until(lambda: shards(path), "the first shard")
    found = actors()
    killed |= {"actors": len(found), "shards": len(shards(path))}
    if found:
        os.kill(found[0], signal.SIGKILL)
        until(lambda: not alive(found[0]), "its end", 10)


def main(model: Path, pictures: Path, folder: Path) -> dict:
    ray = on_ray._ray()
    on_ray._connect(ray, None, 2)
    path, killed = folder / "f.h5", {}
    thread = threading.Thread(target=killing, args=(path, killed), daemon=True)
    thread.start()
    found = {"equal": told(model, pictures, path)}
    thread.join(10)
    found |= {"killed": killed, "again": told(model, pictures, path)}

    def failing(name: str, model=model, path: Path | None = None, **options) -> None:
        path = path or folder / f"{name}.h5"
        found[name] = told(model, pictures, path, **options)
        found[name] |= {"file": path.exists(), "parts": parts_of(path).exists()}

    failing("unreadable", on_error="fail")
    failing("block", spec=replace(SPEC, blocks=("mit",)))
    failing("model", model=folder / "nowhere")
    return found


def stopped(model: Path, pictures: Path, folder: Path) -> dict:
    """SIGTERM to the driver, as the command line hears it."""
    path = folder / "stopped.h5"

    def stop() -> None:
        until(lambda: shards(path), "the first shard")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    try:
        extract(model, pictures, path, engine="ray", processes=2)
    except KeyboardInterrupt:
        return {"stopped": True, "kept": len(shards(path)), "file": path.exists()}
    return {"stopped": False}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)  # as the command line does, before Ray starts
    folders = [Path(argument) for argument in sys.argv[1:]]
    print(json.dumps(main(*folders)), flush=True)
    print(json.dumps(stopped(*folders)), flush=True)
