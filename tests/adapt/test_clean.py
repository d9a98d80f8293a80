"""A copy of a denoiser that needs no noise, and the t that comes with it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import diffeat as package
from diffeat.adapt import CleanDIFT
from diffeat.adapt.clean import CleanAndNoisy, default_blocks
from diffeat.adapt.film import FiLMHead
from diffeat.backbones.learned_t import LEARNED_T
from diffeat.errors import ModelError, SpecError
from tests.adapt.toys import SIDE, shifted_pairs

BLOCKS = ("mid", "up.0")
OPTIONS = {"blocks": BLOCKS, "learning_rate": 1e-3, "t_rate": 1.0, "t_range": (0, 500),
           "progress": False}  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    return shifted_pairs(8, 1).pictures(), shifted_pairs(4, 2).pictures()


@pytest.fixture(scope="module")
def trained(backbone_of, pictures):
    return CleanDIFT(backbone_of("pixel"), epochs=2, **OPTIONS).fit(*pictures)


def clean(t, blocks=BLOCKS) -> package.ExtractSpec:
    return package.ExtractSpec((t,), blocks, noise="none", dtype="float32")


def test_clean_features_come_nearer_to_noisy_ones(trained, backbone_of):
    other = shifted_pairs(6, 3).pictures()  # neither trained nor chosen on
    backbone = backbone_of("pixel")
    spec = package.ExtractSpec((40, 160, 320), BLOCKS, dtype="float32", seed=5)
    noisy = package.extract(backbone, other, spec)

    def cosine(model, t) -> float:
        found = package.extract(model, other, clean(t))
        (t,) = {key[1] for key in found}
        return np.mean([
            torch.cosine_similarity(found[block, t], noisy[block, level], dim=1).mean()
            for block in BLOCKS for level in (40, 160, 320)
        ])  # fmt: skip

    assert cosine(trained.backbone_, "learned") > cosine(backbone, 261) + 0.02
    assert trained.history_[-1]["validation_similarity"] > trained.start_["validation_similarity"]
    assert trained.backbone_.learned_t != 261


def test_similarity_equals_arithmetic_on_extracted_maps(trained, backbone_of):
    """The same cosines, from `diffeat.extract` alone."""
    source, backbone = shifted_pairs(2, 4).pictures(), backbone_of("pixel")
    clean_maps = package.extract(trained.backbone_, source, clean("learned"))
    data = CleanAndNoisy(trained, trained.module_.teacher, source)
    total = []
    (_, _, levels), _ = next(data.ordered())
    for row, t in enumerate(levels[:, 0].tolist()):
        spec = package.ExtractSpec((int(t),), BLOCKS, dtype="float32")
        noisy = package.extract(backbone, source.take([row]), spec)
        for block in BLOCKS:
            a = clean_maps[block, trained.backbone_.learned_t][row].double().flatten(1).numpy()
            b = noisy[block, int(t)][0].double().flatten(1).numpy()
            lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
            total.append(((a * b).sum(0) / lengths).mean())
    assert len(set(levels[:, 0].tolist())) == 4
    assert trained.score(source) == pytest.approx(np.mean(total), rel=1e-4)


def test_the_backbone_that_was_given_stays_as_it_is(trained, backbone_of, folder_of):
    fresh = package.load(str(folder_of("pixel")), device="cpu", dtype="float32")
    for name, value in fresh.denoiser.state_dict().items():
        assert torch.equal(backbone_of("pixel").denoiser.state_dict()[name], value)
    assert backbone_of("pixel").learned_t is None


def test_heads_start_as_nothing_and_know_the_level():
    head = FiLMHead(6)
    maps, t = torch.randn(2, 6, 3, 3), torch.tensor([3.0, 300.0])
    assert torch.equal(head(maps, t), maps)
    for weights in head.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    same = maps[:1].expand(2, -1, -1, -1)
    assert not torch.allclose(head(same, t)[0], head(same, t)[1])
    # one site, by hand
    weights = head.state_dict()
    f = maps[0].double()
    normed = (f - f.mean()) / torch.sqrt(f.var(unbiased=False) + 1e-5)
    normed = normed * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
    waves = [3.0 * 10000 ** (-k / 32) for k in range(32)]
    told = torch.tensor([*np.sin(waves), *np.cos(waves)]).float()
    gamma, beta = head.modulation(told[None])[0].chunk(2)
    site = normed[:, 1, 2].float()
    inner = weights["first.weight"][:, :, 0, 0] @ site + weights["first.bias"]
    inner = torch.nn.functional.silu((1 + gamma) * inner + beta)
    expected = maps[0, :, 1, 2] + weights["last.weight"][:, :, 0, 0] @ inner + weights["last.bias"]
    torch.testing.assert_close(head(maps, t)[0, :, 1, 2], expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_t_equals_a_difference(trained, pictures):
    data = CleanAndNoisy(trained, trained.module_.teacher, pictures[1])
    inputs, _ = next(data.ordered())
    module, value = trained.module_, trained.module_.t.detach().clone()
    (slope,) = torch.autograd.grad(module(*inputs).mean(), module.t)
    with torch.no_grad():
        found = []
        for step in (0.1, -0.1):
            module.t.copy_(value + step)
            found.append(float(module(*inputs).mean()))
        module.t.copy_(value)
    assert float(slope) == pytest.approx((found[0] - found[1]) / 0.2, rel=0.05)


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "file"])
def test_it_loads_as_any_denoiser_and_brings_its_t(trained, folder_of, tmp_path, form):
    place = tmp_path / ("clean" if form == "folder" else "clean.safetensors")
    weights = trained.save(place)
    loaded = package.load(str(folder_of("pixel")), "cpu", "float32", denoiser=place)
    assert loaded.learned_t == trained.backbone_.learned_t
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = package.extract(loaded, pixels, clean("learned"))
    expected = package.extract(trained.backbone_, pixels, clean(loaded.learned_t))
    assert list(found) == [(block, loaded.learned_t) for block in BLOCKS]
    for key in found:
        assert torch.equal(found[key], expected[key])
    state = trained.backbone_.denoiser.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load_file(weights).items())
    if form == "folder":
        config = json.loads((place / "config.json").read_text("utf-8"))
        assert config["_class_name"] == "UNet2DModel"


def test_another_t_or_noise_is_warned_of(trained, folder_of, tmp_path):
    trained.save(tmp_path / "clean")
    loaded = package.load(str(folder_of("pixel")), "cpu", "float32", denoiser=tmp_path / "clean")
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    for spec in (clean(261), package.ExtractSpec((20,), BLOCKS)):
        with pytest.warns(UserWarning, match="trained for clean pictures at t="):
            package.extract(loaded, pixels, spec)
    with pytest.raises(SpecError, match=r"noise=per-image: .* give --noise none"):
        package.extract(loaded, pixels, package.ExtractSpec(("learned",), BLOCKS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        package.extract(loaded, pixels, clean("learned"))


def test_a_model_without_a_learned_t_says_so(backbone_of, trained, folder_of, tmp_path):
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(SpecError, match=r"t=learned: .* has no learned t"):
        package.extract(backbone_of("pixel"), pixels, clean("learned"))
    weights = trained.save(tmp_path / "a.safetensors")
    for text in ("soon", "-1", "nan", "inf"):
        bad = tmp_path / "bad.safetensors"
        save_file(load_file(weights), bad, {"format": "pt", LEARNED_T: text})
        with pytest.raises(ModelError, match="its learned t is"):
            package.load(str(folder_of("pixel")), "cpu", "float32", denoiser=bad)


def test_the_command_line_takes_the_learned_t(trained, tmp_path, diffeat, folder_of, pictures):
    trained.save(tmp_path / "clean")
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures[0].load(0).save(folder / "a.png")
    done = diffeat(
        "extract", folder_of("pixel"), folder, "-t", "learned", "-b", "up.0", "--noise", "none",
        "--denoiser", tmp_path / "clean", "-o", tmp_path / "F.h5", "--device", "cpu",
        "--dtype", "float32",
    )  # fmt: skip
    assert done.code == 0, done.err
    planned = diffeat(
        "plan", folder_of("pixel"), folder, "-t", "learned", "-b", "up.0", "--noise", "none",
        "--denoiser", tmp_path / "clean", "--device", "cpu", "--dtype", "float32",
    )  # fmt: skip
    assert planned.code == 0, planned.err
    with package.FeatureStore(tmp_path / "F.h5") as store:
        assert list(store.timesteps) == [trained.backbone_.learned_t]


def test_going_on_gives_the_same_bits(trained, backbone_of, pictures, tmp_path, monkeypatch):
    shuffled, seen = CleanAndNoisy.shuffled, []

    def dying(self, rng):
        seen.append(0)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return shuffled(self, rng)

    given = backbone_of("pixel"), pictures
    with monkeypatch.context() as patched:
        patched.setattr(CleanAndNoisy, "shuffled", dying)
        with pytest.raises(KeyboardInterrupt):
            CleanDIFT(given[0], epochs=2, checkpoint=tmp_path, **OPTIONS).fit(*given[1])
    again = CleanDIFT(given[0], epochs=2, checkpoint=tmp_path, **OPTIONS).fit(*given[1])
    state = again.module_.state_dict()
    for name, value in trained.module_.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert again.backbone_.learned_t == trained.backbone_.learned_t
    with pytest.raises(ValueError, match="pictures was"):
        CleanDIFT(given[0], epochs=2, checkpoint=tmp_path, **OPTIONS).fit(*given[1][::-1])
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        assert "weights/t" in file.keys()  # noqa: SIM118


# --- what is aligned, and what is refused -----------------------------------------------------


def test_the_published_maps_are_the_default(backbone_of):
    names = default_blocks(backbone_of("sd2"))  # three units in each of its three stages
    assert names == ("mid", *(f"cleandift:us{k}" for k in range(1, 8)))
    with pytest.raises(SpecError, match="give blocks"):
        default_blocks(backbone_of("pixel"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"t_range": (5, 5)}, "t_range"),
        ({"start": 1000}, "start=1000"),
        ({"patience": 1}, "patience=1"),
        ({"options": {"noise": "none"}}, "options"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(backbone_of, pictures, fields, message):
    with pytest.raises(SpecError, match=message):
        CleanDIFT(backbone_of("pixel"), **{**OPTIONS, **fields}).fit(pictures[0])
    with pytest.raises(SpecError, match="not trained yet"):
        CleanDIFT(backbone_of("pixel"), **OPTIONS).save("x")


@pytest.mark.parametrize("name", ["edm", "sit"])
def test_models_whose_t_are_not_counted_are_refused(name, backbone_of, pictures):
    with pytest.raises(SpecError, match="no numbered t"):
        CleanDIFT(backbone_of(name), blocks=("mid",), start=0).fit(pictures[0])


def test_half_precision_is_refused(folder_of, pictures):
    half = package.load(str(folder_of("pixel")), "cpu", "bfloat16")
    with pytest.raises(SpecError, match=r"bfloat16, .* load it with dtype='float32'"):
        CleanDIFT(half, **OPTIONS).fit(pictures[0])


def test_a_learned_t_below_one_is_no_flow_time(folder_of):
    flow = package.load(str(folder_of("pixel-flow")), "cpu", "float32")
    for t in (0.5, 1.0):  # of 1000 steps
        flow.learned_t = t
        found = package.extract(flow, torch.zeros(1, 3, SIDE, SIDE), clean("learned", ("mid",)))
        assert list(found) == [("mid", t)]


def test_a_t_that_is_driven_out_stays_in_the_schedule(backbone_of, pictures):
    found = CleanDIFT(backbone_of("pixel"), **{**OPTIONS, "t_rate": 900.0}).fit(pictures[0])
    t = found.backbone_.learned_t
    assert t in (0.0, 999.0)
    told = found.module_._told(torch.zeros(1, 3))[0, 0]
    assert float(told.detach()) == t  # as it was trained, so it is used
