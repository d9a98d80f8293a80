"""Pictures and masks, or depth maps, in folders: which file tells of which picture.

images/ beside masks/ (labels/, annotations/, gt/, depth/ …), with equal paths below
X/ beside Xannot/ (SegNet's way: train/ and trainannot/)
one folder, NAME.jpg beside NAME_mask.png (_label, _seg, _gt, _depth), NAME.png or NAME.npy
a table: a .csv with columns picture and mask (or depth), and group if there are groups
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images import FileSource, Source, nfc
from diffeat.images.below import Below, read_records
from diffeat.images.dense_layouts import stem_of
from diffeat.images.files import names_as_text
from diffeat.images.folders import ANSWERS, PHOTOS
from diffeat.images.walk import is_picture, walk
from diffeat.targets.by_id import match_ids
from diffeat.targets.dense.arrays import ARRAYS
from diffeat.targets.dense.class_lists import NAMES

ANNOT = "annot"
DEPTHS = ("depth", "depths")
ENDINGS = tuple(
    f"{joint}{word}"
    for word in ("mask", "masks", "label", "labels", "labelids", "seg", "segmentation", "gt",
                 "annotation", "depth")
    for joint in ("_", "-", ".")
)  # fmt: skip
"""What the name of a mask may have behind its picture's."""
COLUMNS = {"picture": ("picture", "image", "path", "file_name", "id"),
           "target": ("mask", "label", "annotation", "depth")}  # fmt: skip
TWO_WAYS = ("expected images/ beside masks/ (or labels/, annotations/, depth/), X/ beside Xannot/, "
            "NAME.jpg beside NAME_mask.png, or a .csv with columns picture and mask")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Pictures, and the files that tell of them.

    Attributes:
        source: the pictures, or None where their ids alone are known.
        ids: of the pictures.
        files: of masks or depth maps; None where there is none.
        within: the folder that no link may lead out of.
        groups: names, "" for none; () where nothing is said.
        lists: folders in which a list of classes may lie, the first first.
        left_out: what was found and not taken.
        depth: whether the names say that it is depth.
    """

    source: Source | None
    ids: tuple[str, ...]
    files: tuple[Path | None, ...]
    within: Path
    groups: tuple[str, ...] = ()
    lists: tuple[Path, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    depth: bool = False


def is_target(name: str) -> bool:
    """Whether a file may be a mask or a depth map, by its ending."""
    return is_picture(name) or Path(name).suffix.lower() in ARRAYS


def bare(name: str) -> str:
    """A mask's path without the ending of its file and the word for masks behind it."""
    stem = stem_of(name)
    folded = stem.casefold()
    for ending in ENDINGS:
        if folded.endswith(ending) and folded.rpartition("/")[2] != ending:
            return stem[: -len(ending)]
    return stem


# layouts


def splits_of(folder: Path) -> tuple[str, ...]:
    """Names X of all X/ beside Xannot/."""
    there = {one.name for one in _folders(folder)}
    return tuple(sorted(name for name in there if name + ANNOT in there))


def two_folders(folder: Path) -> tuple[Path, list[Path]] | None:
    """The folder of the pictures and those of masks or depth beside it; None for others."""
    folders = _folders(folder)
    photos = [one for one in folders if one.name.casefold() in PHOTOS]
    answers = [one for one in folders if one.name.casefold() in ANSWERS]
    return (photos[0], answers) if len(photos) == 1 and answers else None


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")


def find(folder: Path, split: str | None = None, kind: str | None = None) -> Found:
    """The pictures of a folder and what is known of them.

    Args:
        folder: with both.
        split: X of X/ beside Xannot/, or a folder below images/ and masks/, or of both.
        kind: "masks" or "depth", where both may be there.

    Raises:
        SourceError: no layout that is known, no such split, or names that fit several files.
    """
    annotated = splits_of(folder)
    if annotated:
        if split is None and len(annotated) > 1:
            raise SourceError(f"{folder}: no split is named; expected one of "
                              f"{', '.join(annotated)}, as in {folder}:{annotated[0]}")  # fmt: skip
        part = annotated[0] if split is None else split
        if part not in annotated:
            raise SourceError(f"{folder}: no split {part!r}; expected one of "
                              f"{', '.join(annotated)}")  # fmt: skip
        return _beside(folder, folder / part, folder / (part + ANNOT), f"{part}/")
    both = two_folders(folder)
    if both is None and split is not None:
        if not (folder / split).is_dir():
            raise SourceError(f"{folder}: no split {split!r}; {TWO_WAYS}")
        return find(folder / split, None, kind)
    if both is None:
        return _together(folder)
    photos, answers = both[0], _of_kind(folder, both[1], kind)
    if split is None:
        return _beside(folder, photos, answers, "")
    for one in (photos, answers):
        if not (one / split).is_dir():
            raise SourceError(f"{folder}: no split {split!r}; expected {one.name}/{split}/")
    return _beside(folder, photos / split, answers / split, f"{split}/")


def _of_kind(folder: Path, answers: Sequence[Path], kind: str | None) -> Path:
    depths = [one for one in answers if one.name.casefold() in DEPTHS]
    masks = [one for one in answers if one not in depths]
    fitting = {None: [*answers], "masks": masks, "depth": depths or masks}[kind]
    if len(fitting) != 1:
        raise SourceError(f"{folder}: {len(fitting)} folders of {kind or 'masks or depth'} "
                          f"({', '.join(one.name for one in answers)}); name the one that is meant "
                          "and the pictures")  # fmt: skip
    return fitting[0]


def _beside(folder: Path, photos: Path, answers: Path, before: str) -> Found:
    """Pictures below one folder, masks below another; ids begin with `before`."""
    names, _, left_out = walk(photos)
    keys, faults = names_as_text(names)
    paths = tuple(photos / name for name in names)
    source = FileSource(
        name=str(photos), ids=tuple(before + key for key in keys), paths=paths,
        faults={before + key: why for key, why in faults.items()}, left_out=left_out,
    )  # fmt: skip
    files, others = _matched(keys, walk(answers, wanted=is_target)[0], answers, str(answers))
    return Found(source, source.ids, files, folder, lists=(answers, folder), left_out=others,
                 depth=answers.name.casefold() in DEPTHS)  # fmt: skip


def _together(folder: Path) -> Found:
    """Pictures and masks in the same folders."""
    names, _, left_out = walk(folder, wanted=is_target)
    masks = _masks_among(names)
    if not masks:
        raise SourceError(f"{folder}: no pictures with masks or depth maps; {TWO_WAYS}")
    kept = [name for name in names if name not in {*masks} and is_picture(name)]
    keys, faults = names_as_text(kept)
    source = FileSource(name=str(folder), ids=keys, faults=faults, left_out=left_out,
                        paths=tuple(folder / name for name in kept))  # fmt: skip
    files, others = _matched(keys, masks, folder, str(folder))
    depth = all(stem_of(name).casefold().endswith("depth") for name in masks)
    return Found(source, source.ids, files, folder, (), (folder,), others, depth)


def _masks_among(names: Sequence[str]) -> list[str]:
    """Those of files side by side that are masks of others; [] if none can be told."""
    stems = {stem_of(name) for name in names}
    masks = [name for name in names if bare(name) != stem_of(name) and bare(name) in stems]
    if masks:
        return masks
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(stem_of(name), []).append(name)
    return [one for same in by_stem.values() if len(same) == 2 for one in _second(same)]


def _second(same: Sequence[str]) -> list[str]:
    """The mask of two files of one name: the array, or what is no JPEG; [] if that is no answer."""
    arrays = [name for name in same if not is_picture(name)]
    exact = [name for name in same if not name.lower().endswith((".jpg", ".jpeg"))]
    return arrays if len(arrays) == 1 else exact if len(exact) == 1 else []


def matched(
    ids: Sequence[str], root: Path, name: str
) -> tuple[tuple[Path | None, ...], dict[str, int]]:
    """The mask below a folder of each picture, by its path or name without endings.

    Returns:
        N paths, None where there is none; and how many masks are of no picture here.

    Raises:
        SourceError: several masks for a picture, or pictures that only their endings tell apart.
    """
    names = walk(root, wanted=is_target)[0]
    keys = _keys({nfc(stem_of(one)) for one in ids}, names)
    if len({*keys}) < len(keys):  # pictures may lie beside their masks
        names = _masks_among(names) or names
    return _matched(ids, names, root, name)


def _matched(
    ids: Sequence[str], masks: Sequence[str], root: Path, name: str
) -> tuple[tuple[Path | None, ...], dict[str, int]]:
    wanted = [nfc(stem_of(one)) for one in ids]
    _only_once(name, wanted, ids, "pictures")
    keys = _keys({*wanted}, masks)
    _only_once(name, keys, masks, "masks")
    found = match_ids(wanted, keys)
    if found.ambiguous:
        one, rows = next(iter(found.ambiguous.items()))
        raise SourceError(f"{name}: {one!r} may have the mask {' or '.join(map(repr, rows))}; give "
                          "masks the paths of their pictures, or name a table")  # fmt: skip
    files = tuple(None if row < 0 else root / masks[row] for row in found.rows.tolist())
    return files, {"masks of no picture here": len(found.unused)} if found.unused else {}


def _keys(wanted: set[str], masks: Sequence[str]) -> list[str]:
    """What masks call their pictures: their own name where a picture has it, to the letter, else
    that without a word for masks behind it."""
    stems = [nfc(stem_of(one)) for one in masks]
    return [stem if stem in wanted else nfc(bare(one))
            for stem, one in zip(stems, masks, strict=True)]  # fmt: skip


def _only_once(name: str, keys: Sequence[str], names: Sequence[str], what: str) -> None:
    known: dict[str, str] = {}
    for key, one in zip(keys, names, strict=True):
        if (other := known.setdefault(key, one)) is not one:
            raise SourceError(f"{name}: the {what} {other!r} and {one!r} are told apart by their "
                              "endings alone; rename one, or name a table")  # fmt: skip


def of_pictures(
    root: Path, pictures: Source | Sequence[str], split: str | None = None, kind: str | None = None
) -> Found:
    """The masks below a folder of pictures that lie elsewhere.

    Args:
        root: with masks, or with a layout of `find`, whose masks are meant.
        pictures: a source, or ids.
        split, kind: of `find`.
    """
    answers = _answers(root, split, kind)
    source = pictures if isinstance(pictures, Source) else None
    ids = tuple(pictures.ids if source is not None else pictures)
    files, others = matched(ids, answers, str(answers))
    return Found(source, ids, files, root, lists=(answers, answers.parent), left_out=others,
                 depth=answers.name.casefold() in DEPTHS)  # fmt: skip


def has_masks_of(root: Path, ids: Sequence[str]) -> bool:
    """Whether a folder in no layout of `find` has files that are called as some pictures are."""
    if splits_of(root) or two_folders(root):
        return False
    stems = {nfc(stem_of(one)).rpartition("/")[2] for one in ids}
    return any(key.rpartition("/")[2] in stems
               for key in _keys(stems, walk(root, wanted=is_target)[0]))  # fmt: skip


def _answers(root: Path, split: str | None, kind: str | None) -> Path:
    """The folder of the masks."""
    if annotated := splits_of(root):
        if split is None and len(annotated) == 1:
            split = annotated[0]
        if split not in annotated:
            shown = ", ".join(f"{root / one}{ANNOT}" for one in annotated)
            raise SourceError(f"{root}: several folders of masks; name one: {shown}")
        return root / (split + ANNOT)
    both = two_folders(root)
    found = root if both is None else _of_kind(root, both[1], kind)
    if split is not None and not (found / split).is_dir():
        raise SourceError(f"{root}: no split {split!r}; expected {found / split}/")
    return found if split is None else found / split


def of_table(path: Path) -> Found:
    """A table of pictures, masks and groups; paths are relative to it, and lie below its folder.

    Raises:
        SourceError: other columns, or files that are missing or elsewhere.
    """
    folder, below = path.parent, Below(path.parent)
    columns, rows = read_records(path, folder, _check)
    picture, target = (_column(columns, COLUMNS[one]) for one in ("picture", "target"))
    ids, files, groups = [], [], []
    for where, row in rows:
        ids.append(below.picture(row[picture].strip(), where))
        name = row[target].strip()
        files.append(below.root / below.picture(name, where) if name else None)
        groups.append(row.get("group", "").strip())
    source = FileSource(name=str(path), ids=tuple(ids), paths=tuple(map(below.path, ids)))
    return Found(source, source.ids, tuple(files), folder, tuple(groups), (folder,),
                 depth=target == "depth")  # fmt: skip


def _column(columns: Iterable[str], known: Sequence[str]) -> str | None:
    there = {*columns}
    return next((name for name in known if name in there), None)


def _check(path: Path, columns: tuple[str, ...]) -> None:
    if None in (_column(columns, COLUMNS["picture"]), _column(columns, COLUMNS["target"])):
        raise SourceError(
            f"{path}: the header names {', '.join(columns)[:200] or 'nothing'}; expected picture "
            "and mask (or depth), and group if there are groups"
        )


def list_beside(folders: Sequence[Path]) -> Path | None:
    """The list of classes that lies in one of some folders."""
    tries = (folder / name for folder in folders for name in NAMES)
    return next((path for path in tries if path.is_file()), None)
