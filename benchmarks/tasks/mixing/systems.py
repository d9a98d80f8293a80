"""What a system of a file of mixing is made of: its aggregator, its training, its read-out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.base import clone

import probes.aggregate
import probes.matching
from benchmarks.searching import BoundPairs
from benchmarks.tasks.mixing.file import System
from diffeat.errors import SpecError
from diffeat.progress import counted
from probes import Cells, Matches, Pairs
from probes.aggregate import together
from probes.lazy import Rows
from probes.matching import NearestMatcher, Paired
from probes.metrics.pck import PCK

READ_OUT = "matcher."
"""Of a choice that is an argument of the read-out."""
AXES = 200
"""Pictures that principal axes are found on."""
AT_ONCE = 32
"""Pictures that are mixed at a time."""


@dataclass(frozen=True)
class Method:
    """How several cells become one map.

    Attributes:
        kind: class of `probes.aggregate`; "" takes the cells as they are.
        learns: "nothing", from "pictures" that are trained on (axes), or from "pairs" of them.
        fuses: whether it is given the features of each model apart.
        mirrors: whether it also asks for the features of the mirrored pictures.
        through: what is learned through the backbone, a "prompt" or "points"; "" is nothing.
    """

    kind: str = ""
    learns: str = "nothing"
    fuses: bool = False
    mirrors: bool = False
    through: str = ""


METHODS: Mapping[str, Method] = MappingProxyType({
    "cells": Method(),
    "sum": Method("SumCells"),
    "concat": Method("ConcatCells"),
    "pca": Method("PCACells", "pictures"),
    "co-pca": Method("CoPCA", "pictures"),
    "hyperfeatures": Method("HyperfeatureMixer", "pairs"),
    "spatial": Method("SpatialFusion", "pairs"),
    "bottleneck": Method("Bottleneck", "pairs"),
    "pose": Method("PoseAdapter", mirrors=True),
    "prompt": Method(learns="pairs", through="prompt"),
    "point-prompts": Method(through="points"),
    "fusion": Method("Fusion", "pictures", fuses=True),
})  # fmt: skip
"""Name in a benchmark file → how it is done."""


def method_of(system: System) -> Method:
    """SpecError where there is none of that name."""
    if system.method not in METHODS:
        raise SpecError(f"system {system.name!r}: method {system.method!r} is unknown; expected "
                        f"one of {', '.join(METHODS)}")  # fmt: skip
    return METHODS[system.method]


def check_system(system: System) -> None:
    """SpecError, before anything is computed, for a method or arguments that cannot be meant."""
    try:
        for value in next(iter(system.choose.values()), [None]):
            chosen = dict.fromkeys(system.choose, value)
            aggregator(system, chosen, 0, "cpu")
            matcher_of(system, chosen)
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"system {system.name!r}: {error}") from error


def aggregator(system: System, chosen: Mapping[str, Any], seed: int, device: str) -> Any:
    """The aggregator of a system, not fitted; None takes the cells as they are."""
    method = method_of(system)
    chosen = {name: value for name, value in chosen.items() if not name.startswith(READ_OUT)}
    arguments = {**system.arguments, **chosen}
    if not method.kind:
        if arguments and not method.through:
            raise ValueError(f"arguments {', '.join(arguments)} of {system.method}; expected none")
        return None
    inner = arguments.pop("co_pca", None)  # of a fusion
    if inner is not None:
        arguments["reduce"] = probes.aggregate.CoPCA(**inner)
    made = getattr(probes.aggregate, method.kind)(**arguments)
    known = made.get_params(deep=False)
    options = {"random_state": seed, "progress": counted, "device": device}
    return made.set_params(**{name: value for name, value in options.items() if name in known})


def matcher_of(system: System, chosen: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The read-out: that of all tables, or what the system says."""
    options = {name.removeprefix(READ_OUT): value for name, value in chosen.items()
               if name.startswith(READ_OUT)}  # fmt: skip
    options = {**system.matcher, **options}
    kind = options.pop("kind", NearestMatcher.__name__)
    if not kind.endswith("Matcher") or not hasattr(probes.matching, kind):
        raise ValueError(f"matcher {kind!r}; expected a matcher of probes.matching")
    return getattr(probes.matching, kind)(**options)


@dataclass(frozen=True, eq=False)
class Given:
    """The features of a system: rows of all pictures, a `Cells` for each of `of`.

    Attributes:
        groups: the cells.
        train, chooses: pairs that are learnt from and chosen by, or None.
    """

    groups: tuple[Cells, ...]
    train: Pairs | None = None
    chooses: Pairs | None = None

    @property
    def pictures(self) -> np.ndarray | None:
        """At most `AXES` rows that axes are found on, none of them reported; None: nothing else
        is known than what is reported."""
        pairs = self.train or self.chooses
        if pairs is None:
            return None
        rows = np.unique([pairs.source, pairs.target])
        return rows[np.unique(np.linspace(0, len(rows) - 1, AXES).astype(int))]

    def input_of(self, method: Method) -> Any:
        """What an aggregator of a method is given."""
        if method.fuses:
            return list(self.groups)
        if len(self.groups) > 1:
            raise SpecError(f"{len(self.groups)} kinds of features for a method that takes one; "
                            "expected a fusion")  # fmt: skip
        return self.groups[0]


def fitted(made: Any, method: Method, given: Given, checkpoint: Any = None) -> Any:
    """The aggregator, fitted on the pictures and pairs of training alone.

    Raises:
        SpecError: there are no pairs to train on.
    """
    if method.learns == "nothing":
        return made.fit(given.input_of(method)) if hasattr(made, "fit") else made
    if method.learns == "pictures":
        rows = given.pictures
        groups = [cells if rows is None else cells[rows] for cells in given.groups]
        return made.fit(groups if method.fuses else groups[0])
    if given.train is None:
        raise SpecError(f"{method.kind} is trained, but there are no pairs to train on; give "
                        "train, or a select_share below 1")  # fmt: skip
    if "checkpoint" in made.get_params(deep=False) and checkpoint is not None:
        made.set_params(checkpoint=checkpoint)
    held = None if given.chooses is None else (given.groups[0], given.chooses)
    return made.fit(given.input_of(method), given.train, validation=held)


def count(
    made: Any, method: Method, given: Given, matcher: Any, bound: BoundPairs, pck: PCK
) -> PCK:
    """Match all pairs of a set with what an aggregator makes, and count them."""
    pairs = bound.pairs
    if method.mirrors:
        found = _posed(made, given.groups[0], matcher, bound)
    elif _of_pairs(made):
        cells = together(list(given.groups)) if method.fuses else given.groups[0]
        found = Paired(matcher, made).match_pairs(cells, pairs)
    else:
        rows = np.unique([pairs.source, pairs.target])
        cells = given.groups[0][rows] if made is None else _mixed(made, method, given, rows)
        place = {row: k for k, row in enumerate(rows.tolist())}
        sides = [[place[row] for row in side.tolist()] for side in (pairs.source, pairs.target)]
        found = matcher.match_pairs(cells, Pairs(*sides, pairs.source_points))
    for pair, one in enumerate(found):
        pck.update(one.points, pairs.target_points[pair], valid=one.valid, **bound.about(pair))
    return pck


def _of_pairs(made: Any) -> bool:
    """Whether axes are those of each pair."""
    scopes = [getattr(one, "scope", "") for one in (made, getattr(made, "reduce", None))]
    return "pair" in scopes


def _posed(made: Any, cells: Cells, matcher: Any, bound: BoundPairs) -> Iterator[Matches]:
    """Matches after the pose was adapted; `partners` of a file are names, of points by pair."""
    named, pairs = dict(made.partners or {}), bound.pairs
    for pair, (a, b, points) in enumerate(
        zip(pairs.source.tolist(), pairs.target.tolist(), pairs.source_points, strict=True)
    ):
        names = [str(name) for name in bound.targets.truth(pair).names] if named else []
        partner = [names.index(named[name]) if named.get(name) in names else place
                   for place, name in enumerate(names)]  # fmt: skip
        transform = clone(made).set_params(partners=partner or None)
        yield Paired(matcher, transform).match(cells.maps(a), cells.maps(b), points)


def _mixed(made: Any, method: Method, given: Given, rows: np.ndarray) -> Cells:
    """The mixed maps of some pictures, made once, in float16 as feature files keep them."""
    some = [cells[rows] for cells in given.groups]
    mixed = made.transform(some if method.fuses else some[0])
    (key,) = mixed.keys
    maps: Rows = mixed.rows(key)
    values = np.empty(maps.shape, np.float16)
    for start in range(0, len(rows), AT_ONCE):
        values[start : start + AT_ONCE] = maps[start : start + AT_ONCE]
    return Cells({key: values}, sizes=mixed.sizes, placements=mixed.placements,
                 input_size=mixed.input_size)  # fmt: skip


def with_boxes(bound: BoundPairs) -> Pairs:
    """Pairs of training; errors are measured in the boxes' larger sides where all are known."""
    boxes = bound.boxes
    if np.isnan(boxes).any():
        return bound.pairs
    return replace(bound.pairs, reference=np.maximum(*(boxes[:, 2:] - boxes[:, :2]).T))


def about_fit(made: Any) -> dict[str, Any]:
    """What a trained aggregator says of its training: curve, weights, parameters."""
    said: dict[str, Any] = {}
    if weights := getattr(made, "weights_", None):
        said["weights"] = [[*key, float(weight)] for key, weight in dict(weights).items()]
    if history := getattr(made, "history_", None):
        said |= {"history": history, "best_epoch": made.best_epoch_}
        said["parameters"] = sum(weight.numel() for weight in made.module_.parameters())
    return said


def chosen_cells(spec: Any, keys: Sequence[Any], best: Any, among: Sequence[Any]) -> list[Any]:
    """The (block, t) that a system's `cells` means.

    Args:
        keys: what there is.
        best, among: the best single cell and the greedy set; None where nothing chose.
    """
    if spec == "all":
        return list(keys)
    if isinstance(spec, dict):
        blocks, steps = (spec.get(name) for name in ("blocks", "timesteps"))
        found = [(block, t) for block, t in keys
                 if (not blocks or block in blocks) and (not steps or t in steps)]  # fmt: skip
    else:
        found = {
            "best": [best], "set": list(among),
            "best block": [key for key in keys if key[0] == best[0]],
            "best t": [key for key in keys if key[1] == best[1]],
        }[spec]  # fmt: skip
    if not found:
        raise SpecError(f"cells {spec!r} are none of {list(keys)}")
    return found
