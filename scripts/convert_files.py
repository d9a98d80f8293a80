"""Checkpoints in, pipeline folders out: what all layouts of convert.py share."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diffeat.backbones.classes import IMAGENET
from diffeat.errors import ModelError, SpecError

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, torch.Tensor]


@dataclass
class Converted:
    """A denoiser in diffusers' terms.

    Attributes:
        pipeline: name of the pipeline class, for model_index.json.
        component: the denoiser's name in the folder, "unet" or "transformer".
        model_class: its diffusers class.
        config: arguments of that class. Keys with a leading underscore are none: diffusers ignores
            them, and whoever loads the folder has to act on them.
        tensors: its state dict, fp32.
        scheduler: a diffusers scheduler.
        adjust: what the underscored keys ask for, applied in place to a freshly built module.
    """

    pipeline: str
    component: str
    model_class: type[nn.Module]
    config: dict[str, Any]
    tensors: Tensors
    scheduler: Any
    adjust: Callable[[nn.Module], Any] | None = None

    @property
    def parameters(self) -> int:
        return sum(values.numel() for values in self.tensors.values())


class Transfer:
    """Moves tensors from an original state dict to a new one, each exactly once.

    Args:
        tensors: the original state dict.
        name: the checkpoint's file, for messages.
        layout: the layout that the user named, for messages.
    """

    def __init__(self, tensors: Tensors, name: str, layout: str):
        self.name, self.layout = name, layout
        self.left = dict(tensors)
        self.done: Tensors = {}

    def __contains__(self, key: str) -> bool:
        return key in self.left

    def look(self, key: str) -> torch.Tensor:
        """A tensor that stays where it is; ModelError if it is missing."""
        if key not in self.left:
            raise ModelError(
                f"{self.name}: key {key!r} is missing; expected the state dict of a model in the "
                f"{self.layout!r} layout"
            )
        return self.left[key]

    def take(self, key: str) -> torch.Tensor:
        values = self.look(key)
        del self.left[key]
        return values.float()

    def drop(self, prefix: str) -> None:
        """Leave out what plays no part in a forward."""
        self.left = {k: v for k, v in self.left.items() if not k.startswith(prefix)}

    def move(self, old: str, new: str) -> None:
        """Weight and bias of one layer."""
        for part in ("weight", "bias"):
            self.done[f"{new}.{part}"] = self.take(f"{old}.{part}")

    def move_all(self, old: str, new: str, names: dict[str, str], optional: str = "") -> None:
        """Several layers of one block; `optional` names the one that may be missing."""
        for before, after in names.items():
            if before != optional or f"{old}.{before}.weight" in self:
                self.move(f"{old}.{before}", f"{new}.{after}")

    def split(self, old: str, new: str, cut: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """One projection to queries, keys and values becomes three.

        Args:
            cut: (3·C, …) → (3, C, …), with the channels of a head side by side in C.
        """
        for part in ("weight", "bias"):
            values = self.take(f"{old}.{part}")
            values = values.flatten(1) if part == "weight" else values  # 1×1 kernels
            if len(values) % 3:
                raise ModelError(
                    f"{self.name}: {old}.{part} has {len(values)} rows; expected a multiple of 3"
                )
            for letter, third in zip("qkv", cut(values), strict=True):
                self.done[f"{new}.to_{letter}.{part}"] = third

    def finish(self) -> Tensors:
        """The new state dict; ModelError if something of the original is left over."""
        if self.left:
            more = f" and {len(self.left) - 1} more" if len(self.left) > 1 else ""
            raise ModelError(
                f"{self.name}: key {next(iter(self.left))!r}{more} has no place in the "
                f"{self.layout!r} layout; is this another kind of model?"
            )
        return self.done


def cut_thirds(values: torch.Tensor) -> torch.Tensor:
    """All queries, then all keys, then all values."""
    return values.unflatten(0, (3, -1))


def cut_heads(heads: int):
    """Head by head; within a head queries, keys, values (ADM's older order)."""
    return lambda values: values.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(1, 2)


def cut_interleaved(values: torch.Tensor) -> torch.Tensor:
    """Channel by channel: query, key, value (EDM, one head)."""
    return values.unflatten(0, (-1, 3)).transpose(0, 1)


def read_checkpoint(path: Path, wanted: str | None = None) -> Tensors:
    """The state dict in a checkpoint; nothing in the file is executed.

    Args:
        path: a .safetensors file, or a .pt or .pth file.
        wanted: "ema" or "model" where a training checkpoint holds both; None takes "ema", then
            "model", whichever is there first.

    Raises:
        ModelError: the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing; expected a checkpoint")
    if path.suffix == ".safetensors":
        try:
            found = load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} cannot be read ({error}); restore the file") from error
    elif path.suffix in (".pt", ".pth"):
        found = _load_torch(path)
    else:
        raise ModelError(
            f"{path}: expected .safetensors, .pt or .pth. Other files, such as .pkl, hold pickled "
            "objects, which can run code when loaded: load it where you trust it, and save "
            "its state_dict() as .safetensors"
        )
    tensors = _state_dict(found, path, wanted)
    return without_prefix(tensors, "module.")


def _load_torch(path: Path) -> Any:
    # training programs store their arguments beside the weights; a Namespace is only a record
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"{path} holds pickled objects other than tensors, which can run code when "
                f"loaded ({_gist(error)}). If you trust it, load it in its own "
                "project, and save its state_dict() as .safetensors"
            ) from error
        except Exception as error:  # damaged files raise whatever their parser raises
            raise ModelError(f"{path} cannot be read ({_gist(error)}); restore the file") from error


def _gist(error: Exception) -> str:
    """What torch refused, without its advice on how to run it nevertheless."""
    text = str(error)
    for sign in ("WeightsUnpickler error:", "Unsupported global:", "Unsupported operand"):
        if sign in text:
            text = text[text.index(sign) :].removeprefix("WeightsUnpickler error:")
    text = text.strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0][:120]


def _state_dict(found: Any, path: Path, wanted: str | None) -> Tensors:
    # some programs write the names in capitals
    names = ("ema", "model", "state_dict")
    parts = {name: key for name in names for key in (name.upper(), name) if _is_dict(found, key)}
    if wanted is not None and wanted not in parts:
        raise ModelError(
            f"{path} holds no {wanted!r} weights; it has "
            + (", ".join(map(repr, parts)) if parts else "one state dict, so leave --weights out")
        )
    if parts:
        found = found[parts[wanted] if wanted else next(iter(parts.values()))]
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{path}: expected a state dict, found {type(found).__name__}")
    for key, values in found.items():
        if not isinstance(key, str) or not isinstance(values, torch.Tensor):
            raise ModelError(
                f"{path}: {key!r} is a {type(values).__name__}; expected a state dict of tensors"
            )
    return dict(found)


def _is_dict(found: Any, key: str) -> bool:
    return isinstance(found, dict) and isinstance(found.get(key), dict)


def without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    """The state dict of the network inside a wrapper, where all keys begin with its name."""
    if all(key.startswith(prefix) for key in tensors):
        return {key.removeprefix(prefix): values for key, values in tensors.items()}
    return tensors


def write_pipeline(
    converted: Converted, output: Path, vae: Path | None = None, overwrite: bool = False
) -> None:
    """Write a pipeline folder, which appears under its name only when it is whole.

    Args:
        converted: the denoiser.
        output: the new folder.
        vae: folder of an AutoencoderKL that is copied.
        overwrite: replace an older pipeline folder of that name.

    Raises:
        ModelError: the weights do not fit the architecture, or the VAE does not fit the denoiser.
        SpecError: the folder exists.
    """
    check_output(output, overwrite)
    model = checked_model(converted)
    if vae is not None:
        check_vae(vae, converted.config["in_channels"])
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        _write_denoiser(converted, model, partial / converted.component)
        converted.scheduler.save_pretrained(partial / "scheduler")
        if vae is not None:
            (partial / "vae").mkdir()
            for path in (vae / "config.json", *sorted(vae.glob("*.safetensors*"))):
                shutil.copyfile(path, partial / "vae" / path.name)
        _write_index(converted, partial, vae is not None)
        _into_place(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_output(output: Path, overwrite: bool) -> None:
    """SpecError if the output folder may not be written; only a pipeline is ever replaced."""
    if not output.exists():
        return
    if not overwrite:
        raise SpecError(f"{output} exists; choose another folder, or pass --overwrite")
    if not (output / "model_index.json").is_file():
        raise SpecError(
            f"{output} is no pipeline folder (it has no model_index.json), so --overwrite does "
            "not replace it; choose another folder"
        )


def checked_model(converted: Converted) -> nn.Module:
    """The architecture without weights; ModelError unless names and shapes fit the weights."""
    with torch.device("meta"):
        model = converted.model_class.from_config(converted.config)
        if converted.adjust is not None:
            converted.adjust(model)
    wanted = {key: tuple(values.shape) for key, values in model.state_dict().items()}
    given = {key: tuple(values.shape) for key, values in converted.tensors.items()}
    differ = [key for key in (*wanted, *given) if wanted.get(key) != given.get(key)]
    if differ:
        key = differ[0]
        raise ModelError(
            f"the weights do not fit diffusers' {converted.model_class.__name__}: {key} would "
            f"have shape {wanted.get(key, 'none')}, the checkpoint gives {given.get(key, 'none')}"
        )
    return model


def _write_denoiser(converted: Converted, model: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True)
    model.save_config(folder)
    # copies, because safetensors refuses views and tensors that several names share
    tensors = {
        key: values.clone(memory_format=torch.contiguous_format)
        for key, values in sorted(converted.tensors.items())
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _write_index(converted: Converted, folder: Path, vae: bool) -> None:
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    index = {
        "_class_name": converted.pipeline,
        "_diffusers_version": config["_diffusers_version"],
        converted.component: ["diffusers", converted.model_class.__name__],
        "scheduler": ["diffusers", type(converted.scheduler).__name__],
    }
    if _classes(converted) == 1000:  # the published checkpoints with so many are of ImageNet
        index["_classes"] = IMAGENET
    if vae:
        index["vae"] = ["diffusers", "AutoencoderKL"]
    _write_json(folder / "model_index.json", index)


def _classes(converted: Converted) -> int | None:
    config = converted.config
    return config.get("num_embeds_ada_norm") or config.get("num_class_embeds")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _into_place(partial: Path, output: Path) -> None:
    """Rename; an older folder steps aside first and comes back if that fails."""
    aside = output.with_name(f".{output.name}.{os.getpid()}.old")
    replaced = output.exists()
    if replaced:
        os.rename(output, aside)
    try:
        os.rename(partial, output)
    except OSError:
        if replaced:
            os.rename(aside, output)
        raise
    if replaced:
        shutil.rmtree(aside)


def check_vae(folder: Path, channels: int) -> None:
    """ModelError unless the folder is an AutoencoderKL with so many latent channels."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder}: config.json cannot be read ({error}); expected the folder of a diffusers "
            "AutoencoderKL"
        ) from error
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKL":
        raise ModelError(f"{folder} is no AutoencoderKL; expected one in diffusers' format")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no weights (*.safetensors) found")
    if config.get("latent_channels", 4) != channels:
        raise ModelError(
            f"{folder} has {config.get('latent_channels', 4)} latent channels; the model wants "
            f"{channels}"
        )
