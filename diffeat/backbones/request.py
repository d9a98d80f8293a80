"""Which model is wanted and how it shall run, as plain values that any process can act on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from diffeat.backbones.learned_t import learned_t_of
from diffeat.errors import ModelError, SpecError, nearest

OFFLOADS = ("none", "vae", "blocks")
DTYPE_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Short names of precisions."""


@dataclass(frozen=True)
class ModelRequest:
    """The arguments of `diffeat.load`, which says what they mean.

    A backbone keeps its request, so that another process can load the same model.

    Raises:
        SpecError: a value that cannot be meant.
    """

    name: str
    device: str = "auto"
    dtype: str = "auto"
    allow_pickle: bool = False
    lora: str | None = None
    denoiser: str | None = None
    channels_last: bool | str = "auto"
    compile: bool = False
    offload: str = "none"

    def __post_init__(self) -> None:
        for name in ("name", "device"):
            object.__setattr__(self, name, str(getattr(self, name)))
        object.__setattr__(self, "dtype", DTYPE_NAMES.get(self.dtype, self.dtype))
        for name in ("lora", "denoiser"):
            if getattr(self, name) is not None:
                # another process may stand in another folder
                path = Path(getattr(self, name)).expanduser().absolute()
                object.__setattr__(self, name, str(path))
        if self.channels_last not in (True, False, "auto"):
            raise SpecError(f"channels_last={self.channels_last!r}; expected true, false or 'auto'")
        if not isinstance(self.compile, bool):
            raise SpecError(f"compile={self.compile!r}; expected true or false")
        if self.offload not in OFFLOADS:
            raise SpecError(
                f"offload={self.offload!r}; expected {' or '.join(map(repr, OFFLOADS))}"
                f"{nearest(str(self.offload), OFFLOADS)}"
            )
        if self.compile and self.offload == "blocks":
            raise SpecError(
                "compile and offload='blocks' do not go together: compiled code wants its weights "
                "in one place; leave one of them out"
            )

    @property
    def base(self) -> str:
        """Bundled or known name, folder or hub id."""
        return parse_name(self.name)[0]

    @property
    def random_seed(self) -> int | None:
        """Seed of random weights, or None for the real ones."""
        return parse_name(self.name)[1]

    @property
    def changes(self) -> tuple[str, ...]:
        """What takes the place of, or is merged into, the denoiser's weights."""
        given = (("denoiser", self.denoiser), ("lora", self.lora))
        return tuple(f"{what} {path}" for what, path in given if path)

    @property
    def learned_t(self) -> float | None:
        """The t that the weights which take the denoiser's place were trained for, if any."""
        return None if self.denoiser is None else learned_t_of(Path(self.denoiser))

    def on(self, index: int) -> ModelRequest:
        """The same for the `index`-th of several workers: each has a GPU, where there are some.

        A device with a number, and the CPU, stay as they are.
        """
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count and self.device in ("auto", "cuda"):
            return replace(self, device=f"cuda:{index % count}")
        return self


def parse_name(name: str) -> tuple[str, int | None]:
    """A model's name without "@random" or "@random:SEED", and that seed (or None).

    Raises:
        ModelError: something else stands behind the "@".
    """
    base, at, suffix = name.rpartition("@")
    if not at or "/" in suffix:  # the "@" belongs to a folder
        return name, None
    match = re.fullmatch(r"random(?::(\d+))?", suffix)
    if match is None:
        raise ModelError(
            f"model {name!r}: {'@' + suffix!r} is unknown; expected '@random' or '@random:SEED'"
        )
    return base, int(match[1] or 0)
