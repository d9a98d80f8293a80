"""Labels of a clip's first frame carried to all others by the similarity of their features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch.nn import functional as F

from probes.cells import Cells
from probes.checks import check_choice, check_number
from probes.maps import Maps
from probes.matching.base import weights_of
from probes.pairs import Matches, as_points
from probes.propagation.context import Context, Frames, begun
from probes.propagation.windows import nearest_sites

LABELS = "labels"
"""The cell of maps that hold soft labels."""
SCALES = ("min-max", "none")
FLAT = 1e-6
"""Share of its largest value by which a map of one value may vary: rounding."""


@dataclass(eq=False, repr=False, kw_only=True)
class LabelPropagator(BaseEstimator):
    """Every site takes over the labels of the sites most like it in earlier frames.

        label(i) = sum w_j·label(j),  w_j = exp(cos(i, j) / T) / sum of the same over the top k

    where j are those k of all sites of the context, frames together, within the radius of i, that
    are most like i. What frames took over stays soft in the context. Nothing is learnt.

    The defaults are DIFT's for Stable Diffusion; for ADM it takes `temperature=0.1, top_k=10`.
    Published code keeps all of several sites that are equally like, so that there can be more than
    k; it upsamples to the resized picture and takes the nearest pixel from there, here labels are
    read at the pixels of the upright picture.

    Args:
        last: frames before this one that are compared with it.
        first: whether the first frame is, too, however far back.
        radius: sites, along rows and along columns: the neighbourhood is a square of 2·radius + 1
            sites. None: everywhere.
        free_first: whether the first frame is searched everywhere, whatever the radius, as the
            code of Jabri et al. does.
        top_k: how many sites count.
        temperature: T.
        scale: "min-max": each label's map, read at the pixels, is stretched to [0, 1] before the
            largest is taken, but for maps of one value; "none": it is not.
        weights: of the cells, by cell or in order, where there are several; None: 1 each.
        low_pass: sigma, in sites, of a Gaussian that smooths every map first.
        device: "auto" is where the maps lie.

    Source: Tang et al. 2023, Emergent correspondence from image diffusion, and the authors'
    eval_davis.py, after Jabri et al. 2020, Space-time correspondence as a contrastive random walk.
    """

    last: int = 28
    first: bool = True
    radius: int | None = 15
    free_first: bool = False
    top_k: int = 15
    temperature: float = 0.2
    scale: str = "min-max"
    weights: Mapping[Any, float] | Sequence[float] | None = None
    low_pass: float | None = None
    device: str = "auto"

    def propagate(
        self, frames: Cells | Iterable[Maps], mask: Any, objects: Sequence[int] | None = None
    ) -> Iterator[np.ndarray]:
        """The labels of every frame, one after the other.

        Args:
            frames: maps of a clip's frames in order, the first of which the mask is of; `Cells`,
                rows in order, or maps as they come. They share cells, grid, size and placement.
                Several cells are one vector.
            mask: (H, W) whole numbers or bool, of the first frame: 0 is background, other numbers
                are objects.
            objects: which of them are followed; others count as background. None: all.

        Returns:
            (H, W) uint8 of each frame as it is asked for: 0, or an object's number. The first is
            the mask itself. What the input does not show is background. Objects in which no site's
            centre lies are lost after it, with a warning.

        Raises:
            ValueError: no frames, a mask of another size or without objects, objects that it
                lacks, numbers above 255; and, when a frame comes, one unlike the first.
        """
        first, frames = begun(frames)
        mask = _checked_mask(mask, first.size)
        numbers = _objects(mask, objects)
        kept = np.where(np.isin(mask, numbers), mask, 0).astype(np.uint8)
        channels = [0, *numbers]
        soft = self.propagate_maps(frames, lambda maps: _labelled(kept, channels, maps))

        def hard() -> Iterator[np.ndarray]:
            for place, maps in enumerate(soft):
                yield self._largest(maps, channels) if place else kept

        return hard()

    def propagate_maps(
        self, frames: Cells | Iterable[Maps], labels: Any | Callable[[Maps], Any]
    ) -> Iterator[Maps]:
        """Soft labels of every frame at the sites of its maps.

        Args:
            frames: as `propagate` takes them.
            labels: (K, h, w) numbers >= 0 of the first frame, on its grid; or what makes them of
                its maps.

        Returns:
            Of each frame, as it is asked for, Maps with (K, h, w) float labels in the one cell
            "labels", that lie where the frame's maps do. The first frame has its own.

        Raises:
            ValueError: as `propagate`; labels of another shape.
        """
        self._check()
        first, frames = begun(frames)
        reader = Frames(weights_of(self.weights, tuple(first.values)), self.low_pass, self.device)
        features = reader.read(first)
        given = _checked_labels(labels(first) if callable(labels) else labels, features)
        return self._carried(frames, reader, features, given)

    def propagate_points(
        self,
        frames: Cells | Iterable[Maps],
        points: Any,
        *,
        sigma: float | None = 0.5,
        top: int = 3,
    ) -> Iterator[Matches]:
        """Key points, such as joints, each a label of its own.

        A point's label is a Gaussian around it; where it is in another frame is the mean of the
        `top` sites that have most of its label, weighted by that.

        Args:
            frames: as `propagate` takes them.
            points: (n, 2) x, y in pixels of the first frame.
            sigma: of the Gaussian, in sites; None: the nearest site alone is labelled.
            top: how many sites.

        Returns:
            Matches of each frame as it is asked for; `score` is the most that a site has of the
            label. Points outside the first frame are not valid anywhere, nor where a label is
            lost. The first frame has the points themselves.

        Raises:
            ValueError: as `propagate`.

        Source: the authors' code of Jabri et al. 2020 (sigma .5, the top 3 sites). There points are
        rounded down to sites, and the first frame is searched beyond the radius, too
        (`free_first`).
        """
        if sigma is not None:
            check_number("sigma", sigma, sigma > 0, "> 0, in sites, or None")
        check_number("top", top, top == int(top) and top >= 1, "that is whole and >= 1")
        points = as_points(points)
        if not len(points):
            raise ValueError("no points; expected one at least")
        first, frames = begun(frames)
        known = first.valid(points)
        soft = self.propagate_maps(frames, lambda maps: _bumps(points, known, sigma, maps))

        def found() -> Iterator[Matches]:
            for place, maps in enumerate(soft):
                matches = _peaks(maps, int(top))
                if not place:
                    matches = Matches(points, matches.score, known)
                yield matches

        return found()

    def _carried(
        self, frames: Iterator[Maps], reader: Frames, features: torch.Tensor, labels: torch.Tensor
    ) -> Iterator[Maps]:
        context = Context(int(self.last), self.first)
        for place, maps in enumerate(frames):
            if place:
                features = reader.read(maps)
                labels = self.taken_over(features, context)
            context.add(features, labels)
            values = labels.T.clone(memory_format=torch.contiguous_format)
            values = values.view(-1, *features.shape[:2])
            yield Maps({LABELS: values}, maps.size, maps.input_size, maps.placement)

    def taken_over(self, features: torch.Tensor, context: Context) -> torch.Tensor:
        """(h·w, K) labels of a frame with (h, w, C) features."""
        frames, k = context.features, int(self.top_k)
        if self.free_first and self.first and self.radius is not None:
            sites, similar = nearest_sites(features, frames[:1], None, k)
            if len(frames) > 1:
                others = nearest_sites(features, frames[1:], self.radius, k)
                sites = torch.cat([sites, others[0] + features[..., 0].numel()], 1)
                both = torch.cat([similar, others[1]], 1)
                similar, best = both.topk(min(k, both.shape[1]), dim=1)
                sites = sites.gather(1, best)
        else:
            sites, similar = nearest_sites(features, frames, self.radius, k)
        shares = torch.softmax(similar / self.temperature, dim=1)
        return F.embedding_bag(sites, context.labels, per_sample_weights=shares, mode="sum")

    def _largest(self, maps: Maps, numbers: Sequence[int]) -> np.ndarray:
        """(H, W) uint8: the number whose label is largest at each pixel; of several the first."""
        best = labels = None
        for number, values in zip(numbers, maps[LABELS], strict=True):
            one = Maps({LABELS: values[None]}, maps.size, maps.input_size, maps.placement)
            whole, shown = one.resize(LABELS)
            whole = self._scaled(whole[0], shown)
            if best is None:
                best, labels = whole, torch.full(whole.shape, number, dtype=torch.uint8)
                continue
            more = whole > best
            best = torch.where(more, whole, best)
            labels[more.cpu()] = number
        return np.where(shown, labels.numpy(), 0).astype(np.uint8)

    def _scaled(self, values: torch.Tensor, shown: np.ndarray) -> torch.Tensor:
        if self.scale == "none":
            return values
        seen = values if shown.all() else values[torch.from_numpy(shown).to(values.device)]
        low, high = seen.aminmax()
        flat = bool(high - low <= FLAT * high)
        return values if flat else (values - low) / (high - low)

    def _check(self) -> None:
        check_choice("scale", self.scale, SCALES)
        check_number("last", self.last, self.last == int(self.last) and self.last >= 0,
                     "that is whole and >= 0")  # fmt: skip
        if not self.first and not self.last:
            raise ValueError("first=False with last=0; expected a frame to take labels from")
        if not self.first and self.free_first:
            raise ValueError("free_first=True with first=False; expected the first frame to count")
        if self.radius is not None:
            check_number("radius", self.radius, self.radius == int(self.radius) >= 0,
                         "of sites that is whole and >= 0, or None")  # fmt: skip
        check_number("top_k", self.top_k, self.top_k == int(self.top_k) >= 1,
                     "that is whole and >= 1")  # fmt: skip
        check_number("temperature", self.temperature, self.temperature > 0, "> 0")
        if self.low_pass is not None:
            check_number("low_pass", self.low_pass, self.low_pass > 0, "> 0, in sites, or None")


def _checked_mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise ValueError(f"the mask has shape {mask.shape} and dtype {mask.dtype}; expected (H, W) "
                         "whole numbers, 0 for background")  # fmt: skip
    if mask.shape != tuple(size):
        raise ValueError(
            f"the mask is {mask.shape[1]} × {mask.shape[0]} pixels and the first frame "
            f"{size[1]} × {size[0]}; expected a mask of the upright frame"
        )
    if mask.min() < 0 or mask.max() > 255:
        raise ValueError(f"the mask has {mask.min()} to {mask.max()}; expected 0 to 255")
    return mask.astype(np.uint8)


def _objects(mask: np.ndarray, objects: Sequence[int] | None) -> list[int]:
    """The numbers of the objects that are followed, sorted."""
    there = [number for number in np.unique(mask).tolist() if number]
    if objects is None:
        if not there:
            raise ValueError("the mask of the first frame shows no object, all of it is 0; "
                             "expected one at least")  # fmt: skip
        return there
    wanted = sorted({int(number) for number in objects})
    if not wanted or 0 in wanted or (missing := [one for one in wanted if one not in there]):
        said = "none" if not wanted else "0, the background" if 0 in wanted else f"{missing}"
        raise ValueError(f"objects={list(objects)} ask for {said}; expected some of {there}, which "
                         "the mask of the first frame shows")  # fmt: skip
    return wanted


def _labelled(mask: np.ndarray, numbers: Sequence[int], maps: Maps) -> np.ndarray:
    """`at_sites`, with a warning of objects that no site has."""
    found = at_sites(mask, numbers, maps)
    lost = [number for number, one in zip(numbers, found, strict=True) if number and not one.any()]
    if lost:
        h, w = found.shape[1:]
        warnings.warn(f"no centre of the {h}×{w} sites lies in the object{'s' * (len(lost) > 1)} "
                      f"{', '.join(map(str, lost))}, too small or outside of the input: lost after "
                      "the first frame; larger inputs have more sites", stacklevel=5)  # fmt: skip
    return found


def at_sites(mask: np.ndarray, numbers: Sequence[int], maps: Maps) -> np.ndarray:
    """(K, h, w) float32 1 where the pixel nearest to a site's centre has a number.

    Sites whose centre lies outside of the picture are background.
    """
    cell = next(iter(maps.values))
    h, w = maps.grid(cell)
    columns, rows = np.meshgrid(np.arange(w), np.arange(h))
    points = maps.points(np.stack([columns.ravel(), rows.ravel()], 1), cell)
    x, y = np.floor(points + 0.5 + 1e-9).astype(np.int64).T
    inside = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
    found = np.zeros(h * w, mask.dtype)
    found[inside] = mask[y[inside], x[inside]]
    return (found.reshape(h, w) == np.array(numbers)[:, None, None]).astype(np.float32)


def _bumps(points: np.ndarray, known: np.ndarray, sigma: float | None, maps: Maps) -> np.ndarray:
    """(n, h, w) float32 Gaussians around points; 0 for those that are not known."""
    cell = next(iter(maps.values))
    h, w = maps.grid(cell)
    column, row = maps.sites(points, cell).T
    if sigma is None:
        column, row = (np.clip(np.rint(at), 0, side - 1) for at, side in ((column, w), (row, h)))
    down, across = np.arange(h) - row[:, None], np.arange(w) - column[:, None]
    away = down[:, :, None] ** 2 + across[:, None] ** 2
    found = away == 0 if sigma is None else np.exp(-away / (2 * sigma**2))
    return (found * known[:, None, None]).astype(np.float32)


def _peaks(maps: Maps, top: int) -> Matches:
    """Where labels lie: the mean of the sites that have most of each."""
    values = maps[LABELS].flatten(1)
    most, at = values.topk(min(top, values.shape[1]), dim=1)
    most, at = most.double().cpu().numpy(), at.cpu().numpy()
    known = most[:, 0] > 0
    shares = most / np.where(known, most.sum(1), 1)[:, None]
    width = maps.grid(LABELS)[1]
    sites = np.stack([(at % width * shares).sum(1), (at // width * shares).sum(1)], 1)
    return Matches(maps.points(sites, LABELS), most[:, 0], known)


def _checked_labels(labels: Any, features: torch.Tensor) -> torch.Tensor:
    """(h·w, K) labels of the first frame."""
    found = torch.as_tensor(labels)
    grid = tuple(features.shape[:2])
    if found.ndim != 3 or tuple(found.shape[1:]) != grid or not len(found):
        raise ValueError(f"labels have shape {tuple(found.shape)}; expected (K, {grid[0]}, "
                         f"{grid[1]}), on the grid of the first frame's maps")  # fmt: skip
    if not bool((found >= 0).all()):
        raise ValueError("labels have numbers below 0, or nan; expected 0 or more")
    return found.flatten(1).T.to(features).contiguous()
