"""Systems that are trained through the model itself: VPD, which tells it the classes."""

from __future__ import annotations

from typing import Any

import numpy as np

import diffeat
from benchmarks.searching import inner_split
from benchmarks.tasks.dense.file import DenseBenchmark, System
from benchmarks.tasks.dense.sets import Sets
from benchmarks.tasks.matching.models import Row
from diffeat.adapt import VPD
from diffeat.errors import SpecError

HEAD = "vpd"
"""Name of such a head in a benchmark file."""
OF_SPEC = {"size": "size", "fit": "fit_by"}
"""Field of the extraction → argument of VPD that says the same."""


def check_through(benchmark: DenseBenchmark, system: System) -> None:
    """SpecError, before anything is computed, for what cannot be meant.

    Raises:
        SpecError: arguments that VPD does not take; several kinds of features; a frame.
    """
    where = f"system {system.name!r}"
    if len(system.of) > 1 or system.choose:
        raise SpecError(f"{where}: {HEAD} is trained through one model, with nothing to choose; "
                        "expected one name in of, and no choose")  # fmt: skip
    if system.name in benchmark.uncertainty:
        raise SpecError(f"{where}: {HEAD} has one member, whose uncertainty is not measured; leave "
                        "it out of uncertainty")  # fmt: skip
    if benchmark.frame:
        raise SpecError(f"{where}: {HEAD} is scored at the pictures' own size; leave frame out")
    try:
        VPD(None, ("a", "b"), **_arguments(system))
    except TypeError as error:
        raise SpecError(f"{where}: {error}") from error


def trained(
    system: System, row: Row, sets: Sets, rows: np.ndarray, seed: int, device: str
) -> VPD:  # fmt: skip
    """A VPD fitted on labelled pictures; its epoch is chosen on a fifth of their groups.

    Args:
        row: the model that it is trained through.
        rows: training pictures.
    """
    depth = sets.train.kind == "depth"
    words = system.arguments.get("words") or sets.train.classes
    if not words:
        raise SpecError(f"system {system.name!r}: depth has no classes; expected words that "
                        "pictures may show, words = …")  # fmt: skip
    held = inner_split([sets.train.groups[int(k)] for k in rows])
    fields = {argument: row.fields[name] for name, argument in OF_SPEC.items()
              if name in row.fields}  # fmt: skip
    backbone = diffeat.load(row.name, device, "float32", denoiser=row.denoiser)
    found = VPD(
        backbone, words, task="depth" if depth else "segmentation", random_state=seed,
        progress=False, **{**fields, **_arguments(system)},
    )  # fmt: skip
    return found.fit(sets.train.take(rows[~held]), sets.train.take(rows[held]) if held.any()
                     else None)  # fmt: skip


def predictions(vpd: VPD, sets: Sets) -> Any:
    """(H, W) of the test pictures, one after another."""
    source = sets.test.pictures()
    return vpd.predict(source.load(row) for row in range(len(sets.test)))


def _arguments(system: System) -> dict[str, Any]:
    """Of VPD; lists of a file as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in system.arguments.items() if name != "words"}  # fmt: skip
