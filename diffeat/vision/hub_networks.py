"""Vision models of transformers, from a folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from diffeat.backbones.locate import read_json
from diffeat.backbones.weights import _no_progress_bars
from diffeat.errors import ModelError
from diffeat.vision.names import VisionName
from diffeat.vision.network import (
    Network,
    Place,
    build_bare,
    build_random,
    fetching,
    mean_of_map,
    mean_of_tokens,
    no_class_token,
)

NOT_OF_A_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Keys of a configuration that change no feature, or are told otherwise."""
INTERPOLATE = "interpolate_pos_encoding"
"""Argument by which a forward takes pictures of another size than the table of positions."""
LAYER = re.compile(r"(?:.*\.)?(?:layer|layers|stages)\.(\d+)")
NORMS = ("layernorm", "post_layernorm", "norm")


class HubNetwork(Network):
    """A vision transformer or convolutional network of transformers, or a CLIP's vision part.

    The default pool: the last layer's class token, after the final norm, where the embeddings
    have a `cls_token` (DINOv2, ViT, MAE, DeiT); else the model's `pooler_output` (CLIP's
    normed class token, SigLIP's attention, the mean of ConvNeXt and Swin); else the mean over
    places. Blocks are named blocks.0, … where all have one width, stages.0, … where they
    have not, and norm: whatever a version of transformers calls these modules.
    """

    def __init__(self, name: str, module: nn.Module, processor: Any):
        self.name = name
        # of a model of pictures and texts, the part that sees
        self.module = module = getattr(module, "vision_model", module).eval()
        parameters = signature(module.forward).parameters
        first = next(iter(parameters))  # all that old versions' parts say
        if getattr(module, "main_input_name", first) != "pixel_values":
            raise ModelError(f"{name} is no vision model ({type(module).__name__})")
        self._processor, self._interpolates = processor, INTERPOLATE in parameters
        self._embeddings = getattr(module, "embeddings", None)
        config, data = module.config.to_dict(), processor.to_dict()
        self.facts = {
            "library": "transformers",
            "model": type(module).__name__,
            "config": {k: v for k, v in config.items() if k not in NOT_OF_A_MODEL},
            "data": data,
        }
        scale = 255 * data.get("rescale_factor", 1 / 255) if data.get("do_rescale", True) else 255
        normal = data.get("do_normalize", True)
        self.mean = tuple(m / scale for m in data["image_mean"]) if normal else (0.0,) * 3
        self.std = tuple(s / scale for s in (data["image_std"] if normal else (1.0,) * 3))
        self.size = _pair(config.get("image_size") or data.get("crop_size") or data.get("size"))
        self.patch = _pair(config.get("patch_size") or 1)[0]

    @property
    def places(self):
        staged = any(key in self.module.config.to_dict() for key in ("hidden_sizes", "depths"))
        word, kind = ("stages", "stage") if staged else ("blocks", "transformer")
        found, depth = [], None
        for path, _ in self.module.named_modules():
            match = LAYER.fullmatch(path)
            if match and depth in (None, path.count(".")):
                depth = path.count(".")
                found.append(Place(f"{word}.{match[1]}", path, kind))
        norms = [path for path in NORMS if hasattr(self.module, path)]
        return [*found, *(Place("norm", path, "norm") for path in norms[:1])]

    def arguments(self, pixels):
        size = tuple(pixels.shape[2:])
        more = {INTERPOLATE: True} if self._interpolates and size != self.size else {}
        return {"pixel_values": pixels, **self._masking(pixels), **more}

    def prepare(self, image: Image.Image) -> torch.Tensor:
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0]

    def pooled(self, pixels: torch.Tensor, pool: str) -> torch.Tensor:
        found = self.module(pixel_values=pixels, **self._masking(pixels))
        last, pooler = found.last_hidden_state, getattr(found, "pooler_output", None)
        if pool == "cls" and not (last.ndim == 3 and self._classes):
            raise no_class_token(self.name)
        if pool == "cls" or (pool == "default" and self.has("cls_token")):
            return last[:, 0]
        if pool == "default" and pooler is not None:
            return pooler.flatten(1)
        if last.ndim == 4:
            return mean_of_map(last, self._width(last))
        return mean_of_tokens(last, self._prefix)

    def _masking(self, pixels: torch.Tensor) -> dict[str, Any]:
        """A masked autoencoder is told to keep all patches, and their order."""
        config = self.module.config
        if getattr(config, "model_type", "") != "vit_mae":
            return {}
        config.mask_ratio = 0.0
        count = (pixels.shape[2] // self.patch) * (pixels.shape[3] // self.patch)
        order = torch.arange(count, device=pixels.device, dtype=torch.float32)
        return {"noise": order.expand(len(pixels), -1)}

    def has(self, token: str) -> bool:
        """Whether its embeddings have such a token."""
        return getattr(self._embeddings, token, None) is not None

    @property
    def _classes(self) -> bool:
        return self.has("cls_token") or self.has("class_embedding")

    @property
    def _prefix(self) -> int:
        """Tokens before those of places: class, distillation and registers."""
        registers = getattr(self.module.config, "num_register_tokens", 0)
        return self._classes + self.has("distillation_token") + int(registers or 0)

    def _width(self, last: torch.Tensor) -> int:
        sizes = getattr(self.module.config, "hidden_sizes", None)
        return sizes[-1] if sizes else last.shape[1]


def _pair(size: Any) -> tuple[int, int]:
    """(H, W) of what configurations call a size."""
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        size = (size.get("height", side), size.get("width", side))
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def load_from_hub(
    wanted: VisionName, allow_pickle: bool, bare: bool = False, pooler: bool = True
) -> HubNetwork:
    """A model of transformers; nothing of a repository is executed.

    Args:
        wanted: which.
        allow_pickle: also load pickled weights.
        bare: the architecture without weights.
        pooler: whether the pooler's output is wanted; its weights may be missing otherwise.

    Raises:
        ModelError: not there, incomplete, pickled, or no vision model.
    """
    from transformers import AutoImageProcessor, AutoModel

    folder = _folder(wanted, allow_pickle, bare)
    config = _described(folder)
    try:
        with _no_progress_bars():
            processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
            if bare or wanted.seed is not None:
                module = _made(AutoModel, folder, None if bare else wanted.seed)
                return HubNetwork(wanted.base, module, processor)
            module, report = AutoModel.from_pretrained(
                folder,
                trust_remote_code=False,
                use_safetensors=_safe(folder, allow_pickle),
                output_loading_info=True,
            )
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = config.get("model_type")
        raise ModelError(
            f"{folder}: cannot be loaded as a vision model of transformers (model_type {kind!r}: "
            f"{reason}); restore the folder, or choose another model"
        ) from error
    network = HubNetwork(wanted.base, module, processor)
    _check_whole(folder, network, report["missing_keys"], pooler)
    return network


def _described(folder: Path) -> dict[str, Any]:
    """The configuration of a model; ModelError unless that of its preprocessing is there too."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: config.json is missing; expected the folder of a vision model of "
            "transformers"
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise ModelError(
            f"{folder}: preprocessor_config.json is missing, so how pictures are resized and "
            "scaled is not known; expected the folder of a vision model: restore the file"
        )
    return read_json(folder / "config.json")


def _made(auto: Any, folder: Path, seed: int | None) -> nn.Module:
    """The architecture with random weights, or without any."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    build = lambda: auto.from_config(config, trust_remote_code=False)  # noqa: E731
    return build_bare(build) if seed is None else build_random(build, seed)


def _folder(wanted: VisionName, allow_pickle: bool, bare: bool) -> Path:
    folder = Path(wanted.base).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", wanted.base):
        raise ModelError(
            f"vision model {wanted.base!r} is unknown; expected 'timm:NAME', a folder with "
            "config.json, or a hub id such as 'facebook/dinov2-base'"
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json"]
    if wanted.seed is None and not bare:
        patterns += ["*.safetensors", *(["*.bin"] if allow_pickle else [])]
    with fetching(wanted.base, "the path of its folder"):
        return Path(snapshot_download(wanted.base, allow_patterns=patterns))


def _safe(folder: Path, allow_pickle: bool) -> bool:
    """Whether the weights are safetensors; ModelError if there are none that may be loaded."""
    if any(folder.glob("*.safetensors")):
        return True
    if allow_pickle and any(folder.glob("*.bin")):
        return False
    raise ModelError(
        f"{folder}: no weights (*.safetensors) found; restore the folder, or, if its author "
        "offers pickled weights (*.bin) only and you trust them, pass --allow-pickle "
        "(allow_pickle=True)"
    )


def _check_whole(folder: Path, network: HubNetwork, missing: Any, pooler: bool) -> None:
    """ModelError if a weight that a feature depends on would be random."""
    unused = () if pooler and not network.has("cls_token") else ("pooler.",)
    own = set(network.module.state_dict())
    for key in sorted(missing):
        inner = key.removeprefix("vision_model.")
        if inner in own and not inner.startswith(unused):
            raise ModelError(
                f"{folder}: the weights lack {key!r}, which would be random; restore the folder"
                + (", or choose pool 'mean' or 'cls'" if inner.startswith("pooler.") else "")
            )
