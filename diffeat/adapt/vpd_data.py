"""Pictures with masks or depth, fitted to a network's input, as the one loop takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from PIL import Image

from diffeat.coords import Size, fit_numbers
from diffeat.errors import SourceError, SpecError
from diffeat.images.decode import fit_and_place
from diffeat.specs import ExtractSpec
from diffeat.targets.dense import DenseTargets
from probes.batches import Batch
from probes.dense.framed import over_input
from probes.maps import Maps


def fitted(picture: Image.Image, spec: ExtractSpec) -> tuple[np.ndarray, Maps]:
    """(3, H, W) uint8 input of a picture, and where it lies in it."""
    pixels, _, size, placement = fit_and_place(
        picture.convert("RGB"), spec.size, spec.fit, spec.resample
    )
    return pixels, Maps({}, size, tuple(spec.size), placement)


def shown_of(size: Size, spec: ExtractSpec) -> np.ndarray:
    """(H, W) bool: which pixels of a picture of `size` its input shows."""
    frame = Maps({}, size, tuple(spec.size), fit_numbers(size, spec.size, spec.fit))
    across, down = frame.shown()
    return down[:, None] & across


class PixelTargets:
    """What is known of pixels, over the inputs, picture by picture.

    Args:
        targets: masks of classes, or depth.
        spec: how pictures are fitted; its size is known.
        grid: (h, w) of labels over the inputs.
        batch_size: pictures of a step.
        device: of the batches.
        class_of: class index of the targets → what is said of it; None: depth.
        ignore: label of pixels that do not count.
        depths: (least, most) metres that count, of depth.
    """

    def __init__(
        self, targets: DenseTargets, spec: ExtractSpec, grid: tuple[int, int], batch_size: int,
        device: torch.device, class_of: Mapping[int, int] | None = None, ignore: int = 255,
        depths: tuple[float, float] = (0.0, np.inf),
    ):  # fmt: skip
        self.targets, self.spec, self.grid = targets, spec, grid
        self.batch_size, self.device = batch_size, torch.device(device)
        self.class_of, self.ignore, self.depths = class_of, ignore, depths
        self.source = targets.pictures()
        if not len(targets):
            raise SourceError(f"{targets.name}: no pictures")

    @property
    def steps(self) -> int:
        return -(-len(self) // self.batch_size)

    def __len__(self) -> int:
        return len(self.targets)

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in a new order."""
        return self._batches(rng.permutation(len(self)))

    def ordered(self) -> Iterator[Batch]:
        """All, in their order."""
        return self._batches(np.arange(len(self)))

    def _batches(self, order: np.ndarray) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            made = [self.example(int(row)) for row in order[start : start + self.batch_size]]
            pixels, known = (np.stack(one) for one in zip(*made, strict=True))
            yield (
                [torch.from_numpy(pixels).to(self.device)], torch.from_numpy(known).to(self.device)
            )  # fmt: skip

    def example(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) uint8 of a picture, and (h, w) int64 labels or float32 metres over it."""
        pixels, frame = fitted(self.source.load(row), self.spec)
        truth = self.truth(row)
        if truth.shape != frame.size:
            raise SpecError(
                f"{self.targets.name}: what is known of {self.targets.ids[row]!r} is "
                f"{truth.shape}, its picture {frame.size} (H, W); expected the same size"
            )
        return pixels, over_input(truth, frame, self.grid, self.unknown)

    @property
    def unknown(self) -> float:
        """What stands where nothing is known."""
        return np.nan if self.class_of is None else self.ignore

    def shown_truth(self, row: int) -> np.ndarray:
        """As `truth`, where the input shows the picture; unknown elsewhere, such as beyond a
        crop."""
        truth = self.truth(row)
        return np.where(shown_of(truth.shape, self.spec), truth, self.unknown).astype(truth.dtype)

    def truth(self, row: int) -> np.ndarray:
        """(H, W) of a picture's own pixels: int64 classes as they are said here, or metres."""
        known = np.asarray(self.targets.target(row))
        if self.class_of is None:
            low, high = self.depths
            with np.errstate(invalid="ignore"):
                inside = (known >= low) & (known <= high)
            return np.where(inside, known, np.nan).astype(np.float32)
        found = np.full(known.shape, self.ignore, np.int64)
        for label, said in self.class_of.items():
            found[known == label] = said
        return found
