"""Features in eight bits: whole numbers from -127 to 127 and a scale per group of channels.

    scale = max |x| / 127 over a group        q = round(x / scale)        x' = q · scale

so |x - x'| ≤ scale / 2. A group is one channel of a map, one token of a text, or 32 neighbours
of a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffeat.errors import NumericsError

LEVELS = 127
VECTOR_GROUP = 32


def group_size(shape: tuple[int, ...]) -> int:
    """How many entries of the first axis of a row share a scale."""
    return 1 if len(shape) > 1 else VECTOR_GROUP


def groups(shape: tuple[int, ...], group: int) -> int:
    """Number of scales of a row, K = ⌈C / group⌉."""
    return -(-shape[0] // group)


def scale_name(name: str) -> str:
    """Where the scales of a data set lie: features/mid/t20 → scales/mid/t20."""
    return "scales/" + name.removeprefix("features/")


def quantize(values: np.ndarray, group: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Eight-bit numbers and scales of features.

    Args:
        values: (N, C, …) floats.
        group: channels that share a scale.
        name: what the error calls them.

    Returns:
        (N, C, …) int8 and (N, K) float32.

    Raises:
        NumericsError: inf or nan.
    """
    count, channels = values.shape[:2]
    kept = groups(values.shape[1:], group)
    quantized = np.empty(values.shape, np.int8)
    scales = np.empty((count, kept), np.float32)
    starts = np.arange(0, channels, group)
    for row in range(count):  # row by row, so that the float64 copies stay small
        x = values[row].reshape(channels, -1).astype(np.float64)
        largest = np.maximum.reduceat(np.abs(x).max(axis=1), starts)
        if not np.isfinite(largest).all():
            raise NumericsError(f"{name}: inf or nan cannot be stored as int8; use float32")
        scale = (largest / LEVELS).astype(np.float32)
        # rounding tiny scales to what float32 has must not push q beyond 127
        scale = np.where(scale * (LEVELS + 0.5) < largest, np.nextafter(scale, np.inf), scale)
        step = np.repeat(scale.astype(np.float64), group)[:channels, None]
        q = np.divide(x, step, out=np.zeros_like(x), where=step > 0)
        quantized[row] = np.rint(q).astype(np.int8).reshape(values.shape[1:])
        scales[row] = scale
    return quantized, scales


def dequantize(quantized: np.ndarray, scales: np.ndarray, group: int) -> np.ndarray:
    """x' = q · scale.

    Args:
        quantized: (N, C, …) int8.
        scales: (N, K) float32.
        group: channels that share a scale.

    Returns:
        (N, C, …) float32.
    """
    steps = np.repeat(scales, group, axis=1)[:, : quantized.shape[1]]
    return quantized * steps.reshape(*steps.shape, *[1] * (quantized.ndim - 2))


def quantization_attrs(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """The attributes that say how a data set was quantised."""
    return {
        "quantization": "absmax",
        "group": group_size(shape),
        "scale": scale_name(name),
    }
