"""A trained ODISE as one .safetensors file: weights, and JSON as metadata. Reading runs no code.

metadata["odise"]   JSON: models (hashes of denoiser, text encoder, CLIP), words, settings
NAME                weights of captioner, pyramid and naming
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import SHOWN, Identity
from diffeat.vision.joint import JointModel
from probes.tensor_files import Tensors, parse_json, read_tensors, read_texts, write_tensors

FORMAT = "diffeat-odise-1"
"""What the files call themselves."""


def models_of(backbone: Backbone, clip: JointModel) -> dict[str, str | None]:
    """What a trained ODISE goes with: hashes by what they are of."""
    here = Identity.of(backbone)
    return {
        "denoiser": here.denoiser, "text encoder": here.text_encoder, "CLIP": clip.weights,
        "CLIP's tokenizer and preprocessing": clip.text_files,
    }  # fmt: skip


def write_odise(
    path: str | Path, backbone: Backbone, clip: JointModel, words: Sequence[Sequence[str]],
    settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor],
) -> Path:  # fmt: skip
    """Write it whole, or not at all.

    Args:
        words: of each class of the training.
        settings: plain values.

    Raises:
        SpecError: the path does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise SpecError(f"{path}: expected a path that ends in .safetensors")
    said = {
        "models": models_of(backbone, clip), "names": [backbone.name, clip.name],
        "words": [list(one) for one in words], "settings": dict(settings),
    }  # fmt: skip
    write_tensors(path, tensors, {"format": FORMAT, "odise": json.dumps(said, sort_keys=True)})
    return path


def read_odise(
    path: str | Path, backbone: Backbone, clip: JointModel
) -> tuple[list[list[str]], dict[str, Any], Tensors]:
    """Words, settings and weights.

    Raises:
        SpecError: no such file, damaged, or of another model, which field by field is told.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise SpecError(f"{path}: no such file; expected a trained ODISE (.safetensors)")
    try:
        texts = read_texts(path)
        if texts.get("format") != FORMAT:
            raise SpecError(f"{path}: format {texts.get('format')!r:.40}; expected {FORMAT}")
        said = parse_json(texts["odise"])
        models, names = dict(said["models"]), list(map(str, said["names"]))
        words, settings = list(said["words"]), dict(said["settings"])
        _check_models(path, models, names, models_of(backbone, clip), backbone, clip)
        return words, settings, read_tensors(path)
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path}: damaged ({error}); train it again") from error


def _check_models(path: Path, was, names, now, backbone: Backbone, clip: JointModel) -> None:
    """SpecError that names every model that is another one."""
    wrong = [
        f"the {what} of {names['CLIP' in what]!r} ({str(was.get(what))[:SHOWN]}), which "
        f"{(clip if 'CLIP' in what else backbone).name!r} ({str(value)[:SHOWN]}) does not have"
        for what, value in now.items() if was.get(what) != value
    ]  # fmt: skip
    if wrong:
        raise SpecError(f"{path}: it was trained with {'; with '.join(wrong)}; load the models "
                        "that it is for, or train it again")  # fmt: skip
