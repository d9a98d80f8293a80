"""Features of models that are run now, which a command reads from feature files."""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffeat.cli.ending import note

RUN = ("batch_size", "workers", "on_error")
"""Options of a command that go to the extraction."""


def features_folder(stack: ExitStack, folder: Path | None, option: str) -> Path:
    """Where files of features lie: a folder that keeps them, or one that goes with `stack`.

    Args:
        option: that keeps them, for the note.
    """
    if folder is not None:
        return folder
    note(f"features go into a temporary folder that is removed at the end; {option} keeps them")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffeat-")))


def features_file(name: str, spec: Any, request: Any, source: Any) -> str:
    """Name of the file that a model's features are kept in: another one for other features.

    Args:
        name: of the model, in short.
        request: how it is loaded; the device makes no other features.
        source: the pictures.
    """
    from diffeat.hashing import fingerprint

    plain = {f.name: str(getattr(request, f.name)) for f in fields(request) if f.name != "device"}
    stem = re.sub(r"[^\w.+-]", "_", name)[:60]
    return f"{stem}-{fingerprint(spec.to_dict(), plain, source.name, source.ids)[:10]}.h5"


def extracted(
    stack: ExitStack, request: Any, source: Any, spec: Any, path: Path, values: dict[str, Any],
    kept: bool = True,
) -> Any:  # fmt: skip
    """The feature file of some pictures, open until `stack` ends; what it has is not computed.

    Args:
        values: options of the command.
        kept: say how many pictures there were.
    """
    from diffeat.jobs import extract_to_file
    from diffeat.store import FeatureStore

    run = {name: values[name] for name in RUN if name in values}
    done = extract_to_file(request, source, spec, path, announce=True, **run)
    if kept:
        note(f"{path}: {done.pictures:,} pictures, {done.computed:,} computed now")
    return stack.enter_context(FeatureStore(path))
