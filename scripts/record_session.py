"""Runs the commands that a page shows and writes down what they print.

    python scripts/record_session.py docs/first-steps.md

In the page's ```console blocks every line that begins with "$ " is a command (a backslash at its
end goes on); what stands below it is replaced by what it printed, stdout and stderr as they came.
All commands run one after the other in an empty folder, in which `scripts` is that of the
repository. `<!-- keep NAME as FILE -->` copies a file that they made to FILE beside the page.
A command that fails ends it, and the page stays as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.M | re.S)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.M)
KEEP = re.compile(r"<!-- keep (\S+) as (\S+) -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scripts").symlink_to(ROOT / "scripts")
        text = recorded(page.read_text(encoding="utf-8"), Path(folder))
        for name, kept in KEEP.findall(text):
            shutil.copyfile(Path(folder) / name, page.parent / kept)
    page.write_text(text, encoding="utf-8")
    print(f"{page}: {len(commands(text))} commands in {time.perf_counter() - begun:.0f} s")


def commands(text: str) -> list[str]:
    """The commands of a page, in order."""
    return [found for block in BLOCK.findall(text) for found in COMMAND.findall(block)]


def recorded(text: str, folder: Path) -> str:
    """The page with what its commands print when they run in `folder`.

    Raises:
        SystemExit: a command failed; says which, and what it printed.
    """
    return BLOCK.sub(
        lambda block: "".join(_run(c, folder) for c in COMMAND.findall(block[0])), text
    )


def _run(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}")
    printed = done.stdout.rstrip("\n")
    return f"$ {command}\n" + (f"{printed}\n" if printed else "")


if __name__ == "__main__":
    main()
