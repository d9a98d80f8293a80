"""ODISE: masks named by words, from features of a frozen diffusion model that is told what a
frozen CLIP sees."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffeat.adapt import saved_networks as saved
from diffeat.adapt.captioner import captioner_for
from diffeat.adapt.learning import learn
from diffeat.adapt.named_classes import classes_in, picture_of
from diffeat.adapt.odise_data import NamedPictures, Proposing, masks_of
from diffeat.adapt.odise_named import NamedMasks
from diffeat.adapt.odise_network import ODISENetwork, Pyramid
from diffeat.adapt.odise_tiles import DIVISOR, LONGEST, SEED, SHORT, Frame
from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.specs import ExtractSpec
from diffeat.targets.dense import DenseTargets
from diffeat.vision.joint import JointModel
from diffeat.words.vocabulary import Vocabulary
from probes.objectives import CROSS_ENTROPY
from probes.open_vocabulary.fusion import (
    SEEN,
    UNSEEN,
    class_weights,
    geometric_mean,
    seen_classes,
)
from probes.open_vocabulary.merging import Panoptic, panoptic, semantic
from probes.open_vocabulary.naming import OpenVocabulary, plain_logits
from probes.open_vocabulary.pooling import pool_masks
from probes.randomness import Randomness
from probes.training import validate

BLOCKS = (
    "odise:2", "odise:5", "odise:8", "odise:11", "odise:vae.5", "odise:vae.7",
    "odise:vae-decoder.2", "odise:vae-decoder.5",
)  # fmt: skip
"""The published tensors."""
TEMPLATES = ("a photo of a {}.",)
"""Texts that a word is put into, unless others are told."""
POOLING = ("pixels", "sites")
OBJECTIVE = replace(CROSS_ENTROPY, name="mask classification")
"""Cross-entropy of the classes of masks; an epoch is judged by their accuracy."""
FORMAT = "diffeat-odise-2"
"""What files of trained models call themselves."""
SETTINGS = (
    "blocks", "t", "short", "longest", "divisor", "tile", "strides", "channels", "width",
    "pooling", "time_offset", "void", "query_width", "templates", "random_state",
)  # fmt: skip
"""What a saved model says of itself."""


class ODISE:
    """Names masks by any words: captioner, pyramid and naming are trained, all else is frozen.

        p(k | mask) ∝ p_diffusion^(1 − w) · p_clip^w

    `p_diffusion` is what this network says of a mask's pooled features (`ODISENetwork`), `p_clip`
    what the CLIP says of its patches under the mask, w .3 of classes with a word that was trained
    with and .7 of others. Masks come from elsewhere: a Mask2Former, parts, or truth. A picture is
    resized so that its shorter side is `short`, padded and cut into square tiles.

    Args:
        backbone: from `diffeat.load`, reads one text, best in float32.
        clip: sees the tiles and embeds the words.
        vocabulary: K classes to train with, and to name by unless others are told.
        blocks: tensors of the pyramid.
        t: noise level.
        short, longest, divisor: see `Frame`.
        tile: pixels of a side of a tile; None: the model's own.
        strides: of the pyramid, (least, most).
        channels: of its maps.
        width: of the naming head.
        pooling: "pixels": means over a mask's own pixels; "sites": over hard masks of the finest
            map's grid, as published.
        time_offset: whether the embedding of t is moved too.
        void: "no object" is learned as a class more; needs proposals.
        query_width: numbers of the proposals' queries, which are read too; None: they are not.
        templates: texts with {} where a word goes.
        epochs: at most, each through all pictures.
        batch_size: pictures of a step.
        learning_rate: of Adam.
        patience: epochs without a better validation accuracy; None goes through all.
        tiles_at_once: of one forward.
        random_state: seed of weights and order.
        progress: None shows a bar on a terminal, a line a minute elsewhere.
        checkpoint: a folder, or a .safetensors file, from which an interrupted fit goes on, to the
            same bits.

    Attributes:
        module_: the `ODISENetwork`.
        vocabulary_: that it was trained with.
        start_: validation_loss and validation_accuracy before the first step.
        history_: the learning curve (see `probes.training.train`).
        best_epoch_: the epoch, from 1, whose weights were kept.

    Source: Xu et al. 2023, "Open-Vocabulary Panoptic Segmentation with Text-to-Image Diffusion
    Models" (ODISE), label supervision. Its mask generator and pixel decoder are not here: the
    pyramid itself is pooled, and masks are given. Adam at one rate in place of AdamW, pictures as
    they are.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip: JointModel,
        vocabulary: Any,
        *,
        blocks: tuple[str, ...] = BLOCKS,
        t: int | float | str = 0,
        short: int = SHORT,
        longest: int = LONGEST,
        divisor: int = DIVISOR,
        tile: int | None = None,
        strides: tuple[int, int] = (4, 32),
        channels: int = 512,
        width: int = 256,
        pooling: str = "pixels",
        time_offset: bool = True,
        void: bool = False,
        query_width: int | None = None,
        templates: Sequence[str] = TEMPLATES,
        epochs: int = 5,
        batch_size: int = 1,
        learning_rate: float = 1e-4,
        patience: int | None = None,
        tiles_at_once: int = 1,
        random_state: int = 0,
        progress: bool | None = None,
        checkpoint: str | Path | None = None,
    ):
        self.backbone, self.clip, self.vocabulary = backbone, clip, vocabulary
        self.blocks, self.t, self.short, self.longest = blocks, t, short, longest
        self.divisor, self.tile, self.strides = divisor, tile, strides
        self.channels, self.width, self.pooling = channels, width, pooling
        self.time_offset, self.void, self.query_width = time_offset, void, query_width
        self.templates, self.epochs, self.batch_size = templates, epochs, batch_size
        self.learning_rate, self.patience = learning_rate, patience
        self.tiles_at_once, self.random_state = tiles_at_once, random_state
        self.progress, self.checkpoint = progress, checkpoint

    def fit(
        self,
        targets: DenseTargets,
        validation: DenseTargets | None = None,
        *,
        propose: Proposing | None = None,
    ) -> ODISE:
        """Train on masks with classes: of each picture, all of a class is a mask with a name.

        Args:
            targets: such as `open_dense("clothing:train")`; its classes are words of the
                vocabulary.
            validation: other pictures, on which the epoch is chosen.
            propose: gives proposals of a picture, such as `Mask2Former(…).propose`; each has the
                class of the true mask that it overlaps by half of their union, or is no object.

        Returns:
            self.

        Raises:
            SpecError: settings that cannot be meant, a model without text, classes without a word.
            SourceError: pictures that are not there, or without masks.
            NumericsError: the loss is nan or inf.
        """
        self._check(validation, propose)
        self.vocabulary_ = Vocabulary.of(self.vocabulary)
        for one in [one for one in (targets, validation) if one is not None]:
            classes_in(one, self.vocabulary_)
        seed, device = self.random_state, self.backbone.device
        with Randomness(seed, seed, device) as randomness:
            module = self._built(self.vocabulary_)
            data, held = (
                None if one is None else self._data(module, one, propose)
                for one in (targets, validation)
            )
            if held is not None:
                self.start_ = validate(module, OBJECTIVE, held)
            self.history_, self.best_epoch_ = learn(
                self, module, OBJECTIVE, data, randomness, epochs=self.epochs,
                batch_size=self.batch_size, checkpoint=self.checkpoint, validation=held,
                about=self._about(targets, validation), name="ODISE", unit="mask",
            )  # fmt: skip
        self.module_ = module
        return self

    def score(self, targets: DenseTargets, *, propose: Proposing | None = None) -> dict[str, float]:
        """validation_loss and validation_accuracy of other pictures with masks of the trained
        classes, by diffusion features alone."""
        self._check_trained()
        module = self._told(self.vocabulary_)
        return validate(module, OBJECTIVE, self._data(module, targets, propose))

    @torch.no_grad()
    def name(
        self,
        picture: Any,
        masks: Any,
        *,
        queries: torch.Tensor | None = None,
        vocabulary: Any = None,
        clip_weights: tuple[float, float] | None = (SEEN, UNSEEN),
        clip_scores: Any = None,
    ) -> NamedMasks:
        """What masks of a picture are called.

        Args:
            picture: of PIL, or (H, W, 3) uint8.
            masks: (Q, H, W) bool or logits, or `Proposals`.
            queries: (Q, D), where they are not the proposals' own.
            vocabulary: other classes than those of the training.
            clip_weights: how much the CLIP counts, of classes that were trained with and of
                others; None: it is not asked.
            clip_scores: (Q, K) probabilities in place of those of the patches, such as
                `ClipNamer.scores`, which sees each mask's pixels alone.

        Raises:
            SpecError: masks of another size, a word that is too long, queries that are missing.
        """
        self._check_trained()
        picture = picture_of(picture)
        masks, own = masks_of(masks, (picture.height, picture.width))
        words = self.vocabulary_ if vocabulary is None else Vocabulary.of(vocabulary)
        queries = self._queries(own if queries is None else queries, len(masks))
        if not len(masks):
            return NamedMasks(words.names, np.zeros((0, len(words))), np.zeros(0),
                              np.zeros(0, bool))  # fmt: skip
        module = self._told(words).eval()
        pooled, valid = module.pooled(module.frame.picture(picture), module.frame.masks(masks))
        logits = module.naming(pooled, module.texts, module.owners, queries)
        scores = logits[:, : len(words)].double().softmax(1).cpu().numpy()
        nothing = np.zeros(len(masks))
        if self.void:
            nothing = logits.double().softmax(1)[:, -1].cpu().numpy()
        if clip_weights is not None:
            if clip_scores is None:
                clip_scores = self.by_patches(picture, masks, words)
            seen = seen_classes([one.words for one in words.classes], self.vocabulary_.words)
            scores = geometric_mean(scores, clip_scores, class_weights(seen, *clip_weights))
        return NamedMasks(words.names, scores, nothing, valid.cpu().numpy())

    @torch.no_grad()
    def by_patches(self, picture: Any, masks: Any, vocabulary: Any = None) -> np.ndarray:
        """(Q, K) what the CLIP alone says: patches under a mask, averaged, beside the words.

        No training. The picture is squashed to the CLIP's input (see `JointModel.patches`).
        """
        picture = picture_of(picture)
        masks, _ = masks_of(masks, (picture.height, picture.width))
        words = Vocabulary.of(self.vocabulary if vocabulary is None else vocabulary)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        pooled = pool_masks(self.clip.patches(x)[0], masks.to(self.clip.device)).features
        texts = self.clip.words(words.words, self.templates)
        logits = plain_logits(pooled, texts, words.owners, self.clip.scale)
        return logits.double().softmax(1).cpu().numpy()

    def segment(
        self,
        picture: Any,
        proposals: Any,
        *,
        things: Collection[int] | None = None,
        vocabulary: Any = None,
        clip_weights: tuple[float, float] | None = (SEEN, UNSEEN),
    ) -> np.ndarray | Panoptic:
        """A picture in classes, or in segments, from masks that somebody proposes.

        Args:
            picture: of PIL, or (H, W, 3) uint8.
            proposals: `Proposals`, or (Q, H, W) masks.
            things: indices of classes that are countable: segments are given. None: classes.
            vocabulary, clip_weights: see `name`.

        Returns:
            (H, W) int64 class indices, -1 where no mask lies; or `Panoptic` segments, merged with
            ODISE's thresholds.
        """
        picture = picture_of(picture)
        masks, queries = masks_of(proposals, (picture.height, picture.width))
        found = self.name(
            picture, masks, queries=queries, vocabulary=vocabulary, clip_weights=clip_weights
        )
        shown, scores = masks.cpu().numpy().astype(np.float32), found.class_scores
        if things is not None:
            return panoptic(scores, shown, things, object_mask_threshold=0.0,
                            void=np.where(found.valid, found.nothing, 1.0))  # fmt: skip
        votes = semantic(scores, shown)
        return np.where(votes.max(0) > 0, votes.argmax(0), -1)

    def save(self, path: str | Path) -> Path:
        """Write what was trained, for `load`.

        Args:
            path: ends in .safetensors.

        Source of the format: `diffeat.adapt.saved_networks`.
        """
        self._check_trained()
        settings = {name: getattr(self, name) for name in SETTINGS}
        words = [one.words for one in self.vocabulary_.classes]
        said = saved.SavedNetwork(*saved.models_of(self.backbone, self.clip), words, settings)
        return saved.write_network(path, FORMAT, said, self.module_.state_dict())

    @classmethod
    def load(cls, path: str | Path, backbone: Backbone, clip: JointModel) -> ODISE:
        """What was saved, for the models that it was trained with, in any precision.

        Raises:
            SpecError: no such file, damaged, or of another denoiser, text encoder or CLIP.
        """
        path = Path(path)
        said = saved.read_said(path, FORMAT, "a trained ODISE")
        said.check(path, *saved.models_of(backbone, clip))
        tensors = saved.read_weights(path)
        try:
            found, vocabulary = (
                cls(backbone, clip, said.vocabulary, **said.arguments),
                said.vocabulary,
            )
            found._check(None, None)
            found.vocabulary_, found.module_ = vocabulary, found._built(vocabulary)
            found.module_.load_state_dict(tensors)
        except (KeyError, TypeError, IndexError, RuntimeError, AttributeError) as error:
            raise SpecError(f"{path}: damaged ({error}); train it again") from error
        found.module_.eval()
        return found

    # --- what is trained, and on what -----------------------------------------------------

    def _built(self, vocabulary: Vocabulary) -> ODISENetwork:
        """The network at its start."""
        side = self.tile or self.backbone.native_size[0]
        spec = ExtractSpec(
            (self.t,), tuple(self.blocks), size=(side, side), noise="shared", seed=SEED,
            latent="mean", dtype="float32",
        )  # fmt: skip
        captioner = captioner_for(self.backbone, self.clip.width, self.time_offset)
        plan = Plan(self.backbone, spec)
        if odd := [block.name for block in plan.blocks if not block.has_grid]:
            raise SpecError(f"blocks {', '.join(odd)} have no map; expected maps")
        pyramid = Pyramid(
            {block.name: block.channels for block in plan.blocks},
            {block.name: block.stride for block in plan.blocks}, *self.strides, self.channels,
        )  # fmt: skip
        if self.divisor % pyramid.strides[-1]:
            raise SpecError(f"divisor={self.divisor}; expected a multiple of the pyramid's largest "
                            f"stride {pyramid.strides[-1]}")  # fmt: skip
        nothing = self.clip.texts([""])[0] if self.void else None
        naming = OpenVocabulary(
            self.channels, self.clip.width, query_width=self.query_width, width=self.width,
            hidden=self.width, void=self.void, nothing=nothing,
        )  # fmt: skip
        frame = Frame(self.short, self.longest, self.divisor, side)
        module = ODISENetwork(plan, self.clip, frame, captioner, pyramid, naming,
                              self.pooling == "sites", self.tiles_at_once)  # fmt: skip
        return self._asked(module, vocabulary).to(self.backbone.device)

    def _asked(self, module: ODISENetwork, words: Vocabulary) -> ODISENetwork:
        texts = self.clip.words(words.words, self.templates).to(self.backbone.device)
        return module.told(texts, words.owners)

    def _told(self, words: Vocabulary) -> ODISENetwork:
        return self._asked(self.module_, words)

    def _data(self, module: ODISENetwork, targets: DenseTargets, propose) -> NamedPictures:
        stride = module.pyramid.strides[0] if self.pooling == "sites" else None
        void = len(self.vocabulary_) if self.void else None
        return NamedPictures(
            targets, self.vocabulary_, module.frame, stride, self.batch_size,
            self.backbone.device, propose, void, self.query_width is not None,
        )  # fmt: skip

    def _queries(self, queries: Any, count: int) -> torch.Tensor | None:
        if self.query_width is None:
            return None
        if queries is None or tuple(queries.shape) != (count, self.query_width):
            shape = None if queries is None else tuple(queries.shape)
            raise SpecError(f"queries have shape {shape}; this model was made for "
                            f"{(count, self.query_width)}")  # fmt: skip
        return queries.to(self.backbone.device, torch.float32)

    # --- checks ---------------------------------------------------------------------------

    def _check(self, validation: DenseTargets | None, propose: Proposing | None) -> None:
        counts = ("epochs", "batch_size", "tiles_at_once", "short", "longest", "divisor",
                  "channels", "width")  # fmt: skip
        for name in counts:
            if not getattr(self, name) >= 1:
                raise SpecError(f"{name}={getattr(self, name)}; expected at least 1")
        if not self.learning_rate > 0:
            raise SpecError(f"learning_rate={self.learning_rate}; expected a number above 0")
        if self.pooling not in POOLING:
            raise SpecError(f"pooling={self.pooling!r}; expected {' or '.join(POOLING)}")
        if self.patience is not None and (validation is None or self.patience < 1):
            raise SpecError(f"patience={self.patience} needs validation pictures, and at least 1")
        if not isinstance(self.clip, JointModel):
            raise SpecError(f"clip is a {type(self.clip).__name__}; expected a JointModel, such as "
                            "JointModel.load('openai/clip-vit-large-patch14-336')")  # fmt: skip

    def _check_trained(self) -> None:
        if not hasattr(self, "module_"):
            raise SpecError("this model is not trained yet; call fit first")

    def _about(self, targets: DenseTargets, validation: DenseTargets | None) -> dict[str, Any]:
        """What a checkpoint has to agree with: models, settings, words, pictures."""
        if self.checkpoint is None:
            return {}
        sets = [one for one in (targets, validation) if one is not None]
        return {
            "model": self.backbone.fingerprint, "clip": self.clip.fingerprint,
            "words": [list(one.words) for one in self.vocabulary_.classes],
            "masks": [one.fingerprint for one in sets],
            "pictures": [one.pictures().content() for one in sets],
            "settings": {name: getattr(self, name) for name in SETTINGS},
        }  # fmt: skip
