"""Metrics of `probes.metrics` for every (block, t) of a feature file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from diffeat.errors import NumericsError, SpecError, nearest
from diffeat.noise import format_t
from diffeat.search.analysis.rows import cell_of, choose_rows, vectors
from diffeat.search.analysis.table import AlignedCell, AlignmentTable
from diffeat.search.stored import cells_of
from diffeat.search.tasks import choose_cells
from diffeat.specs import differences, without_cells
from diffeat.store import FeatureStore
from probes.metrics import representations as measures

Progress = Callable[[Iterable], Iterable]


@dataclass(frozen=True)
class Metric:
    """One number of a cell.

    Attributes:
        title: for headings.
        needs: "other", "again" or "" for the cell alone.
        least: pictures that it needs.
        lower: whether lower is better.
        neighbours: whether it takes k.
    """

    title: str
    compute: Callable[..., float]
    needs: str = "other"
    least: int = 2
    lower: bool = False
    neighbours: bool = False


METRICS = {
    "cka": Metric("linear CKA", measures.linear_cka),
    "cka-debiased": Metric("debiased CKA", partial(measures.linear_cka, debiased=True), least=4),
    "knn": Metric("mutual k-NN", measures.mutual_knn, neighbours=True),
    "cknna": Metric("CKNNA", measures.cknna, neighbours=True),
    "cknna-public": Metric("CKNNA, public code", measures.cknna_public, least=4, neighbours=True),
    "uniformity": Metric("uniformity", measures.uniformity, needs="", lower=True),
    "alignment": Metric("alignment", measures.alignment, needs="again", least=1, lower=True),
}
"""Name → what `align` can compute of two representations."""


def default_metrics(other: bool, again: bool) -> tuple[str, ...]:
    """Every metric that can be had of what there is to compare with.

    Args:
        other, again: whether there are other features, and another noising.

    Returns:
        Their names, in the order of `METRICS`.
    """
    have = {"": True, "other": other, "again": again}
    return tuple(name for name, metric in METRICS.items() if have[metric.needs])


def align_features(
    store: FeatureStore,
    other: Any = None,
    metrics: Sequence[str] | None = None,
    k: int = 10,
    rows: np.ndarray | None = None,
    again: FeatureStore | None = None,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
    other_name: str = "",
    progress: Progress = iter,
) -> AlignmentTable:
    """Compare every (block, t) of a file with other features of the same pictures.

    Maps are averaged over places. Memory: the vectors of one cell and of `other`.

    Args:
        store: the file.
        other: (n, D) features, row i of picture `rows[i]`: `VisionModel.features`, or
            `cell_of` another file.
        metrics: of METRICS; None takes all that can be had. "cka", "cka-debiased", "knn",
            "cknna", "cknna-public" compare with `other`; "uniformity" is of the cell alone;
            "alignment" compares with the same cell of `again`.
        k: neighbours.
        rows: (n,) rows of the file; None means all. Those with neighbours take time n².
        again: the same pictures and model with another noise seed.
        blocks, timesteps: only these; None means all.
        other_name: what tables call it.
        progress: wraps the list of cells.

    Raises:
        SpecError: an unknown metric, block or t; nothing to compare with; too few pictures;
            k too large; pictures that `again` lacks, or the same noise in it.
        NumericsError: inf, nan, or a cell that is the same for all pictures.

    Source: see `probes.metrics.representations`.
    """
    rows = choose_rows(store) if rows is None else np.asarray(rows)
    metrics, cells = check_request(
        store, other is not None, metrics, k, len(rows), again, blocks, timesteps
    )
    if other is not None:
        other = _checked_other(other, len(rows), other_name)
    found = []
    for block, t in progress(cells):
        own = vectors(store, block, t, rows)
        partner = {"other": other}
        if "alignment" in metrics:
            partner["again"] = cell_of(again, block, t, store, rows)
        where = f"{store.path}: {block} at t={format_t(t)}"
        values = {name: _value(METRICS[name], own, partner, k, where) for name in metrics}
        log_snr = float(store[block, t].attrs.get("log_snr", np.nan))
        found.append(AlignedCell(block, t, log_snr, values))
    return AlignmentTable(
        name=store.model["name"],
        other=other_name if other is not None else "",
        again=str(again.path) if "alignment" in metrics else "",
        pictures=len(rows),
        k=k,
        cells=found,
        titles={name: METRICS[name].title for name in metrics},
        lower=[name for name in metrics if METRICS[name].lower],
    )


def check_request(
    store: FeatureStore,
    other: bool,
    metrics: Sequence[str] | None,
    k: int,
    count: int,
    again: FeatureStore | None = None,
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[float] | None = None,
) -> tuple[tuple[str, ...], list[tuple[str, float]]]:
    """The metrics and the cells of `align_features`, which has the same arguments.

    Args:
        other: whether there are other features.
        count: pictures.

    Raises:
        SpecError: as `align_features` does, before anything is computed.
    """
    if metrics is None:
        metrics = default_metrics(other, again is not None)
    _check_metrics(metrics, other, again is not None)
    _check_sizes(metrics, count, k)
    if "alignment" in metrics:
        check_again(store, again)
    cells = cells_of(store)
    return tuple(metrics), list(choose_cells(str(store.path), cells, blocks, timesteps))


def _value(metric: Metric, own: np.ndarray, partner: dict, k: int, where: str) -> float:
    arguments = [own] + ([partner[metric.needs]] if metric.needs else [])
    try:
        return metric.compute(*arguments, **({"k": k} if metric.neighbours else {}))
    except ValueError as error:
        raise NumericsError(
            f"{where}: no {metric.title} ({error}); leave the cell (-b, -t) or the metric "
            "(--metrics) out"
        ) from error


def _check_metrics(metrics: Sequence[str], other: bool, again: bool) -> None:
    if not metrics:
        raise SpecError(f"no metric; expected some of {', '.join(METRICS)}")
    for name in metrics:
        if name not in METRICS:
            raise SpecError(
                f"metric {name!r} is unknown{nearest(name, METRICS)}; expected some of "
                f"{', '.join(METRICS)}"
            )
        if METRICS[name].needs == "other" and not other:
            raise SpecError(f"{name} compares with other features; say which (--with)")
        if METRICS[name].needs == "again" and not again:
            raise SpecError(
                f"{name} compares two noisings; give a second file of the same pictures, extracted "
                "with another --seed (--again)"
            )


def _check_sizes(metrics: Sequence[str], count: int, k: int) -> None:
    least = max(METRICS[name].least for name in metrics)
    if count < least:
        raise SpecError(f"{count} pictures; expected at least {least} for {', '.join(metrics)}")
    taking = [name for name in metrics if METRICS[name].neighbours]
    fewest = 2 if "cknna-public" in taking else 1
    if taking and not fewest <= k < count:
        raise SpecError(
            f"k={k} neighbours among {count} pictures; expected {fewest} to {count - 1}"
        )


def _checked_other(other: Any, count: int, name: str) -> np.ndarray:
    values = np.asarray(other)
    name = name or "the other features"
    if values.ndim != 2 or len(values) != count:
        raise SpecError(f"{name}: shape {values.shape}; expected ({count}, D), a row per picture")
    if not np.isfinite(values).all():
        raise NumericsError(f"{name}: inf or nan among the features; expected finite numbers")
    return values


def check_again(store: FeatureStore, again: FeatureStore) -> None:
    """SpecError unless it is the same extraction of the same pictures with other noise."""
    if store.model["fingerprint"] != again.model["fingerprint"]:
        raise SpecError(f"{again.path} and {store.path} come from different models")
    specs = [without_cells(one.spec.to_dict()) for one in (store, again)]
    seeds = [spec.pop("seed") for spec in specs]
    if differ := differences(*specs):
        raise SpecError(
            f"{again.path} was extracted in another way than {store.path} ({'; '.join(differ)}); "
            "expected the same with another --seed"
        )
    if specs[0]["noise"] in ("none", "inversion"):
        raise SpecError(
            f"{store.path} has noise {specs[0]['noise']!r}, which no seed changes; expected files "
            "with noise per-image, per-content or shared"
        )
    if seeds[0] == seeds[1]:
        raise SpecError(
            f"{again.path} has the noise of {store.path} (seed {seeds[0]}); expected another --seed"
        )
    prints = [one.pictures.get("fingerprint") for one in (store, again)]
    if store.ids == again.ids and None not in prints and prints[0] != prints[1]:
        raise SpecError(f"{again.path} holds other pictures under the ids of {store.path}")
