"""`diffeat verify`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from diffeat.cli.options import feature_file, json_option, print_json
from diffeat.cli.outputs import command
from diffeat.cli.progress import is_unfinished, show_progress


@command()
@feature_file
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Read the whole FILE: checksums, shapes, attributes, inf and nan.

    Exit code 0 if it is sound, 1 if it is not, or not finished. Where only FILE.parts is
    there, the checksums of its shards are compared, and the exit code is 1.
    """
    from diffeat.progress import track
    from diffeat.store import verify as check

    if is_unfinished(file):
        show_progress(file, as_json, thorough=True)
        sys.exit(1)
    problems = check(file, lambda cells: track(cells, desc="verify", unit="feature sets"))
    if as_json:
        print_json({"file": str(file), "sound": not problems, "problems": problems})
    else:
        for problem in problems:
            click.echo(f"{file}: {problem}")
        click.echo(f"{file}: " + (f"{len(problems)} problems" if problems else "sound"))
    sys.exit(1 if problems else 0)
