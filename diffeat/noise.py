"""Noise levels and noise: what a "t" is, and which Gaussian belongs to which picture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffeat.errors import SpecError, brief
from diffeat.hashing import digest

NOISES = ("per-image", "per-content", "shared", "uniform", "none", "inversion", "generation")
TRAJECTORIES = ("inversion", "generation")
"""Policies that walk through the noise levels one after the other."""
ASKED = "asked"
"""Attribute of stored features: what was written for their t, where it was not native t."""
LEARNED = "learned"
"""What a user writes for the t that a denoiser's weights were trained for."""
Level = int | float | str
"""What a user may write for a t: 261, 0.26 (flow time), "sigma=0.3", "snr=10"."""


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level of one model.

    Attributes:
        t: native timestep, as the model counts (0-based; steps·s for flow models; sigma for
            EDM).
        alpha: factor of the clean picture.
        sigma: factor of the noise.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """2·ln(alpha / sigma); inf without noise, -inf without signal."""
        if self.sigma == 0:
            return math.inf
        return 2 * math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def label(self) -> str:
        """Name of the data set in a feature file: "t20", or "t260.5"."""
        return "t" + format_t(self.t)


class NoLevel(int):
    """The t of what has no noise levels: 0 in keys, names and files, blank in what people read."""

    def is_integer(self) -> bool:  # as int itself has it since Python 3.12
        return True


NO_T = NoLevel(0)
AGGREGATE = "aggregate"
"""Family of files whose maps are made of other maps (`diffeat.aggregation`)."""
CLEAN_FAMILIES = ("vision", AGGREGATE)
"""Families of what has no noise level of its own, so that the only t is `NO_T`."""


def plain_t(t: float) -> int | float:
    """A native timestep as an int where it is one, for JSON, attributes and names."""
    if isinstance(t, NoLevel):
        return t
    return int(t) if float(t).is_integer() else float(t)


def format_t(t: float) -> str:
    """A native timestep without a needless fraction: 20.0 → "20"."""
    return repr(plain_t(t))


def shown_t(t: float, before: str = "") -> str:
    """A native timestep as people read it, with words before it; "" where there is none."""
    return "" if isinstance(t, NoLevel) else before + format_t(t)


def parse_level(text: str) -> tuple[str | None, int | float]:
    """("sigma" or "snr" or None, number) of what a user wrote; SpecError for nonsense."""
    match = re.fullmatch(r"\s*(?:(sigma|snr)\s*=\s*)?([-+0-9.eE]+)\s*", text)
    try:
        kind, number = match.groups() if match else (None, "")
        whole = kind is None and re.fullmatch(r"-?\d+", number)
        return kind, int(number) if whole else float(number)
    except ValueError:
        raise SpecError(
            f"t={brief(text)} is not understood; expected a native timestep such as 20, "
            "a flow time such as 0.25, sigma=0.3 or snr=10"
        ) from None


def snr_of(kind: str, value: float) -> float:
    """alpha²/sigma² of a ratio; SpecError unless it is positive and finite."""
    snr = value if kind == "snr" else 1 / value**2 if 1e-100 < value < 1e100 else math.nan
    if not (math.isfinite(snr) and snr > 0):
        raise SpecError(f"t='{kind}={value:g}': expected a positive, finite number")
    return snr


def asked_as(written: Level, t: float) -> str | None:
    """What a user wrote for a level, in its plain form; None where it is native t itself."""
    kind, value = parse_level(written) if isinstance(written, str) else (None, written)
    if kind is None:
        return None if value == t else format_t(value)
    return f"{kind}={format_t(value)}"


def picture_noise(
    seed: int, picture: str, member: int, shape: Sequence[int], uniform: bool = False
) -> np.ndarray:
    """Standard Gaussian noise that depends on (seed, picture, member) and nothing else.

    Philox is counter-based: its key is the hash of the three, so no state is shared between
    pictures, and batch, order, shard and device play no part.

    Args:
        seed: the extraction's seed.
        picture: id of the picture, or the digest of what it holds in its place; "" for noise that
            all pictures share.
        member: index in the ensemble, from 0.
        shape: shape of one latent, (C, H, W).
        uniform: uniform on [0, 1) instead, as Hedlin et al. (2023) add it.

    Returns:
        float32 array of `shape`.
    """
    key = np.frombuffer(digest("noise", int(seed), picture, int(member)), dtype="<u8")
    generator = np.random.Generator(np.random.Philox(key=key))
    draw = generator.random if uniform else generator.standard_normal
    return draw(shape, dtype=np.float32)
