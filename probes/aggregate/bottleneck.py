"""The supervised bottleneck of GeoAware, and what it is trained by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from probes.aggregate.correspondence import HEAD, SitePCK
from probes.aggregate.hyperfeature_net import HyperfeatureNet
from probes.aggregate.hyperfeatures import HyperfeatureMixer
from probes.checks import check_number
from probes.objectives import Objective


class DroppedNet(HyperfeatureNet):
    """`HyperfeatureNet` of cells whose numbers are dropped at random in training.

    Args:
        dropout: share of the numbers that come in which are set to 0; the others grow.
    """

    def __init__(self, *args: Any, dropout: float, **options: Any):
        super().__init__(*args, **options)
        self.dropout = nn.Dropout(dropout)

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        return super().forward(*map(self.dropout, cells))


@dataclass(eq=False, repr=False, kw_only=True)
class Bottleneck(HyperfeatureMixer):
    """A bottleneck for matching: key points told apart, and found near where they are.

        loss = ½·(CE(S/T, i) + CE(S'/T, i)) + w·mean |soft-argmax_β(f_i, g) − b_i| / max(H, W)

    S are the cosines of the n key points of a pair with each other, read bilinearly on both maps,
    and i is each one's own partner. The second term is a distance, in shares of the map's larger
    side: from the mean place of a softmax, over β, of the cosines of a source's point with all
    sites, to where the point is. Each cell has a residual bottleneck (one a block, for all its t),
    and what they give is added with softmax weights, as in `HyperfeatureMixer`, whose training
    this is; how the published network joins its inputs in detail is not followed.

    Args:
        width: channels of what comes out; 768 as published.
        size: rows and columns of what comes out; 60 as published. None: the largest grid.
        dropout: of the input, in training; .2 as published.
        temperature: T, ours: CLIP's at its start.
        beta: of the soft-argmax; .02 as published.
        dense: w, ours.

    All others, and the attributes, are those of `HyperfeatureMixer`. Its matches are best read by
    `WindowSoftArgmaxMatcher(radius=7)`, as published; without training the radius is 5.

    Source: Zhang et al. 2024, Telling left from right (GeoAware), section 4.
    """

    block: ClassVar[str] = "bottleneck"

    width: int = 768
    size: int | None = 60
    dropout: float = 0.2
    temperature: float = 0.07
    beta: float = 0.02
    dense: float = 1.0

    def fit(self, cells: Any, targets: Any = None, *, validation: Any = None):
        """Train it on key points.

        Args:
            cells: `probes.Cells` with the pictures' sizes.
            targets: `probes.Pairs` with key points on both sides.
            validation: a share of the groups, or (cells, pairs); see `HyperfeatureMixer.fit`.

        Returns:
            self.

        Raises:
            ValueError: as `HyperfeatureMixer.fit`.
        """
        check_number("dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")
        check_number("dense", self.dense, 0 <= self.dense < math.inf, ">= 0")
        for name in ("temperature", "beta"):
            check_number(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "> 0")
        return super().fit(cells, targets, objective=self._objective(), validation=validation)

    def _objective(self) -> Objective:
        return key_points(self.temperature, self.beta, self.dense)

    def _run(self, *args: Any, **about: Any):
        return super()._run(*args, dropout=self.dropout, **about)

    @property
    def _net(self) -> Any:
        return partial(DroppedNet, dropout=self.dropout)


def key_points(temperature: float = 0.07, beta: float = 0.02, dense: float = 1.0) -> Objective:
    """The objective of `Bottleneck`, validated by the share of key points that are found."""
    loss = partial(key_point_loss, temperature=temperature, beta=beta, dense=dense)
    name = f"key points (T {temperature:g}, beta {beta:g}, dense {dense:g})"
    return Objective(name, loss, len, "pck", SitePCK, True, _same, _same, "float64", gaps=True)


def key_point_loss(
    output: torch.Tensor,
    targets: torch.Tensor,
    reduction: str,
    temperature: float = 0.07,
    beta: float = 0.02,
    dense: float = 1.0,
) -> torch.Tensor:
    """See `Bottleneck`.

    Args:
        output: (2p, C, H, W), sources before targets.
        targets: (p, 5 + 4·n), see `correspondence.pair_table`.
        reduction: "mean" or "sum" over pairs.
    """
    total = output.new_zeros(())
    for source, target, row in zip(*output.chunk(2), targets, strict=True):
        points = row[HEAD:].view(-1, 4)
        points = points[~torch.isnan(points[:, 0])].to(output.dtype)  # column, row of both
        f, g = read_sites(source, points[:, :2]), read_sites(target, points[:, 2:])  # (n, C)
        similar, own = f @ g.T / temperature, torch.arange(len(points), device=points.device)
        apart = (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2
        there = soft_argmax(f, target, beta) - points[:, 2:]
        total = total + apart + dense * _length(there).mean() / max(output.shape[2:])
    return total / len(targets) if reduction == "mean" else total


def read_sites(values: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """(C, H, W) map at (n, 2) columns, rows → (n, C) unit vectors; bilinear, clamped."""
    most = sites.new_tensor([values.shape[2] - 1, values.shape[1] - 1])
    scaled = 2 * sites.clamp_min(0).minimum(most) / most.clamp_min(1) - 1
    found = F.grid_sample(values[None], scaled[None, None], align_corners=True)  # (1, C, 1, n)
    return F.normalize(found[0, :, 0].T, dim=1)


def soft_argmax(vectors: torch.Tensor, values: torch.Tensor, beta: float) -> torch.Tensor:
    """(n, C) unit vectors and a (C, H, W) map → (n, 2) mean column, row by softmax of cosine/β."""
    _, height, width = values.shape
    share = (vectors @ F.normalize(values.flatten(1), dim=0) / beta).softmax(1)  # (n, H·W)
    share = share.view(-1, height, width)
    columns, rows = (torch.arange(side, device=values.device, dtype=values.dtype)
                     for side in (width, height))  # fmt: skip
    return torch.stack([share.sum(1) @ columns, share.sum(2) @ rows], 1)


def _length(steps: torch.Tensor) -> torch.Tensor:
    """(n,) lengths of (n, 2), with a gradient at 0 too."""
    return (steps.square().sum(1) + 1e-12).sqrt()


def _same(output: torch.Tensor) -> torch.Tensor:
    return output
