"""The one forward: x0 → clean latents z → x_t → network under hooks → kept tensors.

Extraction, trajectories, training and whoever else needs the network run these few lines. All of
it is differentiable; who wants no graph runs it under `torch.no_grad`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import torch

from diffeat.backbones.devices import visiting
from diffeat.blocks import VAE_DECODER
from diffeat.extraction.noising import add_noise, clean_latents
from diffeat.extraction.plan import Plan
from diffeat.extraction.reduce import Size, feature
from diffeat.hooks import Edit, HookManager, Tap

PREDICTION = "\0prediction"
"""Name of what the network itself predicts, among what is kept; see `Forward.x0_eps`."""


class Forward:
    """A plan's forward: what the network keeps of pictures at noise levels.

        x_t = alpha·z + sigma·eps,   kept = network(c_in·x_t, t, condition)

    The network stops after the last tensor that is asked for. Letters of the shapes: P pictures,
    E members of the ensemble, n rows of the network; a row is one picture at one level under one
    condition with one noise.

    Args:
        plan: which tensors are kept, and how they are reduced.
        edits: of activations and of attention, as `HookManager` takes them.
    """

    def __init__(self, plan: Plan, edits: Mapping[str | Tap, Edit] | None = None):
        self.plan, self.backbone, self.edits = plan, plan.backbone, edits

    def run(
        self,
        x0: torch.Tensor,
        levels: torch.Tensor,
        condition: Mapping[str, torch.Tensor],
        eps: torch.Tensor | None = None,
        sample: torch.Tensor | None = None,
        pictures: torch.Tensor | None = None,
        prediction: bool = False,
    ) -> dict[str, torch.Tensor]:
        """All of it: pictures in, kept tensors out.

        Args:
            x0: (P, 3, H, W) in [0, 1], on the backbone's device.
            levels: (n, 3) fp64 of t, alpha, sigma, such as rows of `levels`.
            condition: name → (n, …), as `Backbone.condition` and `Conditions` give it.
            eps: (n, C, h, w) noise; None gives the network the clean latent.
            sample: (P, 1, C, h, w) noise of the posterior's samples, where the spec wants them.
            pictures: (n,) which picture each row is of, so that several conditions or levels of
                a picture share its latent; None: n = P.
            prediction: also keep (x0, eps) that the network predicts, under `PREDICTION`.

        Returns:
            block → (n, …), or (P, …) for tensors of the VAE.
        """
        z, kept = self.encode(x0, sample)  # (P, E, C, h, w)
        z = z[:, 0] if pictures is None else z[pictures, 0]  # (n, C, h, w)
        x = self.add_noise(z, eps, levels)  # (n, C, h, w)
        if self.taps or prediction:
            kept |= self.network(x, levels, condition, prediction=prediction)
        if prediction:
            kept[PREDICTION] = self.x0_eps(x, kept[PREDICTION], levels)
        return kept

    def encode(
        self, x0: torch.Tensor, sample: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """z, (P, E, C, h, w) fp32, and the VAE's own tensors, the same at every level.

        Its decoder is run, on the clean latents, only where its tensors are asked for.
        """
        mean, std, kept = self.posterior(x0)
        return clean_latents(self.plan.spec, mean, std, sample), kept

    def posterior(
        self, x0: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
        """(mean, std) of the latents, as `Backbone.encode` gives them, and the VAE's tensors."""
        backbone, scaled = self.backbone, self.plan.spec.scale_latent
        keep = partial(self.keep, tuple(x0.shape[2:]), ())
        taps, decoded = self._vae_taps["vae"], self._vae_taps[VAE_DECODER]
        hooked = HookManager(backbone.vae.encoder, taps, transform=keep) if taps else nullcontext()
        with hooked as hooks:
            mean, std = backbone.encode(x0, scaled)  # (P, C, h, w) each
            kept = {name: hooks[name] for name in taps}
        if decoded:
            kept |= self._decoded(mean, decoded, keep)
        return mean, std, kept

    def _decoded(self, mean: torch.Tensor, taps: dict[str, Any], keep: Any):
        """Tensors of the VAE's decoder, as it decodes the posterior's means (P, C, h, w)."""
        backbone = self.backbone
        decoder, given = backbone.vae_decoder, backbone.decoded(mean, self.plan.spec.scale_latent)
        away = visiting(decoder, backbone.device) if backbone.vae_visits else nullcontext()
        with away, HookManager(decoder, taps, True, keep) as hooks:
            hooks.run(given)
            return {name: hooks[name] for name in hooks}

    def add_noise(
        self, z: torch.Tensor, eps: torch.Tensor | None, levels: torch.Tensor
    ) -> torch.Tensor:
        """x_t = alpha·z + sigma·eps, (n, C, h, w) fp32; z where eps is None."""
        return add_noise(z, eps, *_columns(levels)[1:])

    def network(
        self,
        x: torch.Tensor,
        levels: torch.Tensor,
        condition: Mapping[str, torch.Tensor],
        features: bool = True,
        prediction: bool = False,
        whole: bool | None = None,
    ) -> dict[str, torch.Tensor]:
        """One run of the network on x_t, (n, C, h, w) fp32.

        Args:
            x, levels, condition: n rows, see `run`.
            features: whether the plan's tensors are kept.
            prediction: whether the output is kept, (n, C, h, w) fp32 under `PREDICTION`.
            whole: whether t's are whole numbers; None: as the plan's are.
        """
        schedule, factor = self.backbone.schedule, self.backbone.latent_factor
        t, alpha, sigma = _columns(levels)  # (n, 1, 1, 1) fp32 each
        given = schedule.scaled(x, sigma).to(self.backbone.dtype)  # c_in·x_t
        whole = self.plan.whole if whole is None else whole
        t_network = schedule.network_t(levels[:, 0], whole)  # (n,)
        call = self.backbone.call_arguments(self.backbone.as_input(given), t_network, condition)
        taps = dict(self.taps) if features else {}
        if prediction:
            taps[PREDICTION] = self.backbone.output_tap
        size = (x.shape[2] * factor, x.shape[3] * factor)
        keep = partial(self.keep, size, (x, t, alpha, sigma))
        with HookManager(self.backbone.denoiser, taps, True, keep, self.edits) as hooks:
            hooks.run(**call)
            return {name: hooks[name] for name in hooks}

    def x0_eps(
        self, x: torch.Tensor, output: torch.Tensor, levels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x0, eps) that the network's output stands for, each (n, C, h, w)."""
        return self.backbone.schedule.predict_x0_eps(x, output, *_columns(levels))

    def keep(self, size: Size, x_t: tuple[torch.Tensor, ...], name: str, read: Any) -> torch.Tensor:
        """What stays of a tap: its feature, or the prediction as a latent."""
        if name == PREDICTION:
            grid = self.backbone.latent_shape(size)[1:]
            return self.backbone.to_latent(read, grid).float().clone()
        return feature(self.plan, self._blocks[name], read, size, x_t)

    @cached_property
    def taps(self) -> dict[str, Any]:
        """Where the network's tensors are read, in the order of execution."""
        return {b.name: self.plan.tap(b) for b in self.plan.blocks if not b.of_vae}

    @cached_property
    def _vae_taps(self) -> dict[str, dict[str, Any]]:
        """Where the tensors of the VAE's encoder and decoder are read, by part."""
        blocks = [block for block in self.plan.blocks if block.name != "vae"]
        return {part: {block.name: block.where for block in blocks if block.part == part}
                for part in ("vae", VAE_DECODER)}  # fmt: skip

    @cached_property
    def _blocks(self) -> dict[str, Any]:
        return {block.name: block for block in self.plan.blocks}

    @cached_property
    def levels(self) -> torch.Tensor:
        """(T, 3) fp64 of t, alpha, sigma on the device, in the order of the spec."""
        rows = [(level.t, level.alpha, level.sigma) for level in self.plan.levels]
        return torch.tensor(rows, dtype=torch.float64, device=self.backbone.device)


def _columns(levels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """t, alpha, sigma, each (n, 1, 1, 1) fp32, of (n, 3) fp64."""
    return levels.float().unsqueeze(-1).unsqueeze(-1).unsqueeze(-1).unbind(1)
