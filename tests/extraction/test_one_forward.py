"""The extractor, a trajectory and the trainable layer run one forward, whatever the spec says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from safetensors.torch import save_file

import diffeat
from diffeat import ExtractSpec
from diffeat.adapt.forward import NoisyFeatures
from diffeat.errors import SpecError
from diffeat.extraction import PREDICTION, Conditions, Forward, Plan
from tests.extraction.common import drawn, network, rows_of, spec
from tests.pipelines import gaussian, pictures

MODELS = {"pixel": "up.1", "sd1": "up.1", "dit": "block.1"}  # a U-Net, one with a VAE, a DiT
IDS = ["a", "b"]
MAPS = {"pixel": "up.1.attn.0:self.map", "sd1": "mid.attn.0:cross.map", "dit": "block.1:self.map"}


@dataclass(frozen=True)
class Shared:
    """A field that the layer and the extractor share.

    Attributes:
        values: of the field, each unlike the default.
        models: that can do it.
        walks: whether trajectories share it too.
        extra: (model) → further options that it needs.
        changes: whether the features of the default are others (of the same shape).
    """

    values: tuple
    models: tuple[str, ...] = tuple(MODELS)
    walks: bool = True
    extra: Callable[[str], dict] = lambda model: {}
    changes: bool = True


EMBEDDINGS = "one row"  # a file with one row, made by the test
SHARED = {
    "timesteps": Shared(((600,),)),
    "blocks": Shared(("net:in", "net:out", "net:x0"), changes=False),
    "seed": Shared((7,), walks=False),
    "noise": Shared(("shared", "uniform", "none"), walks=False),
    "prompt": Shared(("a dog",), ("sd1",)),
    "embeddings": Shared((EMBEDDINGS,), ("sd1",), extra=lambda model: {"prompt": ""}),
    "label": Shared((3, None), ("dit",)),
    "latent": Shared(("sample",), ("sd1", "dit")),
    "scale_latent": Shared((False,), ("sd1", "dit")),
    "size": Shared(((48, 32),), ("pixel", "sd1"), changes=False),
    "mirror": Shared((True,)),
    "heads": Shared(((0,),), extra=lambda model: {"blocks": MAPS[model]}),
    "tokens": Shared(((0, 2),), extra=lambda model: {"blocks": MAPS[model]}, changes=False),
    "low_pass": Shared((0.4,)),
    "discard": Shared(((1, 3),), ("dit",), extra=lambda model: {"blocks": "block.1:adaln"}),
}
REFUSED = {  # by the layer, by name
    "timesteps": (20, 60),
    "blocks": "vae.down.0",
    "pool": "1x1",
    "ensemble": 2,
    "noise": "inversion",
    "prompt": "a {class}",
    "captions": "pictures",
    "label": "class",
    "fit": "native",
    "tile": 32,
    "flip": True,
    "corrupt": "jpeg_compression:3",
}
ELSEWHERE = {  # what no forward sees
    "steps": "counts the levels of a trajectory",
    "label_map": "needs label='class', which the layer refuses",
    "resample": "whoever reads pictures",
    "tile_noise": "needs tiles, which the layer refuses",
    "tile_layout": "needs tiles, which the layer refuses",
    "dtype": "how features are stored",
}
NAMES = [field.name for field in fields(ExtractSpec)]
CASES = [
    pytest.param(name, value, model, id=f"{name}-{value}-{model}")
    for name in NAMES
    if name in SHARED
    for value in SHARED[name].values
    for model in SHARED[name].models
]


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_its_place(name):
    """A new field fails here until somebody says whether the three share it."""
    assert (name in SHARED or name in REFUSED) != (name in ELSEWHERE)
    assert {*SHARED, *REFUSED, *ELSEWHERE} <= set(NAMES)


def asked(name, value, model, tmp_path, **options) -> ExtractSpec:
    """A spec with one field that is not the default's."""
    shared = SHARED[name].extra(model)
    blocks = shared.get("blocks", MODELS[model])
    if value == EMBEDDINGS:
        value = tmp_path / "one.safetensors"
        save_file({"encoder_hidden_states": gaussian(1, 7, 16)}, value)
    options = {"blocks": blocks, "timesteps": (400,), **options, **shared, name: value}
    return spec(model, options.pop("blocks"), options.pop("timesteps"), **options)


def batch_of(wanted: ExtractSpec) -> torch.Tensor:
    """(2, 3, H, W) uint8."""
    return (pictures(2, wanted.size or (32, 32)) * 255).to(torch.uint8)


def extracted(backbone, wanted, pixels) -> dict[str, torch.Tensor]:
    found = diffeat.extract(backbone, pixels.float() / 255, wanted, ids=IDS)
    return {block: values for (block, _), values in found.items()}


def equal(found, expected):
    assert list(found) == list(expected)
    for block, values in expected.items():
        assert torch.equal(found[block].float(), values), block


@pytest.mark.parametrize(("name", "value", "model"), CASES)
def test_the_layer_gives_what_an_extraction_gives(name, value, model, backbone_of, tmp_path):
    backbone, wanted = backbone_of(model), asked(name, value, model, tmp_path)
    pixels = batch_of(wanted)
    expected = extracted(backbone, wanted, pixels)
    layer = NoisyFeatures(backbone, wanted)
    read = pixels.flip(3) if wanted.mirror else pixels
    with torch.no_grad():
        equal(layer(layer.noisy(read, IDS)), expected)
    if SHARED[name].changes:  # neither of them ignores the field
        options = {"blocks": wanted.blocks, **SHARED[name].extra(model)}
        other = extracted(backbone, spec(model, options.pop("blocks"), 400, **options), pixels)
        for block, values in expected.items():
            same_shape = other[block].shape == values.shape
            assert not same_shape or not torch.allclose(other[block], values, atol=1e-4)


@pytest.mark.parametrize(("name", "value", "model"), CASES)
def test_gradients_flow_through_every_field(name, value, model, backbone_of, tmp_path):
    backbone, wanted = backbone_of(model), asked(name, value, model, tmp_path)
    layer = NoisyFeatures(backbone, wanted)
    x = layer.noisy(batch_of(wanted), IDS).requires_grad_(True)
    for block, values in layer(x).items():
        along = gaussian(*values.shape)  # rows of attention maps sum to 1
        (slope,) = torch.autograd.grad((values * along).sum(), x, retain_graph=True)
        assert torch.isfinite(slope).all(), block
        assert slope.abs().amax((1, 2, 3)).min() > 0, block


@pytest.mark.parametrize(
    ("name", "value", "model"), [case for case in CASES if SHARED[case.values[0]].walks]
)
def test_a_level_of_a_trajectory_is_the_layer_at_it(name, value, model, backbone_of, tmp_path):
    """What a trajectory keeps at t is what the layer gives of the x_t that it came to."""
    backbone = backbone_of(model)
    wanted = asked(name, value, model, tmp_path, noise="inversion", steps=5)
    pixels, seen = batch_of(wanted), []

    def look(_module, args, kwargs):
        seen.append([value for value in (*args, *kwargs.values()) if torch.is_tensor(value)])

    handle = backbone.denoiser.register_forward_pre_hook(look, with_kwargs=True)
    try:
        expected = extracted(backbone, wanted, pixels)
    finally:
        handle.remove()
    assert len(seen) == 2 + wanted.timesteps[0] // 200  # -1, 0, 200, …, t
    layer = NoisyFeatures(backbone, replace(wanted, noise="none"))
    with torch.no_grad():
        equal(layer(seen[-1][0]), expected)  # these networks are given x_t as it is


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layer_cannot_do_is_refused_by_name(name, backbone_of):
    options = {"timesteps": (20,), "blocks": ("mid",), name: REFUSED[name]}
    with pytest.raises(SpecError, match=rf"training through a backbone expects .*got {name}="):
        NoisyFeatures(backbone_of("sd1"), ExtractSpec(**options))


# --- the forward as it is -------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_predictions_under_several_conditions(model, backbone_of, plain_of):
    """Each picture's eps under two conditions, from one encoding, as plain diffusers gives it."""
    backbone, plain, t = backbone_of(model), plain_of(model), 400
    wanted = spec(model, "net:out", t)
    forward, x0, eps = Forward(Plan(backbone, wanted)), pictures(2), gaussian(2, *shape(backbone))
    conditions = {"pixel": {}, "dit": {"labels": [1, 4]}, "sd1": {"prompts": ["a cat", "a dog"]}}
    condition = Conditions(backbone, count=2, **conditions[model])([0, 1])
    rows, kinds = torch.tensor([0, 0, 1, 1]), [0, 1, 0, 1]
    encoder = backbone.denoiser if backbone.vae is None else backbone.vae.encoder
    with torch.no_grad(), rows_of(encoder) as encoded, rows_of(backbone.denoiser) as denoised:
        kept = forward.run(
            x0,
            forward.levels.expand(4, -1),
            {key: value[kinds] for key, value in condition.items()},
            eps[rows],
            pictures=rows,
            prediction=True,
        )
    assert (encoded, denoised) == ([4 if backbone.vae is None else 2], [4])
    clean = plain.encode(x0)
    x = plain.noisy(clean, eps, t)[rows]
    expected = predicted_by(plain, x, t, condition, kinds)
    torch.testing.assert_close(kept["net:out"][:, : x.shape[1]], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept[PREDICTION][1], expected, rtol=1e-5, atol=1e-5)
    level = backbone.schedule.at(t)
    predicted = (x - level.sigma * expected) / level.alpha
    torch.testing.assert_close(kept[PREDICTION][0], predicted, rtol=1e-4, atol=1e-4)


def shape(backbone) -> tuple[int, int, int]:
    return backbone.latent_shape(backbone.native_size)


def predicted_by(plain, x, t, condition, kinds) -> torch.Tensor:
    """eps of the plain denoiser, row by row."""
    return torch.cat([
        network(plain, x[k : k + 1], t, {n: v[kind : kind + 1] for n, v in condition.items()})
        for k, kind in enumerate(kinds)
    ])  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_gradients_flow_from_the_picture(model, backbone_of):
    """All of it is differentiable: the slope along a direction is that of differences."""
    backbone = backbone_of(model)
    wanted = spec(model, MODELS[model], 400)
    forward, condition = Forward(Plan(backbone, wanted)), Conditions.of_spec(backbone, wanted)([0])
    eps, way = drawn(["a"], shape(backbone)), gaussian(1, 3, 32, 32)

    def value(x0):
        (kept,) = forward.run(x0, forward.levels, condition, eps).values()
        return (kept * gaussian(*kept.shape, seed=3)).sum()

    x0 = pictures(1).requires_grad_(True)
    (slope,) = torch.autograd.grad(value(x0), x0)
    with torch.no_grad():
        step = 2e-3
        measured = (value(x0 + step * way) - value(x0 - step * way)) / (2 * step)
    torch.testing.assert_close((slope * way).sum(), measured, rtol=2e-2, atol=2e-2)
