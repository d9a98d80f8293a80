"""All random states of a training in one place: numpy's and torch's, seeded, kept, restored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch


class Randomness:
    """What a training draws from: numpy for order and augmentation, torch for weights and dropout.

        with randomness:        # torch's generators are seeded inside, and outside as before
            module = build()
            train(…)

    Args:
        seed: of `numpy`, one number or several.
        torch_seed: of torch's generators on the CPU and `device`.
        device: where the training runs.

    Attributes:
        numpy: a generator of its own.
    """

    def __init__(
        self, seed: int | Sequence[int], torch_seed: int, device: torch.device | str = "cpu"
    ):
        self.numpy = np.random.default_rng(seed)
        self.torch_seed, self.device = int(torch_seed), torch.device(device)
        self._fork: AbstractContextManager | None = None

    def __enter__(self) -> Randomness:
        devices = [self.device] if self.device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices=devices)
        self._fork.__enter__()
        torch.manual_seed(self.torch_seed)
        return self

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Where the generators stand: numpy's as values for JSON, torch's as bytes (uint8)."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["device"] = torch.cuda.get_rng_state(self.device)
        return self.numpy.bit_generator.state, states

    def restore(self, state: dict[str, Any], states: dict[str, torch.Tensor]) -> None:
        """Go on from there; on another kind of device its own generator stays as it is."""
        self.numpy.bit_generator.state = state
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "device" in states:
            torch.cuda.set_rng_state(states["device"], self.device)
