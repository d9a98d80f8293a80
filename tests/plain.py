"""The pipelines of `tests.pipelines`, run by diffusers and transformers alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.models.embeddings import Timesteps

from tests.parts import LABEL, NATIVE, PROMPT, TOKENS

GUIDANCE = 3.5  # what FluxPipeline tells a guidance-distilled network, if not asked otherwise
CLASSIC = ("StableDiffusionPipeline",)
# text tokens go through the blocks beside the image's; True where they come first in attention
TEXT_FIRST = {"StableDiffusion3Pipeline": False, "FluxPipeline": True, "AuraFlowPipeline": True}


@dataclass
class Run:
    """What every module took and gave in one whole forward.

    Attributes:
        ins: positional and keyword arguments by path, as one list and one dict.
        outs: what the module returned, by path, in the order in which they returned; ""
            for the whole network. Where a module ran twice, the first time counts.
    """

    ins: dict[str, tuple] = field(default_factory=dict)
    outs: dict[str, object] = field(default_factory=dict)

    def entering(self, path: str) -> torch.Tensor:
        """The tensor that a module works on: its first argument, or `hidden_states`."""
        args, kwargs = self.ins[path]
        return args[0] if args else kwargs["hidden_states"]


@dataclass(frozen=True)
class Plain:
    """The parts of a saved pipeline as diffusers and transformers load them.

    What it is comes from the folder, not from its name.

    Attributes:
        name: key of BUILDERS, for messages.
        folder: where it was saved.
        dtype: of all weights.
    """

    name: str
    folder: Path
    dtype: torch.dtype = torch.float32

    # --- parts ----------------------------------------------------------------------------

    @cached_property
    def index(self) -> dict:
        return json.loads((self.folder / "model_index.json").read_text("utf-8"))

    @property
    def kind(self) -> str:
        """Class of the pipeline."""
        return self.index["_class_name"]

    @property
    def component(self) -> str:
        return "transformer" if "transformer" in self.index else "unet"

    @cached_property
    def pipeline(self) -> diffusers.DiffusionPipeline:
        """The real pipeline; not for SiT and EDM, for which diffusers has none."""
        # SD3 without T5 loads only if its absence is said aloud
        absent = {part: None for part, entry in self.index.items() if entry == [None, None]}
        pipeline = diffusers.DiffusionPipeline.from_pretrained(self.folder, **absent)
        for component in pipeline.components.values():
            if isinstance(component, transformers.PreTrainedModel):
                component.to(self.dtype)
        return pipeline

    @cached_property
    def denoiser(self) -> torch.nn.Module:
        cls = getattr(diffusers, self.index[self.component][1])
        network = cls.from_pretrained(self.folder / self.component, torch_dtype=self.dtype).eval()
        config = json.loads((self.folder / self.component / "config.json").read_text("utf-8"))
        if "_timestep_freq_shift" in config:
            for module in network.modules():
                if isinstance(module, Timesteps):
                    module.downscale_freq_shift = config["_timestep_freq_shift"]
        return network

    @cached_property
    def vae(self) -> diffusers.AutoencoderKL:
        cls = diffusers.AutoencoderKL
        return cls.from_pretrained(self.folder / "vae", torch_dtype=self.dtype).eval()

    @property
    def has_vae(self) -> bool:
        return self.index.get("vae", [None])[0] is not None

    @cached_property
    def noise(self) -> dict:
        """Configuration of the scheduler, whatever its class."""
        path = self.folder / "scheduler" / "scheduler_config.json"
        return json.loads(path.read_text("utf-8"))

    @property
    def is_flow(self) -> bool:
        return self.noise["_class_name"].startswith("FlowMatch")

    @property
    def is_edm(self) -> bool:
        return self.noise["_class_name"].startswith("EDM")

    @cached_property
    def scheduler(self) -> diffusers.DDPMScheduler:
        return diffusers.DDPMScheduler.from_pretrained(self.folder / "scheduler")

    # --- pictures and noise ---------------------------------------------------------------

    @torch.no_grad()
    def posterior(self, pixels: torch.Tensor):
        return self.vae.encode((pixels * 2 - 1).to(self.dtype)).latent_dist

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Clean pictures where the denoiser works."""
        if self.has_vae:
            config = self.vae.config
            mean = self.posterior(pixels).mean.float()
            return (mean - (config.shift_factor or 0.0)) * config.scaling_factor
        x = pixels * 2 - 1
        return x.mean(1, keepdim=True) if self.denoiser.config.in_channels == 1 else x

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, t: float) -> torch.Tensor:
        if self.is_edm:
            return clean + t * noise
        if self.is_flow:
            s = self.share(t)
            return (1 - s) * clean + s * noise
        return self.scheduler.add_noise(clean, noise, torch.full((len(clean),), int(t)))

    def share(self, t: float) -> float:
        """Share of noise of a flow at t."""
        return t / self.noise["num_train_timesteps"]

    def pixels(self, x: torch.Tensor) -> tuple[int, int]:
        """(H, W) in pixels of the picture that a latent stands for."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if self.has_vae else 1
        return x.shape[2] * factor, x.shape[3] * factor

    # --- condition ------------------------------------------------------------------------

    @torch.no_grad()
    def condition(
        self,
        count: int,
        prompt: str | None = PROMPT,
        label: int = LABEL,
        size: tuple[int, int] = NATIVE,
    ) -> dict:
        """What the denoiser's forward wants besides the input and t.

        Args:
            prompt: None stands for what the pipeline's guidance takes as no prompt.
            size: (H, W) of the picture in pixels.
        """
        config = self.denoiser.config
        if config.get("num_class_embeds") or "DiT" in type(self.denoiser).__name__:
            return {"class_labels": torch.full((count,), label)}
        if self.kind in CLASSIC:
            return {"encoder_hidden_states": self._clip_states(prompt or "", count)}
        ask = {
            "StableDiffusionXLPipeline": self._sdxl,
            "PixArtAlphaPipeline": self._pixart,
            "PixArtSigmaPipeline": self._pixart,
            "StableDiffusion3Pipeline": self._sd3,
            "FluxPipeline": self._flux,
            "AuraFlowPipeline": self._auraflow,
        }.get(self.kind)
        return ask(count, prompt, size) if ask else {}

    def _clip_states(self, prompt: str, count: int) -> torch.Tensor:
        words = transformers.CLIPTokenizer.from_pretrained(str(self.folder / "tokenizer"))
        network = transformers.CLIPTextModel.from_pretrained(self.folder / "text_encoder")
        network = network.to(self.dtype).eval()
        tokens = words(prompt, padding="max_length", max_length=TOKENS, return_tensors="pt")
        return network(tokens.input_ids).last_hidden_state.expand(count, -1, -1)

    def _encode_prompt(self, prompt: str | None, tokenizer: str, count: int, **options) -> list:
        """`encode_prompt` of the pipeline, cut to the length that its long tokenizer allows."""
        words = getattr(self.pipeline, tokenizer, None)
        if words is not None:
            options["max_sequence_length"] = words.model_max_length
        if self.kind != "FluxPipeline":
            options["do_classifier_free_guidance"] = prompt is None
        found = self.pipeline.encode_prompt(
            prompt=prompt or "", num_images_per_prompt=count, device="cpu", **options
        )
        return list(found)

    def _sdxl(self, count: int, prompt: str | None, size: tuple[int, int]) -> dict:
        found = self.pipeline.encode_prompt(
            prompt=prompt or "",
            num_images_per_prompt=count,
            device="cpu",
            do_classifier_free_guidance=prompt is None,
        )
        states, pooled = found[1::2] if prompt is None else found[::2]
        width = self.pipeline.text_encoder_2.config.projection_dim
        times = self.pipeline._get_add_time_ids(size, (0, 0), size, states.dtype, width)
        added = {"text_embeds": pooled, "time_ids": times.repeat(count, 1)}
        return {"encoder_hidden_states": states, "added_cond_kwargs": added}

    def _pixart(self, count: int, prompt: str | None, size: tuple[int, int]) -> dict:
        found = self._encode_prompt(prompt, "tokenizer", count)
        states, mask = found[2:] if prompt is None else found[:2]
        added = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.config.use_additional_conditions:
            added = {
                "resolution": torch.tensor([size]).repeat(count, 1).to(states.dtype),
                "aspect_ratio": torch.tensor([[size[0] / size[1]]]).repeat(count, 1),
            }
            added["aspect_ratio"] = added["aspect_ratio"].to(states.dtype)
        return {
            "encoder_hidden_states": states,
            "encoder_attention_mask": mask,
            "added_cond_kwargs": added,
        }

    def _sd3(self, count: int, prompt: str | None, size: tuple[int, int]) -> dict:
        found = self._encode_prompt(prompt, "tokenizer_3", count, prompt_2=None, prompt_3=None)
        states, pooled = found[1::2] if prompt is None else found[::2]
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def _flux(self, count: int, prompt: str | None, size: tuple[int, int]) -> dict:
        states, pooled, text_ids = self._encode_prompt(prompt, "tokenizer_2", count)
        rows, columns = (n // (2 * self.pipeline.vae_scale_factor) for n in size)
        told = self.denoiser.config.guidance_embeds
        return {
            "encoder_hidden_states": states,
            "pooled_projections": pooled,
            "txt_ids": text_ids,
            "img_ids": self.pipeline._prepare_latent_image_ids(
                count, rows, columns, "cpu", states.dtype
            ),
            "guidance": torch.full((count,), GUIDANCE) if told else None,
        }

    def _auraflow(self, count: int, prompt: str | None, size: tuple[int, int]) -> dict:
        found = self._encode_prompt(prompt, "tokenizer", count)
        return {"encoder_hidden_states": found[2 if prompt is None else 0]}

    # --- forwards -------------------------------------------------------------------------

    def arguments(self, x: torch.Tensor, t: float) -> dict:
        """How the denoiser is told x and t."""
        whole = not (self.is_flow or self.is_edm) and t == int(t)
        times = torch.full((len(x),), t, dtype=torch.int64 if whole else torch.float32)
        if self.is_edm:
            x, times = x / math.sqrt(t**2 + self.noise["sigma_data"] ** 2), times.log() / 4
        x = x.to(self.dtype)
        if self.kind == "FluxPipeline":
            return {"hidden_states": _pack(x), "timestep": times.to(self.dtype) / 1000}
        if self.kind == "AuraFlowPipeline":
            times = times / 1000  # its pipeline rounds it to the weights' precision
        return {
            "sample" if self.component == "unet" else "hidden_states": x,
            "timestep": times,
        }

    @torch.no_grad()
    def run(self, x: torch.Tensor, t: float, condition: dict | None = None) -> Run:
        """A whole forward under observation of every module."""
        if condition is None:
            condition = self.condition(len(x), size=self.pixels(x))
        run = Run()

        def before(path):
            def hook(_module, args, kwargs):
                run.ins.setdefault(path, _copied((args, kwargs)))

            return hook

        def after(path):
            def hook(_module, _args, output):
                run.outs.setdefault(path, _copied(output))

            return hook

        handles = []
        for path, module in self.denoiser.named_modules():
            handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
            handles.append(module.register_forward_hook(after(path)))
        try:
            self.denoiser(**self.arguments(x, t), **condition, return_dict=False)
        except RuntimeError:
            # diffusers puts the patches of a DiT together as a square; all blocks ran before that
            if "DiT" not in type(self.denoiser).__name__ or x.shape[2] == x.shape[3]:
                raise
        finally:
            for handle in handles:
                handle.remove()
        return run

    def activations(
        self, paths: Iterable[str], x: torch.Tensor, t: float, condition: dict | None = None
    ) -> dict[str, torch.Tensor]:
        """Outputs of submodules in a whole forward, by path, in the order in which they came.

        Of modules that bring text and image forward together, the image's tokens.
        """
        run, paths = self.run(x, t, condition), set(paths)
        return {
            path: self.image(path, output, x) for path, output in run.outs.items() if path in paths
        }

    def maps(
        self, paths: Iterable[str], x: torch.Tensor, t: float, condition: dict | None = None
    ) -> dict[str, torch.Tensor]:
        """`activations`, with tokens brought to maps (N, C, H, W)."""
        found = self.activations(paths, x, t, condition)
        return {path: as_map(tokens, x) for path, tokens in found.items()}

    def image(self, path: str, output, x: torch.Tensor) -> torch.Tensor:
        """The picture's part of what the module at `path` returned for the latent x."""
        if isinstance(output, tuple) and self.kind in TEXT_FIRST:
            # blocks return (text, image), attention (image, text), norms (tokens, gates …)
            output = output[1 if re.fullmatch(r"\w*transformer_blocks\.\d+", path) else 0]
        while not isinstance(output, torch.Tensor):
            output = output[0]
        if output.ndim == 3 and TEXT_FIRST.get(self.kind):
            return output[:, -self.cells(x) :]
        return output

    def cells(self, x: torch.Tensor) -> int:
        """Image tokens of a transformer for the latent x."""
        patch = 2 if self.kind == "FluxPipeline" else self.denoiser.config.patch_size
        return (x.shape[2] // patch) * (x.shape[3] // patch)


def as_map(tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Tokens (N, L, D) in row-major order as a map (N, D, H, W) of the proportions of x."""
    if tokens.ndim == 4:
        return tokens
    stride = math.isqrt(x.shape[2] * x.shape[3] // tokens.shape[1])
    rows, columns = x.shape[2] // stride, x.shape[3] // stride
    return tokens.reshape(len(tokens), rows, columns, -1).permute(0, 3, 1, 2)


def _pack(x: torch.Tensor) -> torch.Tensor:
    """FLUX's tokens: (N, C, H, W) to (N, H/2 · W/2, 4C), channels outermost in a token."""
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // 2, 2, w // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(n, h // 2 * (w // 2), 4 * c)


def _copied(value):
    """Tensors in tuples and dicts, safe from later layers that work in place."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(map(_copied, value))
    return value
