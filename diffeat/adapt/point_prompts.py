"""Points found again by prompts that were optimised until a word attends to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffeat.adapt.crops import CropsOfPoint, OnePicture, resized
from diffeat.adapt.forward import NoisyFeatures
from diffeat.adapt.learning import learn
from diffeat.adapt.saved_prompts import read_prompt, write_prompt
from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import STATES, Identity, PromptFile
from diffeat.images.sources import digest_of_array
from diffeat.specs import ExtractSpec
from probes.objectives import SQUARED_ERROR
from probes.pairs import Matches, as_points
from probes.randomness import Randomness

SETTINGS = (
    "blocks", "t", "token", "contexts", "steps", "learning_rate", "crop", "sigma", "options",
    "random_state",
)  # fmt: skip
"""What a file of prompts says of how they were learned."""


def _loss(output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
    return ((output - target) ** 2).mean((1, 2)).sum()


OBJECTIVE = replace(
    SQUARED_ERROR, name="attention to a point", loss=_loss, terms=lambda target: 1, gaps=False
)
"""Outputs and targets (E, H, W): squared error, mean over pixels, summed over the E prompts, which
have nothing to do with each other."""


class AttentionMaps(nn.Module):
    """Prompts (E, L, D) as weights: x_t (E, C, h, w) → (E, H, W), how much a pixel attends.

        a = mean over blocks and heads of softmax(q·kᵀ)[token], upsampled to the input

    Args:
        contexts: (E, L, D) that it starts from.
        noisy: whose blocks are attention maps of one token.
    """

    def __init__(self, contexts: torch.Tensor, noisy: NoisyFeatures):
        super().__init__()
        self.contexts, self.noisy = nn.Parameter(contexts), noisy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mean_attention(self.noisy, x, self.contexts)


def mean_attention(noisy: NoisyFeatures, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
    """(n, H, W) fp32: maps of all blocks, upsampled to the input and averaged.

    Args:
        noisy: whose blocks are attention maps of one token.
        x: (n, C, h, w) noisy latents.
        contexts: (n, L, D) text tensors.
    """
    factor = noisy.backbone.latent_factor
    size = (x.shape[2] * factor, x.shape[3] * factor)
    maps = noisy(x, {STATES: contexts.to(noisy.backbone.dtype)}).values()
    return torch.stack([resized(one.float(), size)[:, 0] for one in maps]).mean(0)


class PointPrompts:
    """For each point of a picture, text tensors under which one token attends to that point.

    The tensors take the text encoder's place. They start Gaussian and are optimised on random
    crops until the token's mean cross-attention map is a Gaussian about the point; in other
    pictures the point is where that map is highest. No key points are needed.

    Args:
        backbone: from `diffeat.load`, with cross-attention to one text, best in float32.
        blocks: cross-attention maps.
        t: noise level of the optimisation.
        token: which token attends.
        contexts: prompts of each point, E, that are optimised side by side and averaged.
        steps: of each.
        learning_rate: of Adam.
        crop: share of a side that a random crop has.
        sigma: of the target, as a share of the input's width (28 of 512 pixels).
        options: further fields of the spec: latent, noise, size, fit, resample.
        random_state: seed of what they start from, of crops and of noise.
        batch_size: rows of a forward when points are looked for.
        progress: None shows a bar on a terminal, a line a minute elsewhere.
        checkpoint: a folder with a file for each point, from which an interrupted fit goes on, to
            the same bits.

    Attributes:
        contexts_: (n, E, L, D) fp32 of n points.
        history_: n learning curves, an entry for each step.

    Source: Hedlin et al. 2023 (USCSD): SD 1.4, t = 140, 129 steps at 2.4e-3, crops of 93 %. Its
    noise is uniform, and so it is here.
    """

    def __init__(
        self,
        backbone: Backbone,
        blocks: tuple[str, ...] = ("uscsd:*",),
        t: int | float | str = 140,
        *,
        token: int = 1,
        contexts: int = 5,
        steps: int = 129,
        learning_rate: float = 2.4e-3,
        crop: float = 0.93,
        sigma: float = 28 / 512,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        batch_size: int = 8,
        progress: bool | None = None,
        checkpoint: str | Path | None = None,
    ):
        self.backbone, self.blocks, self.t, self.token = backbone, blocks, t, token
        self.contexts, self.steps, self.learning_rate = contexts, steps, learning_rate
        self.crop, self.sigma, self.options = crop, sigma, options
        self.random_state, self.batch_size = random_state, batch_size
        self.progress, self.checkpoint = progress, checkpoint

    def fit(self, picture: Any, points: Any) -> PointPrompts:
        """Optimise prompts for points of one picture.

        Args:
            picture: anything that `diffeat.extract` takes for one picture.
            points: (n, 2) x, y in pixels of the picture.

        Returns:
            self.

        Raises:
            SpecError: settings that cannot be meant, blocks that are no cross-attention maps, a
                model that reads no text, points outside of what the input shows.
            NumericsError: the loss is nan or inf.
        """
        self._check()
        noisy = self._noisy(self.t)
        one, points = OnePicture.of(noisy, picture), as_points(points)
        if len(points) == 0:
            raise SpecError("no points are given; expected at least one")
        if not (shown := one.placement.valid(points)).all():
            outside = points[~shown][0].tolist()
            raise SpecError(f"point {outside} is not in what the input shows of the picture")
        inner = one.placement.to_input(points)
        found, self.history_ = [], []
        for place, point in enumerate(inner):
            module, history = self._optimised(noisy, one, point, place)
            found.append(module.contexts.detach().float().cpu())
            self.history_.append(history)
        self.contexts_ = torch.stack(found)
        return self

    def _optimised(self, noisy, picture: OnePicture, point: np.ndarray, place: int):
        """One point: the trained module, and its learning curve."""
        seed, device = self.random_state, self.backbone.device
        shape = self.backbone.embedding_shapes[STATES]
        data = CropsOfPoint(
            noisy, picture, point, self.contexts, self.crop, self.sigma * picture.size[1]
        )
        path = None if self.checkpoint is None else Path(self.checkpoint)
        with Randomness([seed, place], _mixed(seed, place), device) as randomness:
            start = torch.randn(self.contexts, *shape).to(device)
            module = AttentionMaps(start, noisy)
            history, _ = learn(
                self, module, OBJECTIVE, data, randomness, epochs=self.steps,
                batch_size=self.contexts, checkpoint=path and path / f"point-{place}.safetensors",
                about=self._about(picture, point), name=f"point {place + 1}", unit="prompt",
            )  # fmt: skip
        return module, history

    def attention(self, picture: Any, t: int | float | str = 40, crops: int = 20) -> np.ndarray:
        """(n, H, W) float32: how much each pixel of a picture's input attends to each point.

        Maps of random crops are laid where the crops lie, and averaged over crops and prompts;
        nan where no crop lies.

        Args:
            picture: anything that `diffeat.extract` takes for one picture.
            t: noise level.
            crops: how many; with `crop=1` each is the whole picture.
        """
        return self._attention(picture, t, crops)[0]

    @torch.no_grad()
    def _attention(self, picture: Any, t, crops: int) -> tuple[np.ndarray, OnePicture]:
        self._check_learned()
        if crops < 1:
            raise SpecError(f"crops={crops}; expected at least 1")
        noisy = self._noisy(t)
        one = OnePicture.of(noisy, picture)
        rng = np.random.default_rng(self.random_state)
        rows = self.contexts_.flatten(0, 1).to(self.backbone.device)  # (n·E, L, D)
        points, each = self.contexts_.shape[:2]
        total = torch.zeros(points, *one.size, device=self.backbone.device)
        count = torch.zeros(one.size, device=self.backbone.device)
        for _ in range(crops):
            crop = one.crop(self.crop, rng)
            noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
            x = noisy.noisy_floats(one.cut(crop), noise)
            maps = torch.cat(
                [mean_attention(noisy, x.expand(len(some), -1, -1, -1), some)
                 for some in rows.split(self.batch_size)]
            )  # fmt: skip
            top, left, height, width = crop
            part = resized(maps.unflatten(0, (points, each)).mean(1)[None], (height, width))[0]
            total[:, top : top + height, left : left + width] += part
            count[top : top + height, left : left + width] += 1
        return (total / torch.where(count > 0, count, torch.nan)).cpu().numpy(), one

    def locate(self, picture: Any, t: int | float | str = 40, crops: int = 20) -> Matches:
        """Where the points are in another picture.

        The pixel that attends most; its centre is a whole number here (the original adds .5,
        since its pixels begin at whole numbers).

        Args:
            picture, t, crops: see `attention`.

        Returns:
            n points in pixels of the picture; their score is the mean attention there.
        """
        maps, one = self._attention(picture, t, crops)
        flat = np.where(np.isnan(maps), -np.inf, maps).reshape(len(maps), -1)
        place, width = flat.argmax(1), maps.shape[2]
        inner = np.stack([place % width, place // width], 1).astype(np.float64)
        points = one.placement.to_picture(inner)
        return Matches(points, flat.max(1).astype(np.float64), one.placement.valid(points))

    def save(self, path: str | Path, point: int | None = None) -> Path:
        """Write the prompts, of all points or of one.

        Of one point, with one prompt, the file also serves an extraction (`--embeddings PATH
        --tokens 1`), which gives the maps themselves.

        Args:
            path: ends in .safetensors.
            point: which; None: all.
        """
        self._check_learned()
        kept = self.contexts_ if point is None else self.contexts_[point][None]
        about = {**{name: getattr(self, name) for name in SETTINGS}, "points": len(kept)}
        said = PromptFile("points", Identity.of(self.backbone, text=False), (), about)
        return write_prompt(path, said, {STATES: kept.flatten(0, 1)})

    @classmethod
    def load(cls, path: str | Path, backbone: Backbone) -> PointPrompts:
        """Prompts that were saved, for the model that they were learned with.

        Raises:
            SpecError: no such prompts, damaged, or of another model.
        """
        said, tensors = read_prompt(path, backbone, ("points",))
        try:
            settings = {name: said.about[name] for name in SETTINGS}
            settings["blocks"] = tuple(settings["blocks"])
            found = cls(backbone, settings.pop("blocks"), settings.pop("t"), **settings)
            found.contexts_ = tensors[STATES].unflatten(0, (said.about["points"], -1))
            if (shape := tuple(found.contexts_.shape[2:])) != backbone.embedding_shapes[STATES]:
                raise TypeError(f"text tensors {shape}")
        except (KeyError, TypeError, RuntimeError) as error:
            raise SpecError(f"{path}: damaged prompts ({error}); learn them again") from error
        return found

    # --- what is optimised, and checks ------------------------------------------------------

    def _noisy(self, t) -> NoisyFeatures:
        """The forward that gives the token's maps at a noise level."""
        if set(self.backbone.embedding_shapes) != {STATES}:
            raise SpecError(
                f"{self.backbone.name} does not attend to one text; expected a model such as "
                "Stable Diffusion 1.x or 2.x"
            )
        length = self.backbone.embedding_shapes[STATES][0]
        if not 0 <= self.token < length:
            raise SpecError(f"token={self.token}; expected 0 … {length - 1}")
        fields = {"noise": "uniform", "tokens": (self.token,), **(self.options or {})}
        spec = ExtractSpec((t,), self.blocks, seed=self.random_state, **fields)
        noisy = NoisyFeatures(self.backbone, spec)
        for block in noisy.plan.blocks:
            if not block.is_attention or block.attends_to_image:
                raise SpecError(
                    f"block {block.name!r} is no cross-attention map; expected such as "
                    "up.1.attn.0:cross.map, or uscsd:*"
                )
        return noisy

    def _check(self) -> None:
        for name in ("contexts", "steps", "batch_size"):
            if not getattr(self, name) >= 1:
                raise SpecError(f"{name}={getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "sigma"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name}={getattr(self, name)}; expected a number above 0")
        if not 0 < self.crop <= 1:
            raise SpecError(f"crop={self.crop}; expected a share of a side, above 0 and at most 1")
        known = {"latent", "noise", "size", "fit", "resample"}
        if unknown := set(self.options or {}) - known:
            raise SpecError(f"options {sorted(unknown)}; expected some of {sorted(known)}")

    def _check_learned(self) -> None:
        if not hasattr(self, "contexts_"):
            raise SpecError("these prompts are not learned yet; call fit first")

    def _about(self, picture: OnePicture, point: np.ndarray) -> dict[str, Any]:
        """What a checkpoint has to agree with: model, settings, picture, point."""
        if self.checkpoint is None:
            return {}
        settings = {name: getattr(self, name) for name in SETTINGS}
        return {
            "model": self.backbone.fingerprint, "settings": settings, "point": point.tolist(),
            "picture": digest_of_array(picture.pixels.cpu().numpy()).hex(),
        }  # fmt: skip


def _mixed(seed: int, place: int) -> int:
    """A seed for torch that differs between points."""
    return int(np.random.default_rng([seed, place]).integers(1 << 62))
