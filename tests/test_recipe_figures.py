"""Every recipe's fields against the figures of its paper and public code, typed by hand.

`tests/test_recipes.py` says what the names of tensors mean; this says what a recipe asks for.
"""

from __future__ import annotations

import pytest

from diffeat.recipes import load_recipe, recipe_names

KEYS = ("timesteps", "size", "fit", "resample", "noise", "latent", "ensemble", "blocks", "prompt")
NO_PICTURE_SIZE = None
"""The model's own size, which is that of the data set."""
UNKNOWN = object()
"""The filter of the original is not known; the recipe says so in a note."""
NOTHING = object()
"""Nothing is resized: the pictures have the model's size."""
CATEGORY = "a photo of a {class}"
DIFT = ((768, 768), "squash", "bicubic", "per-image", "sample", 8)
GDC = ((256, 256), "box-crop", "bicubic", "per-image", "mean", 1)
SD_DINO = ((960, 960), "pad", "lanczos", "shared", "mean", 1, ("sd-dino:s5", "sd-dino:s4",
           "sd-dino:s3"), "")  # fmt: skip
HYPERFEATURES_T = (-1, 60, 160, 260, 360, 460, 560, 660, 760, 860, 960)
VPD_MAPS = tuple(f"{stage}.attn.*:cross.map" for stage in ("down.1", "down.2", "up.1", "up.2"))
GDF_SD = ("up.1.attn.1:cross.q", "up.1.res.2", "up.2.attn.1:cross.q", "up.3.attn.0:self.k")
GDF_XL = ("up.0.attn.0.block.5", "up.0.attn.0.block.7", "up.1.attn.0.block.0:cross.q",
          "up.1.attn.0.block.0")  # fmt: skip
DREAMTEACHER = tuple(f"up.{k}:pre" for k in range(4))

# t, (H, W), fit, filter, noise, latent, members, tensors, prompt
FIGURES = {
    "cleandift": ((261,), (768, 768), "squash", "bicubic", "none", "sample", 1,
        ("cleandift:us6",), "A photo of a {class}"),
    # t = 11 of 1 … 1000
    "ddae-ddpm": ((10,), NO_PICTURE_SIZE, "squash", NOTHING, "per-image", "mean", 1,
        ("ddae:6",), ""),
    "ddae-dit": ((121,), (256, 256), "squash", "bilinear", "per-image", "sample", 1,
        ("ddae:layer-13",), ""),
    "ddae-edm": (("sigma=0.0599473",), NO_PICTURE_SIZE, "squash", NOTHING, "per-image", "mean", 1,
        ("ddae:7",), ""),
    "ddpm-seg": ((50, 150, 250), (256, 256), "squash", UNKNOWN, "shared", "mean", 1,
        tuple(f"ddpm-seg:{b}" for b in (5, 6, 7, 8, 12)), ""),
    "difformer": ((90, 150, 300), *GDC, ("difformer:19", "difformer:24", "difformer:30"), ""),
    "dift-adm": ((101,), (512, 512), "squash", "bicubic", "per-image", "mean", 8, ("dift:4",), ""),
    "dift-adm-hpatches": ((41,), (768, 768), "squash", "bicubic", "per-image", "mean", 4,
        ("dift:11",), ""),
    # short side 480, of frames of 480 x 854
    "dift-adm-davis": ((51,), (480, 832), "squash", "bilinear", "per-image", "mean", 4,
        ("dift:7",), ""),
    "dift-sd21": ((261,), *DIFT, ("dift:1",), CATEGORY),
    "dift-sd21-hpatches": ((0,), *DIFT, ("dift:2",), ""),
    # 480 is no multiple of 64
    "dift-sd21-davis": ((51,), (512, 896), "squash", "bilinear", "per-image", "sample", 8,
        ("dift:2",), ""),
    "ditf-flux": ((260,), (640, 640), "squash", UNKNOWN, "per-image", "mean", 8, ("ditf:28",),
        CATEGORY),
    "ditf-flux-davis": ((90,), (960, 960), "squash", UNKNOWN, "per-image", "mean", 1,
        ("ditf:24",), ""),
    "dreamteacher": ((150,), (256, 256), "squash", UNKNOWN, "per-image", "mean", 1,
        DREAMTEACHER, ""),
    "gdc": ((90,), *GDC, ("gdc:24",), ""),
    "gdc-150": ((150,), *GDC, ("gdc:24",), ""),
    # the pipeline's PNDM scheduler repeats a step
    "gdf-sd15": ((51,), (512, 512), "squash", "bicubic", "per-image", "sample", 1, GDF_SD, ""),
    "gdf-sdxl": ((50,), (1024, 1024), "squash", "bicubic", "per-image", "sample", 1, GDF_XL, ""),
    "geoaware": ((50,), *SD_DINO),
    "hyperfeatures": (HYPERFEATURES_T, (512, 512), "squash", "bilinear", "inversion", "sample", 1,
        ("hyperfeatures:*",), ""),
    # of one tile: the short edge is 1024
    "odise": ((0,), (512, 512), "squash", UNKNOWN, "shared", "mean", 1,
        ("odise:2", "odise:5", "odise:8", "odise:11", "odise:vae.5", "odise:vae.7",
            "odise:vae-decoder.2", "odise:vae-decoder.5"), ""),
    "repa": ((0.5,), (256, 256), "squash", UNKNOWN, "per-image", "sample", 1, ("repa:8",), ""),
    "repfusion": (tuple(range(0, 1000, 100)), NO_PICTURE_SIZE, "squash", NOTHING, "none", "mean",
        1, ("repfusion:mid",), ""),
    "sd-dino": ((100,), *SD_DINO),
    "sd4match": ((50,), (768, 768), "squash", "bilinear", "per-image", "sample", 8, ("dift:1",),
        ""),
    "uscsd": ((40,), (512, 512), "squash", UNKNOWN, "uniform", "mean", 1, ("uscsd:*",), ""),
    "vpd": ((1,), (512, 512), "squash", UNKNOWN, "none", "mean", 1,
        ("vpd:1", "vpd:4", "vpd:7", "vpd:11", *VPD_MAPS), ""),
}  # fmt: skip
FURTHER = {
    "ddae-ddpm": {"pool": "1x1"},
    "ddae-dit": {"pool": "1x1"},
    "ddae-edm": {"pool": "1x1"},
    "ddpm-seg": {"seed": 0},
    "gdc": {"pool": "1x1"},
    "gdc-150": {"pool": "1x1"},
    "geoaware": {"tile": (512, 512), "seed": 42},
    "hyperfeatures": {"steps": 50},
    "odise": {"tile": (512, 512), "tile_noise": "tile", "tile_layout": "shifted", "seed": 42},
    "repa": {"pool": "1x1"},
    "sd-dino": {"tile": (512, 512), "seed": 42},
    "uscsd": {"tokens": (1,)},
    "vpd": {"scale_latent": False},
}
UNKNOWN_NOTE = "The original's filter of resizing is not known to us: here the default, bicubic."


def test_every_recipe_has_its_figures():
    assert sorted(recipe_names()) == sorted(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_fields_are_the_published_figures(name):
    spec, wanted = load_recipe(name).spec, dict(zip(KEYS, FIGURES[name], strict=True))
    if str(wanted["timesteps"][0]).startswith("sigma="):
        values = [float(str(t).removeprefix("sigma=")) for t in
                  (*spec.timesteps, *wanted.pop("timesteps"))]  # fmt: skip
        assert values[0] == pytest.approx(values[1], abs=5e-8)
    if wanted["resample"] in (UNKNOWN, NOTHING):
        wanted["resample"] = "bicubic"
    wanted |= FURTHER.get(name, {})
    assert {key: getattr(spec, key) for key in wanted} == wanted
    for field in ("flip", "mirror"):  # which some need beside, in a file of its own
        assert not getattr(spec, field)


@pytest.mark.parametrize("name", FIGURES)
def test_a_filter_is_set_or_said_to_be_unknown(name):
    recipe, filtered = load_recipe(name), FIGURES[name][KEYS.index("resample")]
    assert ("resample" in recipe.fields) == isinstance(filtered, str)
    assert (UNKNOWN_NOTE in recipe.notes) == (filtered is UNKNOWN)
    assert any("nothing is resized" in note for note in recipe.notes) == (filtered is NOTHING)


SAID_BY_FIELDS = ("The prompt is empty", "padded with black", "No noise is added", "stays clean",
                  "from DDIM inversion in", "posterior's mode", "as a square of")  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_no_note_says_what_a_field_says(name):
    notes = " ".join(load_recipe(name).notes)
    assert not [said for said in SAID_BY_FIELDS if said in notes]


def test_the_notes_of_geoaware_and_gdf_say_why():
    geoaware, gdf = " ".join(load_recipe("geoaware").notes), " ".join(load_recipe("gdf-sd15").notes)
    assert "mirror = true" in geoaware
    assert "PNDM scheduler repeats a step" in gdf
