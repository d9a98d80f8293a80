"""Which model is wanted and how it shall run, as plain values that any process can act on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffeat.errors import SpecError, nearest

if TYPE_CHECKING:
    from diffeat.backbones.base import Backbone

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

    def load(self) -> Backbone:
        """Load the model; see `diffeat.load`."""
        from diffeat.backbones.loading import load

        return load(**asdict(self))

    def on(self, index: int) -> ModelRequest:
        """The same for the `index`-th of several workers: each has a GPU, where there are some.

        A device with a number, and the CPU, stay as they are.
        """
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count and self.device in ("auto", "cuda"):
            return replace(self, device=f"cuda:{index % count}")
        return self
