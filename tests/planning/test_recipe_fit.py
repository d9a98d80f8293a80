"""Recipes on models that they were made for, and on others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

import diffeat as package
from diffeat.errors import SpecError
from diffeat.planning.recipe_fit import check_recipe
from diffeat.recipes import load_recipe, recipe_names
from tests.twins import STAND_INS, configs_only

# the models of the papers (family, side in pixels, millions of parameters), as they describe them
SD1, SD2 = ("stable-diffusion", 512, 859.5), ("stable-diffusion", 768, 865.9)
ADM, FLUX = ("adm", 256, 552.8), ("flux", 1024, 11901.4)
MADE_FOR = {
    "cleandift": SD2, "ddae-ddpm": ("pixel-unet", 32, 35.7), "ddae-dit": ("dit", 256, 749.8),
    "ddae-edm": ("edm", 32, 55.7), "ddpm-seg": ADM, "difformer": ADM, "dift-adm": ADM,
    "dift-adm-davis": ADM, "dift-adm-hpatches": ADM, "dift-sd21": SD2, "dift-sd21-davis": SD2,
    "dift-sd21-hpatches": SD2, "ditf-flux": FLUX, "ditf-flux-davis": FLUX, "dreamteacher": ADM,
    "gdc": ADM, "gdc-150": ADM, "gdf-sd15": SD1, "gdf-sdxl": ("sdxl", 1024, 2567.5),
    "geoaware": SD1, "hyperfeatures": SD1, "odise": SD1, "repa": ("sit", 256, 749.8),
    "repfusion": ("pixel-unet", 32, None), "sd-dino": SD1, "sd4match": SD2, "uscsd": SD1,
    "vpd": SD1,
}  # fmt: skip
ANYWHERE = {"ddae-ddpm", "repfusion", "hyperfeatures"}
"""Those whose tensors a pixel U-Net of 32 pixels has too."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Backbone of full size without weights, by name."""
    root = tmp_path_factory.mktemp("full")

    @cache
    def loaded(model):
        where = configs_only(model, root) if "/" in model else model
        return package.load(str(where), device="meta")

    return lambda model: loaded(STAND_INS.get(model, model))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / kind / "0.png")
    return tmp_path / "in"


def test_every_recipe_is_described_here():
    assert recipe_names() == sorted(MADE_FOR)


@pytest.mark.parametrize("name", MADE_FOR)
def test_a_recipe_says_what_it_was_made_for(name):
    family, side, millions = MADE_FOR[name]
    made_for = load_recipe(name).made_for
    assert made_for.families[0] == family
    assert made_for.sizes[0] == side
    assert made_for.parameters == (() if millions is None else (millions,))


@pytest.mark.parametrize("name", MADE_FOR)
def test_nothing_is_said_of_the_model_of_the_paper(name, bare):
    recipe = load_recipe(name)
    assert check_recipe(recipe, bare(recipe.model), recipe.spec) == ""


@pytest.mark.parametrize("name", MADE_FOR)
def test_on_a_small_pixel_model_it_is_refused_or_said(name, bare):
    """By its own name and model, never by the alias of another paper."""
    recipe, backbone = load_recipe(name), bare("unet-cifar10")
    if name not in ANYWHERE:
        with pytest.raises(SpecError) as caught:
            check_recipe(recipe, backbone, recipe.spec)
        text = str(caught.value)
        assert text.startswith(f"recipe {name} was made for {recipe.model} (")
        assert "unet-cifar10 is pixel-unet, 32×32 pixels, 5.9 M parameters" in text
        assert "did you mean" not in text
        assert "up.0, up.1, up.2" in text or "--prompt" in text or "cannot do it" in text
        return
    said = check_recipe(recipe, backbone, recipe.spec)
    if name == "repfusion":
        assert said == ""
    else:
        assert "so this is not what the paper did" in said


def test_what_the_user_puts_in_its_place_counts(bare):
    recipe, backbone = load_recipe("gdc"), bare("unet-cifar10")
    said = check_recipe(recipe, backbone, replace(recipe.spec, blocks=("up.1",)))
    assert "other family, size, number of parameters" in said
    assert "it runs at 256×256 pixels, --size 32 is its own size" in said
    said = check_recipe(recipe, backbone, replace(recipe.spec, blocks=("up.1",), size=32))
    assert "it runs at" not in said


def test_another_size_of_the_family_is_said(bare):
    recipe = load_recipe("dift-sd21")
    said = check_recipe(recipe, bare("sd15"), recipe.spec)
    assert said.startswith("recipe dift-sd21 was made for sd21 (stable-diffusion, 768×768 pixels")
    assert "sd15 is stable-diffusion, 512×512 pixels, 859.5 M parameters: other size" in said
    assert said.endswith("it runs at 768×768 pixels, --size 512 is its own size")
    assert check_recipe(load_recipe("sd-dino"), bare("sd21"), load_recipe("sd-dino").spec)


def test_a_prompt_for_a_model_without_text(bare):
    recipe = load_recipe("dift-sd21")
    spec = replace(recipe.spec, blocks=("mid",), size=None)
    with pytest.raises(SpecError, match=r'reads no text, .* --prompt "" leaves it out'):
        check_recipe(recipe, bare("unet-cifar10"), spec)


def test_a_level_that_the_model_has_not(bare):
    recipe = load_recipe("repa")
    spec = replace(recipe.spec, blocks=("mid",))
    with pytest.raises(SpecError, match=r"repa was made for .*cannot do it: t=0.5 is out of"):
        check_recipe(recipe, bare("unet-cifar10"), spec)


class TestTheCommand:
    def test_refuses_before_anything_else_is_said(self, diffeat, folder, tmp_path):
        answer = diffeat("extract", "unet-cifar10", folder, "-o", tmp_path / "f.h5",
                         "--recipe", "dift-sd21")  # fmt: skip
        assert answer.code == 2
        assert answer.err.startswith("error: recipe dift-sd21 was made for sd21 ")
        assert len(answer.err.splitlines()) == 1

    def test_a_vision_model_too(self, diffeat, folder, tmp_path):
        answer = diffeat("extract", "timm:vit_tiny_patch16_224@random", folder, "-o",
                         tmp_path / "f.h5", "--recipe", "dift-sd21")  # fmt: skip
        assert answer.code == 2
        assert answer.err.startswith("error: recipe dift-sd21 was made for sd21 ")
        assert len(answer.err.splitlines()) == 1

    def test_warns_and_runs(self, diffeat, folder, tmp_path):
        answer = diffeat("extract", "unet-cifar10", folder, "-o", tmp_path / "f.h5",
                         "--recipe", "ddae-ddpm", "--device", "cpu")  # fmt: skip
        assert answer.code == 0
        assert "warning: recipe ddae-ddpm was made for google/ddpm-cifar10-32" in answer.err
        assert "other number of parameters" in answer.err

    def test_a_search_does_the_same(self, diffeat, folder):
        answer = diffeat("search", "unet-cifar10", folder, "--recipe", "gdc")
        assert answer.code == 2
        assert "recipe gdc was made for adm-256 (adm, 256×256 pixels" in answer.err

    def test_the_list_says_it(self, diffeat):
        assert "[made for adm-256]" in diffeat("recipes").out
        shown = diffeat("recipes", "gdc").out
        assert "made for adm, 256×256 pixels, 552.8 M parameters" in shown
