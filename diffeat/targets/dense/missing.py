"""Pictures without a mask: an error that names some, or left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffeat.errors import SourceError, SpecError
from diffeat.images.below import is_inside

MISSING = ("refuse", "leave-out")
SHOWN = 3
WITHOUT = "pictures without a mask or depth map"


def kept_rows(
    name: str,
    ids: Sequence[str],
    files: Sequence[Path | None],
    within: Path,
    missing: str = "refuse",
) -> tuple[list[int], dict[str, int]]:
    """The pictures that have a file.

    Args:
        name: of the targets, for messages.
        ids: N pictures.
        files: N files of what is known; None where there is none.
        within: the folder that no link may lead out of.
        missing: "refuse" pictures without one, or "leave-out".

    Returns:
        Their rows; and how many others there are.

    Raises:
        SourceError: pictures without a file, or links out of the folder.
        SpecError: another `missing`.
    """
    if missing not in MISSING:
        raise SpecError(f"missing={missing!r}; expected one of {', '.join(MISSING)}")
    kept = [row for row, path in enumerate(files) if path is not None and path.is_file()]
    lacking = sorted({*range(len(ids))} - {*kept})
    if lacking and missing == "refuse":
        shown = ", ".join(repr(ids[row]) for row in lacking[:SHOWN])
        shown += ", …" * (len(lacking) > SHOWN)
        first = files[lacking[0]]
        where = f" (the first was looked for at {first})" if first else ""
        raise SourceError(f"{name}: {len(lacking)} of {len(ids)} pictures have no mask or depth "
                          f"map: {shown}{where}; add them, or leave such pictures out "
                          "(missing='leave-out', --missing leave-out)")  # fmt: skip
    real = str(within.resolve())
    for row in kept:
        check_within(name, files[row], real, within)
    return kept, {WITHOUT: len(lacking)} if lacking else {}


def check_within(name: str, path: Path, real: str, within: Path) -> None:
    """SourceError for a file that a link leads out of a folder, whose real path is given."""
    if not is_inside(path, real):
        raise SourceError(f"{name}: a link leads {path} out of {within}; copy what it leads to")
