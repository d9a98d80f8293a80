"""Features straight from the backbone: computed when they are asked for, kept in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.backbones import Backbone
from diffeat.conditioned import check_targets, conditioned
from diffeat.errors import SpecError
from diffeat.extraction import Plan
from diffeat.images import PictureBatch, Source
from diffeat.noise import format_t, plain_t
from diffeat.progress import counted
from diffeat.search.asking import MEMORY
from diffeat.search.frequency import (
    CUTOFF,
    PICTURES,
    FrequencyGuess,
    high_frequency_ratio,
    mean_ratio,
    runs_among,
)
from diffeat.search.stored import SAMPLE, WAY_OUT, identity_of, parted
from diffeat.search.targeted import one_space, targets_of
from diffeat.search.tasks import Made, Task, readable
from diffeat.specs import ExtractSpec
from diffeat.targets import Labelled
from diffeat.work import Job, Worker


class LiveFeatures:
    """Pooled features (N, D) of sources, one group of t's in memory at a time.

    All blocks of one (picture, t) come from one forward that stops after the last of them.
    With G groups the VAE and the text encoder run G times per picture, since each group begins
    with the pictures again; where all fits in memory there is one group and they run once. A
    group holds

        N · itemsize · T_group · sum of D over the blocks

    bytes, and T_group is the largest number that keeps this within `memory`. Asking for a t of
    another group drops what is held. Nothing is written to disk.

    A group's features are those that `diffeat extract` stores for its t's with the same spec
    and batch size, bit for bit. (Other t's in one batch may change the last bits.)

    Args:
        backbone: from `diffeat.load`.
        sources: one, or a training and a test source; their rows follow each other.
        spec: what to extract; pooled, and not int8.
        memory: bytes for features.
        batch_size: rows of one forward; None chooses by the size of the latent, "auto" by
            measuring, which is remembered.
        workers: decoding threads.
        progress: show bars; None shows them on a terminal, and a line a minute elsewhere.

    Attributes:
        plan: the spec worked out.
        class_map: the model's class of each class of the pictures, where each has its own.
        timesteps: native t's, ascending.
        groups: how these are divided.
        computed: groups that were computed so far.

    Raises:
        SpecError: maps, int8, or one t alone needs more than `memory`.
    """

    def __init__(
        self,
        backbone: Backbone,
        sources: Sequence[Source],
        spec: ExtractSpec,
        memory: int = MEMORY // 2,
        batch_size: int | str | None = None,
        workers: int = 2,
        progress: bool | None = None,
    ):
        if spec.pool == "none" or spec.dtype == "int8":
            raise SpecError(
                f"pool={spec.pool}, dtype={spec.dtype}: features kept in memory must be pooled "
                "floats; choose a pool such as 1x1 or 2x2, and float16 or float32"
            )
        self.backbone, self.sources = backbone, tuple(sources)
        self._options = {"batch_size": batch_size, "workers": workers, "progress": progress}
        workers_of = [self._worker(source, spec) for source in self.sources]
        self.requests = [worker.job.request for worker in workers_of]
        self.digests = [worker.job.digests for worker in workers_of]
        self.plan: Plan = workers_of[0].plan
        self.class_map = workers_of[0].class_map
        levels = zip(self.plan.levels, self.plan.spec.timesteps, strict=True)
        self._spelled = {plain_t(level.t): spelled for level, spelled in levels}
        self.timesteps = sorted(self._spelled)
        self.widths = {b.name: math.prod(self.plan.shape(b)) for b in self.plan.blocks}
        self.groups = self._grouped(memory)
        self.computed = 0
        self._held: dict[tuple[str, float], np.ndarray] = {}

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def _grouped(self, memory: int) -> list[list[float]]:
        each = len(self) * self.plan.dtype.itemsize * sum(self.widths.values())
        if each > memory:
            raise SpecError(
                f"the features of {len(self):,} pictures at one t take {readable(each)}; "
                f"{readable(memory)} are allowed for features: allow more (--memory), take "
                "fewer blocks or pictures or a smaller pool, or extract to a file and search that"
            )
        most = memory // each
        count = math.ceil(len(self.timesteps) / most)
        return [list(map(plain_t, group)) for group in np.array_split(
            np.array(self.timesteps, object), count)]  # fmt: skip

    def read(self, block: str, t: float) -> np.ndarray:
        """(N, D) features; computes the group of t unless it is in memory."""
        if (block, t) not in self._held:
            group = next((group for group in self.groups if t in group), None)
            if group is None or block not in self.widths:
                raise SpecError(f"block {block!r} at t={format_t(t)} is not of this search")
            self._held.clear()  # before the next is made, so that there is never more than one
            self._compute(group)
        return self._held[block, t]

    def shape(self, block: str) -> tuple[int, int]:
        return len(self), self.widths[block]

    def cell(self, block: str, t: float) -> Any:
        """(N, D) of a cell: its shape without computing it, its rows by computing it."""
        from probes.lazy import Deferred

        dtype = np.float16 if self.plan.spec.dtype == "float16" else np.float32
        return Deferred(self.shape(block), lambda rows: self.read(block, t)[rows], dtype)

    def _worker(self, source: Source, spec: ExtractSpec) -> Worker:
        nowhere = Path(f"{source.name}.search")  # a job names its file; none is made
        return Worker(Job(self.backbone.request, source, spec, nowhere, **self._options),
                      self.backbone)  # fmt: skip

    def _compute(self, group: list[float]) -> None:
        # the dtype of the arrays is that of the batches, and known from the first
        held: dict[tuple[str, float], np.ndarray] = {}
        spec = replace(self.plan.spec, timesteps=tuple(self._spelled[t] for t in group))
        label, show = ", ".join(map(format_t, group)), self._options["progress"]
        with counted(len(self), desc=f"t={label}", unit="pictures", show=show) as bar:
            first = 0
            for source in self.sources:
                worker = self._worker(source, spec)
                for cells, batch in batches_of(worker, source):
                    start, stop = batch.span
                    for key, rows in cells.items():
                        if key not in held:
                            held[key] = np.empty(self.shape(key[0]), rows.dtype)
                        held[key][first + start : first + stop] = rows.reshape(stop - start, -1)
                    bar.update(stop - start)
                first += len(source)
        self._held, self.computed = held, self.computed + 1


def batches_of(worker: Worker, source: Source) -> Iterator[tuple[dict, PictureBatch]]:
    """({(block, t): rows}, their batch) of all pictures of a source, in order."""
    names = {c.name: (c.attrs["block"], c.attrs["t"]) for c in worker.job.columns if "t" in c.attrs}
    size = worker.settled.pictures
    spans = [(first, min(first + size, len(source))) for first in range(0, len(source), size)]
    for batch, rows in worker.batches(spans):
        found = {names[name]: values for name, values in rows.items() if name in names}
        yield found, batch


def _same_picture(one: Source, first: int, other: Source, second: int) -> bool:
    return np.array_equal(np.asarray(one.load(first)), np.asarray(other.load(second)))


def live_task(
    features: LiveFeatures,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    allow_conditioned: bool = False,
    duplicates: str = "warn",
    groups: Sequence[Sequence[str]] | None = None,
    labels: Sequence[Labelled] | None = None,
) -> Task:
    """The task of a search straight from the backbone; see `task_from_store`.

    Raises:
        SpecError: no labels, a test source with other classes or the same pictures, or features
            that are told their targets (see `diffeat.conditioned`).
    """
    sources = features.sources
    names = [source.name for source in sources]
    labels = targets_of(sources) if labels is None else one_space(labels, names)
    pictures = features.requests[0].pictures
    why = conditioned(features.plan.spec, pictures)
    why = check_targets(features.backbone.name, why, allow_conditioned)
    if len(sources) > 1:
        _check_sources(*sources, duplicates)
    parts = parted(
        features.backbone.name, [source.ids for source in sources], labels, features.digests,
        fractions, seed, duplicates, groups,
    )  # fmt: skip
    blocks = list(features.widths)
    requests = features.requests
    return Task(
        name=features.backbone.name,
        **parts,
        cells=tuple((block, t) for block in blocks for t in features.timesteps),
        read=features.cell,
        identity=identity_of([(r.spec, r.model, r.pictures) for r in requests]),
        ids=tuple(name for source in sources for name in source.ids),
        together=tuple(tuple((b, t) for b in blocks for t in group) for group in features.groups),
        conditioned=why,
        made=Made(
            features.plan.spec, requests[0].model, requests[0].pictures,
            tuple(labels[0].class_names), features.digests[0],
        ),
    )  # fmt: skip


def _check_sources(train: Source, test: Source, duplicates: str) -> None:
    """SpecError unless a test source has pictures of its own."""
    if train.content() == test.content():
        raise SpecError(
            f"{train.name} and {test.name} hold the same pictures; expected a test set of its "
            "own, or give one and let it be split"
        )
    if duplicates == "drop":  # which leaves them out of training
        return
    row = {name: index for index, name in enumerate(train.ids)}
    shared = [name for name in test.ids if name in row][:SAMPLE]
    for index, name in enumerate(test.ids):
        if name in shared and _same_picture(train, row[name], test, index):
            raise SpecError(
                f"{test.name} holds pictures of {train.name}, such as {name!r}; expected a "
                f"test set of its own, or {WAY_OUT}"
            )


def live_frequency(
    backbone: Backbone,
    source: Source,
    spec: ExtractSpec,
    cutoff: float = CUTOFF,
    pictures: int = PICTURES,
    batch_size: int | str | None = None,
    workers: int = 2,
    rows: np.ndarray | None = None,
) -> FrequencyGuess:
    """High-frequency ratios of all cells of a spec, from maps that are kept nowhere.

    Args:
        source: of which about `pictures`, spread over it, are looked at; labels play no part.
        spec: its pool is left out.
        rows: which pictures may be looked at, such as `Task.seen`; None means all.
    """
    some = source.take(np.concatenate(runs_among(len(source), pictures, rows)))
    job = Job(
        backbone.request, some, replace(spec, pool="none"), Path("search"), batch_size, workers
    )
    worker, found = Worker(job, backbone), {}
    with counted(len(some), desc="frequency", unit="pictures") as bar:
        for cells, batch in batches_of(worker, some):
            for key, values in cells.items():
                found.setdefault(key, []).append(high_frequency_ratio(values, cutoff))
            bar.update(batch.span[1] - batch.span[0])
    blocks = {block.name: place for place, block in enumerate(worker.plan.blocks)}
    ordered = sorted(found, key=lambda cell: (blocks[cell[0]], cell[1]))
    ratios = {cell: mean_ratio(cell, found[cell]) for cell in ordered}
    return FrequencyGuess(ratios, cutoff, len(some))
