"""Clusters of a file's pictures, cell by cell, without labels and beside them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import NumericsError, SpecError
from diffeat.noise import format_t
from diffeat.search.grid import Grid
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey, cell_name
from probes.clusters import KMeansClusters
from probes.metrics.clusters import Clustered, group_distances, sampled_silhouette

MEASURES = {
    "ari": Measure("adjusted Rand index", ""), "nmi": Measure("normalised mutual information", ""),
    "accuracy": Measure("accuracy of the best names", "%"),
    "silhouette": Measure("silhouette", ""),
    "between/within": Measure("distance between clusters over that within", ""),
}  # fmt: skip
"""Number → what it is."""
TRIED = (2, 5, 10, 20)
"""Numbers of clusters that the silhouette chooses from, where nothing says one."""
SAMPLED = 2000
"""Pictures that a silhouette compares with each other."""


@dataclass
class ClusteredCell:
    """One (block, t).

    Attributes:
        key: (block, t).
        clusters: fitted, of the first seed.
        values: number → mean over seeds.
        ends: "ari" → (low, high) of its 95 % interval, pictures drawn anew; {} without labels.
        chance: number → of the same clusters dealt out at random; {} without labels.
    """

    key: CellKey
    clusters: KMeansClusters
    values: dict[str, float]
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)


@dataclass
class ClusterTable:
    """The cells of a file.

    Attributes:
        name: of the model.
        pictures: N.
        count: K clusters, and `chosen` says how K was found.
        cells: in the file's order.
        labelled: pictures with labels.
        seeds: of k-means, over which numbers are means.
    """

    name: str
    pictures: int
    count: int
    chosen: str
    cells: list[ClusteredCell]
    labelled: int = 0
    seeds: int = 1

    @property
    def numbers(self) -> list[str]:
        return list(self.cells[0].values)

    @property
    def by_silhouette(self) -> ClusteredCell:
        """The cell that no label chose; the first where no silhouette is defined."""
        each = [one.values["silhouette"] for one in self.cells]
        return self.cells[int(np.nanargmax(each)) if np.isfinite(each).any() else 0]

    @property
    def best(self) -> ClusteredCell | None:
        """The cell with the largest ARI, which labels chose; None without labels."""
        if not self.labelled:
            return None
        return self.cells[int(np.argmax([one.values["ari"] for one in self.cells]))]

    def grid(self, number: str) -> Grid:
        """A number over cells, for heat maps."""
        values = {one.key: one.values[number] for one in self.cells}
        return Grid(MEASURES[number].name, values, MEASURES[number])

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, a row a cell."""
        return [
            {"block": one.key[0], "t": one.key[1], **one.values,
             **{f"{name}_{end}": value for name, ends in one.ends.items()
                for end, value in zip(("low", "high"), ends, strict=True)}}
            for one in self.cells
        ]  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        said = f"{self.labelled:,} with labels" if self.labelled else "without labels"
        first = (f"{self.name}: {self.count} clusters ({self.chosen}) of {self.pictures:,} "
                 f"pictures, {said}")  # fmt: skip
        if self.seeds > 1:
            first += f"; means of {self.seeds} seeds"
        names = self.numbers
        wide = max(5, *(len(one.key[0]) for one in self.cells))
        found = [first, f"{'block':<{wide}}  {'t':>6}  " + "  ".join(f"{n:>10}" for n in names)]
        found.append("-" * len(found[1]))
        for one in self.cells:
            marks = "*" * (one is self.by_silhouette)
            numbers = "  ".join(f"{one.values[n]:10.3f}" for n in names)
            found.append(f"{one.key[0]:<{wide}}  {format_t(one.key[1]):>6}  {numbers}{marks}")
        return [*found, *self._told()]

    def _told(self) -> list[str]:
        chosen = self.by_silhouette
        found = [f"* the largest silhouette, which no label chose: {_said(chosen)}"]
        best = self.best
        if best is not None and best is not chosen:
            found.append(f"the largest ARI, which these labels chose: {_said(best)}")
        if best is not None:
            found.append("the same clusters dealt out at random: " + ", ".join(
                f"{name} {value:.3f}" for name, value in best.chance.items()))  # fmt: skip
        return found


def _said(one: ClusteredCell) -> str:
    text = f"{one.key[0]} t={format_t(one.key[1])}"
    if "ari" not in one.ends:
        return f"{text}, silhouette {one.values['silhouette']:.3f}"
    low, high = one.ends["ari"]
    return (f"{text}, ARI {one.values['ari']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
            f"NMI {one.values['nmi']:.3f}")  # fmt: skip


def cluster_store(
    store: Any,
    cells: Sequence[CellKey],
    count: int | None = None,
    labels: np.ndarray | None = None,
    *,
    seeds: int = 1,
    scale: str = "standardise",
    progress: Callable[[Iterable], Iterable] = iter,
) -> ClusterTable:
    """Cluster the pictures of a feature file by each of its cells. Maps are averaged over sites.

    Args:
        store: `store[block, t]` is an array (N, …), or what reads like one.
        cells: which.
        count: K; None: as many as there are classes, or what of `TRIED` has the largest mean
            silhouette over the cells.
        labels: (N,) class indices, −1 where there is none; what is clustered does not go by them.
        seeds: of k-means, 0, 1, …
        scale: see `probes.clusters.SCALES`.

    Raises:
        SpecError: fewer pictures than clusters.
        NumericsError: nan or inf.
    """
    known = None if labels is None else np.flatnonzero(np.asarray(labels) >= 0)
    if known is not None and not len(known):
        known = labels = None
    tables = {cell: vectors(store[cell], cell) for cell in cells}
    chosen = "told"
    if count is None and labels is not None:
        count, chosen = len(np.unique(np.asarray(labels)[known])), "as many as classes"
    if count is None:
        count, chosen = _by_silhouette(tables, scale), "by silhouette"
    found = []
    for cell in progress(list(cells)):
        found.append(_clustered(cell, tables[cell], count, labels, known, seeds, scale))
    name = str(getattr(store, "model", {}).get("name", "features"))
    pictures = len(next(iter(tables.values())))
    return ClusterTable(name, pictures, count, chosen, found,
                        0 if known is None else len(known), seeds)  # fmt: skip


def vectors(data: Any, cell: CellKey) -> np.ndarray:
    """(N, D) float32 of a cell; maps (N, C, h, w) as means over their sites."""
    values = np.asarray(data[:], np.float32)
    if values.ndim > 2:
        axes = (2, 3) if values.ndim == 4 else (1,)
        values = values.mean(axes)
    if not np.isfinite(values).all():
        raise NumericsError(f"the features of {cell_name(cell)} contain nan or inf; extract them "
                            "again")  # fmt: skip
    return values


def _by_silhouette(tables: dict[CellKey, np.ndarray], scale: str) -> int:
    rows = len(next(iter(tables.values())))
    tried = [k for k in TRIED if k < rows]
    if not tried:
        raise SpecError(f"{rows} pictures; expected more than {TRIED[0]} to cluster")
    means = []
    for k in tried:
        means.append(np.nanmean([_silhouette(_clusters(X, k, 0, scale), X)
                                 for X in tables.values()]))  # fmt: skip
    return tried[int(np.nanargmax(means))]


def _clusters(X: np.ndarray, count: int, seed: int, scale: str) -> KMeansClusters:
    try:
        return KMeansClusters(clusters=count, seed=seed, scale=scale).fit(X)
    except ValueError as error:
        raise SpecError(f"{error}") from error


def _silhouette(found: KMeansClusters, X: np.ndarray) -> float:
    return sampled_silhouette(found.scaled(X), found.labels_, SAMPLED)


def _clustered(cell, X, count, labels, known, seeds, scale) -> ClusteredCell:
    runs = [_clusters(X, count, seed, scale) for seed in range(seeds)]
    each, beside = [], None
    for one in runs:
        numbers = {}
        if labels is not None:
            told = Clustered(np.asarray(labels)[known], one.labels_[known])
            beside = beside or told
            numbers |= told.numbers()
        apart = group_distances(one.scaled(X), one.labels_)
        numbers |= {"silhouette": _silhouette(one, X), "between/within": apart.ratio}
        each.append(numbers)
    values = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    ends, chance = {}, {}
    if beside is not None:
        interval, chance = beside.interval("ari"), beside.by_chance()
        ends = {"ari": (interval.low, interval.high)}
    return ClusteredCell(cell, runs[0], values, ends, chance)


def write_csv(table: ClusterTable, path: Path) -> None:
    """A row a cell."""
    rows = table.rows()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_assignments(
    cell: ClusteredCell, ids: Sequence[str], path: Path, labels: Sequence[str] | None = None
) -> None:
    """A row a picture: id, cluster, distance to its centre, and its class where it is known."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "cluster", "distance", *(["class"] if labels else [])])
        for row, name in enumerate(ids):
            more, one = ([labels[row]] if labels else []), cell.clusters
            writer.writerow([name, int(one.labels_[row]), f"{one.distances_[row]:.6g}", *more])
