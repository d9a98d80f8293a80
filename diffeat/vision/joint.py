"""A model of pictures and texts in one space, such as a CLIP: pictures, patches and words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffeat.backbones.conditioning import tokenise
from diffeat.backbones.devices import pick_device
from diffeat.backbones.locate import read_json
from diffeat.backbones.request import parse_name
from diffeat.backbones.weights import _no_progress_bars
from diffeat.errors import ModelError
from diffeat.hashing import files_fingerprint, fingerprint
from diffeat.vision.network import build_random, fetching, weights_hash
from diffeat.words.templates import PLAIN, templates_of, texts_of

PARTS = ("text_model", "vision_model", "text_projection", "visual_projection")
"""What such a model of transformers has to have."""
FILES = ("*.json", "*.txt", "*.safetensors")
"""What is fetched of a repository; nothing of it is executed, and no pickle is read."""
AT_ONCE = 64
"""Texts of one forward."""


class JointModel:
    """A CLIP of transformers, or a model with the same parts, frozen.

    Args:
        model: with `PARTS`, such as a `CLIPModel`.
        tokenizer: of transformers.
        mean, std: (3,) of the pictures that it was trained on, in [0, 1].
        name: for messages.
        device: "auto", "cpu", "cuda", …
        files: what it was loaded from, whose hash tells it from others, besides the weights.

    Attributes:
        width: E, numbers of an embedding.
        side: pixels of a side of its input.
        grid: (h, w) of its patches.
        scale: its own 1 / temperature.

    Raises:
        ModelError: a model without one of the parts.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, mean: Sequence[float], std: Sequence[float],
        name: str = "the CLIP", device: str | torch.device = "auto", files: Sequence[Path] = (),
    ):  # fmt: skip
        _check_parts(model, name)
        self.name, self.tokenizer, self.files = name, tokenizer, tuple(files)
        self.device = pick_device(str(device)) if isinstance(device, str) else device
        self.model = model.eval().requires_grad_(False).to(self.device)
        vision = model.config.vision_config
        self.side = int(vision.image_size)
        self.grid = (self.side // int(vision.patch_size),) * 2
        self.width = int(model.visual_projection.out_features)
        self.length = int(model.config.text_config.max_position_embeddings)
        self._mean, self._std = (
            torch.tensor(one, device=self.device).view(3, 1, 1) for one in (mean, std)
        )

    @classmethod
    def load(cls, name: str | Path, device: str = "auto") -> JointModel:
        """From a folder with weights, preprocessing and tokenizer, or a hub id.

        Args:
            name: "@random" or "@random:3" behind it makes random weights.
            device: "auto", "cpu", "cuda", …

        Raises:
            ModelError: not there, no such model, or without weights.
        """
        base, seed = parse_name(str(name))
        folder = _folder(base)
        model, tokenizer, processor = _loaded(folder, seed)
        files = sorted(path for kind in FILES for path in folder.glob(kind))
        return cls(
            model, tokenizer, processor.image_mean, processor.image_std, str(name), device,
            [path for path in files if path.suffix != ".safetensors"],
        )  # fmt: skip

    @property
    def scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    @property
    def weights(self) -> str:
        """Hash of all weights; NumericsError where they hold inf or nan."""
        return weights_hash(self.model, self.name)

    @property
    def text_files(self) -> str:
        """Hash of the files of tokenizer and preprocessing."""
        return files_fingerprint(self.files)

    @property
    def fingerprint(self) -> str:
        """Hash of what its embeddings depend on."""
        return fingerprint(self.weights, self.text_files)

    @torch.no_grad()
    def pictures(self, x: torch.Tensor) -> torch.Tensor:
        """(n, E) embeddings of pictures (n, 3, H, W) in [0, 1], squashed to its input; not
        normalised."""
        seen = self.model.vision_model(pixel_values=self._given(x))
        return self.model.visual_projection(seen.pooler_output).float()

    @torch.no_grad()
    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """(n, E, h, w) of the same pictures: every patch token of the last layer, through the last
        norm and the projection that were made for the class token.

        So patches lie in the joint space as far as they resemble it. It is neither what MaskCLIP
        does (the last layer's values, without attention) nor what ODISE does (a class token a
        mask, that attends to the mask's patches).
        """
        vision = self.model.vision_model
        tokens = vision(pixel_values=self._given(x)).last_hidden_state
        tokens = tokens[:, -self.grid[0] * self.grid[1] :]  # behind the class token
        found = self.model.visual_projection(vision.post_layernorm(tokens))
        return found.float().transpose(1, 2).unflatten(2, self.grid)

    @torch.no_grad()
    def words(
        self, words: Sequence[str], templates: str | Path | Iterable[str] = PLAIN
    ) -> torch.Tensor:
        """(W, E) of words: means of the unit embeddings of their templates, of unit length.

        Args:
            words: W.
            templates: see `templates_of`.

        Raises:
            SpecError: a text that is longer than the model reads, templates without {}.
        """
        templates = templates_of(templates)
        each = self.texts(texts_of(words, templates))
        found = F.normalize(each, dim=1).unflatten(0, (len(words), len(templates)))
        return F.normalize(found.mean(1), dim=1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, E) embeddings of texts, not normalised."""
        found = []
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            length = min(self.length, self.tokenizer.model_max_length)
            tokens = tokenise(self.tokenizer, some, length, self.name)
            said = self.model.text_model(
                input_ids=tokens.input_ids.to(self.device),
                attention_mask=tokens.attention_mask.to(self.device),
            ).pooler_output
            found.append(self.model.text_projection(said).float())
        return torch.cat(found)

    @property
    def grey(self) -> np.ndarray:
        """(3,) uint8 mean of the pictures that it was trained on."""
        return np.round(255 * self._mean.flatten().cpu().numpy()).astype(np.uint8)

    def squashed(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) in [0, 1] of pictures (n, 3, H, W), whatever their shape."""
        if tuple(x.shape[2:]) != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True)
        return x.clamp(0, 1)

    def _given(self, x: torch.Tensor) -> torch.Tensor:
        return (self.squashed(x.to(self.device).float()) - self._mean) / self._std


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


def _loaded(folder: Path, seed: int | None) -> tuple[Any, Any, Any]:
    """Model, tokenizer and preprocessing of a folder."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    read_json(folder / "config.json")
    if seed is None and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: a CLIP without weights; expected *.safetensors beside config.json: fetch "
            "them, or say @random behind the name for random ones"
        )
    try:
        with _no_progress_bars():
            if seed is None:
                model, report = AutoModel.from_pretrained(
                    folder, use_safetensors=True, output_loading_info=True
                )
            else:
                config, report = AutoConfig.from_pretrained(folder), {"missing_keys": ()}
                model = build_random(lambda: AutoModel.from_config(config), seed)
            _check_parts(model, str(folder))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            processor = AutoImageProcessor.from_pretrained(folder)
    except ModelError:
        raise
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder}: cannot be loaded as a CLIP of transformers ({reason}); "
                         "restore the folder, or choose another") from error  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{folder}: the weights lack {missing[0]!r} and {len(missing) - 1} "
                         "others, which would be random; restore the folder")  # fmt: skip
    return model, tokenizer, processor


def _check_parts(model: nn.Module, name: str) -> None:
    """ModelError for a model without one of the parts."""
    if lacking := [part for part in PARTS if getattr(model, part, None) is None]:
        raise ModelError(
            f"{name} is a {type(model).__name__} without {', '.join(lacking)}, so its pictures and "
            "texts do not lie in one space; expected a CLIP with both projections (CLIPModel of "
            "transformers)"
        )
