"""Numbers of a cell that need no label, by name: from a feature file, or straight from a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.backbones import Backbone
from diffeat.errors import NumericsError, SpecError, nearest
from diffeat.images import Source
from diffeat.noise import format_t
from diffeat.progress import counted
from diffeat.search.analysis.alignment import check_again
from diffeat.search.asking import Progress
from diffeat.search.frequency import CUTOFF, high_frequency_ratio, runs_among
from diffeat.search.label_free.table import FreeTable
from diffeat.search.live import batches_of
from diffeat.search.reading import Sliced
from diffeat.search.stored import cells_of
from diffeat.search.tasks import CellKey, choose_cells
from diffeat.specs import ExtractSpec
from diffeat.store import FeatureStore
from diffeat.work import Job, Worker
from probes.metrics.label_free import (
    MASSIVE,
    EffectiveRank,
    MassiveEnergy,
    NoiseAgreement,
    local_distant_similarity,
)

PICTURES = 128
"""How many pictures are looked at unless it is said: the numbers are means over many sites."""
NO_SEED = ("none", "inversion", "generation")
"""Policies of noise under which another seed gives no second noising of a picture."""


@dataclass(frozen=True)
class FreeOptions:
    """What the numbers are computed with.

    Attributes:
        cutoff: of the high-frequency ratio, in Nyquist frequencies.
        near, far: radii of LDS in sites; None takes shares of the side.
        distance: of LDS, "manhattan" or "chebyshev".
        over: rows of the effective rank, "sites" or "pictures".
        ratio: above which a channel is massive, in medians.
    """

    cutoff: float = CUTOFF
    near: int | None = None
    far: int | None = None
    distance: str = "manhattan"
    over: str = "sites"
    ratio: float = MASSIVE


class _Mean:
    """Mean over pictures of a number that each has."""

    def __init__(self, name: str, number: Callable[[np.ndarray], np.ndarray]):
        self.name, self.number = name, number
        self.total, self.count = 0.0, 0

    def update(self, maps: np.ndarray, again: np.ndarray | None) -> None:
        self.total += float(self.number(maps).sum())
        self.count += len(maps)

    def compute(self) -> dict[str, float]:
        return {self.name: self.total / self.count}


class _Rank:
    def __init__(self, options: FreeOptions):
        self.rank = EffectiveRank(options.over)

    def update(self, maps: np.ndarray, again: np.ndarray | None) -> None:
        self.rank.update(maps)

    def compute(self) -> dict[str, float]:
        return {"rank": self.rank.compute()}


class _Massive:
    def __init__(self, options: FreeOptions):
        self.massive = MassiveEnergy(options.ratio)

    def update(self, maps: np.ndarray, again: np.ndarray | None) -> None:
        self.massive.update(maps)

    def compute(self) -> dict[str, float]:
        found = self.massive.compute()
        return {"massive": found.energy, "massive_channels": found.channels,
                "largest_channel": found.largest}  # fmt: skip


class _Agreement:
    def __init__(self, options: FreeOptions):
        self.agreement = NoiseAgreement()

    def update(self, maps: np.ndarray, again: np.ndarray | None) -> None:
        self.agreement.update(maps, again)

    def compute(self) -> dict[str, float]:
        found = self.agreement.compute()
        return {"agreement": found.above, "same": found.same, "other": found.other}


@dataclass(frozen=True)
class FreeScore:
    """One number of a cell; `table.TITLES` and `table.LOWER` say how it is told.

    Attributes:
        make: options → what counts batches: `update(maps, again)`, and `compute()`, whose first
            number is the score; others stand beside it.
        maps: whether it needs maps.
        again: whether it needs a second noising.
    """

    make: Callable[[FreeOptions], Any]
    maps: bool = False
    again: bool = False


def _frequency(options: FreeOptions) -> _Mean:
    return _Mean("frequency", lambda maps: high_frequency_ratio(maps, options.cutoff))


def _lds(options: FreeOptions) -> _Mean:
    radii = options.near, options.far, options.distance
    return _Mean("lds", lambda maps: local_distant_similarity(maps, *radii))


SCORES: dict[str, FreeScore] = {
    "frequency": FreeScore(_frequency, maps=True), "lds": FreeScore(_lds, maps=True),
    "rank": FreeScore(_Rank), "massive": FreeScore(_Massive),
    "agreement": FreeScore(_Agreement, again=True),
}  # fmt: skip
"""Name → the number; `frequency` is that of `diffeat search --frequency`."""


def chosen_scores(
    names: Sequence[str] | None, maps: bool = True, again: bool = True
) -> tuple[str, ...]:
    """The numbers that are asked for; None takes all that can be had.

    Args:
        maps: whether all cells hold maps.
        again: whether there is a second noising.

    Raises:
        SpecError: an unknown name, or what cannot be had, with what it needs.
    """
    lacking = {
        name: "maps, and some cells hold vectors; extract with --pool none"
        if one.maps and not maps
        else "a second noising: another file of the same pictures with another --seed, or noise "
        "that a seed changes"
        for name, one in SCORES.items()
        if (one.maps and not maps) or (one.again and not again)
    }
    if names is None:
        return tuple(name for name in SCORES if name not in lacking)
    for name in names:
        if name not in SCORES:
            raise SpecError(f"score {name!r} is unknown{nearest(name, SCORES)}; expected some of "
                            f"{', '.join(SCORES)}")  # fmt: skip
        if name in lacking:
            raise SpecError(f"score {name!r} needs {lacking[name]}")
    if not names:
        raise SpecError(f"no score; expected some of {', '.join(SCORES)}")
    return tuple(dict.fromkeys(names))


class CellScores:
    """Numbers of cells, counted batch by batch; features are not kept.

    Args:
        names: of SCORES.
        options: what they are computed with.
    """

    def __init__(self, names: Sequence[str], options: FreeOptions):
        self.names, self.options = tuple(names), options
        self._counting: dict[CellKey, dict[str, Any]] = {}

    def update(self, cell: CellKey, maps: np.ndarray, again: np.ndarray | None = None) -> None:
        """Count a batch of pictures.

        Args:
            maps: (n, C, H, W), or (n, C) vectors.
            again: the same pictures under other noise.

        Raises:
            NumericsError: nan or inf.
            SpecError: maps that a number cannot be had of.
        """
        with explained(cell):
            maps = np.asarray(maps)
            if not np.isfinite(maps).all():
                raise ValueError("the features have nan or inf")
            if cell not in self._counting:
                self._counting[cell] = {n: SCORES[n].make(self.options) for n in self.names}
            for one in self._counting[cell].values():
                one.update(maps, again)

    def values(self) -> dict[CellKey, dict[str, float]]:
        """Of every cell the scores and what stands beside them."""
        found = {}
        for cell, counting in self._counting.items():
            with explained(cell):
                computed = [one.compute() for one in counting.values()]
            found[cell] = {name: value for one in computed for name, value in one.items()}
        return found


class explained:
    """Says of which cell a number could not be had."""

    def __init__(self, cell: CellKey):
        self.where = f"block {cell[0]!r} at t={format_t(cell[1])}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, ValueError) or isinstance(error, (SpecError, NumericsError)):
            return
        if "nan or inf" in str(error):
            raise NumericsError(
                f"{self.where}: {error}; expected finite numbers: extract again, with --dtype "
                "float32 if float16 was too narrow, or leave the cell out"
            ) from error
        raise SpecError(f"{self.where}: {error}; leave the cell (-b, -t) or the score out") from (
            error
        )


def free_scores(
    store: FeatureStore,
    scores: Sequence[str] | None = None,
    again: FeatureStore | None = None,
    options: FreeOptions | None = None,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
    pictures: int = PICTURES,
    rows: np.ndarray | None = None,
    progress: Progress = iter,
) -> FreeTable:
    """Label-free numbers of every cell of a feature file, read eight pictures at a time.

    Args:
        store: the file.
        scores: names of SCORES; None takes all that the file can give.
        again: the same pictures and model with another noise seed, for "agreement".
        options: what they are computed with.
        blocks, timesteps: only these; None means all.
        pictures: about so many, spread over the file.
        rows: which pictures may be looked at, such as `Task.seen`; None means all.
        progress: wraps the list of cells.

    Returns:
        A table of the cells, each with its scores and what stands beside them.

    Raises:
        SpecError: a score, block or t that is not there, or that needs something else; another
            extraction in `again`, or pictures that it lacks.
        NumericsError: nan or inf.
    """
    cells = list(choose_cells(str(store.path), cells_of(store), blocks, timesteps))
    _check_text(store, cells)
    maps = all(len(store[cell].shape) == 4 for cell in cells)
    names = chosen_scores(scores, maps, again is not None)
    if again is not None:
        check_again(store, again)
    runs = runs_among(len(store), pictures, rows)
    found = CellScores(names, options or FreeOptions())
    for cell in progress(cells):
        data = Sliced(store[cell])
        for run in runs:
            other = None if again is None else again[cell][_rows_in(again, store, run)]
            found.update(cell, data[run], other)
    return FreeTable.of(store.model["name"], names, found.values(), sum(map(len, runs)))


def _check_text(store: FeatureStore, cells: Iterable[CellKey]) -> None:
    for cell in cells:
        if len(store[cell].shape) == 3:
            raise SpecError(f"block {cell[0]!r} holds text tokens, which lie at no site of a "
                            "picture; leave it out (-b)")  # fmt: skip


def _rows_in(again: FeatureStore, store: FeatureStore, rows: np.ndarray) -> np.ndarray:
    """The rows of `again` that hold the pictures of some rows of `store`."""
    place = {name: index for index, name in enumerate(again.ids)}
    ids = [store.ids[row] for row in rows]
    if missing := [name for name in ids if name not in place]:
        raise SpecError(f"{again.path} lacks pictures of {store.path}, such as {missing[0]!r}; "
                        "expected the same pictures")  # fmt: skip
    return np.array([place[name] for name in ids])


Split = Callable[[CellKey, np.ndarray], Iterable[tuple[CellKey, np.ndarray]]]
"""A cell and its rows → the cells that are counted, such as one for each head."""


def live_free_scores(
    backbone: Backbone,
    source: Source,
    spec: ExtractSpec,
    scores: Sequence[str] | None = None,
    options: FreeOptions | None = None,
    pictures: int = PICTURES,
    rows: np.ndarray | None = None,
    split: Split = lambda cell, values: [(cell, values)],
    batch_size: int | str | None = None,
    workers: int = 2,
) -> FreeTable:
    """Label-free numbers of all cells of a spec, from features that are kept nowhere.

    A second noising, where "agreement" is asked for, is that of the spec's seed + 1; every picture
    then takes two forwards a t. One batch of pictures is held at a time.

    Args:
        backbone: from `diffeat.load`.
        source: of which about `pictures`, spread over it, are looked at; labels play no part.
        spec: its pool is left out.
        scores: names of SCORES; None takes all that can be had.
        options: what they are computed with.
        rows: which pictures may be looked at; None means all.
        split: makes several cells of one.
        batch_size, workers: as for `diffeat.extract_to_file`.

    Returns:
        A table of the cells, each with its scores and what stands beside them.

    Raises:
        SpecError: an unknown score, or one that the spec's noise cannot give.
        NumericsError: nan or inf.
    """
    spec = replace(spec, pool="none")
    some = source.take(np.concatenate(runs_among(len(source), pictures, rows)))
    worker = _worker(backbone, some, spec, batch_size, workers)
    seeds = spec.noise not in NO_SEED and not worker.plan.clean
    names = chosen_scores(scores, again=seeds)
    second = None
    if any(SCORES[name].again for name in names):
        second = _worker(backbone, some, replace(spec, seed=spec.seed + 1), batch_size, workers)
    found = CellScores(names, options or FreeOptions())
    with counted(len(some), desc="scores", unit="pictures") as bar:
        for (first, batch), other in _together(worker, second, some):
            for key, values in first.items():
                pieces = [split(key, one) for one in (values, *([other[key]] if second else []))]
                for cell, *parts in _side_by_side(pieces):
                    found.update(cell, *parts)
            bar.update(batch.span[1] - batch.span[0])
    order = {block.name: place for place, block in enumerate(worker.plan.blocks)}
    return FreeTable.of(backbone.name, names, found.values(), len(some), order)


def _worker(
    backbone: Backbone, source: Source, spec: ExtractSpec, batch_size: Any, workers: int
) -> Worker:
    job = Job(backbone.request, source, spec, Path("search"), batch_size, workers)
    return Worker(job, backbone)


def _together(
    first: Worker, second: Worker | None, source: Source
) -> Iterator[tuple[tuple[dict, Any], Mapping[CellKey, np.ndarray]]]:
    """Batches of one noising, each with that of the other."""
    if second is None:
        yield from ((found, {}) for found in batches_of(first, source))
        return
    both = zip(batches_of(first, source), batches_of(second, source), strict=True)
    yield from ((found, other) for found, (other, _) in both)


def _side_by_side(
    pieces: Sequence[Iterable[tuple[CellKey, np.ndarray]]],
) -> Iterator[tuple[Any, ...]]:
    """(cell, its rows under each noising) of one or two lists of (cell, rows)."""
    for found in zip(*pieces, strict=True):
        yield (found[0][0], *(values for _, values in found))
