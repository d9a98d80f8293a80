"""What was found by measuring, in small files in the user's cache folder.

Batch sizes are kept here; other tables by `recall_entry` and `remember_entry`.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST = 1024
"""No larger batch size is tried, or believed."""
BATCH_SIZES = "batch_sizes.json"
Entry = dict[str, Any]
Check = Callable[[Any], bool]
"""Whether what was read is an entry of a table."""


def cache_file(name: str = BATCH_SIZES) -> Path:
    """$DIFFEAT_CACHE, or diffeat/ in $XDG_CACHE_HOME or ~/.cache; a file of that name in it."""
    folder = os.environ.get("DIFFEAT_CACHE")
    if not folder:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "diffeat"
    return Path(folder).expanduser() / name


def recall(key: str) -> int | None:
    """The batch size that was remembered under a key, or None."""
    return (recall_entry(BATCH_SIZES, key, _is_batch, "batch sizes") or {}).get("rows")


def remember(key: str, rows: int, facts: Entry) -> None:
    """Remember a batch size and, for people, what it belongs to; at worst, warn that it cannot."""
    entry = {"rows": rows, **facts}
    remember_entry(BATCH_SIZES, key, entry, _is_batch, "batch sizes", f"the batch size {rows}")


def recall_entry(name: str, key: str, check: Check, what: str) -> Entry | None:
    """The entry of a table under a key, or None.

    Args:
        name: of the file.
        key: which entry.
        check: whether something is an entry.
        what: the table's name in messages.
    """
    return _read(name, check, what).get(key)


def remember_entry(name: str, key: str, entry: Entry, check: Check, what: str, this: str) -> None:
    """Put an entry into a table; at worst, warn that `this` cannot be remembered.

    The file is replaced as a whole, so nobody ever reads half of it.
    """
    path = cache_file(name)
    entries = {**_read(name, check, what, quiet=True), key: entry}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1, sort_keys=True)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        warnings.warn(f"{this} cannot be remembered: {error}", stacklevel=3)


def _read(name: str, check: Check, what: str, quiet: bool = False) -> dict[str, Entry]:
    """All entries; none, with a warning, if the file is damaged."""
    path, why = cache_file(name), f"not a table of {what}"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        entries, why = None, str(error)
    if isinstance(entries, dict) and all(map(check, entries.values())):
        return entries
    if not quiet:
        warnings.warn(f"{path} is ignored and written anew: {why}", stacklevel=4)
    return {}


def _is_batch(entry: Any) -> bool:
    rows = entry.get("rows") if isinstance(entry, dict) else None
    return type(rows) is int and 1 <= rows <= LARGEST
