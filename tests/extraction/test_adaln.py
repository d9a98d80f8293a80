"""What the adaptive norm of a transformer block gives, without its massive channels too (DiTF)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffeat
from diffeat.errors import HookError, SpecError
from diffeat.extraction import massive_channels
from diffeat.hooks import Call
from tests.extraction.common import T, condition_of, drawn, rows_of, same, spec
from tests.pipelines import LABEL, NATIVE, TALL, gaussian, levels, pictures, references
from tests.plain import TEXT_FIRST, as_map

# model → place → path of the block, path of its adaptive norm, eps of its normalisation
PLACES = {
    "dit": {"block.1": ("transformer_blocks.1", "norm1", 1e-6)},
    "sit": {"block.2": ("transformer_blocks.2", "norm1", 1e-6)},
    "pixart-sigma": {"block.1": ("transformer_blocks.1", None, 1e-6)},
    "sd3": {"block.0": ("transformer_blocks.0", "norm1", 1e-6),
            "block.1": ("transformer_blocks.1", "norm1", 1e-6)},
    "sd35": {"block.0": ("transformer_blocks.0", "norm1", 1e-6)},
    "flux": {"block.1": ("transformer_blocks.1", "norm1", 1e-6),
             "single.1": ("single_transformer_blocks.1", "norm", 1e-6)},
    "auraflow": {"block.0": ("joint_transformer_blocks.0", "norm1", 1e-5),
                 "single.1": ("single_transformer_blocks.1", "norm1", 1e-5)},
}  # fmt: skip
ALL = [(model, place) for model, places in PLACES.items() for place in places]
GONE = (5, 0, 3)


def forward(plain, x, t):
    """A whole plain forward under observation."""
    return plain.run(x, t, condition_of(plain, len(x), plain.pixels(x)))


def image_tokens(plain, tokens, x):
    """The image's part where text and image are one sequence, text first."""
    return tokens[:, -plain.cells(x) :] if TEXT_FIRST.get(plain.kind) else tokens


def modulated(plain, run, model, place, x, gone=()):
    """(1 + scale)·LN(h) + shift of what enters the block, `gone` channels of it set to 0."""
    path, norm, eps = PLACES[model][place]
    h = image_tokens(plain, run.entering(path), x).clone()
    h[..., list(gone)] = 0
    if norm is None:  # PixArt: the same six rows for all blocks, plus a table of each block's own
        rows = run.outs["adaln_single"][0].unflatten(1, (6, -1))
        rows = rows + plain.denoiser.get_submodule(path).scale_shift_table
        shift, scale = rows[:, 0], rows[:, 1]
    else:
        shift, scale = run.outs[f"{path}.{norm}.linear"].split(h.shape[-1], 1)[:2]
    centred = h - h.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return as_map(normed * (1 + scale[:, None]) + shift[:, None], x)


def case(model, backbone_of, plain_of, size=NATIVE, count=2):
    """(backbone, plain, pictures, noise, t, noisy latents)."""
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(count, size)
    eps, t = gaussian(count, *backbone.latent_shape(size)), levels(model)[0]
    return backbone, plain, images, eps, t, plain.noisy(plain.encode(images), eps, t)


# --- the norm's output ----------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "place"), ALL)
def test_it_is_the_output_of_the_adaptive_norm(model, place, backbone_of, plain_of):
    backbone, plain, images, eps, t, x = case(model, backbone_of, plain_of, TALL)
    name = f"{place}:adaln"
    found = diffeat.extract(backbone, images, spec(model, name, t), noise=eps)[name, t]
    run = forward(plain, x, t)
    path, norm, _ = PLACES[model][place]
    if norm is not None:
        out = image_tokens(plain, run.outs[f"{path}.{norm}"][0], x)
        same(found, as_map(out, x))
    same(found, modulated(plain, run, model, place, x))


def test_names_of_papers_mean_it(backbone_of):
    assert backbone_of("flux").aliases["ditf:3"] == "single.1:adaln"  # two double blocks before
    assert backbone_of("dit").aliases["ditf:0"] == "block.0:adaln"


# --- discarded channels ---------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "place"), ALL)
def test_discarded_channels_are_zero_before_the_norm(model, place, backbone_of, plain_of):
    backbone, plain, images, eps, t, x = case(model, backbone_of, plain_of, TALL)
    name = f"{place}:adaln"
    asked = spec(model, name, t, discard=GONE)
    found = diffeat.extract(backbone, images, asked, noise=eps)[name, t]
    run = forward(plain, x, t)
    same(found, modulated(plain, run, model, place, x, GONE))
    assert not torch.allclose(found, modulated(plain, run, model, place, x), atol=0.05)


@pytest.mark.parametrize("model", PLACES)
def test_discarding_changes_no_other_tensor(model, backbone_of, plain_of):
    backbone, plain, images, eps, t, x = case(model, backbone_of, plain_of)
    adaln = [f"{place}:adaln" for place in PLACES[model]]
    names = [
        block.name
        for block in backbone.tensors
        if block.name not in adaln and not block.of_vae and block.tensor != "adaln"
    ]
    asked = spec(model, [*names, *adaln], t, discard=GONE)
    found = diffeat.extract(backbone, images, asked, noise=eps)
    condition = condition_of(plain, len(x))
    expected = references(plain, names, plain.encode(images), x, t, condition)
    for name in names:
        same(found[name, t], expected[name])
    run = forward(plain, x, t)
    for place in PLACES[model]:
        same(found[f"{place}:adaln", t], modulated(plain, run, model, place, x, GONE))


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_members_levels_and_batches(batch_size, backbone_of, plain_of):
    backbone, plain, images = backbone_of("flux"), plain_of("flux"), pictures(3)
    eps = gaussian(3, 2, *backbone.latent_shape(NATIVE))
    name, ts = "single.1:adaln", (700, 260)
    asked = spec("flux", name, ts, discard=GONE, ensemble=2, pool="2x2")
    found = diffeat.extract(backbone, images, asked, noise=eps, batch_size=batch_size)
    for t in ts:
        members = []
        for member in range(2):
            x = plain.noisy(plain.encode(images), eps[:, member], t)
            members.append(modulated(plain, forward(plain, x, t), "flux", "single.1", x, GONE))
        mean = (members[0] + members[1]) / 2  # (3, C, 8, 8), in 2×2 parts of 4×4 cells
        parts = mean.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((3, 5)).flatten(1)
        same(found[name, t], parts)


def test_discarding_along_a_trajectory(backbone_of, plain_of):
    backbone, plain, images = backbone_of("dit"), plain_of("dit"), pictures(2)
    names = ("block.1:adaln", "net:in")
    walk = {"noise": "inversion", "steps": 4, "discard": GONE}
    found = diffeat.extract(backbone, images, spec("dit", names, (0, 500), **walk))
    for t in (0, 500):  # at 500 the trajectory itself must not feel what was discarded
        x = found["net:in", t]
        expected = modulated(plain, forward(plain, x, t), "dit", "block.1", x, GONE)
        same(found["block.1:adaln", t], expected)
    plainly = spec("dit", names, (0, 500), noise="inversion", steps=4)
    undisturbed = diffeat.extract(backbone, images, plainly)
    same(found["net:in", 500], undisturbed["net:in", 500])


def test_only_the_norm_is_run_again(backbone_of):
    """The last block's attention and feed-forward would give nothing that is asked for."""
    backbone = backbone_of("dit")
    block = backbone.denoiser.transformer_blocks[2]
    with rows_of(block.attn1.to_q) as attention, rows_of(block.norm1) as norm:
        diffeat.extract(backbone, pictures(2), spec("dit", "block.2:adaln", discard=GONE))
    assert (attention, norm) == ([], [2])
    assert not any(module._forward_pre_hooks for module in backbone.denoiser.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "block.1:in", "discard": (1,)}, r"discard=\(1,\) is for the adaptive norm"),
        ({"blocks": "block.1:adaln", "discard": (2, 16)}, "discard=16: block.1:adaln has 16 chan"),
        ({"blocks": "block.1:adaln", "discard": (-1,)}, "discard"),
        ({"blocks": "block.1:adaln", "discard": (1, 1)}, "discard"),
        ({"blocks": "block.1:adaln", "discard": ("1",)}, "discard"),
    ],
)
def test_channels_that_cannot_be_discarded(options, message, backbone_of):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of("dit"), pictures(1), spec("dit", **options))


@pytest.mark.parametrize("empty", [None, (), []])
def test_nothing_to_discard(empty):
    assert spec("dit", "block.1", discard=empty).discard == ()
    assert spec("dit", "block.1", discard=empty) == spec("dit", "block.1")


def test_calls_without_a_tensor_have_no_slot():
    call = Call(torch.nn.Linear(1, 1), (), {"temb": torch.ones(1), "encoder_hidden_states": None})
    with pytest.raises(HookError, match="Linear was called without a tensor"):
        call.replace(torch.ones(1))


# --- massive channels -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(folder_of, plain_of):
    """A DiT in which two channels of what enters every block are about 50 and 90 times larger."""
    backbone = diffeat.load(str(folder_of("dit")), device="cpu", dtype="float32")
    projection = backbone.denoiser.pos_embed.proj
    plain, x = plain_of("dit"), plain_of("dit").encode(pictures(3))
    usual = forward(plain, x, 30).entering("transformer_blocks.0").abs().mean((0, 1))
    for channel, times in ((11, 50), (4, 90)):
        projection.weight[channel] = 0
        projection.bias[channel] = times * usual.median()
    return backbone


def ratios(backbone, path, x, t):
    """(C,) mean magnitude of what enters a block over the median channel's, by numpy."""
    entered = []
    handle = backbone.denoiser.get_submodule(path).register_forward_pre_hook(
        lambda _module, args: entered.append(args[0].numpy().copy())
    )
    labels = torch.full((len(x),), LABEL)
    backbone.denoiser(x, torch.full((len(x),), t), class_labels=labels)
    handle.remove()
    size = np.abs(entered[0]).mean((0, 1))
    return size / np.sort(size)[(len(size) - 1) // 2]


def test_planted_channels_are_found_and_no_others(planted):
    asked = spec("dit", ("block.0:in", "block.2:in"), (30, 600), noise="shared", seed=3)
    found = massive_channels(planted, pictures(3), asked)
    assert [(entry.block, entry.t) for entry in found] == [
        (block, t) for block in ("block.0:in", "block.2:in") for t in (30, 600)
    ]
    for entry in found:
        assert entry.channels == (4, 11)
        assert 30 < entry.ratios[1] < entry.ratios[0] < 130


def test_ratios_are_of_mean_magnitudes(planted, plain_of):
    plain, images = plain_of("dit"), pictures(3)
    asked = spec("dit", "block.1:in", 30, pool="2x2", dtype="float16", seed=1)
    (found,) = massive_channels(planted, images, asked, ratio=1.2)
    eps = drawn("012", planted.latent_shape(NATIVE), seed=1)
    x = plain.noisy(plain.encode(images), eps, 30)
    expected = ratios(planted, "transformer_blocks.1", x, 30)
    order = [c for c in np.argsort(-expected) if expected[c] > 1.2]
    assert list(found.channels) == order
    assert len(order) > 2
    np.testing.assert_allclose(found.ratios, expected[order], rtol=1e-4)


def test_a_model_without_massive_channels(backbone_of):
    (found,) = massive_channels(backbone_of("dit"), pictures(2), spec("dit", "block.1:in"))
    assert (found.channels, found.ratios) == ((), ())


@pytest.mark.parametrize("ratio", [1, 0.5, -3, float("nan")])
def test_ratios_that_mean_nothing(ratio, backbone_of):
    with pytest.raises(SpecError, match="expected a number above 1"):
        massive_channels(backbone_of("dit"), pictures(1), spec("dit", "block.1:in"), ratio)


def test_what_was_found_can_be_discarded(planted):
    (found,) = massive_channels(planted, pictures(2), spec("dit", "block.1:in"))
    names = ("block.1:adaln", "block.1:in")
    eps = gaussian(2, *planted.latent_shape(NATIVE))
    raw = diffeat.extract(planted, pictures(2), spec("dit", names), noise=eps)
    rid = spec("dit", names, discard=found.channels)
    clean = diffeat.extract(planted, pictures(2), rid, noise=eps)
    others = [c for c in range(16) if c not in found.channels]
    spread = [features["block.1:adaln", T][:, others].std(0).mean() for features in (raw, clean)]
    assert spread[1] > 5 * spread[0]  # the massive ones no longer swamp the rest
    same(raw["block.1:in", T], clean["block.1:in", T])


def test_massive_channels_of_text(backbone_of, folder_of):
    backbone = diffeat.load(str(folder_of("flux")), device="cpu", dtype="float32")
    bias = backbone.denoiser.context_embedder.bias
    bias[29] = 1e4  # of 32 channels; there are 16 tokens
    (found,) = massive_channels(backbone, pictures(1), spec("flux", "block.0:text"))
    assert found.channels == (29,)
