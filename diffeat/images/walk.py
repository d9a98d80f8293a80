"""Which files below a folder are pictures: one walk for folders, class folders and globs.

Hidden files and folders are left out, as are the thumbnails and bins that file servers and
archivers leave, files of other kinds, and whatever is no file at all. What is there once counts
once: a folder or picture that a link leads to a second time is left out, and so is a link that
leads back up. All that is left out is counted. A folder that cannot be read is an error, since
without it classes would be numbered otherwise.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from diffeat.errors import SourceError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif",
     ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf",
     ".jpx", ".avif", ".avifs", ".tga", ".icb", ".vda", ".vst", ".pcx", ".qoi", ".sgi", ".rgb",
     ".rgba", ".bw", ".ras")
)  # fmt: skip
"""Of still pictures that Pillow decodes by itself: no icons, no page descriptions (which a
program would have to run), no scientific formats without a range."""
SERVERS = frozenset(
    ("@eadir", "__macosx", "thumbs.db", "#recycle", "$recycle.bin", "lost+found", "#snapshot")
)
"""What file servers, archivers and systems put beside pictures, in lower case."""

PathParts = tuple[str, ...]
"""A path below the folder that is walked."""


def everything(parts: PathParts) -> bool:
    return True


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


Wishes = tuple[Callable[[PathParts], bool], Callable[[PathParts], bool], Callable[[str], bool],
               Callable[[str], bool]]  # fmt: skip
"""`enter`, `take`, `hidden` and `wanted` of `walk`."""
Found = tuple[list[str], list[str], Counter[str]]
"""Pictures, folders, and how much of what sort is left out."""
Met = Iterator[tuple[str, Any]]
"""(what it is, where it lies): "picture" and "linked picture", "folder" and "linked folder", or
"left out" and its sort."""


def walk(
    root: Path,
    enter: Callable[[PathParts], bool] = everything,
    take: Callable[[PathParts], bool] = everything,
    hidden: Callable[[str], bool] = lambda _name: False,
    depth: int | None = None,
    wanted: Callable[[str], bool] = is_picture,
) -> Found:
    """The pictures below a folder.

    Args:
        root: the folder.
        enter: whether a folder below it is looked into at all.
        take: whether a file is asked for; one that is not asked for is not counted either.
        hidden: whether a hidden folder is asked for by its name.
        depth: look into so many levels of folders only; None is all.
        wanted: whether a file's name is that of a picture, or of what else is looked for.

    Returns:
        pictures: their paths below the folder, with slashes, ascending.
        folders: those below it, as far as they were met, each once, ascending.
        left_out: how many files and folders of each sort are left out.

    Raises:
        SourceError: a folder cannot be read.
    """
    met: dict[str, list] = defaultdict(list)
    wishes = enter, take, hidden, wanted
    known: set[tuple[int, int]] = set()
    waiting: deque[PathParts] = deque([()])
    while waiting:  # folders that links lead to come after all that lies here itself
        for what, where in _visit(root, waiting.popleft(), known, wishes, depth):
            (waiting if what == "linked folder" else met[what]).append(where)
    for what, where in _links_to_files(root, met["picture"], met["linked picture"]):
        met[what].append(where)
    pictures = sorted("/".join(parts) for parts, _ in met["picture"])
    return pictures, sorted(met["folder"][1:]), Counter(met["left out"])  # without the root


def _visit(
    root: Path, start: PathParts, known: set[tuple[int, int]], wishes: Wishes, depth: int | None
) -> Met:
    """Look into a folder and those below it, but through no link; `known` grows by them."""
    waiting = [start]
    while waiting:
        parts = waiting.pop()
        path = root.joinpath(*parts)
        with _readable(path):
            seen = os.stat(path)
            real = os.path.realpath(path)
            if (seen.st_dev, seen.st_ino) in known or (start and _leads_up(path)):
                yield "left out", "linked folder"
                continue
            known.add((seen.st_dev, seen.st_ino))
            yield "folder", "/".join(parts)
            if depth is not None and len(parts) >= depth:
                continue
            with os.scandir(path) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        met = [_look(entry, (*parts, entry.name), real, wishes) for entry in listed]
        yield from (one for one in met if one is not None and one[0] != "inner folder")
        waiting += [one[1] for one in reversed(met) if one is not None and one[0] == "inner folder"]


def _leads_up(path: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    return path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(
        os.path.realpath(path)
    )


def _look(
    entry: os.DirEntry, parts: PathParts, real: str, wishes: Wishes
) -> tuple[str, Any] | None:
    """What one entry of a folder is, if anybody asks; an "inner folder" must be looked into."""
    link = entry.is_symlink()
    # links come last, so that what lies here itself is found under its own name
    folder = _mode(entry.path, stat.S_ISDIR) if link else entry.is_dir(follow_symlinks=False)
    enter, take, hidden, wanted = wishes
    if not (enter if folder else take)(parts):
        return None
    if why := _unwanted(entry.name, folder, hidden):
        return "left out", why
    if folder:
        return ("linked folder" if link else "inner folder"), parts
    if _special(entry, link):
        return "left out", "special file"  # a pipe, a socket, a device: never opened
    if not wanted(entry.name):
        return "left out", KIND + os.path.splitext(entry.name)[1].lower()
    return ("linked picture", parts) if link else ("picture", (parts, real))


def _unwanted(name: str, folder: bool, hidden: Callable[[str], bool]) -> str:
    """The sort of what is left out by its name; "" for all else."""
    what = "folder" if folder else "file"
    if name.startswith(".") and not (folder and hidden(name)):
        return f"hidden {what}"
    return f"{what} of a file server or system ({name})" if name.lower() in SERVERS else ""


def _special(entry: os.DirEntry, link: bool) -> bool:
    """Whether an entry is no file; a link that leads nowhere counts as one, and fails later."""
    if link:
        return os.path.exists(entry.path) and not _mode(entry.path, stat.S_ISREG)
    return not entry.is_file(follow_symlinks=False)


def _links_to_files(root: Path, found: list[tuple[PathParts, str]], links: list[PathParts]) -> Met:
    """Links to pictures that are not here already, and those that lead nowhere."""
    taken = {os.path.join(real, parts[-1]) for parts, real in found} if links else set()
    for parts in sorted(links):
        target = os.path.realpath(root.joinpath(*parts))
        if target in taken:
            yield "left out", "linked picture"
            continue
        taken.add(target)
        yield "picture", (parts, "")


KIND = "kind "
"""Before the suffix of files of another kind."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """SourceError where a folder cannot be read."""
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"{escaped(str(path))}: this folder cannot be read ({error.strerror}), so nobody knows "
            "which pictures lie in it; make it readable, or name the folders that are meant"
        ) from error


def escaped(name: str) -> str:
    """A name from the file system as text; bytes that are no UTF-8 become \\x.. ."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def nfc(text: str) -> str:
    """Composed Unicode: what macOS calls a file (NFD) and what Linux does become equal."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _mode(path: str, kind: Callable[[int], bool]) -> bool:
    """Whether a path leads to something of a kind; one that leads nowhere is of none."""
    try:
        return kind(os.stat(path).st_mode)
    except OSError:
        return False


def walk_glob(root: Path, pattern: str) -> Found:
    """The pictures below `root` whose paths match a glob; `**` goes down any number of folders.

    Only folders in which something could match are looked into.
    """
    wanted = PurePosixPath(pattern).parts
    return walk(
        root,
        lambda parts: _may_match(parts, wanted),
        lambda parts: _match(parts, wanted),
        lambda name: any(part[:1] == "." and fnmatchcase(name, part) for part in wanted),
    )


def _match(parts: PathParts, pattern: PathParts) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_match(parts[k:], pattern[1:] or ("*",)) for k in range(len(parts)))
    return bool(parts) and _fits(parts[0], pattern[0]) and _match(parts[1:], pattern[1:])


def _may_match(parts: PathParts, pattern: PathParts) -> bool:
    """Whether something below this folder may match."""
    if not pattern or (parts and len(pattern) == 1 and pattern[0] != "**"):
        return False
    if not parts or pattern[0] == "**":
        return True
    return _fits(parts[0], pattern[0]) and _may_match(parts[1:], pattern[1:])


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and not (name.startswith(".") and pattern[:1] != ".")


def left_out_text(left_out: Counter[str]) -> str:
    """What was left out, for people: "3 of other kinds (.heic), 1 hidden folder"."""
    kinds = {name[len(KIND) :]: n for name, n in left_out.items() if name.startswith(KIND)}
    words = []
    if kinds:
        kinds = {suffix or "without suffix": n for suffix, n in kinds.items()}
        most = sorted(kinds, key=lambda suffix: (-kinds[suffix], suffix))
        named = ", ".join(most[:5])
        more = ", …" if len(most) > 5 else ""
        words.append(f"{sum(kinds.values()):,} of other kinds ({named}{more})")
    others = sorted((name, n) for name, n in left_out.items() if not name.startswith(KIND))
    return ", ".join([*words, *(f"{n:,} {_plural(name, n)}" for name, n in others)])


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    first, _, rest = name.partition(" of ")
    return f"{first}s of {rest}" if rest else f"{first}s"
