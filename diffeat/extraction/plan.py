"""A spec worked out for one backbone: every name, level and shape checked before work begins."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import TORCH_DTYPES
from diffeat.backbones.request import ModelRequest
from diffeat.blocks import BlockInfo, resolve_blocks
from diffeat.errors import SpecError
from diffeat.hooks import Tap
from diffeat.loading import load_model
from diffeat.noise import ASKED, TRAJECTORIES, Level, NoiseLevel, asked_as, plain_t
from diffeat.specs import ExtractSpec, pool_size

MAX_MAP_BYTES = 1 << 30
"""Most memory that the attention maps of one (picture, t) may take together, in fp32."""
MAX_BATCH_BYTES = 1 << 29
"""Most host memory that the features of one batch take, as long as one picture's fit in it."""


class Plan:
    """A spec worked out for one backbone: blocks, levels, size and shapes, all checked.

    Attributes:
        spec: the spec with its blocks, timesteps and size spelled out.
        blocks: the tensors, in the order of execution.
        levels: the noise levels, in the order of the spec.
        asked: what was written for each of them.
        size: (H, W) of the pictures in pixels; None where each keeps its own.
        grid: the levels of an inversion or generation, from clean to noisy; else ().
        clean: whether nothing is noised.
        generates: whether it goes from noise to picture.

    Args:
        backbone: for which.
        spec: what is wanted.
        text_length: tokens of ready embeddings, where they are not the model's own length.

    Raises:
        SpecError: anything that cannot be done with this backbone.
    """

    def __init__(self, backbone: Backbone, spec: ExtractSpec, text_length: int | None = None):
        self.backbone, self.text_length = backbone, text_length
        spec = backbone.settled(spec)
        self.blocks = resolve_blocks(spec.blocks, backbone.tensors, backbone.aliases)
        walks = spec.noise in TRAJECTORIES
        self.grid = backbone.schedule.grid(spec.steps) if walks else ()
        self.clean, self.generates = spec.noise == "none", spec.noise == "generation"
        self.asked, self.levels = spec.timesteps, self._levels(spec.timesteps)
        self.pool = pool_size(spec.pool)
        self.size = self._size(spec)
        self.spec = replace(
            spec,
            blocks=tuple(block.name for block in self.blocks),
            timesteps=tuple(
                plain_t(level.t) if walks else backbone.schedule.spell(level)
                for level in self.levels
            ),
            size=self.size,
        )
        self._check_choices()
        self._check_members()
        if self.size is not None:
            self.check(self.size)

    def _size(self, spec: ExtractSpec) -> tuple[int, int] | None:
        if spec.fit != "native":
            return spec.size or self.backbone.native_size
        if spec.size is not None:
            raise SpecError(f"fit=native keeps each picture's size; leave size={spec.size} out")
        if self.pool is None or spec.tile:
            raise SpecError(
                "fit=native can give maps of different sizes, which do not fit one array (nor "
                "tiles); choose a pool such as 1x1, or another fit"
            )
        return None

    def check(self, size: tuple[int, int]) -> None:
        """SpecError if pictures of (H, W) pixels cannot be run or pooled."""
        self.backbone.check_size(self.spec.tile or size)
        self.backbone.check_size(size)
        if self.spec.tile and (self.spec.tile[0] > size[0] or self.spec.tile[1] > size[1]):
            raise SpecError(
                f"tile {self.spec.tile} is larger than the picture {size}; choose a smaller tile"
            )
        for block in self.blocks:
            if not block.has_grid:
                if self.pool not in (None, (1, 1)):
                    raise SpecError(
                        f"block {block.name!r} holds text tokens, which have no grid; pool them "
                        "with 1x1 (their mean) or not at all"
                    )
                continue
            grid = block.grid(size)
            if self.pool and (self.pool[0] > grid[0] or self.pool[1] > grid[1]):
                raise SpecError(
                    f"pool {self.spec.pool} is larger than the {grid[0]}×{grid[1]} map of block "
                    f"{block.name!r} at {size[0]}×{size[1]} pixels; choose a smaller "
                    "pool or a larger size"
                )
        self._check_memory(size)

    def _check_memory(self, size: tuple[int, int]) -> None:
        """Attention maps grow with the fourth power of a picture's side."""
        size = self.spec.tile or size
        maps = self._map_bytes(size)
        if sum(maps.values()) > MAX_MAP_BYTES:
            block = max(maps, key=maps.get)
            rows, columns = block.grid(size)
            raise SpecError(
                f"the attention maps ({len(maps)}, the largest {block.name!r} of "
                f"{rows * columns:,} cells) at {size[0]}×{size[1]} pixels take "
                f"{sum(maps.values()) / 2**30:.1f} GiB per picture and t, more than "
                f"{MAX_MAP_BYTES / 2**30:.0f} GiB; choose tokens, fewer heads, fewer maps, a "
                "smaller size, or blocks with a larger stride"
            )

    def _map_bytes(self, size: tuple[int, int]) -> dict[BlockInfo, int]:
        """fp32 bytes of every attention map of one picture of `size`."""
        return {b: 4 * math.prod(self.map_shape(b, size)) for b in self.blocks if b.is_attention}

    def _check_members(self) -> None:
        """What costs time and changes nothing."""
        spec = self.spec
        if spec.low_pass is not None and self.pool == (1, 1):
            warnings.warn(
                f"low_pass={spec.low_pass}: the mean over a map (pool=1x1) has no frequencies; it "
                "is the same without",
                stacklevel=3,
            )
        noisy = spec.noise in ("per-image", "per-content", "shared", "uniform", "generation")
        sampled = spec.latent == "sample" and self.backbone.vae is not None
        if spec.ensemble > 1 and not noisy and not sampled:
            warnings.warn(
                f"ensemble={spec.ensemble}: with noise={spec.noise} and latent={spec.latent} all "
                "members are the same; 1 gives the same features in less time",
                stacklevel=3,
            )

    def _check_choices(self) -> None:
        """Choices that only some tensors can answer."""
        spec, maps = self.spec, [block for block in self.blocks if block.is_attention]
        headed = [block for block in self.blocks if block.heads and block.head is None]
        if spec.heads is not None and not headed:
            raise SpecError(
                f"heads={spec.heads} is for attention (…:self.q, k, v, z or map, all heads of "
                "it); none is asked for"
            )
        if spec.tokens is not None and not maps:
            raise SpecError(f"tokens={spec.tokens} is for attention maps; none is asked for")
        for block in headed if spec.heads else ():
            if max(spec.heads) >= block.heads:
                raise SpecError(
                    f"heads={max(spec.heads)}: {block.name} has {block.heads} heads, 0 … "
                    f"{block.heads - 1}"
                )
        for block in self.blocks if spec.low_pass is not None else ():
            if not block.has_grid:
                raise SpecError(
                    f"low_pass={spec.low_pass} is for maps; block {block.name!r} holds text "
                    "tokens, which have no grid"
                )
        if spec.discard and not any(block.is_adaptive for block in self.blocks):
            raise SpecError(
                f"discard={spec.discard} is for the adaptive norm's output (…:adaln); none is "
                "asked for"
            )
        for block in self.blocks if spec.discard else ():
            if block.is_adaptive and max(spec.discard) >= block.channels:
                raise SpecError(
                    f"discard={max(spec.discard)}: {block.name} has {block.channels} channels"
                )
        for block in maps:
            self._check_map(block)
        if not self.whole and self.backbone.config.get("time_embedding_type") == "learned":
            raise SpecError(
                f"{self.backbone.name} looks t up in a table of whole steps; expected whole t's"
            )
        if (spec.mirror or spec.corrupt) and spec.noise == "generation":
            name, done = ("mirror", "mirrored") if spec.mirror else ("corrupt", "corrupted")
            raise SpecError(f"noise=generation shows no picture that could be {done}; leave "
                            f"{name} out")  # fmt: skip
        if spec.tile or spec.flip:
            for block in self.blocks:
                # a softmax over the cells of a tile is not one over the picture's
                parted = block.attends_to_image or (block.asked_by_text and spec.tile)
                if block.is_text or parted:
                    raise SpecError(
                        f"block {block.name!r} cannot be put together from tiles or mirrored "
                        "pictures; leave tile and flip out"
                    )
            if spec.noise == "generation":
                raise SpecError("noise=generation paints whole pictures; leave tile and flip out")

    def _check_map(self, block: BlockInfo) -> None:
        """Channels whose number does not change by picture."""
        if self.spec.fit == "native" and block.attends_to_image and self.spec.tokens is None:
            raise SpecError(
                f"block {block.name!r} has a channel per cell, so pictures of different sizes have "
                "different channels; choose tokens, or another fit than native"
            )

    def level(self, t: Any) -> NoiseLevel:
        """The level that a user means by `t`; SpecError if there is none."""
        return self._levels([t])[0]

    def _levels(self, timesteps: Iterable[Level]) -> tuple[NoiseLevel, ...]:
        schedule = self.backbone.schedule
        return schedule.resolve_all(timesteps, self.grid or None, self.clean)

    @property
    def whole(self) -> bool:
        """Whether every t is a whole number."""
        return all(level.t.is_integer() for level in self.levels)

    @property
    def keys(self) -> list[tuple[str, float]]:
        """All (block, native t), blocks in the order of execution."""
        return [(block.name, level.t) for block in self.blocks for level in self.levels]

    def tap(self, block: BlockInfo) -> Tap:
        """Where a tensor is read; discarding channels needs the whole call of the block."""
        if block.is_adaptive and self.spec.discard:
            return Tap(self.place(block).path, "call")
        return block.where

    def place(self, block: BlockInfo) -> BlockInfo:
        """The place that a kind of tensor belongs to."""
        name = block.name.partition(":")[0]
        return next(other for other in self.backbone.tensors if other.name == name)

    def map_shape(self, block: BlockInfo, size: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Shape of one picture's tensor before pooling, for pictures of `size`."""
        spec = self.spec
        return tensor_shape(
            self.backbone, block, size or self.size, spec.heads, spec.tokens, self.text_length
        )

    def shape(self, block: BlockInfo, size: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Shape of one picture's feature."""
        whole = self.map_shape(block, size or self.size or self.backbone.native_size)
        if not self.pool:
            return whole
        if block.is_text:
            return (whole[1],)
        return (whole[0] * self.pool[0] * self.pool[1],)

    def describe(self, block: BlockInfo, level: NoiseLevel) -> dict[str, Any]:
        """The attributes that a stored feature carries."""
        text = block.is_text
        return {
            "block": block.name,
            "t": plain_t(level.t),
            "alpha": level.alpha,
            "sigma": level.sigma,
            "log_snr": level.log_snr,
            **self._asked(level),
            "layout": block.stored_layout(self.pool is not None),
            "stride": block.stride,
            "channels": block.channels if text else self.map_shape(
                block, self.size or self.backbone.native_size
            )[0],
            **({"grid": list(self.pool)} if self.pool and not text else {}),
        }  # fmt: skip

    def _asked(self, level: NoiseLevel) -> dict[str, str]:
        """How the level was asked for, where that was not by native t, to be found by it again."""
        for written, found in zip(self.asked, self.levels, strict=True):
            if found == level and (text := asked_as(written, level.t)) is not None:
                return {ASKED: text}
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """How features leave the extractor; files make int8 from float32."""
        return torch.float32 if self.spec.dtype == "int8" else TORCH_DTYPES[self.spec.dtype]

    @property
    def bytes_per_picture(self) -> int:
        """Size of all features of one picture as they leave the extractor."""
        values = sum(math.prod(self.shape(block)) for block in self.blocks)
        return values * len(self.levels) * self.dtype.itemsize

    def pictures_per_call(self, rows: int) -> int:
        """Pictures that are encoded, and whose features are held, together.

        It follows from the spec and the rows of a forward alone, so that a resumed run forms
        the same batches.

        Args:
            rows: of one denoiser forward.
        """
        held = self.bytes_per_picture
        if self.spec.tile or self.spec.flip:  # whole maps, and those of two views, in fp32
            size = self.size or self.backbone.native_size
            maps = sum(math.prod(self.map_shape(b, size)) + 2 * math.prod(
                self.map_shape(b, self.spec.tile or size)) for b in self.blocks)  # fmt: skip
            held += 4 * maps * len(self.levels)
        return max(1, min(rows, MAX_BATCH_BYTES // held))

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the noise of one picture of (H, W) pixels."""
        whole = self.spec.tile_noise == "picture"
        return self.backbone.latent_shape(size if whole else self.spec.tile)

    @property
    def row_limit(self) -> int:
        """Rows of one forward whose attention maps fit in memory together."""
        return self._row_limit(self._run_size)

    @property
    def _run_size(self) -> tuple[int, int]:
        """(H, W) in pixels of what one forward sees; a guess where sizes differ."""
        return self.spec.tile or self.size or self.backbone.native_size

    def _row_limit(self, size: tuple[int, int]) -> int:
        maps = self._map_bytes(size)
        return max(1, MAX_MAP_BYTES // sum(maps.values())) if maps else 1 << 30

    def default_batch(self, size: tuple[int, int] | None = None) -> int:
        """Rows of one forward: 64 at 32×32 latents, less at larger ones, at least 1."""
        size = size or self._run_size
        return max(1, min(self.backbone.default_rows(size), self._row_limit(size)))


def tensor_shape(
    backbone: Backbone,
    block: BlockInfo,
    size: tuple[int, int],
    heads: tuple[int, ...] | None = None,
    tokens: tuple[int, ...] | None = None,
    text_length: int | None = None,
) -> tuple[int, ...]:
    """Shape of one picture's tensor: (C, h, w), or (L, D) for text tokens.

    Args:
        backbone: whose tensor.
        block: which.
        size: (H, W) of the picture in pixels.
        heads: heads of a map that are kept apart.
        tokens: keys of a map that are kept.
        text_length: tokens of the text, where they are not the model's own number.

    Raises:
        SpecError: a key that the map does not have.
    """
    text = backbone.text_tokens(text_length) if block.counts_text else 0
    return block.shape(size, text, heads, tokens)


def load_for(model: ModelRequest, spec: ExtractSpec) -> Backbone:
    """Load a model, once it is clear that its architecture can do what the spec asks for.

    The architecture is built without weights first, so that an unknown block, t or size is told
    in a moment, before gigabytes are read or fetched. (With ready embeddings the number of
    tokens is not known yet; their spec is checked by whoever reads them.)

    Raises:
        SpecError: see `Plan`.
        ModelError: see `diffeat.load`.
    """
    if spec.embeddings is None:
        bare = replace(model, device="meta", dtype="auto", lora=None, denoiser=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever works with the model will say it
            architecture = load_model(bare)
            architecture.learned_t = model.learned_t
            Plan(architecture, spec)
    return load_model(model)
