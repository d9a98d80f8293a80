"""Commands in processes that have imported everything already, for the quick form."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tqdm import tqdm

import diffeat.jobs
from diffeat.cli import main

tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
diffeat.load("unet-cifar10", device="cpu")  # imports what a load imports


@lru_cache(maxsize=1)
def server() -> Any:
    """Starts processes that begin where this module was imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def work(arguments: Sequence[str], out: str, terminal: str) -> None:
    """`diffeat …` in a session of its own; its stdout is a file, its stderr a terminal."""
    os.setsid()
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["diffeat", *arguments]
    main()
