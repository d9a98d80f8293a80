"""What defines a training run, and where it ends (used by train_zoo.py)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from zoo_models import build_dit, build_unet


@dataclass(frozen=True)
class RunConfig:
    """What defines a run. A folder is only continued with the same one (budgets may grow)."""

    arch: str
    objective: str
    data: str
    size: int
    widths: tuple[int, ...]
    layers: int
    width: int
    depth: int
    heads: int
    patch: int
    batch: int
    lr: float
    warmup: int
    ema: float
    flip: bool
    bf16: bool
    seed: int

    def build(self, classes: int) -> torch.nn.Module:
        torch.manual_seed(self.seed)
        if self.arch == "unet":
            return build_unet(self.size, self.widths, self.layers, classes)
        return build_dit(self.size, self.width, self.depth, self.heads, self.patch, classes)


@dataclass(frozen=True)
class Budget:
    """Where training ends: after `steps`, or after `minutes` of training, whichever is first."""

    steps: int | None
    minutes: float | None

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the budget that is used, in [0, 1]; it drives the cosine schedule."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


def check_config(folder: Path, config: RunConfig) -> None:
    """Store the configuration in a new folder; refuse to continue with another one."""
    path, wanted = folder / "run.json", json.loads(json.dumps(asdict(config)))
    if path.exists():
        found = json.loads(path.read_text())
        differ = [f"{k}: {found.get(k)} → {wanted[k]}" for k in wanted if found.get(k) != wanted[k]]
        if differ:
            raise click.UsageError(
                f"{folder} holds another run ({'; '.join(differ)}); choose another folder"
            )
    else:
        path.write_text(json.dumps(wanted, indent=1) + "\n")
