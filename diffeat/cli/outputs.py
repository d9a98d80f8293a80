"""Where commands write: checked, and made ready, before any work begins."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import click

from diffeat.cli.ending import interruptible

FORMATS = {
    ".h5": "HDF5", ".hdf5": "HDF5", ".npz": "NumPy", ".npy": "NumPy", ".zarr": "Zarr",
    ".pt": "PyTorch", ".pth": "PyTorch", ".safetensors": "safetensors", ".pkl": "pickle",
    ".parquet": "Parquet", ".csv": "CSV", ".tsv": "TSV", ".json": "JSON", ".toml": "TOML",
    ".html": "HTML", ".htm": "HTML", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG",
    ".webp": "WebP", ".pdf": "PDF", ".svg": "SVG", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""What a name says about its contents; other suffixes, and none, say nothing."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg", ".tif", ".tiff")
"""What a figure can be written as."""
HTML = (".html", ".htm")
"""Of pages."""
REPLACED = (".h5", ".hdf5")
"""Written beside what is there, which may be read-only, and then put into its place."""


class OutputPath(click.Path):
    """The name of a file that a command writes.

    Args:
        suffixes: of the formats that the command can write. A name that says another format is
            refused; one that says nothing is taken, unless `strict`.
        strict: the suffix chooses the format, so there must be one of these.
        folder: it is a folder.
        either: it may be a folder, too, which has none of the suffixes.
        hint: what to do for another format.
    """

    def __init__(
        self, suffixes: Sequence[str] = (), strict: bool = False, folder: bool = False,
        hint: str = "", either: bool = False,
    ):  # fmt: skip
        either = either or ".zarr" in suffixes  # a folder that stands for a file
        super().__init__(path_type=Path, dir_okay=folder or either, file_okay=not folder)
        self.suffixes, self.strict, self.hint = tuple(suffixes), strict, hint
        self.folder = folder

    def convert(self, value, param, ctx) -> Path:
        path = super().convert(value, param, ctx)
        suffix = path.suffix.lower()
        known = suffix in FORMATS or self.strict
        if self.suffixes and known and suffix not in self.suffixes:
            says = f"says {FORMATS[suffix]}" if suffix in FORMATS else "says no format"
            self.fail(
                f"{str(path)!r} {says}, and {' or '.join(self.suffixes)} is what this writes"
                + (f"; {self.hint}" if self.hint else ""), param, ctx,
            )  # fmt: skip
        return path


def make_ready(path: Path, folder: bool = False) -> list[Path]:
    """Make the folder of an output, and see that something can be written there.

    Returns:
        The folders that were not there before, the innermost first.

    Raises:
        click.UsageError: it cannot.
    """
    place = path.absolute() if folder else path.absolute().parent
    made = [one for one in (place, *place.parents) if not one.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and not folder:
            place = path.resolve().parent
        with tempfile.TemporaryFile(dir=place):
            pass
        if path.is_file() and path.suffix.lower() not in REPLACED:
            with path.open("ab"):
                pass
    except OSError as error:
        raise click.UsageError(
            f"{path}: nothing can be written there ({error.strerror}: {error.filename or place}); "
            "choose another place"
        ) from error
    return made


def outputs_ready(function: Callable) -> Callable:
    """The function of a command, which makes the outputs ready before it begins.

    What cannot be written is told before a missing input is, and either before any work; folders
    that were made for nothing are taken away again.
    """

    @wraps(function)
    def ready(**values: Any) -> Any:
        made: list[Path] = []
        try:
            for parameter in click.get_current_context().command.params:
                path = values.get(parameter.name)
                if path is not None and isinstance(parameter.type, OutputPath):
                    made = [*make_ready(path, parameter.type.folder), *made]
            return function(**values)
        except BaseException:
            for folder in made:
                with suppress(OSError):  # something lies in it
                    folder.rmdir()
            raise

    return ready


def command(**how: Any) -> Callable:
    """`click.command` for every command of diffeat: its outputs are made ready first, and it ends
    without a traceback when it is stopped."""
    return lambda function: click.command(**how)(interruptible(outputs_ready(function)))
