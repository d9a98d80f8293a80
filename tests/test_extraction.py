"""From pictures to features: noise, ensembles, batches, early stop, and what is refused."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import _get_current_function_mode_stack

import diffeat
from diffeat.errors import NumericsError, PictureError, SpecError
from diffeat.extraction import Plan
from diffeat.images import ArraySource
from diffeat.noise import picture_noise
from tests.extraction.common import given as denoiser_inputs
from tests.pipelines import NATIVE, gaussian, levels, pictures, prompt_and_label

EXACT = {"rtol": 1e-5, "atol": 1e-5}
# one of each way to give noise and conditions, and to be called
FEW = ("pixel", "edm", "sd1", "dit", "sit", "pixart-alpha", "flux")
DEEP = {
    "pixel": "up.1",
    "pixel-flow": "up.1",
    "edm": "up.1",
    "sd1": "up.1",
    "sd2": "up.1",
    "dit": "block.2",
    "sit": "block.2",
    "pixart-alpha": "block.1",
    "flux": "single.1",
}
T = dict.fromkeys(DEEP, 200) | {"edm": 0.5, "sit": 0.2}


def spec(model, **options):
    options = {
        "timesteps": T[model],
        "blocks": DEEP[model],
        "dtype": "float32",
        **prompt_and_label(model),
        **options,
    }
    return diffeat.ExtractSpec(**options)


@contextmanager
def calls(module, *paths):
    """Counts the forwards of submodules, and the rows that they saw."""
    count, rows = dict.fromkeys(paths, 0), dict.fromkeys(paths, 0)

    def counter(path):
        def hook(_module, inputs, named):
            count[path] += 1
            rows[path] += len(next(iter([*inputs, *named.values()])))

        return hook

    handles = [
        module.get_submodule(path).register_forward_pre_hook(counter(path), with_kwargs=True)
        for path in paths
    ]
    try:
        yield count, rows
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(backbone, images, asked, **options):
    """All rows that the denoiser is given, in their order."""
    with denoiser_inputs(backbone) as seen:
        diffeat.extract(backbone, images, asked, **options)
    return torch.cat([x for x, _ in seen])


def drawn_noise(backbone, images, ids=None, **options):
    """The noise itself: at flow time 1 nothing else is left of the input."""
    asked = spec("pixel-flow", timesteps=1.0, blocks="conv_in", **options)
    return inputs_of(backbone, images, asked, ids=ids)


# --- ensembles ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 2, 4])
@pytest.mark.parametrize("model", FEW)
def test_an_ensemble_is_the_mean_of_its_members(model, batch_size, backbone_of):
    backbone, images = backbone_of(model), pictures(2)
    eps = gaussian(2, 3, *backbone.latent_shape(NATIVE))
    single = [
        diffeat.extract(backbone, images, spec(model), noise=eps[:, e])[DEEP[model], T[model]]
        for e in range(3)
    ]
    together = diffeat.extract(
        backbone, images, spec(model, ensemble=3), noise=eps, batch_size=batch_size
    )
    mean = torch.stack(single).mean(0)
    torch.testing.assert_close(together[DEEP[model], T[model]], mean, **EXACT)
    assert not torch.allclose(single[0], mean, **EXACT)


def test_explicit_noise_may_carry_a_member_axis_of_one(backbone_of):
    backbone, eps = backbone_of("pixel"), gaussian(2, 1, 3, *NATIVE)
    one = diffeat.extract(backbone, pictures(2), spec("pixel"), noise=eps)
    other = diffeat.extract(backbone, pictures(2), spec("pixel"), noise=eps[:, 0])
    torch.testing.assert_close(one["up.1", 200], other["up.1", 200], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_members_are_averaged_before_they_are_rounded(dtype, backbone_of):
    backbone, images = backbone_of("pixel"), pictures(2)
    full = diffeat.extract(backbone, images, spec("pixel", ensemble=3))["up.1", 200]
    short = diffeat.extract(backbone, images, spec("pixel", ensemble=3, dtype=dtype))
    torch.testing.assert_close(short["up.1", 200], full.to(getattr(torch, dtype)), rtol=0, atol=0)


# --- noise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["per-image", "shared", "none"])
@pytest.mark.parametrize("model", FEW)
def test_noise_policies_equal_plain_forwards(model, policy, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(3)
    shape = backbone.latent_shape(NATIVE)
    features = diffeat.extract(
        backbone, images, spec(model, noise=policy, seed=5), ids=["a", "b", "c"]
    )
    x = plain.encode(images)
    if policy != "none":
        names = ["a", "b", "c"] if policy == "per-image" else [""] * 3
        eps = np.stack([picture_noise(5, name, 0, shape) for name in names])
        x = plain.noisy(x, torch.from_numpy(eps), T[model])
    path = next(block.path for block in backbone.blocks if block.name == DEEP[model])
    expected = plain.maps([path], x, T[model])[path]
    torch.testing.assert_close(features[DEEP[model], T[model]], expected, **EXACT)


def test_clean_input_still_tells_the_denoiser_t(backbone_of):
    backbone = backbone_of("pixel")
    asked = spec("pixel", timesteps=(10, 900), noise="none")
    with denoiser_inputs(backbone) as seen:
        features = diffeat.extract(backbone, pictures(1), asked)
    x, t = seen[0]
    assert t.tolist() == [10, 900]
    torch.testing.assert_close(x[0], x[1], rtol=0, atol=0)
    assert not torch.allclose(features["up.1", 10], features["up.1", 900], **EXACT)


def test_shared_noise_is_the_same_for_every_picture(backbone_of):
    backbone, images = backbone_of("pixel-flow"), pictures(3)
    shared = drawn_noise(backbone, images, noise="shared")
    apart = drawn_noise(backbone, images, noise="per-image")
    assert torch.equal(shared[0], shared[1])
    assert torch.equal(shared[0], shared[2])
    assert not torch.allclose(apart[0], apart[1], atol=0.5)


def test_noise_is_standard_gaussian(backbone_of):
    noise = drawn_noise(backbone_of("pixel-flow"), pictures(16))
    assert abs(noise.mean()) < 0.02  # 49152 values: 0.02 is 4.4 standard errors
    assert abs(noise.std() - 1) < 0.015
    assert abs((noise**4).mean() - 3) < 0.2


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_noise_does_not_depend_on_batch_order_or_company(batch_size, backbone_of):
    backbone, images = backbone_of("pixel-flow"), pictures(5)
    ids = ["a", "b", "c", "d", "e"]
    noise = drawn_noise(backbone, images, ids)
    again = drawn_noise(backbone, images.flip(0)[1:], ids[::-1][1:])
    assert torch.equal(again, noise.flip(0)[1:])
    asked = spec("pixel-flow", timesteps=1.0, blocks="conv_in")
    batched = inputs_of(backbone, images, asked, ids=ids, batch_size=batch_size)
    assert torch.equal(batched, noise)


@pytest.mark.parametrize("change", [{"seed": 1}, {"ids": ["x"]}])
def test_noise_depends_on_seed_and_id(change, backbone_of):
    backbone = backbone_of("pixel-flow")
    noise = drawn_noise(backbone, pictures(1), ids=["a"], seed=0)
    other = drawn_noise(backbone, pictures(1), **{"ids": ["a"], "seed": 0, **change})
    assert not torch.allclose(noise, other, atol=0.5)


def test_noise_depends_on_the_member_and_not_on_the_picture_itself(backbone_of):
    backbone = backbone_of("pixel-flow")
    first, second = drawn_noise(backbone, pictures(1), ["a"], ensemble=2)
    assert not torch.allclose(first, second, atol=0.5)
    assert torch.equal(drawn_noise(backbone, pictures(1, seed=9), ["a"])[0], first)


def test_one_noise_serves_every_t(backbone_of):
    backbone, images = backbone_of("pixel-flow"), pictures(2)
    asked = spec("pixel-flow", timesteps=(1.0, 0.5), blocks="conv_in")
    rows = inputs_of(backbone, images, asked)
    torch.testing.assert_close(rows[2:], (images * 2 - 1 + rows[:2]) / 2, rtol=0, atol=1e-6)


def test_ids_are_numbers_by_default(backbone_of):
    backbone = backbone_of("pixel-flow")
    noise = drawn_noise(backbone, pictures(3))
    assert torch.equal(noise, drawn_noise(backbone, pictures(3), ["0", "1", "2"]))


# --- latents --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sd1", "dit"])
def test_sampled_latents_are_mean_plus_scaled_gaussian(model, backbone_of, plain_of):
    backbone, plain, images = backbone_of(model), plain_of(model), pictures(8)
    asked = spec(model, latent="sample", noise="none", ensemble=2)
    rows = inputs_of(backbone, images, asked).unflatten(0, (8, 2))
    posterior, scale = plain.posterior(images), plain.vae.config.scaling_factor
    drawn = (rows - (posterior.mean * scale)[:, None]) / (posterior.std * scale)[:, None]
    assert abs(drawn.mean()) < 0.035  # 16384 values: 0.035 is 4.5 standard errors
    assert abs(drawn.std() - 1) < 0.025
    assert abs((drawn[:, 0] * drawn[:, 1]).mean()) < 0.05
    assert torch.equal(rows.flatten(0, 1), inputs_of(backbone, images, asked))


def test_sampled_latents_use_other_numbers_than_the_noise(backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(4)
    rows = inputs_of(backbone, images, spec("sd1", latent="sample", noise="none"))
    posterior, scale = plain.posterior(images), plain.vae.config.scaling_factor
    drawn = (rows - posterior.mean * scale) / (posterior.std * scale)
    shape = backbone.latent_shape(NATIVE)
    noise = torch.from_numpy(np.stack([picture_noise(0, str(i), 0, shape) for i in range(4)]))
    assert abs((drawn * noise).mean()) < 0.08  # 4096 values; the same numbers would give 1


@pytest.mark.parametrize("batch_size", [1, 16])
def test_sampled_latents_are_noised_like_any_other(batch_size, backbone_of, plain_of):
    backbone, plain, images = backbone_of("sd1"), plain_of("sd1"), pictures(3)
    eps = gaussian(3, *backbone.latent_shape(NATIVE))
    clean = inputs_of(backbone, images, spec("sd1", latent="sample", noise="none"))
    features = diffeat.extract(
        backbone, images, spec("sd1", latent="sample"), noise=eps, batch_size=batch_size
    )
    expected = plain.maps(["up_blocks.1"], plain.noisy(clean, eps, 200), 200)["up_blocks.1"]
    torch.testing.assert_close(features["up.1", 200], expected, **EXACT)


def test_sampling_changes_nothing_without_a_vae(backbone_of):
    backbone = backbone_of("pixel")
    sample = diffeat.extract(backbone, pictures(1), spec("pixel", latent="sample"))
    mean = diffeat.extract(backbone, pictures(1), spec("pixel"))
    torch.testing.assert_close(sample["up.1", 200], mean["up.1", 200], rtol=0, atol=0)


# --- independence of the batch ---------------------------------------------------------------


@pytest.mark.parametrize("latent", ["mean", "sample"])
@pytest.mark.parametrize("model", FEW)
def test_features_depend_on_the_picture_alone(model, latent, backbone_of):
    backbone, images = backbone_of(model), pictures(5)
    asked, ids = spec(model, latent=latent), ["p", "q", "r", "s", "t"]

    def run(order, batch_size):
        return diffeat.extract(
            backbone, images[order], asked, ids=[ids[i] for i in order], batch_size=batch_size
        )[DEEP[model], T[model]]

    whole = run([0, 1, 2, 3, 4], 16)
    torch.testing.assert_close(run([0, 1, 2, 3, 4], 1), whole, **EXACT)
    torch.testing.assert_close(run([4, 2, 0, 1, 3], 3), whole[[4, 2, 0, 1, 3]], **EXACT)
    torch.testing.assert_close(run([3, 1], 16), whole[[3, 1]], **EXACT)
    assert not torch.allclose(whole[0], whole[1], **EXACT)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("model", FEW)
def test_several_t_equal_separate_calls(model, batch_size, backbone_of):
    backbone, images = backbone_of(model), pictures(3)
    three = {"edm": (7, 0.02, 0.3), "sit": (0.7, 0.02, 0.3)}.get(model, (700, 20, 300))
    together = diffeat.extract(
        backbone, images, spec(model, timesteps=three), batch_size=batch_size
    )
    assert [level.t for level in together.levels] == list(three)
    for t in three:
        alone = diffeat.extract(backbone, images, spec(model, timesteps=t))
        torch.testing.assert_close(together[DEEP[model], t], alone[DEEP[model], t], **EXACT)


def test_extraction_leaves_torch_random_state_alone(backbone_of):
    before = torch.get_rng_state()
    diffeat.extract(backbone_of("sd1"), pictures(1), spec("sd1", latent="sample"))
    assert torch.equal(torch.get_rng_state(), before)


# --- as little work as possible --------------------------------------------------------------


def test_nothing_runs_behind_the_last_block(backbone_of):
    backbone = backbone_of("pixel")
    paths = ("up_blocks.0", "up_blocks.1", "up_blocks.2", "conv_norm_out", "conv_out")
    with calls(backbone.denoiser, *paths) as (count, _):
        diffeat.extract(backbone, pictures(2), spec("pixel", blocks="up.0"))
    assert count == dict.fromkeys(paths, 0) | {"up_blocks.0": 1}


@pytest.mark.parametrize("position", [0, -1])
def test_the_head_never_runs(name, position, backbone_of):
    backbone = backbone_of(name)
    block = backbone.blocks[position]
    # FLUX, PixArt, SD3 and AuraFlow end in the projection to their output
    heads = [path for path in ("conv_out", "proj_out_2", "proj_out") if has(backbone, path)]
    asked = diffeat.ExtractSpec(levels(name)[0], block.name, **prompt_and_label(name))
    with calls(backbone.denoiser, "", block.path, heads[0]) as (count, _):
        diffeat.extract(backbone, pictures(1), asked)
    assert count == {"": 1, block.path: 1, heads[0]: 0}


def has(backbone, path):
    return path in dict(backbone.denoiser.named_modules())


def test_the_first_block_needs_no_second(name, backbone_of):
    backbone = backbone_of(name)
    first, second = backbone.blocks[:2]
    asked = diffeat.ExtractSpec(levels(name)[0], first.name, **prompt_and_label(name))
    with calls(backbone.denoiser, first.path, second.path) as (count, _):
        diffeat.extract(backbone, pictures(1), asked)
    assert count == {first.path: 1, second.path: 0}


@pytest.mark.parametrize("model", ["sd1", "dit", "flux"])
def test_pictures_are_encoded_once(model, backbone_of):
    backbone = backbone_of(model)
    asked = spec(model, timesteps=(10, 20, 30), ensemble=4, latent="sample")
    with calls(backbone.vae, "encoder") as (_, rows):
        diffeat.extract(backbone, pictures(5), asked, batch_size=2)
    assert rows == {"encoder": 5}


@pytest.mark.parametrize(
    ("model", "encoder"),
    [("sd1", "text_encoder"), ("pixart-alpha", "text_encoder"), ("flux", "text_encoder_2")],
)
def test_the_prompt_is_encoded_once(model, encoder, backbone_of):
    backbone = backbone_of(model)
    asked = spec(model, timesteps=(10, 20, 30), ensemble=2)
    with calls(backbone.extras[encoder], "") as (count, rows):
        diffeat.extract(backbone, pictures(5), asked, batch_size=1)
    assert (count, rows) == ({"": 1}, {"": 1})


def test_one_forward_serves_all_blocks_levels_and_members(backbone_of):
    backbone = backbone_of("pixel")
    asked = spec("pixel", blocks="all", timesteps=(10, 20, 30), ensemble=2)
    with calls(backbone.denoiser, "") as (count, rows):
        diffeat.extract(backbone, pictures(2), asked, batch_size=12)
    assert (count, rows) == ({"": 1}, {"": 12})


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_no_forward_exceeds_the_batch_size(batch_size, backbone_of):
    backbone = backbone_of("pixel")
    with denoiser_inputs(backbone) as seen:
        diffeat.extract(
            backbone,
            pictures(3),
            spec("pixel", timesteps=(10, 20), ensemble=4),
            batch_size=batch_size,
        )
    sizes = [len(x) for x, _ in seen]
    assert max(sizes) <= batch_size
    assert sum(sizes) == 3 * 2 * 4


@pytest.mark.parametrize("blocks", [("all",), ("all:self.map", "all:in")])
@pytest.mark.parametrize("model", ["pixel", "flux"])
def test_no_hook_is_left_behind(model, blocks, backbone_of):
    backbone = backbone_of(model)
    diffeat.extract(backbone, pictures(1), spec(model, blocks=blocks))
    assert _get_current_function_mode_stack() == []
    hooks = [
        (path, hook)
        for path, module in backbone.denoiser.named_modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []


# --- what comes back -------------------------------------------------------------------------


def test_features_are_a_mapping_in_the_order_of_execution(backbone_of):
    features = diffeat.extract(
        backbone_of("pixel"), pictures(2), spec("pixel", blocks=("up.*", "mid"), timesteps=(9, 4))
    )
    assert [block.name for block in features.blocks] == ["mid", "up.0", "up.1", "up.2"]
    assert list(features) == [(b.name, t) for b in features.blocks for t in (9, 4)]
    assert len(features) == 8
    assert all(torch.equal(features[key], value) for key, value in features.items())
    assert {(len(v), v.device.type, v.dtype) for v in features.values()} == {
        (2, "cpu", torch.float32)
    }


def test_a_t_may_be_asked_for_as_it_was_written(backbone_of):
    backbone = backbone_of("pixel")
    features = diffeat.extract(backbone, pictures(1), spec("pixel", timesteps="sigma=0.3"))
    native = features.levels[0].t
    assert torch.equal(features["up.1", "sigma=0.3"], features["up.1", native])
    ratios = (1 - backbone.schedule.alphas**2) ** 0.5 / backbone.schedule.alphas
    assert native == np.argmin(abs(np.log(ratios / 0.3)))


@pytest.mark.parametrize(
    ("model", "alias", "name"),
    [
        ("sd1", "dift:1", "up.1"),
        ("sd1", "hyperfeatures:1.0", "up.1.res.0:increment"),
        ("dit", "repa:3", "block.2"),
        ("flux", "ditf:2", "single.0:adaln"),
    ],
)
def test_tensors_may_be_asked_for_by_any_of_their_names(model, alias, name, backbone_of):
    backbone = backbone_of(model)
    features = diffeat.extract(backbone, pictures(1), spec(model, blocks=alias))
    assert list(features) == [(name, 200)]
    assert torch.equal(features[alias, 200], features[name, 200])
    assert (alias, 200) in features
    by_name = diffeat.extract(backbone, pictures(1), spec(model, blocks=name))
    assert torch.equal(by_name[alias, 200], features[alias, 200])


@pytest.mark.parametrize("t", [0.02, "sigma=0.02", "snr=2500", np.float32(0.5), 2])
def test_a_sigma_of_edm_may_be_asked_for_as_it_was_written(t, backbone_of):
    features = diffeat.extract(backbone_of("edm"), pictures(1), spec("edm", timesteps=t))
    (key,) = features
    assert torch.equal(features["up.1", t], features[key])


@pytest.mark.parametrize("t", [0.0, 0.0005, 0.001, 0.5, 1.0])
def test_features_of_flow_models_are_a_mapping(t, backbone_of):
    features = diffeat.extract(
        backbone_of("pixel-flow"), pictures(1), spec("pixel-flow", timesteps=t)
    )
    assert [key[1] for key in features] == [1000 * t]
    assert [value.shape for value in features.values()] == [(1, 16, 32, 32)]


@pytest.mark.parametrize("t", [0.0, 0.0005, 0.001, 0.5, 1.0])
def test_a_spelled_out_spec_means_the_same_levels(t, backbone_of):
    backbone = backbone_of("pixel-flow")
    plan = Plan(backbone, spec("pixel-flow", timesteps=t))
    assert Plan(backbone, plan.spec).levels == plan.levels


@pytest.mark.parametrize("key", [("up.0", 200), ("up.1", 10), ("up.9", 200)])
def test_unknown_features_name_what_there_is(key, backbone_of):
    features = diffeat.extract(backbone_of("pixel"), pictures(1), spec("pixel"))
    assert key not in features
    with pytest.raises(KeyError, match=r"\(up\.1, 200\)"):
        features[key]


def test_a_t_that_the_schedule_lacks_is_in_no_features(backbone_of):
    features = diffeat.extract(backbone_of("pixel"), pictures(1), spec("pixel"))
    assert ("up.1", 5000) not in features


def test_pictures_and_paths_equal_tensors(backbone_of, tmp_path):
    backbone = backbone_of("pixel")
    array = np.random.default_rng(0).integers(0, 256, (2, *NATIVE, 3), dtype=np.uint8)
    drawings = [Image.fromarray(picture) for picture in array]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for drawing, path in zip(drawings, paths, strict=True):
        drawing.save(path)
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2) / 255
    ids = [path.as_posix() for path in paths]
    expected = diffeat.extract(backbone, tensor, spec("pixel"), ids=ids)["up.1", 200]
    from_paths = diffeat.extract(backbone, paths, spec("pixel"))["up.1", 200]
    torch.testing.assert_close(from_paths, expected, **EXACT)
    from_names = diffeat.extract(backbone, list(map(str, paths)), spec("pixel"))["up.1", 200]
    assert torch.equal(from_names, from_paths)
    drawn = diffeat.extract(backbone, drawings, spec("pixel"), ids=ids)["up.1", 200]
    assert torch.equal(drawn, from_paths)
    source = diffeat.open_source(paths)
    assert torch.equal(diffeat.extract(backbone, source, spec("pixel"))["up.1", 200], from_paths)
    swapped = diffeat.extract(backbone, source.take([1, 0]), spec("pixel"), batch_size=1)
    torch.testing.assert_close(swapped["up.1", 200], from_paths.flip(0), **EXACT)


def test_a_source_brings_its_classes_and_captions(backbone_of, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *NATIVE, 3), dtype=np.uint8)
    source = ArraySource("a", ("x", "y"), np.array([1, 0]), ("cat", "dog"), pixels,
                         captions=("one", "two"))  # fmt: skip
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    asked = {"ids": source.ids}
    for fields, by_hand in (
        ({"captions": "pictures"}, {"prompts": ["one", "two"]}),
        ({"prompt": "a {class}"}, {"prompts": ["a dog", "a cat"]}),
    ):
        plain = spec("sd1", prompt="")
        wanted = diffeat.extract(backbone_of("sd1"), tensor, plain, **asked, **by_hand)
        found = diffeat.extract(backbone_of("sd1"), source, spec("sd1", **{"prompt": "", **fields}))
        assert wanted.keys() == found.keys()
        for key in wanted:
            torch.testing.assert_close(found[key], wanted[key], **EXACT)


@pytest.mark.parametrize(
    ("images", "kind"), [(7, "int"), ([b"x"], "bytes"), ([None], "NoneType"), (object(), "object")]
)
def test_pictures_of_another_kind(images, kind, backbone_of):
    with pytest.raises(SpecError, match=rf"pictures of type {kind}; .* diffeat\.open_source"):
        diffeat.extract(backbone_of("pixel"), images, spec("pixel"))


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "size", "step"),
    [("pixel", (30, 32), 4), ("sd1", (32, 34), 4), ("sd2", (36, 32), 8), ("dit", (32, 33), 4)],
)
def test_sizes_that_do_not_fit(model, size, step, backbone_of):
    with pytest.raises(SpecError, match=rf"{size[0]}×{size[1]}.*multiples of {step}.*32×32"):
        diffeat.extract(backbone_of(model), pictures(1, size), spec(model))
    with pytest.raises(SpecError, match=f"multiples of {step}"):
        diffeat.extract(backbone_of(model), [Image.new("RGB", (9, 9))], spec(model, size=size))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("pixel", {"pool": "9x9", "blocks": "mid"}, "9x9.*8×8.*'mid'.*smaller pool"),
        ("dit", {"pool": "2x9"}, "2x9.*8×8.*'block.2'"),
        ("pixel", {"timesteps": (20, 20)}, "t=20 is given twice"),
        ("pixel", {"timesteps": (20, "20")}, "t=20 is given twice"),
        ("pixel-flow", {"timesteps": (0.25, 250)}, "t=250 is given twice"),
        ("pixel", {"timesteps": ()}, "no noise level given"),
        ("pixel", {"timesteps": 1000}, r"t=1000 is out of range; expected .*0 … 999"),
        ("pixel", {"timesteps": -1}, "t=-1 is out of range"),
        ("pixel", {"timesteps": 20.5}, r"t=20\.5 is out of range; expected a whole number"),
        ("pixel-flow", {"timesteps": 1000.5}, "out of range; expected 0 … 1000"),
        ("pixel", {"blocks": "up.7"}, r"'up\.7' selects nothing.*did you mean 'up\.\d"),
        ("pixel", {"blocks": ()}, "no block given"),
        ("dit", {"blocks": "zzz"}, "'zzz' selects nothing.*block.0, block.1, block.2"),
        ("pixel", {"prompt": "a cat"}, "no text encoder; leave out the prompt"),
        ("dit", {"prompt": "a cat"}, "no text encoder; leave out the prompt"),
        ("pixel", {"label": 0}, "not class-conditional; leave the label out"),
        ("sd1", {"label": 0}, "not class-conditional; leave the label out"),
        ("dit", {"label": 5}, "label 5 is out of range.*expected 0 … 4"),
        ("dit", {"label": -1}, "label -1 is out of range.*expected 0 … 4"),
        ("sd1", {"prompt": "a cat" * 6}, "takes 12; shorten it"),
        ("pixel", {"size": 64}, "own size.*32, 32.*64, 64"),
    ],
)
def test_requests_that_cannot_be_meant(model, options, message, backbone_of):
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of(model), pictures(1), spec(model, **options))


def test_messages_name_the_model(backbone_of):
    backbone = backbone_of("pixel")
    with pytest.raises(SpecError) as caught:
        diffeat.extract(backbone, pictures(1), spec("pixel", prompt="a cat"))
    assert backbone.name in str(caught.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, "needs a class label; expected 0 … 4"), (5, "label 5 is out of range")],
)
def test_a_class_conditional_unet_needs_a_label(label, message, backbone_of):
    asked = diffeat.ExtractSpec(200, "mid", label=label)
    with pytest.raises(SpecError, match=message):
        diffeat.extract(backbone_of("pixel-classes"), pictures(1), asked)


def test_the_longest_prompt_is_taken(backbone_of):
    # ten letters between a start and an end
    asked = spec("sd1", prompt="a b c d e f g h i j", noise="none")
    features = diffeat.extract(backbone_of("sd1"), pictures(1), asked)
    assert features["up.1", 200].shape == (1, 8, 16, 16)
    longer = spec("sd1", prompt="a b c d e f g h i j k")
    with pytest.raises(SpecError, match=r"13 tokens.*takes 12"):
        diffeat.extract(backbone_of("sd1"), pictures(1), longer)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 3, 32, 32), "no pictures given"),
        ([], "no pictures given"),
        (torch.zeros(32, 32, 3), r"\(32, 32, 3\).*channels first"),
        (np.zeros((1, 32, 32, 3)), r"\(1, 32, 32, 3\) float64.*channels first"),
        ([np.zeros((32, 32, 3))], "picture 0 is.*channels first"),
        (np.zeros((2, 3, 32, 32), np.int64), r"\(2, 3, 32, 32\) int64; expected floats"),
        (np.array([None, None]), r"\(2,\) object; .*into a list"),
        (np.zeros((0, 32, 32, 3), np.uint8), "no pictures given"),
        (np.zeros((1, 0, 32, 3), np.uint8), "without a pixel"),
        ([torch.zeros(3, 32, 32), torch.zeros(3, 40, 40)], "fit one array; .*native"),
        ([torch.zeros(3, 32, 32), np.zeros((32, 32), np.uint8)], "beside.*one kind"),
        ({"a": torch.zeros(3, 32, 32)}, "of type dict"),
        ("nowhere", "is no file; .*open_source"),
        (torch.zeros(1, 1, 32, 32), "expected floats"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "expected floats.*channels last"),
        (torch.full((1, 3, 32, 32), 255.0), r"ranges from 255 to 255; expected \[0, 1\]"),
        (torch.full((1, 3, 32, 32), -1.0), r"expected \[0, 1\]"),
        (torch.full((1, 3, 32, 32), float("nan")), r"nan.*expected \[0, 1\]"),
    ],
)
def test_pictures_that_cannot_be_meant(images, message, backbone_of):
    with pytest.raises(SpecError, match=message) as found:
        diffeat.extract(backbone_of("pixel"), images, spec("pixel"))
    said = str(found.value)
    assert len(said) < 600
    assert "tensor(" not in said
    assert "array(" not in said


def test_a_missing_picture_is_named(backbone_of, tmp_path):
    with pytest.raises(PictureError, match=r"lost\.png.*no such file"):
        diffeat.extract(backbone_of("pixel"), [tmp_path / "lost.png"], spec("pixel"))


@pytest.mark.parametrize(
    ("shape", "ensemble"),
    [((2, 3, 32, 32), 2), ((1, 3, 32, 32), 1), ((2, 3, 3, 32, 32), 2), ((2, 3, 32, 16), 1)],
)
def test_noise_of_another_shape(shape, ensemble, backbone_of):
    with pytest.raises(SpecError, match=rf"expected \(2, {ensemble}, 3, 32, 32\)"):
        diffeat.extract(
            backbone_of("pixel"),
            pictures(2),
            spec("pixel", ensemble=ensemble),
            noise=torch.zeros(shape),
        )


def test_as_many_ids_as_pictures(backbone_of):
    with pytest.raises(SpecError, match="1 ids for 2 pictures"):
        diffeat.extract(backbone_of("pixel"), pictures(2), spec("pixel"), ids=["a"])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_size(batch_size, backbone_of):
    with pytest.raises(SpecError, match=f"batch size {batch_size}; expected at least 1"):
        diffeat.extract(backbone_of("pixel"), pictures(1), spec("pixel"), batch_size=batch_size)


# --- numbers that are none -------------------------------------------------------------------


def test_overflow_in_storage_names_block_and_t(copy_of):
    backbone = diffeat.load(str(copy_of("pixel-flow")), device="cpu", dtype="float32")
    backbone.denoiser.conv_in.weight.mul_(1e6)
    grey = torch.full((2, 3, *NATIVE), 0.5)  # zero for the model, so nothing grows without noise
    asked = {"timesteps": (0.0, 0.7), "blocks": ("conv_in", "down.0.res.0")}
    with pytest.raises(NumericsError, match=r"'conv_in' at t=700: inf or nan in .*float16"):
        diffeat.extract(backbone, grey, spec("pixel-flow", **asked, dtype="float16"))
    features = diffeat.extract(backbone, grey, spec("pixel-flow", **asked, dtype="float32"))
    assert features["conv_in", 700].abs().max() > 65504
    assert features["conv_in", 0].abs().max() < 65504


def test_nan_in_the_model_is_no_feature(copy_of):
    backbone = diffeat.load(str(copy_of("pixel")), device="cpu", dtype="float32")
    backbone.denoiser.mid_block.resnets[1].conv2.bias.fill_(float("nan"))
    with pytest.raises(NumericsError, match=r"'up\.0' at t=200"):
        diffeat.extract(backbone, pictures(1), spec("pixel", blocks=("down.0", "up.0")))
    before = diffeat.extract(backbone, pictures(1), spec("pixel", blocks="down.0"))
    assert torch.isfinite(before["down.0", 200]).all()


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P", "L"])
def test_an_opened_picture_means_what_its_file_means(backbone_of, tmp_path, mode):
    rng = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (32, 32, 4), generator=rng).numpy()
    if mode == "I;16":
        picture = Image.fromarray((values[..., 0] * 257).astype("uint16"))
    else:
        picture = Image.fromarray(values.astype("uint8"), "RGBA").convert(mode)
    picture.save(tmp_path / "a.png")
    spec = diffeat.ExtractSpec(timesteps=(20,), blocks=("mid",), dtype="float32")
    backbone = backbone_of("pixel")
    opened = diffeat.extract(backbone, [Image.open(tmp_path / "a.png")], spec, ids=["a"])
    from_file = diffeat.extract(backbone, [tmp_path / "a.png"], spec, ids=["a"])
    assert torch.equal(opened["mid", 20], from_file["mid", 20])
