"""What a dense head says, as files: masks, depth, uncertainty, and how they look on pictures.

    FOLDER/ID.png                   class indices with a palette; 16-bit grey of more than 256
    FOLDER/classes.json             what indices and colours mean, and what the files were made by
    FOLDER/overlays/ID.jpg          the picture under its classes, with a legend
    FOLDER/heat/ID.jpg              of words, the heat of each over the picture
    FOLDER/uncertainty/ID.png       8-bit grey; classes.json says what 255 stands for
    FOLDER/uncertainty/ID.jpg       the same over the picture
    FOLDER/ID.png or ID.npz         of depth: 16-bit millimetres, or float32 metres ("depth")
    FOLDER/depth.json               its unit
    FOLDER/colours/ID.jpg           depth as colours, near ones light

Names come from the pictures' ids; none leads out of the folder, and no two are alike, on disks
either that do not tell capitals apart.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from diffeat._version import __version__
from diffeat.errors import SpecError, StoreError
from diffeat.search.dense.applied import AppliedDense, Seen

OVERLAYS, UNCERTAINTY, COLOURS, HEATS = "overlays", "uncertainty", "colours", "heat"
"""Folders beside the masks."""
NOTES = {"masks": "classes.json", "depth": "depth.json"}
"""What says of the files what they mean."""
WHOLE = 256
"""Classes that an 8-bit mask can hold."""
MILLIMETRES, DEEPEST = 1000.0, 65535
"""Of a metre; largest number of a 16-bit depth map, 65.535 m."""
QUALITY = {"quality": 92, "subsampling": 0}
"""Of pictures that are only looked at; colours are not smeared."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)
"""Names that some systems do not take for files."""
MAKER = "made_by"
"""Key of what wrote a folder, by which it is known again."""


def file_names(ids: Sequence[str]) -> list[str]:
    """Names of files of pictures, without an ending, as ways below a folder.

    The folders of an id stay, and its ending goes, unless two ids would then be alike: those keep
    theirs, and are numbered where that does not tell them apart. Nothing leads upwards, and
    nothing is called like a folder or file of ours.
    """
    plain = [_safe(one) for one in ids]
    short = [_bare(one) for one in plain]
    count = Counter(one.casefold() for one in short)
    names = [whole if count[one.casefold()] > 1 else one
             for one, whole in zip(short, plain, strict=True)]  # fmt: skip
    taken: set[str] = set()
    found = []
    for name in names:
        free, k = name, 1
        while free.casefold() in taken:
            k += 1
            free = f"{name}~{k}"
        taken.add(free.casefold())
        found.append(free)
    return found


def _safe(name: str) -> str:
    """An id as a way below a folder."""
    parts = []
    for part in name.replace("\\", "/").split("/"):
        part = re.sub(r'[\x00-\x1f<>:"|?*]', "_", part).strip().rstrip(".")
        if RESERVED.fullmatch(part):
            part = f"_{part}"
        if part:
            parts.append(part[-200:])
    for k, part in enumerate(parts[:-1]):  # a folder that is called like a file, or one of ours
        ours = k == 0 and part.casefold() in (OVERLAYS, UNCERTAINTY, COLOURS, HEATS)
        if ours or PurePosixPath(part).suffix.lower() in (".png", ".jpg", ".npz", ".json"):
            parts[k] += "_"
    return "/".join(parts) or "_"


def _bare(name: str) -> str:
    """Without the ending of a picture."""
    from diffeat.images.walk import is_picture

    return str(PurePosixPath(name).with_suffix("")) if is_picture(name) else name


@dataclass
class DenseFolder:
    """A folder in which the results of a dense head are written, picture by picture.

    Each file appears under its name when it is whole.

    Args:
        folder: it is there.
        applied: whose results.
        ids: of all pictures.
        colours: (K, 3) uint8 of the classes.
        draw: how results look (`diffeat.viz.looks.Looks`); None: nothing to look at is written.
        format: of depth, "png" or "npz".
        uncertain: also uncertainty is written.
        made_by: plain values that say what made the files, such as the digest of the head.
        of: the features or pictures, as they were named.

    Attributes:
        names: of the files, without an ending.
        clipped: pixels of depth so far that 16-bit millimetres do not hold.
    """

    folder: Path
    applied: AppliedDense
    ids: Sequence[str]
    colours: Any = ()
    draw: Any = None
    format: str = "png"
    uncertain: bool = False
    made_by: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    names: list[str] = field(init=False)
    clipped: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.names = file_names(self.ids)
        if self.applied.kind == "depth":  # whose note tells of one of them
            self.made_by = {**self.made_by, "format": self.format}

    def begin(self, overwrite: bool = False) -> None:
        """Write what the files will mean; refuse a folder that others are using.

        Raises:
            SpecError: it holds other files, or those of another head, and not `overwrite`.
        """
        note = self.folder / NOTES[self.applied.kind]
        if not overwrite:
            check_free(self.folder, note, self.made_by)
        text = as_lines(self._meaning())
        _put(note, lambda path: path.write_text(text, "utf-8"))

    def _meaning(self) -> dict[str, Any]:
        made = {MAKER: {"diffeat": __version__, "of": self.of, **self.made_by}}
        if self.applied.kind == "depth":
            kept = {"unit": "metre", "key": "depth", "dtype": "float32"}
            if self.format == "png":
                kept = {"unit": "millimetre", "scale": 1 / MILLIMETRES, "unknown": 0,
                        "most": DEEPEST}  # fmt: skip
            return {**kept, **made}
        each = zip(self.applied.names, np.asarray(self.colours).tolist(), strict=True)
        classes = [{"id": k, "name": name, "color": rgb} for k, (name, rgb) in enumerate(each)]
        found: dict[str, Any] = {"classes": classes}
        if self.applied.ignore >= 0:
            found["ignore"] = self.applied.ignore
        if self.uncertain:
            most = self.applied.most_uncertain
            found["uncertainty"] = {"folder": UNCERTAINTY, "scale": most / 255, "most": most}
        return {**found, **made}

    def file(self, row: int) -> str:
        """Name of the mask or depth map of a picture, in the folder."""
        ending = "npz" if self.applied.kind == "depth" and self.format == "npz" else "png"
        return f"{self.names[row]}.{ending}"

    def add(self, seen: Seen, load: Callable[[], np.ndarray] | None = None) -> None:
        """Write what is said of one picture.

        Args:
            load: gives the picture, (H, W, 3) uint8, that masks are drawn on.

        Raises:
            StoreError: a file cannot be written.
            SpecError: the picture has another size by now.
        """
        picture = load() if self.draw is not None and load is not None else None
        if picture is not None and picture.shape[:2] != seen.values.shape:
            size, was = ("×".join(map(str, one[1::-1])) for one in
                         (picture.shape[:2], seen.values.shape))  # fmt: skip
            raise SpecError(f"{self.ids[seen.row]} has {size} pixels by now; its features are of "
                            f"{was}: extract it again")  # fmt: skip
        if self.applied.kind == "depth":
            self._add_depth(seen, picture)
        else:
            self._add_mask(seen, picture)

    def _add_mask(self, seen: Seen, picture: np.ndarray | None) -> None:
        name = self.names[seen.row]
        save_mask(seen.values, self.folder / f"{name}.png", self.colours)
        if picture is not None:
            self._show(self.draw.mask(picture, seen.values), OVERLAYS, name)
        if self.uncertain and seen.uncertainty is not None:
            most = self.applied.most_uncertain
            levels = np.clip(np.round(255 * seen.uncertainty / most), 0, 255).astype(np.uint8)
            path = self.folder / UNCERTAINTY / f"{name}.png"
            _put(path, lambda beside: Image.fromarray(levels).save(beside, "PNG"))
            if picture is not None:
                laid = self.draw.uncertainty(picture, seen.uncertainty, most)
                self._show(laid, UNCERTAINTY, name)

    def _add_depth(self, seen: Seen, picture: np.ndarray | None) -> None:
        name, depth = self.names[seen.row], np.asarray(seen.values, np.float32)
        path = self.folder / self.file(seen.row)
        if self.format == "npz":
            _put(path, lambda beside: _save_npz(beside, depth))
        else:
            levels, lost = in_millimetres(depth)
            self.clipped += lost
            _put(path, lambda beside: Image.fromarray(levels).save(beside, "PNG"))
        if self.draw is not None:
            self._show(self.draw.depth(depth), COLOURS, name)

    def show(self, pixels: np.ndarray, folder: str, row: int) -> None:
        """Write something to look at, (h, w, 3) uint8, into a folder beside the masks."""
        self._show(pixels, folder, self.names[row])

    def _show(self, pixels: np.ndarray, folder: str, name: str) -> None:
        path = self.folder / folder / f"{name}.jpg"
        _put(path, lambda beside: Image.fromarray(pixels).save(beside, "JPEG", **QUALITY))


def check_free(folder: Path, note: Path, made_by: Mapping[str, Any]) -> None:
    """SpecError where a folder holds files of others, or of another head."""
    if not note.exists():
        other = next((one.name for one in sorted(folder.iterdir()) if one.name[0] != "."), None)
        if other is not None:
            raise SpecError(f"{folder} is in use: it holds {other!r} and no {note.name} of this "
                            "command; name another folder, or say --overwrite")  # fmt: skip
        return
    try:
        found = json.loads(note.read_text("utf-8"))
        maker = dict(found[MAKER])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{note} is not of this command ({error!r}); name another folder, or say "
                        "--overwrite") from error  # fmt: skip
    if differ := list(_differences(maker, made_by)):
        raise SpecError(f"{folder} holds what another run made ({'; '.join(differ)}); name another "
                        "folder, or say --overwrite")  # fmt: skip


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> Iterator[str]:
    """Fields that are not what they were, those of tables each on its own."""
    for name, value in now.items():
        before = was.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{of}{name}.")
        elif before != value:
            yield f"{of}{name}: {before} → {value}"


def save_mask(labels: np.ndarray, path: Path, colours: np.ndarray) -> None:
    """One class index a pixel: an indexed PNG with the classes' colours, or 16-bit grey.

    Args:
        labels: (H, W) class indices.
        path: ends in .png; its folder is made.
        colours: (K, 3) uint8. Beyond `WHOLE` classes there is no palette.
    """
    if len(colours) > WHOLE:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        rest = np.full((256 - len(colours), 3), 255, np.uint8)
        image.putpalette(np.concatenate([colours, rest]).tobytes())
    _put(path, lambda beside: image.save(beside, "PNG"))


def write_picture(pixels: np.ndarray, path: Path) -> None:
    """(H, W, 3) uint8 as a PNG; its folder is made."""
    _put(path, lambda beside: Image.fromarray(pixels).save(beside, "PNG"))


def class_shares(labels: np.ndarray, count: int) -> np.ndarray:
    """(K,) share of the pixels of each class."""
    return np.bincount(labels.ravel(), minlength=count)[:count] / labels.size


def in_millimetres(depth: np.ndarray) -> tuple[np.ndarray, int]:
    """Metres as (H, W) uint16 millimetres; 0 is unknown, and no known depth is 0.

    Returns:
        The numbers, and how many pixels lie beyond the largest one.
    """
    known = np.isfinite(depth)
    levels = np.round(np.where(known, depth, 0).astype(np.float64) * MILLIMETRES)
    found = np.where(known, np.clip(levels, 1, DEEPEST), 0).astype(np.uint16)
    return found, int((levels > DEEPEST).sum())


def as_lines(values: Mapping[str, Any]) -> str:
    """JSON of which a person can read a line for each part, and for each class."""

    def plain(one: Any) -> str:
        if not isinstance(one, list):
            return json.dumps(one, ensure_ascii=False)
        return "[\n  " + ",\n  ".join(map(plain, one)) + "]"

    parts = [f"{json.dumps(name)}: {plain(one)}" for name, one in values.items()]
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _save_npz(path: Path, depth: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, depth=depth)


def _put(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, and then put it there.

    Raises:
        StoreError: it cannot be written.
    """
    beside = path.with_name(f".{path.name[-200:]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            beside.unlink()
