"""One or several feature files of the same pictures, as one `Cells`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from diffeat.errors import SpecError, SpecMismatch
from diffeat.hashing import fingerprint
from diffeat.images import rule_of
from diffeat.search.kept import HeadNote, about_head
from diffeat.search.stored import cells_of, made_of
from diffeat.search.tasks import CellKey, Made, cell_name, choose_cells
from diffeat.store import FeatureStore
from probes.aggregate import Fusion
from probes.aggregate.base import Aggregator
from probes.aggregate.frames import together
from probes.cells import Cells

NAMED = 3
"""Pictures that a message names."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Feature files bound by the ids of their pictures; the first one's order counts.

    Attributes:
        stores: the files, which must be open as long as features are read.
        keys: for each file the (block, t) that are taken.
        rows: for each file its row of each of the N pictures.
        left_out: why pictures were left out → how many.
    """

    stores: tuple[FeatureStore, ...]
    keys: tuple[tuple[CellKey, ...], ...]
    rows: tuple[np.ndarray, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows[0])

    @property
    def first(self) -> FeatureStore:
        return self.stores[0]

    @cached_property
    def ids(self) -> list[str]:
        """N picture ids."""
        return [self.first.ids[row] for row in self.rows[0]]

    @property
    def name(self) -> str:
        """For messages: "a.h5 + b.h5"."""
        return " + ".join(str(one.path) for one in self.stores)

    @property
    def models(self) -> str:
        """Names of the models, each once."""
        return " + ".join(dict.fromkeys(one.model["name"] for one in self.stores))

    @cached_property
    def parts(self) -> list[Cells]:
        """The maps of each file, read when they are wanted."""
        found = []
        for store, keys, rows in zip(self.stores, self.keys, self.rows, strict=True):
            whole = Cells(
                {key: store[key] for key in keys},
                sizes=store.sizes, placements=store.placements, input_size=store.spec.size,
            )  # fmt: skip
            as_it_is = np.array_equal(rows, np.arange(len(store)))
            found.append(whole if as_it_is else whole[rows])
        return found

    @cached_property
    def cells(self) -> Cells:
        """The maps of all files, in the frame of the first one's inputs.

        Of several files the block of a cell has the file's number before it: ("2/up.1", 20).

        Raises:
            SpecError: the inputs of the files do not show the same of a picture.
        """
        if len(self.parts) == 1:
            return self.parts[0]
        try:
            return together(self.parts)
        except ValueError as error:
            raise SpecError(f"{self.name}: {error}") from error

    def given(self, aggregator: Aggregator) -> Any:
        """The maps as an aggregator takes them: a `Fusion` by file, others as one."""
        several = len(self.parts) > 1 and isinstance(aggregator, Fusion)
        return self.parts if several else self.cells

    @cached_property
    def made(self) -> tuple[Made, ...]:
        """What the features of each file were made of."""
        return tuple(made_of(one) for one in self.stores)

    @property
    def digests(self) -> np.ndarray | None:
        """(N, 16) uint8 of the pictures, where they are known."""
        found = self.first.digests
        return None if found is None else found[self.rows[0]]

    def about(self) -> list[dict[str, Any]]:
        """What the features of each file are, for the file of a mixer (see `about_head`)."""
        return [about_head(made, keys) for made, keys in zip(self.made, self.keys, strict=True)]

    @cached_property
    def identity(self) -> str:
        """Hash of what the features were made of, whatever the pictures."""
        keys = ("model", "spec", "cells", "conditioned")
        plain = [{key: one.get(key) for key in keys} for one in self.about()]
        for one in plain:
            one["model"] = {k: one["model"][k] for k in ("fingerprint", "dtype")}
        return fingerprint(plain)

    @property
    def pictures(self) -> dict[str, Any]:
        """What is said of the pictures, where these are not all of the first file's."""
        if np.array_equal(self.rows[0], np.arange(len(self.first))):
            return {}
        whole = self.first.pictures
        return {"count": len(self), "fingerprint": fingerprint(whole["fingerprint"], self.ids)}


def open_sources(
    stores: Sequence[FeatureStore],
    blocks: Sequence[str] | None = None,
    timesteps: Sequence[Any] | None = None,
    missing: str = "refuse",
    notes: Sequence[HeadNote] | None = None,
) -> Sources:
    """Bind feature files by the ids of their pictures.

    Args:
        stores: one file or more; of any models.
        blocks, timesteps: only these, of each file those that it has; None means all.
        missing: what becomes of pictures that one of the files lacks: "refuse" or "leave-out".
        notes: for each file the cells that a mixer takes, in place of blocks and timesteps.

    Raises:
        SpecError: no file, cells that no file has, vectors, unknown words.
        SpecMismatch: files of different pictures; says what differs.
    """
    stores = tuple(stores)
    if not stores:
        raise SpecError("no feature file; expected one, or several of the same pictures")
    if missing not in ("refuse", "leave-out"):
        raise SpecError(f"missing={missing!r}; expected refuse or leave-out")
    if notes is None:
        keys = [_chosen(one, stores, blocks, timesteps) for one in stores]
    else:
        keys = [note.cells for note in notes]
    for one, mine in zip(stores, keys, strict=True):
        _check_maps(one, mine)
    rows, left_out = _rows(stores, missing)
    found = Sources(stores, tuple(map(tuple, keys)), tuple(rows), left_out)
    _check_contents(found)
    return found


def _chosen(
    store: FeatureStore, stores: Sequence[FeatureStore], blocks: Any, timesteps: Any
) -> tuple[CellKey, ...]:
    """The cells of one file; what other files alone have is not asked of it."""
    name, timed = str(store.path), timesteps
    if len(stores) > 1:
        known = {block for one in stores for block in one.blocks}
        if blocks and (wrong := [block for block in blocks if block not in known]):
            raise SpecError(f"no file has a block {wrong[0]!r}; they have {', '.join(known)}")
        blocks = blocks and [block for block in blocks if block in store.blocks]
        if blocks == []:
            raise SpecError(f"{name} has none of the blocks that were asked for; it has "
                            f"{', '.join(store.blocks)}")  # fmt: skip
        timed = None if len(store.timesteps) == 1 else timesteps
    return choose_cells(name, cells_of(store), blocks or None, store.native(timed))


def _check_maps(store: FeatureStore, keys: Sequence[CellKey]) -> None:
    for key in keys:
        if len(store[key].shape) != 4:
            pool = store.spec.pool
            why = f"was extracted with --pool {pool}" if pool != "none" else "is no map"
            raise SpecError(
                f"{store.path}: {cell_name(key)} holds vectors ({why}), which have no places to "
                "aggregate at; extract with --pool none, or choose other blocks (-b)"
            )


def _rows(
    stores: tuple[FeatureStore, ...], missing: str
) -> tuple[list[np.ndarray], dict[str, int]]:
    """For each file its rows of the pictures that all have, in the order of the first."""
    places = [{name: row for row, name in enumerate(one.ids)} for one in stores]
    common = [name for name in stores[0].ids if all(name in place for place in places)]
    everyone = set().union(*places)
    if len(common) < len(everyone) and missing == "refuse":
        raise SpecMismatch(_differs(stores, places, common))
    if not common:
        raise SpecMismatch(f"{_differs(stores, places, common)}: none is left")
    left_out = len(everyone) - len(common)
    rows = [np.array([place[name] for name in common], np.int64) for place in places]
    return rows, {"pictures that not all files have": left_out} if left_out else {}


def _differs(
    stores: Sequence[FeatureStore], places: Sequence[dict[str, int]], common: Sequence[str]
) -> str:
    """Which pictures only some of the files have."""
    said, shared = [], set(common)
    for store, place in zip(stores, places, strict=True):
        own = [name for name in place if name not in shared]
        if own:
            skipped = sum(name in other.skipped for other in stores for name in own)
            why = f"; {skipped} were skipped when another was made" if skipped else ""
            said.append(f"{store.path} has {len(own)} that not all have, such as {_some(own)}{why}")
    return (
        f"the files hold different pictures ({len(common)} in common): {'. '.join(said)}. Extract "
        "the same pictures for all, or leave such pictures out (--missing leave-out)"
    )


def _check_contents(found: Sources) -> None:
    """SpecMismatch if pictures of one id hold something else."""
    first = found.first
    for store, rows in zip(found.stores[1:], found.rows[1:], strict=True):
        known = first.digests is not None and store.digests is not None
        if not known or rule_of(first.pictures) != rule_of(store.pictures):
            continue
        other = (first.digests[found.rows[0]] != store.digests[rows]).any(1)
        if other.any():
            names = [found.ids[row] for row in np.flatnonzero(other)]
            raise SpecMismatch(
                f"{len(names)} pictures of one name hold something else in {first.path} and in "
                f"{store.path}: {_some(names)}; extract both from the same pictures"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + ", …" * (len(names) > NAMED)
