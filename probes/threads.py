"""One thread for products of matrices that are too small to be cut up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 1 << 25
"""Multiplications of one product. Below, on two cores that others used too, a fit took 1.1 to 1.4
times as long with two threads as with one, and up to 16 times where waiting threads spin."""


@contextmanager
def sized(multiplications: int, device: torch.device) -> Iterator[None]:
    """One thread meanwhile where the products are small; torch's number where they are not.

    A number in DIFFEAT_THREADS (`diffeat … --threads N`) is kept.

    Args:
        multiplications: of one product, such as N·D·K.
        device: where it is computed; elsewhere than on CPUs nothing changes.
    """
    before = torch.get_num_threads()
    chosen = os.environ.get("DIFFEAT_THREADS", "auto") not in ("", "auto")
    if chosen or before == 1 or device.type != "cpu" or multiplications >= SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
