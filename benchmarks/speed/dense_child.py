"""Dense heads in a fresh process, which prints their seconds and peak memory as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import peak_memory_mb
from benchmarks.speed.match_child import held_mb

TEMPLATES = 4


def maps_of(shapes: list[list[int]], seed: int) -> dict[tuple[str, int], np.ndarray]:
    """(block, 0) → (C, h, w) float32 of even noise."""
    draw = np.random.default_rng(seed)
    return {(f"map-{k}", 0): draw.standard_normal(shape, np.float32)
            for k, shape in enumerate(shapes)}  # fmt: skip


def write_file(path: Path, count: int, shapes: list[list[int]], seed: int) -> None:
    """N pictures' maps as float16: a few of even noise, each turned by as many rows as its place
    says."""
    import h5py

    templates = [maps_of(shapes, seed + k) for k in range(min(TEMPLATES, count))]
    with h5py.File(path, "w") as file:
        for name, _ in templates[0]:
            first = templates[0][name, 0]
            rows = file.create_dataset(name, (count, *first.shape), np.float16)
            for row in range(count):
                values = templates[row % len(templates)][name, 0].astype(np.float16)
                rows[row] = np.roll(values, row, 1)


def masks_of(count: int, size: list[int], classes: int) -> np.ndarray:
    """(N, H, W) uint8: stripes, moved from picture to picture."""
    columns = np.arange(size[1]) * classes // size[1]
    rows = [np.roll(columns, row) for row in range(count)]
    return np.stack(rows)[:, None].repeat(size[0], 1).astype(np.uint8)


def cells_of(file: Any, size: list[int]) -> Any:
    """The maps of an open file."""
    from probes import Cells

    count = len(file[next(iter(file))])
    return Cells({(name, 0): file[name] for name in file}, sizes=np.tile(size, (count, 1)))


def train(order: dict[str, Any]) -> dict[str, Any]:
    """The ensemble on a file of maps."""
    import h5py
    import torch

    from probes.dense import PixelMLPEnsemble

    torch.set_num_threads(order["threads"])
    head = PixelMLPEnsemble(**order["head"], random_state=0, progress=False)
    with h5py.File(order["file"]) as file:
        cells = cells_of(file, order["size"])
        masks = masks_of(len(cells), order["size"], order["classes"])
        warm_up()
        loaded, began = held_mb(), time.perf_counter()
        head.fit(cells, masks, classes=order["classes"])
        seconds = time.perf_counter() - began
    return {"pictures": len(cells), "steps": head.steps, "loss": head.history_[-1]["loss"],
            **_figures(seconds, loaded)}  # fmt: skip


def warm_up() -> None:
    """A training of one step, with all that a process imports for one."""
    from probes import Cells
    from probes.dense import PixelMLPEnsemble

    cells = Cells({("map", 0): np.zeros((2, 1, 4, 4), np.float32)}, sizes=[(4, 4)] * 2)
    head = PixelMLPEnsemble(members=1, steps=1, epochs=1, fewest=1, progress=False)
    head.fit(cells, np.arange(32).reshape(2, 4, 4) % 2)


def predict(order: dict[str, Any]) -> dict[str, Any]:
    """Classes of a picture by an ensemble of random weights."""
    import torch

    from probes import Maps
    from probes.dense.ensemble_net import EnsembleNet

    torch.set_num_threads(order["threads"])
    maps = Maps(maps_of(order["shapes"], order["seed"]), *[tuple(order["size"])] * 2)
    channels = sum(shape[0] for shape in order["shapes"])
    head = fitted(EnsembleNet(order["members"], channels, order["hidden"], order["classes"]))
    head.cells_ = tuple(maps.values)
    loaded, began = held_mb(), time.perf_counter()
    labels = head.predict_maps(maps)
    seconds = time.perf_counter() - began
    return {"labels": len(np.unique(labels)), **_figures(seconds, loaded)}


def fitted(net: Any) -> Any:
    """A head around a network, in eval mode."""
    from probes.dense import PixelMLPEnsemble

    head = PixelMLPEnsemble(members=net.members)
    head.module_, head.seen_ = net.eval(), np.ones(net.weights[-1].shape[1], bool)
    return head


def _figures(seconds: float, loaded: float) -> dict[str, Any]:
    return {"seconds": round(seconds, 3), "loaded_mb": loaded, "peak_mb": peak_memory_mb()}


WORKS = {"train": train, "predict": predict}

if __name__ == "__main__":
    ORDER = json.loads(sys.argv[1])
    print(json.dumps(WORKS[ORDER["work"]](ORDER)))
