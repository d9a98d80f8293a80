"""One extraction as plain values, and one copy of the model that works on it.

A `Job` is what the user asked for and, once a worker has looked at the model, what that means
for it; it can be sent to any process. A `Worker` holds the model and turns spans of pictures into
arrays. Where workers run, and how many, is the business of `diffeat.engines`.
"""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.backbones import Backbone, ModelRequest
from diffeat.conditioned import EMBEDDING_ROWS
from diffeat.errors import ModelError, SpecError
from diffeat.extraction import (
    Batch,
    Conditions,
    Pending,
    Plan,
    extractor_for,
    load_for,
    noise_names,
    start_batch,
)
from diffeat.extraction.class_map import ClassMap
from diffeat.extraction.conditions import prompts_of
from diffeat.extraction.effort import effort_of
from diffeat.extraction.learned_prompts import embedding_rows
from diffeat.growing import described, finished_rows
from diffeat.hashing import files_fingerprint, fingerprint
from diffeat.images import (
    PictureBatch,
    Seen,
    Source,
    ahead,
    corruption_of,
    load_batches,
    look,
)
from diffeat.loading import load_model
from diffeat.specs import ExtractSpec
from diffeat.store import (
    Column,
    Growth,
    Manifest,
    begun_columns,
    beside,
    picture_column,
    read_how,
    seal_parts,
    seen_by,
)
from diffeat.store.format.columns import WHEN, feature_name
from diffeat.store.format.manifest import CLASSES, MODEL_CLASSES

BOXES = "boxes"
"""Data set that says which part of each padded input shows the picture."""
SIZES, PLACEMENTS = "sizes", "placements"
"""Data sets that say how large each picture is, and where its input lies in it."""
DIGESTS, STATS = "digests", "file_stats"
"""Data sets that say what each picture holds, and by which stat its file is known again."""
FINDINGS = ("request", "columns", "seen", "size", "multiple", "batch_size", "pictures",
            "bytes_per_picture", "growth", "effort")  # fmt: skip
"""Fields of a job that a worker with the model works out."""
Span = tuple[int, int]
"""(start, stop) of a run of pictures of the source."""


@dataclass(frozen=True)
class Job:
    """What a user asked for, and what that means for its model.

    The fields up to `announce` are those of `diffeat.extract_to_file`. The others are worked out
    by a worker (`Worker.findings`), for those who have no model, or another copy of it.

    Attributes:
        sharing: workers that share the memory of one device, set by the engines.
        request: what the feature file is made of.
        columns: its data sets.
        seen: digests of the pictures; None where they are read by rule 1, which has none.
        size: (H, W) in pixels that pictures are brought to; None where each keeps its own.
        multiple: what their sides are rounded to, then.
        pictures: pictures of one batch. Spans are cut from multiples of it, so that every
            engine and every resumed run computes the same batches.
        bytes_per_picture: size of one row of the file.
        growth: how the finished file at `path` becomes one of these pictures, whose order is
            then another; None where there is none to go on from.
        effort: what one picture takes; see `effort_of`.
    """

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
    announce: bool = False
    sharing: int = 1
    request: Manifest | None = None
    columns: tuple[Column, ...] = ()
    seen: Seen | None = None
    size: tuple[int, int] | None = None
    multiple: int = 1
    pictures: int = 0
    bytes_per_picture: int = 0
    growth: Growth | None = None
    effort: dict[str, Any] | None = None

    def told(self, findings: dict[str, Any]) -> Job:
        """The same with what a worker found elsewhere; pictures in the order of that worker."""
        job = replace(self, **findings)
        if job.growth is None or self.settled:  # and so in that order already
            return job
        return replace(job, source=self.source.take(job.growth.first))

    @property
    def settled(self) -> bool:
        """Whether all is worked out, the batch size included."""
        return self.pictures > 0

    @property
    def digests(self) -> np.ndarray | None:
        """(N, 16) uint8, of the pictures' own bytes; None by the rule of reading before 0.7."""
        return None if self.seen is None else self.seen.digests

    def batches(self, spans: Sequence[Span]) -> Iterator[Batch]:
        """The pictures of every span, decoded ahead in threads."""
        spec, ids = self.spec, self.source.ids
        for batch in load_batches(
            self.source, spans, self.size, spec.fit, spec.resample, self.workers, self.on_error,
            self.multiple, spec.mirror, Batch, corruption_of(spec.corrupt, spec.seed),
        ):  # fmt: skip
            yield replace(batch, ids=noise_names(spec, ids, self.digests, batch.indices))


class Worker:
    """One copy of the model at work on a job.

    Args:
        job: what to do. Where another worker has settled it, the pictures are not read again to
            find their fingerprint.
        backbone: the model, where it is loaded already.

    Attributes:
        job: with request (without how the file is made) and columns; settled only where it was.
        class_map: the model's class of each class of the pictures, where each has its own.
        converted: pictures so far whose colours were brought to sRGB.

    Raises:
        ModelError: this worker found another model than that which settled the job.
        DiffeatError: the job cannot be done with this model.
    """

    def __init__(self, job: Job, backbone: Backbone | None = None):
        if job.spec.dtype == "bfloat16":
            raise SpecError("HDF5 has no bfloat16; store as float16 or float32")
        self.converted = 0
        if backbone is None:  # whoever settled the job has checked it
            backbone = load_model(job.model) if job.settled else load_for(job.model, job.spec)
        self.backbone = backbone
        self.job = job
        if job.settled:
            self._take_up(job)
            _check_same(backbone, job)
        else:
            self.job = self._made_out(job)

    def _take_up(self, job: Job) -> tuple[str, ...] | list[str] | None:
        """What is made of the model and the pictures' conditions; returns their captions."""
        prompts, source = prompts_of(job.spec, job.source), job.source
        self._conditions = Conditions.of_spec(
            self.backbone, job.spec, len(source), prompts, source.labels, source.class_names
        )
        self.class_map = self._conditions.class_map
        self.plan = plan = Plan(self.backbone, job.spec, self._conditions.text_length)
        self._cells = {key: feature_name(*key) for key in plan.keys}
        return prompts

    def _made_out(self, given: Job) -> Job:
        """The job with what its pictures are, which are finished, and what the model tells."""
        reads = given.source.reading > 1
        seen = look(given.source, seen_by(given.path, given.source.ids)) if reads else None

        def request() -> Manifest:
            prompts = self._take_up(job)
            return request_of(self.plan, job.source, prompts, job.seen, self.class_map, job.path)

        job = _in_order(given, seen)
        made_of = request()
        if seen is not None and not given.overwrite and seal_parts(given.path, made_of, seen):
            job = _in_order(given, seen)
            made_of = request()
        if job.growth is not None:
            job = replace(
                job, growth=described(job.growth, job.spec, job.source, job.seen, made_of)
            )
        return replace(
            job,
            request=made_of,
            columns=self._columns(job, made_of),
            size=self.plan.size,
            multiple=self.backbone.step,
            bytes_per_picture=self.plan.bytes_per_picture,
            effort=effort_of(self.plan, self._conditions, given.sharing),
        )

    def _columns(self, job: Job, request: Manifest) -> tuple[Column, ...]:
        """The data sets of the file; of the pictures, those that are begun."""
        plan = self.plan
        features = feature_columns(plan)
        names = [BOXES] if plan.spec.fit == "pad" else []
        begun = None if job.overwrite else begun_columns(job.path, request)
        if job.growth is not None:
            begun = job.growth.columns
        if begun is None or {SIZES, PLACEMENTS} <= begun:
            names += [SIZES, PLACEMENTS]
        else:
            which = "its unfinished parts lack" if job.growth is None else "it lacks so far"
            warnings.warn(
                f"{job.path} goes on without /{SIZES} and /{PLACEMENTS}, which {which}; "
                "--overwrite makes it anew, with them",
                stacklevel=4,
            )
        return (*features, *map(picture_column, names), *_seen_columns(job.seen))

    @cached_property
    def extractor(self):
        """Encodes the first prompt and settles the batch size, so it is made when needed."""
        size = self.job.batch_size
        if size == "auto":  # a resumed run must compute the same batches
            noted = read_how(self.job.path, self.job.request).get("batch_size")
            if type(noted) is int and 1 <= noted <= self.plan.row_limit:
                size = noted
        return extractor_for(self.plan, size, self._conditions, sharing=self.job.sharing)

    @cached_property
    def settled(self) -> Job:
        """The job with all that the model tells."""
        if self.job.settled:
            return self.job
        return replace(
            self.job,
            request=replace(self.job.request, how=self._how()),
            batch_size=self.extractor.batch_size,
            pictures=self.extractor.pictures,
        )

    @property
    def findings(self) -> dict[str, Any]:
        """The fields that the model tells, to travel without the pictures' names: with them,
        job.told(findings) is settled in another process."""
        return {name: getattr(self.settled, name) for name in FINDINGS}

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

    def batches(self, spans: Sequence[Span]) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Every batch of `spans` with its columns' rows, in order.

        Pictures are decoded and noise is drawn ahead, in threads. On an accelerator one batch
        is being computed while the one before is fetched.
        """
        return self.compute(self.job.batches(spans))

    def compute(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """The same for batches that somebody else has read."""
        waits = self.backbone.device.type != "cpu"
        last = None
        for batch in ahead(self._drawn, batches):
            self.converted += batch.converted
            current = batch, start_batch(self.extractor, batch) if len(batch) else None
            if last is not None:
                yield last[0], self._rows(*last)
            last = current
            if not waits:
                yield batch, self._rows(*current)
                last = None
        if last is not None:
            yield last[0], self._rows(*last)

    def _drawn(self, batch: Batch) -> Batch:
        return batch.drawn(self.plan) if len(batch) else batch

    def _rows(self, batch: Batch, pending: Pending | None) -> dict[str, np.ndarray]:
        if pending is None:
            return {}
        found = {self._cells[key]: rows.numpy() for key, rows in pending.result().items()}
        known = {BOXES: batch.boxes, SIZES: batch.sizes, PLACEMENTS: batch.placements}
        if (seen := self.job.seen) is not None:
            known[DIGESTS] = seen.digests[batch.indices]
            if seen.stats is not None:
                known[STATS] = seen.stats[batch.indices]
        wanted = {column.name for column in self.job.columns}
        return found | {name: rows for name, rows in known.items() if name in wanted}


def _in_order(job: Job, seen: Seen | None) -> Job:
    """The job with what is seen of its pictures, of which those come first that are not finished
    where its output is there and grows."""
    growth = None
    if seen is not None and not job.overwrite:
        growth = finished_rows(job.path, job.source, job.spec, seen)
    if growth is None:
        return replace(job, seen=seen)
    source, seen = job.source.take(growth.first), seen.take(growth.first)
    return replace(job, source=source, seen=seen, growth=growth)


def feature_columns(plan: Plan) -> list[Column]:
    """The data sets of features, in the order of `Plan.keys`."""
    return [
        Column(feature_name(block.name, level.t), plan.shape(block), plan.spec.dtype,
               plan.describe(block, level))
        for block in plan.blocks
        for level in plan.levels
    ]  # fmt: skip


def _seen_columns(seen: Seen | None) -> tuple[Column, ...]:
    """The data sets of what is known of the pictures."""
    if seen is None:
        return ()
    found = (picture_column(DIGESTS),)
    return found if seen.stats is None else (*found, picture_column(STATS, **{WHEN: seen.when}))


def _check_same(backbone: Backbone, job: Job) -> None:
    model = job.request.model
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
    path: Path | None = None,
) -> Manifest:
    """What the feature file of a plan, a source and its captions is made of.

    Args:
        seen: the source's digests, where they are known already.
        class_map: the model's class of each class of the pictures, where each has its own.
        path: the feature file, which says where the pictures lie, seen from it.
    """
    backbone, spec = plan.backbone, plan.spec
    conditions = None if prompts is None else fingerprint(list(prompts))
    further = {} if class_map is None else {MODEL_CLASSES: list(class_map.indices)}
    if spec.embeddings is not None:
        conditions = files_fingerprint([Path(spec.embeddings)])
        further[EMBEDDING_ROWS] = embedding_rows(spec.embeddings)
    return Manifest(
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
            **({} if path is None else beside(source.name, path)),
        },
    )


def _device_facts(backbone: Backbone) -> dict[str, Any]:
    """Kind of device; on a CPU sums are cut by the number of threads."""
    import torch

    if backbone.device.type == "cuda":
        return {"device": torch.cuda.get_device_name(backbone.device)}
    threads = {"threads": torch.get_num_threads()} if backbone.device.type == "cpu" else {}
    return {"device": backbone.device.type, **threads}
