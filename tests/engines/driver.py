"""`diffeat …` in a process that has imported everything already, and so have its workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path


def work(arguments: tuple, out: Path, err: Path) -> None:
    """The command in a session of its own, as a terminal would start it."""
    os.setsid()
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from diffeat.cli import main
    from diffeat.engines import processes

    fork = multiprocessing.get_context("fork")
    processes.multiprocessing.get_context = lambda kind: fork
    multiprocessing.current_process()._config["daemon"] = False
    sys.argv = ["diffeat", *map(str, arguments)]
    main()
