"""From pictures to features: one forward per (picture, t, ensemble member) serves all blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diffeat.backbones.base import TORCH_DTYPES, Backbone
from diffeat.blocks import BlockInfo, resolve_blocks
from diffeat.errors import NumericsError, PictureError, SpecError
from diffeat.hooks import HookManager
from diffeat.images import decode, fit_picture, to_rgb
from diffeat.noise import NoiseLevel, format_t, picture_noise, plain_t
from diffeat.specs import ExtractSpec, pool_size

Key = tuple[str, float]
"""(block name, native t)."""


class Features(Mapping[Key, torch.Tensor]):
    """Features of some pictures, by (block, t).

    `features["up.1", 20]` is a tensor (N, C, H, W), or (N, C·k·k) when pooled; t may be
    written as in the spec or as the native timestep.

    Attributes:
        blocks: BlockInfo of every block, in the order of execution.
        levels: NoiseLevel of every t, in the order of the spec.
    """

    def __init__(self, plan: Plan, values: dict[Key, torch.Tensor]):
        self.blocks, self.levels = plan.blocks, plan.levels
        self._plan, self._values = plan, values

    def __getitem__(self, key: tuple[str, Any]) -> torch.Tensor:
        if key in self._values:  # native t, before a flow time is thought of
            return self._values[key]
        block, t = key
        try:
            return self._values[block, self._plan.backbone.schedule.resolve(t).t]
        except (KeyError, SpecError):
            have = ", ".join(f"({name}, {format_t(t)})" for name, t in self._values)
            raise KeyError(
                f"no features of block {block!r} at t={t}; expected one of {have}"
            ) from None

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        cells = (f"({name!r}, {format_t(t)}): {tuple(v.shape)}" for (name, t), v in self.items())
        return f"Features({', '.join(cells)})"


class Plan:
    """A spec worked out for one backbone: blocks, levels, size and shapes, all checked.

    Attributes:
        spec: the spec with its blocks, timesteps and size spelled out.
        blocks: the blocks, in the order of execution.
        levels: the noise levels, in the order of the spec.
        size: (H, W) of the pictures in pixels.

    Raises:
        SpecError: anything that cannot be done with this backbone.
    """

    def __init__(self, backbone: Backbone, spec: ExtractSpec):
        self.backbone = backbone
        self.blocks = resolve_blocks(spec.blocks, backbone.blocks)
        self.levels = backbone.schedule.resolve_all(spec.timesteps)
        self.size = spec.size or backbone.native_size
        backbone.check_size(self.size)
        self.pool = pool_size(spec.pool)
        for block in self.blocks:
            grid = block.grid(self.size)
            if self.pool and (self.pool[0] > grid[0] or self.pool[1] > grid[1]):
                raise SpecError(
                    f"pool {spec.pool} is larger than the {grid[0]}×{grid[1]} map of block "
                    f"{block.name!r} at {self.size[0]}×{self.size[1]} pixels; choose a smaller "
                    "pool or a larger size"
                )
        self.spec = replace(
            spec,
            blocks=tuple(block.name for block in self.blocks),
            timesteps=tuple(backbone.schedule.spell(level) for level in self.levels),
            size=self.size,
        )

    @property
    def keys(self) -> list[Key]:
        """All (block, native t), blocks in the order of execution."""
        return [(block.name, level.t) for block in self.blocks for level in self.levels]

    def shape(self, block: BlockInfo) -> tuple[int, ...]:
        """Shape of one picture's feature."""
        if self.pool:
            return (block.channels * self.pool[0] * self.pool[1],)
        return (block.channels, *block.grid(self.size))

    def describe(self, block: BlockInfo, level: NoiseLevel) -> dict[str, Any]:
        """The attributes that a stored feature carries."""
        return {
            "block": block.name,
            "t": plain_t(level.t),
            "alpha": level.alpha,
            "sigma": level.sigma,
            "log_snr": level.log_snr,
            "layout": "NC" if self.pool else "NCHW",
            "stride": block.stride,
            "channels": block.channels,
        }

    @property
    def bytes_per_picture(self) -> int:
        """Size of all features of one picture as they are stored."""
        itemsize = torch.empty((), dtype=TORCH_DTYPES[self.spec.dtype]).itemsize
        values = sum(int(np.prod(self.shape(block))) for block in self.blocks)
        return values * len(self.levels) * itemsize

    def default_batch(self) -> int:
        """Forward rows per batch: 64 at 32×32 latents, less at larger ones, at least 1."""
        _, height, width = self.backbone.latent_shape(self.size)
        return max(1, min(64, 65536 // (height * width)))


class Extractor:
    """Runs batches of pictures through a backbone. Build once, call once per batch.

    The text encoder runs here, once; the VAE runs once per picture. Several noise levels and
    ensemble members share a forward's batch.

    Args:
        plan: what to extract.
        batch_size: rows of one denoiser forward.
    """

    def __init__(self, plan: Plan, batch_size: int | None = None):
        self.plan, self.backbone = plan, plan.backbone
        self.batch_size = plan.default_batch() if batch_size is None else batch_size
        if self.batch_size < 1:
            raise SpecError(f"batch size {batch_size}; expected at least 1")
        if self.backbone.device.type == "meta":
            raise SpecError("a backbone on device 'meta' has no weights; load it on cpu or cuda")
        spec = plan.spec
        condition = self.backbone.condition(spec.prompt, spec.label)
        device = self.backbone.device
        self.condition = {name: tensor.to(device) for name, tensor in condition.items()}
        self.dtype = TORCH_DTYPES[spec.dtype]
        self._by_name = {block.name: block for block in plan.blocks}
        taps = {block.name: block.path for block in plan.blocks}
        self._hooks = HookManager(
            self.backbone.denoiser, taps, stop_after_last=True, transform=self._reduce
        )
        columns = [(lv.t, lv.alpha, lv.sigma) for lv in plan.levels]
        self._levels = torch.tensor(columns, dtype=torch.float64, device=device)

    @torch.no_grad()
    def __call__(
        self,
        pixels: torch.Tensor | np.ndarray,
        ids: Sequence[str],
        noise: torch.Tensor | None = None,
    ) -> dict[Key, torch.Tensor]:
        """Features of one batch of pictures.

        Args:
            pixels: (P, 3, H, W), uint8, or floating point in [0, 1].
            ids: P picture ids, which seed the noise.
            noise: explicit noise, (P, …) or (P, ensemble, …) in latent shape, any float dtype.

        Returns:
            (block, native t) → (P, …) in the spec's dtype, on the CPU.

        Raises:
            NumericsError: a feature is inf or nan in the dtype that it is stored in.
        """
        pixels = torch.as_tensor(pixels).to(self.backbone.device)
        x0 = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        latents = self.backbone.encode(x0)
        shape = tuple(latents.mean.shape[1:])
        eps = self._noise(ids, shape, noise)
        clean = self._clean(latents, ids, shape)
        rows = len(self.plan.levels) * len(ids)
        out = {
            block.name: torch.empty((rows, *self.plan.shape(block)), dtype=self.dtype)
            for block in self.plan.blocks
        }
        with self._hooks as hooks:
            for start, stop in self._row_chunks(rows):
                self._run_rows(hooks, clean, eps, start, stop, out)
        self._check_finite(out)
        count = len(ids)
        return {
            (name, level.t): values[i * count : (i + 1) * count]
            for name, values in out.items()
            for i, level in enumerate(self.plan.levels)
        }

    def _row_chunks(self, rows: int) -> Iterator[tuple[int, int]]:
        """Row ranges of one forward each; a row is a (t, picture), t-major, with its members."""
        step = max(1, self.batch_size // self.plan.spec.ensemble)
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def _run_rows(self, hooks, clean, eps, start: int, stop: int, out) -> None:
        """Fill rows start … stop of every block; members are averaged in fp32."""
        members = self.plan.spec.ensemble
        slices = range(0, members, self.batch_size)
        pictures = torch.arange(start, stop, device=clean.device) % len(clean)
        levels = torch.arange(start, stop, device=clean.device) // len(clean)
        sums: dict[str, torch.Tensor] = {}
        for first in slices:
            last = min(first + self.batch_size, members)
            self._forward(hooks, clean, eps, pictures, levels, first, last)
            for name in hooks:
                value = hooks[name]
                if members > 1:
                    value = value.float().unflatten(0, (stop - start, last - first)).sum(1)
                sums[name] = value if first == 0 else sums[name] + value
        for name, value in sums.items():
            out[name][start:stop] = (value / members if members > 1 else value).to(self.dtype)

    def _forward(self, hooks, clean, eps, pictures, levels, first: int, last: int) -> None:
        """One denoiser forward over rows × members first … last, member fastest."""
        t, alpha, sigma = self._levels[levels].repeat_interleave(last - first, 0).unbind(1)
        member = slice(first, last)
        if eps is None:
            x = clean[pictures, member].flatten(0, 1)
        else:
            noisy = eps[pictures, member].flatten(0, 1)
            signal = clean[pictures, member].flatten(0, 1)
            x = alpha.float().view(-1, 1, 1, 1) * signal + sigma.float().view(-1, 1, 1, 1) * noisy
        condition = {
            name: value.expand(len(x), *value.shape[1:]) for name, value in self.condition.items()
        }
        native = t.float() if self.backbone.schedule.flow else t.long()
        arguments = self.backbone.call_arguments(x.to(self.backbone.dtype), native, condition)
        hooks.run(**arguments)

    def _reduce(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Inside the hook: tokens to a map, then pooling; never a view of a live activation."""
        block, pool = self._by_name[name], self.plan.pool
        if block.layout == "NLD":
            height, width = block.grid(self.plan.size)
            tensor = tensor.transpose(1, 2).unflatten(2, (height, width))
        if pool is None:
            return tensor.clone(memory_format=torch.contiguous_format)
        if pool == (1, 1):
            return tensor.mean((2, 3))
        return F.adaptive_avg_pool2d(tensor, pool).flatten(1)

    def _noise(self, ids, shape, explicit) -> torch.Tensor | None:
        """(P, E, C, h, w) fp32 noise on the device, or None for clean input."""
        spec, device = self.plan.spec, self.backbone.device
        if explicit is not None:
            return _explicit_noise(explicit, len(ids), spec.ensemble, shape).to(device)
        if spec.noise == "none":
            return None
        shared = spec.noise == "shared"
        drawn = [
            [
                picture_noise(spec.seed, "" if shared else name, e, shape)
                for e in range(spec.ensemble)
            ]
            for name in (ids[:1] if shared else ids)
        ]
        eps = torch.from_numpy(np.array(drawn)).to(device)
        return eps.expand(len(ids), *eps.shape[1:])

    def _clean(self, latents, ids, shape) -> torch.Tensor:
        """(P, E, C, h, w) clean latents: the posterior's mean, or one sample per member."""
        spec = self.plan.spec
        clean = latents.mean[:, None].expand(-1, spec.ensemble, *shape)
        if spec.latent == "mean" or latents.std is None:
            return clean
        drawn = np.array(
            [
                [
                    picture_noise(spec.seed, f"{name}\0latent", e, shape)
                    for e in range(spec.ensemble)
                ]
                for name in ids
            ]
        )
        return clean + latents.std[:, None] * torch.from_numpy(drawn).to(clean.device)

    def _check_finite(self, out: dict[str, torch.Tensor]) -> None:
        for name, values in out.items():
            if bool(torch.isfinite(values).all()):
                continue
            bad = ~torch.isfinite(values.flatten(1)).all(1)
            count = len(values) // len(self.plan.levels)
            level = self.plan.levels[int(bad.nonzero()[0]) // count]
            raise NumericsError(
                f"block {name!r} at t={format_t(level.t)}: inf or nan in {self.dtype} "
                f"(model computed in {self.backbone.dtype}); store with dtype float32 or compute "
                "with dtype bfloat16 or float32"
            )


def extract(
    backbone: Backbone,
    images: torch.Tensor | np.ndarray | Sequence[Image.Image | str | Path],
    spec: ExtractSpec,
    noise: torch.Tensor | None = None,
    ids: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> Features:
    """Extract features of a few pictures into memory.

    Args:
        backbone: from `diffeat.load`.
        images: (N, 3, H, W) in [0, 1] (torch or numpy), taken at their own size; or PIL
            pictures; or paths.
        spec: what to extract.
        noise: explicit noise, (N, …) or (N, ensemble, …) in latent shape; replaces the
            policy of the spec.
        ids: N picture ids that seed the noise. By default paths as they were written, and
            "0", "1", … for tensors and PIL pictures.
        batch_size: rows of one forward; by default chosen by the latent's size.

    Returns:
        Features: (block, t) → (N, C, H, W) or (N, C·k·k) in the spec's dtype, on the CPU.

    Raises:
        SpecError: the spec, the sizes or the noise do not fit.
        PictureError: a picture cannot be read.
        NumericsError: inf or nan in the stored dtype.
    """
    if not isinstance(backbone, Backbone):
        raise SpecError(f"{backbone!r} is no backbone; load one with diffeat.load(...)")
    if isinstance(images, (str, Path)):
        raise SpecError(
            f"pictures are one name, {str(images)!r}; expected a list of paths (a folder or data "
            "set goes through diffeat.open_source and diffeat.extract_to_file)"
        )
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    if isinstance(images, torch.Tensor):
        spec = _with_size_of(images, spec)
    images = images if isinstance(images, torch.Tensor) else list(images)
    if len(images) == 0:
        raise SpecError("no pictures given; expected at least one")
    plan = Plan(backbone, spec)
    names = _ids(images, ids)
    extractor = Extractor(plan, batch_size)
    if noise is not None:
        shape = backbone.latent_shape(plan.size)
        noise = _explicit_noise(noise, len(images), spec.ensemble, shape)
    pieces: dict[Key, list[torch.Tensor]] = {key: [] for key in plan.keys}
    for start in range(0, len(images), extractor.batch_size):
        span = slice(start, start + extractor.batch_size)
        pixels = _pixels(images[span], names[span], plan)
        part = extractor(pixels, names[span], None if noise is None else noise[span])
        for key, value in part.items():
            pieces[key].append(value)
    return Features(plan, {key: torch.cat(values) for key, values in pieces.items()})


def _with_size_of(images: torch.Tensor, spec: ExtractSpec) -> ExtractSpec:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise SpecError(
            f"pictures are {tuple(images.shape)} {images.dtype}; expected a float tensor "
            "(N, 3, H, W) in [0, 1]"
        )
    if images.numel() and not (images.min() >= -1e-4 and images.max() <= 1 + 1e-4):
        raise SpecError(
            f"pictures range from {images.min():.3g} to {images.max():.3g}; expected [0, 1]"
        )
    size = (int(images.shape[2]), int(images.shape[3]))
    if spec.size not in (None, size):
        raise SpecError(
            f"tensors are taken at their own size {size}, but the spec says {spec.size}; "
            "resize them, or leave the spec's size out"
        )
    return replace(spec, size=size)


def _ids(images, ids: Sequence[str] | None) -> list[str]:
    if ids is None:
        if isinstance(images, list) and all(isinstance(item, (str, Path)) for item in images):
            return [Path(item).as_posix() for item in images]
        return [str(index) for index in range(len(images))]
    if len(ids) != len(images):
        raise SpecError(f"{len(ids)} ids for {len(images)} pictures; expected one each")
    return [str(name) for name in ids]


def _pixels(images, names: list[str], plan: Plan) -> torch.Tensor | np.ndarray:
    if isinstance(images, torch.Tensor):
        return images
    spec = plan.spec
    pictures = [_picture(item, name) for item, name in zip(images, names, strict=True)]
    return np.stack([fit_picture(p, plan.size, spec.fit, spec.resample) for p in pictures])


def _picture(item: Image.Image | str | Path, name: str) -> Image.Image:
    if not isinstance(item, Image.Image):
        return decode(lambda: str(item), name)
    try:
        return to_rgb(item)
    except ValueError as error:
        raise PictureError(name, str(error)) from error


def _explicit_noise(noise: torch.Tensor, count: int, ensemble: int, shape) -> torch.Tensor:
    wanted = (count, ensemble, *shape)
    if tuple(noise.shape) == (count, *shape) and ensemble == 1:
        noise = noise[:, None]
    if tuple(noise.shape) != wanted:
        raise SpecError(
            f"noise is {tuple(noise.shape)}; expected {wanted}"
            + (f" or {(count, *shape)}" if ensemble == 1 else "")
        )
    return noise.float()
