"""A backbone as a layer of a network that is trained: features that gradients pass through."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import upload
from diffeat.errors import SpecError
from diffeat.extraction import Conditions, Forward, Plan, draw_noise
from diffeat.extraction.noising import fresh_noise, upload_noise
from diffeat.hooks import Edit
from diffeat.noise import TRAJECTORIES
from diffeat.specs import CLASS_LABEL, PLACEHOLDERS, ExtractSpec


class NoisyFeatures(Forward):
    """A `Forward` as a layer: differentiable features of pictures at one noise level.

    What is kept stays in the graph. Of the spec, `dtype` says how features are stored and plays
    no part here; `fit`, `resample` and `mirror` are up to whoever reads the pictures.

    Args:
        backbone: whose denoiser runs.
        spec: one t and any blocks of the denoiser; prompt, label or embeddings are the same for
            all pictures. Pooling is left to whoever takes the maps.
        edits: as `HookManager` takes them.

    Attributes:
        plan: the spec worked out.

    Raises:
        SpecError: a field that training through the backbone cannot do: more than one t, tensors
            of the VAE, an ensemble, a trajectory, tiles, flip, pooling, or conditions that
            differ by picture.
    """

    def __init__(
        self, backbone: Backbone, spec: ExtractSpec, edits: Mapping[str, Edit] | None = None
    ):
        _check_spec(spec)
        self._conditions = Conditions.of_spec(backbone, spec)
        super().__init__(Plan(backbone, spec, self._conditions.text_length), edits)
        if inside := [block.name for block in self.plan.blocks if block.of_vae]:
            _refuse("blocks of the denoiser", "blocks", inside)

    @torch.no_grad()
    def noisy(
        self, pixels: torch.Tensor, ids: list[str], generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """x_t of pictures, (N, C, h, w) fp32 on the backbone's device.

        Args:
            pixels: (N, 3, H, W) uint8.
            ids: N picture ids, whose own noise is used, as in an extraction;
            generator: of the CPU, draws fresh noise instead, as training wants it.
        """
        device, size = self.backbone.device, tuple(pixels.shape[2:])
        x0 = upload(pixels, device).float() / 255
        if generator is not None:
            return self.noisy_floats(x0, generator)
        return self._noised(x0, *draw_noise(self.plan, ids, size))

    @torch.no_grad()
    def noisy_floats(self, x0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As `noisy` with fresh noise, of (N, 3, H, W) in [0, 1] on the backbone's device."""
        drawn = fresh_noise(self.plan, len(x0), tuple(x0.shape[2:]), generator)
        return self._noised(x0, *drawn)

    def _noised(self, x0: torch.Tensor, eps, sample) -> torch.Tensor:
        z, _ = self.encode(x0, sample)  # (N, 1, C, h, w)
        eps = None if eps is None else upload_noise(eps, self.backbone.device)[:, 0]
        return self.add_noise(z[:, 0], eps, self.levels.expand(len(z), -1))

    def __call__(
        self,
        x: torch.Tensor,
        condition: Mapping[str, torch.Tensor] | None = None,
        levels: torch.Tensor | None = None,
        whole: bool | None = None,
    ) -> dict[str, torch.Tensor]:
        """Block → (N, C, h, w) maps of x_t, in the graph of whatever needs a gradient.

        Args:
            x: (N, C, h, w).
            condition: name → (N, …), in place of what the spec says.
            levels: (N, 3) of t, alpha, sigma, in place of the spec's.
            whole: whether their t's are whole numbers; None: as the spec's are.
        """
        levels = self.levels.expand(len(x), -1) if levels is None else levels
        condition = self._conditions([0] * len(x)) if condition is None else condition
        return self.network(x, levels, condition, whole=whole)


def trainable_copy(backbone: Backbone) -> Backbone:
    """A backbone that shares all with another, but has a denoiser of its own, in eval mode."""
    found = copy.copy(backbone)
    found.denoiser = copy.deepcopy(backbone.denoiser)
    for cached in ("tensors", "blocks"):  # they name paths, which are the same
        found.__dict__.pop(cached, None)
    return found


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient for the weights of a module; gradients still pass through it."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _check_spec(spec: ExtractSpec) -> None:
    """SpecError for the first field that asks for what the layer cannot do."""
    same = not any(word in spec.prompt for word in PLACEHOLDERS)
    allowed = {
        "timesteps": ("one timestep", len(spec.timesteps) == 1),
        "ensemble": ("ensemble=1", spec.ensemble == 1),
        "noise": ("noise that needs no trajectory", spec.noise not in TRAJECTORIES),
        "tile": ("no tiles", spec.tile is None),
        "flip": ("flip=False (mirror pictures where they are read)", not spec.flip),
        "corrupt": ("clean pictures", spec.corrupt is None),
        "pool": ("no pooling, which the head does", spec.pool == "none"),
        "fit": ("pictures of one size", spec.fit != "native"),
        "prompt": ("one prompt for all pictures", same),
        "captions": ("one prompt for all pictures", spec.captions is None),
        "label": ("one label for all pictures", spec.label != CLASS_LABEL),
    }
    for name, (what, holds) in allowed.items():
        if not holds:
            _refuse(what, name, getattr(spec, name))


def _refuse(what: str, name: str, value: object) -> None:
    raise SpecError(f"training through a backbone expects {what}; got {name}={value!r}")
