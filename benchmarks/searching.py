"""What benchmarks need of `diffeat.search`, which no other module of them imports."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.progress import track
from diffeat.search import (
    MEMORY,
    PENALTIES,
    TEST,
    TRAIN,
    VALIDATION,
    Cell,
    CellSets,
    Classification,
    Grid,
    Journal,
    Surface,
    greedy_sets,
    search_surface,
    split_by_hash,
    split_pairs,
    task_from_store,
)
from diffeat.search import Task as CellTask
from diffeat.search.analysis.clusters import MEASURES as CLUSTER_MEASURES
from diffeat.search.analysis.clusters import ClusteredCell, cluster_store
from diffeat.search.asking import ask, ask_test
from diffeat.search.classification import chance
from diffeat.search.clips import clip_cells, frame_rows
from diffeat.search.dense.bound import BoundDense, bind_dense
from diffeat.search.dense.depth import KINDS as DENSE_JUDGES
from diffeat.search.dense.heads import fitted as fitted_dense
from diffeat.search.dense.heads import setting_of, with_setting
from diffeat.search.dense.judge import DenseJudge
from diffeat.search.dense.labels import draw_order, inner_split
from diffeat.search.grid import write_rows as write_table
from diffeat.search.judge import Judge, Mix, cells_in
from diffeat.search.label_free import FreeOptions, live_free_scores, trust
from diffeat.search.matching import (
    BoundPairs,
    DenseRecall,
    HomographyAccuracy,
    Matching,
    bind,
    score_pairs,
)
from diffeat.search.matching.floors import same_place
from diffeat.search.matching.geometry import (
    Plane,
    match_planes,
    plane_of,
    recall_of,
    unmoved,
)
from diffeat.search.matching.rules import described
from diffeat.search.mixing import WEIGHT
from diffeat.search.scores import Logistic
from diffeat.search.splits import LEFT_OUT
from diffeat.search.tasks import CellKey, bytes_fingerprint, readable
from diffeat.store import FeatureStore
from diffeat.viz import heat_map, score_curves

SHOWN_WEIGHTS = 4
"""Cells that a mixer has at least, for a picture of its weights."""
DRAWN = 6
"""Heat maps side by side."""

__all__ = [
    "CLUSTER_MEASURES",
    "DENSE_JUDGES",
    "LEFT_OUT",
    "MEMORY",
    "PENALTIES",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "BoundDense",
    "BoundPairs",
    "CellKey",
    "CellTask",
    "Classification",
    "ClusteredCell",
    "DenseJudge",
    "DenseRecall",
    "FreeOptions",
    "HomographyAccuracy",
    "Journal",
    "Judge",
    "Logistic",
    "Matching",
    "Mix",
    "Plane",
    "Surface",
    "bind",
    "bind_dense",
    "bytes_fingerprint",
    "cells_in",
    "chance",
    "clip_cells",
    "cluster_store",
    "described",
    "draw_order",
    "few_classes",
    "fitted_dense",
    "frame_rows",
    "heat_map",
    "inner_split",
    "match_planes",
    "plane_of",
    "readable",
    "recall_of",
    "same_place",
    "score_pairs",
    "setting_of",
    "split_pairs",
    "trust",
    "unmoved",
    "with_setting",
    "write_table",
]


def task_of(
    stores: Sequence[FeatureStore],
    split: tuple[float, float, float],
    allow_conditioned: bool,
    duplicates: str,
    groups: Sequence[Sequence[str]] | None = None,
) -> CellTask:
    """Labels, parts and cells of one feature file, or of a training and a test file."""
    test = stores[1] if len(stores) > 1 else None
    return task_from_store(
        stores[0], split, test=test, allow_conditioned=allow_conditioned, duplicates=duplicates,
        groups=groups,
    )  # fmt: skip


def changed(task: CellTask, identity: str, read: Callable[[str, float], Any]) -> CellTask:
    """The same cells, read in another way."""
    return replace(task, identity=identity, read=read)


def one_cell(like: CellTask, name: str, block: str, values: np.ndarray, identity: str) -> CellTask:
    """Other features of the pictures of a task, in a single cell."""
    return replace(
        like, name=name, cells=((block, 0),), read=lambda block, t: values, identity=identity,
        together=(), conditioned="",
    )  # fmt: skip


def check_split(fractions: tuple[float, float, float]) -> None:
    """SpecError for shares that sum to something else than 1."""
    split_by_hash((), fractions)


def fit_bytes(pictures: int, width: int, classes: int) -> float:
    """Memory while a cell of so many numbers per picture is fitted."""
    return Logistic().bytes_of(pictures, width, classes)


def surface_of(task: CellTask, score: Logistic, memory: int, journal: Journal) -> Surface:
    """A linear probe of every cell; the best is scored on test."""
    judge = Classification(task, score)
    return search_surface(
        judge, journal, memory, lambda cells: track(cells, desc="probe", unit="cells")
    )


def greedy(
    task: CellTask, cells: Sequence[CellKey], score: Logistic, journal: Journal, **arguments: Any
) -> CellSets:
    """A set of cells that grows by the one that helps most, up to `most`."""
    task = replace(task, cells=tuple(cells))
    return greedy_sets(Classification(task, score), journal, test=False, **arguments)


def matching_surface(judge: Matching, memory: int, journal: Journal) -> Surface:
    """PCK of every cell on the pairs that choose; the best is judged on the others."""
    return search_surface(
        judge, journal, memory, lambda cells: track(cells, desc="match", unit="cells")
    )


def matching_sets(
    judge: Matching, surface: Surface, memory: int, journal: Journal, most: int
) -> CellSets:
    """A set that grows by the cell that helps most; each block takes part with its best cell."""
    best: dict[str, Cell] = {}
    for cell in surface.cells:
        if cell.block not in best or cell.validation > best[cell.block].validation:
            best[cell.block] = cell
    among = replace(judge.bound, keys=tuple(cell.key for cell in best.values()))
    few = Matching(among, judge.part, judge.convention, judge.alphas, source=judge.source)
    return greedy_sets(
        few, journal, memory, lambda sizes: track(sizes, desc="sets", unit="cells"), most=most,
        test=False,
    )  # fmt: skip


@contextmanager
def few_classes() -> Iterator[None]:
    """Few labelled pictures lack classes: what is the rule in a benchmark is not warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*ha(s|ve) no pixel in training")
        yield


def validated(judge: Judge, memory: int, journal: Journal, desc: str = "cells") -> Surface:
    """Every cell of a judge on its validation part; its test part is not looked at."""
    found = ask(judge, judge.cells, None, memory, journal)
    with few_classes():
        scores = {key: one for key, [one] in track(found, desc=desc, unit="cells")}
    surface = Surface.of(judge, [])
    surface.cells = [Cell(*key, scores[key].validation, scores[key].setting)
                     for key in judge.cells]  # fmt: skip
    return surface


def tested(
    judge: Judge, cell: CellKey, setting: float | None, memory: int, journal: Journal
) -> tuple[float, tuple[float, float] | None]:
    """What a cell has on test, with its setting, and the 95 % interval where it is known."""
    with few_classes():
        return ask_test(judge, cell, setting, memory, journal)


def free_numbers(
    backbone: Any, source: Any, spec: Any, options: FreeOptions, pictures: int
) -> dict[CellKey, dict[str, float]]:
    """Label-free numbers of every cell of a spec, from about so many pictures."""
    return live_free_scores(backbone, source, spec, None, options, pictures).cells


def surface_text(stored: dict[str, Any]) -> str:
    """The grid of a surface as the JSON has it, validation accuracy in per cent."""
    values = {(one["block"], one["t"]): one["validation"] for one in stored["cells"]}
    return Grid(stored["name"], values).table()


def write_surfaces(surfaces: Sequence[Surface], stem: Path, title: str) -> None:
    """Every cell as <stem>.csv, heat maps of the first `DRAWN` but random twins as <stem>.png."""
    if surfaces:
        write_csv(surfaces, stem.with_name(f"{stem.name}.csv"))
        drawn = [one for one in surfaces if not one.name.endswith("@random")][:DRAWN]
        write_png(drawn, stem.with_name(f"{stem.name}.png"), title)


def write_png(surfaces: Sequence[Surface], path: Path, title: str) -> None:
    """Heat maps of surfaces side by side."""
    heat_map([surface.grid for surface in surfaces], path, title=title)


def write_weights(rows: Sequence[dict[str, Any]], path: Path, title: str) -> bool:
    """Learned weights of mixers of at least four cells, the first seed's, over (block, t).

    Args:
        rows: of a table, with `fits` where something was trained.

    Returns:
        Whether there are any.
    """
    grids = []
    for row in rows:
        found = (row.get("fits") or [{}])[0].get("weights") or ()
        if len(found) >= SHOWN_WEIGHTS:
            values = {(block, t): weight for block, t, weight in found}
            grids.append(Grid(row["label"], values, WEIGHT, "softmax weight"))
    if grids:
        heat_map(grids, path, title=title)
    return bool(grids)


def redraw(stored: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """`write_png` of the first two surfaces as the JSON of a result has them."""
    grids = [
        Grid(
            one["name"], {(c["block"], c["t"]): c["validation"] for c in one["cells"]},
            what="validation accuracy",
        )
        for one in stored[:2]
    ]  # fmt: skip
    heat_map(grids, path, title=title)


def draw_cells(surfaces: Sequence[dict[str, Any]], what: str, path: Path, title: str) -> None:
    """Heat maps of the first `DRAWN` surfaces, as the JSON of a result has them.

    Args:
        what: their numbers are.
    """
    grids = [Grid(one["name"], {(c["block"], c["t"]): c["validation"] for c in one["cells"]},
                  what=what) for one in surfaces[:DRAWN]]  # fmt: skip
    heat_map(grids, path, title=title)


def write_curves(systems: Sequence[dict[str, Any]], path: Path, title: str) -> bool:
    """Validation scores of the heads that are trained epoch by epoch; whether there are any.

    Args:
        systems: as the JSON has them; of several seeds the first is drawn.
    """
    runs = {
        one["name"]: (one["runs"][0]["history"], one["runs"][0].get("best_epoch"))
        for one in systems
        if one["runs"] and one["runs"][0].get("history")
    }
    return score_curves(runs, path, title)


def write_csv(surfaces: Sequence[Surface], path: Path) -> None:
    """All cells of all surfaces in one table."""
    rows: list[dict[str, str]] = []
    for surface in surfaces:
        surface.write_csv(path)
        with open(path, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
