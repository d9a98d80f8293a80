"""A vision model as one vector per picture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffeat.backbones.devices import pick_device, pick_dtype, upload
from diffeat.errors import DeviceError, NumericsError, SpecError
from diffeat.hashing import fingerprint
from diffeat.images import Seen, Source, ahead, look
from diffeat.progress import counted
from diffeat.vision.hub_networks import load_from_hub
from diffeat.vision.kept import kept_rule, kept_seen, read_kept, write_kept
from diffeat.vision.names import VisionName
from diffeat.vision.network import Network, check_pool, weights_hash
from diffeat.vision.timm_networks import load_timm

DEFAULT = "facebook/dinov2-base"


class VisionModel:
    """A loaded model; made by `load_vision`.

    Attributes:
        name: as it was asked for.
        network: what the library gives.
        pool: one of "default", "cls", "mean".
        fingerprint: hash of its weights, architecture, preprocessing, pool and precision.
        device, dtype: where and in which precision it runs.
    """

    def __init__(
        self, name: str, network: Network, pool: str, device: torch.device, dtype: torch.dtype
    ):
        self.name, self.network, self.pool = name, network, pool
        self.device, self.dtype = device, dtype
        weights = weights_hash(network.module, name)
        self.fingerprint = fingerprint(weights, network.facts, pool, str(dtype))
        network.module.to(device, dtype).requires_grad_(False).eval()

    @cached_property
    def width(self) -> int:
        """D, the length of a feature."""
        return self.encode(self.network.prepare(Image.new("RGB", (64, 64)))[None]).shape[1]

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of preprocessed pictures.

        Args:
            pixels: (B, 3, H, W) float32, as `network.prepare` makes them.

        Returns:
            (B, D) float32 on the CPU.
        """
        pixels = upload(pixels, self.device).to(self.dtype)
        return self.network.pooled(pixels, self.pool).float().cpu()

    def features(
        self,
        source: Source,
        batch_size: int = 64,
        workers: int = 2,
        progress: bool | None = None,
        keep: str | Path | None = None,
    ) -> np.ndarray:
        """One vector per picture, by the model's own resizing, cropping and scaling.

        Args:
            source: N pictures, such as `diffeat.open_source(...)` gives.
            batch_size: pictures of one forward.
            workers: threads that decode and resize.
            progress: whether to show a bar; None shows one on a terminal, and a line a minute
                elsewhere.
            keep: a .safetensors file; if it is there the features are read from it, else
                they are written to it.

        Returns:
            (N, D) float32; row i is picture i of the source.

        Raises:
            PictureError: a picture cannot be read.
            NumericsError: a feature is inf or nan.
            StoreError: `keep` is of another model or other pictures, or cannot be written.
            SpecError: a batch size or number of workers below 1.
        """
        if batch_size < 1 or workers < 1:
            raise SpecError(f"batch_size={batch_size}, workers={workers}; expected at least 1")
        if keep is None:
            return self._computed(source, batch_size, workers, progress)
        keep = Path(keep)
        source, seen = _seen(source, keep)
        known = None if seen is None else seen.digests
        wanted = {"model": self.fingerprint, "pictures": source.fingerprint(known)}
        found = read_kept(keep, wanted, len(source))
        if found is None:
            found = self._computed(source, batch_size, workers, progress)
            write_kept(keep, found, {**wanted, "name": self.name}, seen)
        return found

    def _computed(
        self, source: Source, batch_size: int, workers: int, progress: bool | None
    ) -> np.ndarray:
        found = []
        batches = _batches(self.network, source, batch_size, workers)
        count = counted(len(source), desc="vision model", unit="pictures", show=progress)
        with count as bar, closing(batches):
            for pixels in batches:
                found.append(self.encode(pixels).numpy())
                bar.update(len(pixels))
        values = np.concatenate(found)
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise NumericsError(
                f"{self.name}: the feature of picture {source.ids[bad[0]]!r} holds inf or nan "
                f"({len(bad)} pictures in all); expected finite numbers: use dtype float32"
            )
        return values


def _seen(source: Source, keep: Path) -> tuple[Source, Seen | None]:
    """The source by the rule of reading of kept features, and what is known of its pictures."""
    if kept_rule(keep) == 1 and source.reading > 1:
        warnings.warn(
            f"{keep} was made by a version before 0.7 and is compared by its rule of reading: of "
            "large pictures the first and last 32 KiB, without ICC profiles; delete it to make "
            "it anew",
            stacklevel=4,
        )
        source = source.by_rule(1)
    if source.reading == 1:
        return source, None
    return source, look(source, kept_seen(keep, source.ids))


def _batches(
    network: Network, source: Source, batch_size: int, workers: int
) -> Iterator[torch.Tensor]:
    """(B, 3, H, W) float32 of each batch, prepared in threads, one batch ahead."""
    starts = range(0, len(source), batch_size)
    with ThreadPoolExecutor(workers, thread_name_prefix="diffeat-vision") as pool:

        def read(start: int) -> torch.Tensor:
            rows = range(start, min(start + batch_size, len(source)))
            return torch.stack(list(pool.map(lambda row: network.prepare(source.load(row)), rows)))

        yield from ahead(read, iter(starts))


def load_vision(
    name: str = DEFAULT,
    device: str = "auto",
    dtype: str = "auto",
    pool: str = "default",
    allow_pickle: bool = False,
) -> VisionModel:
    """Load a vision model of timm or transformers, to compare features with.

    Args:
        name: "timm:NAME", such as "timm:vit_small_patch14_dinov2.lvd142m"; a hub id of a model
            of transformers; or its folder. With "@random" or "@random:SEED" behind it the
            weights are random; "timm:NAME@FILE.safetensors" takes the weights of a file.
        device: "cpu", "cuda", "cuda:1", …; "auto" takes a GPU where there is one.
        dtype: "float32", "float16", "bfloat16"; "auto" is float32 on a CPU, bfloat16 on a GPU.
        pool: "default" is what timm's `forward_head(…, pre_logits=True)` gives; of
            transformers the class token (DINOv2, ViT) or the model's pooled output (CLIP,
            SigLIP, ConvNeXt). "cls" is the class token, "mean" the mean over places, both
            of the last layer.
        allow_pickle: also load pickled weights, which can run code; only for files that you
            trust.

    Returns:
        The model, in evaluation mode, without gradients.

    Raises:
        ModelError: unknown, not here and not to be fetched, incomplete, pickled, no vision
            model.
        DeviceError: the device does not exist here.
        NumericsError: the weights hold inf or nan.
        SpecError: an unknown dtype or pool.
    """
    check_pool(pool)
    target = pick_device(device)
    if target.type == "meta":
        raise DeviceError("device 'meta' has no weights, so no features; use cpu or cuda")
    precision = pick_dtype(dtype, target)
    wanted = VisionName.parse(name)
    if wanted.library == "timm":
        network = load_timm(wanted, allow_pickle)
    else:
        network = load_from_hub(wanted, allow_pickle, pooler=pool == "default")
    return VisionModel(name, network, pool, target, precision)
