"""Runs batches of pictures through a backbone, one forward per (picture, t, member)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch

from diffeat.errors import SpecError
from diffeat.extraction.batch import Batch
from diffeat.extraction.batch_size import resolve_batch
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.features import Key
from diffeat.extraction.forward import Forward
from diffeat.extraction.noising import upload_noise
from diffeat.extraction.pending import Buffers, Pending
from diffeat.extraction.plan import Plan
from diffeat.extraction.trajectory import walk

Kept = Iterator[tuple[tuple[str, int], torch.Tensor]]
"""((block, row of the buffers from which on), feature (pictures · members, …))."""


class Taker(Protocol):
    """What features are handed to, as `Buffers` takes them."""

    def put(self, name: str, rows: slice, values: torch.Tensor) -> None:
        """Rows (t-major: level · P + picture) of a block: features (n, …)."""

    def put_every_level(self, name: str, values: torch.Tensor) -> None:
        """Features (P, …) of a block that are the same at every level."""


class Extractor(Forward):
    """A `Forward` for batches of pictures. Build once, call once per batch.

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
        super().__init__(plan)
        if self.backbone.device.type == "meta":
            raise SpecError("a backbone on device 'meta' has no weights; load it on cpu or cuda")
        self.conditions = conditions or Conditions.of_spec(self.backbone, plan.spec)
        self.conditions.prepare()
        self.batch_size = resolve_batch(
            plan, batch_size, self.conditions, Extractor, sharing=sharing
        )

    @property
    def pictures(self) -> int:
        """Pictures of one call; see `Plan.pictures_per_call`."""
        return self.plan.pictures_per_call(self.batch_size)

    def forward_rows(self, size: tuple[int, int]) -> int:
        """Most rows of one forward; fewer than `batch_size` for large pictures (H, W) where
        pictures have sizes of their own."""
        if self.plan.size is not None:
            return self.batch_size
        return min(self.batch_size, self.plan.default_batch(size))

    def __call__(self, batch: Batch) -> dict[Key, torch.Tensor]:
        """Features of one batch of pictures; see `start`.

        Returns:
            (block, native t) → (P, …) in the spec's dtype, on the CPU.

        Raises:
            NumericsError: a feature is inf or nan in the dtype that it is stored in.
        """
        return self.start(batch).result()

    @torch.no_grad()
    def start(self, batch: Batch) -> Pending:
        """Begin the work on one batch. With a CUDA device it is only queued; the host goes on.

        Args:
            batch: of P pictures of one size. Noise that was not drawn ahead is drawn here.

        Raises:
            SpecError: shapes or conditions that do not fit.
            NumericsError: as `Pending.result`, where the work is done at once.
        """
        out = Buffers(self.plan, batch.size, len(batch))
        self.fill(batch, out)
        return out.queued()

    @torch.no_grad()
    def fill(self, batch: Batch, out: Taker) -> None:
        """Hand the features of one batch to whoever takes them, forward by forward.

        Args:
            batch: see `start`.
            out: takes them as they come, so that they need not be held all at once.
        """
        self._check(batch)
        batch = batch.drawn(self.plan)
        z = self._clean(batch, out)
        if self.taps:
            self._denoise(batch, z, out)

    def _clean(self, batch: Batch, out: Taker) -> torch.Tensor:
        """z, (P, E, C, h, w); what is kept of the VAE fills every level."""
        z, kept = self.encode(batch.x0(self.backbone.device), batch.sample)
        if "vae" in self.plan.spec.blocks:
            kept["vae"] = self.keep(batch.size, (), "vae", z.mean(1))
        for name, value in kept.items():
            out.put_every_level(name, value)
        return z

    def _check(self, batch: Batch) -> None:
        """SpecError where the batch says too little or too much."""
        if batch.indices is None and self.conditions.vary:
            raise SpecError("conditions differ by picture; say which rows these pictures are")
        if batch.noise is None:
            return
        if self.plan.spec.noise == "inversion":
            raise SpecError("noise=inversion makes its own; leave noise= out")
        for level in self.plan.levels if self.plan.clean else ():
            self.backbone.schedule.at(level.t)  # now it says how much noise there is

    def _denoise(self, batch: Batch, z: torch.Tensor, out: Taker) -> None:
        """Fill what the denoiser gives, as many rows at a time as a forward takes.

        A row is a (t, picture), t-major, or on a trajectory a picture; each with its members.
        """
        limit, members = self.forward_rows(batch.size), z.shape[1]
        rows = range(len(batch)) if batch.indices is None else batch.indices
        condition = self.conditions(rows)  # name → (P, …)
        eps = None if batch.noise is None else upload_noise(batch.noise, z.device)
        many = len(batch) * (1 if self.plan.grid else len(self.plan.levels))
        step = max(1, limit // members)
        for first in range(0, many, step):
            self._run_rows(z, eps, condition, range(first, min(first + step, many)), limit, out)

    def _run_rows(self, z, eps, condition, span: range, limit: int, out: Taker) -> None:
        """Fill rows `span`; members are averaged in fp32."""
        members, run = z.shape[1], self._along if self.plan.grid else self._at_levels
        sums: dict[tuple[str, int], torch.Tensor] = {}
        for first in range(0, members, limit):
            part = slice(first, min(first + limit, members))
            for key, value in run(z, eps, condition, span, part):
                if members > 1:
                    value = value.float().unflatten(0, (len(span), -1)).sum(1)
                sums[key] = sums[key] + value if key in sums else value
        for (name, row), value in sums.items():
            span_out = slice(row, row + len(span))
            out.put(name, span_out, value / members if members > 1 else value)

    def _at_levels(self, z, eps, condition, span: range, member: slice) -> Kept:
        """One denoiser forward over rows × members, member fastest."""
        rows = torch.arange(span.start, span.stop, device=z.device)
        picture, count = rows % len(z), member.stop - member.start
        levels = self.levels[rows // len(z)].repeat_interleave(count, 0)  # (n, 3)
        x = z[picture, member].flatten(0, 1)  # (n, C, h, w)
        x = self.add_noise(x, None if eps is None else eps[picture, member].flatten(0, 1), levels)
        kept = self.network(x, levels, _repeated(condition, picture, count))
        yield from (((name, span.start), value) for name, value in kept.items())

    def _along(self, z, eps, condition, span: range, member: slice) -> Kept:
        """A trajectory of pictures × members, member fastest."""
        picture = slice(span.start, span.stop)
        start = eps if self.plan.generates else z
        x = start[picture, member].flatten(0, 1)  # (n, C, h, w)
        condition = _repeated(condition, picture, member.stop - member.start)
        for (name, place), value in self._walk(x, condition):
            yield (name, place * len(z) + span.start), value

    def _walk(self, x: torch.Tensor, condition: Mapping[str, torch.Tensor]) -> Kept:
        """Of (n, C, h, w): ((block, place of the level in the plan), feature (n, …))."""
        yield from walk(self, x, condition)


def _repeated(
    condition: Mapping[str, torch.Tensor], picture: torch.Tensor | slice, count: int
) -> dict[str, torch.Tensor]:
    """The conditions of some pictures, `count` rows each."""
    return {name: v[picture].repeat_interleave(count, 0) for name, v in condition.items()}
