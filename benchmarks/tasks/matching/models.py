"""Which models a file of matching measures, and the feature files of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffeat
from benchmarks.features import Pictures, feature_files
from benchmarks.tasks.base import Place
from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.backbones import Backbone
from diffeat.conditioned import conditioned
from diffeat.errors import ModelError
from diffeat.images.datasets import data_roots
from diffeat.progress import say
from diffeat.store import FeatureStore


@dataclass(frozen=True)
class Row:
    """A row of the table with features.

    Attributes:
        label: for tables.
        kind: "model", "twin" (random weights) or "vision".
        name: what `diffeat.load` takes.
        fields: of the ExtractSpec.
        denoiser: weights that take the place of the denoiser's, or None.
        of: label of the model that this is the twin of, or "".
    """

    label: str
    kind: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    denoiser: str | None = None
    of: str = ""

    def load(self, device: str) -> Backbone:
        """The model.

        Raises:
            ModelError: it is not there.
        """
        return diffeat.load(self.name, device, denoiser=self.denoiser)

    @property
    def published(self) -> str:
        """What a figure of a paper stands beside; random weights have none."""
        return "" if self.kind == "twin" else self.label


def rows_of(benchmark: MeasuredBenchmark) -> Iterator[Row]:
    """Models, each followed by its random twin; then vision models."""
    for one in benchmark.models:
        fields = {**benchmark.extract, **one.extract}
        name, denoiser = located(one.name), located(one.denoiser) or None
        yield Row(one.shown, "model", name, fields, denoiser)
        if one.twin:
            fields = {**fields, **benchmark.twin}
            yield Row(f"{one.shown}@random", "twin", f"{name}@random", fields, of=one.shown)
    for name in benchmark.vision:
        model, at, weights = name.partition("@")
        label = model.rpartition(":")[2]
        fields = {"timesteps": [0], "blocks": ["all"], **benchmark.vision_extract}
        yield Row(label, "vision", model + at + located(weights), fields)


def models_of(
    benchmark: MeasuredBenchmark, place: Place, missing: dict[str, str]
) -> Iterator[tuple[Row, Backbone]]:
    """The rows whose models are there, each with its model.

    Args:
        missing: takes the label of each that is not, with the reason; of these there is no twin.

    Raises:
        ModelError: none is there.
    """
    found = False
    for row in rows_of(benchmark):
        if row.of in missing:  # the twin of what is not there says nothing
            continue
        try:
            with place.stages(f"features of {row.label}"):
                backbone = row.load(place.device)
        except ModelError as error:
            say(f"left out: {error}")
            missing[row.label] = str(error)
            continue
        found = True
        yield row, backbone
    if not found:
        raise ModelError(f"benchmark {benchmark.name}: none of its models is on this machine: "
                         f"{'; '.join(missing.values())}")  # fmt: skip


def about_features(row: Row, store: FeatureStore) -> dict[str, Any]:
    """Model, spec, and what the features were told, for the JSON; not where the model lay."""
    return {"model": {**store.model, "name": row.label}, "spec": store.spec.to_dict(),
            "told": conditioned(store.spec)}  # fmt: skip


def located(name: str) -> str:
    """A name that is a path below a folder of data sets as that path; any other as it is."""
    there = (root / name for root in data_roots()) if "/" in name else ()
    return next((str(path) for path in there if path.exists()), name)


@contextmanager
def stores_of(
    row: Row, backbone: Backbone, pictures: Pictures, place: Place
) -> Iterator[list[FeatureStore]]:
    """Feature files of a row, one for each source of pictures; what is missing is extracted."""
    with ExitStack() as stack:
        with place.stages(f"features of {row.label}"):
            stores = stack.enter_context(
                feature_files(backbone, pictures, row.fields, place.features, place.processes)
            )
        yield stores
