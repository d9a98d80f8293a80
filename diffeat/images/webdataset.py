"""Pictures in tar archives laid out as WebDataset does: the files of a sample share a key.

    cat/0001.jpg  cat/0001.cls  cat/0001.txt      the sample "cat/0001"

The key is the path up to the first dot of the file's name. Nothing is unpacked: an archive is
indexed once, and a picture is read from its place in the archive when it is wanted.
"""

from __future__ import annotations

import glob
import io
import json
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from diffeat.errors import SourceError
from diffeat.images.classes import numbered
from diffeat.images.decode import decode
from diffeat.images.digests import digest_of_file, digest_of_nothing, stats_of
from diffeat.images.files import by_folders, names_as_text
from diffeat.images.reading import READING, SUFFIXES_1
from diffeat.images.sources import Source
from diffeat.images.walk import SUFFIXES

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAX_TEXT = 1 << 24  # bytes of one .cls, .txt or .json
MAX_CLASSES = 1 << 20  # every index below the largest label gets a class name
BLOCK = 512  # bytes; headers and contents begin at multiples of it


class Place(NamedTuple):
    """Where a file lies: `size` bytes from `offset` of the archive `tar`."""

    tar: Path
    offset: int
    size: int


class Sample(NamedTuple):
    """One picture with what belongs to it; a label or caption that it lacks is None."""

    id: str
    place: Place
    label: int | str | None
    caption: str | None


@dataclass(frozen=True, repr=False)
class TarSource(Source):
    """Pictures inside uncompressed tars. `places` runs parallel to `ids`."""

    places: tuple[Place, ...] = field(default=(), repr=False)

    def digest(self, index: int) -> bytes:
        try:
            return digest_of_file(*self.places[index])
        except (OSError, EOFError):
            return digest_of_nothing(self.ids[index])

    def stats(self) -> np.ndarray:
        """Those of the archives."""
        return stats_of([place.tar for place in self.places])

    def load(self, index: int) -> Image.Image:
        self.check_readable(index)
        return decode(lambda: _bytes_of(self.places[index]), self.ids[index], self.reading)

    def take(self, indices: Sequence[int] | np.ndarray) -> TarSource:
        places = tuple(self.places[int(index)] for index in indices)
        return TarSource(**self._selection(indices), places=places)


def is_tar_name(text: str) -> bool:
    """Whether a name, glob or brace range ends like a tar, compressed or not."""
    return text.lower().endswith(TAR_SUFFIXES)


def from_tars(text: str, reading: int = READING) -> TarSource:
    """Open one tar, a glob of tars or a brace range such as train-{000..003}.tar.

    The picture of a sample is its member with a picture suffix; its label stands in `.cls` (a
    whole number) or under `label` or `cls` in `.json` (a whole number or a class name); its
    caption in `.txt` or under `caption` in `.json`. Samples without a picture, and hidden
    files, are left out. Labels and captions are taken if every sample has one; where no sample
    has a label, folders inside that look like classes are the labels. Ids are
    "<tar's name without .tar>/<key>", in the order of the archives.

    Raises:
        SourceError: a tar is missing, compressed, truncated, damaged, or holds links or paths
            that lead out of it; a sample has two pictures or an unreadable label or caption.
    """
    suffixes = SUFFIXES_1 if reading == 1 else SUFFIXES
    samples = [sample for tar in _expand(text) for sample in _index(tar, suffixes)]
    if not samples:
        raise SourceError(
            f"{text}: no pictures found; expected members such as 0001.jpg, ending in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    labels, class_names = _labels(text, [sample.label for sample in samples], reading)
    captions = _complete(text, "caption", [sample.caption for sample in samples])
    ids, faults = tuple(sample.id for sample in samples), {}
    if reading > 1:
        ids, faults = names_as_text(ids)
    found = TarSource(
        name=text,
        ids=ids,
        labels=labels,
        class_names=class_names,
        captions=None if captions is None else tuple(captions),
        places=tuple(sample.place for sample in samples),
        faults=faults,
        reading=reading,
        earlier=partial(from_tars, text, 1) if reading > 1 else None,
    )
    if reading == 1 or any(sample.label is not None for sample in samples):
        return found
    return by_folders(found, [name.partition("/")[2] for name in found.ids])


# from what was typed to tars


def _expand(text: str) -> list[Path]:
    """The tars that a name, glob or brace range stands for, in order."""
    if Path(text).is_file():
        return [Path(text)]
    found = []
    for name in _braces(text):
        hits = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        tars = [Path(hit) for hit in hits if is_tar_name(hit) and Path(hit).is_file()]
        if not tars:
            where = f" (named by {text})" if name != text else ""
            raise SourceError(
                f"{name}: no such tar{where}; correct the name or restore the archive"
            )
        found.extend(tars)
    return found


def _braces(text: str) -> Iterator[str]:
    """All names of a pattern with ranges {first..last}, as bash expands them; lazily."""
    match = re.search(r"\{([0-9]{1,12})\.\.([0-9]{1,12})\}", text)
    if match is None:
        yield text
        return
    first, last = match.groups()
    if int(first) > int(last):
        raise SourceError(f"{text}: the range {first}..{last} is empty; swap its ends")
    padded = (len(first) > 1 and first[0] == "0") or (len(last) > 1 and last[0] == "0")
    width = max(len(first), len(last)) if padded else 0
    for number in range(int(first), int(last) + 1):
        yield from _braces(f"{text[: match.start()]}{number:0{width}d}{text[match.end() :]}")


# from a tar to samples


def _index(tar: Path, suffixes: frozenset[str]) -> list[Sample]:
    """The samples of one tar that have a picture, in the order of the archive."""
    with _opened(tar) as file:
        groups = _groups(tar, file)
        return [
            Sample(f"{_stem(tar)}/{key}", place, *_texts(tar, file, key, members))
            for key, members in groups.items()
            if (place := _picture(tar, key, members, suffixes)) is not None
        ]


def _stem(tar: Path) -> str:
    return tar.name[:-4] if tar.name.lower().endswith(".tar") else tar.name


@contextmanager
def _opened(tar: Path) -> Iterator[BinaryIO]:
    """A tar to be read; whatever is wrong with it is a SourceError."""
    try:
        with open(tar, "rb") as file:
            yield file
    except (SourceError, GeneratorExit):
        raise
    except OSError as error:
        raise SourceError(f"{tar}: cannot be read ({error}); restore the archive") from error
    except Exception as error:  # tarfile raises more than TarError on damaged headers
        raise SourceError(
            f"{tar}: truncated, damaged or no tar ({error}); copy or pack it again"
        ) from error


def _groups(tar: Path, file: BinaryIO) -> dict[str, dict[str, Place]]:
    """Key → suffix (such as ".jpg" or ".seg.png") → place, of all members that are files."""
    _refuse_compressed(tar, file)
    groups: dict[str, dict[str, Place]] = {}
    end = 0
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            _check_member(tar, member)
            end = member.offset_data
            if member.isdir():
                continue
            end += -(-member.size // BLOCK) * BLOCK
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            stem, dot, suffix = (parts or [""])[-1].partition(".")
            if not dot or any(part.startswith(".") for part in parts):
                continue
            group = groups.setdefault("/".join([*parts[:-1], stem]), {})
            if dot + suffix.lower() in group:
                raise SourceError(
                    f"{tar}: member {member.name!r} occurs more than once; every picture needs "
                    "its own id, so pack each file once"
                )
            group[dot + suffix.lower()] = Place(tar, member.offset_data, member.size)
    _check_end(tar, file, end)
    return groups


def _refuse_compressed(tar: Path, file: BinaryIO) -> None:
    start = file.read(6)
    file.seek(0)
    for magic, method in COMPRESSED.items():
        if start.startswith(magic):
            raise SourceError(
                f"{tar}: compressed with {method}, so that single pictures cannot be read from it; "
                "unpack it to a plain .tar, or pack it again with tar -cf"
            )


def _check_member(tar: Path, member: tarfile.TarInfo) -> None:
    name = member.name
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(
            f"{tar}: member {name!r} leads out of the archive; expected relative names without "
            "'..': pack it again from inside its folder"
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise SourceError(
            f"{tar}: member {name!r} is a link, a device or a sparse file; expected plain files: "
            "pack it again with tar --dereference --hard-dereference, without --sparse"
        )
    if member.size < 0:
        raise SourceError(f"{tar}: member {name!r} has a negative size; pack the archive again")


def _check_end(tar: Path, file: BinaryIO, end: int) -> None:
    """SourceError unless zeros follow the last member: tarfile takes any other end for one."""
    file.seek(end)
    rest = file.read(1 << 20)
    if len(rest) < BLOCK or rest.count(0) < len(rest):
        raise SourceError(
            f"{tar}: truncated or damaged at byte {end:,}, or several tars in one file; expected "
            "zeros to the end there: copy it again, or join tars with tar -A and not with cat"
        )


def _picture(
    tar: Path, key: str, members: dict[str, Place], suffixes: frozenset[str]
) -> Place | None:
    """The member with a picture suffix; a plain ".jpg" goes before ".seg.png"."""
    found = [suffix for suffix in members if Path("x" + suffix).suffix in suffixes]
    plain = [suffix for suffix in found if suffix in suffixes]
    chosen = plain or found
    if len(chosen) > 1:
        names = " and ".join(f"{key}{suffix}" for suffix in chosen[:2])
        raise SourceError(
            f"{tar}: sample {key!r} has {len(chosen)} pictures ({names}); expected one: the key "
            "ends at the first dot of a file's name, so rename or leave out the others"
        )
    return members[chosen[0]] if chosen else None


# labels and captions


def _texts(
    tar: Path, file: BinaryIO, key: str, members: dict[str, Place]
) -> tuple[int | str | None, str | None]:
    """Label and caption of a sample; its .cls and .txt go before its .json."""
    record = _record(tar, file, key, members)
    label, caption = record.get("label", record.get("cls")), record.get("caption")
    if ".cls" in record:
        label = _class_index(f"{tar}: {key}.cls", record[".cls"])
    elif isinstance(label, int) and not isinstance(label, bool):
        label = _class_index(f"{tar}: {key}.json", str(label))
    elif not isinstance(label, str):
        label = None
    caption = record.get(".txt", caption)
    return label, caption if isinstance(caption, str) else None


def _record(tar: Path, file: BinaryIO, key: str, members: dict[str, Place]) -> dict[str, Any]:
    """What the .json of a sample holds, and the texts of its .cls and .txt under these names."""
    found: dict[str, Any] = {}
    if ".json" in members:
        where = f"{tar}: {key}.json"
        found = _object(where, _text(where, file, members[".json"]))
    for suffix in (".cls", ".txt"):
        if suffix in members:
            found[suffix] = _text(f"{tar}: {key}{suffix}", file, members[suffix]).strip()
    return found


def sample_records(text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where, id, record) of every sample of tars, those without a picture too.

    A record has the fields of the sample's .json, and the texts of its .cls and .txt under
    ".cls" and ".txt".

    Args:
        text: one tar, a glob or a brace range, as for `from_tars`.

    Raises:
        SourceError: as `from_tars` does.
    """
    for tar in _expand(text):
        with _opened(tar) as file:
            for key, members in _groups(tar, file).items():
                yield f"{tar}: {key}", f"{_stem(tar)}/{key}", _record(tar, file, key, members)


def _text(where: str, file: BinaryIO, place: Place) -> str:
    if place.size > MAX_TEXT:
        raise SourceError(f"{where}: {place.size:,} bytes; expected at most {MAX_TEXT:,} of text")
    file.seek(place.offset)
    try:
        return file.read(place.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: {error}; expected UTF-8 text") from error


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: {error}; expected a JSON object") from error
    return record if isinstance(record, dict) else {}


def _class_index(where: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= MAX_CLASSES:
        raise SourceError(
            f"{where}: label {text[:40]!r}; expected a whole number from 0 to {MAX_CLASSES - 1:,}"
        )
    return int(text)


def _labels(
    name: str, labels: list[int | str | None], reading: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(N,) int64 and the names of the classes: numbers stay as they are, texts are sorted."""
    if (known := _complete(name, "label", labels)) is None:
        return None, ()
    if len({type(label) for label in known}) > 1:
        raise SourceError(f"{name}: some labels are numbers and some names; expected one kind")
    if isinstance(known[0], int):
        class_names = tuple(str(k) for k in range(max(known) + 1))
        return np.array(known, dtype=np.int64), class_names
    return numbered(known, reading)


def _complete(name: str, what: str, values: list) -> list | None:
    """The values if there is one for every picture, else None, with a warning if some are there."""
    lacking = sum(value is None for value in values)
    if 0 < lacking < len(values):
        warnings.warn(
            f"{name}: {lacking} of {len(values)} pictures have no {what}, so no {what}s are taken",
            stacklevel=4,
        )
    return None if lacking else values


def _bytes_of(place: Place) -> io.BytesIO:
    """One file of an archive; every call opens it anew, so that threads do not share a position."""
    with open(place.tar, "rb") as file:
        file.seek(place.offset)
        raw = file.read(place.size)
    if len(raw) < place.size:
        raise EOFError(f"{place.tar} has been shortened since it was opened")
    return io.BytesIO(raw)
