"""One rank, as torchrun starts it; for processes that have imported everything already."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tests.engines.common import extract


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def work(
    rank: int, port: int, out: Path, jobs: list[tuple], own_group: bool, attempt: int | None
) -> None:
    """Do jobs one after another as rank `rank` of 2; what came of them goes to `out` as JSON.

    Args:
        own_group: the program has opened torch's process group itself.
        attempt: which start this is by a torchrun that keeps the ranks' store itself.
    """
    if attempt is not None:
        os.environ |= {
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(attempt)
        }  # fmt: skip
        if attempt and rank == 0:  # so that the other meets what the last attempt left
            time.sleep(4)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if own_group:
        import torch.distributed as dist

        dist.init_process_group("gloo")
    found = [told(*arguments, **options) for arguments, options in jobs]
    out.write_text(json.dumps(found), "utf-8")


def told(*arguments: Any, **options: Any) -> dict | None:
    try:
        result = extract(*arguments, engine="auto", **options)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return result and {"status": result.status, "computed": result.computed, "where": result.where}
