"""What each picture's forward is conditioned on: prompts, class labels, or ready embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import upload
from diffeat.errors import SpecError, brief
from diffeat.extraction.class_map import ClassMap, class_map_of
from diffeat.extraction.learned_prompts import read_states
from diffeat.images import Source, captions_for, read_captions
from diffeat.specs import CLASS_LABEL, PLACEHOLDERS, ExtractSpec

AHEAD = 64
"""Prompts that one visit of the text encoder to the device encodes, where they differ."""
CACHE_BYTES = 256 << 20


class Conditions:
    """The denoiser's conditions, picture by picture.

    The text encoder runs once per distinct prompt (once per `CACHE_BYTES` worth of them, where
    every picture has its own), many prompts at a time, and leaves the device afterwards.

    Args:
        backbone: whose conditions.
        prompts: one for all pictures, or N of them.
        labels: one class index (or None, the null class) for all pictures, or N of them.
        count: N, the number of pictures.
        embeddings: the denoiser's text tensors, (1, …) or (N, …), in place of prompts. Their
            number of tokens is free.
        embedding_rows: (N,) which row of K embeddings (K, …) each picture has; None: (1, …) is
            for all, (N, …) one each.

    Attributes:
        class_map: which class of the model each class of the pictures is, where each picture
            has its own.

    Raises:
        SpecError: lengths or shapes that do not fit; see also `Backbone.condition`.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: str | Sequence[str] = "",
        labels: int | Sequence[int | None] | None = None,
        count: int = 1,
        embeddings: Mapping[str, torch.Tensor] | None = None,
        embedding_rows: np.ndarray | None = None,
    ):
        self.backbone = backbone
        self.class_map: ClassMap | None = None
        self._prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        one = labels is None or isinstance(labels, (int, str))
        self._labels = [_index(label) for label in ([labels] if one else labels)]
        for name, values in (("prompts", self._prompts), ("labels", self._labels)):
            if len(values) not in (1, count):
                raise SpecError(f"{len(values)} {name} for {count} pictures; expected one each")
        if not all(isinstance(prompt, str) for prompt in self._prompts):
            raise SpecError("prompts: expected texts only")
        self._rows = embedding_rows
        many = (
            count
            if embedding_rows is None or embeddings is None
            else len(next(iter(embeddings.values())))
        )
        self._embeddings = None if embeddings is None else self._checked(embeddings, many)
        if self._embeddings is not None and any(self._prompts):
            raise SpecError("prompts and embeddings are given; expected one of them")
        self._cache: OrderedDict[tuple, dict[str, torch.Tensor]] = OrderedDict()
        self._last: tuple[tuple, dict[str, torch.Tensor]] | None = None

    @property
    def text_length(self) -> int | None:
        """Tokens of the embeddings, where there are any."""
        if self._embeddings is None:
            return None
        return self._embeddings["encoder_hidden_states"].shape[1]

    @property
    def vary(self) -> bool:
        """Whether pictures differ in their conditions."""
        more = (self._embeddings or {}).values()
        return any(len(values) > 1 for values in (self._prompts, self._labels, *more))

    @property
    def texts(self) -> int:
        """Distinct prompts, which the text encoder runs for."""
        reads = self.backbone.embedding_shapes and self._embeddings is None
        return len(set(self._prompts)) if reads else 0

    def prepare(self) -> None:
        """Encode the first condition, so that what cannot be done is known before work begins."""
        if not self._cache:
            self._encode(self._keys_from(0)[:1])

    def _checked(self, embeddings, count: int) -> dict[str, torch.Tensor]:
        shapes = self.backbone.embedding_shapes
        if not shapes:
            raise SpecError(f"{self.backbone.name} takes no text embeddings")
        if set(embeddings) != set(shapes):
            raise SpecError(
                f"embeddings {sorted(embeddings)}; {self.backbone.name} expects {sorted(shapes)}"
            )
        found = {}
        for name, value in embeddings.items():
            tensor = torch.as_tensor(value)
            wanted = shapes[name]
            free = name == "encoder_hidden_states" or name.endswith("mask")
            if tensor.ndim == len(wanted):
                tensor = tensor[None]
            same = tensor.shape[2 if free else 1 :] == wanted[1 if free else 0 :]
            if tensor.ndim != len(wanted) + 1 or not same or len(tensor) not in (1, count):
                raise SpecError(
                    f"embedding {name!r} is {tuple(tensor.shape)}; expected "
                    f"{(1, *wanted)} or {(count, *wanted)}"
                    + (", with any number of tokens" if free else "")
                )
            found[name] = tensor if name.endswith("mask") else tensor.to(self.backbone.dtype)
        return found

    def __call__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Conditions of the pictures at `rows`: name → (P, …) on the backbone's device."""
        keys = [self._key(row) for row in rows]
        known = {}
        for key, row in zip(keys, rows, strict=True):
            if key not in known:
                if key not in self._cache:
                    self._encode(self._keys_from(row))
                self._cache.move_to_end(key)
                known[key] = self._cache[key]
        device = self.backbone.device
        if len(known) == 1:
            found = {
                name: value.expand(len(rows), *value.shape[1:])
                for name, value in self._on_device(keys[0]).items()
            }
        else:
            found = {
                name: upload(torch.cat([known[key][name] for key in keys]), device)
                for name in known[keys[0]]
            }
        for name, tensor in (self._embeddings or {}).items():
            if len(tensor) == 1:
                found[name] = upload(tensor, device).expand(len(rows), *tensor.shape[1:])
            else:
                places = list(rows) if self._rows is None else self._rows[list(rows)]
                found[name] = upload(tensor[places], device)
        return found

    def _on_device(self, key: tuple) -> dict[str, torch.Tensor]:
        """The tensors (1, …) of one condition, which the next pictures probably share."""
        if self._last is None or self._last[0] != key:
            moved = {n: upload(v, self.backbone.device) for n, v in self._cache[key].items()}
            self._last = key, moved
        return self._last[1]

    def _key(self, row: int) -> tuple[str, int | None]:
        return tuple(
            values[0] if len(values) == 1 else values[row]
            for values in (self._prompts, self._labels)
        )

    def _keys_from(self, row: int) -> list[tuple[str, int | None]]:
        """The next distinct keys that are not known, from that of `row` on."""
        found: dict[tuple, None] = {}
        for later in range(row, max(len(self._prompts), len(self._labels), row + 1)):
            key = self._key(later)
            if key not in self._cache:
                found[key] = None
            if len(found) == AHEAD:
                break
        return list(found)

    def _encode(self, keys: list[tuple[str, int | None]]) -> None:
        prompts, labels = zip(*keys, strict=True)
        if self._embeddings is not None:
            prompts = ()
        tensors = self.backbone.condition(prompts, labels)
        for row, key in enumerate(keys):
            self._cache[key] = {name: value[row : row + 1].cpu() for name, value in tensors.items()}
        each = sum(value[:1].nbytes for value in tensors.values())
        while len(self._cache) > max(2 * AHEAD, CACHE_BYTES // max(1, each)):
            self._cache.popitem(last=False)

    @classmethod
    def of_spec(
        cls,
        backbone: Backbone,
        spec: ExtractSpec,
        count: int = 1,
        prompts: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        class_names: Sequence[str] = (),
        embeddings: Mapping[str, torch.Tensor] | None = None,
    ) -> Conditions:
        """The conditions that a spec asks for.

        Args:
            backbone: whose conditions.
            spec: with prompt or template, label, embeddings.
            count: N, the number of pictures.
            prompts: N captions, which take the place of the spec's prompt.
            labels: N class indices of the pictures, where they have any.
            class_names: names of the classes, by index.
            embeddings: ready ones, in place of the spec's.

        Raises:
            SpecError: a template or "class" label for pictures without classes, or classes
                that the model has not (see `map_classes`).
        """
        classed = labels is not None and len(labels) > 0
        if prompts is None:
            prompts = spec.prompt
            if any(word in spec.prompt for word in PLACEHOLDERS):
                if not classed or not class_names:
                    raise SpecError(
                        f"prompt {spec.prompt!r} names the class, but these pictures have none; "
                        "expected one subfolder per class, prompts= with one text per picture, or "
                        "a prompt without {class}"
                    )
                if without := sum(int(k) < 0 for k in labels):
                    raise SpecError(
                        f"prompt {spec.prompt!r} names the class, and {without} of {count} "
                        "pictures have none; leave these out, or label them"
                    )
                prompts = [fill_template(spec.prompt, class_names[int(k)]) for k in labels]
        label, chosen, rows = spec.label, None, None
        if label == CLASS_LABEL:
            if not classed:
                raise SpecError(
                    "label='class', but these pictures have no classes; pass labels=, or an index"
                )
            chosen = class_map_of(backbone, spec, class_names, labels)
            label = list(labels)
            if chosen is not None:  # a negative one stays, and is out of range
                label = [chosen.indices[int(k)] if int(k) >= 0 else int(k) for k in labels]
        if embeddings is None and spec.embeddings is not None:
            learned, embeddings = read_states(spec.embeddings, backbone)
            if learned is not None:
                held = len(next(iter(embeddings.values()), ()))
                rows = learned.rows(spec.embeddings, held, labels if classed else None, class_names)
        found = cls(backbone, prompts, label, count, embeddings, rows)
        found.class_map = chosen
        return found


def prompts_of(spec: ExtractSpec, source: Source) -> tuple[str, ...] | list[str] | None:
    """One prompt per picture of a source, where the spec asks for that.

    Raises:
        SpecError: the spec wants the pictures' own captions, and they have none.
        SourceError: some pictures have no caption in the spec's file.
    """
    if spec.captions is None:
        return None
    if spec.captions != "pictures":
        return captions_for(source.ids, read_captions(spec.captions), spec.captions)
    if source.captions is None:
        raise SpecError(
            f"captions='pictures', but {source.name} has none; give a CSV or JSONL file, or a "
            "prompt"
        )
    return source.captions


def _index(label: int | None) -> int | None:
    """A class index as a plain int; SpecError for what is no whole number."""
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise SpecError(
            f"label {brief(label)}; expected a whole number, or None for the null class"
        )
    return int(label)


def fill_template(template: str, name: str) -> str:
    """ "a photo of a {class}" with the name of a class; underscores become spaces."""
    for word in PLACEHOLDERS:
        template = template.replace(word, name.replace("_", " "))
    return template
