"""Networks that were trained through a backbone, as one .safetensors file each: weights, and JSON
as metadata. Reading runs no code.

metadata["format"]   what wrote it
metadata["said"]     JSON: models (hashes by what they are of), names, words, settings
NAME                 weights
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import SHOWN, Identity
from diffeat.vision.joint import JointModel
from diffeat.words.vocabulary import Vocabulary
from probes.tensor_files import Tensors, parse_json, read_tensors, read_texts, write_tensors


@dataclass(frozen=True)
class SavedNetwork:
    """What a file says of itself.

    Attributes:
        models: what a model is for → its hash ("denoiser", "text encoder").
        names: what a model is for → what the user called it.
        words: of each class of the training.
        settings: plain values of the estimator.
        about: further plain values, such as the pictures that it was fitted on.
    """

    models: Mapping[str, str | None]
    names: Mapping[str, str]
    words: Sequence[Sequence[str]]
    settings: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes of the training."""
        return Vocabulary.of({one[0]: list(one[1:]) for one in self.words})

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings, lists as tuples."""
        return {name: tuple(value) if isinstance(value, list) else value
                for name, value in self.settings.items()}  # fmt: skip

    def check(self, path: Path, models: Mapping[str, str | None], names: Mapping[str, str]) -> None:
        """SpecError that names every model that is another one.

        Args:
            models, names: those that are here.
        """
        wrong = [
            f"the {what} of {self.names.get(what)!r} ({str(self.models.get(what))[:SHOWN]}), which "
            f"{names[what]!r} ({str(value)[:SHOWN]}) does not have"
            for what, value in models.items() if self.models.get(what) != value
        ]  # fmt: skip
        if wrong:
            raise SpecError(f"{path}: it was trained with {'; with '.join(wrong)}; load the models "
                            "that it is for, or train it again")  # fmt: skip


def models_of(
    backbone: Backbone, clip: JointModel | None = None
) -> tuple[dict[str, str | None], dict[str, str]]:
    """What a trained network goes with, and what the user called it, by what it is.

    Returns:
        Hashes and names of "denoiser" and "text encoder", and of a CLIP.
    """
    here = Identity.of(backbone)
    models = {"denoiser": here.denoiser, "text encoder": here.text_encoder}
    names = dict.fromkeys(models, backbone.name)
    if clip is None:
        return models, names
    theirs = {"CLIP": clip.weights, "CLIP's tokenizer and preprocessing": clip.text_files}
    return {**models, **theirs}, {**names, **dict.fromkeys(theirs, clip.name)}


def write_network(
    path: str | Path, kind: str, said: SavedNetwork, tensors: Mapping[str, torch.Tensor]
) -> Path:
    """Write it whole, or not at all.

    Args:
        kind: what such files call themselves.

    Raises:
        SpecError: the path does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise SpecError(f"{path}: expected a path that ends in .safetensors")
    text = json.dumps(asdict(said), sort_keys=True)
    write_tensors(path, tensors, {"format": kind, "said": text})
    return path


def kind_of(path: str | Path) -> str | None:
    """What a file calls itself; None of files that are not there, or no tensors."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        return read_texts(path).get("format")
    except (ValueError, OSError):
        return None


def read_said(path: str | Path, kind: str, what: str) -> SavedNetwork:
    """What a file says, without its weights.

    Args:
        what: it should be, for messages: "a trained VPD".

    Raises:
        SpecError: no such file, of another kind, or damaged.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise SpecError(f"{path}: no such file; expected {what} (.safetensors)")
    try:
        texts = read_texts(path)
        if texts.get("format") != kind:
            raise SpecError(f"{path}: format {texts.get('format')!r:.40}; expected {kind}")
        said = SavedNetwork(**parse_json(texts["said"]))
        return replace(said, models=dict(said.models), names=dict(said.names),
                       words=[[str(word) for word in one] for one in said.words],
                       settings=dict(said.settings), about=dict(said.about))  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{path}: damaged ({error}); train it again") from error


def read_weights(path: str | Path) -> Tensors:
    """Its weights; SpecError where they are damaged."""
    try:
        return read_tensors(Path(path))
    except (ValueError, OSError) as error:
        raise SpecError(f"{path}: damaged ({error}); train it again") from error
