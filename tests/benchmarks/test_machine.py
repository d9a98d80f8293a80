"""What a result says about the machine and the code that made it."""

from __future__ import annotations

import numpy
import torch

import diffeat
from benchmarks.machine import PACKAGES, environment
from diffeat.progress import say


def test_progress_is_told_apart_from_results(capsys):
    say("half of it")
    assert capsys.readouterr() == ("", "half of it\n")


def test_versions_are_of_the_code_that_runs():
    """Not those that an editable installation noted when it was made."""
    packages = environment()["packages"]
    assert set(packages) == {"diffeat", *PACKAGES}
    assert packages["diffeat"] == diffeat.__version__
    assert packages["numpy"] == numpy.__version__
    assert torch.__version__.startswith(packages["torch"])
