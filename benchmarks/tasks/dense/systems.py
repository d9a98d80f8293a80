"""What a system of a dense benchmark is made of: its head, and how its setting is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

import probes.aggregate
import probes.dense
from benchmarks.searching import few_classes, fitted_dense, inner_split, setting_of, with_setting
from benchmarks.tasks.dense.file import System
from diffeat.errors import SpecError
from probes import Cells

MASKS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({
    "mean-mask": ("MeanMask", {}),
    "nearest-mean": ("NearestMean", {}),
    "kmeans": ("KMeansSegmenter", {}),
    "in-context": ("InContext", {}),
    "ridge": ("PixelLinear", {"kind": "ridge"}),
    "logistic": ("PixelLinear", {"kind": "logistic"}),
    "ensemble": ("PixelMLPEnsemble", {}),
    "fpn": ("FPNHead", {}),
    "dpt": ("DPTHead", {}),
})  # fmt: skip
"""Heads of classes: name in a benchmark file → class of `probes.dense` and its parameters."""
DEPTH: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType({
    "mean-depth": ("MeanDepth", {}),
    "ridge": ("PixelRegression", {}),
    "depth": ("DepthHead", {}),
    "fpn": ("DepthHead", {"kind": "fpn"}),
    "dpt": ("DepthHead", {"kind": "dpt"}),
})  # fmt: skip
"""Heads of depth, likewise."""
UNTRAINED = ("mean-mask", "mean-depth", "nearest-mean", "kmeans", "in-context")
"""Heads without a training of their own."""


def heads_of(kind: str) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """By what the targets are, "masks" or "depth"."""
    return MASKS if kind == "masks" else DEPTH


def head_of(
    system: System, kind: str, seed: int = 0, device: str = "cpu",
    chosen: Mapping[str, Any] = MappingProxyType({}),
) -> Any:  # fmt: skip
    """The head of a system, not fitted.

    Args:
        kind: of the targets, "masks" or "depth".
        seed: of heads that draw.
        chosen: arguments in place of the system's.

    Raises:
        SpecError: no such head of this kind, or arguments that it does not take.
    """
    known = heads_of(kind)
    if system.head not in known:
        raise SpecError(f"system {system.name!r}: head {system.head!r} is none of {kind}; expected "
                        f"one of {', '.join(known)}")  # fmt: skip
    name, fixed = known[system.head]
    arguments = {**fixed, **system.arguments, **chosen}
    try:
        if mixer := arguments.get("mixer"):
            arguments["mixer"] = mixer_of(mixer, seed)
        made = getattr(probes.dense, name)(**arguments)
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"system {system.name!r}: {error}") from error
    has = made.get_params(deep=False)
    wanted = {"random_state": seed, "device": device}
    return made.set_params(**{name: value for name, value in wanted.items() if name in has})


def mixer_of(table: Mapping[str, Any], seed: int) -> Any:
    """A mixer of `probes.aggregate` from its table in a benchmark file."""
    arguments = dict(table)
    made = getattr(probes.aggregate, arguments.pop("kind"))(**arguments)
    return made.set_params(random_state=seed) if "random_state" in made.get_params() else made


def check_system(system: System, kind: str) -> None:
    """SpecError, before anything is computed, for a head or arguments that cannot be meant."""
    for name, values in system.choose.items() or {"": [None]}.items():
        for value in values:
            head_of(system, kind, chosen={name: value} if name else {})


@dataclass(frozen=True, eq=False)
class Given:
    """The pictures of a system: features of all of them, and what is known of their pixels.

    Attributes:
        cells: N rows.
        truths: N label or depth maps, read when they are asked for.
        groups: N names of what the pictures belong to.
        classes, ignore: of label maps; () of depth.
        kind: "masks" or "depth".
    """

    cells: Cells
    truths: Any
    groups: Sequence[str]
    classes: Sequence[str]
    ignore: int
    kind: str

    def fit(self, head: Any, rows: np.ndarray, held: Any = ()) -> Any:
        """A head fitted on some rows, its own setting chosen on others where there are any."""
        validation = (self.cells[held], self.truths[held]) if len(held) else None
        with few_classes():
            return fitted_dense(
                head, self.cells[rows], self.truths[rows], validation, self.classes, self.ignore
            )

    def score(self, head: Any, rows: np.ndarray) -> float:
        """The larger the better."""
        return float(head.score(self.cells[rows], self.truths[rows]))


def learnt(
    system: System, given: Given, rows: np.ndarray, seed: int, device: str
) -> tuple[Any, dict[str, Any]]:
    """The head of a system, fitted on labelled pictures, and what was chosen among them.

    A penalty, or the argument of `choose`, is chosen on a fifth of the groups of these pictures;
    the head then learns from all of them. Of pictures of one group it has its default.
    """
    held = inner_split([given.groups[row] for row in rows])
    inner, outer = rows[~held], rows[held]
    chosen: dict[str, Any] = {}
    if system.choose and len(outer):
        ((name, values),) = system.choose.items()
        tried = [given.fit(head_of(system, given.kind, seed, device, {name: value}), inner)
                 for value in values]  # fmt: skip
        scores = [given.score(head, outer) for head in tried]
        chosen = {name: values[int(np.argmax(scores))]}
    head = head_of(system, given.kind, seed, device, chosen)
    if len(head.get_params(deep=False).get("alphas") or ()) > 1 and len(outer):
        setting = setting_of(given.fit(head, inner, outer))
        chosen["alpha"], head = setting, with_setting(head, setting)
    return given.fit(head, rows), chosen
