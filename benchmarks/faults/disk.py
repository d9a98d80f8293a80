"""A small disk that fills up: a file system of a few hundred MiB, or a limit of file sizes."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.commands import ENVIRONMENT, kept

LIMIT = "file-size limit"
NEW_SPACE, NEW_USER, PRIVATE = 0x00020000, 0x10000000, (1 << 14) | (1 << 18)
"""Linux: CLONE_NEWNS, CLONE_NEWUSER, MS_REC | MS_PRIVATE."""


def way() -> str:
    """How a full disk can be made here; tried in a process of its own."""
    told = subprocess.run(
        [sys.executable, "-m", __name__],
        env={**os.environ, **ENVIRONMENT},  # with threads, it may not have a name space
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout)["way"]


def on_small_disk(
    arguments: Sequence[str], path: Path, out: Path, size: int, warm: bool
) -> dict[str, Any]:
    """Run a command on a disk that is too small, and again with more and more room.

    Room is first for 2/5 of the shards, then for them but not for the merge, then for all;
    with a limit of file sizes only the merge can be met.

    Args:
        arguments: after `python`; they make `path`.
        path: its folder is where the small disk is mounted; there is nothing in it.
        out: where the finished file is copied to, since the disk ends with the commands.
        size: bytes of all features: shards need this once, the merge once more.
        warm: run the command in forks of one process.

    Returns:
        {"way": …, "codes": exit codes, "said": what they said, "kept": pictures in shards
        before the last run}.
    """
    request = [str(path), str(out), size, warm, list(arguments)]
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(request)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def mount(folder: Path, size: int) -> str:
    """Mount a tmpfs that only this process sees; returns how, or LIMIT where that is forbidden."""
    libc, user, group = ctypes.CDLL(None), os.geteuid(), os.getegid()
    root = user == 0
    if libc.unshare(NEW_SPACE if root else NEW_SPACE | NEW_USER) != 0:
        return LIMIT
    if not root:
        for name, line in (
            ("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")
        ):  # fmt: skip
            Path(f"/proc/self/{name}").write_text(line)
    libc.mount(b"none", b"/", None, PRIVATE, None)
    options = f"size={size}".encode()
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options) != 0:
        return LIMIT
    return "tmpfs mounted by root" if root else "tmpfs in a user name space"


def repeat(path: Path, out: Path, size: int, warm: bool, arguments: list[str]) -> dict[str, Any]:
    """What `on_small_disk` describes, in the process that mounts."""
    run = _forked if warm else _started
    total = 3 * size + (16 << 20)
    filler, found = path.parent / "filler", mount(path.parent, total)
    rooms = [None] if found == LIMIT else [size * 2 // 5, size * 3 // 2]
    codes, said, count = [], [], 0
    for room in [*rooms, total]:
        filler.unlink(missing_ok=True)
        if found == LIMIT:
            _limit(size * 3 // 4 if room is None else resource.RLIM_INFINITY)
        else:
            filler.write_bytes(bytes(total - room))
        count = kept(path, 0)
        code, text = run(arguments)
        codes.append(code)
        said.append(text)
    if codes[-1] == 0:
        out.write_bytes(path.read_bytes())
    return {"way": found, "codes": codes, "said": said, "kept": count}


def _limit(most: int) -> None:
    _, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, highest))


def _started(arguments: list[str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def _forked(arguments: list[str]) -> tuple[int, str]:
    """The same in a fork; `arguments` begin with `-m diffeat`."""
    from benchmarks.faults import warm  # imports what forks would import

    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(warm.main, arguments[2:], writing)
    )
    child.start()
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    child.join()
    return child.exitcode, text


def _child(main: Callable[[], None], arguments: list[str], writing: int) -> None:
    os.dup2(writing, 2)
    os.close(writing)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["diffeat", *arguments]
    main()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        answer = {"way": mount(Path("/tmp"), 1 << 20)}
    else:
        file, target, *rest = json.loads(sys.argv[1])
        answer = repeat(Path(file), Path(target), *rest)
    print(json.dumps(answer))
