"""Runs batches of pictures through a backbone, one forward per (picture, t, member)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from diffeat.backbones.base import Latents
from diffeat.backbones.devices import upload
from diffeat.errors import SpecError
from diffeat.extraction.batch_size import resolve_batch
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.features import Key
from diffeat.extraction.latents import clean_latents, noise_of, upload_noise
from diffeat.extraction.pending import Buffers, Pending
from diffeat.extraction.plan import Plan
from diffeat.extraction.reduce import Reducer
from diffeat.extraction.trajectory import Trajectory
from diffeat.hooks import HookManager


class Extractor:
    """Runs batches of pictures through a backbone. Build once, call once per batch.

    The VAE runs once per picture. Several noise levels and ensemble members share a forward's
    batch, and a forward stops after the last block that is asked for.

    Args:
        plan: what to extract.
        batch_size: rows of one denoiser forward; None chooses by the latent's size, "auto" by
            measuring (see `resolve_batch`).
        conditions: prompts and labels; by default the spec's, the same for all pictures.
        sharing: how many workers share the device, for measuring.
    """

    def __init__(
        self,
        plan: Plan,
        batch_size: int | str | None = None,
        conditions: Conditions | None = None,
        *,
        sharing: int = 1,
    ):
        self.plan, self.backbone = plan, plan.backbone
        if self.backbone.device.type == "meta":
            raise SpecError("a backbone on device 'meta' has no weights; load it on cpu or cuda")
        self.conditions = conditions or Conditions.of_spec(self.backbone, plan.spec)
        self.conditions.prepare()
        self.reduce = Reducer(plan)
        denoiser = {b.name: plan.tap(b) for b in plan.blocks if not b.of_vae}
        encoder = {b.name: b.where for b in plan.blocks if b.of_vae and b.name != "vae"}
        self._hooks = HookManager(
            self.backbone.denoiser, denoiser, stop_after_last=True, transform=self.reduce
        )
        self._vae_hooks = (
            HookManager(self.backbone.vae.encoder, encoder, transform=self.reduce)
            if encoder
            else None
        )
        self._walk = Trajectory(plan, self.reduce) if plan.grid else None
        columns = [(lv.t, lv.alpha, lv.sigma) for lv in plan.levels]
        self._levels = torch.tensor(columns, dtype=torch.float64, device=self.backbone.device)
        self.batch_size = resolve_batch(plan, batch_size, self.conditions, sharing=sharing)

    @property
    def pictures(self) -> int:
        """Pictures of one call; see `Plan.pictures_per_call`."""
        return self.plan.pictures_per_call(self.batch_size)

    def __call__(
        self,
        pixels: torch.Tensor | np.ndarray,
        ids: Sequence[str],
        noise: torch.Tensor | None = None,
        rows: Sequence[int] | None = None,
        sample: torch.Tensor | None = None,
    ) -> dict[Key, torch.Tensor]:
        """Features of one batch of pictures; see `start`.

        Returns:
            (block, native t) → (P, …) in the spec's dtype, on the CPU.

        Raises:
            NumericsError: a feature is inf or nan in the dtype that it is stored in.
        """
        return self.start(pixels, ids, noise, rows, sample).result()

    @torch.no_grad()
    def start(
        self,
        pixels: torch.Tensor | np.ndarray,
        ids: Sequence[str],
        noise: torch.Tensor | None = None,
        rows: Sequence[int] | None = None,
        sample: torch.Tensor | None = None,
    ) -> Pending:
        """Begin the work on one batch. With a CUDA device it is only queued; the host goes on.

        Args:
            pixels: (P, 3, H, W), uint8, or floating point in [0, 1].
            ids: P picture ids, which seed the noise.
            noise: explicit noise, (P, …) or (P, ensemble, …) in latent shape, any float dtype;
                `draw_noise` gives the seeded, ahead of time.
            rows: which of the conditions are these pictures', where they differ.
            sample: (P, ensemble, …) noise of the posterior's samples, in place of the seeded.

        Raises:
            SpecError: shapes or conditions that do not fit.
            NumericsError: as `Pending.result`, where the work is done at once.
        """
        pixels = upload(torch.as_tensor(pixels), self.backbone.device)
        x0 = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        self.reduce.size = size = (int(x0.shape[2]), int(x0.shape[3]))
        if rows is None:
            if self.conditions.vary:
                raise SpecError("conditions differ by picture; say which rows these pictures are")
            rows = range(len(ids))
        out = Buffers(self.plan, size, len(ids))
        latents = self._encode(x0, out)
        clean = clean_latents(self.plan.spec, latents, ids, sample)
        if "vae" in self.plan.spec.blocks:
            out.put_every_level("vae", self.reduce("vae", clean.mean(1)))
        if noise is not None and self.plan.spec.noise == "inversion":
            raise SpecError("noise=inversion makes its own; leave noise= out")
        for level in self.plan.levels if noise is not None and self.plan.clean else ():
            self.backbone.schedule.at(level.t)  # now it says how much noise there is
        if len(self._hooks):
            self._denoise(clean, ids, noise, rows, out)
        return out.pending()

    def _encode(self, x0: torch.Tensor, out: Buffers) -> Latents:
        """Clean latents; the VAE's own tensors are the same at every t."""
        scaled = self.plan.spec.scale_latent
        if self._vae_hooks is None:
            return self.backbone.encode(x0, scaled)
        with self._vae_hooks as hooks:
            latents = self.backbone.encode(x0, scaled)
            for name in hooks:
                out.put_every_level(name, hooks[name])
        return latents

    def forward_rows(self, size: tuple[int, int]) -> int:
        """Most rows of one forward; fewer than `batch_size` for large pictures (H, W) where
        pictures have sizes of their own."""
        if self.plan.size is not None:
            return self.batch_size
        return min(self.batch_size, self.plan.default_batch(size))

    @property
    def _rows(self) -> int:
        return self.forward_rows(self.reduce.size)

    def _denoise(self, clean: torch.Tensor, ids, noise, rows, out: Buffers) -> None:
        """Fill what the denoiser gives, level by level or along a trajectory."""
        spec, device = self.plan.spec, self.backbone.device
        shape = tuple(clean.shape[2:])
        conditions = self.conditions(rows)
        walks = self._walk is not None
        eps = None if walks and not self._walk.generates else noise_of(spec, ids, shape, noise)
        eps = None if eps is None else upload_noise(eps, device)
        if walks:
            self._walk(clean if eps is None else eps, conditions, out, self._rows)
            return
        with self._hooks as hooks:
            for start, stop in self._row_chunks(len(self.plan.levels) * len(ids)):
                self._run_rows(hooks, clean, eps, conditions, start, stop, out)

    def _row_chunks(self, rows: int) -> Iterator[tuple[int, int]]:
        """Row ranges of one forward each; a row is a (t, picture), t-major, with its members."""
        step = max(1, self._rows // self.plan.spec.ensemble)
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def _run_rows(self, hooks, clean, eps, conditions, start: int, stop: int, out) -> None:
        """Fill rows start … stop of every block; members are averaged in fp32."""
        members = self.plan.spec.ensemble
        slices = range(0, members, self._rows)
        pictures = torch.arange(start, stop, device=clean.device) % len(clean)
        levels = torch.arange(start, stop, device=clean.device) // len(clean)
        sums: dict[str, torch.Tensor] = {}
        for first in slices:
            last = min(first + self._rows, members)
            self._forward(hooks, clean, eps, conditions, pictures, levels, first, last)
            for name in hooks:
                value = hooks[name]
                if members > 1:
                    value = value.float().unflatten(0, (stop - start, last - first)).sum(1)
                sums[name] = value if first == 0 else sums[name] + value
        for name, value in sums.items():
            out.put(name, slice(start, stop), value / members if members > 1 else value)

    def _forward(self, hooks, clean, eps, conditions, pictures, levels, first, last) -> None:
        """One denoiser forward over rows × members first … last, member fastest."""
        rows = self._levels[levels].repeat_interleave(last - first, 0)
        member = slice(first, last)
        x = clean[pictures, member].flatten(0, 1)
        if eps is not None:
            alpha, sigma = rows[:, 1:].float().unsqueeze(-1).unsqueeze(-1).unsqueeze(-1).unbind(1)
            x = alpha * x + sigma * eps[pictures, member].flatten(0, 1)
        condition = {
            name: value[pictures].repeat_interleave(last - first, 0)
            for name, value in conditions.items()
        }
        self.reduce.run(hooks, x, rows, condition)
