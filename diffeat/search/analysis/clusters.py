"""Clusters of a file's pictures, cell by cell, without labels and beside them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.errors import NumericsError, SpecError, nearest
from diffeat.images import Source, fit_picture
from diffeat.noise import format_t
from diffeat.search.grid import Grid
from diffeat.search.measure import Measure
from diffeat.search.tasks import CellKey, cell_name
from probes.clusters import SCALES, KMeansClusters
from probes.lazy import CHUNK_BYTES, Deferred, Rows
from probes.metrics.clusters import Clustered, group_distances, sampled_silhouette

MEASURES = {
    "ari": Measure("adjusted Rand index", ""), "nmi": Measure("normalised mutual information", ""),
    "accuracy": Measure("accuracy of the best names", "%"),
    "silhouette": Measure("silhouette", ""),
    "between/within": Measure("distance between clusters over that within", ""),
    "classes apart": Measure("distance between classes over that within", ""),
}  # fmt: skip
"""Number → what it is."""
TRIED = (2, 5, 10, 20)
"""Numbers of clusters that the silhouette chooses from, where nothing says one."""
SAMPLED = 2000
"""Pictures that a silhouette compares with each other."""
HELD = 1 << 30
"""Bytes of a cell's vectors up to which they are held; larger cells are read in pieces."""
MOST_PIXELS = 32
"""Side of the pictures whose raw pixels are clustered."""
AXES = {2: (), 3: (1,), 4: (2, 3)}
"""Axes of an array that are averaged, by how many it has: vectors, tokens, maps."""
PIXELS = ("raw pixels", 0)
"""The cell of pixels."""


@dataclass
class ClusteredCell:
    """One (block, t).

    Attributes:
        key: (block, t).
        clusters: fitted, of the first seed.
        values: number → mean over seeds.
        ends: "ari" → (low, high) of its 95 % interval, pictures drawn anew, means over seeds; {}
            without labels.
        chance: number → of the same clusters dealt out at random; {} without labels.
        ari_seeds: ARI of every seed; () without labels.
    """

    key: CellKey
    clusters: KMeansClusters
    values: dict[str, float]
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    ari_seeds: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None where a number is not defined."""
        numbers = {name: value if np.isfinite(value) else None
                   for name, value in self.values.items()}  # fmt: skip
        ends = {f"{name}_{end}": value for name, both in self.ends.items()
                for end, value in zip(("low", "high"), both, strict=True)}  # fmt: skip
        return {
            "block": self.key[0],
            "t": self.key[1],
            **numbers,
            **ends,
            **({"ari_by_seed": list(self.ari_seeds)} if len(self.ari_seeds) > 1 else {}),
        }


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
        pixels: the same pictures' raw pixels, clustered alike; None where they are not looked at.
    """

    name: str
    pictures: int
    count: int
    chosen: str
    cells: list[ClusteredCell]
    labelled: int = 0
    seeds: int = 1
    pixels: ClusteredCell | None = None

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
        return [one.to_dict() for one in self.cells]

    def lines(self) -> list[str]:
        """For people."""
        said = f"{self.labelled:,} with labels" if self.labelled else "without labels"
        first = (f"{self.name}: {self.count} clusters ({self.chosen}) of {self.pictures:,} "
                 f"pictures, {said}")  # fmt: skip
        if self.seeds > 1:
            first += f"; means of {self.seeds} seeds, as are the ends of intervals"
        names = self.numbers
        wide = max(5, *(len(one.key[0]) for one in self.cells))
        widths = [max(10, len(name)) for name in names]
        heads = "  ".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))
        found = [first, f"{'block':<{wide}}  {'t':>6}  {heads}"]
        found.append("-" * len(found[1]))
        for one in self.cells:
            marks = "*" * (one is self.by_silhouette)
            numbers = "  ".join(
                f"{one.values[n]:{w}.3f}" for n, w in zip(names, widths, strict=True)
            )
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
        if self.pixels is not None:
            found.append(f"without a model: {_said(self.pixels)}")
        return found


def _said(one: ClusteredCell) -> str:
    text = one.key[0] if one.key == PIXELS else f"{one.key[0]} t={format_t(one.key[1])}"
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

    One cell is held at a time; one of more than 1 GiB of vectors is read in pieces.

    Args:
        store: `store[block, t]` is an array (N, …), or what reads like one.
        cells: which.
        count: K; None: as many as there are classes, or what of `TRIED` has the largest mean
            silhouette over the cells.
        labels: (N,) class indices, −1 where there is none; what is clustered does not go by them.
        seeds: of k-means, 0, 1, …
        scale: see `probes.clusters.SCALES`.

    Raises:
        SpecError: fewer pictures than clusters, an unknown scale, labels of one class alone.
        NumericsError: nan or inf.
    """
    rows = int(store[cells[0]].shape[0])
    known, labels = _known(labels)
    _check(count, scale, rows)
    chosen = "told"
    if count is None and labels is not None:
        count, chosen = len(np.unique(labels[known])), "as many as classes"
    if count is None:
        count, chosen = _by_silhouette(store, cells, rows, scale), "by silhouette"
    found = []
    for cell in progress(list(cells)):
        X = vectors(store[cell], cell)
        found.append(_clustered(cell, X, count, labels, known, seeds, scale))
    name = str(getattr(store, "model", {}).get("name", "features"))
    return ClusterTable(name, rows, count, chosen, found, len(known), seeds)


def with_pixels(
    table: ClusterTable, pixels: np.ndarray, labels: np.ndarray | None = None,
    scale: str = "standardise",
) -> ClusterTable:  # fmt: skip
    """A table with what the pictures' pixels give under the same K and seeds: what needs no model.

    Args:
        table: of `cluster_store`.
        pixels: (N, D), see `raw_pixels`.
        labels, scale: as there.
    """
    known, labels = _known(labels)
    one = _clustered(PIXELS, pixels, table.count, labels, known, table.seeds, scale)
    return replace(table, pixels=one)


def raw_pixels(store: Any, source: Source, places: Sequence[int]) -> np.ndarray:
    """(N, 3·h·w) float32 pixels in 0 … 255 of a file's pictures, fitted as the model saw them, at
    32×32 at most.

    Args:
        store: the file.
        source, places: where its pictures lie (`diffeat.store.find_originals`).
    """
    spec = store.spec
    sides = spec.size or (MOST_PIXELS, MOST_PIXELS)
    size = tuple(min(side, MOST_PIXELS) for side in sides)
    pixels = np.empty((len(places), 3, *size), np.uint8)
    for row, place in enumerate(places):
        pixels[row] = fit_picture(source.load(place), size, spec.fit, spec.resample)
    return pixels.reshape(len(pixels), -1).astype(np.float32)


def _known(labels: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows with a label, and the labels; (none, None) where there is none.

    Raises:
        SpecError: all are of one class.
    """
    if labels is None:
        return np.empty(0, np.int64), None
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        return known, None
    if len(np.unique(labels[known])) < 2:
        raise SpecError(f"{len(known)} of {len(labels)} pictures have labels, all of one class; "
                        "expected two classes at least to compare clusters with")  # fmt: skip
    return known, labels


def _check(count: int | None, scale: str, rows: int) -> None:
    if scale not in SCALES:
        raise SpecError(f"scale {scale!r}{nearest(scale, SCALES)}; expected one of "
                        f"{', '.join(SCALES)}")  # fmt: skip
    if count is not None and not 1 < count <= rows:
        raise SpecError(f"{rows} pictures for {count} clusters; expected 2 clusters at least, and "
                        "as many pictures, or fewer clusters")  # fmt: skip


def vectors(data: Any, cell: CellKey, held: int = HELD) -> Any:
    """(N, D) float32 of a cell; maps and tokens as means over their sites.

    Maps are read in pieces. Vectors of more than `held` bytes are not held, but read anew
    whenever they are asked for.

    Raises:
        SpecError: neither vectors nor tokens nor maps.
        NumericsError: nan or inf.
    """
    shape = tuple(data.shape)
    if len(shape) not in AXES:
        raise SpecError(f"{cell_name(cell)} has shape {shape}; expected vectors, tokens or maps: "
                        "choose other blocks")  # fmt: skip
    axes, rows = AXES[len(shape)], Rows(data, f"the features of {cell_name(cell)}")
    step = max(1, CHUNK_BYTES // (4 * int(np.prod(shape[1:]))))

    def read(key: Any) -> np.ndarray:
        places = np.arange(shape[0])[key]
        parts = [rows[places[k : k + step]] for k in range(0, len(places), step)]
        return np.concatenate([part.mean(axes) if axes else part for part in parts])

    width = shape[2] if len(shape) == 3 else shape[1]
    lazy = Deferred((shape[0], width), read, np.float32)
    if 4 * shape[0] * width > held:
        return lazy
    try:
        return lazy[:]
    except ValueError as error:
        raise NumericsError(f"{error}; leave the cell out (-b, -t), or extract it again") from error


def _by_silhouette(store: Any, cells: Sequence[CellKey], rows: int, scale: str) -> int:
    tried = [k for k in TRIED if k < rows]
    if not tried:
        raise SpecError(f"{rows} pictures; expected more than {TRIED[0]} to cluster")
    found = []
    for cell in cells:
        X = vectors(store[cell], cell)
        found.append([_silhouette(_clusters(X, k, 0, scale), X) for k in tried])
    means = np.nan_to_num(found, nan=-1.0).mean(0)
    return tried[int(means.argmax())]


def _clusters(X: Any, count: int, seed: int, scale: str) -> KMeansClusters:
    try:
        return KMeansClusters(clusters=count, seed=seed, scale=scale, memory=HELD).fit(X)
    except ValueError as error:  # of what is read in pieces, nan is met here
        raise NumericsError(f"{error}; leave the cell out (-b, -t)") from error


def _scaled(found: KMeansClusters, X: Any) -> Any:
    """X in the space of the clusters, held or read as X is."""
    if isinstance(X, np.ndarray):
        return found.scaled(X)
    return Deferred(X.shape, lambda key: found.scaled(X[key]), np.float32)


def _silhouette(found: KMeansClusters, X: Any) -> float:
    return sampled_silhouette(_scaled(found, X), found.labels_, SAMPLED)


def _clustered(cell, X, count, labels, known, seeds, scale) -> ClusteredCell:
    runs = [_clusters(X, count, seed, scale) for seed in range(seeds)]
    each, beside = [], []
    for one in runs:
        numbers, z = {}, _scaled(one, X)
        if labels is not None:
            beside.append(Clustered(labels[known], one.labels_[known]))
            numbers |= beside[-1].numbers()
        numbers |= {"silhouette": sampled_silhouette(z, one.labels_, SAMPLED),
                    "between/within": group_distances(z, one.labels_).ratio}  # fmt: skip
        each.append(numbers)
    values = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    ends, chance = {}, {}
    if beside:
        drawn = [one.interval("ari") for one in beside]  # the same pictures for every seed
        ends = {"ari": tuple(float(np.mean([getattr(one, end) for one in drawn]))
                             for end in ("low", "high"))}  # fmt: skip
        chance = beside[0].by_chance()
        values["classes apart"] = _apart(_scaled(runs[0], X), labels, known)
    seen = tuple(one["ari"] for one in each) if beside else ()
    return ClusteredCell(cell, runs[0], values, ends, chance, seen)


def _apart(z: Any, labels: np.ndarray, known: np.ndarray) -> float:
    """Distance between classes over that within them, of pictures with labels."""
    if len(known) == len(labels):
        return group_distances(z, labels).ratio
    part = Deferred((len(known), z.shape[1]), lambda key: z[known[key]], np.float32)
    return group_distances(part, labels[known]).ratio


def write_csv(table: ClusterTable, path: Path) -> None:
    """A row a cell."""
    rows = [{name: value for name, value in row.items() if not isinstance(value, list)}
            for row in table.rows()]  # fmt: skip
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
