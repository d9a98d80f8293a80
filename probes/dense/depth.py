"""Depth at every pixel, by a network over whole maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from probes.cells import cells_of
from probes.checks import check_choice, check_counts, check_number
from probes.dense.dpt import DPT, body_keys
from probes.dense.fpn import FPN
from probes.dense.levels import levels_of
from probes.dense.pyramid import GridHead
from probes.dense.truth import DepthMaps
from probes.layers import group_norm, resized
from probes.lazy import Rows
from probes.network import Shapes
from probes.objectives import Objective
from probes.pixel_objectives import of_depth

KINDS = ("vpd", "dpt", "fpn")
OUTPUTS = ("plain", "bins", "learned-bins")
STEP = 2
"""By which convolutions make maps smaller, and transposed ones larger."""


class VPDDepth(nn.Module):
    """VPD's depth head: all grids to the second coarsest one, and up from there.

        320-map: conv s2, GN, ReLU, conv s2      640-map: conv s2
        1280-maps: as they are, the coarsest resized
        all side by side → 1×1 to `width`, GN, ReLU → transposed convolutions s2 to `filters`
        → conv 3×3 to `last`, GN, ReLU → conv 3×3

    as published with maps at 64, 32, 16 and 8. A grid that is 2^r times as fine takes r
    convolutions of stride 2, which keep its channels; what comes out is at most twice as fine as
    the finest grid, by the first of `filters`. The published last convolution follows the
    enlargement by 4; here it precedes it, because it is on a sixteenth of the places. GroupNorm
    stands for BatchNorm.

    Args:
        shapes: (C, h, w) of the maps.
        outputs: channels of what comes out.
        width: 1536 as published. filters: (32, 32, 32). last: 192.

    Source: Zhao et al. 2023 (VPD), its depth encoder and decoder.
    """

    def __init__(
        self, shapes: Shapes, outputs: int, width: int, filters: tuple[int, ...], last: int
    ):
        super().__init__()
        self.levels = levels_of(shapes)
        self.middle = max(0, len(self.levels) - 2)
        size = self.levels[self.middle].size
        self.down = nn.ModuleList(_down(one.channels, one.size, size) for one in self.levels)
        total = sum(one.channels for one in self.levels)
        layers = [nn.Conv2d(total, width, 1), group_norm(width), nn.ReLU()]
        room = 2 * min(a / b for a, b in zip(self.levels[0].size, size, strict=True))
        for filters_next in filters[: max(0, math.floor(math.log2(room)))]:
            layers += [nn.ConvTranspose2d(width, filters_next, STEP, stride=STEP, bias=False),
                       group_norm(filters_next), nn.ReLU()]  # fmt: skip
            width = filters_next
        layers += [nn.Conv2d(width, last, 3, padding=1, bias=False), group_norm(last), nn.ReLU()]
        self.up = nn.Sequential(*layers, nn.Conv2d(last, outputs, 3, padding=1))

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        maps = [level.joined(cells) for level in self.levels]
        size = maps[self.middle].shape[2:]
        maps = [resized(down(one), size) for down, one in zip(self.down, maps, strict=True)]
        return self.up(torch.cat(maps, 1))


def _down(channels: int, size: tuple[int, int], wanted: tuple[int, int]) -> nn.Module:
    """As many convolutions of stride 2 as lie between two grids."""
    steps = max(0, round(math.log2(max(1, min(a / b for a, b in zip(size, wanted, strict=True))))))
    layers: list[nn.Module] = []
    for k in range(steps):
        layers += [group_norm(channels), nn.ReLU()] if k else []
        layers.append(nn.Conv2d(channels, channels, 3, stride=STEP, padding=1))
    return nn.Sequential(*layers)


class PlainDepth(nn.Module):
    """low + (high − low)·sigmoid: (n, 1, H, W) → (n, H, W) metres."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.low + (self.high - self.low) * logits[:, 0].sigmoid()


class BinnedDepth(nn.Module):
    """sum over b of softmax(logits)_b·c_b: (n, B, H, W) → (n, H, W) metres.

    The centres c are those of B bins between low and high whose logarithms are equally wide; or,
    if they are learnt, as wide as a softmax of B scalars says, the same for all pictures.

    Source: Bhat et al. 2021 (AdaBins), eq. 1 to 3, whose widths are of each picture.
    """

    def __init__(self, low: float, high: float, bins: int, learned: bool):
        super().__init__()
        self.low, self.high = math.log(low), math.log(high)
        widths = torch.zeros(bins)
        if learned:
            self.widths = nn.Parameter(widths)
        else:
            self.register_buffer("widths", widths)

    @property
    def centres(self) -> torch.Tensor:
        """(B,) metres, ascending."""
        widths = (self.high - self.low) * self.widths.softmax(0)
        return (self.low + widths.cumsum(0) - widths / 2).exp()

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nbhw,b->nhw", logits.softmax(1), self.centres)


@dataclass(eq=False, repr=False, kw_only=True)
class DepthHead(GridHead):
    """Depth in metres at every pixel: a network over the cells' own grids.

    Args:
        max_depth: the largest depth that can be said, in metres; known depths beyond it do not
            count in training. None: the largest of training.
        min_depth: the smallest, likewise; above 0.
        kind: "vpd", see `VPDDepth`; "fpn", see `FPN`; "dpt", see `DPT`.
        output: "plain", a sigmoid between both; "bins" or "learned-bins", see `BinnedDepth`.
        bins: how many.
        width: channels inside; "vpd" has published 1536, the others 256.
        filters: of the transposed convolutions of "vpd", each of which doubles the grid.
        last: channels of its last but one convolution; 192 as published.
        objective: "silog" (VPD's), "scale-shift", "log-l1", "log-l2", or a sum such as
            "silog + 0.1·log-l1", see `probes.pixel_objectives.of_depth`.
        lambda_: of "silog".
        per: "picture" or "batch", of "silog".

    All others are those of `GridHead`.

    Attributes:
        max_depth_: in metres.
        history_: with validation: validation_loss, validation_abs_rel.

    Further attributes: see `GridHead`.

    Source: see `VPDDepth`, `FPN`, `DPT`, `BinnedDepth`.
    """

    max_depth: float | None = 10.0
    min_depth: float = 1e-3
    kind: str = "vpd"
    output: str = "plain"
    bins: int = 64
    width: int = 128
    filters: tuple[int, ...] = (32, 32, 32)
    last: int = 64
    objective: str = "silog"
    lambda_: float = 0.5
    per: str = "picture"

    def fit(self, cells: Any, depth: Any, validation: Any = None, *, groups: Any = None):
        """Train the head.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, with sizes.
            depth: N (H, W) real numbers in metres, of the pictures' size; nan is unknown.
            validation: what scores every epoch: a share, by groups where there are any; or
                (cells, depth). None: `validation_fraction`.
            groups: (N,) of the pictures, which are never in both parts.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, depth of another size or no metres, none that is
                known and between `min_depth` and `max_depth`, parameters out of range, a loss that
                is not finite, a checkpoint of another training.
        """
        self._check()
        self._objective()
        cells = cells_of(cells)
        self._note(cells)
        truth = DepthMaps(depth, cells)

        def again(held: Any, known: Any) -> DepthMaps:
            return self._between(DepthMaps(known, held, "validation depth"))

        self.max_depth_ = self.max_depth or self._largest(truth)
        return self._fit(cells, self._between(truth), again, validation, groups)

    def _check(self) -> None:
        super()._check()
        check_counts(self, "width", "bins", "filters", "last")
        check_choice("kind", self.kind, KINDS)
        check_choice("output", self.output, OUTPUTS)
        check_number("min_depth", self.min_depth, 0 < self.min_depth < math.inf, "> 0, in metres")
        if self.max_depth is not None:
            good = self.min_depth < self.max_depth < math.inf
            check_number("max_depth", self.max_depth, good, "> min_depth, or None")

    def _largest(self, truth: DepthMaps) -> float:
        """The largest known depth; ValueError where none is known."""
        most = 0.0
        for one in truth:
            known = one[np.isfinite(one)]
            most = max(most, float(known.max()) if known.size else 0.0)
        if not most > self.min_depth:
            raise ValueError(f"no pixel of {len(truth)} depth maps is known and above min_depth="
                             f"{self.min_depth:g}; expected metres, nan where unknown")  # fmt: skip
        return most

    def _between(self, truth: DepthMaps) -> DepthMaps:
        """Depths that can be said; others count as unknown."""
        return BoundedDepths(truth.values, truth.cells, truth.name, self.min_depth, self.max_depth_)

    def _look(self, targets: Rows, rows: np.ndarray) -> None:
        self.n_outputs_ = 1 if self.output == "plain" else self.bins
        if not any(np.isfinite(targets[int(row) : int(row) + 1]).any() for row in rows):
            raise ValueError(
                f"no pixel of {len(rows)} depth maps has a known depth between min_depth="
                f"{self.min_depth:g} and max_depth={self.max_depth_:g}; expected metres, nan where "
                "unknown"
            )

    def _about(self) -> dict[str, Any]:
        return {**super()._about(), "kind": self.kind, "output": self.output,
                "depths": [self.min_depth, self.max_depth_]}  # fmt: skip

    def _objective(self) -> Objective:
        return of_depth(self.objective, lambda_=self.lambda_, per=self.per)

    def _body(self, shapes: Shapes, outputs: int) -> nn.Module:
        if self.kind == "fpn":
            return FPN(shapes, outputs, self.width)
        if self.kind == "dpt":
            return DPT(body_keys(self, shapes), shapes, outputs, self.width)
        return VPDDepth(shapes, outputs, self.width, tuple(self.filters), self.last)

    def _decoder(self) -> nn.Module:
        if self.output == "plain":
            return PlainDepth(self.min_depth, self.max_depth_)
        learned = self.output == "learned-bins"
        return BinnedDepth(self.min_depth, self.max_depth_, self.bins, learned)

    def _say(self, strip: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.module_.decode(strip[None])[0]

    def score(self, cells: Any, depth: Any) -> float:
        """Minus the mean absolute relative error, so that larger is better.

        The mean over pictures of the mean |d − d*|/d* over known pixels, after alignment where the
        objective is "scale-shift"; see `probes.metrics.DepthErrors` for others.

        Raises:
            ValueError: nothing is known.
        """
        cells = self._checked(cells)
        truth, measure = DepthMaps(depth, cells), self._objective().measure()
        for row, found in enumerate(self.predict(cells)):
            measure.update(torch.from_numpy(found[None]), torch.from_numpy(truth[row][None]))
        if not len(measure.errors):
            raise ValueError("depth is known of no pixel; expected some")
        return -measure.compute()


class BoundedDepths(DepthMaps):
    """Depths between two bounds; others are nan."""

    def __init__(self, values: Any, cells: Any, name: str, low: float, high: float):
        super().__init__(values, cells, name)
        self.low, self.high = low, high

    def __getitem__(self, row: int) -> np.ndarray:
        depth = super().__getitem__(row)
        with np.errstate(invalid="ignore"):
            return np.where((depth >= self.low) & (depth <= self.high), depth, np.float32(np.nan))
