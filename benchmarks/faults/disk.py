"""A small disk that fills up: a file system of a few hundred MiB, or a limit of file sizes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LIMIT = "file-size limit (ulimit -f)"


def way() -> tuple[str, list[str]]:
    """How a full disk can be made here: what it is called, and what comes before `sh`.

    The mount lies in a name space of its own, so it is gone with the command.
    """
    mount = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    name = "tmpfs mounted by root" if os.geteuid() == 0 else "tmpfs in a user name space"
    try:
        tried = subprocess.run(
            [*mount, "sh", "-c", "mount -t tmpfs -o size=1m none /tmp"],
            capture_output=True, check=False,
        )  # fmt: skip
    except OSError:
        return LIMIT, []
    return (name, mount) if tried.returncode == 0 else (LIMIT, [])


def script(command: str, folder: Path, out: Path, size: int, name: str) -> str:
    """Shell text that runs `command` on a disk that is too small, and again with more room.

    Args:
        command: writes `folder`/f.h5.
        folder: where the small disk is mounted.
        out: where the finished file is copied to.
        size: bytes of all features: shards need this once, the merge once more.
        name: from `way`.

    Returns:
        Text whose output has a line "code N" after every run: first room for 2/5 of the
        shards, then for the shards but not for the merge, then for all.
    """
    if name == LIMIT:  # shards fit below it, the merged file does not
        block = size // 2 // 512
        return f"(ulimit -f {block}; {command}); echo code $?; {command}; echo code $?; " \
               f"cp '{folder}/f.h5' '{out}'"  # fmt: skip
    total = 3 * size + (16 << 20)
    fill = "head -c {} /dev/zero > '" + str(folder) + "/filler'"
    rooms = (size * 2 // 5, size * 3 // 2)
    steps = [f"mount -t tmpfs -o size={total} none '{folder}'"]
    for room in rooms:
        steps += [fill.format(total - room), command, "echo code $?"]
    steps += [f"rm '{folder}/filler'", command, "echo code $?", f"cp '{folder}/f.h5' '{out}'"]
    return "; ".join(steps)
