"""Masks without names: what a Mask2Former of transformers proposes for a picture.

It runs on the picture itself, with weights of the user's. Its mask logits lie on a quarter of the
input's grid; they are brought to the picture as it was published: bilinearly to the input, without
the input's padding, then bilinearly to the picture.

Source: Cheng et al. 2022, "Masked-attention Mask Transformer for Universal Image Segmentation".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from diffeat.backbones.devices import pick_device
from diffeat.backbones.locate import read_json
from diffeat.backbones.request import parse_name
from diffeat.backbones.weights import _no_progress_bars
from diffeat.coords import Placement, Size
from diffeat.errors import ModelError, NumericsError
from diffeat.images import Source
from diffeat.vision.network import build_random, fetching, weights_hash

KIND = "mask2former"
"""What the configuration of such a model calls it."""
AT_ONCE = 16
"""Masks that are resized at a time."""
FILES = ("*.json", "*.safetensors")
"""What is fetched of a repository; nothing of it is executed, and no pickle is read."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Q masks of one picture.

    Attributes:
        masks: (Q, H, W) float32 logits: of the picture's size, or of the model's own grid, which
            then `placement` places.
        scores: (Q,) float32 in [0, 1] how likely each is anything at all; None where nobody said.
        features: (Q, D) float32 of the queries; None where there are none.
        class_scores: (Q, K) float32 probabilities of the model's own classes; None likewise.
        classes: K names of these.
        placement: of the input in the picture; the masks cover the input. None: they cover the
            picture.
    """

    masks: torch.Tensor
    scores: torch.Tensor | None = None
    features: torch.Tensor | None = None
    class_scores: torch.Tensor | None = None
    classes: tuple[str, ...] = ()
    placement: Placement | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, rows: Any) -> Proposals:
        """Some of the masks, by number or by a (Q,) bool."""
        rows = torch.as_tensor(rows, device=self.masks.device)
        some = {name: values[rows] for name in ("masks", "scores", "features", "class_scores")
                if (values := getattr(self, name)) is not None}  # fmt: skip
        return replace(self, **some)

    def on_picture(self, size: Size | None = None) -> Proposals:
        """The same with masks at the picture's pixels.

        Args:
            size: (H, W) of the picture, where no placement says it.
        """
        if self.placement is None:
            if size is None or tuple(self.masks.shape[1:]) == tuple(size):
                return self
            masks = interpolate(self.masks[None], tuple(size), mode="bilinear")[0]
            return replace(self, masks=masks)
        place = self.placement
        inside = (round(place.picture_size[0] * place.sy), round(place.picture_size[1] * place.sx))
        masks = self.masks.new_empty((len(self), *place.picture_size))
        for start in range(0, len(self), AT_ONCE):
            some = self.masks[None, start : start + AT_ONCE]
            some = interpolate(some, place.input_size, mode="bilinear")
            some = some[:, :, : inside[0], : inside[1]]
            masks[start : start + AT_ONCE] = interpolate(some, place.picture_size, mode="bilinear")[
                0
            ]
        return replace(self, masks=masks, placement=None)


class Mask2Former:
    """A Mask2Former of transformers, from a folder or the hub.

    Args:
        name: a folder with config.json, preprocessor_config.json and *.safetensors, as
            `save_pretrained` writes it; or a hub id, such as
            "facebook/mask2former-swin-large-coco-panoptic". "@random" or "@random:3" behind it
            makes random weights: what proposals are worth that have learnt nothing.
        device: "auto", "cpu", "cuda", …

    Attributes:
        name: as it was asked for.
        module: the network, in evaluation mode.
        classes: K names of its own classes.
        facts: what its masks depend on beside weights and pictures.

    Raises:
        ModelError: not there, another architecture, no weights, or pickled ones alone.
    """

    def __init__(self, name: str | Path, device: str = "auto"):
        self.name = str(name)
        self.device = torch.device(pick_device(device))
        base, seed = parse_name(self.name)
        folder = _folder(base, seed)
        config = _described(folder)
        self._processor, module = _loaded(folder, config, seed)
        self.module = module.eval().requires_grad_(False).to(self.device)
        labels = self.module.config.id2label
        self.classes = tuple(str(labels[k]) for k in sorted(labels))
        self.facts = {
            "library": "transformers", "model": KIND, "data": self._processor.to_dict(),
        }  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """Hash of the weights; NumericsError where they hold inf or nan."""
        return weights_hash(self.module, self.name)

    @torch.no_grad()
    def propose(self, picture: Any, *, grid: bool = False) -> Proposals:
        """The masks of one picture.

        Args:
            picture: (H, W, 3) uint8, or a picture of PIL, upright.
            grid: leave the masks on the model's grid, with their placement; a hundred masks of a
                large picture are some 400 MB.

        Returns:
            Q masks in the order of the queries, on the CPU.

        Raises:
            NumericsError: masks that are inf or nan.
        """
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture, np.uint8))
        picture = picture.convert("RGB")
        made = self._processor(images=picture, return_tensors="pt")
        pixels, shown = made["pixel_values"], made["pixel_mask"]
        found = self.module(pixel_values=pixels.to(self.device), pixel_mask=shown.to(self.device))
        masks = found.masks_queries_logits[0].float().cpu()
        if not bool(torch.isfinite(masks).all()):
            raise NumericsError(f"{self.name}: masks of inf or nan; restore the weights")
        shares = found.class_queries_logits[0].float().softmax(-1).cpu()
        size = (picture.height, picture.width)
        # (1, Q, D), or (Q, 1, D) of older versions
        queries = found.transformer_decoder_last_hidden_state.flatten(0, 1)
        one = Proposals(
            masks, 1 - shares[:, -1], queries.float().cpu(),
            shares[:, :-1], self.classes, _placement(shown[0], size),
        )  # fmt: skip
        return one if grid else one.on_picture()

    def run(self, source: Source, *, grid: bool = False) -> Iterator[Proposals]:
        """The masks of every picture of a source, one after another."""
        for row in range(len(source)):
            yield self.propose(source.load(row), grid=grid)

    def propose_all(self, pictures: Iterable[Any], *, grid: bool = False) -> Iterator[Proposals]:
        """The same of pictures that somebody holds."""
        return (self.propose(picture, grid=grid) for picture in pictures)


def _placement(shown: torch.Tensor, size: Size) -> Placement:
    """That of an input whose right and lower ends are padding, by what the processor says of it."""
    inside = [int(shown.any(1).sum()), int(shown.any(0).sum())]
    sy, sx = (a / b for a, b in zip(inside, size, strict=True))
    return Placement(sx, 0.0, sy, 0.0, tuple(shown.shape), size)


def _folder(base: str, seed: int | None) -> Path:
    """Where the model lies, fetched if need be."""
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    if base.count("/") != 1 or base.startswith((".", "/")):
        raise ModelError(
            f"proposals {base!r}: no such folder; expected one with config.json of a Mask2Former, "
            "or a hub id such as 'facebook/mask2former-swin-large-coco-panoptic'"
        )
    from huggingface_hub import snapshot_download

    with fetching(base, "the path of its folder"):
        return Path(
            snapshot_download(base, allow_patterns=list(FILES[: 1 if seed is not None else 2]))
        )


def _described(folder: Path) -> dict[str, Any]:
    """Its configuration; ModelError unless it is that of a Mask2Former."""
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing; expected the folder of a Mask2Former "
                             "of transformers: restore the file")  # fmt: skip
    config = read_json(folder / "config.json")
    if config.get("model_type") != KIND:
        raise ModelError(
            f"{folder} is a {config.get('model_type')!r}, no Mask2Former, so it proposes no masks "
            f"here; expected model_type {KIND!r} in its config.json"
        )
    return config


def _loaded(folder: Path, config: dict[str, Any], seed: int | None) -> tuple[Any, Any]:
    """The preprocessing and the network."""
    from transformers import AutoConfig, AutoImageProcessor, Mask2FormerForUniversalSegmentation

    if seed is None:
        _check_weights(folder)
    try:
        with _no_progress_bars():
            processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
            if seed is not None:
                made = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                network = build_random(lambda: Mask2FormerForUniversalSegmentation(made), seed)
                return processor, network
            network, report = Mask2FormerForUniversalSegmentation.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder}: cannot be loaded as a Mask2Former ({reason}); restore the "
                         "folder, or choose another model") from error  # fmt: skip
    # weights of the loss alone are of no use here
    if missing := sorted(one for one in report["missing_keys"] if not one.startswith("criterion.")):
        raise ModelError(f"{folder}: the weights lack {missing[0]!r} and {len(missing) - 1} "
                         "others, which would be random; restore the folder")  # fmt: skip
    return processor, network


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if pickled := next(iter(sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pth"))), None):
        raise ModelError(
            f"{folder}: a Mask2Former with pickled weights alone ({pickled.name}), which can run "
            "code and are not read; expected *.safetensors: convert them where you trust them "
            "(load the model with transformers there and save_pretrained it)"
        )
    raise ModelError(f"{folder}: a Mask2Former without weights; expected *.safetensors beside "
                     "config.json: fetch them, or say @random behind the name for random "
                     "ones")  # fmt: skip
