"""A training that is kept: weights, optimizer, random states and learning curve in one file.

A checkpoint is a `.safetensors` file: tensors, and in its metadata JSON. Reading one runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from probes.tensor_files import Tensors, read_tensors, read_texts, write_tensors

FORMAT = 1
NAME = "checkpoint.safetensors"


def checkpoint_path(place: str | Path) -> Path:
    """The file that is meant: `place` where it ends in .safetensors, else one in that folder."""
    place = Path(place)
    return place if place.suffix == ".safetensors" else place / NAME


def write_checkpoint(
    path: Path, about: Mapping[str, Any], state: Mapping[str, Any], tensors: Mapping[str, Tensors]
) -> None:
    """Write it whole or not at all (see `write_tensors`).

    Args:
        about: what the training is; see `read_checkpoint`.
        state: where it stands, as plain values.
        tensors: by kind ("weights", "optimizer", …) and name.
    """
    flat = {
        f"{kind}/{name}": value for kind, named in tensors.items() for name, value in named.items()
    }
    texts = {"format": str(FORMAT), "about": json.dumps(about), "state": json.dumps(state)}
    write_tensors(path, flat, texts)


def read_checkpoint(
    path: Path, about: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensors]] | None:
    """State and tensors of a checkpoint of this very training; None where there is no file.

    Args:
        about: what the training is: settings, seeds, sizes.

    Raises:
        ValueError: no checkpoint, or one of another training; says which fields differ.
    """
    if not path.exists():
        return None
    try:
        metadata, flat = read_texts(path), read_tensors(path)
        if metadata.get("format") != str(FORMAT):
            raise ValueError(f"format {metadata.get('format')}, expected {FORMAT}")
        before, state = json.loads(metadata["about"]), json.loads(metadata["state"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no checkpoint of a training ({error}); delete it, or name another place"
        ) from error
    now = json.loads(json.dumps(about))
    differ = [f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
              for key in sorted({*before, *now}) if before.get(key) != now.get(key)]  # fmt: skip
    if differ:
        raise ValueError(
            f"{path} is of another training: {'; '.join(differ)}; delete it, or name another place"
        )
    tensors: dict[str, Tensors] = {}
    for name, value in flat.items():
        kind, _, rest = name.partition("/")
        tensors.setdefault(kind, {})[rest] = value
    return state, tensors


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """What an optimizer remembers of each weight: "INDEX/NAME" → tensor."""
    remembered = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value
        for index, state in remembered.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The reverse; rates and the like are those that the optimizer has."""
    remembered: dict[int, Tensors] = {}
    for name, value in tensors.items():
        index, _, rest = name.partition("/")
        remembered.setdefault(int(index), {})[rest] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": remembered, "param_groups": groups})
