"""Measure: clusters of every cell, which cell is chosen, and what it is worth on other pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

import diffeat
from benchmarks.features import Pictures
from benchmarks.searching import (
    CLUSTER_MEASURES,
    CellKey,
    ClusteredCell,
    Grid,
    cluster_store,
    heat_map,
    write_table,
)
from benchmarks.tasks.base import Place
from benchmarks.tasks.clusters.file import PIXELS, ClusterBenchmark
from benchmarks.tasks.matching.models import about_features, models_of, stores_of
from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.images import Source
from probes.metrics.clusters import Clustered

ONE = ("pixels", 0)
"""The cell of raw pixels."""


def measure(benchmark: ClusterBenchmark, place: Place) -> dict[str, Any]:
    """Everything that a file of clusters asks for.

    Features stay on disk and are used again by the next run. Writes <name>.csv (every cell of
    every model, on the pictures that are reported) and <name>.png (heat maps of ARI there).

    Returns:
        What the JSON holds.
    """
    source = diffeat.open_source(benchmark.pictures)
    source = source.limit(benchmark.limit) if benchmark.limit else source
    if source.labels is None:
        raise SpecError(f"benchmark {benchmark.name}: {benchmark.pictures} has no classes")
    run = Run(benchmark, place, source)
    return run.everything()


@dataclass
class Run:
    """One run and what it has found so far.

    Attributes:
        benchmark, place, source: what is measured, where, on what.
        chooses: (N,) bool, pictures that choose the cell; the others are reported.
        rows: the table, as the JSON has it.
        about: label → model, spec and what it was told.
        missing: models that are not there, each with the reason.
        best: label → the clusters of the cell that silhouettes chose, for differences.
        grids: heat maps of models.
        cells: rows of the CSV.
    """

    benchmark: ClusterBenchmark
    place: Place
    source: Source
    chooses: np.ndarray = field(init=False)
    rows: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    best: dict[str, Clustered] = field(default_factory=dict)
    grids: list[Grid] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        each = [unit_interval("clusters", name) for name in self.source.ids]
        self.chooses = np.array(each) < self.benchmark.held

    def everything(self) -> dict[str, Any]:
        """All rows, one after the other; what the JSON holds."""
        pictures = Pictures((self.source,))
        for row, backbone in models_of(self.benchmark, self.place, self.missing):
            with stores_of(row, backbone, pictures, self.place) as (store,):
                self.about[row.label] = about_features(row, store)
                cells = {(b, t): store[b, t] for b in store.blocks for t in store.timesteps}
                self._row(row.label, row.kind, cells)
        if self.benchmark.pixels:
            self._row(PIXELS, "pixels", {ONE: raw_pixels(self.source, self.benchmark.pixels)})
        self._compared()
        out, name = self.place.out, self.benchmark.name
        write_table(out / f"{name}.csv", self.cells)
        heat_map(self.grids, out / f"{name}.png", self.benchmark.title)
        return {
            "rows": self.rows, "about": self.about, "missing": self.missing,
            "pictures": pictures.keys, "classes": len(self.source.class_names),
            "counts": [int(self.chooses.sum()), int((~self.chooses).sum())],
        }  # fmt: skip

    def _row(self, label: str, kind: str, cells: Mapping[CellKey, Any]) -> None:
        """One model: clusters of both halves, apart; the first chooses."""
        with self.place.stages(f"clusters of {label}"):
            choosing, reported = (self._clustered(cells, rows)
                                  for rows in (self.chooses, ~self.chooses))  # fmt: skip
        keys = [one.key for one in choosing]
        silhouettes = [one.values["silhouette"] for one in choosing]
        scores = [one.values["ari"] for one in choosing]
        ways = {
            "silhouette": keys[int(np.nanargmax(silhouettes))],
            "ARI": keys[int(np.argmax(scores))],
        }  # fmt: skip
        there = {one.key: one for one in reported}
        truth = self.source.labels[~self.chooses]
        self.best[label] = Clustered(truth, there[ways["silhouette"]].clusters.labels_)
        self.rows.append({
            "label": label, "kind": kind,
            "chosen": {way: self._said(there[key]) for way, key in ways.items()},
            "cells": len(keys),
            "best": max(one.values["ari"] for one in reported),
        })  # fmt: skip
        self.cells += [{"model": label, "block": one.key[0], "t": one.key[1], **one.values}
                       for one in reported]  # fmt: skip
        if len(keys) > 1:
            values = {one.key: one.values["ari"] for one in reported}
            self.grids.append(Grid(label, values, CLUSTER_MEASURES["ari"]))

    def _clustered(self, cells: Mapping[CellKey, Any], rows: np.ndarray) -> list[ClusteredCell]:
        one, truth = self.benchmark, self.source.labels[rows]
        part = {key: np.asarray(values[:])[rows] for key, values in cells.items()}
        count = one.clusters or len(np.unique(truth))
        return cluster_store(part, list(part), count, truth, seeds=one.seeds,
                             scale=one.scale).cells  # fmt: skip

    def _said(self, one: ClusteredCell) -> dict[str, Any]:
        low, high = one.ends["ari"]
        return {"block": one.key[0], "t": one.key[1], "values": one.values, "low": low,
                "high": high, "chance": one.chance}  # fmt: skip

    def _compared(self) -> None:
        """Each row against the first, by the same pictures."""
        lead = self.best[self.rows[0]["label"]]
        for row in self.rows[1:]:
            found = lead.interval("ari", other=self.best[row["label"]])
            row["against"] = {"value": found.value, "low": found.low, "high": found.high}


def raw_pixels(source: Source, size: tuple[int, ...]) -> np.ndarray:
    """(N, 3·H·W) float32 of pictures brought to (H, W), in [0, 1]."""
    rows = []
    for row in range(len(source)):
        picture = source.load(row).convert("RGB").resize((size[1], size[0]), Image.BILINEAR)
        rows.append(np.asarray(picture, np.float32).ravel() / 255)
    return np.stack(rows)
