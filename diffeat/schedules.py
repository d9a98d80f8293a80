"""Noise schedules: what a "t" means to a model, and what its output says about the picture.

Every schedule is reduced to x_t = alpha·x0 + sigma·eps, so that models can be compared:
log-SNR = 2·ln(alpha / sigma). Alpha and sigma are kept in fp64, from diffusers' fp32 products of
alphas, whatever the model's precision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffeat.errors import ModelError, SpecError
from diffeat.noise import Level, NoiseLevel, format_t, parse_level, snr_of

BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
         "rescale_betas_zero_snr")  # fmt: skip


BETWEEN = (
    "; how much noise belongs between two steps is not defined: a fraction goes with noise='none' "
    "(--noise none), where t is only what the network is told"
)


@dataclass(frozen=True)
class Schedule(ABC):
    """The noise schedule that a model was trained with; one subclass per kind.

    Attributes:
        steps: T, the number of native timesteps (1 where the network is told a share).
        prediction: what the network's output is: "epsilon", "v_prediction", "sample", "flow"
            (the velocity eps - x0) or "edm" (Karras et al.'s F).
    """

    steps: int
    prediction: str

    @staticmethod
    def from_config(config: dict[str, Any]) -> Schedule:
        """Convert the configuration of a diffusers scheduler.

        Args:
            config: contents of scheduler_config.json.

        Raises:
            ModelError: the scheduler has no betas and is neither a flow nor an EDM scheduler.
        """
        name = str(config.get("_class_name", ""))
        if name.startswith("EDM"):
            return SigmaSchedule.from_config(config)
        if name.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction":
            steps = int(config.get("num_train_timesteps", 1000))
            return FlowSchedule(steps, "flow", bool(config.get("invert_sigmas", False)))
        return DiscreteSchedule.from_config(config)

    # --- what a kind of schedule says -------------------------------------------------------

    @abstractmethod
    def at(self, t: float) -> NoiseLevel:
        """The level at native t; SpecError if t lies outside the schedule, or between steps."""

    def between(self, t: float) -> NoiseLevel:
        """The level at any native t, also between steps, for clean input: what is recorded."""
        return self.at(t)

    @abstractmethod
    def of_snr(self, asked: str, snr: float) -> NoiseLevel:
        """The level whose alpha²/sigma² is nearest to `snr`; `asked` is for messages."""

    @abstractmethod
    def grid(self, steps: int) -> tuple[NoiseLevel, ...]:
        """The levels that a trajectory of `steps` steps visits, from clean to noisy."""

    @abstractmethod
    def predict_x0_eps(self, x, output, t, alpha, sigma) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean picture and the noise that the network's output stands for.

        Args:
            x: (n, C, h, w) what was given to the network, before any scaling.
            output: (n, C, h, w) the network's output.
            t, alpha, sigma: (n, 1, 1, 1) of the level.

        Returns:
            (x0, eps), each (n, C, h, w), with x = alpha·x0 + sigma·eps.
        """

    def network_t(self, t: torch.Tensor, whole: bool = True) -> torch.Tensor:
        """What the network is told for native t, (n,) → (n,).

        Args:
            t: fp64.
            whole: whether all t are whole numbers, which networks with steps are told as such.
        """
        return t.float()

    def scaled(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What the network is given for x_t, (n, C, h, w); sigma is (n, 1, 1, 1)."""
        return x

    def start(self, eps: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        """What painting starts from at its first level, for standard Gaussian noise."""
        return level.sigma * eps

    def spell(self, level: NoiseLevel) -> int | float:
        """A plain number that resolves to `level` again."""
        return int(level.t) if level.t.is_integer() else level.t

    # --- what all share ---------------------------------------------------------------------

    def resolve(self, level: Level, clean: bool = False) -> NoiseLevel:
        """Find the native level that a user means.

        Args:
            level: native t (int); flow time in [0, 1] (float, flow models only);
                "sigma=0.3", the noise-to-signal ratio sigma/alpha of Karras et al. 2022;
                "snr=10", the signal-to-noise ratio alpha²/sigma². Ratios are taken to the
                nearest native t in log-SNR.
            clean: nothing is noised, so that t is no more than what the network is told; it may
                then lie between the steps of a schedule, as a learned t does.

        Raises:
            SpecError: not of that form, or outside the schedule.
        """
        if isinstance(level, str):
            kind, value = parse_level(level)
            if kind is None:
                return self.resolve(value, clean)
            return self.of_snr(level, snr_of(kind, value))
        numbers = (int, float, np.integer, np.floating)
        if isinstance(level, bool) or not isinstance(level, numbers) or not math.isfinite(level):
            raise SpecError(f"t={level!r} is not a number; expected a native timestep such as 20")
        return self._of_number(level, clean)

    def _of_number(self, number: float, clean: bool) -> NoiseLevel:
        return self.between(number) if clean else self.at(number)

    def resolve_all(
        self,
        levels: Iterable[Level],
        among: tuple[NoiseLevel, ...] | None = None,
        clean: bool = False,
    ) -> tuple[NoiseLevel, ...]:
        """Resolve several levels, in the order given.

        Args:
            levels: what the user wrote.
            among: the levels of a trajectory; a ratio then means the nearest of them.
            clean: as for `resolve`.

        Raises:
            SpecError: two mean the same t, one is not among those given, or there is none.
        """
        found: dict[float, tuple[Level, NoiseLevel]] = {}
        for asked in levels:
            level = self.resolve(asked, clean) if among is None else self._among(asked, among)
            if level.t in found:
                raise SpecError(
                    f"t={format_t(level.t)} is given twice (as {found[level.t][0]!r} and "
                    f"{asked!r}); give each noise level once"
                )
            found[level.t] = (asked, level)
        if not found:
            raise SpecError("no noise level given; expected at least one t")
        return tuple(level for _, level in found.values())

    def _among(self, asked: Level, grid: tuple[NoiseLevel, ...]) -> NoiseLevel:
        """The level of a grid that is meant; a ratio means the nearest in log-SNR."""
        kind, value = parse_level(asked) if isinstance(asked, str) else (None, asked)
        if kind is not None:
            self.resolve(asked)  # refuses what lies outside the schedule
            wanted = math.log(snr_of(kind, value))
            return min(grid, key=lambda level: abs(level.log_snr - wanted))
        if value == grid[0].t:  # the clean picture has no t elsewhere
            return grid[0]
        t = self.resolve(value).t
        near = sorted(grid, key=lambda level: abs(level.t - t))[:2]
        if abs(near[0].t - t) <= 1e-9 * max(1, self.steps):
            return near[0]
        raise SpecError(
            f"t={asked} is not on the trajectory of {len(grid)} levels; expected one of its "
            f"levels, such as {' or '.join(format_t(level.t) for level in near)}, or another "
            "number of steps"
        )


@dataclass(frozen=True)
class DiscreteSchedule(Schedule):
    """T steps with fixed betas, variance preserving. Ho et al. 2020, eq. 4.

    Attributes:
        alphas: (T,) factors of the clean picture, by native t.
        sigmas: (T,) factors of the noise.
    """

    alphas: np.ndarray
    sigmas: np.ndarray

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DiscreteSchedule:
        from diffusers import DDPMScheduler

        name = str(config.get("_class_name", "")) or "?"
        if "beta_schedule" not in config and config.get("trained_betas") is None:
            raise ModelError(
                f"scheduler {name} has no beta schedule; expected a DDPM-like scheduler "
                "or a FlowMatch scheduler in scheduler/scheduler_config.json"
            )
        # every DDPM-like scheduler of diffusers derives its betas from the same few fields
        try:
            scheduler = DDPMScheduler(**{key: config[key] for key in BETAS if key in config})
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ModelError(
                f"scheduler {name}: {error}; expected the betas of a DDPM-like scheduler"
            ) from error
        abar = scheduler.alphas_cumprod.double().numpy()
        steps = int(config.get("num_train_timesteps", 1000))
        if len(abar) != steps:
            raise ModelError(f"scheduler {name} has {len(abar)} betas; expected {steps}")
        prediction = str(config.get("prediction_type", "epsilon"))
        return cls(steps, prediction, np.sqrt(abar), np.sqrt(1 - abar))

    def at(self, t):
        if t != int(t) or not 0 <= t < self.steps:
            raise SpecError(
                f"t={format_t(t)} is out of range; expected a whole number in 0 … {self.steps - 1} "
                "(0 is the lowest noise), or sigma=… or snr=…" + (BETWEEN if t != int(t) else "")
            )
        index = int(t)
        return NoiseLevel(float(index), float(self.alphas[index]), float(self.sigmas[index]))

    def between(self, t):
        """alpha² is interpolated linearly between the two steps."""
        if t == int(t) or not 0 < t < self.steps - 1:
            return self.at(t)
        low, share = int(t), t - int(t)
        abar = (1 - share) * self.alphas[low] ** 2 + share * self.alphas[low + 1] ** 2
        return NoiseLevel(float(t), float(np.sqrt(abar)), float(np.sqrt(1 - abar)))

    def of_snr(self, asked, snr):
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

    def grid(self, steps):
        """t = -1 (the clean picture), then 0, T/steps, 2·T/steps, … Song et al. 2021, DDIM."""
        if not 1 <= steps <= self.steps:
            raise SpecError(f"steps={steps}; expected 1 … {self.steps}")
        stride = self.steps // steps
        return (NoiseLevel(-1.0, 1.0, 0.0), *(self.at(k * stride) for k in range(steps)))

    def predict_x0_eps(self, x, output, t, alpha, sigma):
        """eps, v = alpha·eps - sigma·x0 (Salimans & Ho 2022), or x0 itself."""
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha, output
        if self.prediction == "v_prediction":
            return alpha * x - sigma * output, sigma * x + alpha * output
        if self.prediction == "sample":
            # without noise the step away from the picture has no direction
            eps = (x - alpha * output) / sigma.clamp(min=1e-12)
            return output, torch.where(sigma > 0, eps, torch.zeros_like(eps))
        raise ModelError(
            f"prediction type {self.prediction!r} is unknown; expected epsilon, v_prediction or "
            "sample"
        )

    def start(self, eps, level):
        """The noise itself: noisy pictures have unit variance at every level."""
        return eps

    def network_t(self, t, whole=True):
        return t.long() if whole else t.float()


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """A straight line from picture to noise: x_s = (1 - s)·x0 + s·eps, native t = steps·s.

    Attributes:
        reverse: the network counts from noise to picture: it is told 1 - s, and its velocity
            points to the picture.

    Source: Lipman et al. 2023; Esser et al. 2024 (SD 3); Ma et al. 2024 (SiT, reversed).
    """

    reverse: bool = False

    def at(self, t):
        if not 0 <= t <= self.steps:
            raise SpecError(
                f"t={format_t(t)} is out of range; expected 0 … {self.steps}, or a flow time "
                "0.0 … 1.0"
            )
        s = float(t) / self.steps
        return NoiseLevel(float(t), 1 - s, s)

    def _of_number(self, number, clean):
        if isinstance(number, (float, np.floating)) and 0 <= number <= 1:
            return self.at(round(float(number) * self.steps, 9))
        return self.at(number)

    def of_snr(self, asked, snr):
        return self.at(round(self.steps / (1 + math.sqrt(snr)), 6))  # snr = ((1-s)/s)²

    def spell(self, level):
        return int(level.t) if level.t.is_integer() else level.t / self.steps

    def grid(self, steps):
        """s = 0, 1/steps, …, 1."""
        if steps < 1:
            raise SpecError(f"steps={steps}; expected at least 1")
        return tuple(self.at(round(self.steps * k / steps, 9)) for k in range(steps + 1))

    def predict_x0_eps(self, x, output, t, alpha, sigma):
        """The velocity is eps - x0."""
        velocity = -output if self.reverse else output
        return x - sigma * velocity, x + alpha * velocity

    def network_t(self, t, whole=True):
        return (self.steps - t if self.reverse else t).float()


@dataclass(frozen=True)
class SigmaSchedule(Schedule):
    """Noise added without shrinking the picture: x = x0 + sigma·eps; native t is sigma.

    The network F is preconditioned: D(x) = c_skip·x + c_out·F(c_in·x, ln(sigma)/4).

    Attributes:
        sigma_min, sigma_max: ends of the schedule.
        sigma_data: standard deviation of the data.
        negative: whether F's sign is turned, as in models of diffusers that predict v.

    Source: Karras et al. 2022, table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    negative: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SigmaSchedule:
        names = ("sigma_min", "sigma_max", "sigma_data")
        given = {name: float(config[name]) for name in names if name in config}
        kind = str(config.get("prediction_type", "epsilon"))
        if kind not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"an EDM scheduler with prediction type {kind!r}; expected epsilon or v_prediction"
            )
        return cls(1, "edm", **given, negative=kind == "v_prediction")

    def at(self, t):
        if not self.sigma_min * 0.999 <= t <= self.sigma_max * 1.001:
            raise SpecError(
                f"t={format_t(t)} is out of range; this model counts noise by sigma, from "
                f"{self.sigma_min:g} to {self.sigma_max:g}"
            )
        return NoiseLevel(float(t), 1.0, float(t))

    def of_snr(self, asked, snr):
        return self.at(float(f"{1 / math.sqrt(snr):.9g}"))

    def grid(self, steps):
        """Karras et al. 2022, eq. 5, with rho = 7, from sigma_min to sigma_max."""
        if steps < 2:
            raise SpecError(f"steps={steps}; expected at least 2")
        low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
        return tuple(
            self.at(float(f"{(low + k / (steps - 1) * (high - low)) ** 7:.9g}"))
            for k in range(steps)
        )

    def predict_x0_eps(self, x, output, t, alpha, sigma):
        total = sigma**2 + self.sigma_data**2
        output = -output if self.negative else output
        x0 = self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * output
        return x0, (x - x0) / sigma

    def network_t(self, t, whole=True):
        return t.log().float() / 4

    def scaled(self, x, sigma):
        return x / (sigma**2 + self.sigma_data**2).sqrt()
