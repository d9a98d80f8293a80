"""Masks and depth by name, folder or table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from diffeat.coords import Size
from diffeat.errors import SourceError, SpecError, nearest
from diffeat.images import FileSource, Source, open_source
from diffeat.images.datasets import dense_folder, name_and_split
from diffeat.images.dense_sets import DENSE
from diffeat.images.masks import FRAMES
from diffeat.images.paired_layouts import rgbd_colours
from diffeat.images.tables import SEPARATORS
from diffeat.targets.dense.base import DenseTargets, FileTargets, Reader
from diffeat.targets.dense.class_lists import named, read_classes
from diffeat.targets.dense.folders import Found, find, list_beside, of_pictures, of_table
from diffeat.targets.dense.frames import is_tum, tum_pairs
from diffeat.targets.dense.labels import LabelReader, found_classes, with_ignored
from diffeat.targets.dense.metres import UNITS, DepthReader, scale_of
from diffeat.targets.dense.missing import check_within, kept_rows
from diffeat.targets.dense.named import open_named

KINDS = ("masks", "depth")


@dataclass(frozen=True)
class Wishes:
    """What `open_dense` was asked for beside a place."""

    classes: Sequence[str] | str | Path | None = None
    ignore: tuple[int, ...] = ()
    kind: str | None = None
    unit: str | float | None = None
    missing: str = "refuse"
    frame: str | None = None
    sizes: Mapping[str, Size] | None = None


def open_dense(
    name: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | str | Path | None = None,
    table: str | Path | None = None,
    pictures: Source | Sequence[str] | str | Path | None = None,
    sizes: Mapping[str, Size] | None = None,
    kind: str | None = None,
    unit: str | float | None = None,
    ignore: int | Sequence[int] = (),
    missing: str = "refuse",
    frame: str | None = None,
) -> DenseTargets:
    """Find the masks, or the depth maps, that a name stands for.

    Args:
        name: a named set ("camvid:train", of `diffeat.images.dense_sets.DENSE`), looked for as
            `diffeat.images.datasets` looks for all named sets; a folder in the layout of one, or
            in one of `diffeat.targets.dense.folders` ("FOLDER" or "FOLDER:split"); or a .csv with
            columns picture, mask and group. With `pictures`, a folder of masks.
        split: instead of one behind the name.
        classes: names, by number from 0; or a list of classes (`…dense.class_lists`). None takes
            classes.json, .csv or .txt that lies with the masks, else the numbers that occur.
        table: the .csv, where `name` is its folder.
        pictures: a source, what names one, or ids such as a feature file's, whose masks lie in the
            folder.
        sizes: id → (H, W) of upright pictures of which ids alone are known.
        kind: "masks" or "depth"; None goes by the names of folders and columns.
        unit: of depth in whole numbers: "mm", "cm", "m", "tum" or metres of one step.
        ignore: numbers in masks that do not count, beside 255.
        missing: "refuse" pictures without a mask, or "leave-out" (counted in `left_out`).
        frame: "upright" or "stored": how masks of pictures that EXIF turns were drawn, where sizes
            do not tell.

    Returns:
        The targets; files are read when they are asked for.

    Raises:
        SourceError: nothing is there (says where it comes from), no such split, missing masks,
            links out of the folder, masks of which nobody says what they mean.
        SpecError: an option that is unknown, or that does not go with the others.
    """
    ignore = (ignore,) if isinstance(ignore, int) else tuple(ignore)
    wishes = Wishes(classes, ignore, kind, unit, missing, frame, sizes)
    _check(wishes)
    if isinstance(pictures, (str, Path)):
        pictures = open_source(pictures)
    text, part = name_and_split(str(name), split)
    place = Path(text)
    if text in DENSE and part in DENSE[text].splits and table is None:
        return _of_set(text, text, _set_folder(text, place), part, wishes)
    if table is not None or place.is_file():
        return _of_table(place if table is None else Path(table), wishes, part, pictures)
    if pictures is not None:
        if not place.is_dir():
            raise SourceError(f"{place}: no folder; expected one of masks or depth maps")
        return _of_found(text, of_pictures(place, pictures, part, kind), wishes)
    if place.is_dir():
        return _of_folder(text, place, part, wishes)
    if text not in DENSE:
        raise SourceError(
            f"{str(name)!r} is no folder, table or set of masks or depth{nearest(text, DENSE)}; "
            f"named sets: {', '.join(sorted(DENSE))}, each as NAME:SPLIT"
        )
    return _of_set(text, text, _set_folder(text, place), part, wishes)


def _check(wishes: Wishes) -> None:
    if wishes.kind not in (None, *KINDS) or wishes.frame not in (None, *FRAMES):
        raise SpecError(f"kind={wishes.kind!r}, frame={wishes.frame!r}; expected "
                        f"{' or '.join(KINDS)}, {' or '.join(FRAMES)}, or None")  # fmt: skip
    scale_of(wishes.unit)


def _set_folder(name: str, here: Path) -> Path:
    """Where a named set lies, which may be the current folder."""
    try:
        return dense_folder(name)
    except SourceError:
        if here.is_dir():
            return here
        raise


def _of_set(kind: str, shown: str, folder: Path, split: str | None, wishes: Wishes) -> FileTargets:
    splits = DENSE[kind].splits
    if split not in splits:
        wrong = "no split is named" if split is None else f"no split {split!r}"
        raise SourceError(f"{shown}: {wrong}; expected one of {', '.join(splits)}, as in "
                          f"{shown}:{splits[0]}")  # fmt: skip
    found = open_named(kind, f"{shown}:{split}", folder, split, wishes.missing)
    if wishes.kind not in (None, found.kind):
        raise SourceError(f"{shown}: has {found.kind}, no {wishes.kind}; name another set")
    if wishes.classes is not None or wishes.ignore or wishes.unit is not None:
        raise SpecError(f"{shown}: what its numbers mean is known; leave classes, ignore and unit "
                        "away")  # fmt: skip
    return found


def _of_folder(shown: str, folder: Path, split: str | None, wishes: Wishes) -> FileTargets:
    kind = next((one for one, has in DENSE.items() if has.fits and has.fits(folder)), None)
    if kind is not None:
        return _of_set(kind, shown, folder, split, wishes)
    if wishes.kind != "masks" and rgbd_colours(folder):
        return _of_set("kitchen-rgbd", shown, folder, split or "all", wishes)
    if wishes.kind != "masks" and is_tum(folder):
        return _of_tum(shown, folder, split, wishes)
    text = shown if split is None else f"{shown}:{split}"
    return _of_found(text, find(folder, split, wishes.kind), wishes)


def _of_tum(shown: str, folder: Path, split: str | None, wishes: Wishes) -> FileTargets:
    if split is not None:
        raise SourceError(f"{shown}: no split {split!r}; a sequence of TUM's has none")
    pairs, left_out = tum_pairs(folder)
    ids = tuple(colour for colour, _ in pairs)
    source = FileSource(name=shown, ids=ids, paths=tuple(folder / one for one in ids))
    files = tuple(folder / depth for _, depth in pairs)
    found = Found(source, ids, files, folder, left_out=left_out, depth=True)
    for path in source.paths:
        check_within(shown, path, str(folder.resolve()), folder)
    return _of_found(shown, found, replace(wishes, unit=wishes.unit or "tum"))


def _of_table(
    path: Path, wishes: Wishes, split: str | None, pictures: Source | Sequence[str] | None
) -> FileTargets:
    if path.suffix.lower() not in SEPARATORS or split is not None or pictures is not None:
        raise SourceError(f"{path}: expected a table of pictures and masks, a .csv or .tsv, "
                          "without splits or further pictures")  # fmt: skip
    return _of_found(str(path), of_table(path), wishes)


def _of_found(name: str, found: Found, wishes: Wishes) -> FileTargets:
    kept, others = kept_rows(name, found.ids, found.files, found.within, wishes.missing)
    if not kept:
        raise SourceError(
            f"{name}: none of {len(found.ids)} pictures has a mask or depth map, such as "
            f"{found.ids[0]!r}; expected files that are called as the pictures are"
        )
    ids, files = (tuple(values[k] for k in kept) for values in (found.ids, found.files))
    groups = tuple(found.groups[k] for k in kept) if found.groups else ()
    source = found.source
    paths = getattr(source, "paths", ()) if source is not None else ()
    return FileTargets(
        name, ids, files, _reader(name, found, files, wishes), found.within, groups,
        None if source is None else partial(_itself, source),
        tuple(paths[k] for k in kept) if paths else (), wishes.sizes or {},
        {**found.left_out, **others}, frame=wishes.frame,
    )  # fmt: skip


def _itself(source: Source) -> Source:
    return source


def _reader(name: str, found: Found, files: Sequence[Path], wishes: Wishes) -> Reader:
    kind = wishes.kind or ("depth" if found.depth or wishes.unit is not None else "masks")
    if kind == "depth":
        if wishes.classes is not None or wishes.ignore:
            raise SpecError(f"{name}: depth has no classes and no numbers to ignore; leave them "
                            "away")  # fmt: skip
        return DepthReader(scale_of(wishes.unit))
    if wishes.unit is not None:
        raise SpecError(f"{name}: masks have no unit ({', '.join(UNITS)} are of depth)")
    listed = wishes.classes
    if listed is None:
        listed = list_beside(found.lists)
        if listed is not None:
            check_within(name, listed, str(listed.parent.resolve()), listed.parent)
    if listed is None:
        real = str(found.within.resolve())
        check = partial(check_within, name, real=real, within=found.within)
        return with_ignored(found_classes(name, files, check), wishes.ignore)
    if isinstance(listed, (str, Path)):
        return with_ignored(LabelReader(read_classes(listed)), wishes.ignore)
    return with_ignored(LabelReader(named(listed)), wishes.ignore)
