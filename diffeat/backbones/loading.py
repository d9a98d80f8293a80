"""From a pipeline folder to a `Backbone`, by diffusers' own loading code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffeat.backbones.base import TORCH_DTYPES, Backbone, Parts
from diffeat.backbones.dit import DiT
from diffeat.backbones.locate import ModelName, locate, read_json
from diffeat.backbones.pixel_unet import PixelUNet
from diffeat.backbones.stable_diffusion import StableDiffusion
from diffeat.errors import DeviceError, ModelError, NumericsError, SpecError
from diffeat.noise import Schedule

FAMILIES: tuple[type[Backbone], ...] = (PixelUNet, StableDiffusion, DiT)
# classes are fixed here and not taken from model_index.json, which anybody may have written
COMPONENTS = {
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}


def load(
    name: str, device: str = "auto", dtype: str = "auto", allow_pickle: bool = False
) -> Backbone:
    """Load a pretrained diffusion model.

    Args:
        name: a bundled model, a diffusers pipeline folder or a hub id. "@random" or
            "@random:SEED" behind it gives the same denoiser with seeded random weights (VAE and
            text encoder keep theirs, where the folder has them).
        device: "cpu", "cuda", "cuda:1", …; "auto" takes a GPU where there is one; "meta"
            builds the architecture without weights.
        dtype: "float32", "float16" or "bfloat16"; "auto" is float32 on a CPU and bfloat16 on
            a GPU. The noise schedule keeps its own.
        allow_pickle: also load pickled weights (.bin), which can run code; only for files
            that you trust.

    Returns:
        The backbone, in evaluation mode, without gradients.

    Raises:
        ModelError: unknown, incomplete or unsupported model, or pickled weights.
        DeviceError: the device does not exist here.
        NumericsError: the weights hold inf or nan.
    """
    target = pick_device(device)
    precision = pick_dtype(dtype, target)
    wanted = ModelName.parse(name)
    folder = locate(wanted, allow_pickle, weights=target.type != "meta")
    index = read_json(folder / "model_index.json")
    family, config = _family(name, folder, index)
    loader = _Loader(folder, wanted.random_seed, target, precision, allow_pickle)
    denoiser = loader.denoiser(family)
    extras = {}
    for component in (*family.needs, *family.may_need):
        named = (index.get(component) or [None])[0] is not None
        if (folder / component).is_dir() and named:
            extras[component] = loader.component(component)
        elif named or component in family.needs:
            raise ModelError(
                f"{name}: {component}/ is missing in {folder}; a {family.family} model needs it"
            )
    _check_channels(name, config, extras.get("vae"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    loader.files.append(folder / "scheduler" / "scheduler_config.json")
    return family(
        Parts(
            name=name,
            denoiser=denoiser,
            schedule=Schedule.from_config(scheduler),
            device=target,
            files=tuple(loader.files),
            random_seed=wanted.random_seed,
            extras=extras,
        )
    )


def pick_device(device: str) -> torch.device:
    """The torch device that a user means; DeviceError if this machine has no such device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device {device!r} is unknown; expected auto, cpu or cuda[:N]") from None
    if target.type not in ("cpu", "cuda", "meta"):
        try:
            torch.empty(0, device=target)
        except Exception as error:  # a backend that is not built in may raise anything
            raise DeviceError(
                f"device {device!r} is not usable here ({str(error)[:80]}…); "
                "expected auto, cpu or cuda[:N]"
            ) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if target.type == "cuda" and (target.index or 0) >= count:
        raise DeviceError(
            f"device {device!r} was asked for, but torch sees {count} CUDA devices here; "
            "use --device cpu, or check the driver and torch's CUDA build"
        )
    return target


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in TORCH_DTYPES:
        raise SpecError(f"dtype {dtype!r} is unknown; expected auto or {', '.join(TORCH_DTYPES)}")
    return TORCH_DTYPES[dtype]


def _family(
    name: str, folder: Path, index: dict[str, Any]
) -> tuple[type[Backbone], dict[str, Any]]:
    """The family whose denoiser lies in the folder, with the denoiser's configuration."""
    for family in FAMILIES:
        path = folder / family.component / "config.json"
        if index.get(family.component) and path.is_file():
            config = read_json(path)
            if config.get("_class_name") in family.denoiser_classes and family.accepts(config):
                return family, config
    known = sorted({cls for family in FAMILIES for cls in family.denoiser_classes})
    raise ModelError(
        f"{name}: pipeline class {index.get('_class_name')!r} is not supported; expected a "
        f"pipeline whose denoiser is one of {', '.join(known)} in a configuration that "
        "diffeat knows (`diffeat models` lists the families)"
    )


def _check_channels(name: str, config: dict[str, Any], vae: nn.Module | None) -> None:
    """Refuse models that want more than the picture, such as inpainting's mask."""
    wanted = config.get("in_channels")
    given = (1, 3) if vae is None else (vae.config.latent_channels,)
    if wanted not in given:
        raise ModelError(
            f"{name}: the denoiser wants {wanted} input channels, a picture gives "
            f"{' or '.join(map(str, given))}; inpainting, depth and upscaling models need further "
            "inputs and are not supported"
        )


class _Loader:
    """Loads, or randomly initialises, the components of one pipeline folder."""

    def __init__(
        self,
        folder: Path,
        seed: int | None,
        device: torch.device,
        dtype: torch.dtype,
        allow_pickle: bool,
    ):
        self.folder, self.seed, self.device, self.dtype = folder, seed, device, dtype
        self.allow_pickle = allow_pickle
        self.files: list[Path] = []

    def denoiser(self, family: type[Backbone]) -> nn.Module:
        import diffusers

        # the first class is today's; further ones are older names of it
        cls = getattr(diffusers, family.denoiser_classes[0])
        model = self._module(cls, family.component, random=self.seed is not None)
        return self._place(model, family.component, self.device)

    def component(self, name: str) -> Any:
        """One of COMPONENTS; only what encodes is kept of a VAE."""
        import importlib

        package, class_name = COMPONENTS[name]
        cls = getattr(importlib.import_module(package), class_name)
        if name == "tokenizer":
            return self._tokenizer(cls)
        # a random twin differs in its denoiser alone, wherever the other weights are there
        bare = self.seed is not None and not any((self.folder / name).glob("*.safetensors"))
        module = self._module(cls, name, random=bare)
        if name == "vae":
            module.decoder, module.post_quant_conv = nn.Identity(), None
        # a text encoder goes to the device only for the moment in which it runs
        home = torch.device("cpu") if name == "text_encoder" else self.device
        return self._place(module, name, home)

    def _tokenizer(self, cls: type) -> Any:
        folder = self.folder / "tokenizer"
        files = sorted(path for path in folder.glob("*") if path.is_file())
        names = {path.name for path in files}
        if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
            raise ModelError(
                f"{folder}: no vocabulary; expected tokenizer.json, or vocab.json and merges.txt"
            )
        self.files += files
        try:
            tokenizer = cls.from_pretrained(str(folder))
        except Exception as error:  # broken files raise whatever their parser raises
            raise ModelError(f"{folder}: cannot be loaded ({error}); restore it") from error
        if tokenizer.model_max_length > 100_000:  # what transformers says for "not known"
            raise ModelError(f"{folder}: tokenizer_config.json lacks model_max_length; restore it")
        return tokenizer

    def _module(self, cls: type, component: str, random: bool) -> nn.Module:
        folder = self.folder / component
        config = read_json(folder / "config.json")
        self.files.append(folder / "config.json")
        try:
            if self.device.type == "meta" or random:
                return self._architecture(cls, config)
            options = self._weight_files(component, folder)
            with _no_progress_bars():
                module, report = cls.from_pretrained(
                    str(folder), torch_dtype=self.dtype, output_loading_info=True, **options
                )
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # damaged files raise whatever their parser raises
            raise ModelError(f"{folder}: cannot be loaded ({error}); restore the folder") from error
        unused = ("decoder.", "post_quant_conv.") if component == "vae" else ()
        missing = sorted(key for key in report["missing_keys"] if not key.startswith(unused))
        if missing:
            raise ModelError(
                f"{folder}: the weights lack {missing[0]!r}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + ", which would be random; restore the folder"
            )
        return module

    def _architecture(self, cls: type, config: dict[str, Any]) -> nn.Module:
        """The module of a configuration, without weights or with seeded random ones."""
        device = "meta" if self.device.type == "meta" else "cpu"
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.default_generator.manual_seed(self.seed or 0)  # leaves GPUs' generators alone
            build = getattr(cls, "from_config", None) or (lambda c: cls(cls.config_class(**c)))
            # torch's own `to`: diffusers' logs a warning for every cast
            return nn.Module.to(build(config), dtype=self.dtype)

    def _weight_files(self, component: str, folder: Path) -> dict[str, Any]:
        """Options for from_pretrained; ModelError if only pickled weights, or none, are there."""
        files = sorted(p for p in folder.glob("*.safetensors") if "non_ema" not in p.name)
        plain = [path for path in files if ".fp16." not in path.name]
        if files:
            for index in sorted(folder.glob("*.safetensors.index*.json")):
                _check_index(index)
                self.files.append(index)
            self.files += plain or files
            return {"use_safetensors": True, **({} if plain else {"variant": "fp16"})}
        pickled = sorted(folder.glob("*.bin"))
        if not pickled:
            raise ModelError(
                f"{folder}: no weights (*.safetensors) found; restore the folder, or, if its "
                "author offers pickled weights (*.bin) only and you trust them, pass "
                "--allow-pickle (allow_pickle=True)"
            )
        if not self.allow_pickle:
            raise ModelError(
                f"{folder}: only pickled weights ({pickled[0].name}), which can run code when "
                "loaded; expected *.safetensors. Convert them, or pass --allow-pickle "
                "(allow_pickle=True) if you trust their author"
            )
        self.files += pickled
        return {"use_safetensors": False}

    def _place(self, module: nn.Module, component: str, home: torch.device) -> nn.Module:
        if self.device.type == "meta":
            home = self.device
        else:
            _check_finite(module, f"{self.folder / component}")
        return module.to(home).requires_grad_(False).eval()


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


def _check_index(path: Path) -> None:
    """An index of shards may name safetensors in its own folder, and nothing else."""
    shards = set(dict(read_json(path).get("weight_map", {})).values())
    for shard in shards:
        if not str(shard).endswith(".safetensors") or Path(str(shard)).name != shard:
            raise ModelError(
                f"{path} names {shard!r}; expected *.safetensors in the same folder: restore it"
            )


def _check_finite(module: nn.Module, where: str) -> None:
    for name, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise NumericsError(
                f"{where}: weight {name!r} holds inf or nan; the file is damaged or training "
                "diverged, so no feature of it can be used: restore the weights"
            )
