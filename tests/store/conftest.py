"""Feature files made without any model: made-up arrays handed straight to StoreWriter."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from diffeat.images import ArraySource
from diffeat.specs import ExtractSpec
from diffeat.store import (
    PICTURE_COLUMNS,
    Column,
    Manifest,
    ShardWriter,
    StoreWriter,
    picture_column,
)

LEVELS = {20: (0.9, 0.4358), 60: (0.6, 0.8)}


@dataclass
class Job:
    """One made-up extraction: what is asked for, the pictures, and the features they have."""

    path: Path
    count: int = 10
    blocks: tuple[str, ...] = ("mid", "up.1")
    shape: tuple[int, ...] = (3, 2, 2)
    dtype: str = "float16"
    ids: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    targets: dict = field(default_factory=dict)
    seed: int = 0
    model: str = "m0"
    fit: str = "squash"
    boxes: bool = False
    how: dict = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        names = [f"features/{block}/t{t}" for block in self.blocks for t in LEVELS]
        shape = (self.count, *self.shape)
        given = "float32" if self.dtype == "int8" else self.dtype
        self.values = {name: rng.normal(size=shape).astype(given) for name in names}
        if self.boxes:
            self.values["boxes"] = rng.integers(0, 32, (self.count, 4), np.int32)

    @property
    def source(self) -> ArraySource:
        ids = self.ids or tuple(f"class/{k:03d}.png" for k in range(self.count))
        pixels = np.zeros((self.count, 2, 2), np.uint8)
        known = self.labels, self.class_names
        return ArraySource("made-up", ids, *known, pixels, targets=self.targets)

    @property
    def manifest(self) -> Manifest:
        spec = ExtractSpec(
            timesteps=tuple(LEVELS),
            blocks=self.blocks,
            dtype=self.dtype,
            seed=self.seed,
            fit=self.fit,
        )
        model = {"name": "toy", "family": "toy", "fingerprint": self.model, "dtype": "float32"}
        known = self.source.by_rule(1).fingerprint()  # that of a request without "reading"
        pictures = {"name": "made-up", "count": self.count, "fingerprint": known}
        return Manifest(spec.to_dict(), model, pictures, self.how)

    @property
    def columns(self) -> list[Column]:
        features = [
            Column(f"features/{block}/t{t}", self.shape, self.dtype, self.attrs(block, t))
            for block in self.blocks
            for t in LEVELS
        ]
        return [*features, *(picture_column(n) for n in PICTURE_COLUMNS if n in self.values)]

    def attrs(self, block: str, t: int) -> dict:
        alpha, sigma = LEVELS[t]
        return {
            "block": block,
            "t": t,
            "alpha": alpha,
            "sigma": sigma,
            "log_snr": 2 * np.log(alpha / sigma),
            "layout": "NCHW",
            "stride": 8,
            "channels": self.shape[0],
        }

    def writer(self, overwrite: bool = False, compression: str = "none") -> StoreWriter:
        return StoreWriter(
            self.path, self.manifest, self.source, self.columns, overwrite, compression
        )

    def shard_writer(self, **options) -> ShardWriter:
        return ShardWriter(self.path, self.columns, self.source, **options)

    def batch(self, start: int, stop: int, skip: tuple[int, ...] = ()) -> tuple:
        """One batch as writers take it, without the pictures in `skip`."""
        keep = [k for k in range(start, stop) if k not in skip]
        errors = [(k, f"reason {k}") for k in skip if start <= k < stop]
        rows = {name: values[keep] for name, values in self.values.items()}
        return (start, stop), keep, rows, errors

    def add(self, writer, start: int, stop: int, skip: tuple[int, ...] = ()) -> None:
        """Hand one batch to a writer."""
        writer.add(*self.batch(start, stop, skip))

    def write(
        self,
        batch: int = 4,
        skip: tuple[int, ...] = (),
        overwrite: bool = False,
        compression: str = "none",
    ) -> Path:
        """The finished file."""
        with self.writer(overwrite, compression) as writer:
            for start, stop in writer.remaining(batch):
                self.add(writer, start, stop, skip)
            writer.finish()
        return self.path

    def begin(self, *spans: tuple[int, int], error: type = RuntimeError) -> Path:
        """A run that is interrupted after some batches; returns the folder of its parts."""
        writer = self.writer()
        with contextlib.suppress(error), writer:
            for start, stop in spans:
                self.add(writer, start, stop)
            raise error
        return writer.folder.path


@pytest.fixture
def job(tmp_path):
    """Makes a Job in tmp_path; keyword arguments are its fields."""

    def make(name: str = "features.h5", **fields) -> Job:
        return Job(tmp_path / name, **fields)

    return make


@pytest.fixture
def sound(job) -> Path:
    """A finished, labelled file of 10 pictures."""
    return job(labels=np.arange(10) % 2, class_names=("cat", "dog")).write()


@pytest.fixture
def each_batch_a_shard(monkeypatch):
    """Every batch becomes a shard of its own."""
    monkeypatch.setattr("diffeat.store.write.writer.SHARD_SECONDS", 0)


class Tripwire:
    """A named pipe at `path` that notes whether anybody opened it.

    A writer waits at the pipe's other end, so that whoever opens it does not hang.
    """

    def __init__(self, path: Path):
        self.path = path
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """Put the pipe in place of whatever lies at `path`."""
        self.path.unlink(missing_ok=True)
        os.mkfifo(self.path)
        self._thread = threading.Thread(target=self._wait_for_reader, daemon=True)
        self._thread.start()

    def _wait_for_reader(self) -> None:
        os.close(os.open(self.path, os.O_WRONLY))
        self._opened.set()

    @property
    def touched(self) -> bool:
        return self._opened.wait(0.05)

    def disarm(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._thread.join()
        os.close(descriptor)


@pytest.fixture
def tripwire(tmp_path):
    wire = Tripwire(tmp_path / "outside.h5")
    yield wire
    wire.disarm()
