"""The winner of a search as a file that `diffeat extract --spec` takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffeat.noise import Level, shown_t
from diffeat.search.tasks import CellKey
from diffeat.specs import ExtractSpec
from diffeat.store.format.atomic import write_synced


def spec_of_cells(spec: ExtractSpec, cells: Iterable[CellKey]) -> ExtractSpec:
    """The spec that extracts some cells: the product of their blocks and their t's.

    Args:
        spec: that of the search.
        cells: what was chosen; with different blocks at different t's the product holds more.
    """
    cells = list(cells)
    blocks = tuple(dict.fromkeys(block for block, _ in cells))
    timesteps = tuple(dict.fromkeys(_spelled(t, spec.timesteps) for _, t in cells))
    return replace(spec, blocks=blocks, timesteps=timesteps)


def _spelled(t: float, spelled: tuple[Level, ...]) -> Level:
    """How the spec of the search wrote a native t: flow times are 1000 times smaller."""
    if t in spelled:
        return t
    flow = (s for s in spelled if isinstance(s, float) and math.isclose(1000 * s, t))
    return next(flow, t)


def write_best_spec(
    path: str | Path, spec: ExtractSpec, cells: Iterable[CellKey], notes: Iterable[str] = ()
) -> ExtractSpec:
    """Write a TOML file with the spec of the chosen cells, and what it is as comments.

    Args:
        path: the .toml file.
        spec: that of the search, with all its fields.
        cells: the chosen (block, t).
        notes: lines of comment.

    Returns:
        What was written.
    """
    cells = list(cells)
    best = spec_of_cells(spec, cells)
    chosen = ", ".join(f"{block}{shown_t(t, ' at t=')}" for block, t in cells)
    lines = [f"# {' '.join(note.split())}" for note in (*notes, f"chosen: {chosen}")]
    lines += [
        f"{name} = {_toml(value)}" for name, value in best.to_dict().items() if value is not None
    ]
    write_synced(Path(path), ("\n".join(lines) + "\n").encode())
    return best


def _toml(value: Any) -> str:
    """A TOML value; strings of JSON are strings of TOML, but for DEL."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
