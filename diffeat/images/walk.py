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
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

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

Parts = tuple[str, ...]
"""A path below the folder that is walked."""


def everything(parts: Parts) -> bool:
    return True


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


class Walk:
    """The pictures below a folder.

    Args:
        root: the folder.
        enter: whether a folder below it is looked into at all.
        take: whether a file is asked for; one that is not asked for is not counted either.
        hidden: whether a hidden folder is asked for by its name.
        depth: look into so many levels of folders only; None is all.

    Attributes:
        pictures: their paths below the folder, with slashes, ascending.
        folders: of the folders below it, as far as they were met, each once.
        left_out: how many files and folders of each sort are left out.

    Raises:
        SourceError: a folder cannot be read.
    """

    def __init__(
        self,
        root: Path,
        enter: Callable[[Parts], bool] = everything,
        take: Callable[[Parts], bool] = everything,
        hidden: Callable[[str], bool] = lambda _name: False,
        depth: int | None = None,
    ):
        self.root, self._enter, self._take, self._hidden = root, enter, take, hidden
        self._depth = depth
        self.left_out: Counter[str] = Counter()
        self.folders: list[str] = []
        self._found: list[tuple[Parts, str]] = []  # and the real folder that it lies in
        self._folders: set[tuple[int, int]] = set()
        self._linked_folders: deque[Parts] = deque()
        self._linked_files: list[Parts] = []
        self._visit(())
        while self._linked_folders:  # after all that lies here itself
            self._visit(self._linked_folders.popleft(), linked=True)
        self._links_to_files()
        self.pictures = sorted("/".join(parts) for parts, _ in self._found)
        self.folders = sorted(self.folders[1:])  # without the root

    def _visit(self, start: Parts, linked: bool = False) -> None:
        """Look into a folder and those below it, but through no link."""
        waiting = [start]
        while waiting:
            parts = waiting.pop()
            path = self.root.joinpath(*parts)
            with _readable(path):
                seen = os.stat(path)
                real = os.path.realpath(path)
                if (seen.st_dev, seen.st_ino) in self._folders or (linked and self._leads_up(path)):
                    self.left_out["linked folder"] += 1
                    continue
                self._folders.add((seen.st_dev, seen.st_ino))
                self.folders.append("/".join(parts))
                if self._depth is not None and len(parts) >= self._depth:
                    continue
                with os.scandir(path) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            below = [self._look(entry, (*parts, entry.name), real) for entry in listed]
            waiting += [parts for parts in reversed(below) if parts is not None]

    def _leads_up(self, path: Path) -> bool:
        """Whether a link leads to a folder that it lies in."""
        return path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(
            os.path.realpath(path)
        )

    def _look(self, entry: os.DirEntry, parts: Parts, real: str) -> Parts | None:
        """Take one entry of a folder; returns it if it is a folder that must be looked into."""
        if entry.is_symlink():
            self._keep_link(entry, parts)
        elif entry.is_dir(follow_symlinks=False):
            return parts if self._wanted(entry.name, parts, self._enter, "folder") else None
        elif not self._wanted(entry.name, parts, self._take, "file"):
            return None
        elif not entry.is_file(follow_symlinks=False):
            self.left_out["special file"] += 1  # a pipe, a socket, a device: never opened
            return None
        elif self._kind(entry.name):
            self._found.append((parts, real))
        return None

    def _keep_link(self, entry: os.DirEntry, parts: Parts) -> None:
        """Links come last, so that what lies here itself is found under its own name."""
        folder = _mode(entry.path, stat.S_ISDIR)
        wish, what = (self._enter, "folder") if folder else (self._take, "file")
        if self._wanted(entry.name, parts, wish, what):
            if folder:
                self._linked_folders.append(parts)
            elif os.path.exists(entry.path) and not _mode(entry.path, stat.S_ISREG):
                self.left_out["special file"] += 1
            elif self._kind(entry.name):
                self._linked_files.append(parts)

    def _links_to_files(self) -> None:
        """Take links to pictures that are not here already, and those that lead nowhere."""
        if not self._linked_files:
            return
        taken = {os.path.join(real, parts[-1]) for parts, real in self._found}
        for parts in sorted(self._linked_files):
            target = os.path.realpath(self.root.joinpath(*parts))
            if target in taken:
                self.left_out["linked picture"] += 1
                continue
            taken.add(target)
            self._found.append((parts, ""))

    def _wanted(self, name: str, parts: Parts, wish: Callable[[Parts], bool], what: str) -> bool:
        """Whether an entry is asked for, and nothing that is left out by its name."""
        if not wish(parts):
            return False
        if name.startswith(".") and not (what == "folder" and self._hidden(name)):
            self.left_out[f"hidden {what}"] += 1
            return False
        if name.lower() in SERVERS:
            self.left_out[f"{what} of a file server or system ({name})"] += 1
            return False
        return True

    def _kind(self, name: str) -> bool:
        if is_picture(name):
            return True
        self.left_out[KIND + os.path.splitext(name)[1].lower()] += 1
        return False


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


def walk_glob(root: Path, pattern: str) -> Walk:
    """The pictures below `root` whose paths match a glob; `**` goes down any number of folders.

    Only folders in which something could match are looked into.
    """
    wanted = PurePosixPath(pattern).parts
    return Walk(
        root,
        lambda parts: _may_match(parts, wanted),
        lambda parts: _match(parts, wanted),
        lambda name: any(part[:1] == "." and fnmatchcase(name, part) for part in wanted),
    )


def _match(parts: Parts, pattern: Parts) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_match(parts[k:], pattern[1:] or ("*",)) for k in range(len(parts)))
    return bool(parts) and _fits(parts[0], pattern[0]) and _match(parts[1:], pattern[1:])


def _may_match(parts: Parts, pattern: Parts) -> bool:
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
