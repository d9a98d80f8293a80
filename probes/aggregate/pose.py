"""A picture or its mirror image: whichever lies nearer to the picture that it is matched with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from probes.aggregate.frames import together
from probes.aggregate.grids import normalised
from probes.cells import Cells
from probes.checks import pick_device
from probes.maps import Maps, as_float
from probes.pairs import as_points

PLAIN, MIRRORED = "plain", "mirrored"
STRIP = 1 << 24
"""Similarities that are held at a time."""


def with_mirrored(cells: Cells, mirrored: Cells) -> Cells:
    """The features of pictures and of their mirror images, in one frame.

    Args:
        cells: of the pictures.
        mirrored: the same cells of the same pictures, extracted with `mirror`: their placements
            have sx < 0, so that it is known which place of the picture each site shows. (Of
            pictures that were mirrored as files: `unmirrored`.)

    Returns:
        `Cells` of "plain/BLOCK" and "mirrored/BLOCK". A map of the latter is laid in the picture's
        own frame: at a place stands what the network made of that place in the mirrored picture.

    Raises:
        ValueError: other pictures, cells or sizes; placements that mirror nothing.
    """
    if set(cells.keys) != set(mirrored.keys):
        raise ValueError(f"the mirrored pictures have the cells {list(mirrored.keys)}; expected "
                         f"{list(cells.keys)}, as the pictures have")  # fmt: skip
    if mirrored.placements is None or not (mirrored.placements[:, 0] < 0).all():
        raise ValueError(
            "the placements of the mirrored pictures have sx >= 0; expected features extracted "
            "with mirror, or unmirrored(cells) of mirrored files"
        )
    return together([cells, mirrored], [PLAIN, MIRRORED])


def unmirrored(cells: Cells) -> Cells:
    """Features of files that were mirrored, x → W − 1 − x, said to be of the files as they were.

    Only the placements change: sx becomes −sx and tx becomes tx + sx·W.

    Raises:
        ValueError: the sizes of the pictures are not known.
    """
    numbers = np.array([cells.frame(row).numbers for row in range(len(cells))])
    numbers[:, 1] += numbers[:, 0] * cells.sizes[:, 1]
    numbers[:, 0] *= -1
    return Cells({key: cells[key] for key in cells.keys}, sizes=cells.sizes, placements=numbers,
                 input_size=cells.input_size)  # fmt: skip


@dataclass(eq=False, repr=False, kw_only=True)
class PoseAdapter(BaseEstimator):
    """Of every pair, matches the source or its mirror image, whichever is more like the target.

        both = with_mirrored(cells, mirrored)
        Paired(WindowSoftArgmaxMatcher(), PoseAdapter()).match_pairs(both, pairs)

    Compared is the mean, over the sites that lie in the picture, of the distance to the nearest
    site of the target, of unit vectors; of several cells their mean. The mirror image is taken
    where its distance is less.

    What is done to points: the mirrored picture's features are laid in the source's own frame, so
    a point (x, y) of the source reads what the mirrored picture has at (W − 1 − x, y), which is the
    same thing seen the other way round. The left eye of a face looks like a right eye there. Where
    points have names with left and right in them, give `partners`: then, in a pair whose mirror
    image is taken, the point that is called left eye is looked for from the place of the right
    eye, which is where the mirrored picture has what looks like a left one; it keeps its name, and
    matches stand in the order of the points as they were given. Without partners every point is
    looked for from its own place.

    Args:
        partners: (n,) index of each point's partner, its own where it has none, of pairs that all
            have the same n points in the same order.
        device: "auto" is where the source's maps lie.

    Source: Zhang et al. 2024, Telling left from right (GeoAware), adaptive pose alignment.
    """

    partners: Sequence[int] | None = None
    device: str = "auto"

    def choose(self, source: Maps, mirrored: Maps, target: Maps) -> bool:
        """Whether the mirrored source is more like the target.

        Args:
            source, mirrored, target: maps of the same cells; `mirrored` in any frame.

        Raises:
            ValueError: other cells or channels; no cell; a picture of which no site lies in it.
        """
        return self.distance(mirrored, target) < self.distance(source, target)

    def distance(self, source: Maps, target: Maps) -> float:
        """Mean distance, 0 to 2, of the source's sites to the nearest of the target's."""
        _check_cells(source, target)
        return float(np.mean([self._distance(source, target, cell) for cell in source.values]))

    def pair(self, source: Maps, target: Maps, points: Any) -> tuple[Maps, Maps, Any]:
        """The version of the source that is nearer, the target, and the points to look for.

        Args:
            source, target: of `with_mirrored`; the target's mirror image is not looked at.
            points: (n, 2) x, y in pixels of the upright source.

        Raises:
            ValueError: as `choose`; another number of points than of partners.
        """
        plain, mirrored = (_named(source, name) for name in (PLAIN, MIRRORED))
        target = _named(target, PLAIN)
        partners = self._partners(len(as_points(points)))
        if not self.choose(plain, mirrored, target):
            return plain, target, points
        return mirrored, target, as_points(points)[partners]

    def _partners(self, count: int) -> np.ndarray:
        if self.partners is None:
            return np.arange(count)
        found = np.asarray(self.partners)
        good = found.ndim == 1 and found.dtype.kind in "iu" and np.isin(found, range(len(found)))
        if not np.all(good) or (found[found] != np.arange(len(found))).any():
            raise ValueError(f"partners={self.partners!r:.60}; expected the index of each point's "
                             "partner, whose partner it is")  # fmt: skip
        if len(found) != count:
            raise ValueError(f"{count} points and {len(found)} partners; expected pairs that all "
                             "have the same points in the same order")  # fmt: skip
        return found

    def _distance(self, source: Maps, target: Maps, cell: Any) -> float:
        device = pick_device(self.device, source[cell])
        a, b = (_vectors(maps, cell).to(device) for maps in (source, target))
        step, total = max(1, STRIP // b.shape[1]), 0.0
        for some in a.split(step, 1):
            nearest = (some.T @ b).amax(1).double()
            total += float((2 - 2 * nearest).clamp_min(0).sqrt().sum())
        return total / a.shape[1]


def _vectors(maps: Maps, cell: Any) -> torch.Tensor:
    """(C, n) unit vectors of the sites that lie in the picture."""
    h, w = maps.grid(cell)
    rows, columns = np.indices((h, w))
    points = maps.points(np.stack([columns.ravel(), rows.ravel()], 1), cell)
    shown = np.flatnonzero(maps.valid(points))
    if not len(shown):
        raise ValueError(f"no site of cell {cell} lies in the picture; expected one at least")
    values = as_float(maps[cell]).flatten(1)
    return normalised(values.index_select(1, torch.from_numpy(shown).to(values.device))[None])[0]


def _check_cells(source: Maps, target: Maps) -> None:
    shapes = [{cell: len(one[cell]) for cell in one.values} for one in (source, target)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(f"cells and channels {shapes[0]} of the source and {shapes[1]} of the "
                         "target; expected the same, at least one")  # fmt: skip


def _named(maps: Maps, name: str) -> Maps:
    """The maps of "name/BLOCK", as those of BLOCK."""
    own = [key for key in maps.values if str(key[0]).startswith(f"{name}/")]
    found = {(key[0].removeprefix(f"{name}/"), *key[1:]): maps[key] for key in own}
    if not found:
        raise ValueError(f"the maps have the cells {list(maps.values)}; expected some of blocks "
                         f"'{name}/…', as with_mirrored names them")  # fmt: skip
    return replace(maps, values=found)
