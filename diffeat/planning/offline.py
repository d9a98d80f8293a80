"""Nothing is fetched while something is only looked at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCHES = ("huggingface_hub.constants", "datasets.config")
"""Modules that have read the variable, and hold what it said."""
NAME = "HF_HUB_OFFLINE"


@contextmanager
def offline() -> Iterator[None]:
    """Hugging Face's clients use what is on this machine, and ask no server."""
    before = os.environ.get(NAME)
    switched = []
    os.environ[NAME] = "1"
    for name in SWITCHES:
        module = sys.modules.get(name)
        if hasattr(module, NAME):
            switched.append((module, getattr(module, NAME)))
            setattr(module, NAME, True)
    try:
        yield
    finally:
        for module, value in switched:
            setattr(module, NAME, value)
        if before is None:
            os.environ.pop(NAME, None)
        else:
            os.environ[NAME] = before
