"""What is compared: feature files and models, each with options of its own in one argument."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from diffeat.cli.options import option
from diffeat.cli.spec_options import recipe_option, spec_file_option, spec_options

OF_FILES = ("timesteps", "blocks")
"""Options that a feature file may have: which of its cells are looked at."""
NAMED = re.compile(r"([\w.@+-]+)=(.+)", re.DOTALL)


@click.command("SYSTEM", add_help_option=False)
@click.argument("what")
@spec_options()
@recipe_option
@spec_file_option
@option("--denoiser", type=click.Path(path_type=Path), help="Other weights for the denoiser.")
@option("--lora", type=click.Path(path_type=Path), help="LoRA weights to merge into it.")
def _one(**_values: Any) -> None:
    """The options of one system, as `diffeat extract` has them."""


@dataclass(frozen=True)
class System:
    """One of what is compared.

    Attributes:
        name: in tables.
        what: a feature file, or a model as `diffeat.load` takes it.
        values: options by name; None where nothing was said.
    """

    name: str
    what: str
    values: dict[str, Any]

    @property
    def is_file(self) -> bool:
        """Whether its features lie in a file."""
        return Path(self.what).suffix in (".h5", ".hdf5") or Path(self.what).is_file()

    @property
    def is_random(self) -> bool:
        """Whether it is a model with random weights."""
        return not self.is_file and "@random" in self.what

    def twin(self) -> System:
        """The same model with random weights; without weights of others."""
        from diffeat.vision.names import TIMM

        base = self.what.partition("@")[0] if self.what.startswith(TIMM) else self.what
        values = {**self.values, "denoiser": None, "lora": None}
        return replace(self, name=f"{self.name}@random", what=f"{base}@random", values=values)


def parse_systems(texts: Sequence[str]) -> list[System]:
    """Systems by what was typed: "dino=timm:… -b blocks.11", "features.h5", "sd21 -t 261 -b up.1".

    Names are what stands before "=", else the file's or the model's short name where no other
    has it.

    Raises:
        click.UsageError: options that there are not, or for a file those of models.
    """
    found = [_parsed(text) for text in texts]
    short = [name or _short(system) for name, system in found]
    names: list[str] = []
    for (given, system), name in zip(found, short, strict=True):
        if given is None and short.count(name) > 1:
            name = _long(system)
        names.append(_free(name, names))
    return [replace(system, name=name) for name, (_, system) in zip(names, found, strict=True)]


def _parsed(text: str) -> tuple[str | None, System]:
    given = None if Path(text).exists() else NAMED.fullmatch(text.strip())
    name, rest = given.groups() if given else (None, text)
    try:
        words = [rest] if Path(rest).exists() else shlex.split(rest)
        values = _one.make_context("SYSTEM", [*words]).params if words else {}
    except (click.UsageError, ValueError) as error:
        said = error.format_message() if isinstance(error, click.UsageError) else str(error)
        raise click.UsageError(
            f"{text!r}: {said}; expected a feature file or a model with its options, in one "
            "argument, such as 'unet-cifar10 -t 20,60 -b up.0,up.1'"
        ) from error
    if not words:
        raise click.UsageError("an empty system; expected a feature file or a model")
    system = System(name or "", values.pop("what"), values)
    if system.is_file and (others := [n for n in _given(system) if n not in OF_FILES]):
        raise click.UsageError(
            f"{text!r}: {', '.join(others)} would make other features, and those of a file are "
            "made already; expected -t and -b alone"
        )
    return name, system


def _given(system: System) -> list[str]:
    return [name for name, value in system.values.items() if value is not None]


def _short(system: System) -> str:
    """A file's name without ending, a folder's last part, a model without its weights' path."""
    if system.is_file:
        return Path(system.what).stem
    base, at, rest = system.what.partition("@")
    if at and "/" in rest:
        return base
    return Path(system.what).name if Path(base).is_dir() else system.what


def _long(system: System) -> str:
    """With the options that were given."""
    said = [f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in system.values.items() if value is not None]  # fmt: skip
    return " ".join([system.what, *said])


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where it is taken already."""
    found, count = name, 2
    while found in taken:
        found, count = f"{name} ({count})", count + 1
    return found


def spec_of_system(system: System, shared: dict[str, Any], pool: str) -> tuple[Any, str]:
    """The spec that a model's features are extracted by, and what was chosen for it.

    What the system says itself counts before what is said for all, and that before its recipe's
    and the default grid (`diffeat.search.comparing.defaults`).

    Args:
        shared: fields for all models, None where nothing was said.
        pool: where nobody says another.

    Returns:
        The spec, and a text that names its cells where they are the default grid's; else "".
    """
    from diffeat.cli.spec_options import check_recipe_option, spec_of

    values = dict(system.values)
    recipe, file = values.pop("recipe"), values.pop("spec_file")
    said = {**{n: v for n, v in shared.items() if v is not None},
            **{n: v for n, v in values.items() if v is not None}}  # fmt: skip
    known = {"pool": pool, **({} if recipe or file else _default_cells(system.what, values))}
    spec = spec_of(recipe, file, said, known)
    check_recipe_option(recipe, system.what, spec)
    chosen = [name for name in OF_FILES if not values[name] and name in known]
    if not chosen or (chosen == ["timesteps"] and known["timesteps"] == (0,)):
        return spec, ""
    shown = [", ".join(map(str, getattr(spec, name))) for name in chosen if spec.timesteps != (0,)
             or name != "timesteps"]  # fmt: skip
    return spec, f"{system.name}: looks at {' × '.join(shown)}, since it says no cells itself"


def _default_cells(model: str, values: dict[str, Any]) -> dict[str, Any]:
    """Levels and blocks of a model where it does not say its own."""
    from diffeat.loading import load
    from diffeat.search.comparing.defaults import SIGMAS, default_blocks
    from diffeat.vision.names import defaults_for

    known = {"timesteps": SIGMAS, **defaults_for(model)}
    if values["blocks"]:
        return known
    return {**known, "blocks": default_blocks(load(model, "meta").blocks)}


def request_of_system(system: System, run: dict[str, Any]) -> Any:
    """How a system's model is loaded; `run` has what is said for all: device, precision, …"""
    from diffeat.backbones import ModelRequest

    own = {name: system.values[name] for name in ("denoiser", "lora")}
    return ModelRequest(system.what, **run, **own)
