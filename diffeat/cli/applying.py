"""What applies a kept head to a feature file, or straight to pictures: `predict` and `segment`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import warn
from diffeat.cli.options import model_fields, open_pictures


def is_file(what: str) -> bool:
    """Whether features are named, and no pictures."""
    return Path(what).suffix in (".h5", ".hdf5")


def device_of(name: str) -> str:
    """The device that an option names."""
    from diffeat.backbones.devices import pick_device

    return str(pick_device(name))


def from_file(stack: ExitStack, what: str, note, values: dict) -> tuple:
    """What the features of a file are, the file, how many pictures of it, and pieces of them."""
    from diffeat.conditioned import check_targets, conditioned
    from diffeat.search.applied import pieces_of_file
    from diffeat.search.kept import check_features
    from diffeat.search.stored import cells_of, made_of
    from diffeat.store import FeatureStore

    for name in ("model", "batch_size", "lora", "denoiser"):
        if values[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is for PICTURES; the features of "
                                   f"{what} are made already")  # fmt: skip
    store = stack.enter_context(FeatureStore(what))
    check_targets(what, conditioned(store.spec, store.pictures), values["allow_conditioned"])
    made = made_of(store)
    for text in check_features(note, made, cells_of(store), what):
        warn(f"{what}: {text}")
    count = min(len(store), values["limit"] or len(store))
    return made, store, count, pieces_of_file(store, note.cells, count)


def from_pictures(stack: ExitStack, what: str, note, values: dict) -> tuple:
    """The same of pictures, whose features are computed when they are asked for."""
    from diffeat.backbones import ModelRequest
    from diffeat.errors import SpecError, SpecMismatch
    from diffeat.extraction import load_for
    from diffeat.search.applied import pieces_of_pictures
    from diffeat.search.kept import check_features
    from diffeat.search.tasks import Made
    from diffeat.specs import ExtractSpec

    if note.model.get("family") == "aggregate":
        raise SpecError(
            f"the head takes maps that diffeat aggregate made ({note.model['name']}): extract "
            f"{what} and aggregate it as they were, and give that file"
        )
    source = open_pictures(what, limit=values["limit"])
    if values["on_error"] == "fail":
        source.check_readable()
    name = values["model"] or note.model["name"]
    backbone = load_for(ModelRequest(name, **model_fields(values)), note.spec)
    if backbone.fingerprint != note.model["fingerprint"]:
        raise SpecMismatch(
            f"model: {backbone.name} ({backbone.fingerprint[:12]}) is not the one that the head's "
            f"features are of, {note.model['name']} ({note.model['fingerprint'][:12]}"
            f"{''.join(f', {change}' for change in note.model.get('changes', ()))}); name it, "
            "and its --lora or --denoiser"
        )
    worker, pieces = pieces_of_pictures(
        backbone, source, note, values["batch_size"], values["workers"], values["on_error"]
    )
    request = worker.job.request
    made = Made(
        ExtractSpec.from_dict(request.spec), request.model, request.pictures,
        digests=worker.job.digests,
    )  # fmt: skip
    for text in check_features(note, made, note.cells, what):
        warn(f"{what}: {text}")
    return made, source, len(source), pieces


def fitted_on(note, made, count: int) -> dict[str, Any]:
    """How many of these pictures the head was fitted on, and what is said of it."""
    digests = made.digests
    known = note.known_among(digests if digests is None else digests[:count])
    share = "most of these pictures" if made.pictures.get("fingerprint") == note.pictures else ""
    if known is not None:
        which = "a sample of" if known.sampled else "these"
        share = f"{known.count:,} of {which} {known.compared:,} pictures" if known.count else ""
    told = share and f"the head was fitted on {share}, so no score of them is a test"
    return {"fitted_on_these": bool(share), "fitted_on": known and known._asdict(), "told": told}


@contextmanager
def written_table(path: Path | None, columns: list[str]) -> Iterator[Any]:
    """Adds rows to a CSV, which appears under its name when it is whole; without one, nowhere."""
    if path is None:
        yield lambda rows: None
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            yield writer.writerows
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
