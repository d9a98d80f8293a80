"""What lies in place of a file that is not finished: how far its extraction is."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.options import print_json


def is_unfinished(file: Path) -> bool:
    """Whether parts lie there in place of the file."""
    return not file.exists() and file.with_name(file.name + ".parts").is_dir()


def show_progress(file: Path, as_json: bool, thorough: bool) -> bool:
    """Say how far an extraction is; returns whether what is there is sound."""
    from diffeat.store import look_at_parts

    found = look_at_parts(file, thorough)
    if as_json:
        print_json(_facts(file, found))
        return not found.problems
    for problem in found.problems:
        click.echo(f"{file}: {problem}")
    checked = ", checksums compared" if thorough else ""
    click.echo(
        f"{file}: unfinished, {found.finished} of {found.note.count} pictures are in "
        f"{found.shards} shards{checked}"
    )
    request = found.note.request
    for name, value in (
        ("pictures", request.pictures["name"]),
        ("model", request.model["name"]),
        ("blocks", ", ".join(map(str, request.spec["blocks"]))),
        ("t", ", ".join(map(str, request.spec["timesteps"]))),
        ("dtype", request.spec.get("dtype", "float16")),
    ):
        click.echo(f"  {name:<9} {value}")
    whole = found.finished == found.note.count
    then = f"diffeat merge {file}" if whole else "the same diffeat extract again"
    click.echo(f"to go on, run {then}")
    return not found.problems


def _facts(file: Path, found) -> dict:
    """The same for programs."""
    request = found.note.request
    return {
        "file": str(file),
        "complete": False,
        "finished": found.finished,
        "pictures": request.pictures,
        "shards": found.shards,
        "model": request.model,
        "spec": request.spec,
        "how": request.how,
        "fingerprint": request.fingerprint,
        "problems": found.problems,
    }
