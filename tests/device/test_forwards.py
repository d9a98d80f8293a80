"""Whole forwards on a device that is claimed: one device, no waiting, the values of the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import diffeat
from diffeat.extraction import PREDICTION, Conditions, Forward, Plan
from diffeat.extraction.batch import Batch
from diffeat.extraction.views import extractor_for
from diffeat.hooks import HookManager, Tap
from tests.device.claims import CUDA, claimed, cuda
from tests.extraction.common import same, spec
from tests.pipelines import (
    EACH_PATH,
    JOINT,
    PROMPT,
    PROMPTED,
    add_to_config,
    gaussian,
    levels,
    pictures,
)

IDS = ["a", "b"]


def batch() -> Batch:
    return Batch.of(pictures(2), IDS, [0, 1])


def equal(found, expected) -> None:
    """Same keys, shapes, dtypes and, up to the order of additions, values; all on the CPU.

    A copy to the device lies elsewhere in memory, which moves the last bit of a sum now and then.
    """
    assert list(found) == list(expected)
    for key, values in expected.items():
        assert not claimed(found[key])
        assert found[key].dtype == values.dtype
        same(found[key], values, 1e-5, 1e-5)


# --- every family -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH_PATH)
def test_features_are_those_of_the_cpu_and_only_the_end_waits(name, backbone_of, claimed_backbone):
    """Once constants and prompts are there, batches are queued without a look at a number."""
    asked = spec(name, ("**", "net:x0"), levels(name), pool="2x2")
    expected = diffeat.extract(backbone_of(name), pictures(2), asked, ids=IDS)
    backbone = claimed_backbone(name)
    with cuda() as mode:
        assert all(claimed(weight) for weight in backbone.denoiser.parameters())
        extractor = extractor_for(Plan(backbone, asked), None, None)
        extractor(batch())
        with mode.no_waiting():
            pending = extractor.start(batch())
        assert mode.queue, "something travels while the host goes on"
        found = pending.result()
        assert not mode.queue
    equal(found, dict(expected))


def test_what_a_forward_keeps_lies_on_the_device(name, backbone_of, claimed_backbone):
    """Each tensor has the shape that its block declares; the prediction too."""
    asked = spec(name, "**", levels(name)[0])
    backbone = claimed_backbone(name)
    with cuda(), torch.no_grad():
        plan = Plan(backbone, asked)
        forward, condition = Forward(plan), Conditions.of_spec(backbone, asked)([0, 0])
        eps = gaussian(2, *backbone.latent_shape((32, 32))).to("cuda")
        kept = forward.run(
            pictures(2).to("cuda"), forward.levels.expand(2, -1), condition, eps, prediction=True
        )
        x0, predicted = kept.pop(PREDICTION)
        assert x0.device == predicted.device == CUDA
        assert x0.shape == predicted.shape == eps.shape
        assert {*kept, "vae"} == {block.name for block in plan.blocks} | {"vae"}
        for block in plan.blocks:
            if block.name == "vae":  # the latent itself
                continue
            assert kept[block.name].device == CUDA, block.name
            assert kept[block.name].shape == (2, *plan.shape(block, (32, 32))), block.name


# --- what a spec may say ------------------------------------------------------------------------

SPECS = {
    "attention": ("pixel", "up.1.attn.0:self.map", {}),
    "heads and tokens": ("sd1", "mid.attn.0:cross.map", {"heads": (0, 1), "tokens": (0, 2)}),
    "joint attention": ("sd3", "block.1:*.map", {}),
    "single attention": ("flux", "single.0:*.map", {}),
    "text": ("sd3", "block.0:text", {}),
    "text of one sequence": ("auraflow", "single.1:text", {"pool": "1x1"}),
    "discarded channels": ("dit", "block.1:adaln", {"discard": (1, 3)}),
    "discarded channels of a joint block": ("flux", "block.1:adaln", {"discard": (1, 3)}),
    "parts": ("dit", "block.1:self.q", {}),
    "inner": ("dit", "block.1:ff.inner", {}),
    "vae": ("sd1", ("vae", "vae.down.0", "mid"), {"latent": "sample"}),
    "members": ("sd1", "mid", {"ensemble": 3, "latent": "sample"}),
    "shared noise": ("pixel", "mid", {"noise": "shared"}),
    "uniform noise": ("pixel", "mid", {"noise": "uniform"}),
    "no noise": ("pixel", "mid", {"noise": "none"}),
    "unscaled": ("dit", "block.1", {"scale_latent": False}),
    "inversion": ("pixel", ("mid", "net:x0"), {"noise": "inversion", "steps": 5}),
    "inversion of latents": ("sd1", "mid", {"noise": "inversion", "steps": 5}),
    "inversion of flow": ("sd3", "block.1", {"noise": "inversion", "steps": 5}),
    "generation": ("dit", "block.1", {"noise": "generation", "steps": 5}),
    "generation by EDM": ("edm", "mid", {"noise": "generation", "steps": 5}),
    "tiles": ("pixel", "mid", {"tile": 16}),
    "shifted tiles": ("pixel", "mid", {"tile": 24, "tile_layout": "shifted", "tile_noise": "tile"}),
    "flipped": ("pixel", ("mid", "up.1"), {"flip": True}),
    "flipped tiles of members": ("sd1", "mid", {"flip": True, "tile": 32, "ensemble": 2}),
    "mirrored": ("pixel", "mid", {"mirror": True}),
    "half precision in files": ("pixel", "mid", {"dtype": "float16"}),
    "prompt": ("sd1", "mid", {"prompt": "a dog"}),
    "null label": ("dit", "block.1", {"label": None}),
}


@pytest.mark.parametrize("case", SPECS)
def test_every_kind_of_spec(case, backbone_of, claimed_backbone, mode):
    model, blocks, options = SPECS[case]
    t = levels(model) if "steps" not in options else None
    if t is None:
        grid = backbone_of(model).schedule.grid(options["steps"])
        t = (grid[3].t, grid[1].t)
    asked = spec(model, blocks, t, **options)
    images = pictures(2, (48, 32)) if "tile" in options else pictures(2)
    expected = diffeat.extract(backbone_of(model), images, asked, ids=IDS)
    backbone = claimed_backbone(model)
    equal(diffeat.extract(backbone, images, asked, ids=IDS), expected)
    plan = Plan(backbone, replace(asked, size=tuple(images.shape[2:])))
    extractor, given = extractor_for(plan, None, None), Batch.of(images, IDS, [0, 1])
    extractor(given)
    with mode.no_waiting():
        pending = extractor.start(given)
    assert list(pending.result()) == list(expected)


def test_pictures_of_their_own_sizes(backbone_of, claimed_backbone, mode):
    from PIL import Image

    images = [Image.new("RGB", size, "red") for size in ((32, 48), (32, 32), (32, 48))]
    asked = spec("pixel", "mid", fit="native", pool="1x1")
    expected = diffeat.extract(backbone_of("pixel"), images, asked)
    equal(diffeat.extract(claimed_backbone("pixel"), images, asked), expected)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("sd1", {"prompts": ["a", "a dog"]}),
        ("sd1", {"embeddings": {"encoder_hidden_states": gaussian(2, 7, 16)}}),
        ("dit", {"labels": [1, None]}),
    ],
    ids=["prompts", "embeddings", "labels"],
)
def test_conditions_by_picture(model, given, backbone_of, claimed_backbone, mode):
    options = {"prompt": ""} if model == "sd1" else {"label": None}
    asked = spec(model, "mid" if model == "sd1" else "block.1", **options)
    expected = diffeat.extract(backbone_of(model), pictures(2), asked, **given)
    equal(diffeat.extract(claimed_backbone(model), pictures(2), asked, **given), expected)


def test_latents_whose_channels_are_scaled_one_by_one(copy_of, mode):
    """Their means and deviations are numbers of the VAE's configuration."""
    folder = copy_of("dit")
    add_to_config(
        folder / "vae", latents_mean=[0.1, 0.2, -0.1, 0.0], latents_std=[0.5, 1.0, 2.0, 1.5]
    )
    asked, found = spec("dit", "block.1"), []
    for device in ("cpu", "cuda"):
        backbone = diffeat.load(str(folder), device=device, dtype="float32")
        found.append(diffeat.extract(backbone, pictures(2), asked, ids=IDS))
    equal(found[1], found[0])


# --- how a model lies in memory -------------------------------------------------------------------

FORMS = {
    "blocks visit": {"offload": "blocks"},
    "the VAE visits": {"offload": "vae"},
    "channels last": {"channels_last": True},
    "half precision": {"dtype": "bfloat16", "channels_last": False},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_model(form, folder_of, claimed_backbone, mode):
    options = {"dtype": "float32", **FORMS[form]}
    asked = spec("sd1", ("vae", "mid", "up.0"))
    plain = diffeat.load(str(folder_of("sd1")), device="cpu", **options)
    expected = diffeat.extract(plain, pictures(2), asked, ids=IDS)
    equal(
        diffeat.extract(claimed_backbone("sd1", **options), pictures(2), asked, ids=IDS), expected
    )


def test_auto_is_half_precision_with_channels_last_on_the_device(claimed_backbone, mode):
    backbone = claimed_backbone("pixel", dtype="auto")
    assert (backbone.dtype, backbone.channels_last) == (torch.bfloat16, True)
    found = diffeat.extract(backbone, pictures(1), spec("pixel", "mid"))
    assert found["mid", 200].shape == (1, 24, 8, 8)


def test_blocks_that_visit_go_home(claimed_backbone, mode):
    """On the device while they run, on the CPU again when the next one comes."""
    backbone = claimed_backbone("sd1", offload="blocks")
    seen = []
    block = backbone.denoiser.down_blocks[0].resnets[0]
    weight = next(block.parameters())
    handle = block.register_forward_hook(lambda *_: seen.append(weight.device.type))
    diffeat.extract(backbone, pictures(1), spec("sd1", "mid"))
    handle.remove()
    assert seen == ["cuda"]
    assert weight.device.type == "cpu"


# --- hooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["pixel", "sd1", "dit", *JOINT])
def test_hooks_read_and_edit_on_the_device(model, claimed_backbone, mode):
    """An edit gets the device's tensor; one that answers with the CPU's is refused."""
    backbone = claimed_backbone(model)
    path = {"pixel": "mid_block", "sd1": "mid_block"}.get(model, "")
    path = path or {"auraflow": "joint_transformer_blocks.0"}.get(model, "transformer_blocks.0")
    text = [PROMPT if model in PROMPTED else ""]
    condition = backbone.condition(text, [3 if model == "dit" else None])
    x = gaussian(1, *backbone.latent_shape((32, 32))).to("cuda")
    call = backbone.call_arguments(
        backbone.as_input(x), torch.full((1,), 20.0, device="cuda"), condition
    )
    given = []

    def twice(value):
        given.append(value.device)
        return value * 2

    with torch.no_grad():
        with HookManager(backbone.denoiser, {"a": Tap(path)}, True) as hooks:
            hooks.run(**call)
        with HookManager(backbone.denoiser, {"a": Tap(path)}, True, edits={path: twice}) as edited:
            edited.run(**call)
        assert given == [CUDA]
        assert hooks["a"].device == edited["a"].device == CUDA
        assert torch.equal(edited["a"].cpu(), 2 * hooks["a"].cpu())
        wrong = {path: lambda value: torch.zeros(value.shape)}
        with (
            pytest.raises(RuntimeError, match="same device"),
            HookManager(backbone.denoiser, {}, edits=wrong) as hooks,
        ):
            hooks.run(**call)


def test_an_input_on_the_cpu_is_refused(claimed_backbone, mode):
    backbone = claimed_backbone("pixel")
    with pytest.raises(RuntimeError, match="same device"):
        backbone.denoiser(gaussian(1, 3, 32, 32), torch.full((1,), 20, device="cuda"))
