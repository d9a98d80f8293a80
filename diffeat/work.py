"""One extraction as plain values, and one copy of the model that works on it.

A `Job` is what the user asked for and an `Order` what that means for one model; both can be
sent to any process. A `Worker` holds the model and turns spans of pictures into arrays. Where
workers run, and how many, is the business of `diffeat.engines`.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.backbones import Backbone, ModelRequest
from diffeat.conditioned import EMBEDDING_ROWS
from diffeat.errors import ModelError, SpecError
from diffeat.extraction import Conditions, Plan, extractor_for, load_for
from diffeat.extraction.api import Drawn, draw_batch, start_batch
from diffeat.extraction.class_map import ClassMap
from diffeat.extraction.conditions import embedding_rows, prompts_of
from diffeat.hashing import files_fingerprint, fingerprint
from diffeat.images import STAT, PictureBatch, Seen, Source, ahead, load_batches, look
from diffeat.specs import ExtractSpec
from diffeat.store import Column, Request, read_how, seen_by
from diffeat.store.request import CLASSES, MODEL_CLASSES, WHEN

BOXES = "boxes"
"""Data set that says which part of each padded input shows the picture."""
DIGESTS, STATS = "digests", "file_stats"
"""Data sets that say what each picture holds, and by which stat its file is known again."""
Span = tuple[int, int]
"""(start, stop) of a run of pictures of the source."""


@dataclass(frozen=True)
class Job:
    """What a user asked for; see `diffeat.extract_to_file` for the fields."""

    model: ModelRequest
    source: Source
    spec: ExtractSpec
    path: Path
    batch_size: int | str | None = None
    workers: int = 2
    on_error: str = "fail"
    overwrite: bool = False
    compression: str = "none"
    progress: bool | None = None
    sharing: int = 1
    """Workers that share the memory of one device, set by the engines."""


@dataclass(frozen=True)
class Reading:
    """How pictures become pixels: (H, W) in pixels, fit, filter, what sides are rounded to, and
    whether they are mirrored first."""

    size: tuple[int, int] | None
    fit: str
    resample: str
    multiple: int
    mirror: bool

    def batches(self, job: Job, spans: Sequence[Span]) -> Iterator[PictureBatch]:
        """The pictures of every span, decoded ahead in threads."""
        return load_batches(
            job.source, spans, self.size, self.fit, self.resample, job.workers, job.on_error,
            self.multiple, self.mirror,
        )  # fmt: skip


@dataclass(frozen=True)
class Order:
    """A job worked out for its model: all that must be known where the model is not.

    Attributes:
        request: what the feature file is made of.
        columns: its data sets.
        reading: how pictures are read.
        batch_size: rows of one forward.
        pictures: pictures of one batch. Spans are cut from multiples of it, so that every
            engine and every resumed run computes the same batches.
        bytes_per_picture: size of one row of the file.
        seen: digests of the pictures; None where they are read by rule 1, which has none.
    """

    request: Request
    columns: tuple[Column, ...]
    reading: Reading
    batch_size: int
    pictures: int
    bytes_per_picture: int
    seen: Seen | None = None


class Worker:
    """One copy of the model at work on a job.

    Args:
        job: what to do.
        backbone: the model, where it is loaded already.
        order: what another worker made of the same job. The pictures are then not read again
            to find their fingerprint.

    Attributes:
        request: what the file is made of, without how it is made.
        columns: the data sets of the file.
        class_map: the model's class of each class of the pictures, where each has its own.
        converted: pictures so far whose colours were brought to sRGB.

    Raises:
        ModelError: this worker found another model than that of `order`.
        DiffeatError: the job cannot be done with this model.
    """

    def __init__(self, job: Job, backbone: Backbone | None = None, order: Order | None = None):
        if job.spec.dtype == "bfloat16":
            raise SpecError("HDF5 has no bfloat16; store as float16 or float32")
        self.converted = 0
        self.job = job if order is None else replace(job, batch_size=order.batch_size)
        if backbone is None:  # whoever gave the order has checked it
            backbone = load_for(job.model, job.spec) if order is None else job.model.load()
        self.backbone = backbone
        prompts, source = prompts_of(job.spec, job.source), job.source
        self._conditions = Conditions.of_spec(
            backbone, job.spec, len(source), prompts, source.labels, source.class_names
        )
        self.class_map = self._conditions.class_map
        self.plan = plan = Plan(backbone, job.spec, self._conditions.text_length)
        self._cells = {
            (block.name, level.t): Column(
                f"features/{block.name}/{level.label}",
                plan.shape(block),
                plan.spec.dtype,
                plan.describe(block, level),
            )
            for block in plan.blocks
            for level in plan.levels
        }
        self.columns = tuple(self._cells.values())
        if job.spec.fit == "pad":
            what = {"what": "top, left, height, width in pixels of what shows the picture"}
            self.columns += (Column(BOXES, (4,), "int32", what),)
        if order is None:
            self._seen = look(source, seen_by(job.path, source.ids)) if source.reading > 1 else None
        else:
            self._seen = order.seen
        self.columns += _seen_columns(self._seen)
        if order is None:
            self.request = request_of(plan, source, prompts, self._seen, self.class_map)
        else:
            _check_same(backbone, order)
            self.request, self.order = order.request, order

    @cached_property
    def extractor(self):
        """Encodes the first prompt and settles the batch size, so it is made when needed."""
        size = self.job.batch_size
        if size == "auto":  # a resumed run must compute the same batches
            noted = read_how(self.job.path, self.request).get("batch_size")
            if type(noted) is int and 1 <= noted <= self.plan.row_limit:
                size = noted
        return extractor_for(self.plan, size, self._conditions, sharing=self.job.sharing)

    @cached_property
    def order(self) -> Order:
        plan, extractor = self.plan, self.extractor
        spec = plan.spec
        reading = Reading(plan.size, spec.fit, spec.resample, self.backbone.step, spec.mirror)
        return Order(
            request=replace(self.request, how=self._how()),
            columns=self.columns,
            reading=reading,
            batch_size=extractor.batch_size,
            pictures=extractor.pictures,
            bytes_per_picture=plan.bytes_per_picture,
            seen=self._seen,
        )

    def _how(self) -> dict[str, Any]:
        """What may change the last bits of a feature, and nothing more."""
        model = self.job.model
        return {
            "batch_size": self.extractor.batch_size,
            **_device_facts(self.backbone),
            "channels_last": self.backbone.channels_last,
            "compile": model.compile,
            **({} if self.class_map is None else {CLASSES: self.class_map.text}),
            **{name: importlib.metadata.version(name) for name in ("torch", self.backbone.library)},
        }

    def batches(
        self, spans: Sequence[Span]
    ) -> Iterator[tuple[PictureBatch, dict[str, np.ndarray]]]:
        """Every batch of `spans` with its columns' rows, in order.

        Pictures are decoded and noise is drawn ahead, in threads. On an accelerator one batch
        is being computed while the one before is fetched.
        """
        return self.compute(self.order.reading.batches(self.job, spans))

    def compute(
        self, batches: Iterator[PictureBatch]
    ) -> Iterator[tuple[PictureBatch, dict[str, np.ndarray]]]:
        """The same for batches that somebody else has read."""
        waits = self.backbone.device.type != "cpu"
        last = None
        for batch, drawn in ahead(self._drawn, batches):
            self.converted += batch.converted
            current = batch, self._started(batch, drawn)
            if last is not None:
                yield last[0], self._rows(*last)
            last = current
            if not waits:
                yield batch, self._rows(*current)
                last = None
        if last is not None:
            yield last[0], self._rows(*last)

    @property
    def digests(self) -> np.ndarray | None:
        """(N, 16) uint8, of the pictures' own bytes; None by the rule of reading before 0.7."""
        return None if self._seen is None else self._seen.digests

    def _ids(self, batch: PictureBatch) -> list[str]:
        return [self.job.source.ids[index] for index in batch.indices]

    def _drawn(self, batch: PictureBatch) -> tuple[PictureBatch, Drawn | None]:
        if not batch.indices:
            return batch, None
        return batch, draw_batch(self.extractor, batch.pixels, self._ids(batch))

    def _started(self, batch: PictureBatch, drawn: Drawn | None):
        if not batch.indices:
            return None
        return start_batch(self.extractor, batch.pixels, self._ids(batch), batch.indices, drawn)

    def _rows(self, batch: PictureBatch, pending) -> dict[str, np.ndarray]:
        if pending is None:
            return {}
        found = {self._cells[key].name: rows.numpy() for key, rows in pending.result().items()}
        if self._seen is not None:
            found[DIGESTS] = self._seen.digests[batch.indices]
            if self._seen.stats is not None:
                found[STATS] = self._seen.stats[batch.indices]
        return {**found, BOXES: batch.boxes} if self.job.spec.fit == "pad" else found


def _seen_columns(seen: Seen | None) -> tuple[Column, ...]:
    """The data sets of what is known of the pictures."""
    if seen is None:
        return ()
    what = {"what": "BLAKE2b-128 of each picture's own bytes"}
    found = (Column(DIGESTS, (16,), "uint8", what),)
    if seen.stats is None:
        return found
    what = {"what": f"{', '.join(STAT)} of each picture's file; zeros where not known"}
    what[WHEN] = seen.when
    return (*found, Column(STATS, (len(STAT),), "int64", what))


def _check_same(backbone: Backbone, order: Order) -> None:
    model = order.request.model
    if backbone.fingerprint != model["fingerprint"]:
        raise ModelError(
            f"{backbone.name} on {platform.node()} is not the model that the first worker loaded "
            f"({model['name']}, {model['dtype']}); expected the same files everywhere"
        )


def errors_of(batch: PictureBatch) -> list[tuple[int, str]]:
    """(source index, reason) of the pictures of a batch that could not be read."""
    known = set(batch.indices)
    missing = [index for index in range(*batch.span) if index not in known]
    return [(index, error.reason) for index, error in zip(missing, batch.errors, strict=True)]


def request_of(
    plan: Plan,
    source: Source,
    prompts: Sequence[str] | None = None,
    seen: Seen | None = None,
    class_map: ClassMap | None = None,
) -> Request:
    """What the feature file of a plan, a source and its captions is made of.

    Args:
        seen: the source's digests, where they are known already.
        class_map: the model's class of each class of the pictures, where each has its own.
    """
    backbone, spec = plan.backbone, plan.spec
    conditions = None if prompts is None else fingerprint(list(prompts))
    further = {} if class_map is None else {MODEL_CLASSES: list(class_map.indices)}
    if spec.embeddings is not None:
        conditions = files_fingerprint([Path(spec.embeddings)])
        further[EMBEDDING_ROWS] = embedding_rows(spec.embeddings)
    return Request(
        spec=plan.spec.to_dict(),
        model={
            "name": backbone.name,
            "family": backbone.family,
            "fingerprint": backbone.fingerprint,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "changes": list(backbone.changes),
        },
        pictures={
            "name": source.name,
            "count": len(source),
            "fingerprint": source.fingerprint(None if seen is None else seen.digests),
            "conditions": conditions,
            **({"reading": source.reading} if source.reading > 1 else {}),
            **further,
        },
    )


def _device_facts(backbone: Backbone) -> dict[str, Any]:
    """Kind of device; on a CPU sums are cut by the number of threads."""
    import torch

    if backbone.device.type == "cuda":
        return {"device": torch.cuda.get_device_name(backbone.device)}
    threads = {"threads": torch.get_num_threads()} if backbone.device.type == "cpu" else {}
    return {"device": backbone.device.type, **threads}
