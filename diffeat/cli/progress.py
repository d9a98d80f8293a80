"""What lies in place of a file that is not finished: how far its extraction is."""

from __future__ import annotations

from pathlib import Path

import click

from diffeat.cli.options import print_json

NOT_PLACED = "not known: made without /sizes and /placements, as before 0.8"


def is_unfinished(file: Path) -> bool:
    """Whether parts lie there in place of the file."""
    from diffeat.store import shard_folder

    return not file.exists() and shard_folder(file).is_dir()


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
        f"{file}: unfinished, {found.finished} of {found.manifest.count} pictures are in "
        f"{found.shards} shards{checked}"
    )
    manifest = found.manifest
    for name, value in (
        ("pictures", manifest.pictures["name"]),
        ("model", manifest.model["name"]),
        ("blocks", ", ".join(map(str, manifest.spec["blocks"]))),
        ("t", ", ".join(map(str, manifest.spec["timesteps"]))),
        ("dtype", manifest.spec.get("dtype", "float16")),
    ):
        click.echo(f"  {name:<9} {value}")
    if not _placed(manifest):
        click.echo(f"  placed    {NOT_PLACED}")
    whole = found.finished == found.manifest.count
    then = f"diffeat merge {file}" if whole else "the same diffeat extract again"
    click.echo(f"to go on, run {then}")
    return not found.problems


def _facts(file: Path, found) -> dict:
    """The same for programs."""
    manifest = found.manifest
    return {
        "file": str(file),
        "complete": False,
        "finished": found.finished,
        "pictures": manifest.pictures,
        "shards": found.shards,
        "model": manifest.model,
        "spec": manifest.spec,
        "how": manifest.how,
        "fingerprint": manifest.fingerprint,
        "placements": _placed(manifest),
        "problems": found.problems,
    }


def _placed(manifest) -> bool:
    return "placements" in {column.name for column in manifest.columns or ()}
