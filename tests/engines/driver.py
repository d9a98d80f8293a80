"""`diffeat …` in a process that has imported everything already, and so have its workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import util
from pathlib import Path


def work(arguments: tuple, out: Path, err: Path, slow: bool) -> None:
    """The command in a session of its own, as a terminal would start it.

    Args:
        arguments: of `diffeat`.
        out, err: files for what it says.
        slow: workers take 0.3 s to end, as processes with much memory do.
    """
    os.setsid()
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from diffeat.cli import main
    from diffeat.engines import processes

    # workers are spawned, and so begin without the command's handler
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    fork = multiprocessing.get_context("fork")
    processes.multiprocessing.get_context = lambda kind: fork
    if slow:
        util.register_after_fork(work, lambda _: util.Finalize(None, _rest, exitpriority=1))
    sys.argv = ["diffeat", *map(str, arguments)]
    main()


def _rest() -> None:
    time.sleep(0.3)
