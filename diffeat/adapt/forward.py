"""A backbone as a layer of a network that is trained: features that gradients pass through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import upload
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.latents import clean_latents, draw_noise, upload_noise
from diffeat.extraction.reduce import Reducer
from diffeat.hooks import Edit, HookManager
from diffeat.specs import ExtractSpec


class NoisyFeatures:
    """Differentiable features of pictures at one noise level.

    The same forward as in an extraction (encode, x_t = alpha·x_0 + sigma·eps, denoiser up to the
    last tensor that is asked for), but what the hooks keep stays in the graph.

    Args:
        backbone: whose denoiser runs.
        spec: one t and any blocks; prompt and label are the same for all pictures. Pooling is
            left to whoever takes the maps.
        edits: as `HookManager` takes them.

    Attributes:
        plan: the spec worked out.

    Raises:
        SpecError: more than one t, an ensemble, a trajectory, tiles, or conditions that differ
            by picture.
    """

    def __init__(
        self, backbone: Backbone, spec: ExtractSpec, edits: Mapping[str, Edit] | None = None
    ):
        _check_spec(spec)
        self.backbone, self.plan = backbone, Plan(backbone, spec)
        (level,) = self.plan.levels
        row = torch.tensor([[level.t, level.alpha, level.sigma]], dtype=torch.float64)
        self._level = row.to(backbone.device)
        self._reduce = Reducer(self.plan)
        self._conditions = Conditions.of_spec(backbone, spec)
        taps = {block.name: self.plan.tap(block) for block in self.plan.blocks}
        self._hooks = HookManager(
            backbone.denoiser, taps, stop_after_last=True, transform=self._reduce, edits=edits
        )

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
        device, spec = self.backbone.device, self.plan.spec
        latents = self.backbone.encode(upload(pixels, device).float() / 255)
        shape = (len(pixels), 1, *latents.mean.shape[1:])
        if generator is None:
            eps, sample = draw_noise(self.plan, ids, tuple(pixels.shape[2:]))
        else:
            eps, sample = (torch.randn(shape, generator=generator) for _ in range(2))
            eps = None if spec.noise == "none" else eps
        clean = clean_latents(spec, latents, ids, sample)[:, 0]
        if eps is None:
            return clean
        _, alpha, sigma = self._level.float()[0]
        return alpha * clean + sigma * upload_noise(eps, device)[:, 0]

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Block → (N, C, h, w) maps of x_t, in the graph of whatever needs a gradient."""
        rows = [0] * len(x)
        levels = self._level.expand(len(x), -1)
        factor = self.backbone.latent_factor
        self._reduce.size = (x.shape[2] * factor, x.shape[3] * factor)
        with self._hooks as hooks:
            self._reduce.run(hooks, x, levels, self._conditions(rows))
            return {name: hooks[name] for name in hooks}


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
    same = spec.captions is None and spec.embeddings is None and spec.label != "class"
    same = same and "{" not in spec.prompt
    allowed = {
        "one timestep": len(spec.timesteps) == 1,
        "ensemble=1": spec.ensemble == 1,
        "noise 'per-image', 'shared' or 'none'": spec.noise in ("per-image", "shared", "none"),
        "no tiles": not spec.tile,
        "no pooling, which the head does": spec.pool == "none",
        "one prompt or label for all pictures": same,
    }
    for what, holds in allowed.items():
        if not holds:
            raise SpecError(f"training through a backbone expects {what}; got {spec}")
