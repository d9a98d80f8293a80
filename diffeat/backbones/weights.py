"""The components of a pipeline folder, with their weights or seeded random ones."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from diffeat.backbones.base import Backbone
from diffeat.backbones.learned_t import HALF, learned_t_of, weights_in
from diffeat.backbones.locate import read_json
from diffeat.backbones.lora import merge_lora
from diffeat.backbones.pipeline import Pipeline
from diffeat.errors import ModelError, NumericsError, SpecError

Adjust = Callable[[nn.Module, dict[str, Any]], None]
COMMON = ("_class_name", "_diffusers_version", "_name_or_path")
"""Keys of any configuration of diffusers; other private ones are ours."""


def load_denoiser(pipeline: Pipeline, family: type[Backbone]) -> nn.Module:
    """The denoiser, with its own weights, random ones, or those that the request names."""
    import diffusers

    # the first class is today's; further ones are older names of it
    cls = getattr(diffusers, family.denoiser_classes[0])
    request = pipeline.request
    random = request.random_seed is not None
    model = _module(pipeline, cls, family.component, random, family.adjust)
    home = torch.device("cpu") if request.offload == "blocks" else pipeline.device
    model = _place(pipeline, model, family.component, home)
    if pipeline.device.type == "meta" and request.changes:
        raise SpecError("device 'meta' has no weights to replace; leave denoiser and lora out")
    if request.denoiser is not None:
        _swap(pipeline, model, Path(request.denoiser))
    if request.lora is not None:
        merge_lora(model, Path(request.lora), family.lora_loader)
        check_finite(model, request.lora)
        pipeline.files.append(Path(request.lora))
    return model


def load_component(pipeline: Pipeline, name: str, cls: str) -> Any:
    """A further component, of class "package.class"; only what encodes is kept of a VAE."""
    package, _, found = cls.rpartition(".")
    cls = getattr(importlib.import_module(package), found)
    if name.startswith("tokenizer"):
        return _tokenizer(pipeline, cls, name)
    # a random twin differs in its denoiser alone, wherever the other weights are there
    random = pipeline.request.random_seed is not None
    bare = random and not any((pipeline.folder / name).glob("*.safetensors"))
    module = _module(pipeline, cls, name, random=bare)
    if name == "vae":
        pipeline.decoder_form = _taken_decoder(module).to("meta")
        pipeline.decoder = partial(_decoder_again, pipeline, cls, bare)
        module = _upcast(pipeline, module)
    # a text encoder goes to the device only for the moment in which it runs
    away = name.startswith("text_encoder") or pipeline.request.offload != "none"
    home = torch.device("cpu") if away else pipeline.device
    return _place(pipeline, module, name, home)


def _upcast(pipeline: Pipeline, vae: nn.Module) -> nn.Module:
    """A VAE in fp32 where its activations would overflow in half precision."""
    overflows = pipeline.dtype == torch.float16 and vae.config.get("force_upcast")
    return nn.Module.float(vae) if overflows else vae


def _taken_decoder(vae: nn.Module) -> nn.Sequential:
    """What decodes, taken out of a VAE: (post_quant_conv or nothing, decoder)."""
    found = nn.Sequential(getattr(vae, "post_quant_conv", None) or nn.Identity(), vae.decoder)
    vae.decoder, vae.post_quant_conv = nn.Identity(), None
    return found


def _decoder_again(pipeline: Pipeline, cls: type, random: bool) -> nn.Module:
    """The VAE's decoder with its weights, where its encoder lies."""
    module = _module(replace(pipeline, files=[]), cls, "vae", random=random, whole=True)
    whole = _upcast(pipeline, module)
    home = torch.device("cpu") if pipeline.request.offload != "none" else pipeline.device
    return _place(pipeline, _taken_decoder(whole), "vae", home)


def _swap(pipeline: Pipeline, denoiser: nn.Module, source: Path) -> None:
    """Replace the denoiser's weights; ModelError unless they fit exactly."""
    files = [source] if source.is_file() else weights_in(source)
    if not files or any(file.suffix != ".safetensors" for file in files):
        raise ModelError(
            f"{source}: no such weights; expected a .safetensors file, or a folder with them"
        )
    result = _assign(denoiser, files)
    if result:
        raise ModelError(f"{source}: not the weights of this denoiser ({result})")
    check_finite(denoiser, str(source))
    pipeline.files += files
    pipeline.learned_t = learned_t_of(source)


def _tokenizer(pipeline: Pipeline, cls: type, name: str) -> Any:
    folder = pipeline.folder / name
    files = sorted(path for path in folder.glob("*") if path.is_file())
    names = {path.name for path in files}
    whole = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"spiece.model"})
    if not any(needed <= names for needed in whole):
        raise ModelError(
            f"{folder}: no vocabulary; expected tokenizer.json, vocab.json and merges.txt, or "
            "spiece.model"
        )
    pipeline.files += files
    try:
        tokenizer = cls.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # broken files raise whatever their parser raises
        raise ModelError(f"{folder}: cannot be loaded ({error}); restore it") from error
    if tokenizer.model_max_length > 100_000:  # what transformers says for "not known"
        raise ModelError(f"{folder}: tokenizer_config.json lacks model_max_length; restore it")
    return tokenizer


def _module(
    pipeline: Pipeline, cls: type, component: str, random: bool, adjust: Adjust | None = None,
    whole: bool = False,
) -> nn.Module:  # fmt: skip
    """A component; `adjust` changes its architecture before weights are there; a `whole` VAE
    needs the weights of its decoder, too."""
    folder = pipeline.folder / component
    config = read_json(folder / "config.json")
    pipeline.files.append(folder / "config.json")
    try:
        if pipeline.device.type == "meta" or random:
            return _architecture(pipeline, cls, config, adjust)
        options = _weight_files(folder, pipeline)
        if adjust is not None and any(key[:1] == "_" for key in config if key not in COMMON):
            return _adjusted(cls, config, folder, adjust, pipeline.dtype)
        unused = ("decoder.", "post_quant_conv.") if component == "vae" and not whole else ()
        return _as_saved(cls, folder, {"torch_dtype": pipeline.dtype, **options}, unused)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # damaged files raise whatever their parser raises
        raise ModelError(f"{folder}: cannot be loaded ({error}); restore the folder") from error


def _as_saved(
    cls: type, folder: Path, options: dict[str, Any], unused: tuple[str, ...] = ()
) -> nn.Module:
    """A component as the library itself loads it; ModelError if weights are missing, but for
    those whose names begin with `unused`."""
    with _no_progress_bars():
        module, report = cls.from_pretrained(
            str(folder), output_loading_info=True, **options, **_loading_options(cls)
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unused))
    if missing:
        raise ModelError(
            f"{folder}: the weights lack {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ", which would be random; restore the folder"
        )
    return module


def _adjusted(
    cls: type, config: dict[str, Any], folder: Path, adjust: Adjust, dtype: torch.dtype
) -> nn.Module:
    """An architecture that no diffusers class has by itself, with its weights."""
    module = cls.from_config(config)
    adjust(module, config)
    result = _assign(module, weights_in(folder))
    if result:
        raise ModelError(f"{folder}: the weights do not fit the configuration ({result})")
    return _cast(module, dtype)


def _architecture(
    pipeline: Pipeline, cls: type, config: dict[str, Any], adjust: Adjust | None = None
) -> nn.Module:
    """The module of a configuration, without weights or with seeded random ones."""
    bare = pipeline.device.type == "meta"
    dtype, seed = pipeline.dtype, pipeline.request.random_seed or 0
    casting = nullcontext() if bare else _casting(dtype)  # nothing of it lies in memory
    with torch.random.fork_rng(devices=[]), torch.device("meta" if bare else "cpu"), casting:
        torch.default_generator.manual_seed(seed)  # leaves GPUs' generators alone
        build = getattr(cls, "from_config", None) or (lambda c: cls(cls.config_class(**c)))
        module = build(config)
        if adjust is not None:
            adjust(module, config)
        return _cast(module, dtype)


def _weight_files(folder: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Options for from_pretrained; ModelError if only pickled weights, or none, are there."""
    files = weights_in(folder)
    if files:
        for index in sorted(folder.glob("*.safetensors.index*.json")):
            _check_index(index)
            pipeline.files.append(index)
        pipeline.files += files
        half = all(HALF in path.name for path in files)
        return {"use_safetensors": True, **({"variant": "fp16"} if half else {})}
    pickled = sorted(folder.glob("*.bin"))
    if not pickled:
        raise ModelError(
            f"{folder}: no weights (*.safetensors) found; restore the folder, or, if its "
            "author offers pickled weights (*.bin) only and you trust them, pass "
            "--allow-pickle (allow_pickle=True)"
        )
    if not pipeline.request.allow_pickle:
        raise ModelError(
            f"{folder}: only pickled weights ({pickled[0].name}), which can run code when "
            "loaded; expected *.safetensors. Convert them, or pass --allow-pickle "
            "(allow_pickle=True) if you trust their author"
        )
    pipeline.files += pickled
    return {"use_safetensors": False}


def _place(pipeline: Pipeline, module: nn.Module, component: str, home: torch.device) -> nn.Module:
    """The module on its device, ready to be run and never trained by accident."""
    if pipeline.device.type == "meta":
        home = pipeline.device
    else:
        check_finite(module, f"{pipeline.folder / component}")
    return module.to(home).requires_grad_(False).eval()


def _loading_options(cls: type) -> dict[str, bool]:
    """Do not ask diffusers for what needs accelerate where that is not installed.

    By default it asks, and then complains on stderr with every component.
    """
    from diffusers import ModelMixin
    from diffusers.utils import is_accelerate_available

    if issubclass(cls, ModelMixin) and not is_accelerate_available():
        return {"low_cpu_mem_usage": False}
    return {}


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar per component; ours are about the user's pictures."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _casting(dtype: torch.dtype) -> Iterator[None]:
    """Cast every module that is built as soon as it becomes part of another.

    Weights are drawn in fp32, so a seed means the same in every precision, but never more than
    one layer's lie in fp32 in memory.
    """
    handle = register_module_module_registration_hook(
        lambda _parent, _name, child: child and _cast(child, dtype) and None
    )
    try:
        yield
    finally:
        handle.remove()


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights in another precision; tables that are computed keep theirs, as in loading."""
    for weight in module.parameters():
        if weight.dtype != dtype:
            weight.data = weight.data.to(dtype)
    return module


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:  # its reader raises errors of its own
        raise ModelError(f"{file}: cannot be read ({error}); fetch it again") from error


def _assign(module: nn.Module, files: Sequence[Path]) -> str:
    """Copy the weights of .safetensors files in; what does not fit, in words, or nothing."""
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state |= _read_safetensors(file)
    have = module.state_dict()
    missing, extra = sorted(have.keys() - state.keys()), sorted(state.keys() - have.keys())
    wrong = [key for key in have.keys() & state.keys() if have[key].shape != state[key].shape]
    for words, keys in (("lacks", missing), ("does not know", extra), ("other shape of", wrong)):
        if keys:
            return f"{words} {keys[0]!r}" + (f" and {len(keys) - 1} more" if keys[1:] else "")
    module.load_state_dict(state)
    return ""


def _check_index(path: Path) -> None:
    """An index of shards may name safetensors in its own folder, and nothing else."""
    shards = set(dict(read_json(path).get("weight_map", {})).values())
    for shard in shards:
        if not str(shard).endswith(".safetensors") or Path(str(shard)).name != shard:
            raise ModelError(
                f"{path} names {shard!r}; expected *.safetensors in the same folder: restore it"
            )


def check_finite(module: nn.Module, where: str) -> None:
    """NumericsError if a weight of a module is inf or nan; `where` is told."""
    for name, weight in module.named_parameters():
        # a finite sum has finite terms, and is found 20 times as fast; it may overflow
        if not (math.isfinite(weight.detach().sum()) or torch.isfinite(weight).all()):
            raise NumericsError(
                f"{where}: weight {name!r} holds inf or nan; the file is damaged or training "
                "diverged, so no feature of it can be used: restore the weights"
            )
