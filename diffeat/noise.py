"""Noise levels and noise: what a "t" means, and which Gaussian belongs to which picture.

Every schedule is reduced to x_t = alpha·x0 + sigma·eps, so that models can be compared:
log-SNR = 2·ln(alpha / sigma). Alpha and sigma are kept in fp64, from diffusers' fp32 products of
alphas, whatever the model's precision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffeat.errors import ModelError, SpecError
from diffeat.hashing import digest

NOISES = ("per-image", "shared", "none")
Level = int | float | str
"""What a user may write for a t: 261, 0.26 (flow time), "sigma=0.3", "snr=10"."""


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level of one model.

    Attributes:
        t: native timestep, as the network is told (0-based; 1000·s for flow models).
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


def plain_t(t: float) -> int | float:
    """A native timestep as an int where it is one, for JSON, attributes and names."""
    return int(t) if float(t).is_integer() else float(t)


def format_t(t: float) -> str:
    """A native timestep without a needless fraction: 20.0 → "20"."""
    return repr(plain_t(t))


@dataclass(frozen=True)
class Schedule:
    """The noise schedule that a model was trained with.

    Attributes:
        alphas: (T,) factors of the clean picture, by native t, for discrete schedules.
        sigmas: (T,) factors of the noise.
        steps: T, the number of native timesteps.
        prediction: "epsilon", "v_prediction", "sample" or "flow".
        flow: continuous flow time: alpha = 1 - s, sigma = s, native t = steps·s.
    """

    alphas: np.ndarray
    sigmas: np.ndarray
    steps: int
    prediction: str
    flow: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Convert the configuration of a diffusers scheduler.

        Args:
            config: contents of scheduler_config.json.

        Raises:
            ModelError: the scheduler has no betas and is no flow-matching scheduler.

        Source: Ho et al. 2020, eq. 4 (variance preserving); Lipman et al. 2023 (flow).
        """
        steps = int(config.get("num_train_timesteps", 1000))
        name = str(config.get("_class_name", ""))
        if name.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction":
            empty = np.empty(0)
            return cls(empty, empty, steps, "flow", flow=True)
        from diffusers import DDPMScheduler

        if "beta_schedule" not in config and config.get("trained_betas") is None:
            raise ModelError(
                f"scheduler {name or '?'} has no beta schedule; expected a DDPM-like scheduler "
                "or a FlowMatch scheduler in scheduler/scheduler_config.json"
            )
        # every DDPM-like scheduler of diffusers derives its betas from the same few fields
        keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
                "rescale_betas_zero_snr")  # fmt: skip
        try:
            scheduler = DDPMScheduler(**{key: config[key] for key in keys if key in config})
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ModelError(
                f"scheduler {name or '?'}: {error}; expected the betas of a DDPM-like scheduler"
            ) from error
        abar = scheduler.alphas_cumprod.double().numpy()
        if len(abar) != steps:
            raise ModelError(f"scheduler {name or '?'} has {len(abar)} betas; expected {steps}")
        prediction = str(config.get("prediction_type", "epsilon"))
        return cls(np.sqrt(abar), np.sqrt(1 - abar), steps, prediction)

    def at(self, t: float) -> NoiseLevel:
        """The level at native t.

        Raises:
            SpecError: t lies outside the schedule, or between its steps.
        """
        if self.flow:
            if not 0 <= t <= self.steps:
                raise SpecError(
                    f"t={format_t(t)} is out of range; expected 0 … {self.steps}, or a flow time "
                    "0.0 … 1.0"
                )
            s = float(t) / self.steps
            return NoiseLevel(float(t), 1 - s, s)
        if t != int(t) or not 0 <= t < self.steps:
            raise SpecError(
                f"t={format_t(t)} is out of range; expected a whole number in 0 … {self.steps - 1} "
                "(0 is the lowest noise), or sigma=… or snr=…"
            )
        index = int(t)
        return NoiseLevel(float(index), float(self.alphas[index]), float(self.sigmas[index]))

    def resolve(self, level: Level) -> NoiseLevel:
        """Find the native level that a user means.

        Args:
            level: native t (int); flow time in [0, 1] (float, flow models only);
                "sigma=0.3", the noise-to-signal ratio sigma/alpha of Karras et al. 2022;
                "snr=10", the signal-to-noise ratio alpha²/sigma². Ratios are taken to the
                nearest native t in log-SNR.

        Raises:
            SpecError: not of that form, or outside the schedule.
        """
        if isinstance(level, str):
            match = re.fullmatch(r"\s*(?:(sigma|snr)\s*=\s*)?([-+0-9.eE]+)\s*", level)
            try:
                kind, number = match.groups() if match else (None, "")
                value = float(number) if kind or not re.fullmatch(r"\d+", number) else int(number)
            except ValueError:
                raise SpecError(
                    f"t={level!r} is not understood; expected a native timestep such as 20, "
                    "a flow time such as 0.25, sigma=0.3 or snr=10"
                ) from None
            if kind is None:
                return self.resolve(value)
            return self._nearest(level, value if kind == "snr" else self._snr(value))
        numbers = (int, float, np.integer, np.floating)
        if isinstance(level, bool) or not isinstance(level, numbers) or not math.isfinite(level):
            raise SpecError(f"t={level!r} is not a number; expected a native timestep such as 20")
        if self.flow and isinstance(level, (float, np.floating)) and 0 <= level <= 1:
            return self.at(round(float(level) * self.steps, 9))
        return self.at(level)

    def spell(self, level: NoiseLevel) -> int | float:
        """A plain number that resolves to `level` again: native t, or else the flow time."""
        return int(level.t) if level.t.is_integer() else level.t / self.steps

    @staticmethod
    def _snr(ratio: float) -> float:
        return 1 / ratio**2 if 1e-100 < ratio < 1e100 else math.nan

    def _nearest(self, asked: str, snr: float) -> NoiseLevel:
        if not (math.isfinite(snr) and snr > 0):
            raise SpecError(f"t={asked!r}: expected a positive, finite number")
        if self.flow:  # snr = ((1-s)/s)²
            return self.at(round(self.steps / (1 + math.sqrt(snr)), 6))
        with np.errstate(divide="ignore"):
            log_snr = 2 * (np.log(self.alphas) - np.log(self.sigmas))
        wanted, lowest, highest = math.log(snr), log_snr[-1], log_snr[0]
        # half a step beyond an end still rounds to it
        above = max((log_snr[0] - log_snr[1]) / 2, 1e-6)
        below = max((log_snr[-2] - log_snr[-1]) / 2, 1e-6)
        if not lowest - below <= wanted <= highest + above:
            raise SpecError(
                f"t={asked!r} is out of range; this model's sigma/alpha goes from "
                f"{math.exp(-highest / 2):.3g} (t=0) to {math.exp(-lowest / 2):.3g} "
                f"(t={self.steps - 1})"
            )
        return self.at(int(np.argmin(np.abs(log_snr - wanted))))

    def resolve_all(self, levels: Iterable[Level]) -> tuple[NoiseLevel, ...]:
        """Resolve several levels, in the order given; SpecError if two mean the same t."""
        found: dict[float, Level] = {}
        for level in levels:
            t = self.resolve(level).t
            if t in found:
                raise SpecError(
                    f"t={format_t(t)} is given twice (as {found[t]!r} and {level!r}); "
                    "give each noise level once"
                )
            found[t] = level
        if not found:
            raise SpecError("no noise level given; expected at least one t")
        return tuple(self.at(t) for t in found)


def picture_noise(seed: int, picture: str, member: int, shape: Sequence[int]) -> np.ndarray:
    """Standard Gaussian noise that depends on (seed, picture, member) and nothing else.

    Philox is counter-based: its key is the hash of the three, so no state is shared between
    pictures, and batch, order, shard and device play no part.

    Args:
        seed: the extraction's seed.
        picture: id of the picture; "" for noise that all pictures share.
        member: index in the ensemble, from 0.
        shape: shape of one latent, (C, H, W).

    Returns:
        float32 array of `shape`.
    """
    key = np.frombuffer(digest("noise", int(seed), picture, int(member)), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
