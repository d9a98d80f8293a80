"""One picture seen several times: tiles whose maps are averaged where they overlap, mirrors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from diffeat.blocks import BlockInfo
from diffeat.errors import SpecError
from diffeat.extraction.batch import Batch
from diffeat.extraction.conditions import Conditions
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.features import Key
from diffeat.extraction.pending import Pending, check_finite, peaks
from diffeat.extraction.plan import Plan
from diffeat.extraction.reduce import low_passed


@dataclass(frozen=True)
class View:
    """A part of the picture, in pixels, and whether it is mirrored."""

    top: int
    left: int
    mirrored: bool


def offsets(length: int, tile: int, multiple: int, layout: str = "even") -> list[int]:
    """Where tiles begin: as few as cover `length`, at multiples of `multiple`.

    "even" spreads them evenly: 1280 with tiles of 512 gives 0, 384 and 768. "shifted" puts them
    side by side and shifts the last one back: 0, 512 and 768.
    """
    count = math.ceil(length / tile)
    if count == 1:
        return [0]
    last = length - tile
    if last % multiple:
        raise SpecError(
            f"tiles of {tile} do not end with a side of {length}: the last would begin at {last}, "
            f"no multiple of the blocks' stride {multiple}; choose sizes that differ by one"
        )
    if layout == "even":
        return [round(last * k / (count - 1) / multiple) * multiple for k in range(count)]
    if count > 2 and tile % multiple:
        raise SpecError(
            f"tiles of {tile} side by side do not begin at multiples of the blocks' stride "
            f"{multiple}; choose another tile, or tile_layout='even'"
        )
    return [*range(0, last, tile), last]


def extractor_for(
    plan: Plan,
    batch_size: int | str | None = None,
    conditions: Conditions | None = None,
    *,
    sharing: int = 1,
) -> Extractor | ViewExtractor:
    """The extractor that a plan needs; see `Extractor` for the arguments."""
    kind = ViewExtractor if plan.spec.tile or plan.spec.flip else Extractor
    return kind(plan, batch_size, conditions, sharing=sharing)


class ViewExtractor:
    """Like `Extractor`, over the tiles and mirror images that the spec asks for.

    Every view is run by itself; its maps are laid where they belong and averaged in fp32, then
    pooled. All views of a picture share its noise: a tile has its part of it (or, with
    tile_noise="tile", all of one that has the size of a tile), and a mirrored view has it mirrored
    too. A tile's part of the posterior's sample is its own in either case.
    """

    def __init__(
        self,
        plan: Plan,
        batch_size: int | str | None = None,
        conditions: Conditions | None = None,
        *,
        sharing: int = 1,
    ):
        self.plan, self._sharing = plan, sharing
        self.conditions = conditions or Conditions.of_spec(plan.backbone, plan.spec)
        self._inner: dict[tuple[int, int], Extractor] = {}
        size = plan.spec.tile or plan.size or plan.backbone.native_size
        self.batch_size = self._made(size, batch_size).batch_size
        if plan.size:
            self.views(plan.size)  # refuses tiles that do not fit before work begins

    def _made(self, tile: tuple[int, int], batch_size: int | str | None) -> Extractor:
        """The extractor of whole maps for one size of tile."""
        if tile not in self._inner:
            spec = replace(self.plan.spec, size=tile, tile=None, flip=False, pool="none",
                           low_pass=None, dtype="float32", fit="squash", tile_noise="picture",
                           tile_layout="even")  # fmt: skip
            plan = Plan(self.plan.backbone, spec, self.plan.text_length)
            self._inner[tile] = Extractor(plan, batch_size, self.conditions, sharing=self._sharing)
        return self._inner[tile]

    def _extractor(self, tile: tuple[int, int]) -> Extractor:
        found = self._made(tile, self.batch_size)
        found.batch_size = min(self.batch_size, found.plan.row_limit)
        return found

    def forward_rows(self, size: tuple[int, int]) -> int:
        """Most rows of one forward for pictures of (H, W) pixels."""
        tile = self.plan.spec.tile or size
        return self._extractor(tile).forward_rows(tile)

    @property
    def pictures(self) -> int:
        """Pictures of one call; see `Plan.pictures_per_call`."""
        return self.plan.pictures_per_call(self.batch_size)

    def views(self, size: tuple[int, int]) -> list[View]:
        """The views of a picture of (H, W) pixels."""
        plan, tile, layout = self.plan, self.plan.spec.tile or size, self.plan.spec.tile_layout
        stride = math.lcm(plan.backbone.step, *(block.stride for block in plan.blocks))
        return [
            View(top, left, mirrored)
            for top in offsets(size[0], tile[0], stride, layout)
            for left in offsets(size[1], tile[1], stride, layout)
            for mirrored in ((False, True) if plan.spec.flip else (False,))
        ]

    def __call__(self, batch: Batch) -> dict[Key, torch.Tensor]:
        """Features of one batch; see `Extractor.__call__`."""
        return self.start(batch).result()

    def start(self, batch: Batch) -> Pending:
        """Begin the work on one batch; see `Extractor.start`.

        With a CUDA device a view is laid down while the next one is computed, and the last of
        them when the result is asked for.
        """
        size = batch.size
        batch = batch.drawn(self.plan)
        tile, factor = self.plan.spec.tile or size, self.plan.backbone.latent_factor
        whole = self.plan.spec.tile_noise == "picture"
        canvas = _Canvas(self.plan, size, tile, len(batch))
        for view in self.views(size):
            part = batch.window(view.top, view.left, tile, view.mirrored, factor, whole)
            canvas.add(view, self._extractor(tile).start(part))
        return canvas


class _Canvas(Pending):
    """Whole maps that views are laid on, in fp32 on the CPU."""

    def __init__(self, plan: Plan, size: tuple[int, int], tile: tuple[int, int], count: int):
        self.plan, self.tile = plan, tile
        shapes = {block.name: plan.map_shape(block, size) for block in plan.blocks}
        self._sums = {key: torch.zeros(count, *shapes[key[0]]) for key in plan.keys}
        self._counts = {name: torch.zeros(shape[1:]) for name, shape in shapes.items()}
        self._last: tuple[View, Pending] | None = None

    def add(self, view: View, pending: Pending) -> None:
        """Lay the view before this one, which is done by now."""
        before, self._last = self._last, (view, pending)
        if before is not None:
            self._lay(*before)

    def _lay(self, view: View, pending: Pending) -> None:
        part = pending.result()
        for block in self.plan.blocks:
            where = _place(block, view, self.tile)
            self._counts[block.name][where] += 1
            for level in self.plan.levels:
                value = part[block.name, level.t]
                value = _mirrored(block, value) if view.mirrored else value
                self._sums[block.name, level.t][:, :, *where] += value

    def _finish(self) -> dict[Key, torch.Tensor]:
        """Averages, pooled, in the dtype that is stored."""
        plan = self.plan
        if self._last is not None:
            self._lay(*self._last)
        found = {key: self._pooled(value / self._counts[key[0]])
                 for key, value in self._sums.items()}  # fmt: skip
        for block in plan.blocks:
            rows = [peaks(found[block.name, level.t]) for level in plan.levels]
            check_finite(plan, block.name, torch.cat(rows))
        self._sums, self._last = {}, None
        return {key: value.to(plan.dtype) for key, value in found.items()}

    def _pooled(self, maps: torch.Tensor) -> torch.Tensor:
        pool, cutoff = self.plan.pool, self.plan.spec.low_pass
        maps = maps if cutoff is None else low_passed(maps, cutoff)
        return maps if pool is None else F.adaptive_avg_pool2d(maps, pool).flatten(1)


def _mirrored(block: BlockInfo, maps: torch.Tensor) -> torch.Tensor:
    """Maps (n, C, h, w) of a mirrored picture, mirrored back; tokens that hold cells too."""
    maps = maps.flip(3)
    if block.of_network and block.is_tokens:  # C·2·2 channels, columns last
        return maps.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
    return maps


def _place(block: BlockInfo, view: View, tile: tuple[int, int]) -> tuple[slice, slice]:
    """Where a view's map lies in the whole map."""
    top, left = view.top // block.stride, view.left // block.stride
    height, width = block.grid(tile)
    return slice(top, top + height), slice(left, left + width)
