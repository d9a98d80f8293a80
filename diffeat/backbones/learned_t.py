"""Files of weights, and the t that a denoiser's weights were trained for."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

from diffeat.errors import ModelError, SpecError
from diffeat.noise import LEARNED
from diffeat.specs import ExtractSpec

LEARNED_T = "diffeat_learned_t"
"""Entry of the metadata of weights: that t, which may be a fraction."""
HALF = ".fp16"


def weights_in(folder: Path) -> list[Path]:
    """The weights in a folder; half-precision copies only where there is nothing else."""
    files = sorted(p for p in folder.glob("*.safetensors") if "non_ema" not in p.name)
    return [path for path in files if HALF not in path.name] or files


def learned_t_of(source: Path) -> float | None:
    """The t that weights were trained for, without noise; None where they say nothing.

    Args:
        source: a .safetensors file, or a folder with some.

    Raises:
        ModelError: they are not there, or what they say is no number at or above 0.
    """
    if not source.exists():
        raise ModelError(f"{source}: no such weights; expected a .safetensors file, or a folder "
                         "with them")  # fmt: skip
    found = None
    for file in [source] if source.is_file() else weights_in(source):
        text = _metadata(file).get(LEARNED_T)
        if text is not None:
            found = _number(text, file)
    return found


def with_learned_t(spec: ExtractSpec, known: int | float | None, name: str) -> ExtractSpec:
    """A spec whose t "learned" is the number that the denoiser's weights were trained for.

    Where they were trained for one, another t or noise is warned of.

    Args:
        spec: what is asked for.
        known: that t; None where the weights have none.
        name: of the model, for messages.

    Raises:
        SpecError: "learned" of weights that have none, or with noise.
    """
    asked = LEARNED in spec.timesteps
    if asked and known is None:
        raise SpecError(
            f"t={LEARNED}: {name} has no learned t; expected weights that come with one "
            "(--denoiser), or a number"
        )
    if asked and spec.noise != "none":
        raise SpecError(
            f"t={LEARNED} with noise={spec.noise}: {name} was trained for clean pictures; give "
            "--noise none, or a t of its own"
        )
    if asked:
        steps = tuple(known if t == LEARNED else t for t in spec.timesteps)
        spec = replace(spec, timesteps=steps)
    if known is not None and (spec.noise != "none" or set(spec.timesteps) != {known}):
        warnings.warn(
            f"{name}: its denoiser was trained for clean pictures at t={known:g}; asked for "
            f"noise={spec.noise} at t={', '.join(map(str, spec.timesteps))}. "
            f"-t {LEARNED} --noise none is what it is for",
            stacklevel=4,
        )
    return spec


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            return opened.metadata() or {}
    except Exception:  # whoever loads the weights says what is wrong
        return {}


def _number(text: str, file: Path) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ModelError(f"{file}: its learned t is {text[:40]!r}; expected a number: save it anew")
    return found
