"""Pictures with key points, and feature files whose best cell is known by construction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.coords import Placement
from diffeat.images import open_source
from diffeat.specs import ExtractSpec
from diffeat.store import Column, FeatureStore, Manifest, StoreWriter, picture_column
from diffeat.targets.pairs import PairTargets, open_pairs

SIZE, GRID, POINTS = (32, 40), (8, 10), 5
"""H, W of inputs and of their maps; key points of a picture."""
NOISE = {("a", 10): 1.5, ("a", 50): 30.0, ("b", 10): 0.0, ("b", 50): 4.0}
"""How much hides the key points in each cell: ("b", 10) is the best, ("a", 50) shows nothing."""
BEST = ("b", 10)
PEOPLE = 12


def key_points(row: int) -> np.ndarray:
    """(POINTS, 2) x, y in the picture of a row, at the centres of sites of its map."""
    rng = np.random.default_rng(100 + row)
    sites = rng.choice(GRID[0] * GRID[1], POINTS, replace=False)
    columns, rows = sites % GRID[1], sites // GRID[1]
    height, width = size_of(row)
    place = Placement.of_fit((height, width), SIZE)
    return place.from_map(np.stack([columns, rows], 1).astype(float), GRID)


def size_of(row: int) -> tuple[int, int]:
    """Every third picture has another shape than the input."""
    return (48, 40) if row % 3 == 2 else SIZE


def maps_of(rows: range, noise: float, seed: int) -> np.ndarray:
    """(N, C, h, w) float32: each key point has a direction of its own, under noise."""
    names = np.linalg.qr(np.random.default_rng(7).normal(size=(12, 12)))[0][:POINTS] * 10
    found = np.stack([np.random.default_rng((seed, row)).normal(size=(12, *GRID)) for row in rows])
    hidden, found = noise * found[:, ::-1], 0.1 * found
    for place, row in enumerate(rows):
        height, width = size_of(row)
        sites = Placement.of_fit((height, width), SIZE).to_map(key_points(row), GRID)
        for name, (x, y) in zip(names, np.rint(sites).astype(int), strict=True):
            found[place, :, y, x] = name
    return (found + hidden).astype(np.float32)


def write_pictures(folder: Path, count: int = 2 * PEOPLE) -> Path:
    """Pictures of PEOPLE persons and their pairs, in SPair-71k's layout, split "trn"."""
    for name in ("JPEGImages/thing", "ImageAnnotation/thing", "PairAnnotation/trn", "Layout/large"):
        (folder / name).mkdir(parents=True)
    for row in range(count):
        height, width = size_of(row)
        pixels = np.random.default_rng(row).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"JPEGImages/thing/{row:02}.jpg")
        said = {"filename": f"{row:02}.jpg", "category": "thing", "image_width": width,
                "image_height": height, "bndbox": [0, 0, 30, 20], "person": f"p{row // 2}",
                "kps": {str(k): xy for k, xy in enumerate(key_points(row).tolist())}}  # fmt: skip
        (folder / f"ImageAnnotation/thing/{row:02}.json").write_text(json.dumps(said))
    pairs = [(a, b) for a in range(count) for b in range(count)
             if a // 2 != b // 2 and (a + 3 * b) % 4 == 0]  # fmt: skip
    lines = []
    for number, (a, b) in enumerate(pairs):
        name = f"{number:06}-{a:02}-{b:02}:thing"
        said = {"filename": name, "src_imname": f"{a:02}.jpg", "trg_imname": f"{b:02}.jpg",
                "src_imsize": [*size_of(a)[::-1], 3], "trg_imsize": [*size_of(b)[::-1], 3],
                "category": "thing", "src_bndbox": [0, 0, 30, 20], "trg_bndbox": [0, 0, 30, 20],
                "kps_ids": [str(k) for k in range(POINTS)], "src_kps": key_points(a).tolist(),
                "trg_kps": key_points(b).tolist()}  # fmt: skip
        (folder / f"PairAnnotation/trn/{name}.json").write_text(json.dumps(said))
        lines.append(name)
    (folder / "Layout/large/trn.txt").write_text("\n".join(lines) + "\n")
    return folder


def pairs_of(folder: Path) -> PairTargets:
    return open_pairs(f"{folder}:trn")


def write_file(
    path: Path, folder: Path, rows: range = range(2 * PEOPLE), noise: Mapping = NOISE,
    spec: Mapping = {}, model: str = "m0", without: tuple[str, ...] = (), dtype: str = "float16",
) -> FeatureStore:  # fmt: skip
    """A feature file of some of the pictures in a folder."""
    source = open_source(str(folder / "JPEGImages/thing")).take(list(rows))
    source = replace(source, ids=tuple(f"thing/{row:02}.jpg" for row in rows))
    arrays = {
        cell: maps_of(rows, hidden, seed) for seed, (cell, hidden) in enumerate(noise.items())
    }
    steps, blocks = (tuple(dict.fromkeys(one[k] for one in noise)) for k in (1, 0))
    made = ExtractSpec(steps, blocks, **{"pool": "none", "size": SIZE, "dtype": dtype, **spec})
    if made.pool != "none":
        arrays = {cell: values.mean((2, 3)) for cell, values in arrays.items()}
    sizes = [size_of(row) for row in rows]
    places = [Placement.of_fit(size, SIZE, made.fit).numbers for size in sizes]
    known = {"sizes": np.array(sizes, np.int32), "placements": np.array(places),
             "digests": source.digests()}  # fmt: skip
    known = {name: values for name, values in known.items() if name not in without}
    attrs = {
        "alpha": 0.9,
        "sigma": 0.4,
        "log_snr": 1.6,
        "layout": "NCHW",
        "stride": 4,
        "channels": 1,
    }
    columns = [Column(f"features/{b}/t{t}", values.shape[1:], dtype, {"block": b, "t": t, **attrs})
               for (b, t), values in arrays.items()]  # fmt: skip
    columns += [picture_column(name) for name in known]
    facts = {"name": "toy", "family": "toy", "fingerprint": model, "dtype": "float32"}
    pictures = {"name": str(folder), "count": len(rows), "fingerprint": source.fingerprint(),
                "reading": 2}  # fmt: skip
    with StoreWriter(path, Manifest(made.to_dict(), facts, pictures), source, columns) as writer:
        for start, stop in writer.remaining(len(rows)):
            given = "float32" if dtype == "int8" else dtype  # which are quantised as written
            found = {f"features/{b}/t{t}": values[start:stop].astype(given)
                     for (b, t), values in arrays.items()}  # fmt: skip
            found |= {name: values[start:stop] for name, values in known.items()}
            writer.add((start, stop), list(range(start, stop)), found, [])
        writer.finish()
    return FeatureStore(path)
