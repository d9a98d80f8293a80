"""Principal components shared by the two pictures of a pair, or by a set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from probes.aggregate.base import Aggregator
from probes.aggregate.grids import chained, check_axes, leading, principal, project, signed
from probes.cells import Cells, cells_of
from probes.checks import check_choice, check_counts, pick_device
from probes.lazy import as_numpy, as_tensor
from probes.maps import Maps


@dataclass(eq=False, repr=False, kw_only=True)
class CoPCA(Aggregator):
    """Each cell's sites on their principal axes, on its own grid; then grid by grid to the finest.

        y_s = V_s·(f_s − m_s),    out = [y_fine, up([y_middle, up(y_coarse)])]

    m_s and V_s are of the sites of both pictures of a pair ("pair", as published, with `pair`), or
    of all pictures of `fit` ("set", which is computed once a picture). All sites count, also those
    of a padding. Rotations and signs of axes play no part in cosines; they are fixed all the same.

    Args:
        components: channels of each cell that are kept, at most those that it has.
        scope: "pair" or "set".
        device: "auto" is the CPU.

    Attributes:
        mean_: (ΣC,) float64 of each cell, one after the other ("set").
        components_: (k, ΣC) float64: the axes of each cell stand in its own columns; 0 where a cell
            has fewer than k ("set").

    Source: Zhang et al. 2023, A tale of two features (SD+DINO), section 4.
    """

    block: ClassVar[str] = "co_pca"

    components: int = 256
    scope: str = "pair"
    device: str = "auto"

    def fit(self, cells: Any, y: Any = None):
        """Note the cells; find their axes where these are of a set.

        Args:
            cells: `probes.Cells`, or a mapping from (block, t) to (N, C, h, w) maps.

        Returns:
            self.

        Raises:
            ValueError: cells that are no maps, or hold nan or inf; parameters out of range.
        """
        check_counts(self, "components")
        check_choice("scope", self.scope, ("pair", "set"))
        cells = cells_of(cells)
        self._note(cells)
        for name in ("mean_", "components_"):  # of an earlier fit
            vars(self).pop(name, None)
        if self.scope == "set":
            self._fit_set(cells)
        return self

    def _fit_set(self, cells: Cells) -> None:
        means, axes = [], []
        most = max(self._kept(shape) for shape in self.shapes_)
        for key in self.cells_:
            rows = cells.rows(key)
            found = principal([rows], rows.shape[2:], self._ready)
            own = found.axes(self.components)[0]
            axes.append(np.pad(own, ((0, most - len(own)), (0, 0))))
            means.append(found.mean.cpu().numpy())
        self.mean_, self.components_ = np.concatenate(means), np.concatenate(axes, 1)

    def transform(self, cells: Any) -> Cells:
        """One map a picture, by the axes of the set; see `Aggregator.transform`.

        Raises:
            ValueError: axes are of pairs, so that they are not known of one picture; other cells.
        """
        check_is_fitted(self)
        if self.scope == "pair":
            raise ValueError(
                "scope='pair' has axes of two pictures; match pairs with probes.matching.Paired, "
                "call pair(source, target), or take scope='set'"
            )
        return super().transform(cells)

    def pair(self, source: Maps, target: Maps, points: Any = None) -> tuple[Maps, Maps, Any]:
        """Both pictures of a pair, by axes of their own ("pair") or of the set.

        Args:
            source, target: maps of the cells of `fit`; axes of pairs need none before, and are
                then found for all cells that the source has.
            points: handed back as they are.

        Returns:
            Two `Maps` of the one key, and the points.

        Raises:
            ValueError: cells or channels that are not those of `fit`; nan or inf.
        """
        check_counts(self, "components")
        check_choice("scope", self.scope, ("pair", "set"))
        if self.scope == "set":
            return self.transform_maps(source), self.transform_maps(target), points
        if hasattr(self, "cells_"):
            known = zip(self.cells_, self.shapes_, strict=True)
        else:
            known = ((key, np.shape(values)) for key, values in source.values.items())
        sides = ([], [])
        for key, shape in known:
            both = [self._checked_map(maps, key, shape[0]) for maps in (source, target)]
            for side, made in zip(sides, shared_axes(*both, self.components), strict=True):
                side.append(made)
        made = (chained(side)[0].cpu().numpy() for side in sides)
        found = (replace(maps, values={self.key: one})
                 for maps, one in zip((source, target), made, strict=True))  # fmt: skip
        return *found, points

    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        finest = max((tuple(s[1:]) for s in shapes), key=lambda grid: (grid[0] * grid[1], grid))
        return sum(map(self._kept, shapes)), *finest

    def _restore(self) -> None:
        super()._restore()
        if self.scope == "set":
            check_axes(self)

    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        made, first = [], 0
        for array in arrays:
            own = slice(first, first + array.shape[1])
            axes = self.components_[: self._kept(array.shape[1:]), own]
            made.append(project(self._ready(array), self.mean_[own], axes))
            first = own.stop
        return chained(made).cpu().numpy()

    def _kept(self, shape: Sequence[int]) -> int:
        return min(self.components, shape[0])

    def _ready(self, values: np.ndarray) -> torch.Tensor:
        return as_tensor(values).to(pick_device(self.device, None))

    def _checked_map(self, maps: Maps, key: Any, channels: int) -> torch.Tensor:
        if key not in maps.values:
            raise ValueError(f"the cell {key} is missing; expected it in both pictures")
        values = np.asarray(as_numpy(maps[key]), np.float32)
        if values.ndim != 3 or len(values) != channels or not np.isfinite(values).all():
            raise ValueError(f"{key} has shape {values.shape}; expected a map of {channels} "
                             "channels, as in fit, of finite numbers")  # fmt: skip
        return self._ready(values[None])


def shared_axes(
    source: torch.Tensor, target: torch.Tensor, components: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps on the principal axes of the sites of both.

    The eigenvectors of the n×n Gram matrix of the n sites give the same numbers as those of the
    C×C covariance; the smaller of both is decomposed, in float64.

    Args:
        source, target: (1, C, h, w) of any grids.
        components: k, at most C; of fewer than k axes with variance the rest is 0.

    Returns:
        (1, k, h, w) of each, float32; of the numbers of an axis the one of the largest size is
        positive.
    """
    sites = torch.cat([one.flatten(2)[0] for one in (source, target)], 1).T.double()  # (n, C)
    sites = sites - sites.mean(0)
    kept = min(components, sites.shape[1])
    if len(sites) < sites.shape[1]:
        values, vectors = leading(sites @ sites.T, kept)
        found = vectors * values.clamp_min(0).sqrt()
    else:
        found = sites @ leading(sites.T @ sites, kept)[1]
    found = torch.nn.functional.pad(signed(found.T), (0, 0, 0, kept - found.shape[1])).float()
    cut = source.shape[2] * source.shape[3]
    return (found[:, :cut].reshape(1, kept, *source.shape[2:]),
            found[:, cut:].reshape(1, kept, *target.shape[2:]))  # fmt: skip
