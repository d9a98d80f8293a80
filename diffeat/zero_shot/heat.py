"""Heat maps of words: where a text-to-image model attends to the tokens of a word.

    D_k = Σ w·up(mean over the tokens of word k of A) / Σ w

over layers, heads, noise levels and ensemble members, where A is a head's attention of every
cell to a token, up a bicubic resize to one common grid, and w the head's weight (1, or by
`diffeat.zero_shot.weighing`). In joint attention A are the text's columns of the one softmax
(`cross.map`), or what its tokens attend to of the image (`t2i.map`).

Maps are reduced inside the forward, layer by layer, and summed level by level: of the text only the
words' tokens are kept, and memory knows neither the number of layers nor that of levels.

Source: Tang et al. 2023 (DAAM), for cross-attention; Seg4Diff (NeurIPS 2025) reads the same of one
joint block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from diffeat.backbones import Backbone
from diffeat.blocks import BlockInfo, resolve_blocks
from diffeat.errors import NumericsError, SpecError
from diffeat.extraction import PREDICTION, Batch, Conditions, Extractor, Plan
from diffeat.extraction.reduce import feature
from diffeat.extraction.trajectory import walk
from diffeat.specs import ExtractSpec
from diffeat.zero_shot.prompts import WordRun
from diffeat.zero_shot.weighing import LEAST, TINY, WEIGHTS, rescaled

ALL_MAPS = ("all:cross.map",)
"""Attention to text of every layer of the denoiser."""


@dataclass(frozen=True)
class HeatOptions:
    """How attention becomes heat.

    Attributes:
        weights: a name of `weighing.WEIGHTS`.
        rescale: whether a pixel's attention is divided by that to the whole prompt first
            (`weighing.rescaled`).
        refine: blocks, self-attention maps of one grid, that spread the heat: every cell has the
            mean heat of those that it attends to, D' = S·D with the rows of S summing to 1.
        power: how many times.
        grid: (h, w) of the common grid; None: the finest one of the layers.
        guidance: of generation (see `diffeat.extraction.trajectory.walk`); 1 is none.
    """

    weights: str = "even"
    rescale: bool = False
    refine: tuple[str, ...] = ()
    power: int = 1
    grid: tuple[int, int] | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise SpecError(f"weights={self.weights!r}; expected one of {', '.join(WEIGHTS)}")
        if not math.isfinite(self.guidance):
            raise SpecError(f"guidance={self.guidance}; expected a number, such as 7.5")
        if self.power < 1 or (self.grid is not None and min(self.grid) < 1):
            raise SpecError(f"power={self.power}, grid={self.grid}; expected at least 1")


class WordForward(Extractor):
    """An `Extractor` of attention to words, whose maps are reduced as they are made.

    Args:
        backbone: a model that reads text.
        spec: levels, noise, size and blocks, which are maps of attention to text; its prompt and
            tokens are the run's.
        run: which prompt, and which of its tokens the words are.
        options: how attention becomes heat.
        batch_size: see `Extractor`.

    Raises:
        SpecError: blocks of another kind, refinement on several grids, tiles or mirrors.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: ExtractSpec,
        run: WordRun,
        options: HeatOptions,
        batch_size: int | str | None = None,
    ):
        self.run_, self.options = run, options
        keys = {key for word in run.keys for key in word}
        self.kept = tuple(sorted(keys | set(run.content if options.rescale else ()))) or (0,)
        spec = replace(
            spec, prompt=run.prompt, captions=None, embeddings=None, tokens=self.kept,
            pool="none", dtype="float32",
        )  # fmt: skip
        _check(backbone, spec)
        plan = Plan(backbone, spec)
        self.selves = self._self_plan(backbone, spec) if options.refine else None
        if batch_size is None and self.selves is not None:
            batch_size = min(plan.default_batch(), self.selves.row_limit)
        super().__init__(plan, batch_size, Conditions.of_spec(backbone, spec))
        where = {key: place for place, key in enumerate(self.kept)}
        self._places = [[where[key] for key in word] for word in run.keys]
        self._content = [where[key] for key in run.content if key in where]

    def _self_plan(self, backbone: Backbone, spec: ExtractSpec) -> Plan:
        """Of the self-attention maps that refine the heat."""
        found = Plan(backbone, replace(spec, blocks=self.options.refine, tokens=None, heads=None))
        for block in found.blocks:
            if not block.attends_to_image:
                raise SpecError(f"refine: block {block.name!r} is no self-attention map; expected "
                                "such as up.1.attn.*:self.map")  # fmt: skip
        grids = {block.grid(found.size) for block in found.blocks}
        if len(grids) > 1:
            shown = ", ".join(f"{h}×{w}" for h, w in sorted(grids))
            raise SpecError(f"refine: maps of the grids {shown}; expected those of one grid")
        return found

    # --- what is kept ---------------------------------------------------------------------

    @cached_property
    def taps(self) -> dict[str, Any]:
        own = {block.name: self.plan.tap(block) for block in self.plan.blocks}
        more = () if self.selves is None else self.selves.blocks
        return own | {block.name: self.selves.tap(block) for block in more}

    def keep(self, size, x_t, name, read):
        """(n, K·h·w + K): Σ w·m over heads, and Σ w; of self-attention its mean over heads."""
        if name == PREDICTION:
            return super().keep(size, x_t, name, read)
        if self.selves is not None and name in self._of_selves:
            return feature(self.selves, self._of_selves[name], read, size, x_t)
        plan, count = self._plans[name]
        maps = feature(plan, self._blocks[name], read, size, x_t)
        return self._reduced(maps.float().unflatten(1, (-1, len(self.kept))), count)

    @cached_property
    def _of_selves(self) -> dict[str, BlockInfo]:
        return {block.name: block for block in self.selves.blocks}

    @cached_property
    def _plans(self) -> dict[str, tuple[Plan, int]]:
        """Of each block: the plan that its map is read by, and for how many heads one map stands.

        Weights that differ need every head apart; else their mean is all that is needed.
        """
        found = {}
        for block in self.plan.blocks:
            count = block.heads if block.head is None else 1
            plan, stands = self.plan, count
            if self.plan.spec.heads is not None:
                stands = 1
            elif count == 1:
                pass
            elif self.options.weights != "even" or self.options.rescale:
                spec = replace(self.plan.spec, blocks=(block.name,), heads=tuple(range(count)))
                plan, stands = Plan(self.backbone, spec), 1
            found[block.name] = plan, stands
        return found

    def _reduced(self, maps: torch.Tensor, count: int) -> torch.Tensor:
        """(n, G, S, h, w) maps of kept tokens → (n, K·h·w + K).

        Args:
            count: heads that each of the G maps stands for.
        """
        words = torch.stack([maps[:, :, p].mean(2) if p else torch.zeros_like(maps[:, :, 0])
                             for p in self._places], 2)  # (n, G, K, h, w)  # fmt: skip
        if self.options.rescale:
            words = rescaled(words, maps[:, :, self._content])
        weights = WEIGHTS[self.options.weights](words).clamp_min(LEAST) * count  # (n, G, K)
        total = torch.einsum("ngk,ngkhw->nkhw", weights, words)
        return torch.cat([total.flatten(1), weights.sum(1)], 1)

    def _walk(self, x, condition):
        """As it is; where it paints, with guidance and to the end."""
        if not self.plan.generates:
            yield from walk(self, x, condition)
            return
        null = None
        if self.options.guidance != 1:
            one = self.backbone.condition([""], [self.plan.spec.label])
            null = {name: v.expand(len(x), *v.shape[1:]) for name, v in one.items()}
        yield from walk(self, x, condition, null, self.options.guidance, whole=True)

    # --- what comes of it -----------------------------------------------------------------

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the common grid."""
        if self.options.grid is not None:
            return self.options.grid
        return max(block.grid(self.plan.size) for block in self.plan.blocks)

    def heat(self, batch: Batch) -> HeatSums:
        """Heat of every word of a batch of P pictures.

        Raises:
            NumericsError: it is nan or inf.
        """
        sums = HeatSums(self, len(batch))
        self.fill(batch, sums)
        if not torch.isfinite(sums.heat).all():
            raise NumericsError(f"{self.backbone.name}: the attention to {self.run_.prompt!r} is "
                                "nan or inf; try --model-dtype float32")  # fmt: skip
        return sums


@dataclass
class HeatSums:
    """Takes reduced maps of P pictures and adds them up.

    Attributes:
        forward: whose maps.
        count: P.
        total: (P, K, h, w) fp32, Σ w·up(m) on the common grid.
        weight: (P, K) Σ w.
        selves: (P, M, M) Σ of self-attention, cell → cell; None where it does not refine.
        painted: (P, C, h, w) clean latents, where pictures are painted.
    """

    forward: WordForward
    count: int
    total: torch.Tensor = field(init=False)
    weight: torch.Tensor = field(init=False)
    selves: torch.Tensor | None = field(init=False, default=None)
    painted: torch.Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        device, words = self.forward.backbone.device, len(self.forward.run_.keys)
        self.total = torch.zeros(self.count, words, *self.forward.grid, device=device)
        self.weight = torch.zeros(self.count, words, device=device)

    def put(self, name: str, rows: slice, values: torch.Tensor) -> None:
        """Add features of rows, level · P + picture."""
        which = torch.arange(rows.start, rows.stop, device=values.device) % self.count
        if name == PREDICTION:
            if self.painted is None:
                self.painted = values.new_zeros(self.count, *values.shape[1:])
            self.painted[which] = values
        elif self.forward.selves is not None and name in self.forward._of_selves:
            maps = values.flatten(2).transpose(1, 2)  # (n, M queries, M keys)
            if self.selves is None:
                self.selves = maps.new_zeros(self.count, *maps.shape[1:])
            self.selves.index_add_(0, which, maps)
        else:
            words = self.weight.shape[1]
            grid = self.forward._blocks[name].grid(self.forward.plan.size)
            maps = values[:, :-words].unflatten(1, (words, *grid))
            self.total.index_add_(0, which, resized(maps, self.forward.grid))
            self.weight.index_add_(0, which, values[:, -words:])

    def put_every_level(self, name: str, values: torch.Tensor) -> None:
        """Of the VAE, of which nothing is kept."""

    @property
    def heat(self) -> torch.Tensor:
        """(P, K, h, w) fp32 weighted means; 0 of a word that the prompt does not have."""
        found = self.total / self.weight[..., None, None].clamp_min(TINY)
        if self.selves is None:
            return found
        block = next(iter(self.forward._of_selves.values()))
        grid, options = block.grid(self.forward.plan.size), self.forward.options
        return resized(refined(resized(found, grid), self.selves, options.power), self.forward.grid)


def refined(heat: torch.Tensor, attention: torch.Tensor, power: int = 1) -> torch.Tensor:
    """Heat spread by self-attention: D' = S^power · D.

    Args:
        heat: (P, K, h, w).
        attention: (P, M, M) ≥ 0, from a cell (row) to the cells that it attends to, M = h·w; rows
            are brought to a sum of 1.
    """
    rows = attention / (attention.sum(-1, keepdim=True) + TINY)
    flat = heat.flatten(2).transpose(1, 2)  # (P, M, K)
    for _ in range(power):
        flat = rows @ flat
    return flat.transpose(1, 2).unflatten(2, heat.shape[2:])


def resized(maps: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(n, K, h, w) on another grid, bicubic between centres of cells."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, tuple(grid), mode="bicubic", align_corners=False)


def _check(backbone: Backbone, spec: ExtractSpec) -> None:
    """SpecError for blocks and views that have no heat of words."""
    if spec.tile or spec.flip:
        raise SpecError("heat of words is of whole pictures; leave tile and flip out")
    if spec.fit == "native":
        raise SpecError("fit=native gives maps of different sizes; expected squash, crop or pad")
    for block in resolve_blocks(spec.blocks, backbone.tensors, backbone.aliases):
        if not block.is_attention or "text" not in (block.keys, block.queries):
            raise SpecError(f"block {block.name!r} is no map of attention to text; expected such "
                            "as up.1.attn.0:cross.map, or all:cross.map")  # fmt: skip


class WordHeat:
    """Heat maps of words, batch by batch, under whatever prompts the pictures have.

    Args:
        backbone, spec, options, batch_size: see `WordForward`.

    Attributes:
        size: (H, W) of the inputs in pixels.
    """

    KEPT = 8
    """Prompts whose forwards are kept ready."""

    def __init__(
        self,
        backbone: Backbone,
        spec: ExtractSpec,
        options: HeatOptions | None = None,
        batch_size: int | str | None = None,
    ):
        self.backbone, self.spec, self.options = backbone, spec, options or HeatOptions()
        self.batch_size = batch_size
        self._ready: dict[WordRun, WordForward] = {}

    def forward(self, run: WordRun) -> WordForward:
        """The forward under a prompt; of more than `KEPT` that take turns, the text is encoded
        anew."""
        if run not in self._ready:
            while len(self._ready) >= self.KEPT:
                self._ready.pop(next(iter(self._ready)))
            self._ready[run] = WordForward(
                self.backbone, self.spec, run, self.options, self.batch_size
            )
        return self._ready[run]

    def __call__(self, batch: Batch, runs: Sequence[Sequence[WordRun]]) -> torch.Tensor:
        """(P, K, h, w) fp32 heat on the CPU; -inf of words that a picture's prompts do not have.

        Args:
            batch: of P pictures of one size.
            runs: for each picture, the prompts that it is run under; the K words of each.
        """
        found: torch.Tensor | None = None
        for run in dict.fromkeys(one for each in runs for one in each):
            places = [k for k, each in enumerate(runs) if run in each]
            there = [k for k, keys in enumerate(run.keys) if keys]
            if not there:
                continue
            heat = self.forward(run).heat(_some(batch, places)).heat.cpu()
            if found is None:
                found = torch.full((len(batch), *heat.shape[1:]), -torch.inf)
            for row, place in enumerate(places):
                found[place, there] = heat[row, there]
        if found is None:  # no prompt of these pictures has any of the words
            words = max(len(run.keys) for each in runs for run in each)
            found = torch.full((len(batch), words, 1, 1), -torch.inf)
        return found


def _some(batch: Batch, places: list[int]) -> Batch:
    """Some pictures of a batch, whose conditions are all the same."""
    noise, sample = (None if one is None else one[places] for one in (batch.noise, batch.sample))
    pixels = batch.pixels[places]
    return Batch.of(pixels, [batch.ids[k] for k in places], None, noise, sample)
