"""Models of timm: convolutional networks and transformers alike."""

from __future__ import annotations

import re
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from diffeat.errors import ModelError, nearest
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

SAFE_FILES = ("model.safetensors", "open_clip_model.safetensors")


class TimmNetwork(Network):
    """`forward_features`, then the head up to its pooled vector.

    The default pool is the model's own: `forward_head(…, pre_logits=True)`. Blocks are the
    modules that timm's `feature_info` names, and their siblings of the same class, by timm's
    own names.
    """

    def __init__(self, base: str, module: nn.Module):
        from timm.data import resolve_model_data_config

        self.name, self.module = f"timm:{base}", module.eval()
        self._data = config = resolve_model_data_config(module)
        self.facts = {"library": "timm", "model": base.partition(".")[0], "data": config}
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        self.size = tuple(config["input_size"][1:])
        embedding = getattr(module, "patch_embed", None) or getattr(module, "stem", None)
        patch = getattr(embedding, "patch_size", None) or 1
        self.patch = patch if isinstance(patch, int) else int(patch[0])
        self._first = next(iter(signature(module.forward).parameters))

    @property
    def places(self):
        if hasattr(self.module, "reroll"):  # Hiera's tokens do not stand row by row
            return []
        modules = dict(self.module.named_modules())
        infos = [info for info in getattr(self.module, "feature_info", None) or ()
                 if info.get("module") in modules]  # fmt: skip
        # a transformer of one width, and not stages of several
        plain = len({(info["num_chs"], info["reduction"]) for info in infos}) == 1 < len(infos)
        paths: dict[str, None] = {}
        for path in (info["module"] for info in infos):
            parent = path.rpartition(".")[0]
            beside = modules[parent].named_children() if parent else ()
            siblings = {f"{parent}.{name}": type(module) for name, module in beside}
            paths |= dict.fromkeys(siblings if len(set(siblings.values())) == 1 else [path])
        found = [Place(path, path, "transformer" if plain else _kind(path)) for path in paths]
        if not isinstance(modules.get("norm", nn.Identity()), nn.Identity):
            found.append(Place("norm", "norm", "norm"))
        return found

    def arguments(self, pixels):
        return {self._first: pixels}

    @cached_property
    def _transform(self):
        from timm.data import create_transform

        return create_transform(**self._data, is_training=False)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        return self._transform(image)

    def pooled(self, pixels: torch.Tensor, pool: str) -> torch.Tensor:
        found = self.module.forward_features(pixels)
        if pool == "default":
            return self.module.forward_head(found, pre_logits=True)
        prefix = int(getattr(self.module, "num_prefix_tokens", 0))
        if pool == "cls":
            if found.ndim != 3 or getattr(self.module, "cls_token", None) is None:
                raise no_class_token(self.name)
            return found[:, 0]
        if found.ndim == 3:
            return mean_of_tokens(found, prefix)
        return mean_of_map(found, self.module.num_features)


def _kind(path: str) -> str:
    """A stage has a number; what stands before the first (act1, bn1, stem) is a convolution's."""
    return "conv" if re.fullmatch(r"(act|bn|norm|conv)\d|stem.*", path) else "stage"


def load_timm(wanted: VisionName, allow_pickle: bool, bare: bool = False) -> TimmNetwork:
    """A timm model with its own, given or random weights; without any if `bare`.

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
    empty, options = _empty(wanted.base)
    if bare:
        return TimmNetwork(wanted.base, empty)
    if wanted.seed is not None:
        module = build_random(lambda: timm.create_model(wanted.base, **options), wanted.seed)
        return TimmNetwork(wanted.base, module)
    file = wanted.file
    if file is None:
        if not tags:
            raise ModelError(
                f"timm offers no weights of {architecture}; give a file "
                f"('timm:{architecture}@weights.safetensors') or use 'timm:{architecture}@random'"
            )
        file = _fetch(wanted.base, timm.models.get_pretrained_cfg(wanted.base), allow_pickle)
    return TimmNetwork(wanted.base, _with_weights(wanted.base, file, options))


ANY_SIZE = ({"strict_img_size": False}, {"dynamic_img_size": True})
"""Arguments by which Swin, and by which ViTs, take pictures of other sizes. Old Swins swallow the
second without effect, so it comes second."""


def _empty(base: str) -> tuple[nn.Module, dict[str, Any]]:
    """The architecture without weights, and the arguments by which it takes any size."""
    import timm

    for options in ANY_SIZE:
        try:
            return build_bare(lambda o=options: timm.create_model(base, **o)), options
        except TypeError:  # it has no such argument
            continue
    return build_bare(lambda: timm.create_model(base)), {}


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


def _with_weights(base: str, file: Path | None, options: dict[str, Any]) -> nn.Module:
    """The model with every one of its weights from the file; a file may lack the classifier."""
    import timm

    if file is None:
        with fetching(f"timm:{base}", "a .safetensors file behind an '@'"):
            return timm.create_model(base, pretrained=True, **options)
    first = None
    # timm is strict only where it expects as many classes as the model has
    for classes in ({}, {"num_classes": 0}):
        overlay = {"file": str(file), "custom_load": False, **classes}
        try:
            return timm.create_model(
                base, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
        except Exception as error:  # a damaged file raises whatever its reader raises
            first = first or error
    lines = str(first).strip().splitlines()
    raise ModelError(
        f"{file}: not the weights of timm's {base} ({' '.join(line.strip() for line in lines[:2])})"
        "; give the file that belongs to this model"
    ) from first
