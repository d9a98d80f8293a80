"""A copy of a denoiser whose features of clean pictures are those of noisy ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffeat.adapt.classifier import spans_of
from diffeat.adapt.film import FiLMHead
from diffeat.adapt.forward import NoisyFeatures, trainable_copy
from diffeat.adapt.learning import learn, pictures_of
from diffeat.backbones.base import Backbone
from diffeat.backbones.devices import upload
from diffeat.backbones.learned_t import LEARNED_T
from diffeat.errors import SpecError
from diffeat.extraction import draw_noise, noise_names
from diffeat.extraction.noising import fresh_noise, seeded_by_content, upload_noise
from diffeat.images import Source, load_batches
from diffeat.specs import ExtractSpec
from probes.batches import Batch
from probes.objectives import Objective
from probes.randomness import Randomness
from probes.tensor_files import write_tensors
from probes.training import validate

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole part, lie evenly in [0, 1), however many there are."""


DIGITS = 4
"""Decimals of the learned t that are kept; further ones change no feature."""


class _Mean:
    """The mean of what an output holds."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> None:
        """found: (n, B) cosines."""
        self.total += float(found.double().sum())
        self.count += found.numel()

    def compute(self) -> float:
        return self.total / self.count if self.count else float("nan")


def _distance(output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
    terms = 1 - output.mean(1)
    return terms.sum() if reduction == "sum" else terms.mean()


ALIGNMENT = Objective(
    "alignment", _distance, len, "similarity", _Mean, True,
    lambda output: output, lambda output: output, "float32",
)  # fmt: skip
"""Outputs (n, B): mean cosine over the sites of each of B maps; minimised is 1 minus their mean,
which also validates."""


class Aligned(nn.Module):
    """Student, heads and learned t as the one module that is trained.

    Args:
        student: a copy of the denoiser, given clean latents.
        teacher: the frozen denoiser, given noisy ones.
        t: what the student is told at the start.
        heads: whether features pass through heads, which are dropped afterwards.
    """

    def __init__(
        self, student: NoisyFeatures, teacher: NoisyFeatures, t: float, heads: bool = True
    ):
        super().__init__()
        self.denoiser = student.backbone.denoiser
        self.t = nn.Parameter(torch.tensor(float(t), device=student.backbone.device))
        blocks = {block.name: block.channels for block in student.plan.blocks}
        self.names = tuple(blocks)
        made = [FiLMHead(count).to(student.backbone.device) for count in blocks.values()]
        self.heads = nn.ModuleList(made if heads else [])
        self.student, self.teacher = student, teacher

    def forward(self, z: torch.Tensor, x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """(n, B) mean cosines.

        Args:
            z: (n, C, h, w) clean latents.
            x: (n, C, h, w) x_t.
            levels: (n, 3) of t, alpha, sigma of x.
        """
        with torch.no_grad():
            wanted = self.teacher(x, levels=levels)
        found = self.student(z, levels=self._told(levels), whole=False)
        cosines = []
        for place, name in enumerate(self.names):
            mine = found[name].float()
            if len(self.heads):
                mine = self.heads[place](mine, levels[:, 0])
            cosines.append(F.cosine_similarity(mine, wanted[name].float(), dim=1).mean((1, 2)))
        return torch.stack(cosines, 1)

    @property
    def clean_t(self) -> torch.Tensor:
        """The learned t, within the schedule."""
        return self.t.clamp(0, self.student.backbone.schedule.steps - 1)

    def _told(self, levels: torch.Tensor) -> torch.Tensor:
        """(n, 3): the learned t, which the gradient reaches; nothing is noised by it."""
        t = self.clean_t.double().expand(len(levels))
        return torch.stack([t, torch.ones_like(t), torch.zeros_like(t)], 1)

    def train(self, mode: bool = True) -> Aligned:
        self.training = mode
        self.heads.train(mode)  # the denoiser stays in eval mode: no dropout of its own
        return self


class CleanAndNoisy:
    """Pictures as the loop takes them: clean latents, x_t at random levels, these levels."""

    def __init__(self, tuning: CleanDIFT, teacher: NoisyFeatures, source: Source):
        self.tuning, self.noisy, self.source = tuning, teacher, source
        self.device = torch.device(teacher.backbone.device)
        self.steps = len(self._spans)
        spec = teacher.plan.spec
        digests = source.digests() if seeded_by_content(spec) else None
        self._names = noise_names(spec, source.ids, digests, range(len(source)))

    def __len__(self) -> int:
        return len(self.source)

    @property
    def _spans(self) -> list[tuple[int, int]]:
        return spans_of(len(self.source), self.tuning.batch_size, training=False)

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in a new order, with fresh noise and fresh levels."""
        order = rng.permutation(len(self.source))
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        shares = rng.random(len(order))
        for pixels, places in self._decoded(self.source.take(order)):
            size = tuple(pixels.shape[2:])
            drawn = fresh_noise(self.noisy.plan, len(pixels), size, noise)
            yield self._made(pixels, shares[places], *drawn)

    def ordered(self) -> Iterator[Batch]:
        """All, each with its own noise, at levels that lie evenly over the range."""
        shares = (np.arange(len(self.source)) + 1) * GOLDEN % 1
        for pixels, places in self._decoded(self.source):
            names = [self._names[place] for place in places]
            drawn = draw_noise(self.noisy.plan, names, tuple(pixels.shape[2:]))
            yield self._made(pixels, shares[places], *drawn)

    def _decoded(self, source: Source) -> Iterator[tuple[torch.Tensor, list[int]]]:
        plan = self.noisy.plan
        loaded = load_batches(
            source, self._spans, plan.size, plan.spec.fit, plan.spec.resample, self.tuning.workers
        )
        for batch in loaded:
            yield torch.from_numpy(batch.pixels), batch.indices

    @torch.no_grad()
    def _made(self, pixels: torch.Tensor, shares: np.ndarray, eps, sample) -> Batch:
        low, high = self.tuning.t_range
        steps = torch.from_numpy(low + (shares * (high - low)).astype(np.int64))
        levels = self.tuning.levels_[steps - low].to(self.device)  # (n, 3)
        z, _ = self.noisy.encode(upload(pixels, self.device).float() / 255, sample)
        z = z[:, 0]
        x = self.noisy.add_noise(z, upload_noise(eps, self.device)[:, 0], levels)
        return [z, x, levels], torch.zeros(len(z), device=self.device)


class CleanDIFT:
    """Fine-tunes a copy of a denoiser so that it needs no noise.

        minimise  mean_b 1 - cos(head_b(student_b(z, t*), t), teacher_b(alpha·z + sigma·eps, t))

    over pictures, eps, and t drawn evenly from a range. The student sees the clean latent and one
    learned t*, a fraction; heads that know t are dropped afterwards. What `save` writes loads as
    any other denoiser, and brings its t along: `diffeat.load(MODEL, denoiser=FOLDER)` with
    `ExtractSpec(("learned",), …, noise="none")`.

    Args:
        backbone: from `diffeat.load`, in float32, with t that are counted; it stays as it is.
        blocks: maps that are aligned; None: the middle and all units of the decoder but the last
            two, which are the published 11 of Stable Diffusion.
        start: of t*.
        t_range: (low, high) of the teacher's t, without high; None: all steps.
        options: further fields of the spec: latent, prompt, label, size, fit, resample.
        epochs: at most.
        batch_size: pictures of a step.
        learning_rate: of denoiser and heads (Adam).
        t_rate: of t*, in steps of the schedule; None: `learning_rate`.
        patience: epochs without a better validation similarity; None goes through all.
        random_state: seed of order, noise, levels and heads.
        workers: decoding threads.
        progress: None shows a bar on a terminal, a line a minute elsewhere.
        checkpoint: a folder, or a .safetensors file, from which an interrupted fit goes on, to the
            same bits.

    Attributes:
        backbone_: the trained copy, which `diffeat.extract` takes; `backbone_.learned_t` is t*.
        start_: validation_loss and validation_similarity before the first step, with validation
            pictures.
        history_: the learning curve (see `probes.training.train`).
        best_epoch_: the epoch, from 1, whose weights were kept.

    Source: Stracke et al. 2025 (CleanDIFT): Adam 1e-5, batches of 8, t* from 261. The heads' exact
    form and the rate of t* are ours.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        blocks: tuple[str, ...] | None = None,
        start: float = 261.0,
        t_range: tuple[int, int] | None = None,
        options: dict[str, Any] | None = None,
        epochs: int = 1,
        batch_size: int = 8,
        learning_rate: float = 1e-5,
        t_rate: float | None = None,
        patience: int | None = None,
        random_state: int = 0,
        workers: int = 2,
        progress: bool | None = None,
        checkpoint: str | Path | None = None,
    ):
        self.backbone, self.blocks, self.start = backbone, blocks, start
        self.t_range = t_range or (0, backbone.schedule.steps)
        self.options, self.epochs, self.batch_size = options, epochs, batch_size
        self.learning_rate, self.t_rate, self.patience = learning_rate, t_rate, patience
        self.random_state, self.workers = random_state, workers
        self.progress, self.checkpoint = progress, checkpoint

    def fit(
        self, source: Source | str | Path, validation: Source | str | Path | None = None
    ) -> CleanDIFT:
        """Train on pictures, which need no labels.

        Args:
            source: the pictures: a folder, a list file, a named set, or a source.
            validation: others, on which the epoch is chosen.

        Returns:
            self.

        Raises:
            SpecError: settings that cannot be meant.
            NumericsError: the loss is nan or inf.
        """
        self._check(validation)
        source = pictures_of(source)
        validation = None if validation is None else pictures_of(validation)
        seed, device = self.random_state, self.backbone.device
        with Randomness(seed, seed, device) as randomness:
            tuned = trainable_copy(self.backbone)
            tuned.learned_t = None  # of what it was copied from
            module = self._module(tuned, self.start)
            module.denoiser.requires_grad_(True)
            data = CleanAndNoisy(self, module.teacher, source)
            held = None if validation is None else CleanAndNoisy(self, module.teacher, validation)
            if held is not None:
                self.start_ = validate(module, ALIGNMENT, held)
            self.history_, self.best_epoch_ = learn(
                self, module, ALIGNMENT, data, randomness, epochs=self.epochs,
                batch_size=self.batch_size, checkpoint=self.checkpoint, validation=held,
                groups=self._groups(module), about=self._about(source, validation),
                name=type(self).__name__, unit="picture",
            )  # fmt: skip
        module.denoiser.requires_grad_(False)
        self.module_, self.backbone_ = module, module.student.backbone
        self.backbone_.learned_t = round(float(module.clean_t.detach()), DIGITS)
        return self

    def score(self, source: Source, heads: bool = False) -> float:
        """Mean cosine of clean features with noisy ones, each picture at one level of the range.

        Args:
            source: pictures.
            heads: with the heads that are dropped afterwards.
        """
        self._check_trained()
        module = self.module_
        if not heads:
            module = Aligned(module.student, module.teacher, self.backbone_.learned_t, heads=False)
        data = CleanAndNoisy(self, module.teacher, pictures_of(source))
        return validate(module, ALIGNMENT, data)["validation_similarity"]

    def save(self, path: str | Path) -> Path:
        """Write the trained denoiser with its t, for `diffeat.load(…, denoiser=PATH)`.

        Args:
            path: a folder, which gets the configuration too, or a .safetensors file.

        Returns:
            The file of the weights.
        """
        self._check_trained()
        path, denoiser = Path(path), self.backbone_.denoiser
        if path.suffix != ".safetensors":
            denoiser.save_config(path)
            path = path / "diffusion_pytorch_model.safetensors"
        said = {"format": "pt", LEARNED_T: repr(self.backbone_.learned_t)}
        write_tensors(path, denoiser.state_dict(), said)
        return path

    # --- what is trained, and on what -----------------------------------------------------

    def _module(self, tuned: Backbone, t: float) -> Aligned:
        blocks = self.blocks or default_blocks(self.backbone)
        seed, options = self.random_state, self.options or {}
        # the spec's own t plays no part: the student is told t*, the teacher a level for each row
        clean = ExtractSpec((int(t),), blocks, noise="none", seed=seed, **options)
        noisy = ExtractSpec((self.t_range[0],), blocks, seed=seed, **options)
        student, teacher = NoisyFeatures(tuned, clean), NoisyFeatures(self.backbone, noisy)
        if odd := [block.name for block in student.plan.blocks if not block.has_grid]:
            raise SpecError(f"blocks {', '.join(odd)} have no map; expected maps of the denoiser")
        levels = [self.backbone.schedule.resolve(t) for t in range(*self.t_range)]
        rows = [(level.t, level.alpha, level.sigma) for level in levels]
        self.levels_ = torch.tensor(rows, dtype=torch.float64)
        return Aligned(student, teacher, t)

    def _groups(self, module: Aligned) -> list[dict[str, Any]]:
        weights = [*module.denoiser.parameters(), *module.heads.parameters()]
        rate = self.learning_rate if self.t_rate is None else self.t_rate
        return [
            {"name": "weights", "params": weights, "lr": self.learning_rate},
            {"name": "t", "params": [module.t], "lr": rate},
        ]

    def _check(self, validation: Source | None) -> None:
        for name in ("epochs", "batch_size", "workers"):
            if not getattr(self, name) >= 1:
                raise SpecError(f"{name}={getattr(self, name)}; expected at least 1")
        low, high = self.t_range
        steps = self.backbone.schedule.steps
        if steps < 2:
            raise SpecError(
                f"{self.backbone.name} has no numbered t to draw from; expected a model whose t "
                "are counted, such as 0 … 999"
            )
        if (dtype := self.backbone.dtype) != torch.float32:
            raise SpecError(
                f"{self.backbone.name} is in {str(dtype).removeprefix('torch.')}, in which steps "
                "of training are rounded away; load it with dtype='float32'"
            )
        if not 0 <= low < high <= steps:
            raise SpecError(f"t_range={self.t_range}; expected 0 ≤ low < high ≤ {steps}")
        if not 0 <= self.start < steps:
            raise SpecError(f"start={self.start}; expected a t of the schedule, below {steps}")
        if self.patience is not None and (validation is None or self.patience < 1):
            raise SpecError(f"patience={self.patience} needs validation pictures, and at least 1")
        known = {"latent", "prompt", "label", "size", "fit", "resample"}
        if unknown := set(self.options or {}) - known:
            raise SpecError(f"options {sorted(unknown)}; expected some of {sorted(known)}")

    def _check_trained(self) -> None:
        if not hasattr(self, "module_"):
            raise SpecError("this copy is not trained yet; call fit first")

    def _about(self, source: Source, validation: Source | None) -> dict[str, Any]:
        """What a checkpoint has to agree with: model, settings, pictures."""
        if self.checkpoint is None:
            return {}
        names = ("blocks", "start", "t_range", "options", "t_rate", "random_state")
        return {
            "model": self.backbone.fingerprint,
            "settings": {name: getattr(self, name) for name in names},
            "pictures": [None if one is None else one.content() for one in (source, validation)],
        }  # fmt: skip


def default_blocks(backbone: Backbone) -> tuple[str, ...]:
    """The middle and all units of the decoder but the last two, in CleanDIFT's names.

    Raises:
        SpecError: a model that has no such names.
    """
    units = [name for name in backbone.aliases if name.startswith("cleandift:us")]
    if len(units) < 3:
        raise SpecError(f"{backbone.name} has no units of CleanDIFT's names; give blocks")
    return ("mid", *units[:-2])
