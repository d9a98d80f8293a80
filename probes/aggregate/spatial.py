"""Fusion of cells with weights that vary over the map: each place takes the t that suits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from probes.aggregate.base import Key
from probes.aggregate.hyperfeature_net import HyperfeatureNet
from probes.aggregate.hyperfeatures import HyperfeatureMixer
from probes.lazy import as_numpy
from probes.maps import Maps

HIDDEN = 16
"""Channels inside what gives a site its weights."""


class SpatialNet(HyperfeatureNet):
    """`HyperfeatureNet` whose softmax is one of its own at every site x.

        z_bt = B_b(r_bt),    w(x) = softmax over (b, t) of sharpness·a_bt + G_b(z_bt)(x)
        y(x) = sum over (b, t) of w_bt(x)·z_bt(x)

    G_b is a 3×3 convolution to 16 channels, ReLU, and a 1×1 to one, per block, for all its t. The
    1×1 begins at 0, so that the weights begin as those of `HyperfeatureNet`.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.gates = nn.ModuleList(map(_gate, [self.width] * len(self.members)))

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        """S arrays (n, C_s, h_s, w_s) → (n, width, H, W); one block at a time is projected.

        The softmax runs along: numerator and denominator are scaled by the largest score so far.
        """
        mixed, total, top = 0.0, 0.0, None
        for z, scores in self._scored(cells):  # (T, n, width, H, W), (T, n, 1, H, W)
            most = scores.detach().amax(0)
            new = most if top is None else torch.maximum(top, most)
            before = 0.0 if top is None else (top - new).exp()
            share, top = (scores - new).exp(), new
            mixed = mixed * before + (share * z).sum(0)
            total = total * before + share.sum(0)
        return mixed / total

    def site_weights(self, *cells: torch.Tensor) -> torch.Tensor:
        """S arrays (n, C_s, h_s, w_s) → (n, S, H, W), which sum to 1 over the cells."""
        found = torch.empty(len(cells[0]), len(cells), *self.size, device=cells[0].device)
        for members, (_, scores) in zip(self.members, self._scored(cells), strict=True):
            found[:, members] = scores[:, :, 0].transpose(0, 1)
        return found.softmax(1)

    def _scored(self, cells: Any):
        """Of every block what it gives, and the logarithms of its weights up to a constant."""
        scalars = self.sharpness * self.scalars
        for (members, z), gate in zip(self.projected(cells), self.gates, strict=True):
            own = scalars[members].view(-1, 1, 1, 1, 1)
            yield z, gate(z.flatten(0, 1)).unflatten(0, z.shape[:2]) + own


def _gate(width: int) -> nn.Sequential:
    last = nn.Conv2d(HIDDEN, 1, 1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Conv2d(width, HIDDEN, 3, padding=1), nn.ReLU(), last)


@dataclass(eq=False, repr=False, kw_only=True)
class SpatialFusion(HyperfeatureMixer):
    """A `HyperfeatureMixer` whose weights are another softmax at every site of every picture.

    All else is the same, parameters, objectives, training and bottlenecks, so that a comparison of
    both tells what the place is worth. The idea, that weights over t vary in space, is MMDiff's;
    its network, blocks and t are not those of this class.

    Attributes: those of `HyperfeatureMixer`; `weights_of(maps)` in place of `weights_`.
    """

    block: ClassVar[str] = "spatial"
    _net: ClassVar[Any] = SpatialNet

    @property
    def weights_(self) -> dict[Key, float]:
        """AttributeError: they vary over the sites."""
        raise AttributeError("weights vary over the sites of a picture: call weights_of(maps)")

    def weights_of(self, maps: Maps) -> dict[Key, np.ndarray]:
        """(block, t) → (H, W) float32 weights of one picture; at every site they sum to 1.

        Raises:
            ValueError: cells that are not those of `fit`.
        """
        arrays = [torch.from_numpy(np.asarray(as_numpy(maps[key]), np.float32))[None]
                  for key in self._known(maps.values)]  # fmt: skip
        with torch.no_grad():
            found = self.module_.net.site_weights(*arrays)[0].numpy()
        return dict(zip(self.cells_, found, strict=True))
