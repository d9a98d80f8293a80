"""scripts/convert.py against small networks in the original layouts, written here from the papers.

Each reference records what every unit puts out, in the order of execution; the converted model must
put out the same, unit by unit.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.models.embeddings import Timesteps
from safetensors.torch import load_file, save_file
from torch import nn

from diffeat.backbones.unet_variants import to_adm, to_ddpmpp

WEIGHTS = "diffusion_pytorch_model.safetensors"


# --- running the program, and comparing ---------------------------------------------------


def settings(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text("utf-8"))


def random_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every layer matters: no unit is near zero, no softmax is flat."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                values = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    values /= math.sqrt(parameter[0].numel())
                else:
                    values = 0.3 * values + (name == "weight")  # of a norm
                parameter.copy_(values)
    return model.eval()


@torch.no_grad()
def units(model: nn.Module, pattern: str, *args, **kwargs) -> list[tuple[str, torch.Tensor]]:
    """Run a model; outputs of the modules whose names match, in the order of execution."""
    seen: list[tuple[str, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda _module, _args, out, name=name: seen.append((name, _tensor(out).clone()))
        )
        for name, module in model.named_modules()
        if re.fullmatch(pattern, name) and not isinstance(module, nn.Identity)
    ]
    model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return seen


def _tensor(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


UNET_UNITS = r"conv_in|conv_out|.*\.resnets\.\d+|.*\.attentions\.\d+|.*samplers\.\d+"


def assert_same(expected: list[torch.Tensor], found: list[tuple[str, torch.Tensor]]) -> None:
    assert len(expected) == len(found), [name for name, _ in found]
    for reference, (name, values) in zip(expected, found, strict=True):
        assert reference.shape == values.shape, name
        assert reference.std() > 0.05, name
        torch.testing.assert_close(
            values, reference, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def waves(t: torch.Tensor, channels: int, endpoint: bool, sine_first: bool) -> torch.Tensor:
    """Sinusoids of t: frequencies 10000^(-i/n), or 10000^(-i/(n - 1)) with the end point."""
    count = channels // 2
    powers = torch.arange(count) / (count - 1 if endpoint else count)
    angles = t[:, None].float() * torch.exp(-math.log(10000) * powers)
    parts = [angles.cos(), angles.sin()]
    return torch.cat(parts[::-1] if sine_first else parts, 1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention of one head; q, k, v and the result are (N, D, L)."""
    scores = q.transpose(1, 2) @ k / math.sqrt(q.shape[1])
    return v @ scores.softmax(-1).transpose(1, 2)


def halve(x: torch.Tensor) -> torch.Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


# --- ADM ----------------------------------------------------------------------------------


class AdmResnet(nn.Module):
    """Residual block (Dhariwal & Nichol 2021, section 3.1), perhaps with a change of resolution."""

    def __init__(self, start: int, end: int, time: int, resample=None, scales: bool = True):
        super().__init__()
        self.resample, self.scales = resample or (lambda x: x), scales
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, start), nn.SiLU(), nn.Conv2d(start, end, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, end * (1 + scales)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, end), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(end, end, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if start == end else nn.Conv2d(start, end, 1)

    def forward(self, x, emb):
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        e = self.emb_layers(emb)[..., None, None]
        norm, *rest = self.out_layers
        if self.scales:
            half = h.shape[1]
            h = norm(h) * (1 + e[:, :half]) + e[:, half:]
        else:
            h = norm(h + e)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resample(x)) + h


class AdmAttention(nn.Module):
    """Attention over all cells; `thirds` says how queries, keys and values lie in `qkv`."""

    def __init__(self, width: int, heads: int, thirds: bool):
        super().__init__()
        self.norm = nn.GroupNorm(32, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)
        self.heads, self.thirds = heads, thirds

    def forward(self, x, emb):
        flat = x.flatten(2)
        rows = self.qkv(self.norm(flat))
        width = x.shape[1]
        d = width // self.heads
        results = []
        for head in range(self.heads):
            if self.thirds:
                starts = [third * width + head * d for third in range(3)]
            else:
                starts = [(3 * head + third) * d for third in range(3)]
            results.append(attend(*(rows[:, start : start + d] for start in starts)))
        return x + self.proj_out(torch.cat(results, 1)).view_as(x)


class AdmDown(nn.Module):
    """improved-diffusion's downsampler."""

    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x, emb):
        return self.op(x)


class AdmUp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, emb):
        return self.conv(double(x))


class Adm(nn.Module):
    """An ADM with the names of its checkpoints; `outputs` of the last forward are its units'."""

    def __init__(self, base=32, mult=(1, 2), layers=2, attended=(1,), classes=None, channels=3,
                 heads=None, head_channels=32, thirds=False, scales=True,
                 resnets=True):  # fmt: skip
        super().__init__()
        time = 4 * base
        widths = [int(base * factor) for factor in mult]
        last = len(widths) - 1

        def resnet(start, end, resample=None):
            return AdmResnet(start, end, time, resample, scales)

        def attention(width):
            return AdmAttention(width, heads or width // head_channels, thirds)

        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        if classes:
            self.label_emb = nn.Embedding(classes, time)
        width, skips = widths[0], [widths[0]]
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1)])]
        )
        for level, end in enumerate(widths):
            for _ in range(layers):
                parts = [resnet(width, end)] + [attention(end)] * (level in attended)
                self.input_blocks.append(nn.ModuleList(parts))
                width = end
                skips.append(width)
            if level < last:
                down = resnet(width, width, halve) if resnets else AdmDown(width)
                self.input_blocks.append(nn.ModuleList([down]))
                skips.append(width)
        self.middle_block = nn.ModuleList(
            [resnet(width, width), attention(width), resnet(width, width)]
        )
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for layer in range(layers + 1):
                end = widths[level]
                parts = [resnet(width + skips.pop(), end)] + [attention(end)] * (level in attended)
                width = end
                if level and layer == layers:
                    parts.append(resnet(width, width, double) if resnets else AdmUp(width))
                self.output_blocks.append(nn.ModuleList(parts))
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 2 * channels, 3, padding=1)
        )
        self.base = base
        random_weights(self)

    @torch.no_grad()
    def forward(self, x, t, label=None):
        emb = self.time_embed(waves(t, self.base, endpoint=False, sine_first=False).to(x.dtype))
        if label is not None:
            emb = emb + self.label_emb(label)
        self.outputs = [self.input_blocks[0][0](x)]
        x, skips = self.outputs[0], self.outputs[:]

        def through(parts, x):
            for part in parts:
                x = part(x, emb)
                self.outputs.append(x)
            return x

        for parts in self.input_blocks[1:]:
            x = through(parts, x)
            skips.append(x)
        x = through(self.middle_block, x)
        for parts in self.output_blocks:
            x = through(parts, torch.cat([x, skips.pop()], 1))
        self.outputs.append(self.out(x))
        return self.outputs


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([17, 801])
LABEL = torch.tensor([3, 0])


class TestAdm:
    @pytest.mark.parametrize(
        ("architecture", "options"),
        [
            ({}, ("--head-channels", 32)),
            ({"classes": 5}, ("--head-channels", 32)),
            ({"thirds": True}, ("--head-channels", 32, "--new-attention-order")),
            ({"heads": 4, "attended": ()}, ("--heads", 4)),
            ({"base": 64, "head_channels": 64}, ()),
            ({"mult": (1, 1, 2), "layers": 1, "attended": (0, 2)}, ("--head-channels", 32)),
            ({"base": 64, "mult": (1,), "attended": (0,)}, ("--head-channels", 32)),
            ({"resnets": False, "scales": False, "attended": ()}, ("--head-channels", 32)),
            ({"channels": 1}, ("--head-channels", 32)),
        ],
        ids=["legacy", "classes", "thirds", "heads", "head-64", "levels", "one-level",
             "improved-diffusion", "grey"],
    )  # fmt: skip
    def test_every_unit(self, converted, architecture, options):
        reference = Adm(**architecture)
        folder = converted("adm", reference.state_dict(), "--size", 8, *options)
        model, report = UNet2DModel.from_pretrained(folder / "unet", output_loading_info=True)
        assert not any(report.values())
        label = LABEL if "classes" in architecture else None
        x = X[:, : architecture.get("channels", 3)]
        expected = reference(x, T, label)
        assert_same(expected, units(model, UNET_UNITS, x, T, class_labels=label))

    def test_convolutions_that_resample_with_attention(self, converted):
        reference = Adm(resnets=False, attended=(0, 1), heads=2, scales=False, mult=(1, 1))
        folder = converted("adm", reference.state_dict(), "--size", 8, "--heads", 2)
        model = UNet2DModel.from_pretrained(folder / "unet")
        assert_same(reference(X, T), units(model, UNET_UNITS, X, T))

    @pytest.mark.parametrize(
        ("architecture", "options", "private"),
        [
            # as in the 128-pixel model: so many heads at every width
            ({"heads": 2, "attended": (0, 1)}, ("--heads", 2), {"_attention_heads": 2}),
            # as in the 512-pixel model: the first level is narrower than the embedding of t
            ({"base": 64, "mult": (0.5, 1)}, ("--head-channels", 32), {"_model_channels": 64}),
        ],
        ids=["heads", "time"],
    )
    def test_what_a_configuration_cannot_say(self, converted, architecture, options, private):
        reference = Adm(**architecture)
        folder = converted("adm", reference.state_dict(), "--size", 8, *options)
        config = settings(folder, "unet/config.json")
        found = {key: config.get(key) for key in ("_attention_heads", "_model_channels")}
        assert {key: value for key, value in found.items() if value is not None} == private
        model = to_adm(UNet2DModel.from_config(config)).eval()
        model.load_state_dict(load_file(folder / "unet" / WEIGHTS))
        assert_same(reference(X, T), units(model, UNET_UNITS, X, T))

    def test_the_order_of_queries_keys_and_values_matters(self, converted):
        reference = Adm(thirds=True)
        folder = converted("adm", reference.state_dict(), "--size", 8, "--head-channels", 32)
        model = UNet2DModel.from_pretrained(folder / "unet")
        found = [values for _, values in units(model, UNET_UNITS, X, T)]
        apart = [
            not torch.allclose(a, b, atol=1e-2) for a, b in zip(reference(X, T), found, strict=True)
        ]
        assert apart.index(True) == 5  # conv_in, two resnets, downsampler, resnet; then attention

    def test_folder(self, converted):
        folder = converted("adm", Adm().state_dict(), "--size", 8, "--head-channels", 32)
        index = settings(folder, "model_index.json")
        assert index.pop("_diffusers_version")
        assert index == {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        }
        config = settings(folder, "unet/config.json")
        assert config["sample_size"] == 8
        assert config["out_channels"] == 6
        assert str(folder.parent) not in (folder / "unet/config.json").read_text("utf-8")
        assert [key for key in config if key.startswith("_")] == [
            "_class_name",
            "_diffusers_version",
        ]

    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    def test_schedule(self, converted, schedule):
        options = ("--size", 8, "--head-channels", 32, "--schedule", schedule)
        folder = converted("adm", Adm().state_dict(), *options)
        abar = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double()
        if schedule == "linear":
            expected = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        else:  # Nichol & Dhariwal 2021, eq. 17; betas end at 0.999
            curve = (
                torch.cos((torch.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2).double() ** 2
            )
            expected = torch.cumprod(1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999), 0)
        assert len(abar) == 1000
        torch.testing.assert_close(abar, expected, rtol=1e-3, atol=1e-7)

    @pytest.mark.parametrize(
        ("change", "options", "code", "words"),
        [
            (lambda w: w.pop("middle_block.1.qkv.bias"), (), 1,
             "'middle_block.1.qkv.bias' is missing"),
            (lambda w: w.update({"encoder_pool.0.weight": torch.ones(1)}), (), 1,
             "'encoder_pool.0.weight' has no place"),
            (lambda w: w.update({"input_blocks.0.0.weight": torch.ones(32, 6, 3, 3)}), (), 1,
             "6 input channels"),
            (lambda w: w.update({"out.2.weight": torch.ones(6, 16, 3, 3)}), (), 1,
             "conv_out.weight would have shape (6, 32, 3, 3)"),
            (lambda w: [w.pop(k) for k in list(w) if k.startswith("output")], (), 1, "classifier"),
            (lambda w: None, ("--size", 9), 2, "multiple of 2"),
            (lambda w: None, ("--head-channels", 48), 2, "does not divide"),
            (lambda w: None, ("--heads", 5), 2, "does not divide"),
            (lambda w: None, ("--heads", 4, "--head-channels", 32), 2, "give one"),
        ],
    )  # fmt: skip
    def test_errors(self, convert, change, options, code, words):
        weights = dict(Adm().state_dict())
        change(weights)
        options = options if "--size" in options else ("--size", 8, *options)
        result = convert("adm", weights, *options)
        assert result.code == code
        assert words in " ".join(result.output.split())
        assert not result.folder.exists()

    def test_size_is_needed(self, convert):
        result = convert("adm", Adm().state_dict())
        assert result.code == 2
        assert "--size" in result.output


# --- DiT and SiT --------------------------------------------------------------------------


class DitAttention(nn.Module):
    def __init__(self, width: int, heads: int, norms: bool):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads
        if norms:
            self.q_norm = self.k_norm = nn.LayerNorm(width // heads)

    def forward(self, x):
        width = x.shape[-1]
        q, k, v = (self.qkv(x)[..., i * width : (i + 1) * width].mT for i in range(3))
        d = width // self.heads
        cuts = [slice(head * d, (head + 1) * d) for head in range(self.heads)]
        return self.proj(torch.cat([attend(q[:, c], k[:, c], v[:, c]) for c in cuts], 1).mT)


class DitBlock(nn.Module):
    """adaLN-Zero block (Peebles & Xie 2023, figure 3)."""

    def __init__(self, width: int, heads: int, norms: bool):
        super().__init__()
        self.attn = DitAttention(width, heads, norms)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].split(
            x.shape[-1], -1
        )
        x = x + gate1 * self.attn(plain_norm(x) * (1 + scale1) + shift1)
        h = F.gelu(self.mlp["fc1"](plain_norm(x) * (1 + scale2) + shift2), approximate="tanh")
        return x + gate2 * self.mlp["fc2"](h)


def plain_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()


def positions(width: int, side: int) -> torch.Tensor:
    """Sine-cosine table (side², width): the first half tells the column, the second the row."""
    angles = torch.arange(side).double()[:, None] * 10000.0 ** -(
        torch.arange(width // 4).double() / (width // 4)
    )
    line = torch.cat([angles.sin(), angles.cos()], 1).float()
    columns = line[None].expand(side, side, -1)
    return torch.cat([columns, columns.transpose(0, 1)], -1).reshape(side * side, width)


class Dit(nn.Module):
    """A DiT (or SiT) with the names of its checkpoints."""

    def __init__(self, width=32, depth=2, heads=2, patch=2, side=4, channels=4, out=8, classes=5,
                 norms=False):  # fmt: skip
        super().__init__()
        self.patch, self.side, self.out = patch, side, out
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(channels, width, patch, patch)})
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, width)})
        self.blocks = nn.ModuleList([DitBlock(width, heads, norms) for _ in range(depth)])
        self.final_layer = nn.ModuleDict(
            {
                "linear": nn.Linear(width, patch**2 * out),
                "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
            }
        )
        random_weights(self)
        self.pos_embed = nn.Parameter(positions(width, side)[None], requires_grad=False)

    @torch.no_grad()
    def forward(self, x, t, label):
        tokens = self.x_embedder["proj"](x).flatten(2).mT + self.pos_embed
        c = self.t_embedder["mlp"](waves(t, 256, endpoint=False, sine_first=False))
        c = c + self.y_embedder["embedding_table"](label)
        outputs = [tokens]
        for block in self.blocks:
            outputs.append(block(outputs[-1], c))
        shift, scale = self.final_layer["adaLN_modulation"](c)[:, None].chunk(2, -1)
        rows = self.final_layer["linear"](plain_norm(outputs[-1]) * (1 + scale) + shift)
        p, side = self.patch, self.side
        picture = torch.zeros(len(x), self.out, side * p, side * p)
        for token in range(side**2):  # a patch holds its pixels row by row, channels innermost
            row, column = divmod(token, side)
            cells = rows[:, token].view(-1, p, p, self.out).permute(0, 3, 1, 2)
            picture[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p] = cells
        return [*outputs, picture]


DIT_UNITS = r"pos_embed|transformer_blocks\.\d+|"
Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
NULL = torch.tensor([3, 5])  # the second is the null class


def load_transformer(folder: Path) -> DiTTransformer2DModel:
    """With plain diffusers, and the one setting for which it has no option."""
    model, report = DiTTransformer2DModel.from_pretrained(
        folder / "transformer", output_loading_info=True
    )
    assert not any(report.values())
    shift = settings(folder, "transformer/config.json")["_timestep_freq_shift"]
    for module in model.modules():
        if isinstance(module, Timesteps):
            module.downscale_freq_shift = shift
    return model


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "kl"
    AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder)  # fmt: skip
    return folder


class TestTransformers:
    @pytest.mark.parametrize("architecture", [{}, {"patch": 4, "side": 3, "heads": 4, "depth": 3}])
    def test_every_block_of_a_dit(self, converted, architecture):
        reference = Dit(**architecture)
        options = ("--heads", architecture.get("heads", 2))
        folder = converted("dit", reference.state_dict(), *options)
        model = load_transformer(folder)
        x = Z if reference.patch == 2 else F.interpolate(Z, (12, 12))
        assert_same(reference(x, T, NULL), units(model, DIT_UNITS, x, T, class_labels=NULL))

    def test_every_block_of_a_sit(self, converted):
        reference = Dit(out=4)
        folder = converted("sit", reference.state_dict(), "--heads", 2)
        s = torch.tensor([0.25, 0.8])
        found = units(load_transformer(folder), DIT_UNITS, Z, s, class_labels=NULL)
        assert_same(reference(Z, s, NULL), found)

    def test_the_frequencies_matter(self, converted):
        reference = Dit()
        folder = converted("dit", reference.state_dict(), "--heads", 2)
        model = DiTTransformer2DModel.from_pretrained(folder / "transformer")
        found = model(Z, T, NULL).sample
        assert (found - reference(Z, T, NULL)[-1]).abs().max() > 0.01

    def test_published_widths_know_their_heads(self, converted):
        folder = converted("dit", Dit(width=384, heads=6, depth=1).state_dict())
        config = settings(folder, "transformer/config.json")
        assert (config["num_attention_heads"], config["attention_head_dim"]) == (6, 64)
        assert config["sample_size"] == 8
        assert config["num_embeds_ada_norm"] == 5

    def test_training_checkpoint(self, converted, convert):
        """As REPA stores it: averaged and last weights, its heads, the program's arguments."""
        averaged, last = Dit(out=4), random_weights(Dit(out=4), seed=9)
        last.pos_embed.data = averaged.pos_embed.data
        extra = {"projectors.0.0.weight": torch.ones(2, 2), "projectors.0.0.bias": torch.ones(2)}
        checkpoint = {
            "ema": {**averaged.state_dict(), **extra},
            "model": {f"module.{k}": v for k, v in {**last.state_dict(), **extra}.items()},
            "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "args": argparse.Namespace(model="SiT-XL/2"),
            "steps": 7,
        }
        s = torch.tensor([0.25, 0.8])
        for options, reference in (((), averaged), (("--weights", "model", "--overwrite"), last)):
            folder = converted("sit", checkpoint, "--heads", 2, *options)
            found = units(load_transformer(folder), DIT_UNITS, Z, s, class_labels=NULL)
            assert_same(reference(Z, s, NULL), found)
        refused = convert("dit", checkpoint, "--heads", 2, "--overwrite")
        assert refused.code == 1
        assert "'projectors.0.0.weight' and 1 more has no place" in " ".join(refused.output.split())
        assert (folder / "model_index.json").is_file()  # the older one is still there

    def test_folder_of_a_dit(self, converted, vae):
        folder = converted("dit", Dit().state_dict(), "--heads", 2, "--vae", vae)
        index = settings(folder, "model_index.json")
        assert index["_class_name"] == "DiTPipeline"
        assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
        assert index["vae"] == ["diffusers", "AutoencoderKL"]
        for name in ("config.json", WEIGHTS):
            assert (folder / "vae" / name).read_bytes() == (vae / name).read_bytes()
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        betas = torch.linspace(1e-4, 0.02, 1000)
        torch.testing.assert_close(scheduler.alphas_cumprod, torch.cumprod(1 - betas, 0))

    @pytest.mark.parametrize("reversed_time", [False, True])
    def test_folder_of_a_sit(self, converted, reversed_time):
        options = ("--reversed-time",) * reversed_time
        folder = converted("sit", Dit(out=4).state_dict(), "--heads", 2, *options)
        index = settings(folder, "model_index.json")
        assert index["_class_name"] == "SiTPipeline"
        assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        assert "vae" not in index
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        assert scheduler.config.num_train_timesteps == 1
        assert scheduler.config.invert_sigmas is reversed_time

    def test_a_warning_for_latents_without_a_vae(self, convert, vae):
        weights = Dit().state_dict()
        assert "--vae" in convert("dit", weights, "--heads", 2).output
        with_vae = convert("dit", weights, "--heads", 2, "--overwrite", "--vae", vae)
        assert "warning:" not in with_vae.output
        pixels = convert("dit", Dit(channels=3, out=3).state_dict(), "--heads", 2, "--overwrite")
        assert pixels.code == 0
        assert "warning:" not in pixels.output

    @pytest.mark.parametrize(
        ("change", "options", "code", "words"),
        [
            (lambda w: w.pop("blocks.1.mlp.fc1.bias"), (), 1, "'blocks.1.mlp.fc1.bias' is missing"),
            (lambda w: w.update({"blocks.0.norm1.weight": torch.ones(32)}), (), 1,
             "'blocks.0.norm1.weight' has no place"),
            (lambda w: w.update({"blocks.0.attn.q_norm.weight": torch.ones(16)}), (), 1, "qk_norm"),
            (lambda w: w.update({"pos_embed": w["pos_embed"].roll(16, -1)}), (), 1,
             "not the sine-cosine table"),
            (lambda w: w.update({"pos_embed": w["pos_embed"][:, :15]}), (), 1, "square number"),
            (lambda w: w.update({"step": 3}), (), 1, "'step' is a int"),
            (lambda w: None, ("--heads", 3), 2, "does not divide"),
            (lambda w: None, (), 2, "pass --heads"),
            (lambda w: None, ("--weights", "ema"), 1, "leave --weights out"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("layout", ["dit", "sit"])
    def test_errors(self, convert, layout, change, options, code, words):
        weights = dict(Dit().state_dict())
        change(weights)
        heads = () if "pass --heads" in words else ("--heads", 2)
        result = convert(layout, weights, *heads, *options)
        assert result.code == code
        assert words in " ".join(result.output.split())
        assert not result.folder.exists()

    def test_a_vae_that_does_not_fit(self, convert, vae, tmp_path):
        result = convert("dit", Dit(channels=8).state_dict(), "--heads", 2, "--vae", vae)
        assert (result.code, result.folder.exists()) == (1, False)
        assert "4 latent channels; the model wants 8" in " ".join(result.output.split())
        result = convert("dit", Dit().state_dict(), "--heads", 2, "--vae", tmp_path)
        assert (result.code, result.folder.exists()) == (1, False)
        assert "AutoencoderKL" in result.output


# --- EDM ----------------------------------------------------------------------------------


class EdmConv(nn.Module):
    """Convolution after a change of resolution by a 2×2 box, whose filter is stored with it."""

    def __init__(self, start: int, end: int, kernel: int, resample=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(end, start, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(end))
        self.resample = resample
        if resample:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x):
        x = self.resample(x) if self.resample else x
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class EdmBlock(nn.Module):
    """Residual block of DDPM++: every sum is scaled by sqrt(1/2); attention is part of it."""

    def __init__(self, start: int, end: int, emb: int, resample=None, attention: bool = False):
        super().__init__()
        self.norm0, self.conv0 = nn.GroupNorm(32, start, 1e-6), EdmConv(start, end, 3, resample)
        self.affine = nn.Linear(emb, end)
        self.norm1, self.conv1 = nn.GroupNorm(32, end, 1e-6), EdmConv(end, end, 3)
        projects = start != end or resample
        self.skip = EdmConv(start, end, 1, resample) if projects else nn.Identity()
        self.attention = attention
        if attention:
            self.norm2 = nn.GroupNorm(32, end, 1e-6)
            self.qkv, self.proj = EdmConv(end, 3 * end, 1), EdmConv(end, end, 1)

    def forward(self, x, emb):
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[..., None, None]
        h = self.conv1(F.silu(self.norm1(h)))
        outputs = [(h + self.skip(x)) * math.sqrt(0.5)]
        if self.attention:
            h = self.qkv(self.norm2(outputs[0])).flatten(2)
            h = attend(h[:, 0::3], h[:, 1::3], h[:, 2::3]).view_as(outputs[0])
            outputs.append((self.proj(h) + outputs[0]) * math.sqrt(0.5))
        return outputs


class Edm(nn.Module):
    """DDPM++ with the names of EDM's code (Karras et al. 2022, appendix F)."""

    def __init__(self, base=128, mult=(1, 2), layers=2, attended=(4,), size=8):
        super().__init__()
        emb, self.base = 4 * base, base
        self.map_augment = nn.Linear(9, base, bias=False)  # zero outside training
        self.map_layer0, self.map_layer1 = nn.Linear(base, emb), nn.Linear(emb, emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{size}x{size}_conv"] = EdmConv(3, base, 3)
        width, skips = base, [base]
        for level, factor in enumerate(mult):
            res = size >> level
            if level:
                self.enc[f"{res}x{res}_down"] = EdmBlock(width, width, emb, halve)
                skips.append(width)
            for block in range(layers):
                end = base * factor
                name = f"{res}x{res}_block{block}"
                self.enc[name] = EdmBlock(width, end, emb, attention=res in attended)
                width = end
                skips.append(width)
        for level in reversed(range(len(mult))):
            res = size >> level
            if level == len(mult) - 1:
                self.dec[f"{res}x{res}_in0"] = EdmBlock(width, width, emb, attention=True)
                self.dec[f"{res}x{res}_in1"] = EdmBlock(width, width, emb)
            else:
                self.dec[f"{res}x{res}_up"] = EdmBlock(width, width, emb, double)
            for block in range(layers + 1):
                end = base * mult[level]
                attends = res in attended and block == layers
                self.dec[f"{res}x{res}_block{block}"] = EdmBlock(
                    width + skips.pop(), end, emb, attention=attends
                )
                width = end
        self.dec[f"{size}x{size}_aux_norm"] = nn.GroupNorm(32, width, 1e-6)
        self.dec[f"{size}x{size}_aux_conv"] = EdmConv(width, 3, 3)
        random_weights(self)

    @torch.no_grad()
    def forward(self, x, noise):
        emb = waves(noise, self.base, endpoint=True, sine_first=True)
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        first, *rest = self.enc.values()
        x = first(x)
        outputs, skips = [x], [x]
        for block in rest:
            outputs += block(x, emb)
            x = outputs[-1]
            skips.append(x)
        *blocks, (_, norm), (_, conv) = self.dec.items()
        for name, block in blocks:
            if "block" in name:
                x = torch.cat([x, skips.pop()], 1)
            outputs += block(x, emb)
            x = outputs[-1]
        return [*outputs, conv(F.silu(norm(x)))]


def load_edm(folder: Path) -> UNet2DModel:
    config = settings(folder, "unet/config.json")
    assert config["_edm_ddpmpp"] is True
    model = to_ddpmpp(UNet2DModel.from_config(config)).eval()
    model.load_state_dict(load_file(folder / "unet" / WEIGHTS))
    return model


SIGMA = torch.tensor([0.02, 5.0])


class TestEdm:
    @pytest.mark.parametrize(
        "architecture",
        [
            {"layers": 1, "attended": (8,)},
            {"mult": (1, 1), "layers": 1, "attended": (8, 4)},
            {"mult": (1, 1, 1), "attended": (4,)},
            {"mult": (2, 2), "layers": 1, "attended": (8,)},
        ],
        ids=["two", "all-attend", "three", "narrow-start"],
    )
    def test_every_unit(self, converted, architecture):
        reference = Edm(**architecture)
        folder = converted("edm", reference.state_dict())
        noise = SIGMA.log() / 4
        assert_same(reference(X, noise), units(load_edm(folder), UNET_UNITS, X, noise))

    def test_folder(self, converted):
        folder = converted("edm", Edm(mult=(1,), layers=1).state_dict())
        index = settings(folder, "model_index.json")
        assert index["_class_name"] == "EDMPipeline"
        assert index["unet"] == ["diffusers", "UNet2DModel"]
        scheduler = EDMEulerScheduler.from_pretrained(folder / "scheduler").config
        assert (scheduler.sigma_min, scheduler.sigma_max, scheduler.sigma_data) == (0.002, 80, 0.5)
        assert (scheduler.num_train_timesteps, scheduler.prediction_type) == (1000, "epsilon")
        assert settings(folder, "unet/config.json")["sample_size"] == 8

    def test_safetensors_of_the_wrapped_network(self, converted, tmp_path):
        reference = Edm(mult=(1,), layers=1, attended=())
        path = tmp_path / "network.safetensors"
        save_file({f"model.{k}": v for k, v in reference.state_dict().items()}, path)
        model = load_edm(converted("edm", path))
        noise = SIGMA.log() / 4
        assert_same(reference(X, noise), units(model, UNET_UNITS, X, noise))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda w: w.update({"map_label.weight": torch.ones(128, 10)}), "class-conditional"),
            (lambda w: w.update({"map_noise.freqs": torch.ones(64)}), "NCSN++"),
            (lambda w: w.update({"out_norm.weight": torch.ones(128)}), "ADM in EDM's code"),
            (lambda w: w.update({"enc.4x4_aux_skip.weight": torch.ones(1)}), "has no place"),
            (lambda w: w.update({"dec.8x8_up.conv0.resample_filter": torch.ones(1, 1, 4, 4)}),
             "no 2×2 box filter"),
            (lambda w: w.pop("dec.8x8_block0.skip.bias"), "'dec.8x8_block0.skip.bias' is missing"),
            (lambda w: [w.pop(k) for k in list(w) if k.startswith("enc")], "SongUNet"),
        ],
    )  # fmt: skip
    def test_errors(self, convert, edm_weights, change, words):
        weights = dict(edm_weights)
        change(weights)
        result = convert("edm", weights)
        assert result.code == 1
        assert words in " ".join(result.output.split())
        assert not result.folder.exists()

    def test_narrow_networks_group_otherwise(self, convert):
        result = convert("edm", Edm(base=64, mult=(1,), layers=1, attended=()).state_dict())
        assert result.code == 1
        assert "at least 128" in " ".join(result.output.split())


@pytest.fixture(scope="module")
def edm_weights() -> dict[str, torch.Tensor]:
    return Edm(mult=(1, 1), layers=1).state_dict()


# --- the published sizes, without weights -------------------------------------------------


PUBLISHED = {
    # millions of parameters, as the papers say (Dhariwal & Nichol 2021; Karras et al. 2022;
    # Peebles & Xie 2023)
    "adm-64": (296, Adm, {"base": 192, "mult": (1, 2, 3, 4), "layers": 3, "attended": (1, 2, 3),
                          "classes": 1000}, {"size": 64, "new_order": True}),
    "adm-128": (422, Adm, {"base": 256, "mult": (1, 1, 2, 3, 4), "attended": (2, 3, 4),
                           "classes": 1000}, {"size": 128, "heads": 4}),
    "adm-256": (554, Adm, {"base": 256, "mult": (1, 1, 2, 2, 4, 4), "attended": (3, 4, 5),
                           "classes": 1000}, {"size": 256}),
    "adm-512": (559, Adm, {"base": 256, "mult": (0.5, 1, 1, 2, 2, 4, 4), "attended": (4, 5, 6),
                           "classes": 1000}, {"size": 512}),
    "edm-cifar10": (56, Edm, {"mult": (2, 2, 2), "layers": 4, "attended": (16,), "size": 32}, {}),
    "dit-xl-2": (675, Dit, {"width": 1152, "depth": 28, "heads": 16, "side": 16, "classes": 1000},
                 {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_fit(program, monkeypatch, name):
    from convert_files import checked_model

    millions, architecture, values, options = PUBLISHED[name]
    monkeypatch.setattr(sys.modules[__name__], "random_weights", lambda model: model)
    with torch.device("meta"):
        reference = architecture(**values)
    assert sum(p.numel() for p in reference.parameters()) / 1e6 == pytest.approx(millions, abs=0.7)
    weights = reference.state_dict()
    for key, tensor in weights.items():
        if key.endswith("resample_filter"):
            weights[key] = torch.full(tensor.shape, 0.25)
        elif key == "pos_embed":
            weights[key] = positions(values["width"], values["side"])[None]
    layout = architecture.__name__.lower()
    converted = getattr(program, f"convert_{layout}")(weights, name, **options)
    model = checked_model(converted)  # every name and shape fits
    if layout != "dit":  # whose blocks hold copies
        unused = values.get("base", 128) * 9 if layout == "edm" else 0
        assert converted.parameters == sum(p.numel() for p in reference.parameters()) - unused
    epsilons = {module.eps for module in model.modules() if hasattr(module, "eps")}
    assert epsilons == {1e-5 if layout == "adm" else 1e-6}


# --- files --------------------------------------------------------------------------------


class Pickled:
    """What a checkpoint may run code with when it is unpickled."""

    ran = False

    def __reduce__(self):
        return setattr, (Pickled, "ran", True)


class TestFiles:
    def test_pickled_objects_are_refused(self, convert):
        result = convert("dit", {**Dit().state_dict(), "extra": Pickled()}, "--heads", 2)
        assert result.code == 1
        assert "pickled objects" in result.output
        assert "can run code" in " ".join(result.output.split())
        assert "weights_only" not in result.output  # no advice to load it anyway
        assert not Pickled.ran
        assert not result.folder.exists()

    def test_pkl_files_are_refused(self, convert, tmp_path):
        path = tmp_path / "network.pkl"
        path.write_bytes(b"\x80\x04")
        result = convert("edm", path)
        assert result.code == 1
        assert "can run code" in " ".join(result.output.split())

    @pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
    def test_damaged_files(self, convert, tmp_path, name):
        path = tmp_path / name
        whole = tmp_path / f"whole{path.suffix}"
        state = Dit().state_dict()
        save_file(state, whole) if name.endswith("safetensors") else torch.save(state, whole)
        path.write_bytes(whole.read_bytes()[:5000])
        result = convert("dit", path, "--heads", 2)
        assert result.code == 1
        assert name in result.output
        assert not result.folder.exists()

    def test_missing_file(self, convert, tmp_path):
        result = convert("dit", tmp_path / "nowhere.pt")
        assert result.code == 1
        assert "is missing" in result.output

    def test_an_existing_folder_is_kept(self, convert, converted):
        folder = converted("dit", Dit().state_dict(), "--heads", 2)
        before = (folder / "transformer" / WEIGHTS).read_bytes()
        (folder / "notes.txt").write_text("mine")
        other = random_weights(Dit(), seed=5)
        other.pos_embed.data = positions(32, 4)[None]
        refused = convert("dit", other.state_dict(), "--heads", 2)
        assert refused.code == 2
        assert "--overwrite" in refused.output
        assert (folder / "transformer" / WEIGHTS).read_bytes() == before
        converted("dit", other.state_dict(), "--heads", 2, "--overwrite")
        assert (folder / "transformer" / WEIGHTS).read_bytes() != before
        assert not (folder / "notes.txt").exists()

    def test_only_pipelines_are_replaced(self, convert, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.tex").write_text("years of work")
        refused = convert("dit", Dit().state_dict(), "--heads", 2, "--overwrite")
        assert refused.code == 2
        assert "no pipeline folder" in refused.output
        assert (tmp_path / "out/thesis.tex").read_text() == "years of work"

    def test_a_failure_while_writing_leaves_nothing(self, convert, program, tmp_path, monkeypatch):
        module = sys.modules["convert_files"]

        def full(*_args, **_kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "save_file", full)
        result = convert("dit", Dit().state_dict(), "--heads", 2)
        assert result.code == 1
        assert "No space left" in result.output
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]

    def test_half_precision_becomes_single(self, converted):
        reference = Dit()
        folder = converted(
            "dit", {k: v.half() for k, v in reference.state_dict().items()}, "--heads", 2
        )
        stored = load_file(folder / "transformer" / WEIGHTS)
        assert {values.dtype for values in stored.values()} == {torch.float32}
        expected = reference.blocks[0].attn.proj.weight.half().float()
        assert torch.equal(stored["transformer_blocks.0.attn1.to_out.0.weight"], expected)
