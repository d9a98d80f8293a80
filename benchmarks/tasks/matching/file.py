"""What a benchmark file of matching says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import Benchmark
from diffeat.errors import SpecError
from diffeat.specs import ExtractSpec
from probes.metrics.conventions import Convention

AGGREGATES = ("point", "pair")
"""How shares are averaged in every table: of all points, and over the pairs' own shares."""


@dataclass(frozen=True)
class Measured:
    """A model that is measured.

    Attributes:
        name: what `diffeat.load` takes, or a folder below those of the data sets, such as
            "./zoo/my-unet". A model that is not there is left out, and the report says so.
        denoiser: weights that take the place of the denoiser's, likewise; "" keeps its own.
        label: for the tables; "" is the name's last part.
        extract: fields of the ExtractSpec that differ from the benchmark's.
        twin: whether it is measured with random weights too.
    """

    name: str
    denoiser: str = ""
    label: str = ""
    extract: dict[str, Any] = field(default_factory=dict)
    twin: bool = True

    @property
    def shown(self) -> str:
        """What tables call it."""
        return self.label or self.name.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class MeasuredBenchmark(Benchmark):
    """What files have whose models are measured beside their twins, vision models and pixels.

    Attributes:
        models: what is measured.
        extract: fields of the ExtractSpec for all models.
        twin: fields that random twins have instead, such as fewer t.
        vision: vision models that are measured where their weights are.
        vision_extract: fields of the ExtractSpec for these.
    """

    models: tuple[Measured, ...]
    extract: dict[str, Any]
    twin: dict[str, Any] = field(default_factory=dict)
    vision: tuple[str, ...] = ()
    vision_extract: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"benchmark {self.name}"
        if not self.models:
            raise SpecError(f"{where} has no models; expected at least one [[models]]")
        names = [one.shown for one in self.models]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise SpecError(f"{where}: two models are called {twice[0]!r}; give one a label")
        for one in self.published:
            if one.beside not in ("", *self.beside):
                raise SpecError(f"{where}: a published figure beside {one.beside!r}; expected "
                                f"{', '.join(self.beside)}, or none")  # fmt: skip

    @property
    def beside(self) -> tuple[str, ...]:
        """Rows that published figures may stand beside."""
        return tuple(one.shown for one in self.models)

    @property
    def sources(self) -> set[str]:
        """Labels of models, of their twins with random weights, and of vision models."""
        models = {one.shown for one in self.models}
        vision = {name.partition("@")[0].rpartition(":")[2] for name in self.vision}
        return models | {f"{name}@random" for name in models} | vision

    def check_specs(self) -> None:
        """SpecError, before anything is computed, for what no model can be asked."""
        for one in self.models:
            for twin in ({}, self.twin):
                ExtractSpec.from_dict({**self.extract, **one.extract, **twin})


@dataclass(frozen=True, kw_only=True)
class PairBenchmark(MeasuredBenchmark):
    """What files have whose models are measured on pairs of pictures.

    Attributes:
        pairs: those of the report, a named set such as "spair:test".
        select: pairs that choose the cell; "" where every model has one cell.
        patches: sides of inputs whose raw pixels are matched by patches.
    """

    pairs: str
    select: str = ""
    patches: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MatchingBenchmark(PairBenchmark):
    """A file whose task is matching: which (block, t) finds what corresponds.

    Attributes:
        select_share: share of the groups (persons, scenes) of `select`, by a hash, whose pairs
            choose; pairs of groups on two sides are left out. 1 takes all pairs.
        also: further pairs that the chosen cells are tried on.
        sets: cells of the greedy sets at most; 0 searches none.
        alphas: thresholds of PCK, the first is the one that chooses.
        references: what errors are measured in, "box", "image" or "extent" (see
            `probes.metrics.conventions`); the first chooses.
        strict: whether a point on the threshold is wrong (<, not ≤).
        places: pairs in which the mean place of each key point is a row; "" takes `select`.
    """

    select_share: float = 1.0
    also: tuple[str, ...] = ()
    sets: int = 0
    alphas: tuple[float, ...] = (0.1, 0.05)
    references: tuple[str, ...] = ("box",)
    strict: bool = False
    places: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        try:
            conventions = self.conventions
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from error
        if not conventions:
            raise SpecError(f'{where} has no references; expected at least one, such as "box"')
        if not self.alphas or min(self.alphas) <= 0:
            raise SpecError(f"{where}: alphas = {list(self.alphas)}; expected positive shares")
        if not 0 < self.select_share <= 1:
            raise SpecError(f"{where}: select_share = {self.select_share}; expected (0, 1]")
        if self.sets == 1 or self.sets < 0:
            raise SpecError(f"{where}: sets = {self.sets}; expected 0, or 2 cells and more")
        if self.sets and not self.select:
            raise SpecError(f"{where}: sets are chosen on pairs of their own; give select")

    @property
    def conventions(self) -> tuple[Convention, ...]:
        """Ways of counting that every table prints, the one that chooses first."""
        return tuple(
            Convention(reference, aggregate, self.strict)
            for reference in self.references for aggregate in AGGREGATES
        )  # fmt: skip
