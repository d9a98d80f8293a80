"""From what the user typed to a pipeline folder on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diffeat.backbones.request import ModelRequest
from diffeat.errors import ModelError, nearest, reason_of

ZOO = Path(__file__).parent / "zoo"
KNOWN = Path(__file__).parent / "known"
# what never reaches a forward, or exists in a better form in the same repository
UNUSED_FILES = ("*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*non_ema*", "safety_checker/*")


def bundled_models() -> dict[str, Path]:
    """Name → pipeline folder of the models that come with diffeat."""
    return {path.parent.name: path.parent for path in sorted(ZOO.glob("*/model_index.json"))}


def known_models() -> dict[str, Path]:
    """Name → folder with the configurations, but no weights, of well-known models."""
    return {path.parent.name: path.parent for path in sorted(KNOWN.glob("*/model_index.json"))}


def locate(request: ModelRequest, weights: bool = True) -> Path:
    """Find the pipeline folder; a hub id is downloaded (or found in the hub's cache).

    Args:
        request: which model, and whether pickled weights may be fetched.
        weights: fetch weights at all; without, configurations only.

    Raises:
        ModelError: there is no such model, or the hub cannot be reached.
    """
    base, random = request.base, request.random_seed is not None
    bundled, known = bundled_models(), known_models()
    if base in bundled:
        return bundled[base]
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    if base in known:
        if random or not weights:
            return known[base]
        return _from_hub(_hub_id(base, known[base]), _patterns(request.allow_pickle))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        return _from_hub(base, _patterns(request.allow_pickle, weights, random))
    raise ModelError(
        f"model {base!r} is unknown{nearest(base, [*bundled, *known])}; expected a "
        f"bundled model ({', '.join(bundled)}), a known one (`diffeat models`), a diffusers "
        "pipeline folder, or a hub id such as 'owner/model'"
    )


def _hub_id(name: str, folder: Path) -> str:
    """Where the weights of a known model are."""
    hub_id = read_json(folder / "model_index.json").get("_hub_id")
    if hub_id is None:
        raise ModelError(
            f"model {name!r}: its weights are on no hub in this layout; convert the original "
            f"checkpoint with scripts/convert.py and pass the folder, or use '{name}@random'"
        )
    return hub_id


def _patterns(
    pickle: bool, weights: bool = True, random: bool = False
) -> tuple[list[str], list[str]]:
    """What is fetched of a repository, and what is not."""
    wanted = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
    if weights and random:
        wanted += ["vae/*.safetensors", "text_encoder*/*.safetensors"]
    elif weights:
        wanted += ["*/*.safetensors", *(["*/*.bin"] if pickle else [])]
    return wanted, [each for each in UNUSED_FILES if not (pickle and each == "*.bin")]


def _from_hub(hub_id: str, patterns: tuple[list[str], list[str]]) -> Path:
    from huggingface_hub import constants, snapshot_download

    wanted, unused = patterns
    weights = any(pattern.endswith(".safetensors") for pattern in wanted)
    try:
        for extra in (["*.fp16.*"], []):  # half-precision copies only where there is nothing else
            folder = Path(
                snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=unused + extra)
            )
            if not weights or any(folder.glob("*/*.safetensors")):
                break
        return folder
    except Exception as error:  # the hub's client has changed its HTTP library, and so its errors
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"model {hub_id!r} is not on this machine, and nothing is fetched: a plan asks no "
                "server, nor does anything else where HF_HUB_OFFLINE is set. Check the name, or "
                f"fetch it first (`hf download {hub_id}`)"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {hub_id!r} is not on this machine and cannot be fetched from the hub "
            f"({reason}). Check the name and the network, or download the pipeline folder "
            "elsewhere and pass its path"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder; ModelError if it is missing or broken."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; expected a diffusers pipeline folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({reason_of(error)}); restore the file") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return values
