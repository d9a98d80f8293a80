"""A picture as ODISE sees it: resized, padded, in square tiles that each have the same noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diffeat.errors import SpecError

Size = tuple[int, int]
SHORT, LONGEST, DIVISOR = 1024, 2560, 64
"""Pixels of the shorter side, of the longer one at most, and what both are padded to divide by."""
SEED = 42
"""Of the noise that all tiles have."""


@dataclass(frozen=True)
class Frame:
    """How pictures are brought to the network.

    Attributes:
        short: pixels of a picture's shorter side,
        longest: unless the longer one would be longer.
        divisor: sides are padded, right and below, to multiples of it.
        tile: pixels of a side of what the network is given.
    """

    short: int
    longest: int
    divisor: int
    tile: int

    def inner(self, size: Size) -> Size:
        """(H, W) that a picture of `size` is resized to."""
        scale = min(self.short / min(size), self.longest / max(size))
        return tuple(max(1, math.floor(side * scale + 0.5)) for side in size)

    def outer(self, size: Size) -> Size:
        """(H, W) with padding."""
        return tuple(math.ceil(side / self.divisor) * self.divisor for side in self.inner(size))

    def picture(self, picture: Image.Image) -> torch.Tensor:
        """(3, H, W) in [0, 1]: resized by bilinear (Pillow's), black beyond."""
        height, width = self.inner((picture.height, picture.width))
        pixels = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
        return self._padded(x, (picture.height, picture.width), 0.0)

    def masks(self, masks: torch.Tensor) -> torch.Tensor:
        """(Q, H, W) bool of a picture's masks, of its size: by nearest, False in the padding."""
        size = tuple(masks.shape[1:])
        inside = masks if masks.dtype == torch.bool else masks > 0
        if len(masks):
            moved = F.interpolate(inside[None].byte(), self.inner(size), mode="nearest-exact")
            inside = moved[0].bool()
        else:
            inside = inside.new_zeros((0, *self.inner(size)))
        return self._padded(inside, size, False)

    def _padded(self, x: torch.Tensor, size: Size, value) -> torch.Tensor:
        down, right = (a - b for a, b in zip(self.outer(size), self.inner(size), strict=True))
        return F.pad(x, (0, right, 0, down), value=value)

    def tiles(self, size: Size) -> Iterator[tuple[int, int, int]]:
        """(top, left, side) of the tiles of a padded picture: side by side, the last shifted back.

        Args:
            size: (H, W) of the padded picture.
        """
        side = min(self.tile, *size)
        for top in tile_offsets(size[0], side):
            for left in tile_offsets(size[1], side):
                yield top, left, side


def tile_offsets(length: int, tile: int) -> list[int]:
    """Where tiles begin: one beside the other, the last shifted back to end with `length`.

    Source: Xu et al. 2023 (ODISE), its code.
    """
    if tile > length:
        raise SpecError(f"tiles of {tile} pixels do not fit in {length}; choose smaller ones")
    return [*range(0, length - tile, tile), length - tile]


def cut(x: torch.Tensor, top: int, left: int, side: int, wanted: int) -> torch.Tensor:
    """(3, wanted, wanted): a tile of (3, H, W), bicubically enlarged where it is smaller."""
    part = x[:, top : top + side, left : left + side]
    if side == wanted:
        return part
    return F.interpolate(part[None], (wanted, wanted), mode="bicubic")[0].clamp(0, 1)


def shared_noise(shape: tuple[int, int, int], native: Size, seed: int = SEED) -> torch.Tensor:
    """(1, C, h, w) float32 noise that every tile of every picture has.

    Args:
        shape: (C, h, w) of a tile's latent.
        native: (h, w) of the latent that the model was trained on, for which torch's CPU generator
            draws; bicubically resized for tiles of another size.
        seed: of the generator.

    Source: Xu et al. 2023 (ODISE), its code: seed 42, 64×64 cells.
    """
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(1, shape[0], *native, generator=generator)
    if tuple(native) == tuple(shape[1:]):
        return eps
    return F.interpolate(eps, shape[1:], mode="bicubic", align_corners=False)


class Canvas:
    """Maps of tiles, laid where they belong and averaged where they overlap; in the graph.

    Args:
        size: (H, W) of the padded picture.
        strides: pixels per site of each map; a tile begins at floor(offset / stride).
    """

    def __init__(self, size: Size, strides: tuple[int, ...]):
        self.size, self.strides = size, strides
        self._parts: dict[int, list[tuple[int, int, torch.Tensor]]] = {s: [] for s in strides}

    def lay(self, top: int, left: int, maps: dict[int, torch.Tensor]) -> None:
        """Stride → (C, h, w) of a tile at (top, left)."""
        for stride in self.strides:
            self._parts[stride].append((top // stride, left // stride, maps[stride]))

    def whole(self) -> dict[int, torch.Tensor]:
        """Stride → (C, H // stride, W // stride)."""
        return {stride: self._averaged(stride) for stride in self.strides}

    def _averaged(self, stride: int) -> torch.Tensor:
        grid, parts = [side // stride for side in self.size], self._parts[stride]
        first = parts[0][2]
        if len(parts) == 1 and list(first.shape[1:]) == grid:
            return first
        total, count = first.new_zeros(len(first), *grid), first.new_zeros(grid)
        for top, left, part in parts:
            where = slice(top, top + part.shape[1]), slice(left, left + part.shape[2])
            total[:, *where] += part
            count[where] += 1
        return total / count.clamp(min=1)
