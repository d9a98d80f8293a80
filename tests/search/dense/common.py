"""Pictures with masks and depth, and feature files whose best cell is known by construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.coords import Placement
from diffeat.images import open_source
from diffeat.specs import ExtractSpec
from diffeat.store import Column, FeatureStore, Manifest, StoreWriter, picture_column

SIZE, GRID, CHANNELS = (32, 40), (8, 10), 5
"""H, W of inputs and of their maps."""
NOISE = {("a", 10): 2.0, ("a", 50): 30.0, ("b", 10): 0.2, ("b", 50): 6.0}
"""How much hides the classes in each cell: ("b", 10) is the best, ("a", 50) shows nothing."""
BEST = ("b", 10)
CLASSES = ("ground", "thing", "sky")
COUNT, PEOPLE = 24, 12
"""Pictures, and the persons that they belong to, two each."""


def size_of(row: int) -> tuple[int, int]:
    """Every third picture has another shape than the input."""
    return (48, 40) if row % 3 == 2 else SIZE


def sites_of(row: int) -> np.ndarray:
    """(h, w) class of each site of a map: ground, with a box of each other class somewhere."""
    rng = np.random.default_rng(100 + row)
    found = np.zeros(GRID, np.int64)
    for label in (1, 2):
        top, left = rng.integers(0, 5), rng.integers(0, 6)
        found[top : top + 3, left : left + 4] = label
    return found


def mask_of(row: int) -> np.ndarray:
    """(H, W) uint8 of the picture's size: each pixel has the class of the site that it lies in."""
    height, width = size_of(row)
    down = np.arange(height) * GRID[0] // height
    across = np.arange(width) * GRID[1] // width
    return sites_of(row)[np.ix_(down, across)].astype(np.uint8)


def depth_of(row: int) -> np.ndarray:
    """(H, W) float32 metres; a border that nothing is known of."""
    found = np.array([1.0, 2.0, 4.0], np.float32)[mask_of(row)]
    found[:2] = np.nan
    return found


def maps_of(rows: Any, noise: float, seed: int) -> np.ndarray:
    """(N, C, h, w) float32: each class has a direction of its own, under noise."""
    names = np.linalg.qr(np.random.default_rng(7).normal(size=(CHANNELS, CHANNELS)))[0][:3] * 3
    found = []
    for row in rows:
        rng = np.random.default_rng((seed, row))
        hidden = noise * rng.normal(size=(CHANNELS, *GRID))
        found.append(names[sites_of(row)].transpose(2, 0, 1) + hidden)
    return np.array(found, np.float32)


def write_pictures(folder: Path, count: int = COUNT) -> Path:
    """Pictures, masks (labels with one of 255) and depth in mm, in folders side by side."""
    for name in ("images", "masks", "depth"):
        (folder / name).mkdir(parents=True)
    for row in range(count):
        pixels = np.random.default_rng(row).integers(0, 255, (*size_of(row), 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{row:02}.png")
        Image.fromarray(mask_of(row)).save(folder / f"masks/{row:02}.png")
        depth = np.nan_to_num(1000 * depth_of(row)).astype(np.uint16)
        Image.fromarray(depth).save(folder / f"depth/{row:02}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def source_of(folder: Path, rows: Any) -> Any:
    return open_source(str(folder / "images")).take(list(rows))


def write_file(
    path: Path, folder: Path, rows: Any = range(COUNT), noise: Mapping = NOISE, spec: Mapping = {},
    model: str = "m0", without: tuple[str, ...] = (), facts: Mapping = {},
) -> FeatureStore:  # fmt: skip
    """A feature file of some of the pictures in a folder."""
    source = source_of(folder, rows)
    arrays = {
        cell: maps_of(rows, hidden, seed) for seed, (cell, hidden) in enumerate(noise.items())
    }
    steps, blocks = (tuple(dict.fromkeys(one[k] for one in noise)) for k in (1, 0))
    made = ExtractSpec(steps, blocks, **{"pool": "none", "size": SIZE, "dtype": "float16", **spec})
    if made.pool != "none":
        arrays = {cell: values.mean((2, 3)) for cell, values in arrays.items()}
    sizes = [size_of(row) for row in rows]
    places = [Placement.of_fit(size, SIZE, made.fit).numbers for size in sizes]
    known = {"sizes": np.array(sizes, np.int32), "placements": np.array(places),
             "digests": source.digests()}  # fmt: skip
    known = {name: values for name, values in known.items() if name not in without}
    attrs = {"alpha": 0.9, "sigma": 0.4, "log_snr": 1.6, "layout": "NCHW", "stride": 4,
             "channels": CHANNELS}  # fmt: skip
    columns = [Column(f"features/{b}/t{t}", values.shape[1:], "float16", {"block": b, "t": t,
               **attrs}) for (b, t), values in arrays.items()]  # fmt: skip
    columns += [picture_column(name) for name in known]
    about = {"name": "toy", "family": "toy", "fingerprint": model, "dtype": "float32", **facts}
    pictures = {"name": str(folder), "count": len(rows), "fingerprint": source.fingerprint(),
                "reading": 2}  # fmt: skip
    with StoreWriter(path, Manifest(made.to_dict(), about, pictures), source, columns) as writer:
        for start, stop in writer.remaining(len(rows)):
            found = {f"features/{b}/t{t}": values[start:stop].astype("float16")
                     for (b, t), values in arrays.items()}  # fmt: skip
            found |= {name: values[start:stop] for name, values in known.items()}
            writer.add((start, stop), list(range(start, stop)), found, [])
        writer.finish()
    return FeatureStore(path)


@dataclass(frozen=True, eq=False)
class Planted:
    """Targets in memory that follow the protocol, of pictures of `write_pictures`."""

    folder: Path
    which: tuple[int, ...] = tuple(range(COUNT))
    kind: str = "masks"
    classes: tuple[str, ...] = CLASSES
    ignore: int = 255
    name: str = "planted"
    changes: Mapping[int, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    sizes: Any = None
    palette: Any = None

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"{row:02}.png" for row in self.which)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"p{row // 2}" for row in self.which)

    @property
    def fingerprint(self) -> str:
        return f"{self.kind}{self.which}{self.classes}{sorted(self.changes)}"

    def __len__(self) -> int:
        return len(self.which)

    def pictures(self) -> Any:
        return source_of(self.folder, self.which)

    def target(self, k: int) -> np.ndarray:
        row = self.which[k]
        made = mask_of if self.kind == "masks" else depth_of
        return self.changes[row] if row in self.changes else made(row)

    def rows(self, ids: Any) -> np.ndarray:
        return np.array([ids.index(one) if one in ids else -1 for one in self.ids])

    def take(self, rows: Any) -> Planted:
        return replace(self, which=tuple(np.array(self.which)[rows].tolist()))
