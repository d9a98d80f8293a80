"""The ends of the network and the VAE's encoder: right at each t, and no more work than asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import diffeat
from diffeat.errors import ModelError
from diffeat.images import ArraySource
from diffeat.jobs import extract_to_file
from diffeat.store import FeatureStore
from tests.extraction.common import T, condition_of, drawn, given, rows_of, same, spec
from tests.pipelines import (
    NATIVE,
    TALL,
    flow_schedule,
    gaussian,
    noise_schedule,
    pictures,
    references,
    save_pixel,
)

NET = ("net:in", "net:out", "net:x0")
VAE = (
    "vae", "vae.mid", "vae.down.0", "vae.down.1.res.0:in", "vae.down.0.res.0:increment",
    "vae.up.0", "vae.up.1.res.1:in", "vae.up.0.res.1:increment",
)  # fmt: skip
LEVELS = {
    "pixel": (900, 0, 250), "adm": (999, 40, 400), "sd2": (800, 20, 300), "dit": (700, 10, 200),
    "pixel-flow": (1000, 0, 333), "sit": (0.9, 0.1, 0.5), "flux": (1000, 30, 500),
    "edm": (80.0, 0.002, 1.5),
}  # fmt: skip


def close(found, expected):
    """At high noise, x0 is a difference of large numbers."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1, scale))


# --- the ends of the network ----------------------------------------------------------------------


@pytest.mark.parametrize("model", LEVELS)
def test_each_level_has_its_own_ends(model, backbone_of, plain_of):
    """Two rows a forward: the second holds the last picture of one t and the first of the next."""
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(3)
    eps, ts = gaussian(3, *backbone.latent_shape(NATIVE)), LEVELS[model]
    found = diffeat.extract(backbone, images, spec(model, NET, ts), noise=eps, batch_size=2)
    clean, condition = plain.encode(images), condition_of(plain, 3)
    for t in ts:
        expected = references(plain, NET, clean, plain.noisy(clean, eps, t), t, condition)
        for name in NET:
            close(found[name, t], expected[name])


@pytest.mark.parametrize(("model", "batch_size"), [("sd2", 1), ("edm", 4)])
def test_members_and_pools_of_predictions(model, batch_size, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(2)
    eps, ts = gaussian(2, 3, *backbone.latent_shape(NATIVE)), LEVELS[model][1:]
    asked = spec(model, "net:x0", ts, ensemble=3, pool="1x1")
    found = diffeat.extract(backbone, images, asked, noise=eps, batch_size=batch_size)
    clean, condition = plain.encode(images), condition_of(plain, 2)
    for t in ts:
        members = [
            references(plain, ["net:x0"], clean, plain.noisy(clean, eps[:, e], t), t, condition)
            for e in range(3)
        ]
        close(found["net:x0", t], sum(m["net:x0"].mean((2, 3)) for m in members) / 3)


def test_predictions_along_a_trajectory(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd2"), plain_of("sd2"), pictures(2)
    walk = {"noise": "inversion", "steps": 4}
    found = diffeat.extract(backbone, images, spec("sd2", NET, (500, 0, 250), **walk))
    for t in (0, 250, 500):
        x = found["net:in", t]
        expected = references(plain, NET, x, x, t, condition_of(plain, 2))
        for name in NET:
            close(found[name, t], expected[name])


def oracle(kind, level, clean):
    """A network that knows the clean picture: what it must answer for x at a level."""
    alpha, sigma = level.alpha, level.sigma

    def answer(x):
        eps = (x - alpha * clean) / sigma
        if kind == "epsilon":
            return eps
        if kind == "v_prediction":
            return alpha * eps - sigma * clean
        if kind == "sample":
            return clean.expand_as(x)
        if kind == "edm":
            total = sigma**2 + 0.25
            x = x * math.sqrt(total)  # it was given c_in·x
            return (clean - 0.25 / total * x) / (sigma * 0.5 / math.sqrt(total))
        return (eps - clean) * (-1 if kind == "reversed" else 1)

    return answer


@pytest.mark.parametrize(
    ("kind", "ts"),
    [
        ("epsilon", (50, 500)),
        ("v_prediction", (50, 999)),
        ("sample", (50, 999)),
        ("flow", (50, 1000)),
        ("reversed", (50, 1000)),
        ("edm", (0.05, 20.0)),
    ],
)
def test_a_network_that_knows_predicts_the_picture(kind, ts, backbone_of, tmp_path):
    known = {"epsilon": "pixel", "flow": "pixel-flow", "edm": "edm"}
    if kind in known:
        backbone = backbone_of(known[kind])
    else:
        turned = kind == "reversed"
        scheduler = (
            flow_schedule(invert_sigmas=True) if turned else noise_schedule(prediction_type=kind)
        )
        save_pixel(tmp_path / "m", scheduler)
        backbone = diffeat.load(str(tmp_path / "m"), device="cpu")
    clean = pictures(1) * 2 - 1
    for t in ts:
        answer = oracle(kind, backbone.schedule.at(t), clean)
        handle = backbone.denoiser.register_forward_hook(
            lambda _module, _args, named, output, answer=answer: (answer(named["sample"]),),
            with_kwargs=True,
        )
        try:
            found = diffeat.extract(backbone, pictures(1), spec("pixel", "net:x0", t))
        finally:
            handle.remove()
        torch.testing.assert_close(found["net:x0", t], clean, rtol=0, atol=2e-4)


def test_the_network_is_told_what_its_schedule_says(backbone_of, tmp_path):
    save_pixel(tmp_path / "m", flow_schedule(invert_sigmas=True))
    backwards = diffeat.load(str(tmp_path / "m"), device="cpu")
    cases = [
        (backbone_of("pixel"), 250, 250),
        (backbone_of("pixel-flow"), 250, 250),
        (backwards, 250, 750),
        (backbone_of("sit"), 0.25, 0.25),
        (backbone_of("flux"), 250, 0.25),
        (backbone_of("edm"), 2.0, math.log(2) / 4),
    ]
    for backbone, t, told in cases:
        with given(backbone) as seen:
            diffeat.extract(backbone, pictures(1), diffeat.ExtractSpec(t, "net:in"))
        assert seen[0][1].tolist() == pytest.approx([told])


# --- the VAE --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "batch_size"), [("sd2", 2), ("sd3", None)])
def test_tensors_of_the_vae_are_the_same_at_every_t(model, batch_size, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(3, TALL)
    deep = "mid" if model == "sd2" else "block.1"
    asked = spec(model, (*VAE, deep), (600, 30))
    eps = gaussian(3, *backbone.latent_shape(TALL))
    found = diffeat.extract(backbone, images, asked, noise=eps, batch_size=batch_size)
    clean = plain.encode(images)
    for t in (600, 30):
        x = plain.noisy(clean, eps, t)
        condition = condition_of(plain, 3, TALL)
        expected = references(plain, (*VAE, deep), clean, x, t, condition, pixels=images)
        for name in (*VAE, deep):
            same(found[name, t], expected[name])


@pytest.mark.parametrize("options", [{}, {"noise": "inversion", "steps": 3}, {"flip": True}])
def test_the_denoiser_rests_where_only_the_vae_is_asked(options, backbone_of):
    backbone = backbone_of("sd2")
    asked = spec("sd2", VAE, (0, 333), **options)
    with rows_of(backbone.denoiser) as forwards, rows_of(backbone.vae.encoder) as encoded:
        diffeat.extract(backbone, pictures(3), asked, batch_size=2)
    assert forwards == []
    assert sum(encoded) == (6 if "flip" in options else 3)


@pytest.mark.parametrize(("pool", "rows"), [("1x1", 1), ("4x4", 4)])
def test_pooled_tensors_of_the_vae(pool, rows, backbone_of, plain_of):
    plain, images = plain_of("sd2"), pictures(2)
    found = diffeat.extract(backbone_of("sd2"), images, spec("sd2", VAE, pool=pool))
    clean = plain.encode(images)
    expected = references(plain, VAE, clean, clean, T, condition_of(plain, 2), pixels=images)
    for name in VAE:
        n, c, h, w = expected[name].shape
        cells = expected[name].reshape(n, c, rows, h // rows, rows, w // rows)
        same(found[name, T], cells.mean((3, 5)).flatten(1))


def test_scale_matters_only_to_the_latent(backbone_of, plain_of):
    plain, images = plain_of("sd3"), pictures(2)
    asked = spec("sd3", VAE, scale_latent=False)
    found = diffeat.extract(backbone_of("sd3"), images, asked)
    mean = plain.posterior(images).mean
    clean = plain.encode(images)
    expected = references(plain, VAE, clean, clean, T, condition_of(plain, 2), pixels=images)
    for name in VAE:
        same(found[name, T], mean if name == "vae" else expected[name])


def test_ends_in_a_file(backbone_of, plain_of, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, *NATIVE, 3), np.uint8)
    source = ArraySource(name="arrays", ids=tuple("abcde"), pixels=pixels)
    names = ("vae.mid", "vae", "net:x0")
    asked = spec("sd2", names, (600, 30), seed=1)
    extract_to_file(backbone_of("sd2"), source, asked, tmp_path / "f.h5", batch_size=2)
    plain = plain_of("sd2")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    clean, eps = plain.encode(images), drawn("abcde", (4, 16, 16), seed=1)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.blocks == list(names)
        for t in (600, 30):
            x = plain.noisy(clean, eps, t)
            expected = references(plain, names, clean, x, t, condition_of(plain, 5), pixels=images)
            for name in names:
                same(torch.from_numpy(store[name, t][:]), expected[name])


# --- what is wrong today --------------------------------------------------------------------------


def test_the_latent_is_the_one_that_is_used(backbone_of):
    asked = spec("sd2", ("vae", "net:in"), noise="none", latent="sample")
    found = diffeat.extract(backbone_of("sd2"), pictures(2), asked)
    same(found["vae", T], found["net:in", T])


def test_a_decoder_is_read_only_where_it_is_asked(backbone_of):
    backbone = backbone_of("sd2")
    vars(backbone).pop("vae_decoder", None)
    diffeat.extract(backbone, pictures(1), spec("sd2", ("vae.mid", "mid")))
    assert "vae_decoder" not in vars(backbone)
    with rows_of(backbone.vae_decoder[1].up_blocks[1]) as later:  # it stops before the next stage
        found = diffeat.extract(backbone, pictures(2), spec("sd2", ("vae.up.0",)))
    assert later == []
    assert found["vae.up.0", T].shape[:1] == (2,)


def test_a_decoder_without_weights_is_refused_where_it_is_asked(copy_of):
    folder = copy_of("sd2")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith(("decoder", "post_quant"))}
    save_file(kept, path, {"format": "pt"})
    backbone = diffeat.load(str(folder), device="cpu", dtype="float32")
    diffeat.extract(backbone, pictures(1), spec("sd2", ("vae.mid",)))
    with pytest.raises(ModelError, match="the weights lack 'decoder"):
        diffeat.extract(backbone, pictures(1), spec("sd2", ("vae.up.0",)))


def test_the_weights_of_a_model_do_not_depend_on_its_decoder(backbone_of):
    backbone = backbone_of("sd2")
    before = backbone.fingerprint
    assert backbone.vae_decoder[1].up_blocks is not None
    assert backbone.fingerprint == before
