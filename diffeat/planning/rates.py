"""How fast: what this machine has shown, and what vendors print of their GPUs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from diffeat.backbones import Backbone
from diffeat.errors import DeviceError, SpecError, nearest
from diffeat.extraction.batch_size import Trial
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.effort import evaluation_count, run_size
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.plan import Plan
from diffeat.extraction.remembered import recall_entry, remember_entry

FILE = "rates.json"
TRIAL_SECONDS = 2.0
"""About so long measuring takes, after the first forward."""
FRACTION = 0.3
"""Of a GPU's peak that is assumed where the user gives none; small models reach less."""

GPUS: dict[str, dict[str, float]] = {
    "v100": {"float16": 125, "float32": 15.7},  # V100 SXM2 data sheet
    "t4": {"float16": 65, "float32": 8.1},  # T4 data sheet
    "a10": {"bfloat16": 125, "float16": 125, "float32": 31.2},  # A10 data sheet
    "a100": {"bfloat16": 312, "float16": 312, "float32": 19.5},  # A100 data sheet
    "l4": {"bfloat16": 121, "float16": 121, "float32": 30.3},  # L4 data sheet, half of sparse
    "l40s": {"bfloat16": 362, "float16": 362, "float32": 91.6},  # L40S data sheet
    "h100": {"bfloat16": 989, "float16": 989, "float32": 67},  # H100 SXM data sheet, half of sparse
    "h100-pcie": {"bfloat16": 756, "float16": 756, "float32": 51},  # H100 PCIe data sheet
    "h200": {"bfloat16": 989, "float16": 989, "float32": 67},  # H200 SXM data sheet
    "rtx3090": {"bfloat16": 71, "float16": 71, "float32": 35.6},  # GA102 white paper
    "rtx4090": {"bfloat16": 165, "float16": 165, "float32": 82.6},  # Ada white paper
    "mi300x": {"bfloat16": 1307, "float16": 1307, "float32": 163},  # MI300X data sheet
}
"""Published peaks in TFLOP/s: dense (never the figures with sparsity), half precision summed in
fp32, float32 outside of tensor cores."""


def gpu_rate(name: str, dtype: str, fraction: float) -> float:
    """FLOP/s of a share of a GPU's published peak.

    Raises:
        SpecError: no such GPU here, none of that precision, or no share.
    """
    if name not in GPUS:
        raise SpecError(
            f"gpu {name!r} is unknown{nearest(name, GPUS)}; expected one of {', '.join(GPUS)}"
        )
    if dtype not in GPUS[name]:
        raise SpecError(
            f"gpu {name} has no published peak in {dtype}; expected --model-dtype "
            f"{' or '.join(GPUS[name])}"
        )
    if not 0 < fraction <= 1:
        raise SpecError(f"fraction={fraction}; expected a share of the peak, above 0 and up to 1")
    return 1e12 * GPUS[name][dtype] * fraction


def picture_flops(effort: dict[str, Any], costs: dict[str, int]) -> float:
    """Operations of one picture.

        encodes · encode + latents · (evaluations · cut), along a trajectory
        encodes · encode + latents · ((evaluations - 1) · whole + cut)

    Args:
        effort: of `effort_of`.
        costs: operations of the VAE ("encode"), of a forward that ends after the last tensor
            ("cut"), and of one that ends with the prediction ("whole").
    """
    runs = effort["evaluations"]
    latents = effort["forwards"] / runs if runs else 0
    first = costs["whole"] if effort["walks"] else costs["cut"]
    return effort["encodes"] * costs["encode"] + latents * (
        max(0, runs - 1) * first + min(1, runs) * costs["cut"]
    )


def measure_rate(
    backbone: Backbone, plan: Plan, conditions: Conditions, costs: dict[str, int], rows: int
) -> dict[str, Any]:
    """FLOP/s of this machine, by warmed forwards of synthetic pictures at one level.

    Args:
        backbone: with its weights.
        plan: of any backbone of this architecture.
        conditions: of this backbone.
        costs: as in `picture_flops`.
        rows: most rows of a forward.

    Returns:
        rate: FLOP/s; rows: of the forward that was measured; seconds: that it took.
    """
    plain = replace(
        plan.spec, size=run_size(plan), tile=None, tile_noise="picture", tile_layout="even",
        fit="squash", flip=False, dtype="float32" if plan.spec.dtype == "int8" else plan.spec.dtype,
    )  # fmt: skip
    trial = Trial(Plan(backbone, plain, plan.text_length), conditions, Extractor)
    one = trial(1)
    if one is None:
        raise DeviceError(f"{backbone.name} does not fit into the memory of {backbone.device}")
    rows = max(1, min(rows, int(TRIAL_SECONDS / 2 / one)))
    seconds = trial(rows) if rows > 1 else one
    if seconds is None:
        rows, seconds = 1, one
    steps = evaluation_count(trial.plan)
    effort = {"evaluations": steps, "forwards": steps, "walks": bool(trial.plan.grid),
              "encodes": int(backbone.vae is not None)}  # fmt: skip
    flops = picture_flops(effort, costs) * rows
    return {"rate": flops / seconds, "rows": rows, "seconds": round(seconds, 4), "by": "trial"}


def recall_costs(key: str) -> dict[str, int] | None:
    """Operations that were counted before, or None."""
    found = recall_entry(FILE, key, _is_entry, "rates")
    return found if found is None or "cut" in found else None


def remember_costs(key: str, costs: dict[str, int]) -> None:
    remember_entry(FILE, key, costs, _is_entry, "rates", "the number of operations")


def recall_rate(key: str) -> dict[str, Any] | None:
    """The last rate of such work on this machine, or None."""
    found = recall_entry(FILE, key, _is_entry, "rates")
    return found if found is None or "rate" in found else None


def remember_rate(key: str, entry: dict[str, Any]) -> None:
    remember_entry(FILE, key, entry, _is_entry, "rates", "the rate")


def _is_entry(entry: Any) -> bool:
    """A rate above 0, or counts of operations."""
    if not isinstance(entry, dict):
        return False
    rate = entry.get("rate", 1.0)
    counts = [entry.get(name, 0) for name in ("cut", "whole", "encode")]
    counted = all(type(count) is int and count >= 0 for count in counts)
    return counted and isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0
