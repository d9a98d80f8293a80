"""How many classes of ours a picture meets on its way from the command to the file."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
from PIL import Image

from diffeat.cli import main

MOST = 26
"""Beside two of the command's own options, which are made when it is imported."""


def count(folder, arguments, tell) -> None:
    """Run the command and tell of which classes of ours there were instances."""
    seen = set()

    def look(frame, event, _arg):
        if event == "call" and frame.f_code.co_name in ("__init__", "__new__"):
            first = next(iter(frame.f_locals.values()), None)  # of __new__ the class itself
            made = first if isinstance(first, type) else type(first)
            if made.__module__.partition(".")[0] in ("diffeat", "probes"):
                seen.add(f"{made.__module__}.{made.__qualname__}")

    os.chdir(folder)
    sys.argv = ["diffeat", *arguments]
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        main()
    finally:
        sys.setprofile(None)
        tell.send(sorted(seen))


def test_few_classes_stand_between_pictures_and_file(tmp_path, server):
    """Every class that is made during a small extraction, counted by a profiler's hook."""
    for k in range(4):
        folder = tmp_path / "pictures" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * k, np.uint8)).save(folder / f"{k}.png")
    command = ("extract", "unet-cifar10", "pictures", "-o", "f.h5", "-t", "20", "-b", "up.1",
               "--pool", "1x1", "--device", "cpu")  # fmt: skip
    told, tell = server.Pipe(duplex=False)
    process = server.Process(target=count, args=(tmp_path, command, tell))
    process.start()
    process.join()
    assert process.exitcode == 0
    seen = told.recv()
    assert (tmp_path / "f.h5").is_file()
    assert "diffeat.extraction.extractor.Extractor" in seen  # the hook sees them
    assert len(seen) <= MOST, "\n".join(seen)
