"""VPD: masks or depth from a text-to-image model that is told the classes in place of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffeat.adapt.forward import frozen, trainable_copy
from diffeat.adapt.learning import learn
from diffeat.adapt.named_classes import classes_in, picture_of
from diffeat.adapt.saved_networks import (
    SavedNetwork,
    models_of,
    read_said,
    read_weights,
    write_network,
)
from diffeat.adapt.vpd_data import PixelTargets, fitted, shown_of
from diffeat.adapt.vpd_network import ClassForward, VPDNetwork
from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.images import Source
from diffeat.search.fitted_on import Known, known_among, noted, read_note
from diffeat.specs import ExtractSpec
from diffeat.targets.dense import DenseTargets
from diffeat.words.embeddings import class_embeddings
from diffeat.words.templates import templates_of
from diffeat.words.vocabulary import Vocabulary
from probes.dense.depth import PlainDepth, VPDDepth
from probes.dense.fpn import FPN
from probes.dense.pyramid import LOGITS, GridNet, read
from probes.maps import Maps
from probes.metrics import Confusion, DepthErrors
from probes.objectives import Objective
from probes.pixel_objectives import of_classes, silog
from probes.randomness import Randomness
from probes.saved import digest_of
from probes.training import validate

BLOCKS = ("vpd:1", "vpd:4", "vpd:7", "vpd:11")
"""The published maps."""
ATTENTION = ("down.1.attn.*:cross.map", "down.2.attn.*:cross.map", "up.1.attn.*:cross.map",
             "up.2.attn.*:cross.map")  # fmt: skip
"""Cross-attention of the two coarser grids, as published for masks."""
TASKS = ("segmentation", "depth")
PUBLISHED_ATTENTION = {"segmentation": ATTENTION, "depth": ()}
"""What stands beside the maps, task by task: VPD's code for depth leaves cross-attention out."""
FORMAT = "diffeat-vpd-1"
"""What files of trained models call themselves."""
IGNORE = -1
"""Label of pixels that do not count; 255 may be a class."""
SETTINGS = (
    "task", "blocks", "attention", "t", "size", "fit_by", "templates", "finetune", "width",
    "dropout", "filters", "last", "max_depth", "random_state",
)  # fmt: skip
"""What a saved model says of itself."""
LEAST = 1e-3
"""Metres of the smallest depth that is said."""


class VPD:
    """A text-to-image model told classes, its maps and cross-attention, and a head on them.

    See `VPDNetwork`. Pictures are not noised; the network is told `t` all the same, and the latent
    is neither sampled nor scaled, as published.

    Args:
        backbone: from `diffeat.load`, reads one text by a CLIP; in float32 where it is fine-tuned,
            and best so else.
        vocabulary: K classes (see `Vocabulary.of`): those that are told apart; of depth, words
            that pictures may show, such as kinds of rooms.
        task: "segmentation" (feature pyramid, cross-entropy) or "depth" (VPD's head, scale-
            invariant logarithmic error).
        blocks: maps that the head takes.
        attention: cross-attention that is averaged over heads and over layers of one grid, and
            stands beside the maps of that grid; None: as published, `PUBLISHED_ATTENTION`.
        t: what the network is told.
        size: (H, W) in pixels; None: the model's own.
        fit_by: how pictures are brought to it; `fit` of `ExtractSpec`.
        templates: see `templates_of`.
        finetune: whether a copy of the denoiser is trained, as published, or it stays frozen.
        backbone_learning_rate: of that copy.
        width: of the pyramid (256 as published), or of the depth head (1536).
        dropout: before the classifier.
        filters, last: of the depth head.
        max_depth: metres.
        epochs: at most, each through all pictures.
        batch_size: pictures of a step.
        learning_rate: of Adam, for adapter and head.
        patience: epochs without a better validation number; None goes through all.
        random_state: seed of weights and order.
        progress: None shows a bar on a terminal, a line a minute elsewhere.
        checkpoint: a folder, or a .safetensors file, from which an interrupted fit goes on, to the
            same bits.

    Attributes:
        module_: the `VPDNetwork`.
        vocabulary_: K classes.
        start_: the validation numbers before the first step.
        history_: the learning curve (see `probes.training.train`).
        best_epoch_: the epoch, from 1, whose weights were kept.
        fitted_on_: a note of all pictures that it was trained on, or its epoch was chosen on; see
            `diffeat.search.fitted_on`.

    Source: Zhao et al. 2023, "Unleashing Text-to-Image Diffusion Models for Visual Perception"
    (VPD), and its code. Adam at one rate in place of AdamW with warm-up, pictures without crops or
    mirroring; of depth, all pictures are told all words, where the code tells each picture the one
    kind of room that it is of.
    """

    def __init__(
        self,
        backbone: Backbone,
        vocabulary: Any,
        *,
        task: str = "segmentation",
        blocks: tuple[str, ...] = BLOCKS,
        attention: tuple[str, ...] | None = None,
        t: int | float | str = 1,
        size: tuple[int, int] | int | None = None,
        fit_by: str = "squash",
        templates: str | Iterable[str] = "imagenet-80",
        finetune: bool = False,
        backbone_learning_rate: float = 1e-5,
        width: int = 256,
        dropout: float = 0.1,
        filters: tuple[int, ...] = (32, 32, 32),
        last: int = 192,
        max_depth: float = 10.0,
        epochs: int = 5,
        batch_size: int = 2,
        learning_rate: float = 1e-3,
        patience: int | None = None,
        random_state: int = 0,
        progress: bool | None = None,
        checkpoint: str | Path | None = None,
    ):
        self.backbone, self.vocabulary, self.task = backbone, vocabulary, task
        self.blocks, self.attention, self.t = blocks, attention, t
        self.size, self.fit_by, self.templates = size, fit_by, templates
        self.finetune, self.backbone_learning_rate = finetune, backbone_learning_rate
        self.width, self.dropout, self.filters, self.last = width, dropout, filters, last
        self.max_depth, self.epochs, self.batch_size = max_depth, epochs, batch_size
        self.learning_rate, self.patience = learning_rate, patience
        self.random_state, self.progress, self.checkpoint = random_state, progress, checkpoint

    def fit(self, targets: DenseTargets, validation: DenseTargets | None = None) -> VPD:
        """Train adapter and head, and the denoiser's copy where it is fine-tuned.

        Args:
            targets: such as `open_dense("clothing:train")`: masks, whose classes are words of the
                vocabulary, or depth.
            validation: other pictures, on which the epoch is chosen.

        Returns:
            self.

        Raises:
            SpecError: settings that cannot be meant, a model without text, classes without a word.
            SourceError: pictures that are not there, or without masks.
            NumericsError: the loss is nan or inf.
        """
        self._check(validation)
        self._check_precision()
        self.vocabulary_ = Vocabulary.of(self.vocabulary)
        seed, device = self.random_state, self.backbone.device
        with Randomness(seed, seed, device) as randomness:
            classes = class_embeddings(self.backbone, self.vocabulary_, self.templates)
            module, objective = self._built(classes), self._objective()
            data = self._data(module, targets)
            held = None if validation is None else self._data(module, validation)
            tuned = module.denoiser is not None
            with nullcontext() if tuned else frozen(self.backbone.denoiser):
                if held is not None:
                    self.start_ = validate(module, objective, held)
                self.history_, self.best_epoch_ = learn(
                    self, module, objective, data, randomness, epochs=self.epochs,
                    batch_size=self.batch_size, checkpoint=self.checkpoint, validation=held,
                    groups=self._groups(module), about=self._about(targets, validation),
                    name="VPD", unit="picture",
                )  # fmt: skip
        self.module_ = module
        sets = [one for one in (targets, validation) if one is not None]
        self.fitted_on_ = noted(np.concatenate([one.pictures().digests() for one in sets]))
        return self

    def known_among(self, pictures: Source) -> Known:
        """How many of these pictures it was trained on, or its epoch was chosen on."""
        self._trained()
        return known_among(read_note(self.fitted_on_), pictures.digests())

    def predict(self, pictures: Iterable[Any]) -> Iterator[np.ndarray]:
        """What every pixel shows.

        Args:
            pictures: of PIL, or (H, W, 3) uint8.

        Yields:
            (H, W) int64 classes of the vocabulary, or float32 metres, of each picture's own size.
        """
        for picture in pictures:
            found = [strip.argmax(0) if self.task == "segmentation" else self._metres(strip)
                     for _, strip in self._strips(picture)]  # fmt: skip
            yield torch.cat(found).numpy()

    def predict_proba(self, picture: Any) -> np.ndarray:
        """(K, H, W) float32 shares of the classes at every pixel of a picture.

        Raises:
            SpecError: depth has no classes.
        """
        if self.task != "segmentation":
            raise SpecError("depth has no classes; call predict")
        return torch.cat([strip.softmax(0) for _, strip in self._strips(picture)], 1).numpy()

    def shown(self, picture: Any) -> np.ndarray:
        """(H, W) bool: which pixels of a picture the network is shown; what is said of others, such
        as those beyond a crop, goes on from these."""
        picture = picture_of(picture)
        spec = self._trained()._forward.plan.spec
        return shown_of((picture.height, picture.width), spec)

    def score(self, targets: DenseTargets) -> float:
        """Mean intersection over union in [0, 1], at the pictures' own sizes; of depth minus the
        mean absolute relative error, of pictures of which some is known. What the network is not
        shown does not count."""
        module = self._trained()
        data = self._data(module, targets)
        masks = self.task == "segmentation"
        tally = Confusion(self.vocabulary_.names, IGNORE) if masks else DepthErrors()
        found = self.predict(data.source.load(row) for row in range(len(data)))
        for row, said in enumerate(found):
            truth = data.shown_truth(row)
            if masks or np.isfinite(truth).any():
                tally.update(said, truth)
        return tally.mean_iou() if masks else -tally.compute()["abs rel"]

    def save(self, path: str | Path) -> Path:
        """Write what was trained, for `load`: adapter, head, and a denoiser that was fine-tuned."""
        module = self._trained()
        words = [one.words for one in self.vocabulary_.classes]
        noted = {"fitted_on": self.fitted_on_}
        said = SavedNetwork(*models_of(self.backbone), words, self._settings(), noted)
        return write_network(path, FORMAT, said, module.state_dict())

    @property
    def fingerprint(self) -> str:
        """Hash of what was trained."""
        return digest_of({}, self._trained().state_dict())

    @classmethod
    def load(cls, path: str | Path, backbone: Backbone) -> VPD:
        """What was saved, for the model that it was trained with, in any precision.

        Raises:
            SpecError: no such file, damaged, or of another denoiser or text encoder.
        """
        path = Path(path)
        said = read_said(path, FORMAT, "a trained VPD")
        said.check(path, *models_of(backbone))
        tensors = read_weights(path)
        try:
            found = cls(backbone, said.vocabulary, **said.arguments)
            found._check(None)
            found.vocabulary_, found.fitted_on_ = said.vocabulary, said.about["fitted_on"]
            read_note(found.fitted_on_)
            found.module_ = found._built(tensors["classes"])
            found.module_.load_state_dict(tensors)
        except (LookupError, TypeError, RuntimeError, AttributeError, ValueError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"{path}: damaged ({error}); train it again") from error
        found.module_.eval()
        return found

    # --- the network ----------------------------------------------------------------------

    @property
    def _attention(self) -> tuple[str, ...]:
        return PUBLISHED_ATTENTION[self.task] if self.attention is None else tuple(self.attention)

    def _settings(self) -> dict[str, Any]:
        """What a trained model is, in plain values; what was left open, worked out."""
        said = {name: getattr(self, name) for name in SETTINGS}
        return said | {"attention": list(self._attention),
                       "templates": list(templates_of(self.templates))}  # fmt: skip

    def _built(self, classes: torch.Tensor) -> VPDNetwork:
        """The network at its start, of (K, D) embeddings of the classes."""
        backbone = trainable_copy(self.backbone) if self.finetune else self.backbone
        spec = ExtractSpec(
            (self.t,), (*self.blocks, *self._attention), size=self.size, fit=self.fit_by,
            noise="none", latent="mean", scale_latent=False, dtype="float32",
        )  # fmt: skip
        forward = ClassForward(Plan(backbone, spec, len(self.vocabulary_)))
        head = self._head(forward)
        if self.finetune:
            backbone.denoiser.requires_grad_(True)
        denoiser = backbone.denoiser if self.finetune else None
        return VPDNetwork(classes, forward, head, denoiser).to(self.backbone.device)

    def _head(self, forward: ClassForward) -> GridNet:
        shapes = forward.shapes
        finest = max((shape[1:] for shape in shapes), key=lambda size: size[0] * size[1])
        grid = tuple(min(4 * side, most) for side, most in
                     zip(finest, forward.plan.size, strict=True))  # fmt: skip
        if self.task == "segmentation":
            body: nn.Module = FPN(shapes, len(self.vocabulary_), self.width, self.dropout)
            return GridNet(None, None, body, grid)
        body = VPDDepth(shapes, 1, self.width, tuple(self.filters), self.last)
        return GridNet(None, None, body, grid, PlainDepth(LEAST, self.max_depth))

    def _objective(self) -> Objective:
        if self.task == "depth":
            return silog()
        return of_classes("cross-entropy", len(self.vocabulary_), IGNORE)

    def _groups(self, module: VPDNetwork) -> list[dict[str, Any]]:
        groups = [{"params": [*module.adapter.parameters(), *module.head.parameters()]}]
        if module.denoiser is not None:
            groups.append({"params": list(module.denoiser.parameters()),
                           "lr": self.backbone_learning_rate})  # fmt: skip
        return groups

    def _data(self, module: VPDNetwork, targets: DenseTargets) -> PixelTargets:
        spec = module._forward.plan.spec
        where = targets, spec, module.head.size, self.batch_size, self.backbone.device
        if self.task == "segmentation":
            return PixelTargets(*where, classes_in(targets, self.vocabulary_), IGNORE)
        if targets.kind != "depth":
            raise SpecError(f"{targets.name} is {targets.kind}; expected depth, or "
                            "task='segmentation'")  # fmt: skip
        return PixelTargets(*where, depths=(LEAST, self.max_depth))

    def _strips(self, picture: Any):
        """First rows and (D, r, W) of what the head says, down a picture."""
        module = self._trained()
        pixels, frame = fitted(picture_of(picture), module._forward.plan.spec)
        with torch.no_grad():
            x = torch.from_numpy(pixels)[None].to(self.backbone.device)
            found = module.grid(x)[0].float().cpu()
        return read(Maps({LOGITS: found}, frame.size, frame.input_size, frame.placement), LOGITS)

    @torch.no_grad()
    def _metres(self, strip: torch.Tensor) -> torch.Tensor:
        return self.module_.head.decode(strip[None])[0]

    # --- checks ---------------------------------------------------------------------------

    def _check_precision(self) -> None:
        dtype = self.backbone.dtype
        if self.finetune and dtype != torch.float32:
            raise SpecError(
                f"{self.backbone.name} is in {str(dtype).removeprefix('torch.')}, in which steps "
                "of training are rounded away; load it with dtype='float32', or leave finetune out"
            )

    def _check(self, validation: DenseTargets | None) -> None:
        if self.task not in TASKS:
            raise SpecError(f"task={self.task!r}; expected {' or '.join(TASKS)}")
        for name in ("blocks", "attention"):
            if isinstance(getattr(self, name), str):
                raise SpecError(f"{name}={getattr(self, name)!r}; expected several, as a tuple")
        for name in ("epochs", "batch_size", "width", "last"):
            if not getattr(self, name) >= 1:
                raise SpecError(f"{name}={getattr(self, name)}; expected at least 1")
        if not 0 <= self.dropout < 1:
            raise SpecError(f"dropout={self.dropout}; expected a share in [0, 1)")
        if not all(one >= 1 for one in self.filters):
            raise SpecError(f"filters={self.filters}; expected numbers of channels, at least 1")
        for name in ("learning_rate", "backbone_learning_rate"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name}={getattr(self, name)}; expected a number above 0")
        if not self.max_depth > LEAST:
            raise SpecError(f"max_depth={self.max_depth}; expected metres, above {LEAST:g}")
        if self.patience is not None and (validation is None or self.patience < 1):
            raise SpecError(f"patience={self.patience} needs validation pictures, and at least 1")

    def _trained(self) -> VPDNetwork:
        if not hasattr(self, "module_"):
            raise SpecError("this VPD is not trained; call fit, or VPD.load")
        return self.module_.eval()

    def _about(self, targets: DenseTargets, validation: DenseTargets | None) -> dict[str, Any]:
        """What a checkpoint has to agree with, beside weights and rates."""
        if self.checkpoint is None:  # hashes take their time
            return {}
        sets = [one for one in (targets, validation) if one is not None]
        return {
            **self._settings(),
            "words": [list(one.words) for one in self.vocabulary_.classes],
            "backbone_learning_rate": self.backbone_learning_rate,
            "models": models_of(self.backbone)[0], "data": [one.fingerprint for one in sets],
            "pictures": [one.pictures().content() for one in sets],
        }  # fmt: skip
