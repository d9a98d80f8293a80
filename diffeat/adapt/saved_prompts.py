"""Files of learned prompts, written and read whole (see `diffeat.extraction.learned_prompts`)."""

from __future__ import annotations

from pathlib import Path

import torch

from diffeat.backbones.base import Backbone
from diffeat.errors import SpecError
from diffeat.extraction.learned_prompts import PromptFile
from probes.tensor_files import read_tensors, write_tensors


def write_prompt(path: str | Path, said: PromptFile, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a prompt's tensors and what the file says of itself.

    Raises:
        SpecError: the path does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise SpecError(f"{path}: expected a path that ends in .safetensors")
    write_tensors(path, tensors, said.texts())
    return path


def read_prompt(
    path: str | Path, backbone: Backbone, kinds: tuple[str, ...]
) -> tuple[PromptFile, dict[str, torch.Tensor]]:
    """What a file says of itself, and its tensors.

    Raises:
        SpecError: no prompt, of another kind, damaged, or of another model.
    """
    said = PromptFile.read(path)
    if said is None or said.kind not in kinds:
        what = "plain embeddings" if said is None else f"a prompt of kind {said.kind!r}"
        raise SpecError(f"{path} is {what}; expected a learned prompt: {' or '.join(kinds)}")
    said.identity.check(backbone, str(path))
    try:
        return said, read_tensors(Path(path))
    except ValueError as error:
        raise SpecError(f"{path}: {error}; learn the prompt again") from error
