"""A whole extraction: pictures from a source, through a backbone, into a feature file."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from diffeat.backbones import Backbone, ModelRequest
from diffeat.conditioned import conditioned
from diffeat.engines import JobResult, run_job
from diffeat.errors import DiffeatError
from diffeat.images import Source, check_on_error, rule_of
from diffeat.specs import ExtractSpec
from diffeat.store import FeatureStore, noted_labels, noted_pictures
from diffeat.work import Job, request_of

__all__ = ["JobResult", "as_noted", "extract_to_file", "request_of"]


def as_noted(source: Source, path: str | Path, told: bool = False) -> Source:
    """A source as what lies at `path`, whole or in parts, has it; says so.

    Unfinished parts, and files that cannot take on labels (see `diffeat.growing`), which were made
    without them, or without some of the targets, of the same pictures, are compared and gone on
    with as they are; so is what was made before version 0.7, by its rule of reading.

    Args:
        told: whether the model is told the labels, which must then be these.
    """
    pictures = noted_pictures(path)
    if pictures is not None and not told:
        source = _labelled_alike(source, path)
    if pictures is None or (rule := rule_of(pictures)) == source.reading:
        return source
    warnings.warn(
        f"{path} was begun by a version before 0.7 and is compared and gone on with by its rule of "
        "reading: of large pictures the first and last 32 KiB are compared, ICC profiles are "
        "ignored, ids stay as they are; --overwrite makes it anew",
        stacklevel=3,
    )
    return source.by_rule(rule)


def _relabels(source: Source, path: str | Path) -> bool:
    """Whether a finished file takes on the labels of a source, all of whose pictures it knows."""
    try:
        with FeatureStore(path) as store:
            return store.digests is not None and set(store.ids) <= set(source.ids)
    except DiffeatError:  # parts, or what whoever writes there will say more of
        return False


def _labelled_alike(source: Source, path: str | Path) -> Source:
    """A source with the labels and targets that a feature file was made with, if it could be
    that source's at all and does not take on others."""
    names, columns = noted_labels(path)
    found = source
    if names != (None if source.labels is None else source.class_names):
        other = None if source.before is None else source.before()
        if other is not None and names == (None if other.labels is None else other.class_names):
            found = replace(other, targets=source.targets)
        elif names is None:
            found = replace(source, labels=None, class_names=())
    if lacking := set(found.targets) - set(columns):
        kept = {name: one for name, one in found.targets.items() if name not in lacking}
        found = replace(found, targets=kept)
    if found is source or _relabels(source, path):
        return source
    what = [] if found.class_names == source.class_names else [
        "without labels" if names is None else f"with other classes ({', '.join(names[:3])})"
    ]  # fmt: skip
    what += [f"without {', '.join(sorted(lacking))}"] if lacking else []
    warnings.warn(
        f"{path} was made {' and '.join(what)}, and is compared and gone on with as it is; "
        "--overwrite makes it anew, with them",
        stacklevel=4,
    )
    return found


def extract_to_file(
    backbone: Backbone | ModelRequest,
    source: Source,
    spec: ExtractSpec,
    path: str | Path,
    batch_size: int | str | None = None,
    workers: int = 2,
    on_error: str = "fail",
    overwrite: bool = False,
    progress: bool | None = None,
    compression: str = "none",
    engine: str = "auto",
    processes: int | None = None,
    address: str | None = None,
    announce: bool = False,
) -> JobResult | None:
    """Extract features of a source into an HDF5 file; continues what a killed run began.

    Decoding and noise run ahead in threads and writing behind in another, so the model waits
    for none of them; memory depends on the batch and the shard, not on the number of pictures.

    Where a finished file lies at `path` and pictures have come since, these alone are computed,
    and the file is replaced by one of all; other labels or another order need no forward. What
    has changed or is gone is refused, by name.

    Args:
        backbone: from `diffeat.load`, or a `ModelRequest` that is loaded where it is needed;
            several workers each load their own.
        source: from `diffeat.open_source`.
        spec: what to extract.
        path: the feature file; with several machines, on a file system that all share.
        batch_size: rows of one forward; None chooses by the size of the latent, "auto" by
            measuring. It is halved when memory runs out.
        workers: decoding threads (of each process).
        on_error: "fail" stops at the first unreadable picture; "skip" leaves it out and
            records its id and the reason in the file.
        overwrite: replace what lies at `path`, once the new file is whole.
        progress: show a bar; None shows one on a terminal, and a line a minute elsewhere.
        compression: of the file: "none", "lzf", "gzip" or "zstd".
        engine: "local", "torchrun", "ray", or "auto" (see `diffeat.engines`).
        processes: copies of the model, each in a process of its own; in a script, call this
            below `if __name__ == "__main__":`.
        address: of a Ray cluster.
        announce: say on stderr, before the first picture, what it will take.

    Returns:
        What was done; None in all ranks of torchrun but the first.

    Raises:
        DiffeatError: see the parts; finished pictures are kept whatever happens.
    """
    check_on_error(on_error)
    if not overwrite:
        source = as_noted(source, path, bool(conditioned(spec)))
    source = replace(source, before=None)  # no worker needs it
    if on_error == "fail":
        source.check_readable()  # before hours of work
    loaded = isinstance(backbone, Backbone)
    job = Job(
        model=backbone.request if loaded else backbone,
        source=source,
        spec=spec,
        path=Path(path),
        batch_size=batch_size,
        workers=workers,
        on_error=on_error,
        overwrite=overwrite,
        compression=compression,
        progress=progress,
        announce=announce,
    )
    return run_job(job, backbone if loaded else None, engine, processes, address)
