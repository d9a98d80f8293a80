"""A CLIP that names masks: what it sees is the pixels of a mask alone, in the mask's box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffeat.backbones.devices import pick_device
from diffeat.backbones.locate import read_json
from diffeat.backbones.weights import _no_progress_bars
from diffeat.errors import ModelError
from diffeat.vision.network import fetching
from diffeat.words.vocabulary import Vocabulary

FILES = ("*.json", "*.txt", "*.safetensors")
"""What is fetched of a repository; nothing of it is executed, and no pickle is read."""
TEMPLATES = ("a photo of a {}.",)
"""Texts that a word is put into, unless others are told."""


class ClipNamer:
    """Classes of masks by a CLIP of transformers.

        p(k | mask) = softmax over k of exp(s) · max over synonyms w of k of <image, text_w>

    The image is the picture cut to the mask's box, grey (CLIP's mean) outside of the mask; a text
    is the mean, of unit length, of a word's templates.

    Args:
        name: a folder with weights, preprocessing and tokenizer, or a hub id.
        vocabulary: K classes.
        templates: texts with {} where the word goes.
        device: "auto", "cpu", "cuda", …

    Raises:
        ModelError: it is not there, or no CLIP.
    """

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        templates: Sequence[str] = TEMPLATES,
        device: str = "auto",
    ):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        folder = _folder(name)
        kind = read_json(folder / "config.json").get("model_type")
        if kind != "clip":
            raise ModelError(f"{folder} is a {kind!r}, no CLIP; expected model_type 'clip' in its "
                             "config.json")  # fmt: skip
        try:
            with _no_progress_bars():
                self._model = CLIPModel.from_pretrained(folder, use_safetensors=True)
                self._processor = AutoImageProcessor.from_pretrained(folder)
                self._tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # damaged files raise whatever their parser raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"{folder}: cannot be loaded as a CLIP of transformers ({reason}); "
                             "restore the folder, or choose another") from error  # fmt: skip
        device = pick_device(device)
        self._model.eval().to(device)
        self._device, self._vocabulary = device, vocabulary
        self._texts = self._embedded(templates)  # (W, D)

    @torch.no_grad()
    def scores(self, picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """(Q, K) float64 probabilities of the classes of (Q, H, W) bool masks."""
        if not len(masks):
            return np.zeros((0, len(self._vocabulary)))
        grey = np.round(255 * np.asarray(self._processor.image_mean)).astype(np.uint8)
        crops = [Image.fromarray(_cut(picture, mask, grey)) for mask in masks]
        pixels = self._processor(images=crops, return_tensors="pt")["pixel_values"]
        vision = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
        seen = _unit(self._model.visual_projection(vision))
        near = (self._model.logit_scale.exp() * seen @ self._texts.T).double().cpu()
        owners = torch.tensor(self._vocabulary.owners)
        best = torch.full((len(near), len(self._vocabulary)), -torch.inf, dtype=torch.float64)
        best.scatter_reduce_(1, owners.expand(len(near), -1), near, "amax")
        return best.softmax(1).numpy()

    @torch.no_grad()
    def _embedded(self, templates: Sequence[str]) -> torch.Tensor:
        found = []
        for word in self._vocabulary.words:
            texts = [template.format(word) for template in templates]
            tokens = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            said = self._model.text_model(
                input_ids=tokens["input_ids"].to(self._device),
                attention_mask=tokens["attention_mask"].to(self._device),
            ).pooler_output
            found.append(_unit(_unit(self._model.text_projection(said)).mean(0)))
        return torch.stack(found)


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def _cut(picture: np.ndarray, mask: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """The picture cut to the mask's box, grey outside of the mask; all of it where that is none."""
    if not mask.any():
        return picture
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(mask[box][..., None], picture[box], grey)


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(f"CLIP {name!r}: no such folder; expected one of transformers, or a hub "
                         "id such as 'openai/clip-vit-large-patch14-336'")  # fmt: skip
    from huggingface_hub import snapshot_download

    with fetching(name, "the path of its folder"):
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
