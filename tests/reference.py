"""What every named tensor must be: a whole plain forward, and arithmetic by hand.

Attention maps come from hooked projections, norms and rotations written out here; nothing is
taken from inside `scaled_dot_product_attention`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers.models.attention_processor import Attention

from tests.plain import TEXT_FIRST, Plain, Run, as_map

SELF = ("self.q", "self.k", "self.v", "self.z", "self.map")
CROSS = ("cross.q", "cross.k", "cross.v", "cross.z", "cross.out", "cross.map")
TEXT_BLOCK = (*SELF, "self.out", *CROSS, "ff.inner")  # of SD, SDXL
BLOCK = ("in", "adaln", *SELF, "self.out", "ff.inner")  # of all transformers
# where text and image attend as one
JOINT = (*BLOCK, "text", "cross.k", "cross.v", "cross.map", "text.q", "t2i.map")
# of blocks that read text and image as one sequence; their projections are not the text's own
SINGLE = tuple(kind for kind in JOINT if kind not in ("cross.k", "cross.v"))
DUAL = ("dual.q", "dual.k", "dual.v", "dual.z", "dual.out", "dual.map")  # SD 3.5's second
WORDS = {
    "down": "down_blocks",
    "up": "up_blocks",
    "mid": "mid_block",
    "res": "resnets",
    "attn": "attentions",
    "block": "transformer_blocks",
    "single": "single_transformer_blocks",
}
STAGE = r"mid_block|(?:down|up)_blocks\.\d+"


# --- names ------------------------------------------------------------------------------------


def tensor_names(plain: Plain) -> list[str]:
    """Every name that must exist for a pipeline, read off the modules of the plain denoiser."""
    unet = plain.component == "unet"
    names = ["net:in", *(_unet_names(plain) if unet else _block_names(plain)), "net:out", "net:x0"]
    return [*_vae_names(plain), *names] if plain.has_vae else names


def _with(place: str, kinds: Iterable[str]) -> list[str]:
    return [f"{place}:{kind}" for kind in kinds]


def _unet_names(plain: Plain) -> list[str]:
    names = []
    for path, module in plain.denoiser.named_modules():
        place = _place(path)
        if path == "conv_in":
            names.append(place)
        elif re.fullmatch(STAGE, path):
            names.append(place)
            if getattr(module, "downsamplers", None) or getattr(module, "upsamplers", None):
                names.append(f"{place}:pre")
        elif re.fullmatch(rf"(?:{STAGE})\.resnets\.\d+", path):
            names += [place, *_with(place, ("in", "increment"))]
            if path.startswith("up"):
                names += _with(place, ("trunk", "skip"))
        elif re.fullmatch(rf"(?:{STAGE})\.attentions\.\d+", path):
            names.append(place)
            if isinstance(module, Attention):
                names += _with(place, SELF)
            elif len(module.transformer_blocks) == 1:
                names += _with(place, ("block", *TEXT_BLOCK))
            else:
                for k in range(len(module.transformer_blocks)):
                    names += [f"{place}.block.{k}", *_with(f"{place}.block.{k}", TEXT_BLOCK)]
    return names


def _block_names(plain: Plain) -> list[str]:
    names = []
    for path, module in plain.denoiser.named_modules():
        if not re.fullmatch(r"\w*transformer_blocks\.\d+", path):
            continue
        place = _place(path)
        if plain.kind in TEXT_FIRST:
            # no text leaves the last block of SD3
            last = getattr(module, "context_pre_only", False)
            kinds = SINGLE if place.startswith("single") else JOINT
            kinds = [kind for kind in kinds if not (last and kind == "text")]
            kinds += ["register.map"] if hasattr(plain.denoiser, "register_tokens") else []
            kinds += DUAL if getattr(module, "attn2", None) is not None else ()
        else:
            kinds = [*BLOCK, *(CROSS if getattr(module, "attn2", None) is not None else ())]
        names += [place, *_with(place, kinds)]
    return names


def _vae_names(plain: Plain) -> list[str]:
    names, decoder = ["vae"], plain.vae.decoder.up_blocks.named_modules(prefix="up_blocks")
    for path, _ in [*plain.vae.encoder.named_modules(), *decoder]:
        if re.fullmatch(r"(?:down|up)_blocks\.\d+|mid_block", path):
            names.append(f"vae.{_place(path)}")
        elif re.fullmatch(r"(?:down|up)_blocks\.\d+\.resnets\.\d+", path):
            names += [f"vae.{_place(path)}", *_with(f"vae.{_place(path)}", ("in", "increment"))]
    return names


def _place(path: str) -> str:
    words = {long: short for short, long in WORDS.items()}
    words["joint_transformer_blocks"] = "block"
    return ".".join(words.get(word, word) for word in path.split("."))


# --- tensors ----------------------------------------------------------------------------------


def reference(plain: Plain, name: str, *args, **options) -> torch.Tensor:
    """One of `references`."""
    return references(plain, [name], *args, **options)[name]


@torch.no_grad()
def references(
    plain: Plain,
    names: Sequence[str],
    x0: torch.Tensor,
    x_t: torch.Tensor,
    t: float,
    condition: dict | None = None,
    heads: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    pixels: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Tensors by name.

    Args:
        x0: clean latents in fp32, `Plain.encode`.
        x_t: noisy latents in fp32, `Plain.noisy`.
        t: native t.
        condition: `Plain.condition`; by default its defaults, for the pictures' size.
        heads: heads that are kept, side by side; None is all of them, of maps their mean.
        tokens: keys that maps keep; None keeps all.
        pixels: the pictures in [0, 1], for the names that begin with "vae.".

    Returns:
        (N, C, H, W) for what belongs to the picture, (N, L, D) for what belongs to the text.
    """
    if condition is None:
        condition = plain.condition(len(x_t), size=plain.pixels(x_t))
    forward = _Forward(plain, plain.run(x_t, t, condition), x_t, t, condition, heads, tokens)
    found = _vae_tensors(plain, [name for name in names if name.startswith("vae.")], pixels)
    for name in names:
        if name not in found:
            found[name] = x0 if name == "vae" else forward.tensor(name)
    return found


def _vae_tensors(plain: Plain, names: Sequence[str], pixels: torch.Tensor | None) -> dict:
    """Tensors of one encoding and, where a name asks for it, one decoding."""
    found, handles, decoded = {}, [], False
    for name in names:
        place, _, kind = name.removeprefix("vae.").partition(":")
        up = place.startswith("up.")
        decoded |= up
        coder = plain.vae.decoder if up else plain.vae.encoder
        module = coder.get_submodule(_path(place) + (".conv2" if kind == "increment" else ""))

        def keep(_module, inputs, output, name=name, kind=kind):
            found[name] = (inputs[0] if kind == "in" else output).clone()

        handles.append(module.register_forward_hook(keep))
    if not names:
        return found
    try:
        posterior = plain.vae.encode((pixels * 2 - 1).to(plain.dtype)).latent_dist
        if decoded:  # which is given the unscaled mean
            plain.vae.decode(posterior.mean)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _path(place: str) -> str:
    return ".".join(WORDS.get(word, word) for word in place.split("."))


@dataclass
class _Forward:
    """One forward of the denoiser and what is read off it; see `references`."""

    plain: Plain
    run: Run
    x: torch.Tensor
    t: float
    condition: dict
    heads: Sequence[int] | None
    tokens: Sequence[int] | None

    def tensor(self, name: str) -> torch.Tensor:
        """What a name means; with .hN behind it, of that head alone."""
        whole, _, head = name.partition(".h")
        if head.isdigit():
            return replace(self, heads=(int(head),)).tensor(whole)
        found, kind = self.whole(name), name.partition(":")[2]
        if self.heads is None or not re.fullmatch(r"(self|cross|dual|text)\.[qkvz]", kind):
            return found
        axis = 1 if found.ndim == 4 else 2  # channels of a map, or of the text's tokens
        parts = found.split(self.width_of_heads(name), axis)
        return torch.cat([parts[head] for head in self.heads], axis)

    def width_of_heads(self, name: str) -> int:
        """Channels of one head of the place's attentions, all of which are alike."""
        path = self.path_of(name.partition(":")[0])
        inner = self.plain.denoiser.get_submodule(path).modules()
        module = next(each for each in inner if hasattr(each, "to_q"))
        return module.to_q.out_features // module.heads

    def path_of(self, place: str) -> str:
        path = _path(place)
        if self.plain.kind == "AuraFlowPipeline" and place.startswith("block"):
            return f"joint_{path}"
        return path

    def whole(self, name: str) -> torch.Tensor:
        place, _, kind = name.partition(":")
        if place == "net":
            return {"in": self.network_input, "out": self.output, "x0": self.clean}[kind]()
        path = self.path_of(place)
        if not kind:
            return self.map_of(self.plain.image(path, self.run.outs[path], self.x))
        if self.plain.component == "transformer":
            return self.in_block(path, kind)
        if ".attentions." in path:
            return self.in_unet_attention(path, kind)
        if kind == "pre":
            way = "down" if path.startswith("down") else "up"
            return self.run.entering(f"{path}.{way}samplers.0")
        if kind == "increment":
            return self.run.outs[f"{path}.conv2"]
        if kind == "in":
            return self.run.entering(path)
        return self.trunk_and_skip(path)[("trunk", "skip").index(kind)]

    def map_of(self, tokens: torch.Tensor) -> torch.Tensor:
        return as_map(tokens, self.x)

    # --- the network's ends ---------------------------------------------------------------

    def network_input(self) -> torch.Tensor:
        given = self.plain.arguments(self.x, self.t)
        return self.map_of(given.get("sample", given.get("hidden_states")))

    def output(self) -> torch.Tensor:
        if "DiT" in type(self.plain.denoiser).__name__:
            return self.unpatched(self.run.outs["proj_out_2"])
        return self.map_of(self.run.outs[""][0])

    def unpatched(self, tokens: torch.Tensor) -> torch.Tensor:
        """A DiT's output tokens (N, L, p·p·C), channels innermost, as a latent."""
        p = self.plain.denoiser.config.patch_size
        n, _, height, width = self.x.shape
        cells = tokens.reshape(n, height // p, width // p, p, p, -1)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, height, width)

    def clean(self) -> torch.Tensor:
        """The latent that the network takes x to come from, in fp32."""
        x, out, noise = self.x, self.output().float(), self.plain.noise
        if self.plain.kind == "FluxPipeline":  # (N, 4C, h/2, w/2), to (N, C, h, w)
            n, c, h, w = x.shape
            out = out.reshape(n, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(x.shape)
        out = out[:, : x.shape[1]]  # the rest is a learned variance
        if self.plain.is_edm:
            data, sigma = noise["sigma_data"], self.t
            total = sigma**2 + data**2
            return data**2 / total * x + sigma * data / math.sqrt(total) * out
        if self.plain.is_flow:
            return x - self.plain.share(self.t) * out
        kept = self.plain.scheduler.alphas_cumprod[int(self.t)]
        signal, spoilt = kept.sqrt(), (1 - kept).sqrt()
        return {
            "epsilon": (x - spoilt * out) / signal,
            "v_prediction": signal * x - spoilt * out,
            "sample": out,
        }[noise["prediction_type"]]

    # --- U-Nets ---------------------------------------------------------------------------

    def trunk_and_skip(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What a resnet of the way up gets from below, and what it gets from the way down.

        Both are found where they were made, and not by splitting the resnet's input.
        """
        outs = self.run.outs

        def layer(stage, j):
            attention = f"{stage}.attentions.{j}"
            return outs[attention if attention in outs else f"{stage}.resnets.{j}"]

        skips = [outs["conv_in"]]
        for i, stage in enumerate(self.plain.denoiser.down_blocks):
            skips += [layer(f"down_blocks.{i}", j) for j in range(len(stage.resnets))]
            if stage.downsamplers:
                skips.append(outs[f"down_blocks.{i}.downsamplers.0"])
        for i, stage in enumerate(self.plain.denoiser.up_blocks):
            trunk = outs[f"up_blocks.{i - 1}" if i else "mid_block"]
            for j in range(len(stage.resnets)):
                trunk = layer(f"up_blocks.{i}", j - 1) if j else trunk
                skip = _tensor(skips.pop())
                if path == f"up_blocks.{i}.resnets.{j}":
                    return _tensor(trunk), skip
        raise AssertionError(path)

    def in_unet_attention(self, path: str, kind: str) -> torch.Tensor:
        if isinstance(self.plain.denoiser.get_submodule(path), Attention):
            return self.in_attention(path, kind.removeprefix("self."))
        block = path if ".transformer_blocks." in path else f"{path}.transformer_blocks.0"
        if kind == "block":
            return self.map_of(self.run.outs[block])
        return self.in_text_block(block, kind)

    def in_text_block(self, block: str, kind: str) -> torch.Tensor:
        """Kinds that transformer blocks share, of U-Nets, of DiT and of PixArt."""
        if kind == "ff.inner":
            return self.map_of(self.run.entering(f"{block}.ff.net.2"))
        where, _, part = kind.partition(".")
        if kind in ("cross.k", "cross.v"):
            return self.run.outs[f"{block}.attn2.to_{part}"]
        return self.in_attention(f"{block}.{'attn1' if where == 'self' else 'attn2'}", part)

    def in_attention(self, path: str, part: str) -> torch.Tensor:
        outs, module = self.run.outs, self.plain.denoiser.get_submodule(path)
        if part == "out":
            return self.map_of(outs[path])
        if part not in ("map", "z"):
            return self.map_of(outs[f"{path}.to_{part}"])
        q, k, v = (_heads(outs[f"{path}.to_{part}"], module.heads) for part in "qkv")
        q, k = _normed(q, module.norm_q), _normed(k, module.norm_k)  # of SD 3.5's second one
        # only cross-attention has a mask, over the text's tokens
        mask = self.condition.get("encoder_attention_mask") if path.endswith("attn2") else None
        weights = _softmax(q, k, mask)
        return self.shown(weights) if part == "map" else self.map_of(_attended(weights, v))

    def shown(self, weights: torch.Tensor) -> torch.Tensor:
        """Attention (N, heads, queries, keys) as a map of its queries, keys as channels."""
        if self.tokens is not None:
            weights = weights[..., list(self.tokens)]
        if self.heads is None:
            return self.map_of(weights.mean(1))
        chosen = [weights[:, head] for head in self.heads]
        return self.map_of(torch.cat(chosen, dim=-1))

    # --- transformers ---------------------------------------------------------------------

    def in_block(self, block: str, kind: str) -> torch.Tensor:
        if self.plain.kind not in TEXT_FIRST:
            if kind == "in":
                return self.map_of(self.run.entering(block))
            if kind == "adaln":
                return self.map_of(self.run.entering(f"{block}.attn1"))
            return self.in_text_block(block, kind)
        single = block.startswith("single")
        if kind == "text":
            out = self.run.outs[block]
            return out[0] if isinstance(out, tuple) else self.text(out)
        if kind in ("cross.k", "cross.v"):
            part = kind[-1]
            if single:
                return self.text(self.run.outs[f"{block}.attn.to_{part}"])
            return self.run.outs[f"{block}.attn.add_{part}_proj"]
        if kind.startswith("dual."):
            return self.in_attention(f"{block}.attn2", kind.removeprefix("dual."))
        if kind == "text.q":
            outs, path = self.run.outs, f"{block}.attn"
            return self.text(outs[f"{path}.to_q"]) if single else outs[f"{path}.add_q_proj"]
        if kind.endswith((".map", ".z")):
            return self.in_joint_attention(f"{block}.attn", kind, single)
        if kind == "in":
            found = self.run.entering(block)
        elif kind == "adaln":
            found = self.run.entering(f"{block}.attn")
        elif kind == "self.out":
            found = self.run.outs[f"{block}.attn"]
        elif kind == "ff.inner":
            found = self.inside_feed_forward(block)
        else:
            found = self.run.outs[f"{block}.attn.to_{kind[-1]}"]
        return self.map_of(self.plain.image(f"{block}.part", found, self.x))

    def in_joint_attention(self, path: str, kind: str, single: bool) -> torch.Tensor:
        """A quarter of the softmax over image and text, or what its heads give the image."""
        weights, v = self.joint_attention(path, single)
        if kind == "self.z":
            return self.map_of(_attended(self.image_of(weights, 2), v))
        if kind == "t2i.map":  # keys and queries change places: a cell is a key
            asked = self.text_of(self.image_of(weights, 3), 2).transpose(2, 3)
            return self.shown(asked)
        weights = self.image_of(weights, 2)
        if kind == "self.map":
            return self.shown(self.image_of(weights, 3))
        text = self.text_of(weights, 3)
        if kind == "register.map":
            text = text[..., : self.plain.denoiser.register_tokens.shape[1]]
        return self.shown(text)

    def image_of(self, weights: torch.Tensor, axis: int) -> torch.Tensor:
        """The image's part of an axis of the joint sequence."""
        cells, count = self.plain.cells(self.x), weights.shape[axis]
        start = count - cells if TEXT_FIRST[self.plain.kind] else 0
        return weights.narrow(axis, start, cells)

    def text_of(self, weights: torch.Tensor, axis: int) -> torch.Tensor:
        cells, count = self.plain.cells(self.x), weights.shape[axis]
        return weights.narrow(axis, 0 if TEXT_FIRST[self.plain.kind] else cells, count - cells)

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        """The text's part of tokens that are the text's and then the image's."""
        return tokens[:, : -self.plain.cells(self.x)]

    def inside_feed_forward(self, block: str) -> torch.Tensor:
        if f"{block}.act_mlp" in self.run.outs:
            return self.run.outs[f"{block}.act_mlp"]
        last = "out_projection" if self.plain.kind == "AuraFlowPipeline" else "net.2"
        return self.run.entering(f"{block}.ff.{last}")

    def joint_attention(self, path: str, single: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The softmax over image and text (N, heads, L, L), and the values (N, heads, L, d)."""
        outs, module = self.run.outs, self.plain.denoiser.get_submodule(path)
        first = TEXT_FIRST[self.plain.kind]

        def projected(layer, norm):
            return _normed(_heads(outs[f"{path}.{layer}"], module.heads), getattr(module, norm))

        q, k = projected("to_q", "norm_q"), projected("to_k", "norm_k")
        v = _heads(outs[f"{path}.to_v"], module.heads)
        if not single:
            more_v = _heads(outs[f"{path}.add_v_proj"], module.heads)
            v = torch.cat([more_v, v] if first else [v, more_v], dim=2)
            more_q = projected("add_q_proj", "norm_added_q")
            more_k = projected("add_k_proj", "norm_added_k")
            q = torch.cat([more_q, q] if first else [q, more_q], dim=2)
            k = torch.cat([more_k, k] if first else [k, more_k], dim=2)
        if self.plain.kind == "FluxPipeline":
            places = torch.cat([self.condition["txt_ids"], self.condition["img_ids"]])
            turns = _turns(places, self.plain.denoiser.config.axes_dims_rope)
            q, k = _turned(q, turns), _turned(k, turns)
        return _softmax(q, k), v


# --- attention by hand ------------------------------------------------------------------------


def _tensor(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def _heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, L, heads · d) to (N, heads, L, d), in fp32."""
    n, length, _ = tokens.shape
    return tokens.float().reshape(n, length, heads, -1).transpose(1, 2)


def _softmax(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if mask is not None:  # (N, keys), 1 for a word and 0 for padding
        scores = scores - 10000 * (1 - mask.float())[:, None, None, :]
    return scores.softmax(-1)


def _attended(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax · v of every head, side by side: (N, L, heads · d)."""
    each = torch.einsum("nhlm,nhmd->nlhd", weights, v)
    return each.flatten(2)


def _normed(x: torch.Tensor, norm: torch.nn.Module | None) -> torch.Tensor:
    """QK norm over the last axis: RMS in FLUX and SD3.5, layer norm in AuraFlow, or none."""
    if norm is None:
        return x
    if isinstance(norm, torch.nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return x if norm.weight is None else x * norm.weight.float()


def _turns(places: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """FLUX's rotations (L, d/2) as complex numbers: one part of the head for each axis."""
    parts = []
    for axis, width in enumerate(widths):
        speeds = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = places[:, axis, None].double() * speeds
        parts.append(torch.polar(torch.ones_like(angles), angles))
    return torch.cat(parts, dim=-1)


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Neighbouring entries of the last axis are the real and imaginary part of one number."""
    numbers = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(numbers * turns).flatten(-2).float()
