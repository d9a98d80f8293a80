"""What the name of a vision model means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.backbones.request import parse_name
from diffeat.errors import ModelError

TIMM, TRANSFORMERS = "timm:", "transformers:"
CLEAN = {"timesteps": (0,)}
"""Fields of a spec that need not be given for a vision model: it has no other t."""


def is_vision(name: str) -> bool:
    """Whether a name is that of a vision model, and not of a diffusion model."""
    return name.startswith((TIMM, TRANSFORMERS))


def defaults_for(name: str) -> dict[str, Any]:
    """Fields of a spec that a model's name says already."""
    return CLEAN if is_vision(name) else {}


@dataclass(frozen=True)
class VisionName:
    """A parsed name.

    Attributes:
        library: "timm" or "transformers".
        base: a timm architecture with or without tag; or a folder or hub id.
        seed: of random weights ("@random", "@random:3"), else None.
        file: weights given as a file ("timm:NAME@/path/weights.safetensors"), else None.
    """

    library: str
    base: str
    seed: int | None = None
    file: Path | None = None

    @classmethod
    def parse(cls, name: str) -> VisionName:
        """Take a name apart; one without a library is a folder or hub id of transformers.

        Raises:
            ModelError: it ends in an "@" that means nothing.
        """
        if not name.startswith(TIMM):
            return cls("transformers", *parse_name(name.removeprefix(TRANSFORMERS)))
        base, at, suffix = name.removeprefix(TIMM).partition("@")
        if not at:
            return cls("timm", base)
        if match := re.fullmatch(r"random(?::(\d+))?", suffix):
            return cls("timm", base, int(match[1] or 0))
        file = Path(suffix).expanduser()
        if file.suffix != ".safetensors":
            raise ModelError(
                f"model {name!r}: {'@' + suffix!r} is unknown; expected '@random', "
                "'@random:SEED' or '@' and a .safetensors file"
            )
        if not file.is_file():
            raise ModelError(f"model {name!r}: {file} is no file; correct the path")
        return cls("timm", base, file=file)
