"""One batch of pictures as one object, from the loader to the extractor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffeat.backbones.devices import upload
from diffeat.extraction.noising import draw_noise
from diffeat.extraction.plan import Plan
from diffeat.images import PictureBatch

Size = tuple[int, int]
Noise = torch.Tensor | None | dict[Size, torch.Tensor | None]
"""(P, E, C, h, w) fp32 on the CPU; by (H, W) in pixels where pictures have sizes of their own."""


@dataclass(frozen=True, eq=False)
class Batch(PictureBatch):
    """Pictures of one batch, with all that their features follow from.

    Attributes:
        pixels: (P, 3, H, W) uint8, or floating point in [0, 1]; a list of P arrays (3, H, W) where
            each has its own size.
        indices: P places in the source, which say whose conditions the pictures have; None
            where all have the same.
        ids: P names that seed the noise: picture ids, or digests (see `noise_names`).
        noise: eps; (P, …) in place of (P, 1, …) for one member. None: by the spec's policy.
        sample: noise of the posterior's samples, likewise.
        others: see `PictureBatch`.
    """

    ids: Sequence[str] = ()
    noise: Noise = None
    sample: Noise = None

    @classmethod
    def of(
        cls,
        pixels: torch.Tensor | np.ndarray | list[np.ndarray],
        ids: Sequence[str],
        rows: Sequence[int] | None = None,
        noise: Noise = None,
        sample: Noise = None,
    ) -> Batch:
        """A batch of pictures that no loader read; `rows` are its `indices`."""
        nowhere = np.empty((0, 4), np.int32), np.empty((0, 2), np.int32), np.empty((0, 4))
        return cls((0, len(ids)), rows, pixels, [], *nowhere, ids=ids, noise=noise, sample=sample)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> Size:
        """(H, W) in pixels of pictures of one size."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[3])

    def by_size(self) -> Iterator[tuple[Sequence[int], Batch]]:
        """(places in this batch, batch) of each size, in the order in which sizes first appear."""
        if not isinstance(self.pixels, list):
            if len(self):
                yield range(len(self)), self
            return
        sizes = [array.shape[1:] for array in self.pixels]
        for size in dict.fromkeys(sizes):
            places = [place for place, other in enumerate(sizes) if other == size]
            yield (
                places,
                Batch.of(
                    np.stack([self.pixels[place] for place in places]),
                    [self.ids[place] for place in places],
                    None if self.indices is None else [self.indices[place] for place in places],
                    None if self.noise is None else self.noise[size],
                    None if self.sample is None else self.sample[size],
                ),
            )

    def part(self, span: slice) -> Batch:
        """Some of the pictures, which have one size; nothing is copied."""
        if range(len(self))[span] == range(len(self)):
            return self
        return Batch.of(
            self.pixels[span],
            self.ids[span],
            None if self.indices is None else self.indices[span],
            None if self.noise is None else self.noise[span],
            None if self.sample is None else self.sample[span],
        )

    def drawn(self, plan: Plan) -> Batch:
        """With the noise that a plan wants and that is not there yet; another thread may do it."""
        if isinstance(self.pixels, list):
            groups = {part.size: part.drawn(plan) for _, part in self.by_size()}
            noise = {size: part.noise for size, part in groups.items()}
            sample = {size: part.sample for size, part in groups.items()}
        else:
            noise, sample = draw_noise(plan, self.ids, self.size, self.noise, self.sample)
        return replace(self, noise=noise, sample=sample)

    def window(
        self, top: int, left: int, size: Size, mirrored: bool, factor: int, noise_moves: bool = True
    ) -> Batch:
        """A part of every picture, with its part of the noise.

        Args:
            top, left: where it begins, in pixels.
            size: (H, W) of it in pixels.
            mirrored: whether it is mirrored, then.
            factor: pixels per cell of the noise.
            noise_moves: whether the noise is that of the whole picture; else it has the size
                of the part.
        """

        def cut(values, factor: int, moves: bool = True):
            if values is None:
                return None
            y, x = (top // factor, left // factor) if moves else (0, 0)
            found = values[..., y : y + size[0] // factor, x : x + size[1] // factor]
            return found.flip(-1) if mirrored else found

        return Batch.of(
            cut(torch.as_tensor(self.pixels), 1), self.ids, self.indices,
            cut(self.noise, factor, noise_moves), cut(self.sample, factor),
        )  # fmt: skip

    def x0(self, device: torch.device) -> torch.Tensor:
        """(P, 3, H, W) fp32 in [0, 1] on a device."""
        pixels = upload(torch.as_tensor(self.pixels), device)
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
