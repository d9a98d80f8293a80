"""Batch sizes that were found by measuring, in a small file in the user's cache folder."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

LARGEST = 1024
"""No larger batch size is tried, or believed."""


def cache_file() -> Path:
    """$DIFFEAT_CACHE, or diffeat/ in $XDG_CACHE_HOME or ~/.cache; batch_sizes.json in it."""
    folder = os.environ.get("DIFFEAT_CACHE")
    if not folder:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "diffeat"
    return Path(folder).expanduser() / "batch_sizes.json"


def recall(key: str) -> int | None:
    """The batch size that was remembered under a key, or None."""
    return _read().get(key, {}).get("rows")


def remember(key: str, rows: int, facts: dict[str, Any]) -> None:
    """Remember a batch size, and for people what it belongs to; at worst, warn that it cannot be.

    The file is replaced as a whole, so nobody ever reads half of it.
    """
    path = cache_file()
    entries = {**_read(quiet=True), key: {"rows": rows, **facts}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1, sort_keys=True)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        warnings.warn(f"the batch size {rows} cannot be remembered: {error}", stacklevel=2)


def _read(quiet: bool = False) -> dict[str, dict[str, Any]]:
    """All entries; none, with a warning, if the file is damaged."""
    path, why = cache_file(), "not a table of batch sizes"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        entries, why = None, str(error)
    if isinstance(entries, dict) and all(map(_is_entry, entries.values())):
        return entries
    if not quiet:
        warnings.warn(f"{path} is ignored and written anew: {why}", stacklevel=3)
    return {}


def _is_entry(entry: Any) -> bool:
    rows = entry.get("rows") if isinstance(entry, dict) else None
    return type(rows) is int and 1 <= rows <= LARGEST
