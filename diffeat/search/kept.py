"""Heads that are kept: what their file says of their features, and whether others are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffeat._version import __version__
from diffeat.conditioned import conditioned
from diffeat.errors import SpecError, SpecMismatch, StoreError
from diffeat.noise import format_t
from diffeat.search.best_spec import spec_of_cells
from diffeat.search.finding import Choice
from diffeat.search.fitted_on import Known, known_among, noted, read_note
from diffeat.search.judge import Judge, cells_in
from diffeat.search.splits import TRAIN, VALIDATION
from diffeat.search.tasks import CellKey, Made
from diffeat.specs import ExtractSpec, differences, without_cells

FREE = ("dtype", "corrupt")
"""Fields of a spec that may differ: how features are stored, which changes their last digits; and
how pictures were made worse, to test a head on them."""


@dataclass(frozen=True)
class HeadNote:
    """What a kept head says of itself, checked.

    Attributes:
        spec: which extracts its cells.
        cells: the (block, t) that it takes, in order.
        model: name, family, fingerprint, dtype and changes of the model.
        class_names: by class index; () where it has none.
        conditions: hash of the texts of the pictures, if the model was given any.
        told: by what its features were told their targets, "" if by nothing.
        pictures: fingerprint of those that it was fitted, chosen and tested on.
        fitted: (m,) uint64, those that it was fitted on (see `fitted_on`); None if not known.
    """

    spec: ExtractSpec
    cells: tuple[CellKey, ...]
    model: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    conditions: str | None = None
    told: str = ""
    pictures: str | None = None
    fitted: np.ndarray | None = field(default=None, compare=False)

    def known_among(self, digests: np.ndarray | None) -> Known | None:
        """How many of pictures with these digests, (n, 16), it was fitted on; None if unknown."""
        if self.fitted is None or digests is None:
            return None
        return known_among(self.fitted, digests)

    @classmethod
    def of(cls, about: Mapping[str, Any], path: str | Path) -> HeadNote:
        """From the `about_` of a loaded head.

        Raises:
            StoreError: it does not say what its features are.
        """
        try:
            model = {**about["model"]}
            if not all(isinstance(model[name], str) for name in ("name", "fingerprint", "dtype")):
                raise TypeError("model")
            return cls(
                ExtractSpec.from_dict(about["spec"]), _cells(about["cells"]), model,
                _names(about.get("class_names", [])), about.get("conditions"),
                str(about.get("conditioned", "")), about.get("pictures", {}).get("fingerprint"),
                read_note(about["fitted_on"]) if "fitted_on" in about else None,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{path} does not say what features its head is for ({error}); expected one kept "
                "by diffeat probe --save or diffeat search --save"
            ) from error


def _cells(values: Any) -> tuple[CellKey, ...]:
    cells = tuple((cell["block"], cell["t"]) for cell in values)
    good = all(isinstance(block, str) and type(t) in (int, float) for block, t in cells)
    if not cells or not good:
        raise TypeError("cells")
    return cells


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise TypeError("class_names")
    return tuple(values)


def about_head(
    made: Made, cells: Sequence[CellKey], class_names: Sequence[str] | None = None, **more: Any
) -> dict[str, Any]:
    """What is written into the file of a head, for `probes.save(head, path, about)`.

    Args:
        made: of the features that it was fitted on.
        cells: the (block, t) that it takes; their vectors stand side by side in this order.
        class_names: by class index; None: those of the features.
        more: further plain values, such as scores.
    """
    told = conditioned(made.spec, made.pictures)
    return {
        "spec": spec_of_cells(made.spec, cells).to_dict(),
        "cells": [{"block": block, "t": t} for block, t in cells],
        "model": dict(made.model),
        "class_names": list(made.class_names if class_names is None else class_names),
        "pictures": {name: made.pictures.get(name) for name in ("count", "fingerprint")},
        "conditions": made.pictures.get("conditions"),
        **({"conditioned": told} if told else {}),
        **more,
        "versions": {"diffeat": __version__},
    }


def keep_head(judge: Judge, choice: Choice, path: str | Path) -> None:
    """Fit the head of what was chosen, on training and validation, and keep it as a file.

    Raises:
        SpecError: the judge has no head.
        StoreError: it cannot be written.
    """
    from probes import HeadError, save

    head = judge.head(choice.candidate, choice.setting)
    scores = {
        "judge": judge.describe(), "measure": judge.number.to_dict(), "setting": choice.setting,
        "validation": choice.validation, "test": choice.test, "counts": list(judge.counts),
    }  # fmt: skip
    about = about_head(
        judge.made, cells_in(choice.candidate), task=judge.task_name, scores=scores,
        **(judge.head_notes or {}), **_fitted_on(judge),
    )  # fmt: skip
    try:
        save(head, path, about)
    except HeadError as error:
        raise SpecError(str(error)) from error


def keep_mixer(judge: Judge, found: Any, path: str | Path, memory: int, seed: int = 0) -> None:
    """Keep the mixer of a finding, trained on training and validation, as a file for
    `diffeat aggregate --mixer`.

    Args:
        found: of `train_mixer`.
        memory, seed: as for `train_mixer`.

    Raises:
        SpecError: nothing was trained, or the judge does not say what its features are.
        StoreError: it cannot be written.
    """
    from probes import HeadError, save

    if not found.trained or judge.made is None:
        why = judge.not_trained or "what the features were made of is not known"
        raise SpecError(f"there is no trained mixer to keep: {why}")
    scores = {
        "judge": judge.describe(), "measure": judge.number.to_dict(), "setting": found.setting,
        "validation": found.validation, "test": found.test, "counts": list(judge.counts),
    }  # fmt: skip
    about = about_head(
        judge.made, judge.cells, task=judge.task_name, scores=scores, **judge.noted_pictures()
    )
    try:
        save(judge.fitted_mixer(found.setting, memory, seed), path, about)
    except HeadError as error:
        raise SpecError(str(error)) from error


def _fitted_on(judge: Judge) -> dict[str, str]:
    """The pictures of training and validation, where it is known what they hold."""
    if judge.made is None or judge.made.digests is None:
        return {}
    digests, part = judge.made.digests, np.asarray(judge.part)[: len(judge.made.digests)]
    return {"fitted_on": noted(digests[(part == TRAIN) | (part == VALIDATION)])}


def load_head(path: str | Path, device: str = "auto") -> tuple[Any, HeadNote]:
    """A kept head, to run on `device`, and what it says of its features.

    Raises:
        StoreError: no head, or it does not say what its features are.
    """
    from probes import HeadError, load

    try:
        head = load(path, device)
    except HeadError as error:
        raise StoreError(str(error)) from error
    if "sources" in head.about_:
        raise StoreError(f"{path} takes features of several files; apply it with diffeat "
                         "aggregate A.h5 B.h5 --mixer")  # fmt: skip
    return head, HeadNote.of(head.about_, path)


def check_features(note: HeadNote, made: Made, cells: Sequence[CellKey], name: str) -> list[str]:
    """Refuse features that a head is not for, field by field.

    What must be equal: the model's fingerprint, every field of the spec but `FREE`, and the
    texts that the model was given; the cells must be there. Pictures, their number and the name
    of the model play no part.

    Args:
        made: what the features are.
        cells: those that there are.
        name: of the features, for the error.

    Returns:
        What differs and is let pass, for a warning: precision of the forward or of the storage,
        corruptions.

    Raises:
        SpecMismatch: names every field that differs.
    """
    wrong = []
    if made.model["fingerprint"] != note.model["fingerprint"]:
        wrong.append(f"model: {_model(made.model)} → {_model(note.model)}")
    found, wanted = (without_cells(spec.to_dict()) for spec in (made.spec, note.spec))
    for spec in (found, wanted):
        for free in FREE:
            spec.pop(free, None)
    wrong += differences(found, wanted)
    if note.told == "" and (given := made.pictures.get("conditions")) != note.conditions:
        wrong.append(f"texts: {given} → {note.conditions}")
    lacking = [f"{block} at t={format_t(t)}" for block, t in note.cells if (block, t) not in cells]
    if lacking:
        wrong.append(f"cells: without {', '.join(lacking)}")
    if wrong:
        raise SpecMismatch(
            f"{name} holds other features than the head was fitted on: {'; '.join(wrong)} "
            "(there → wanted); extract with the head's spec, or give PICTURES in place of a file"
        )
    worse = (f"corrupted by {one.spec.corrupt}" if one.spec.corrupt else "clean"
             for one in (made, note))  # fmt: skip
    passing = [("stored as", made.spec.dtype, note.spec.dtype),
               ("forward in", made.model["dtype"], note.model["dtype"]),
               ("pictures", *worse)]  # fmt: skip
    return [f"{what} {there}, the head's were {was}"
            for what, there, was in passing if there != was]  # fmt: skip


def _model(model: Mapping[str, Any]) -> str:
    changes = "".join(f", {change}" for change in model.get("changes", ()))
    return f"{model['name']}{changes} ({model['fingerprint'][:12]})"
