"""From mask files to class indices 0 … K−1 and `ignore`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.errors import PictureError, SourceError
from diffeat.images import read_labels
from diffeat.images.masks import LOSSY
from diffeat.progress import counted
from diffeat.targets.dense.arrays import ARRAYS, read_array
from diffeat.targets.dense.class_lists import HOW, MOST, ClassList, Entry, made

IGNORE = 255
"""Label of pixels that do not count, in files and in what is read, unless it is a class."""
COLOURS = ("RGB", "RGBA", "RGBX")
SHOWN = 3
UNKNOWN = -2


@dataclass(frozen=True, eq=False)
class LabelReader:
    """Masks of whole numbers, or of colours, by a list of classes.

    Attributes:
        listed: what numbers and colours mean.
        ignored: further numbers of what does not count.
        shades: (K, 3) uint8 colours of the classes where the list has none.
    """

    listed: ClassList
    ignored: tuple[int, ...] = ()
    shades: np.ndarray | None = None
    kind: str = field(default="masks", init=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.listed.names

    @property
    def ignore(self) -> int:
        return IGNORE if len(self.listed.entries) <= IGNORE else -1

    @cached_property
    def palette(self) -> np.ndarray | None:
        colours = [one.colour for one in self.listed.entries]
        if None in colours:
            return self.shades
        return np.array(colours, np.uint8).reshape(-1, 3)

    def about(self) -> list:
        entries = [(one.id, one.name, one.colour) for one in self.listed.entries]
        others = [(one.id, one.colour) for one in self.listed.ignored]
        return ["labels", entries, others, sorted(self.ignored), self.ignore]

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8, or int16 with ignore −1, as the file lies on the disk."""
        if self._colours is not None and _has_colours(path):
            return self._of_colours(path, read_colours(path))
        return self._of_numbers(path, read_numbers(path))

    def _of_numbers(self, path: Path, found: np.ndarray) -> np.ndarray:
        table = self._numbers
        if found.dtype == np.uint8:  # every byte has a place in the table
            known = table[found]
        else:
            wide = found.astype(np.int64)
            inside = (wide >= 0) & (wide < len(table))
            known = np.where(inside, table[np.where(inside, wide, 0)], UNKNOWN)
            known[np.isin(wide, self.ignored)] = self.ignore
        if (odd := known == UNKNOWN).any():
            raise PictureError(str(path), self._odd(np.unique(found[odd]).tolist()))
        return known.astype(np.uint8 if self.ignore == IGNORE else np.int16)

    def _odd(self, odd: Sequence[object]) -> str:
        shown = ", ".join(map(str, odd[:SHOWN])) + ", …" * (len(odd) > SHOWN)
        one = self.listed.entries[-1]
        return (f"holds {shown}, of which {self.listed.name} ({len(self.listed.entries)} classes, "
                f"up to {one.id} {one.name!r}) says nothing; add a row to the list of classes, "
                'called "ignore" where such pixels do not count')  # fmt: skip

    def _of_colours(self, path: Path, found: np.ndarray) -> np.ndarray:
        codes, which = np.unique(packed(found), return_inverse=True)
        lacking = [code for code in codes.tolist() if code not in self._colours]
        if lacking:
            names = [f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in lacking]
            raise PictureError(str(path), self._odd(names))
        values = np.array([self._colours[code] for code in codes.tolist()], np.int16)
        dtype = np.uint8 if self.ignore == IGNORE else np.int16
        return values[which].reshape(found.shape[:2]).astype(dtype)

    @cached_property
    def _numbers(self) -> np.ndarray:
        """Number → index, `ignore` or UNKNOWN."""
        skipped = [IGNORE, *(k for k in self.ignored if k >= 0)]
        skipped += [one.id for one in self.listed.ignored]
        table = np.full(max(skipped + [one.id for one in self._all]) + 1, UNKNOWN, np.int16)
        table[skipped] = self.ignore
        for index, one in enumerate(self.listed.entries):
            table[one.id] = index
        return table

    @cached_property
    def _colours(self) -> dict[int, int] | None:
        """Packed colour → index or `ignore`; None where the list has no colours."""
        places = {one: index for index, one in enumerate(self.listed.entries)}
        found = {_code(one.colour): places.get(one, self.ignore)
                 for one in self._all if one.colour}  # fmt: skip
        return found or None

    @property
    def _all(self) -> list[Entry]:
        return [*self.listed.entries, *self.listed.ignored]


def packed(found: np.ndarray) -> np.ndarray:
    """(H, W) int64, one number a colour, of (H, W, 3)."""
    wide = found.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _code(colour: Sequence[int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _has_colours(path: Path) -> bool:
    if path.suffix.lower() in ARRAYS:
        return False
    try:
        with Image.open(path) as image:
            return image.mode in COLOURS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(str(path), f"no mask that can be read ({error})") from error


def read_numbers(path: Path) -> np.ndarray:
    """(H, W) whole numbers of a picture of one number a pixel, or of an .npy or .npz.

    Raises:
        PictureError: it cannot be read, or holds colours (says what to do), or JPEG's nearly equal
            numbers.
    """
    if path.suffix.lower() in ARRAYS:
        found = read_array(path)
        whole = found.dtype.kind in "iub" or (found.dtype.kind == "f" and (found % 1 == 0).all())
        if not whole:
            raise PictureError(str(path), f"holds {found.dtype} that are no whole numbers; "
                               "expected a label a pixel")  # fmt: skip
        return found.astype(np.int64)
    if _has_colours(path):
        raise PictureError(
            str(path), "holds colours; name a list that says which colour is which class "
            f"(classes.csv with columns id, name, r, g, b), or save one number a pixel; {HOW}"
        )  # fmt: skip
    return read_labels(path)[0]


def read_colours(path: Path) -> np.ndarray:
    """(H, W, 3) uint8; PictureError where some of it is transparent, or of a JPEG."""
    try:
        with Image.open(path) as image:
            if image.format in LOSSY:
                raise ValueError(f"a {image.format} changes colours by a little; expected a PNG")
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(str(path), f"no mask that can be read ({error})") from error
    if values.shape[2] == 4 and image.mode == "RGBA" and values[..., 3].min(initial=255) < 255:
        raise PictureError(str(path), "is transparent in places; expected a colour a pixel")
    return values[..., :3]


def found_classes(
    name: str, paths: Iterable[Path], check: Callable[[Path], None] | None = None
) -> LabelReader:
    """A reader by the numbers that masks hold: 0 … their largest, named by number.

    Args:
        name: of the masks, for messages.
        paths: all of them, which are read.
        check: raises for one that must not be read.

    Raises:
        SourceError: numbers that leave it open what they mean: 0 and 255 alone, or more gaps
            than numbers.
    """
    paths, found = list(paths), set()
    with counted(len(paths), desc="classes", unit="masks", delay=3) as bar:
        for path in paths:
            if check is not None:
                check(path)
            found |= set(np.unique(read_numbers(path)).tolist())
            bar.update(1)
    kept = sorted(found - {IGNORE})
    way = f"name a list of classes; {HOW}"
    if IGNORE in found and kept in ([], [0]):
        raise SourceError(f"{name}: its masks hold {kept[0] if kept else ''}{' and ' * len(kept)}"
                          f"255 alone, and whether 255 is a class or does not count nobody says; "
                          f'{way}; with rows such as "0 background" and "255 object"')  # fmt: skip
    if not kept or kept[0] < 0 or kept[-1] >= MOST or kept[-1] >= 2 * len(kept) + 8:
        raise SourceError(f"{name}: its masks hold {len(kept)} numbers between {min(found)} and "
                          f"{max(found)}, too far apart to count as classes; {way}")  # fmt: skip
    names = [Entry(k, str(k)) for k in range(kept[-1] + 1) if k != IGNORE]
    return LabelReader(made(f"the numbers in {name}", names), shades=palette_of(paths[0], names))


def palette_of(path: Path, entries: Sequence[Entry]) -> np.ndarray | None:
    """(K, 3) uint8 of an indexed PNG; None of other masks."""
    if path.suffix.lower() in ARRAYS or _has_colours(path):
        return None
    palette = read_labels(path)[1]
    if palette is None or max(one.id for one in entries) > 255:
        return None
    return np.array(palette, np.uint8).reshape(-1, 3)[[one.id for one in entries]]


def with_ignored(reader: LabelReader, numbers: Sequence[int]) -> LabelReader:
    """The same with further numbers that do not count."""
    ids = {one.id: one.name for one in reader.listed.entries}
    if (twice := next((k for k in numbers if k in ids), None)) is not None:
        raise SourceError(f"ignore={twice}, which {reader.listed.name} calls {ids[twice]!r}; "
                          "expected a number that is no class")  # fmt: skip
    return LabelReader(reader.listed, (*reader.ignored, *numbers), reader.shades)
