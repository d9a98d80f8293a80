"""Options that are made from the fields of a spec."""

from __future__ import annotations

from dataclasses import fields

import click
import pytest

from diffeat.cli.extract import extract
from diffeat.cli.models import blocks
from diffeat.cli.recipes import channels
from diffeat.cli.search import search
from diffeat.cli.spec_options import spec_options
from diffeat.specs import HELP, ExtractSpec

FIELDS = {field.name: field for field in fields(ExtractSpec)}
VALUES = {  # what is typed, and what the spec has then
    "timesteps": (["-t", "20,sigma=0.3"], ("20", "sigma=0.3")),
    "blocks": (["-b", "mid,up.*"], ("mid", "up.*")),
    "pool": (["--pool", "2x2"], "2x2"),
    "ensemble": (["--ensemble", "3"], 3),
    "seed": (["--seed", "7"], 7),
    "noise": (["--noise", "shared"], "shared"),
    "steps": (["--steps", "9"], 9),
    "prompt": (["--prompt", "a {class}"], "a {class}"),
    "captions": (["--captions", "c.csv"], "c.csv"),
    "embeddings": (["--embeddings", "e.safetensors"], "e.safetensors"),
    "label": (["--label", "4"], 4),
    "label_map": (["--label-map", "m.csv", "--label", "class"], "m.csv"),
    "latent": (["--latent", "sample"], "sample"),
    "scale_latent": (["--raw-latent"], False),
    "size": (["--size", "48x64"], (48, 64)),
    "fit": (["--fit", "crop"], "crop"),
    "resample": (["--resample", "lanczos"], "lanczos"),
    "tile": (["--tile", "16"], (16, 16)),
    "flip": (["--flip"], True),
    "mirror": (["--mirror"], True),
    "corrupt": (["--corrupt", "gaussian_noise:3"], "gaussian_noise:3"),
    "tile_noise": (["--tile", "16", "--tile-noise", "tile"], "tile"),
    "tile_layout": (["--tile", "16", "--tile-layout", "shifted"], "shifted"),
    "heads": (["--heads", "0,2"], (0, 2)),
    "tokens": (["--tokens", "5"], (5,)),
    "low_pass": (["--low-pass", "0.5"], 0.5),
    "discard": (["--discard", "1,8"], (1, 8)),
    "dtype": (["--dtype", "int8"], "int8"),
}


@click.command()
@spec_options()
def toy(**values):
    toy.values = values


def options_of(command):
    return {each.name: each for each in command.params if isinstance(each, click.Option)}


def test_every_field_is_tried_here():
    assert VALUES.keys() == FIELDS.keys() == HELP.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_an_option_gives_its_field(name):
    typed, wanted = VALUES[name]
    toy.main(typed, standalone_mode=False)
    given = {key: value for key, value in toy.values.items() if value is not None}
    spec = ExtractSpec(**{"timesteps": (20,), "blocks": ("mid",), **given})
    assert getattr(spec, name) == wanted


def test_what_is_not_given_is_left_open():
    toy.main([], standalone_mode=False)
    assert toy.values == dict.fromkeys(FIELDS)


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("timesteps", "blocks")])
def test_help_names_the_default_of_the_spec(name):
    words, default = options_of(toy)[name].help, FIELDS[name].default
    assert "{default}" not in words
    if default not in (None, "", (), True, False):
        assert f"{default} (" in words or f"(default {default})" in words, words


@pytest.mark.parametrize("command", [extract, search, channels, blocks])
def test_commands_say_the_same_of_a_field(command):
    """But for what they say otherwise: search's pool and dtype, channels' blocks and label."""
    own = {"search": {"pool", "dtype", "timesteps", "blocks", "seed"},
           "channels": {"blocks", "label"}, "blocks": {"blocks"}}  # fmt: skip
    found = {"noise_seed" if name == "seed" and command is search else name: name
             for name in FIELDS if name not in own.get(command.name, ())}  # fmt: skip
    shared = {n: each.help for n, each in options_of(command).items() if n in found}
    assert shared
    for name, words in shared.items():
        wanted = options_of(toy)[found[name]].help
        assert words.removeprefix("MODEL: ").lower() == wanted.lower()


def test_a_search_has_two_seeds():
    found = options_of(search)
    assert found["noise_seed"].opts == ["--noise-seed"]
    assert found["seed"].opts == ["--seed"]
