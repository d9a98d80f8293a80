"""CUB-200-2011 (Wah et al. 2011): birds with fifteen parts.

    images/<class>/<picture>.jpg             ids start at <class>
    images.txt                               number path
    train_test_split.txt                     number 1 (train) or 0 (test)
    bounding_boxes.txt                       number x y width height
    parts/parts.txt                          part name
    parts/part_locs.txt                      number part x y visible

The data set has no pairs. Either <split>_pairs.txt lists them, two numbers (or paths below
images/) a line, or they are drawn: of each class of a split up to `per_class` ordered pairs of
pictures that share at least three visible parts (`diffeat.targets.pairs.drawn`, by seed and
class). Figures for drawn pairs compare with each other, not with published ones.

Source: Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", and
its README. It does not say whether pixels count from 0 or 1; they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diffeat.errors import SourceError
from diffeat.images.below import Below, read_text
from diffeat.images.paired_layouts import cub_lines, cub_pictures
from diffeat.targets.pairs.base import PointPairs
from diffeat.targets.pairs.building import Said, point_pairs
from diffeat.targets.pairs.drawn import PER_CLASS, SHARED, drawn_pairs

Point = tuple[float, float]


@dataclass(frozen=True)
class Bird:
    """A picture: its path, its class, its visible parts by number, x1, y1, x2, y2 of its box."""

    path: str
    category: str
    box: tuple[float, ...] | None
    parts: dict[str, Point] = field(default_factory=dict)


def fits(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return all((folder / name).is_file() for name in ("images.txt", "parts/part_locs.txt"))


def splits(folder: Path) -> tuple[str, ...]:
    return "train", "test"


def open_cub(
    name: str,
    folder: Path,
    split: str,
    outside: str = "refuse",
    seed: int = 0,
    per_class: int = PER_CLASS,
) -> PointPairs:
    """The pairs of a split.

    Args:
        name: of the pairs, for messages.
        folder: of the data set.
        split: "train" or "test".
        outside: of `point_pairs`.
        seed, per_class: of pairs that are drawn.

    Raises:
        SourceError: files that are missing, damaged or contradictory.
    """
    birds = read_birds(folder, split)
    listed = folder / f"{split}_pairs.txt"
    if listed.is_file():
        pairs = _listed(listed, folder, birds)
    else:
        pairs = _drawn(folder, birds, seed, per_class)
    names = {part: " ".join(words) for part, words in _parts(folder)}
    said = (_said(where, a, b, names) for where, a, b in pairs)
    return point_pairs(name, Below(folder / "images", folder), said, outside=outside)


def read_birds(folder: Path, split: str) -> dict[str, Bird]:
    """Number → picture, of a split, in the order of images.txt."""
    boxes = {}
    for where, (number, *box) in cub_lines(folder, "bounding_boxes.txt", 5):
        x, y, width, height = (_number(where, text) for text in box)
        boxes[number] = (x, y, x + width, y + height)
    birds = {
        number: Bird(path, path.partition("/")[0], boxes.get(number))
        for number, path in cub_pictures(folder, split).items()
    }
    for where, (number, part, x, y, visible) in cub_lines(folder, "parts/part_locs.txt", 5):
        if number in birds and visible == "1":
            birds[number].parts[part] = _number(where, x), _number(where, y)
    return birds


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SourceError(f"{where}: {text!r:.60}; expected a number of pixels") from error


def _parts(folder: Path) -> Iterator[tuple[str, list[str]]]:
    path = folder / "parts" / "parts.txt"
    for line in read_text(path, folder, "names of parts").splitlines():
        if line.strip():
            part, *words = line.split()
            yield part, words


def _listed(path: Path, folder: Path, birds: dict[str, Bird]) -> Iterator[tuple[str, Bird, Bird]]:
    known = {**{bird.path: bird for bird in birds.values()}, **birds}
    for line, text in enumerate(read_text(path, folder, "a list of pairs").splitlines(), 1):
        names = text.split()
        if not names:
            continue
        strange = [name for name in names if name not in known]
        if len(names) != 2 or strange:
            wrong = f"{strange[0]!r:.120} is no picture of this split" if strange else (
                f"{len(names)} names")  # fmt: skip
            raise SourceError(f"{path}, line {line}: {wrong}; expected two numbers of images.txt, "
                              "or two paths in it")  # fmt: skip
        yield f"{path}, line {line}", known[names[0]], known[names[1]]


def _drawn(
    folder: Path, birds: dict[str, Bird], seed: int, per_class: int
) -> Iterator[tuple[str, Bird, Bird]]:
    classes: dict[str, list[Bird]] = {}
    for bird in birds.values():
        classes.setdefault(bird.category, []).append(bird)
    for category in sorted(classes):
        members = sorted(classes[category], key=lambda bird: bird.path)
        for a, b in drawn_pairs(members, per_class, _share, seed, category):
            yield str(folder / "parts" / "part_locs.txt"), a, b


def _share(a: Bird, b: Bird) -> bool:
    return len(a.parts.keys() & b.parts.keys()) >= SHARED


def _said(where: str, a: Bird, b: Bird, names: dict[str, str]) -> Said:
    shared = [part for part in a.parts if part in b.parts]
    points = ([bird.parts[part] for part in shared] for bird in (a, b))
    return Said(where, a.path, b.path, *points, tuple(names.get(part, part) for part in shared),
                (a.box, b.box), a.category if a.category == b.category else "birds",
                kinds=(a.category, b.category))  # fmt: skip
