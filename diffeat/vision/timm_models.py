"""Models of timm: convolutional networks and transformers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from diffeat.errors import ModelError, nearest
from diffeat.vision.names import VisionName
from diffeat.vision.tower import (
    Tower,
    build_random,
    fetching,
    mean_of_map,
    mean_of_tokens,
    no_class_token,
)

SAFE_FILES = ("model.safetensors", "open_clip_model.safetensors")


class TimmTower(Tower):
    """`forward_features`, then the head up to its pooled vector.

    The default pool is the model's own: `forward_head(…, pre_logits=True)`.
    """

    def __init__(self, base: str, module: nn.Module, pool: str):
        import timm.data

        self.name, self.module, self.pool = f"timm:{base}", module, pool
        config = timm.data.resolve_model_data_config(module)
        self.facts = {"library": "timm", "model": base.partition(".")[0], "data": config}
        self._transform = timm.data.create_transform(**config, is_training=False)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        return self._transform(image)

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.module.forward_features(pixels)
        if self.pool == "default":
            return self.module.forward_head(found, pre_logits=True)
        prefix = int(getattr(self.module, "num_prefix_tokens", 0))
        if self.pool == "cls":
            if found.ndim != 3 or getattr(self.module, "cls_token", None) is None:
                raise no_class_token(self.name)
            return found[:, 0]
        if found.ndim == 3:
            return mean_of_tokens(found, prefix)
        return mean_of_map(found, self.module.num_features)


def load_timm(wanted: VisionName, pool: str, allow_pickle: bool) -> TimmTower:
    """A timm model with its own, given or random weights.

    Raises:
        ModelError: unknown name, weights that are missing, pickled or do not fit.
    """
    import timm

    architecture, _, tag = wanted.base.partition(".")
    if not timm.is_model(architecture):
        raise ModelError(
            f"timm has no model {architecture!r}{nearest(architecture, timm.list_models())}; "
            "timm.list_models() lists them"
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"timm's {architecture} has no weights {tag!r}{nearest(tag, tags)}; expected one of "
            f"{', '.join(tags) or 'none'}"
        )
    if wanted.seed is not None:
        module = build_random(lambda: timm.create_model(wanted.base), wanted.seed)
        return TimmTower(wanted.base, module, pool)
    file = wanted.file
    if file is None:
        if not tags:
            raise ModelError(
                f"timm offers no weights of {architecture}; give a file "
                f"('timm:{architecture}@weights.safetensors') or use 'timm:{architecture}@random'"
            )
        file = _fetch(wanted.base, timm.models.get_pretrained_cfg(wanted.base), allow_pickle)
    return TimmTower(wanted.base, _with_weights(wanted.base, file), pool)


def _fetch(base: str, config: Any, allow_pickle: bool) -> Path | None:
    """The .safetensors file of a model on the hub; None means that timm may load what it has."""
    from huggingface_hub import snapshot_download

    given = config.hf_hub_filename or ""
    names = [given] if given.endswith(".safetensors") else SAFE_FILES
    with fetching(f"timm:{base}", f"'timm:{base}@/path/model.safetensors'"):
        for name in names if config.hf_hub_id else ():
            # unlike the download of one file, this does not try again for a minute
            file = Path(snapshot_download(config.hf_hub_id, allow_patterns=[name])) / name
            if file.is_file():
                return file
    if allow_pickle:
        return None
    raise ModelError(
        f"timm:{base}: no .safetensors weights found ({config.hf_hub_id or 'on no hub'}); give a "
        f"file ('timm:{base}@weights.safetensors'), or, if there are pickled ones, which can run "
        "code when loaded, and you trust their author, pass --allow-pickle (allow_pickle=True)"
    )


def _with_weights(base: str, file: Path | None) -> nn.Module:
    """The model with every one of its weights from the file; a file may lack the classifier."""
    import timm

    if file is None:
        with fetching(f"timm:{base}", "a .safetensors file behind an '@'"):
            return timm.create_model(base, pretrained=True)
    first = None
    # timm is strict only where it expects as many classes as the model has
    for classes in ({}, {"num_classes": 0}):
        overlay = {"file": str(file), "custom_load": False, **classes}
        try:
            return timm.create_model(base, pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as error:  # a damaged file raises whatever its reader raises
            first = first or error
    lines = str(first).strip().splitlines()
    raise ModelError(
        f"{file}: not the weights of timm's {base} ({' '.join(line.strip() for line in lines[:2])})"
        "; give the file that belongs to this model"
    ) from first
