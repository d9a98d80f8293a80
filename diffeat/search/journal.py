"""Finished cells on disk, so that a second run computes none of them again."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffeat._version import __version__
from diffeat.errors import SpecError
from diffeat.hashing import fingerprint
from diffeat.noise import format_t
from diffeat.search.judge import Judge
from diffeat.search.tasks import CellKey, bytes_fingerprint
from diffeat.store.format.atomic import write_synced

NAMELESS = ("<lambda>", "partial", "function", "method")
"""What functions without a name of their own are called."""


class Journal:
    """One JSON per finished piece of work, named after what it was made of.

    `get` and `put` are for cells, `read` and `write` for whatever else has a key of its own. What
    one strategy has made another one finds, also where nothing is kept on disk.
    The key of a cell hashes the features (spec, model and pictures), the targets, the parts,
    the judge's rule with its settings, and the cell: whatever changes, the cell is computed anew.

    Args:
        folder: where the files lie; made if need be. None keeps nothing.

    Attributes:
        found: how many answers were there already.
        computed: how many were not.
        versions: of diffeat, that made the answers.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self.found = self.computed = 0
        self.versions: set[str] = set()
        self._here: dict[tuple[str, str], dict[str, Any]] = {}  # of this run, also without a folder
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def key(self, judge: Judge, part: np.ndarray, *rest: Any) -> str:
        """Fingerprint of a piece of work; "" for what nothing names, which is not remembered.

        Raises:
            SpecError: the judge does not say what its features are, or has no name.
        """
        rule = judge.describe()
        if self.folder is not None and not judge.identity:
            raise SpecError(
                f"{judge.source}: finished cells cannot be kept for features without an identity; "
                "give them one, or no folder"
            )
        if self.folder is not None and rule.get("score") in NAMELESS:
            raise SpecError(
                f"a score called {rule['score']!r} cannot be distinguished from another one in "
                "finished work; wrap it with a name, Custom(function, name='mine'), or give no "
                "folder"
            )
        if not judge.identity or rule.get("score") in NAMELESS:
            return ""
        parts = bytes_fingerprint(np.asarray(part, np.int64))
        return fingerprint(judge.identity, judge.targets, parts, rule, [*rest])

    def get(self, cell: CellKey, key: str) -> dict[str, Any] | None:
        """What was kept of a cell, or None."""

        def has_score(stored: dict[str, Any]) -> bool:
            return "test" in stored or {"validation", "setting"} <= set(stored)

        return self.read(_stem(cell), key, has_score)

    def put(self, cell: CellKey, key: str, values: dict[str, Any]) -> None:
        """Keep what was computed of a cell."""
        self.write(_stem(cell), key, {"block": cell[0], "t": cell[1], **values})

    def read(
        self, name: str, key: str, whole: Callable[[dict[str, Any]], bool] = bool
    ) -> dict[str, Any] | None:
        """What was kept under a name and a key, or None; `whole` says whether all is there."""
        if (name, key) in self._here:
            return self._here[name, key]
        path = self._path(name, key)
        if path is None or not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text("utf-8"))
            if stored["fingerprint"] != key:
                raise ValueError("it belongs to something else")
            if not whole(stored):
                raise ValueError("it is not whole")
        except (ValueError, KeyError, TypeError, OSError) as error:
            warnings.warn(f"{path}: not usable ({error}); it is computed again", stacklevel=2)
            return None
        self.found += 1
        self.versions.add(stored.get("version", "unknown"))
        self._here[name, key] = stored
        return stored

    def write(self, name: str, key: str, values: dict[str, Any]) -> dict[str, Any]:
        """Keep what was computed, whole or not at all; returns what `read` will."""
        self.computed += 1
        self.versions.add(__version__)
        stored = {"fingerprint": key, "version": __version__, **values}
        path = self._path(name, key)
        if path is not None:
            write_synced(path, (json.dumps(stored, indent=1) + "\n").encode())
        if key:
            self._here[name, key] = stored
        return stored

    def _path(self, name: str, key: str) -> Path | None:
        if self.folder is None:
            return None
        name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
        return self.folder / f"{name}-{key[:16]}.json"


def _stem(cell: CellKey) -> str:
    return f"{cell[0][:80]}-t{format_t(cell[1])}"
