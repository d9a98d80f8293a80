"""Prompts that were learned for one model, as files: what they hold, and for whom.

A file is `.safetensors`: `encoder_hidden_states` (K, L, D) are ready text tensors, one row for all
pictures or one for each class; its metadata hold JSON (`PromptFile`). A conditional prompt has
weights in their place, because its text tensors are other ones for every pair of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError, nearest
from diffeat.hashing import files_fingerprint, fingerprint

FORMAT = "diffeat-prompts-1"
STATES = "encoder_hidden_states"
KINDS = ("single", "class", "conditional", "points")
SHOWN = 8
"""Letters of a fingerprint that messages show."""


@dataclass(frozen=True)
class Identity:
    """Which denoiser and which text encoder prompts go with, whatever the precision.

    Attributes:
        model: what the user called it.
        denoiser: hash of its files and of the seed of random weights.
        text_encoder: hash of the files of tokenizer and text encoder; None where the prompt goes
            past it.
    """

    model: str
    denoiser: str
    text_encoder: str | None = None

    @classmethod
    def of(cls, backbone: Backbone, text: bool = True) -> Identity:
        """That of a backbone; `text`: whether its text encoder counts."""
        texts, others = [], []
        for path in backbone.files:
            at = path.parent.name
            (texts if at.startswith(("text_encoder", "tokenizer")) else others).append(path)
        weights = fingerprint(files_fingerprint(others), backbone.random_seed)
        return cls(backbone.name, weights, files_fingerprint(texts) if text else None)

    def check(self, backbone: Backbone, where: str) -> None:
        """SpecError unless a backbone is the one that the prompts were learned with.

        An architecture without weights (device "meta") is none yet: whoever loads them will ask.
        """
        if backbone.device.type == "meta":
            return
        here = Identity.of(backbone, self.text_encoder is not None)
        for name, words in (("text_encoder", "text encoder"), ("denoiser", "denoiser")):
            was, now = getattr(self, name), getattr(here, name)
            if was != now:
                raise SpecError(
                    f"{where}: these prompts were learned with the {words} of {self.model!r} "
                    f"({was[:SHOWN]}), which {here.model!r} ({now[:SHOWN]}) does not have; learn "
                    "them for it, or load the model that they are for"
                )


@dataclass(frozen=True)
class PromptFile:
    """What a file of learned prompts says of itself.

    Attributes:
        kind: "single", one prompt for all pictures; "class", one for each class; "conditional",
            one for each pair of pictures; "points", some for each point of a picture.
        identity: for which model.
        classes: K names, of kind "class".
        about: how it was learned, as plain values.
    """

    kind: str
    identity: Identity
    classes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def texts(self) -> dict[str, str]:
        """The metadata of the file."""
        return {"format": FORMAT, "prompts": json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def read(cls, path: str | Path) -> PromptFile | None:
        """What a file says; None for plain embeddings, which say nothing.

        Raises:
            SpecError: no .safetensors file, or damaged.
        """
        texts = _metadata(Path(path))
        if texts.get("format", "").rpartition("-")[0] != FORMAT.rpartition("-")[0]:
            return None
        if texts["format"] != FORMAT:
            raise SpecError(f"{path}: format {texts['format']}; this version reads {FORMAT}")
        try:
            values = json.loads(texts["prompts"])
            identity = Identity(**values.pop("identity"))
            found = cls(identity=identity, **{**values, "classes": tuple(values["classes"])})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise SpecError(f"{path}: damaged prompts ({error}); learn them again") from error
        if found.kind not in KINDS or not _plain(found):
            raise SpecError(f"{path}: damaged prompts (kind {found.kind!r}); learn them again")
        return found

    def rows(
        self, where: str, held: int, labels: Sequence[int] | None, class_names: Sequence[str]
    ) -> np.ndarray | None:
        """(N,) which row of the file each picture is told; None: the one for all.

        Args:
            where: the file, for messages.
            held: rows of its text tensors.
            labels: N class indices of the pictures, where they have any.
            class_names: names of the classes, by index.

        Raises:
            SpecError: it is not for extraction, or pictures are of no class that it knows.
        """
        if self.kind == "conditional":
            raise SpecError(
                f"{where} is a conditional prompt, which is another one for every pair of "
                "pictures; match pairs with diffeat.adapt.PromptTuning.load(…).match(…)"
            )
        if self.kind == "points" and held != 1:
            raise SpecError(
                f"{where} holds {held} prompts of points; expected one: save a point by itself "
                "(`save(path, point=0)`), or match with diffeat.adapt.PointPrompts"
            )
        if self.kind != "class":
            return None
        if labels is None or not len(class_names):
            raise SpecError(
                f"{where} has a prompt for each of {len(self.classes)} classes, but these pictures "
                "have none; expected one subfolder per class, or a single prompt"
            )
        if held != len(self.classes):
            raise SpecError(f"{where}: damaged prompts ({held} for {len(self.classes)} classes)")
        known = {name: row for row, name in enumerate(self.classes)}
        used = sorted({int(label) for label in labels})
        for label in used:
            name = class_names[label] if label >= 0 else None
            if name not in known:
                raise SpecError(
                    f"{where} has no prompt for class {name!r}"
                    f"{nearest(name or '', known)}; it knows {', '.join(self.classes)[:200]}"
                )
        return np.array([known[class_names[int(label)]] for label in labels], np.int64)


def read_states(path: str | Path, backbone: Backbone) -> tuple[PromptFile | None, dict]:
    """What a file of embeddings says of itself, and its text tensors.

    Raises:
        SpecError: no such file, damaged, or of another model.
    """
    from safetensors import safe_open

    _check_file(path)
    found = PromptFile.read(path)
    if found is not None:
        found.identity.check(backbone, str(path))
    try:
        with safe_open(str(path), framework="pt") as file:
            names = [n for n in file.keys() if found is None or n == STATES]  # noqa: SIM118
            return found, {name: file.get_tensor(name) for name in names}
    except Exception as error:  # its reader raises errors of its own
        raise SpecError(f"embeddings {path}: {error}; expected a .safetensors file") from error


def embedding_rows(path: str | Path) -> int:
    """For how many pictures a file has embeddings: 1 is one row for all; nothing is loaded."""
    from safetensors import safe_open

    _check_file(path)
    found = PromptFile.read(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            names = [n for n in file.keys() if found is None or n == STATES]  # noqa: SIM118
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except Exception as error:  # its reader raises errors of its own
        raise SpecError(f"embeddings {path}: {error}; expected a .safetensors file") from error
    # one prompt is (L, D) of hidden states, and a vector of all else
    one = {name: 2 if name == STATES else 1 for name in shapes}
    return max((s[0] if len(s) > one[name] else 1 for name, s in shapes.items()), default=1)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    _check_file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except Exception as error:  # its reader raises errors of its own
        raise SpecError(f"embeddings {path}: {error}; expected a .safetensors file") from error


def _check_file(path: str | Path) -> None:
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        raise SpecError(f"embeddings {path}: no such file; expected a .safetensors file")


def _plain(found: PromptFile) -> bool:
    """Whether all that is read of it later is text."""
    identity = [getattr(found.identity, one.name) for one in fields(Identity)]
    texts = [*identity[:2], identity[2] or "", *found.classes]
    return isinstance(found.about, dict) and all(isinstance(text, str) for text in texts)
