"""Random crops of one picture, noised, and where a point lies in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from diffeat.adapt.forward import NoisyFeatures
from diffeat.coords import Placement
from diffeat.errors import SpecError
from diffeat.extraction.given import Given
from probes.batches import Batch


@dataclass(frozen=True)
class OnePicture:
    """One picture as the model takes it.

    Attributes:
        pixels: (1, 3, H, W) fp32 in [0, 1], on the device.
        placement: where the input lies in its picture.
    """

    pixels: torch.Tensor
    placement: Placement

    @classmethod
    def of(cls, noisy: NoisyFeatures, picture: Any) -> OnePicture:
        """From what `diffeat.extract` takes for one picture; SpecError for several."""
        given = Given.of(picture)
        if len(given) != 1:
            raise SpecError(f"{len(given)} pictures are given; expected one")
        given.settled(noisy.plan.spec)  # floats have to be of the model's size
        pixels, ((_, size, numbers),) = given.pixels(slice(0, 1), noisy.plan)
        pixels = torch.as_tensor(pixels)
        scale = 1.0 if pixels.is_floating_point() else 255.0
        at = Placement(*numbers, tuple(pixels.shape[2:]), size)
        return cls(pixels.to(noisy.backbone.device).float() / scale, at)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the input in pixels."""
        return tuple(self.pixels.shape[2:])

    def crop(self, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width of a random crop with `share` of each side."""
        height, width = (max(1, round(share * side)) for side in self.size)
        top, left = (int(rng.integers(0, most + 1)) for most in
                     (self.size[0] - height, self.size[1] - width))  # fmt: skip
        return top, left, height, width

    def cut(self, crop: tuple[int, int, int, int]) -> torch.Tensor:
        """(1, 3, H, W): a crop brought back to the input's size, bilinear."""
        top, left, height, width = crop
        part = self.pixels[:, :, top : top + height, left : left + width]
        return resized(part, self.size)


def resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, h, w) → (N, C, H, W), bilinear by pixel centres."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def gaussian(
    point: np.ndarray, crop: tuple[int, int, int, int], size: tuple[int, int], sigma: float
) -> np.ndarray:
    """(H, W) float32: exp(-d²/(2·sigma²)) about a point, over a crop at the input's size.

    Args:
        point: x, y in input pixels.
        crop: top, left, height, width in input pixels.
        size: (H, W).
        sigma: in pixels of the crop as the model sees it.

    Source: Hedlin et al. 2023, its target; its peak is 1.
    """
    top, left, height, width = crop
    x = (point[0] + 0.5 - left) * size[1] / width - 0.5
    y = (point[1] + 0.5 - top) * size[0] / height - 0.5
    column = np.exp(-((np.arange(size[1]) - x) ** 2) / (2 * sigma**2))
    row = np.exp(-((np.arange(size[0]) - y) ** 2) / (2 * sigma**2))
    return (row[:, None] * column).astype(np.float32)


class CropsOfPoint:
    """What the loop trains a point's prompts on: in every step new crops, one for each prompt.

    Args:
        noisy: makes x_t.
        picture: with the point.
        point: (2,) x, y in input pixels.
        count: prompts that are trained side by side.
        share: of a side that a crop has.
        sigma: of the target, in pixels.
    """

    steps = 1

    def __init__(self, noisy: NoisyFeatures, picture: OnePicture, point: np.ndarray, count: int,
                 share: float, sigma: float):  # fmt: skip
        self.noisy, self.picture, self.point = noisy, picture, point
        self.count, self.share, self.sigma = count, share, sigma
        self.device = torch.device(noisy.backbone.device)

    def __len__(self) -> int:
        return self.count

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One step: (E, C, h, w) of x_t and the (E, H, W) wanted."""
        crops = [self.picture.crop(self.share, rng) for _ in range(self.count)]
        x0 = torch.cat([self.picture.cut(crop) for crop in crops])
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        wanted = np.stack([gaussian(self.point, c, self.picture.size, self.sigma) for c in crops])
        yield [self.noisy.noisy_floats(x0, noise)], torch.from_numpy(wanted).to(self.device)

    def ordered(self) -> Iterator[Batch]:
        return iter(())
