"""Pairs by name, folder or list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import SourceError, SpecError, nearest
from diffeat.images.datasets import name_and_split, paired_folder
from diffeat.images.paired import PAIRED
from diffeat.images.paired_layouts import SIZES
from diffeat.images.tables import SEPARATORS
from diffeat.targets.pairs import ap10k, cub, depth, hpatches, pf_pascal, pf_willow, spair, tss
from diffeat.targets.pairs.base import PairTargets
from diffeat.targets.pairs.building import OUTSIDE
from diffeat.targets.pairs.drawn import PER_CLASS
from diffeat.targets.pairs.key_points import has_key_points, open_key_points
from diffeat.targets.pairs.listed import open_list


@dataclass(frozen=True)
class Reader:
    """Reads one layout.

    Attributes:
        fits: whether a folder has it.
        splits: those of a folder.
        opens: (name, folder, split, **options) → pairs.
        options: those of `open_pairs` that `opens` takes.
    """

    fits: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    opens: Callable[..., PairTargets]
    options: tuple[str, ...] = ()


DRAWN = ("outside", "seed", "per_class")
READERS = {
    "ap10k": Reader(ap10k.fits, ap10k.splits, ap10k.open_ap10k, DRAWN),
    "spair": Reader(spair.fits, spair.splits, spair.open_spair, ("size", "outside")),
    "pf-willow": Reader(pf_willow.fits, pf_willow.splits, pf_willow.open_pf_willow, ("outside",)),
    "pf-pascal": Reader(pf_pascal.fits, pf_pascal.splits, pf_pascal.open_pf_pascal, ("outside",)),
    "cub": Reader(cub.fits, cub.splits, cub.open_cub, DRAWN),
    "tss": Reader(tss.fits, tss.splits, tss.open_tss),
    "hpatches": Reader(hpatches.fits, hpatches.splits, hpatches.open_hpatches),
    "7scenes": Reader(depth.fits, depth.splits, depth.open_rgbd),
}
"""Of the named sets, in the order in which a folder is tried."""
DEFAULTS = {"size": "large", "outside": "refuse", "seed": 0, "per_class": PER_CLASS}


def open_pairs(
    name: str | Path,
    split: str | None = None,
    *,
    size: str = "large",
    outside: str = "refuse",
    seed: int = 0,
    per_class: int = PER_CLASS,
) -> PairTargets:
    """Find the pairs that a name stands for.

    Args:
        name: a named set ("spair:test"; of `diffeat.images.paired.PAIRED`), looked for as
            `diffeat.images.datasets` looks for all named sets; a folder in the layout of one
            ("FOLDER" or "FOLDER:split"); a list of pairs, or of key points (a .csv or
            .tsv, see `diffeat.targets.pairs.listed` and `.key_points`).
        split: instead of one behind the name; not needed where there is only one.
        size: "large" or "small" list of SPair-71k.
        outside: "refuse" points that lie more than a pixel outside their picture, or "drop" (leave
            them out, counted).
        seed, per_class: of pairs that are drawn (CUB-200-2011, AP-10K).

    Returns:
        The pairs; `left_out` counts what is there and not taken.

    Raises:
        SourceError: nothing is there (says where it comes from), no such split, or files that are
            missing, damaged or contradictory.
        SpecError: an option that these pairs do not have.
    """
    asked_for = {"size": size, "outside": outside, "seed": seed, "per_class": per_class}
    text, asked = name_and_split(str(name), split)
    path = Path(text)
    if path.is_file():
        if path.suffix.lower() not in SEPARATORS or asked:
            raise SourceError(f"{path}: expected a list of pairs, a .csv or .tsv without splits")
        opens = open_key_points if has_key_points(path) else open_list
        return opens(path, **_options(path, asked_for, ("outside",)))
    if path.is_dir():
        kind, folder, shown = _layout(path), path, text
    elif text in READERS:
        kind, folder, shown = text, paired_folder(text), text
    else:
        raise SourceError(
            f"{str(name)!r} is no folder, list or set of pairs{nearest(text, READERS)}; named "
            f"sets: {', '.join(sorted(READERS))}, each as NAME:SPLIT"
        )
    reader = READERS[kind]
    part = _split(shown, reader.splits(folder), asked)
    options = _options(shown, asked_for, reader.options)
    return reader.opens(f"{shown}:{part}", folder, part, **options)


def _options(name: str | Path, asked: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """The options that a reader knows; SpecError for another one that was asked for."""
    for key, value in asked.items():
        if key not in known and value != DEFAULTS[key]:
            raise SpecError(f"{name}: {key}={value!r}, but these pairs have no such choice; leave "
                            "it away")  # fmt: skip
    if asked["outside"] not in OUTSIDE or asked["size"] not in SIZES or asked["per_class"] < 1:
        raise SpecError(f"{name}: {asked}; expected size {' or '.join(SIZES)}, outside "
                        f"{' or '.join(OUTSIDE)}, per_class of 1 or more")  # fmt: skip
    return {key: asked[key] for key in known}


def _layout(folder: Path) -> str:
    kind = next((kind for kind, reader in READERS.items() if reader.fits(folder)), None)
    if kind is None:
        known = "; ".join(f"{name}: {PAIRED[name].wanted}" for name in READERS)
        raise SourceError(f"{folder}: no layout of pairs that is known; expected one of {known}; "
                          "or name a list, a .csv with a point a row")  # fmt: skip
    return kind


def _split(name: str, there: tuple[str, ...], asked: str | None) -> str:
    if asked is None and len(there) == 1:
        return there[0]
    if asked is None or asked not in there:
        wrong = "no split is named" if asked is None else f"no split {asked!r}"
        raise SourceError(f"{name}: {wrong}; expected one of {', '.join(there) or 'none'}, as in "
                          f"{name}:{there[0] if there else 'test'}")  # fmt: skip
    return asked
