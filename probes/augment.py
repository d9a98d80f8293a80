"""What is done at random to maps and to the maps of targets that lie over them, alike."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from probes.training import mirror

ZOOMS = 0.5, 2.0
"""The smallest and the largest: a picture at half size, a quarter of it over the whole frame."""

Parts = list[torch.Tensor]


def random_crop_scale(
    parts: Parts,
    rng: np.random.Generator,
    targets: torch.Tensor | None = None,
    unknown: float | None = None,
) -> Parts | tuple[Parts, torch.Tensor]:
    """Zoom each picture's maps by a random factor, and its target with them; frames stay.

    The factor z is log-uniform in 0.5 … 2. Where z > 1, a random window of 1/z of each side fills
    the frame; where z < 1, the whole lies at a random place of the frame, of z of each side. Maps
    are read bilinearly, and beyond the edge their outermost sites go on; targets are taken from the
    nearest site and are `unknown` beyond the edge. Depths are not changed, though what is seen z
    times larger looks z times nearer.

    A stand-in for zoomed pictures: it is the features that are resized.

    Args:
        parts: (n, C, h, w) maps over one frame, of any grids; vectors are left alone.
        targets: (n, H, W) over the same frame; None: there are none.
        unknown: what targets are beyond the edge; None: z is at least 1.

    Returns:
        The maps; with targets also those.
    """
    count = len(parts[0])
    low = 0.0 if targets is not None and unknown is None else np.log(ZOOMS[0])
    zoom = np.exp(rng.uniform(low, np.log(ZOOMS[1]), count))
    start = rng.random((count, 2)) * (1 - 1 / zoom)[:, None]  # x, y of the window, in frames
    moved = [_zoomed(part, zoom, start) if part.ndim == 4 else part for part in parts]
    return moved if targets is None else (moved, _nearest(targets, zoom, start, unknown))


def mirror_crop_scale(
    parts: Parts,
    rng: np.random.Generator,
    targets: torch.Tensor | None = None,
    unknown: float | None = None,
) -> Parts | tuple[Parts, torch.Tensor]:
    """`mirror`, then `random_crop_scale`."""
    if targets is None:
        return random_crop_scale(mirror(parts, rng), rng)
    *parts, flipped = mirror([*parts, targets[:, None]], rng)
    return random_crop_scale(parts, rng, flipped[:, 0], unknown)


for function in (random_crop_scale, mirror_crop_scale):
    function.joint = True


def _zoomed(part: torch.Tensor, zoom: np.ndarray, start: np.ndarray) -> torch.Tensor:
    """The window of each map, bilinear between centres of sites."""
    scale = part.new_tensor(1 / zoom)
    shift = part.new_tensor(2 * start + (1 / zoom)[:, None] - 1)  # of the window's centre
    matrix = part.new_zeros(len(part), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = scale, scale, shift
    grid = F.affine_grid(matrix, list(part.shape), align_corners=False)
    return F.grid_sample(part, grid, padding_mode="border", align_corners=False)


def _nearest(
    targets: torch.Tensor, zoom: np.ndarray, start: np.ndarray, unknown: float | None
) -> torch.Tensor:
    """The window of each target, from the site in which each centre lies."""
    found = torch.empty_like(targets)
    for k, one in enumerate(targets):
        places, inside = [], []
        for side, length in ((1, one.shape[0]), (0, one.shape[1])):
            centre = (np.arange(length) + 0.5) / length
            place = np.floor((start[k, side] + centre / zoom[k]) * length).astype(np.int64)
            inside.append((place >= 0) & (place < length))
            places.append(np.clip(place, 0, length - 1))
        rows, columns = (torch.from_numpy(place).to(one.device) for place in places)
        found[k] = one[rows][:, columns]
        if unknown is not None:
            shown = torch.from_numpy(inside[0][:, None] & inside[1]).to(one.device)
            found[k][~shown] = unknown
    return found
