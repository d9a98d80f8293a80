"""Prompts that are learned for matching, through the frozen text encoder and denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffeat.adapt.forward import NoisyFeatures
from diffeat.adapt.learning import learn
from diffeat.adapt.matched import matched
from diffeat.adapt.pair_pictures import PairPictures, correspondence
from diffeat.adapt.prompt_modules import ConditionalPrompt, FixedPrompt, MatchedByPrompt
from diffeat.adapt.saved_prompts import read_prompt, write_prompt
from diffeat.adapt.tokens import TokenEncoder
from diffeat.adapt.vision_maps import VisionMaps
from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import visiting
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import STATES, Identity, PromptFile
from diffeat.specs import ExtractSpec
from diffeat.targets.pairs import PairTargets
from probes.pairs import Matches
from probes.randomness import Randomness
from probes.training import validate

KINDS = ("single", "class", "conditional")
SETTINGS = (
    "block", "t", "kind", "tokens", "start", "shared", "vision_block", "temperature", "sigma",
    "window", "alpha", "options", "random_state",
)  # fmt: skip
"""What a file of a prompt says of how it was learned."""


class PromptTuning:
    """Token embeddings, learned so that key points find each other in a frozen model's maps.

    Both pictures of a pair are noised and run under the prompt; a source's point is compared with
    every cell of the target, and the cosines are trained towards the right place
    (`pair_pictures.correspondence`). The prompt starts from a text, so its first validation
    number is what that text scores. Adam; with validation pairs the best epoch's prompt is kept.

    Args:
        backbone: from `diffeat.load`, with one CLIP text encoder, best in float32.
        block: whose map is matched.
        t: noise level.
        kind: "single" learns one prompt; "class" one for each category of the pairs;
            "conditional" a module that makes one for each pair from a vision model's features.
        tokens: learned tokens; None: all that fit (75 of CLIP's 77).
        start: the text that it starts from; None: Gaussian with the spread of the encoder's table.
        shared: tokens of a conditional prompt that are the same for all pairs; None: a third.
        vision: features of all pictures for a conditional prompt, such as a `FeatureStore` of
            DINOv2: maps by picture id.
        vision_block: which of its blocks; None: its only one.
        options: further fields of the spec: latent, noise, size, fit, resample.
        temperature, sigma, window, alpha: see `correspondence`.
        epochs: at most, each through all pairs.
        batch_size: pairs of a step.
        learning_rate: of the tokens.
        linear_rate: of a conditional prompt's linear layers.
        patience: epochs without a better validation PCK; None goes through all.
        gradient_checkpointing: of the denoiser: less memory, more time.
        random_state: seed of order, noise and what starts random.
        workers: decoding threads.
        progress: None shows a bar on a terminal, a line a minute elsewhere.
        checkpoint: a folder, or a .safetensors file, from which an interrupted fit goes on, to the
            same bits.

    Attributes:
        prompt_: the trained module.
        classes_: the categories, of kind "class"; else ().
        start_: validation_loss and validation_pck before the first step, with validation pairs.
        history_: the learning curve (see `probes.training.train`).
        best_epoch_: the epoch, from 1, whose prompt was kept.

    Source: Li et al. 2024 (SD4Match): t = 261, up.1, 75 tokens or 25 + 50, Adam .01 and .001.
    """

    def __init__(
        self,
        backbone: Backbone,
        block: str,
        t: int | float | str,
        *,
        kind: str = "single",
        tokens: int | None = None,
        start: str | None = "",
        shared: int | None = None,
        vision: Any = None,
        vision_block: str | None = None,
        options: dict[str, Any] | None = None,
        temperature: float = 0.04,
        sigma: float = 1.5,
        window: int = 7,
        alpha: float = 0.1,
        epochs: int = 5,
        batch_size: int = 1,
        learning_rate: float = 0.01,
        linear_rate: float = 0.001,
        patience: int | None = None,
        gradient_checkpointing: bool = False,
        random_state: int = 0,
        workers: int = 2,
        progress: bool | None = None,
        checkpoint: str | Path | None = None,
    ):
        self.backbone, self.block, self.t, self.kind = backbone, block, t, kind
        self.tokens, self.start, self.shared = tokens, start, shared
        self.vision, self.vision_block, self.options = vision, vision_block, options
        self.temperature, self.sigma, self.window, self.alpha = temperature, sigma, window, alpha
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.linear_rate = learning_rate, linear_rate
        self.patience, self.gradient_checkpointing = patience, gradient_checkpointing
        self.random_state, self.workers, self.progress = random_state, workers, progress
        self.checkpoint = checkpoint

    def fit(self, pairs: PairTargets, validation: PairTargets | None = None) -> PromptTuning:
        """Learn the prompt on pairs with key points on both sides.

        Args:
            pairs: such as `open_pairs("spair:trn")`.
            validation: other pairs, on which the epoch is chosen.

        Returns:
            self.

        Raises:
            SpecError: settings that cannot be meant, a model without text encoder, categories
                that are missing; see also `NoisyFeatures`.
            SourceError: pictures that are not there.
            NumericsError: the loss is nan or inf.
        """
        self._check(pairs, validation)
        self.classes_ = tuple(sorted(set(pairs.categories))) if self.kind == "class" else ()
        seed, device = self.random_state, self.backbone.device
        with Randomness(seed, seed, device) as randomness, self._ready() as encoder:
            self.prompt_ = self._built(encoder).to(device)
            data, held = (None if one is None else self._data(one) for one in (pairs, validation))
            objective, module = self._objective(), self._module(encoder)
            if held is not None:
                self.start_ = validate(module, objective, held)
            self.history_, self.best_epoch_ = learn(
                self, module, objective, data, randomness, epochs=self.epochs,
                batch_size=self.batch_size, checkpoint=self.checkpoint, validation=held,
                groups=self.prompt_.groups(self.learning_rate, self.linear_rate),
                about=self._about(pairs, validation), name="prompt", unit="point",
            )  # fmt: skip
        return self

    def score(self, pairs: PairTargets) -> dict[str, float]:
        """validation_loss and validation_pck of other pairs, each picture with its own noise."""
        self._check_learned()
        with self._ready() as encoder:
            return validate(self._module(encoder), self._objective(), self._data(pairs))

    @torch.no_grad()
    def states(self, pairs: PairTargets | None = None) -> torch.Tensor:
        """Ready text tensors, (K, L, D) fp32 on the CPU: one for all, by class, or of each pair.

        Args:
            pairs: of a conditional prompt.

        Raises:
            SpecError: a conditional prompt without pairs, or pairs whose features are not there.
        """
        self._check_learned()
        if self.kind == "conditional" and pairs is None:
            raise SpecError("a conditional prompt is another one for every pair; give pairs")
        with self._ready() as encoder:
            device = self.backbone.device
            if self.kind != "conditional":
                told = [torch.arange(len(self.prompt_.tokens), device=device)]
            else:
                maps = VisionMaps(self.vision, self.vision_block, pairs)
                told = (maps(np.array([row])).to(device) for row in range(len(pairs)))
            return torch.cat([encoder(self.prompt_(one)).float().cpu() for one in told])

    def match(
        self, pairs: PairTargets, spec: ExtractSpec | None = None, matcher: Any = None
    ) -> Iterator[Matches]:
        """Points of the sources in the targets, pair by pair, both pictures told the pair's prompt.

        Of single prompts and those of classes, features of whole sets are cheaper: `save`, then
        `diffeat extract … --embeddings PATH`, then `diffeat match`.

        Args:
            pairs: with points of the sources.
            spec: other t, members, blocks; None: as it was learned.
            matcher: of `probes.matching`; None: `NearestMatcher()`.

        Raises:
            SpecError, SourceError: see `diffeat.extract` and `fit`.
        """
        self._check_learned()
        spec = self._spec() if spec is None else spec
        rows = None if self.kind == "conditional" else self._classes_of(pairs)
        known = None if rows is None else self.states()
        for pair in range(len(pairs)):
            one = self.states(pairs.take([pair])) if rows is None else known[rows[pair]][None]
            yield matched(self.backbone, pairs, pair, one, spec, matcher)

    def save(self, path: str | Path) -> Path:
        """Write the prompt, for `--embeddings PATH` of an extraction and for `load`.

        Args:
            path: ends in .safetensors.

        Returns:
            The path.

        Source of the format: `diffeat.extraction.learned_prompts`.
        """
        self._check_learned()
        about = {name: getattr(self, name) for name in SETTINGS}
        said = PromptFile(self.kind, Identity.of(self.backbone), self.classes_, about)
        tensors = {f"prompt/{k}": v for k, v in self.prompt_.state_dict().items()}
        if self.kind != "conditional":
            tensors[STATES] = self.states()
        return write_prompt(path, said, tensors)

    @classmethod
    def load(cls, path: str | Path, backbone: Backbone, vision: Any = None) -> PromptTuning:
        """A prompt that was saved, for the model that it was learned with.

        Args:
            path: of `save`.
            backbone: the same model, in any precision.
            vision: features of the pictures that are to be matched, for a conditional prompt.

        Raises:
            SpecError: no such prompt, damaged, or of another model or text encoder.
        """
        said, tensors = read_prompt(path, backbone, KINDS)
        weights = {k.removeprefix("prompt/"): v for k, v in tensors.items() if k != STATES}
        try:
            settings = {name: said.about[name] for name in SETTINGS}
            block, t = settings.pop("block"), settings.pop("t")
            found = cls(backbone, block, t, vision=vision, **settings)
            found.kind, found.classes_ = said.kind, said.classes
            shape = None
            if said.kind == "conditional":
                shape = weights["channels.weight"].shape[1] // 2, len(weights["sites.weight"])
            found.prompt_ = found._built(TokenEncoder(backbone, found.tokens), shape)
            found.prompt_.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError) as error:
            raise SpecError(f"{path}: damaged prompts ({error}); learn them again") from error
        found.prompt_.to(backbone.device).eval()
        return found

    # --- what is trained, and on what -----------------------------------------------------

    def _built(self, encoder: TokenEncoder, shape: Any = None) -> torch.nn.Module:
        """The prompt at its start."""
        if self.start is None:
            first = torch.randn(encoder.tokens, encoder.width) * encoder.spread()
        else:
            first = encoder.embedded(self.start)
        if self.kind != "conditional":
            return FixedPrompt(first, max(1, len(self.classes_)))
        shared = encoder.tokens // 3 if self.shared is None else self.shared
        if not 0 < shared < encoder.tokens:
            raise SpecError(f"shared={shared}; expected 1 … {encoder.tokens - 1} of the tokens")
        if shape is None:
            shape = VisionMaps(self.vision, self.vision_block).shape
        self.vision_shape_ = list(shape)
        return ConditionalPrompt(first[:shared], tuple(shape), encoder.tokens - shared)

    def _data(self, pairs: PairTargets) -> PairPictures:
        if self.kind == "conditional":
            told = VisionMaps(self.vision, self.vision_block, pairs)
            if list(told.shape) != list(self.vision_shape_):
                raise SpecError(
                    f"vision maps are {told.shape} (channels, sites); this prompt was learned with "
                    f"{tuple(self.vision_shape_)}"
                )
        else:
            rows = self._classes_of(pairs)

            def told(some: np.ndarray) -> torch.Tensor:
                return torch.from_numpy(rows[some])

        return PairPictures(self._noisy, pairs, self.batch_size, self.workers, told)

    def _classes_of(self, pairs: PairTargets) -> np.ndarray:
        """(P,) which prompt each pair has."""
        if self.kind == "single":
            return np.zeros(len(pairs), np.int64)
        known = {name: row for row, name in enumerate(self.classes_)}
        if unknown := sorted(set(pairs.categories) - set(known)):
            raise SpecError(
                f"{pairs.name} has categories {', '.join(map(repr, unknown))[:200]}, for which no "
                f"prompt is learned; it knows {', '.join(known)[:200]}"
            )
        return np.array([known[name] for name in pairs.categories], np.int64)

    def _module(self, encoder: TokenEncoder) -> MatchedByPrompt:
        (name,) = (block.name for block in self._noisy.plan.blocks)
        return MatchedByPrompt(
            self.prompt_, encoder, lambda x, told: self._noisy(x, told)[name], STATES
        )

    def _objective(self):
        return correspondence(self.temperature, self.sigma, self.window, self.alpha)

    def _spec(self) -> ExtractSpec:
        seed, options = self.random_state, self.options or {}
        return ExtractSpec((self.t,), (self.block,), seed=seed, dtype="float32", **options)

    @contextmanager
    def _ready(self) -> Iterator[TokenEncoder]:
        """The text encoder on the device, and the denoiser as training wants it."""
        encoder = TokenEncoder(self.backbone, self.tokens)
        self._noisy = NoisyFeatures(self.backbone, self._spec())
        if len(self._noisy.plan.blocks) != 1 or not self._noisy.plan.blocks[0].has_grid:
            raise SpecError(f"block {self.block!r}; expected the name of one map of the denoiser")
        denoiser = self.backbone.denoiser
        if self.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        try:
            with visiting(encoder.encoder, self.backbone.device):
                yield encoder
        finally:
            if self.gradient_checkpointing:
                denoiser.disable_gradient_checkpointing()

    # --- checks ---------------------------------------------------------------------------

    def _check(self, pairs: PairTargets, validation: PairTargets | None) -> None:
        least = {"epochs": 1, "batch_size": 1, "workers": 1}
        for name, smallest in least.items():
            if not getattr(self, name) >= smallest:
                raise SpecError(f"{name}={getattr(self, name)}; expected at least {smallest}")
        for name in ("temperature", "sigma", "alpha", "learning_rate", "linear_rate"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name}={getattr(self, name)}; expected a number above 0")
        if self.window < 1 or self.window % 2 == 0:
            raise SpecError(f"window={self.window}; expected an odd number of cells")
        if self.kind not in KINDS:
            raise SpecError(f"kind={self.kind!r}; expected {', '.join(KINDS)}")
        if (self.kind == "conditional") != (self.vision is not None):
            raise SpecError("vision= goes with kind='conditional', which needs it")
        if self.patience is not None and (validation is None or self.patience < 1):
            raise SpecError(f"patience={self.patience} needs validation pairs, and at least 1")
        known = {"latent", "noise", "size", "fit", "resample"}
        if unknown := set(self.options or {}) - known:
            raise SpecError(f"options {sorted(unknown)}; expected some of {sorted(known)}")
        if self.kind == "class" and not all(pairs.categories):
            raise SpecError(f"{pairs.name} names no categories; learn a single prompt")

    def _check_learned(self) -> None:
        if not hasattr(self, "prompt_"):
            raise SpecError("this prompt is not learned yet; call fit first")

    def _about(self, pairs: PairTargets, validation: PairTargets | None) -> dict[str, Any]:
        """What a checkpoint has to agree with: model, settings, pairs, pictures."""
        if self.checkpoint is None:
            return {}
        sets = [one for one in (pairs, validation) if one is not None]
        vision = None
        if self.kind == "conditional":
            vision = VisionMaps(self.vision, self.vision_block).fingerprint
        return {
            "model": self.backbone.fingerprint, "vision": vision,
            "pairs": [one.fingerprint for one in sets],
            "pictures": [one.pictures().content() for one in sets],
            "learning rates": [self.learning_rate, self.linear_rate],
            "settings": {name: getattr(self, name) for name in SETTINGS},
        }  # fmt: skip
