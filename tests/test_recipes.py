"""Published recipes: what they ask for at full size, and that they run, on shrunk twins."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import diffeat
from diffeat.cli import cli
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.recipes import load_recipe, recipe_names
from diffeat.specs import ExtractSpec
from diffeat.store import FeatureStore
from tests.twins import DIVISORS, STAND_INS, configs_only, twin

CATEGORY = "a photo of a {class}"


@dataclass(frozen=True)
class Wanted:
    """What a system extracts, as its paper says.

    Attributes:
        model: which.
        t: native timesteps.
        tensors: canonical name → channels and stride in pixels.
        size: (H, W) in pixels.
        fields: of the spec, where they are not the defaults.
    """

    model: str
    t: tuple[float, ...]
    tensors: dict[str, tuple[int, int]]
    size: tuple[int, int]
    fields: dict = field(default_factory=dict)


CROSS = {  # keys are the 77 tokens of the text; 16² and 32² cells at 512 pixels
    **{f"down.1.attn.{j}:cross.map": (77, 16) for j in range(2)},
    **{f"down.2.attn.{j}:cross.map": (77, 32) for j in range(2)},
    **{f"up.1.attn.{j}:cross.map": (77, 32) for j in range(3)},
    **{f"up.2.attn.{j}:cross.map": (77, 16) for j in range(3)},
}
HYPERFEATURES = {
    **{f"up.0.res.{j}:increment": (1280, 64) for j in range(3)},
    **{f"up.1.res.{j}:increment": (1280, 32) for j in range(3)},
    **{f"up.2.res.{j}:increment": (640, 16) for j in range(3)},
    **{f"up.3.res.{j}:increment": (320, 8) for j in range(3)},
}
SD_DINO = {"up.0.res.1": (1280, 64), "up.1.attn.1": (1280, 32), "up.2.attn.1": (640, 16)}
SD_DINO_TILES = {"fit": "pad", "resample": "lanczos", "tile": (512, 512), "noise": "shared",
                 "seed": 42}  # fmt: skip
GDC = {"up.1.attn.1": (1024, 16)}
MEMBERS = {"latent": "sample", "ensemble": 8}

# sections 1 and 2 of what is known of the methods, with diffusers' names
WANTED = {
    "cleandift": Wanted("sd21", (261,), {"up.1": (1280, 16)}, (768, 768),
        {"latent": "sample", "noise": "none", "prompt": "A photo of a {class}"}),
    # t = 11 of 1 … 1000
    "ddae-ddpm": Wanted("google/ddpm-cifar10-32", (10,), {"up.1.res.2": (256, 4)}, (32, 32),
        {"pool": "1x1"}),
    "ddae-dit": Wanted("dit-xl-2-256", (121,), {"block.13": (1152, 16)}, (256, 256),
        {"latent": "sample", "pool": "1x1", "resample": "bilinear"}),
    # the fourth of 18 Karras levels, from below
    "ddae-edm": Wanted("edm-cifar10", ((0.002 ** (1 / 7) * 14 / 17 + 80 ** (1 / 7) * 3 / 17) ** 7,),
        {"up.1.res.1": (256, 2)}, (32, 32), {"pool": "1x1"}),
    "ddpm-seg": Wanted("adm-256", (50, 150, 250), {"up.1": (1024, 8), "up.2.attn.0": (512, 8),
        "up.2.attn.1": (512, 8), "up.2": (512, 4), "up.4.res.0": (256, 2)}, (256, 256),
        {"noise": "shared"}),
    "difformer": Wanted("adm-256", (90, 150, 300), {"mid": (1024, 32), **GDC,
        "up.3.res.1": (512, 4)}, (256, 256), {"fit": "box-crop"}),
    "dift-adm": Wanted("adm-256", (101,), GDC, (512, 512), {"ensemble": 8}),
    "dift-adm-hpatches": Wanted("adm-256", (41,), {"up.3": (512, 2)}, (768, 768), {"ensemble": 4}),
    "dift-adm-davis": Wanted("adm-256", (51,), {"up.2.attn.1": (512, 8)}, (480, 832),
        {"ensemble": 4, "resample": "bilinear"}),
    "dift-sd21": Wanted("sd21", (261,), {"up.1": (1280, 16)}, (768, 768),
        {**MEMBERS, "prompt": CATEGORY}),
    "dift-sd21-hpatches": Wanted("sd21", (0,), {"up.2": (640, 8)}, (768, 768), MEMBERS),
    # a short side of 480 does not go through all stages
    "dift-sd21-davis": Wanted("sd21", (51,), {"up.2": (640, 8)}, (512, 896),
        {**MEMBERS, "resample": "bilinear"}),
    "ditf-flux": Wanted("flux1-dev", (260,), {"single.9:adaln": (3072, 16)}, (640, 640),
        {"ensemble": 8, "prompt": CATEGORY}),
    "ditf-flux-davis": Wanted("flux1-dev", (90,), {"single.5:adaln": (3072, 16)}, (960, 960)),
    # strides 4 to 32, which are those before the upsamplers
    "dreamteacher": Wanted("adm-256", (150,), {"up.0:pre": (1024, 32), "up.1:pre": (1024, 16),
        "up.2:pre": (512, 8), "up.3:pre": (512, 4)}, (256, 256)),
    "gdc": Wanted("adm-256", (90,), GDC, (256, 256), {"fit": "box-crop", "pool": "1x1"}),
    "gdc-150": Wanted("adm-256", (150,), GDC, (256, 256), {"fit": "box-crop", "pool": "1x1"}),
    "gdf-sd15": Wanted("sd15", (51,), {"up.1.attn.1:cross.q": (1280, 32), "up.1.res.2": (1280, 32),
        "up.2.attn.1:cross.q": (640, 16), "up.3.attn.0:self.k": (320, 8)}, (512, 512),
        {"latent": "sample"}),
    "gdf-sdxl": Wanted("sdxl", (50,), {"up.0.attn.0.block.5": (1280, 32),
        "up.0.attn.0.block.7": (1280, 32), "up.1.attn.0.block.0:cross.q": (640, 16),
        "up.1.attn.0.block.0": (640, 16)}, (1024, 1024), {"latent": "sample"}),
    "geoaware": Wanted("sd15", (50,), SD_DINO, (960, 960), SD_DINO_TILES),
    "hyperfeatures": Wanted("sd15", (-1, 60, 160, 260, 360, 460, 560, 660, 760, 860, 960),
        HYPERFEATURES, (512, 512), {"latent": "sample", "noise": "inversion", "steps": 50,
        "resample": "bilinear"}),
    "odise": Wanted("CompVis/stable-diffusion-v1-3", (0,), {"up.0.res.2:in": (2560, 64),
        "up.1.res.2:in": (1920, 32), "up.2.res.2:in": (960, 16), "up.3.res.2:in": (640, 8),
        "vae.down.2.res.1:in": (512, 4), "vae.down.3.res.1:in": (512, 8),
        "vae.up.0.res.2:in": (512, 8), "vae.up.1.res.2:in": (512, 4)}, (512, 512),
        {"tile": (512, 512), "tile_noise": "tile", "tile_layout": "shifted", "noise": "shared",
         "seed": 42}),
    "repa": Wanted("sit-xl-2-256", (0.5,), {"block.7": (1152, 16)}, (256, 256),
        {"latent": "sample", "pool": "1x1"}),
    "repfusion": Wanted("google/ddpm-cifar10-32", tuple(range(0, 1000, 100)),
        {"mid.res.1:increment": (256, 8)}, (32, 32), {"noise": "none"}),
    "sd-dino": Wanted("sd15", (100,), SD_DINO, (960, 960), SD_DINO_TILES),
    "sd4match": Wanted("sd21", (50,), {"up.1": (1280, 16)}, (768, 768),
        {**MEMBERS, "resample": "bilinear"}),
    "uscsd": Wanted("CompVis/stable-diffusion-v1-4", (40,), {"up.1.attn.0:cross.map": (1, 32),
        "up.1.attn.1:cross.map": (1, 32), "up.1.attn.2:cross.map": (1, 32),
        "up.2.attn.0:cross.map": (1, 16)}, (512, 512), {"tokens": (1,), "noise": "uniform"}),
    "vpd": Wanted("sd15", (1,), {"up.0.res.1": (1280, 64), "up.1.attn.1": (1280, 32),
        "up.2.attn.1": (640, 16), "up.3": (320, 8), **CROSS}, (512, 512),
        {"latent": "mean", "scale_latent": False, "noise": "none"}),
}  # fmt: skip
# sides of the pictures in the quick runs; 64 is what every stage of every model here divides
SIDES = {32: 32, 256: 64, 480: 64, 512: 64, 640: 64, 768: 64, 832: 96, 896: 128, 960: 192,
         1024: 64}  # fmt: skip


@pytest.fixture(scope="module")
def twin_of(tmp_path_factory):
    """Twin and its backbone, by name."""
    root = tmp_path_factory.mktemp("twins")

    @cache
    def built(model):
        made = twin(model, root / model.replace("/", "-"))
        return made, diffeat.load(str(made.folder), device="cpu")

    return lambda model: built(STAND_INS.get(model, model))


@pytest.fixture(scope="module")
def full_of(tmp_path_factory):
    """Backbone of full size without weights, by name."""
    root = tmp_path_factory.mktemp("full")

    @cache
    def loaded(model):
        where = configs_only(model, root / "hub") if "/" in model else model
        return diffeat.load(str(where), device="meta")

    return lambda model: loaded(STAND_INS.get(model, model))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two classes of two pictures, of different shapes."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (root / kind).mkdir()
        for k in range(2):
            pixels = random.integers(0, 256, (24 + 8 * k, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{k}.png")
    return diffeat.open_source(root)


def quick(spec: ExtractSpec, native: tuple[int, int]) -> ExtractSpec:
    """The same with small pictures; tiles overlap as they did."""
    size = tuple(SIDES[side] for side in spec.size or native)
    tile = spec.tile and tuple(64 if size[0] == 64 else 128 for _ in spec.tile)
    return replace(spec, size=size, tile=tile)


# --- what is written -----------------------------------------------------------------------------


def test_every_recipe_is_described_here():
    assert recipe_names() == sorted(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_a_recipe_says_what_it_is(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert re.search(r"20[12]\d$", recipe.source)
    assert recipe.model == WANTED[name].model
    assert recipe.notes
    assert all(isinstance(note, str) and note.endswith(".") for note in recipe.notes)
    assert isinstance(recipe.spec, ExtractSpec)
    assert recipe.spec is recipe.spec


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(SpecError, match=r"'dift-sd' is unknown .*did you mean.*'dift-sd21'"):
        load_recipe("dift-sd")
    with pytest.raises(SpecError, match="diffeat recipes"):
        load_recipe("../gdc")


# --- what it asks for at full size ---------------------------------------------------------------


@pytest.mark.parametrize("name", WANTED)
def test_tensors_and_levels_are_the_published(name, full_of):
    wanted = WANTED[name]
    plan = Plan(full_of(wanted.model), load_recipe(name).spec)
    found = {block.name: (plan.map_shape(block)[0], block.stride) for block in plan.blocks}
    assert found == wanted.tensors
    assert [level.t for level in plan.levels] == pytest.approx(wanted.t, rel=1e-8)
    expected = ExtractSpec(wanted.t, tuple(found), size=wanted.size, **wanted.fields)
    assert replace(plan.spec, timesteps=wanted.t) == expected


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("ddpm-seg", 8448),
        ("hyperfeatures", 11 * 10_560),
        ("gdf-sd15", 3520),
        ("gdf-sdxl", 3840),
    ],
)
def test_sums_of_channels_are_the_published(name, channels, full_of):
    plan = Plan(full_of(WANTED[name].model), load_recipe(name).spec)
    assert sum(block.channels for block in plan.blocks) * len(plan.levels) == channels


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("ddpm-seg", [32, 32, 32, 64, 128]),
        ("gdc", [16]),
        ("difformer", [8, 16, 64]),
        ("uscsd", [16, 16, 16, 32]),
        ("sd4match", [48]),
        ("repfusion", [4]),
    ],
)
def test_sides_of_the_maps_are_the_published(name, sides, full_of):
    plan = Plan(full_of(WANTED[name].model), load_recipe(name).spec)
    assert [block.grid(plan.size) for block in plan.blocks] == [(n, n) for n in sides]


@pytest.mark.parametrize(
    ("name", "ratios"),
    [
        ("ddpm-seg", [0.176, 0.522, 0.958]),
        ("gdc", [0.308]),
        ("gdc-150", [0.522]),
        ("ddae-edm", [0.06]),
        ("odise", [0.029]),
        ("ditf-flux", [0.26 / 0.74]),
        ("repa", [1]),
    ],
)
def test_noise_to_signal_is_the_published(name, ratios, full_of):
    plan = Plan(full_of(WANTED[name].model), load_recipe(name).spec)
    assert [lv.sigma / lv.alpha for lv in plan.levels] == pytest.approx(ratios, abs=6e-4)


def test_the_ddpm_of_ddae_has_the_published_size_and_noise(full_of):
    backbone = full_of("google/ddpm-cifar10-32")
    (level,) = Plan(backbone, load_recipe("ddae-ddpm").spec).levels
    assert level.sigma == pytest.approx(0.047, abs=5e-4)
    assert round(backbone.parameters / 1e6, 1) == 35.7


# --- twins, and what it does on them -------------------------------------------------------------


@pytest.mark.parametrize("model", DIVISORS)
def test_a_twin_has_every_tensor_of_the_model(model, twin_of, full_of):
    (made, shrunk), full = twin_of(model), full_of(model)
    names = ("name", "path", "kind", "part", "stride", "layout", "order", "tokens", "keys")
    assert [[getattr(b, n) for n in names] for b in shrunk.tensors] == [
        [getattr(b, n) for n in names] for b in full.tensors
    ]
    assert shrunk.aliases == full.aliases
    assert shrunk.latent_factor == full.latent_factor
    assert shrunk.schedule.__dict__.keys() == full.schedule.__dict__.keys()
    assert shrunk.schedule.resolve("sigma=0.3") == full.schedule.resolve("sigma=0.3")
    widths = {b.name: b.channels for b in full.tensors if b.part not in ("network", "vae")}
    for block in shrunk.tensors:
        if block.name in widths and block.layout != "map" and ":cross." not in block.name:
            assert block.channels == made.channels(block.name, widths[block.name]), block


@pytest.mark.parametrize("name", WANTED)
def test_a_recipe_runs(name, twin_of, source, tmp_path):
    wanted = WANTED[name]
    made, backbone = twin_of(wanted.model)
    spec = quick(load_recipe(name).spec, wanted.size)
    diffeat.extract_to_file(backbone, source, spec, tmp_path / "f.h5", progress=False)
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.ids == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
        assert store.class_names == ["cat", "dog"]
        assert set(store.blocks) == set(wanted.tensors)
        assert store.timesteps == pytest.approx(sorted(wanted.t))
        for block, (channels, stride) in wanted.tensors.items():
            shape = (made.channels(block, channels), *(side // stride for side in spec.size))
            for t in store.timesteps:
                values = store[block, t][:]
                assert values.shape == (4, *(shape if spec.pool == "none" else shape[:1]))
                assert values.dtype == np.float16
                assert np.isfinite(values).all()
                # not the same for all pictures; probabilities of 77 tokens are small
                assert values.std(0).max() > 0.01 * np.abs(values).max(), (block, t)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dift-sd21", "a photo of a "),
        ("cleandift", "A photo of a "),
        ("ditf-flux", "a photo of a "),
    ],
)
def test_the_class_of_a_picture_is_in_its_prompt(name, text, twin_of, source, tmp_path):
    _, backbone = twin_of(WANTED[name].model)
    spec = replace(quick(load_recipe(name).spec, (64, 64)), ensemble=1, dtype="float32")
    plain = replace(spec, prompt="")
    prompts = [text + kind for kind in ("cat", "cat", "dog", "dog")]
    images = [source.load(k) for k in range(4)]
    expected, empty = (
        diffeat.extract(backbone, images, plain, ids=source.ids, prompts=each)
        for each in (prompts, [""] * 4)
    )
    diffeat.extract_to_file(backbone, source, spec, tmp_path / "f.h5", progress=False)
    with FeatureStore(tmp_path / "f.h5") as store:
        for key, values in expected.items():
            found = torch.from_numpy(store[key][:])
            torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(found, empty[key], rtol=1e-3, atol=1e-3)


def test_on_the_command_line(twin_of, source, tmp_path):
    made, _ = twin_of("sd21")
    runner = CliRunner()
    listed = runner.invoke(cli, ["recipes", "--json"])
    assert [each["name"] for each in json.loads(listed.output)] == recipe_names()
    shown = runner.invoke(cli, ["recipes", "dift-sd21"])
    assert "ensemble = 8" in shown.output
    arguments = ["extract", made.folder, source.name, "-o", tmp_path / "f.h5", "--recipe",
                 "dift-sd21", "--size", 64, "--device", "cpu"]  # fmt: skip
    result = runner.invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with FeatureStore(tmp_path / "f.h5") as store:
        asked = replace(load_recipe("dift-sd21").spec, size=(64, 64), blocks=("up.1",))
        assert store.spec == asked
        assert store["up.1", 261].shape == (4, 32, 4, 4)
