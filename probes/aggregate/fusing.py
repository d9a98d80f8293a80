"""Features of several models as one vector a site: each a unit vector, weighted, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from probes.aggregate.base import Aggregator
from probes.aggregate.frames import one_row, together
from probes.aggregate.grids import Grid, check_weights, grid_of, normalised
from probes.aggregate.hyperfeature_net import resized
from probes.cells import Cells, cells_of
from probes.checks import pick_device
from probes.lazy import as_numpy, as_tensor
from probes.maps import Maps


@dataclass(eq=False, repr=False, kw_only=True)
class Fusion(Aggregator):
    """Any features of the same pictures, joined with weights.

        f = concat_g w_g·v_g/|v_g|,    v_g = concat_s up(f_gs)

    v_g are all cells of one model (one `Cells` each), read on one grid in the frame of the first
    model's inputs, whatever placements, input sizes and grids the others have (`frames.together`).
    The cosine of two such vectors is Σ_g w_g²·cos_g / Σ_g w_g².

    Args:
        weights: >= 0, one a group; None: 1 each.
        reduce: a `CoPCA` that makes one map of the first group's cells before, as SD+DINO has it;
            None joins them.
        size: (h, w) of what comes out; None: the finest grid of the first group.
        outside: of places that the first input shows and another does not: "refuse" them, or go on
            with the outermost sites ("edge").
        device: "auto" is the CPU.

    Attributes:
        cells_: (block, t) of all, as `together` names them.
        groups_: (S,) int64, which group each cell is of.

    Source: Zhang et al. 2023, A tale of two features (SD+DINO), eq. 5.
    """

    block: ClassVar[str] = "fused"

    weights: Sequence[float] | None = None
    reduce: Any = None
    size: Grid | None = None
    outside: str = "refuse"
    device: str = "auto"

    def fit(self, cells: Any, y: Any = None):
        """Note the cells, and fit `reduce`.

        Args:
            cells: a sequence of `Cells` of the same pictures, one a model; or one `Cells`, of which
                every cell is a group.

        Returns:
            self.

        Raises:
            ValueError: features of other pictures, weights that do not fit, no maps.
        """
        joined, groups = self._joined(cells)
        check_weights(self.weights, int(groups[-1]) + 1, "group of features")
        self._note(joined)
        self.groups_ = groups
        if self.reduce is not None:
            self.reduce_ = clone(self.reduce).fit(self._first(joined))
        return self

    def transform(self, cells: Any) -> Cells:
        """One map a picture, in the first group's frame; made when rows of it are read.

        Args:
            cells: as `fit` takes them, of any pictures; or what `together` makes of them.

        Raises:
            ValueError: as `fit`; cells, groups or channels that are not those of `fit`.
        """
        check_is_fitted(self)
        joined, groups = self._joined(cells)
        if isinstance(cells, (list, tuple)) and groups[-1] != self.groups_[-1]:
            raise ValueError(f"{groups[-1] + 1} groups of features; expected "
                             f"{self.groups_[-1] + 1}, as in fit")  # fmt: skip
        if self._pairwise:
            self.reduce_.transform(self._first(joined))  # says why not
        return super().transform(joined)

    def transform_maps(self, maps: Any) -> Maps:
        """The same of one picture: its `Maps`, or a sequence of them, one a model."""
        if isinstance(maps, Maps):
            return super().transform_maps(maps)
        return self.transform([one_row(one) for one in maps]).maps(0)

    def pair(self, source: Maps, target: Maps, points: Any = None) -> tuple[Maps, Maps, Any]:
        """Both pictures of a pair fused, the first group reduced for this pair.

        Args:
            source, target: maps of all cells, as `together` lays and names them.
            points: handed back as they are.
        """
        check_is_fitted(self)
        if not self._pairwise:
            return self.transform_maps(source), self.transform_maps(target), points
        first, found = self._keys(0), []
        halves = [replace(one, values={key: one[key] for key in first}) for one in (source, target)]
        for whole, half in zip((source, target), self.reduce_.pair(*halves)[:2], strict=True):
            arrays = [np.asarray(half[self.reduce_.key])[None]]
            arrays += [np.asarray(as_numpy(whole[key]), np.float32)[None]
                       for key in self.cells_ if key not in first]  # fmt: skip
            groups = np.concatenate([[0], self.groups_[len(first) :]])
            found.append(replace(whole, values={self.key: self._fused(arrays, groups)[0]}))
        return *found, points

    def shape_of(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
        first = len(self._keys(0))
        grid = grid_of(self.size, shapes[:first])
        if self.reduce is not None:
            shapes = [self.reduce_.shape_of(shapes[:first]), *shapes[first:]]
        return sum(shape[0] for shape in shapes), *grid

    def _restore(self) -> None:
        steps = np.diff(self.groups_, prepend=0)
        if self.groups_[0] != 0 or not np.isin(steps, (0, 1)).all():
            raise ValueError(f"groups_={self.groups_.tolist()}; expected ascending from 0")
        super()._restore()

    def _apply(self, arrays: list[np.ndarray]) -> np.ndarray:
        if self.reduce is None:
            return self._fused(arrays, self.groups_)
        first = len(self._keys(0))
        reduced = self.reduce_._apply(arrays[:first])
        return self._fused([reduced, *arrays[first:]], np.concatenate([[0], self.groups_[first:]]))

    def _fused(self, arrays: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
        device, count = pick_device(self.device, None), int(groups[-1]) + 1
        grid = grid_of(self.size, [a.shape for a, g in zip(arrays, groups, strict=True) if g == 0])
        found = []
        for g, weight in enumerate(check_weights(self.weights, count, "group of features")):
            own = [as_tensor(array).to(device)
                   for array, of in zip(arrays, groups, strict=True) if of == g]  # fmt: skip
            vectors = torch.cat([resized(one, grid) for one in own], 1)
            found.append(float(weight) * normalised(vectors))
        return torch.cat(found, 1).cpu().numpy()

    @property
    def _pairwise(self) -> bool:
        return self.reduce is not None and getattr(self.reduce_, "scope", "set") == "pair"

    def _keys(self, group: int) -> list[Any]:
        return [key for key, g in zip(self.cells_, self.groups_, strict=True) if g == group]

    def _first(self, joined: Cells) -> Cells:
        """The first group's cells alone."""
        return Cells({key: joined[key] for key in self._keys(0)}, sizes=joined.sizes,
                     placements=joined.placements, input_size=joined.input_size)  # fmt: skip

    def _joined(self, cells: Any) -> tuple[Cells, np.ndarray]:
        """All cells as one `Cells`, and which group each is of."""
        if isinstance(cells, (list, tuple)):
            joined = together(cells, size=self.size, outside=self.outside)
            counts = [len(cells_of(group).keys) for group in cells]
            return joined, np.repeat(np.arange(len(counts)), counts)
        joined = cells_of(cells)
        return joined, np.arange(len(joined.keys))
