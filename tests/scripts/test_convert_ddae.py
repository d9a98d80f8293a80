"""scripts/convert.py against DDAE's U-Nets, in their own names, written here from the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import diffeat
from tests.scripts.test_convert import (
    UNET_UNITS,
    assert_same,
    attend,
    double,
    halve,
    random_weights,
    settings,
    units,
    waves,
)


class Resnet(nn.Module):
    """Residual block; the time is added between its convolutions."""

    def __init__(self, start: int, end: int, emb: int, resample=None):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, start), nn.Conv2d(start, end, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, end)
        self.conv2 = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(end, end, 3, padding=1))
        self.shortcut = nn.Identity() if start == end else nn.Conv2d(start, end, 1)
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(emb, end))
        self.resample = resample or (lambda x: x)

    def forward(self, x, emb):
        h = self.conv1(self.resample(F.silu(self.norm1(x)))) + self.time_emb(emb)[..., None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.shortcut(self.resample(x))


class Attention(nn.Module):
    """One head over all cells; queries, keys and values lie in thirds."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.projection = nn.GroupNorm(32, width), nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x):
        rows = self.projection(self.norm(x).flatten(2).mT).mT
        return x + self.output(attend(*rows.split(x.shape[1], 1)).mT).mT.view_as(x)


class Unit(nn.Module):
    """A residual block with its attention; a list of what both put out."""

    def __init__(self, start: int, end: int, emb: int, attends: bool):
        super().__init__()
        self.res = Resnet(start, end, emb)
        self.attn = Attention(end) if attends else nn.Identity()

    def forward(self, x, emb):
        x = self.res(x, emb)
        return [x] if isinstance(self.attn, nn.Identity) else [x, self.attn(x)]


class Convolved(nn.Module):
    def __init__(self, width: int, up: bool):
        super().__init__()
        self.conv, self.up = nn.Conv2d(width, width, 3, 1 if up else 2, padding=1), up

    def forward(self, x, emb):
        return [self.conv(double(x) if self.up else x)]


class Resampled(nn.Module):
    def __init__(self, width: int, emb: int, resample):
        super().__init__()
        self.op = Resnet(width, width, emb, resample)

    def forward(self, x, emb):
        return [self.op(x, emb)]


class Embedding(nn.Module):
    def __init__(self, base: int):
        super().__init__()
        self.aug_emb = nn.Linear(9, base, bias=False)  # only used in training
        self.lin1, self.lin2 = nn.Linear(base, 4 * base), nn.Linear(4 * base, 4 * base)


class Middle(nn.Module):
    def __init__(self, width: int, emb: int):
        super().__init__()
        self.res1, self.attn = Resnet(width, width, emb), Attention(width)
        self.res2 = Resnet(width, width, emb)


class Ddae(nn.Module):
    """The whole U-Net: of a forward, what every unit puts out; `out` is their `out_k`."""

    def __init__(self, base=32, mult=(1, 2), attended=(1,), blocks=2, resnets=False):
        super().__init__()
        emb, widths, last = 4 * base, [base * factor for factor in mult], len(mult) - 1
        self.base = base
        self.image_proj = nn.Conv2d(3, base, 3, padding=1)
        self.time_emb = Embedding(base)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = base, [base]
        for level, end in enumerate(widths):
            for _ in range(blocks):
                self.down.append(Unit(width, end, emb, level in attended))
                width = end
                skips.append(width)
            if level < last:
                self.down.append(
                    Resampled(width, emb, halve) if resnets else Convolved(width, up=False)
                )
                skips.append(width)
        self.middle = Middle(width, emb)
        for level, end in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Unit(width + skips.pop(), end, emb, level in attended))
                width = end
            if level:
                self.up.append(
                    Resampled(width, emb, double) if resnets else Convolved(width, up=True)
                )
        self.norm, self.final = nn.GroupNorm(8, width), nn.Conv2d(width, 3, 3, padding=1)
        random_weights(self)

    @torch.no_grad()
    def forward(self, x, told):
        emb = waves(told, self.base, endpoint=True, sine_first=True)
        emb = self.time_emb.lin2(F.silu(self.time_emb.lin1(emb)))
        outputs, skips, self.out = [self.image_proj(x)], [], []
        skips.append(outputs[-1])
        for part in self.down:
            outputs += part(outputs[-1], emb)
            skips.append(outputs[-1])
        outputs.append(self.middle.res1(outputs[-1], emb))
        outputs.append(self.middle.attn(outputs[-1]))
        outputs.append(self.middle.res2(outputs[-1], emb))
        for part in self.up:
            unit = isinstance(part, Unit)
            x = torch.cat([outputs[-1], skips.pop()], 1) if unit else outputs[-1]
            outputs += part(x, emb)
            self.out += [outputs[-1]] * unit
        return [*outputs, self.final(F.silu(self.norm(outputs[-1])))]


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
DDPMPP = {"mult": (2, 2), "attended": (0,), "resnets": True}  # a start narrower than its stage
ARCHITECTURES = {
    "ddpm": {},
    "ddpm++": DDPMPP,
    "three": {"mult": (1, 2, 2), "blocks": 1, "attended": (1, 2), "resnets": True},
    "no-attention": {"blocks": 1, "attended": ()},
    "one-level": {"base": 64, "mult": (1,), "attended": (0,)},
}


def load(folder) -> diffeat.backbones.Backbone:
    return diffeat.load(str(folder), dtype="float32")


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_every_unit_of_a_ddpm(converted, architecture):
    reference = Ddae(**architecture)
    folder = converted("ddae", reference.state_dict(), "--process", "ddpm", "--size", 8)
    t = torch.tensor([0, 999])
    expected = reference(X, (t + 1) / 1000)  # it counts from 1, and divides by all steps
    assert_same(expected, units(load(folder).denoiser, UNET_UNITS, X, t))


@pytest.mark.parametrize("architecture", [{}, DDPMPP], ids=["ddpm", "ddpm++"])
def test_every_unit_of_an_edm(converted, architecture):
    reference = Ddae(**architecture)
    folder = converted("ddae", reference.state_dict(), "--process", "edm", "--size", 8)
    noise = torch.tensor([0.02, 5.0]).log() / 4
    backbone = load(folder)
    assert backbone.family == "edm"
    assert_same(reference(X, noise), units(backbone.denoiser, UNET_UNITS, X, noise))


def test_features_by_their_published_names(converted):
    """DDAE's t = 11 is 10 here, with the same noise, and its `out_k` are ddae:k."""
    reference = Ddae(**DDPMPP)
    folder = converted("ddae", reference.state_dict(), "--process", "ddpm", "--size", 8)
    backbone = load(folder)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[10]
    level = backbone.schedule.at(10)
    assert (level.alpha**2, level.sigma**2) == pytest.approx((abar, 1 - abar), rel=6e-5)
    names = {name: alias for alias, name in backbone.aliases.items() if alias.startswith("ddae:")}
    assert list(names.values()) == [f"ddae:{k}" for k in range(1, 7)]
    reference(X, torch.full((2,), 11 / 1000))
    outputs = dict(units(backbone.denoiser, r"up_blocks\..*", X, torch.full((2,), 10)))
    words = {"up": "up_blocks", "res": "resnets", "attn": "attentions"}
    for name, expected in zip(names, reference.out, strict=True):
        path = ".".join(words.get(word, word) for word in name.split("."))
        torch.testing.assert_close(outputs[path], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_a_training_checkpoint(converted, weights):
    """As DDAE's training writes it: capital names, the average beside what it is of."""
    average, online = Ddae(blocks=1), random_weights(Ddae(blocks=1), seed=7)

    def under(prefix, network):
        return {f"{prefix}nn_model.{key}": value for key, value in network.state_dict().items()}

    checkpoint = {
        "MODEL": under("module.", online),
        "EMA": {**under("online_model.", online), **under("ema_model.", average),
                "initted": torch.tensor(True), "step": torch.tensor(5)},
        "opt": {"state": {0: {"step": 3.0}}, "param_groups": [{"lr": 1e-4}]},
    }  # fmt: skip
    options = () if weights == "ema" else ("--weights", "model")
    folder = converted("ddae", checkpoint, "--process", "edm", "--size", 8, *options)
    expected = {"ema": average, "model": online}[weights]
    noise = torch.tensor([-0.5, 0.4])
    assert_same(expected(X, noise), units(load(folder).denoiser, UNET_UNITS, X, noise))


def test_folder(converted):
    options = ("--process", "ddpm", "--size", 8)
    folder = converted("ddae", Ddae(**DDPMPP).state_dict(), *options)
    assert settings(folder, "model_index.json")["_class_name"] == "DDPMPipeline"
    config = settings(folder, "unet/config.json")
    private = {key: config[key] for key in config if key.startswith("_")}
    assert (private["_ddae"], private["_share_of_steps"]) == (True, 1000)
    assert (config["sample_size"], private["_model_channels"]) == (8, 32)


@pytest.mark.parametrize(
    ("change", "options", "code", "words"),
    [
        (lambda w: w.pop("middle.attn.output.bias"), (), 1, "'middle.attn.output.bias' is missing"),
        (lambda w: w.update({"label_emb.weight": torch.ones(1)}), (), 1, "has no place"),
        (lambda w: w.pop("down.4.res.conv1.weight"), (), 1, "levels of 2, 1 residual blocks"),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith("down")], (), 1, "levels of 0"),
        (lambda w: w.update({"final.weight": torch.ones(3, 16, 3, 3)}), (), 1, "conv_out.weight"),
        (lambda w: None, ("--size", 9), 2, "multiple of 2"),
        (lambda w: None, ("--weights", "ema"), 1, "holds no 'ema' weights"),
    ],
)
def test_errors(convert, change, options, code, words):
    weights = dict(Ddae().state_dict())
    change(weights)
    result = convert("ddae", weights, "--process", "ddpm", *options)
    assert result.code == code
    assert words in " ".join(result.output.split())
    assert not result.folder.exists()


def test_the_process_is_needed(convert):
    result = convert("ddae", Ddae().state_dict())
    assert result.code == 2
    assert "--process" in result.output
