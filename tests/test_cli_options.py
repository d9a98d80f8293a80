"""`diffeat recipes`, and which spec `diffeat extract` makes of a recipe, a file and options."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from diffeat.jobs import JobResult
from diffeat.recipes import FOLDER, load_recipe, recipe_names
from diffeat.specs import ExtractSpec

LEAST = ("-t", "20", "-b", "mid")
LONG = {"-t": "--timesteps", "-b": "--blocks"}


@pytest.fixture
def asked(diffeat, monkeypatch, tmp_path):
    """The spec that `diffeat extract` would run with some options, or its answer if it fails."""
    specs = []

    def job(_model, _source, spec, path, **_):
        specs.append(spec)
        return JobResult(Path(path), "done", 1, 1, 0, 0.0)

    monkeypatch.setattr("diffeat.jobs.extract_to_file", job)
    # whether the model suits a recipe is another matter: tests/planning/test_recipe_fit.py
    monkeypatch.setattr("diffeat.cli.job_options.check_recipe_option", lambda *_: None)

    def spec_of(*options):
        specs.clear()
        answer = diffeat("extract", "unet-cifar10", "digits", "-o", tmp_path / "f.h5", *options)
        return specs[0] if specs else answer

    return spec_of


@pytest.fixture
def spec_file(tmp_path):
    """Writes a spec file of the fields, and returns the option that names it."""

    def write(**fields):
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        (tmp_path / "spec.toml").write_text("\n".join(lines), "utf-8")
        return ("--spec", tmp_path / "spec.toml")

    return write


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    """Writes a recipe of the fields, and returns the option that names it."""

    def write(**fields):
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        head = [
            "title = 'T'",
            "source = 'S'",
            "model = 'M'",
            "[made_for]",
            "families = ['adm']",
            "[spec]",
        ]
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / "mine.toml").write_text("\n".join(head + lines), "utf-8")
        monkeypatch.setattr("diffeat.recipes.FOLDER", tmp_path / "recipes")
        return ("--recipe", "mine")

    return write


# --- recipes --------------------------------------------------------------------------------


def test_recipes_are_listed_with_their_source(diffeat):
    answer = diffeat("recipes")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert len(lines) == 2 * len(recipe_names())
    for name, first, second in zip(recipe_names(), lines[::2], lines[1::2], strict=True):
        found = load_recipe(name)
        assert first.split(maxsplit=1) == [name, f"{found.title} [made for {found.model}]"]
        assert second.strip() == found.source


def test_recipes_as_json_are_those_of_the_files(diffeat):
    found = json.loads(diffeat("recipes", "--json").out)
    assert [each["name"] for each in found] == sorted(p.stem for p in FOLDER.glob("*.toml"))
    for each in found:
        file = tomllib.loads((FOLDER / f"{each['name']}.toml").read_text("utf-8"))
        assert each["fields"] == file.pop("spec")
        made_for = {"sizes": [], "parameters": [], **file.pop("made_for")}
        assert each["made_for"] == made_for
        assert {"notes": [], **file} == {name: each[name] for name in
                                         ("title", "source", "model", "notes")}  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_in_full(diffeat, name):
    found = load_recipe(name)
    text = diffeat("recipes", name).out
    assert text.startswith(f"{name}: {found.title}\n  source  {found.source}\n")
    assert f"  model   {found.model}\n" in text
    for field, value in found.fields.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert f"  {field} = {shown}\n" in text
    assert text.endswith("".join(f"  - {note}\n" for note in found.notes))
    (as_json,) = json.loads(diffeat("recipes", name, "--json").out)
    assert as_json["fields"] == found.fields


def test_an_unknown_recipe_suggests_one(diffeat, asked):
    for answer in (diffeat("recipes", "vpdd"), asked("--recipe", "vpdd")):
        assert answer.code == 2
        assert "recipe 'vpdd' is unknown (did you mean 'vpd'" in answer.err
        assert "`diffeat recipes` lists all" in answer.err


# --- which field wins -----------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_alone(asked, name):
    assert asked("--recipe", name) == load_recipe(name).spec


def test_a_file_wins_over_a_recipe(asked, recipe, spec_file):
    mine = recipe(timesteps=[20], blocks=["mid"], pool="2x2", seed=3, flip=True)
    assert asked(*mine) == ExtractSpec(20, "mid", "2x2", seed=3, flip=True)
    file = spec_file(blocks=["up.*"], seed=4, steps=7)
    wanted = ExtractSpec(20, "up.*", "2x2", seed=4, steps=7, flip=True)
    assert asked(*mine, *file) == asked(*file, *mine) == wanted


def test_options_win_over_both(asked, recipe, spec_file):
    mine = recipe(timesteps=[20], blocks=["mid"], pool="2x2", seed=3, noise="none", heads=[0])
    file = spec_file(seed=4, ensemble=2, scale_latent=False, flip=True)
    options = ("-t", "5,sigma=0.3", "--seed", 0, "--pool", "none", "--ensemble", 1, "--no-flip",
               "--scale-latent", "--heads", "2,1", "--noise", "per-image")  # fmt: skip
    found = asked(*mine, *file, *options)
    assert found == ExtractSpec(("5", "sigma=0.3"), "mid", heads=(2, 1))
    # what no option says stays
    assert asked(*mine, *file, "--seed", 0) == ExtractSpec(
        20, "mid", "2x2", ensemble=2, noise="none", scale_latent=False, flip=True, heads=0
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("tile", 16), ("heads", [0]), ("tokens", [1, 2]), ("discard", [3]), ("label", 3),
     ("label", "class"), ("size", 48)],
)  # fmt: skip
def test_none_undoes_what_stands_below(asked, recipe, spec_file, field, value):
    below = {"timesteps": [20], "blocks": ["mid"], field: value}
    assert asked(*recipe(**below)) == ExtractSpec(**{**below, "timesteps": 20, "blocks": "mid"})
    for lower in (recipe(**below), spec_file(**below)):
        assert asked(*lower, f"--{field}", "none") == ExtractSpec(20, "mid")


def test_a_recipe_or_file_may_be_half_a_spec(asked, recipe, spec_file):
    assert asked(*recipe(timesteps=[20]), "-b", "mid") == ExtractSpec(20, "mid")
    assert asked(*recipe(timesteps=[20]), *spec_file(blocks=["mid"])) == ExtractSpec(20, "mid")
    answer = asked(*recipe(timesteps=[20]), *spec_file(seed=1))
    assert answer.code == 2
    assert "no blocks given; expected -b, --recipe, or --spec with a file that has them" in (
        answer.err
    )


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (("--timesteps", "1,2.5"), {"timesteps": ("1", "2.5")}),
        (("--blocks", "up.*, mid:in"), {"blocks": ("up.*", "mid:in")}),
        (("--pool", "2X3"), {"pool": "2x3"}),
        (("--ensemble", "4"), {"ensemble": 4}),
        (("--seed", "-3"), {"seed": -3}),
        (("--noise", "inversion", "--steps", "20"), {"noise": "inversion", "steps": 20}),
        (("--noise", "generation"), {"noise": "generation"}),
        (("--prompt", "a {class}"), {"prompt": "a {class}"}),
        (("--captions", "pictures"), {"captions": "pictures"}),
        (("--captions", "c.csv"), {"captions": "c.csv"}),
        (("--embeddings", "e.safetensors"), {"embeddings": "e.safetensors"}),
        (("--label", "3"), {"label": 3}),
        (("--label", "class"), {"label": "class"}),
        (("--latent", "sample"), {"latent": "sample"}),
        (("--latent", "mode"), {"latent": "mean"}),
        (("--raw-latent",), {"scale_latent": False}),
        (("--scale-latent",), {"scale_latent": True}),
        (("--size", "48"), {"size": (48, 48)}),
        (("--size", "48x32"), {"size": (48, 32)}),
        (("--fit", "native"), {"fit": "native"}),
        (("--fit", "pad"), {"fit": "pad"}),
        (("--resample", "lanczos"), {"resample": "lanczos"}),
        (("--tile", "16"), {"tile": (16, 16)}),
        (("--tile", "16x32"), {"tile": (16, 32)}),
        (("--tile", "16", "--tile-noise", "tile"), {"tile": (16, 16), "tile_noise": "tile"}),
        (
            ("--tile", "16", "--tile-layout", "shifted"),
            {"tile": (16, 16), "tile_layout": "shifted"},
        ),
        (("--flip",), {"flip": True}),
        (("--no-flip",), {"flip": False}),
        (("--heads", "2, 0"), {"heads": (2, 0)}),
        (("--tokens", "5"), {"tokens": (5,)}),
        (("--discard", "7,1"), {"discard": (7, 1)}),
        (("--dtype", "float32"), {"dtype": "float32"}),
    ],
)
def test_every_option_is_a_field(asked, options, fields):
    least = [part for name, value in (("-t", "20"), ("-b", "mid"))
             if LONG[name] not in options for part in (name, value)]  # fmt: skip
    assert asked(*least, *options) == ExtractSpec(**{"timesteps": "20", "blocks": "mid", **fields})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--heads", "a"), ["--heads", "expected indices such as 0,5"]),
        (("--tokens", "-1"), ["--tokens", "expected indices such as 0,5"]),
        (("--discard", "1.5"), ["--discard", "expected indices such as 0,5"]),
        (("--heads", "0,0"), ["heads=(0, 0); expected different indices from 0"]),
        (("--heads", ""), ["heads is empty; expected at least one index"]),
        (("--tile", "12x"), ["--tile", "480x640"]),
        (("--tile", "0"), ["tile=(0, 0); expected height and width"]),
        (("--label", "cat"), ["label='cat'; expected a whole number, or 'class'"]),
        (("--label", "1.5"), ["label='1.5'; expected a whole number, or 'class'"]),
        (("--steps", "0"), ["steps=0; expected at least 1"]),
        (("--steps", "many"), ["--steps", "not a valid integer"]),
        (("--noise", "inverse"), ["noise='inverse' is unknown", "did you mean 'inversion'"]),
        (("--latent", "median"), ["latent='median' is unknown; expected 'mean' or 'sample'"]),
        (("--fit", "natural"), ["fit='natural' is unknown", "'native'"]),
        (("--prompt", "a", "--captions", "c.csv"), ["prompt and captions are given"]),
        (("--prompt", "a", "--embeddings", "e.safetensors"), ["prompt and embeddings are given"]),
        (("--captions", "c", "--embeddings", "e"), ["captions and embeddings are given"]),
    ],
)
def test_wrong_options(asked, options, words):
    answer = asked(*LEAST, *options)
    assert answer.code == 2
    for word in words:
        assert word in answer.err


# --- prompts --------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", ["captions", "embeddings"])
def test_a_prompt_replaces_what_stands_below(asked, recipe, spec_file, lower):
    value = {"captions": "c.csv", "embeddings": "e.safetensors"}[lower]
    wanted = ExtractSpec(20, "mid", prompt="a cat")
    below = {"timesteps": [20], "blocks": ["mid"], lower: value}
    assert asked(*recipe(**below), "--prompt", "a cat") == wanted
    assert asked(*spec_file(**below), "--prompt", "a cat") == wanted


def test_captions_replace_the_prompt_of_a_recipe(asked, recipe):
    mine = recipe(timesteps=[20], blocks=["mid"], prompt="a photo of a {class}")
    assert asked(*mine, "--captions", "c.csv") == ExtractSpec(20, "mid", captions="c.csv")


def test_embeddings_replace_the_prompt_of_a_recipe(asked, recipe):
    mine = recipe(timesteps=[20], blocks=["mid"], prompt="a photo of a {class}")
    wanted = ExtractSpec(20, "mid", embeddings="e.safetensors")
    assert asked(*mine, "--embeddings", "e.safetensors") == wanted


def test_captions_replace_the_embeddings_of_a_file(asked, spec_file):
    file = spec_file(timesteps=[20], blocks=["mid"], embeddings="e.safetensors")
    assert asked(*file, "--captions", "c.csv") == ExtractSpec(20, "mid", captions="c.csv")


def test_captions_of_a_file_replace_the_prompt_of_a_recipe(asked, recipe, spec_file):
    mine = recipe(timesteps=[20], blocks=["mid"], prompt="a photo of a {class}")
    found = asked(*mine, *spec_file(captions="c.csv"))
    assert found == ExtractSpec(20, "mid", captions="c.csv")


def test_other_options_leave_the_prompt_of_a_recipe(asked, recipe):
    mine = recipe(timesteps=[20], blocks=["mid"], prompt="a photo of a {class}")
    found = asked(*mine, "--seed", 2, "--label", "class")
    assert found == ExtractSpec(20, "mid", prompt="a photo of a {class}", seed=2, label="class")
