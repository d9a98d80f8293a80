"""One small extraction that every engine is asked for, and how to disturb it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import diffusers
import h5py
import numpy as np
import torch
from PIL import Image

import diffeat
from diffeat.backbones import ModelRequest
from diffeat.images import FileSource
from diffeat.jobs import extract_to_file

COUNT, BROKEN = 41, 5  # so that the last batch is short
SPEC = diffeat.ExtractSpec(
    timesteps=(20, 600), blocks=("mid", "up.0"), ensemble=2, fit="pad", dtype="float32"
)
ROWS = 8  # of one forward
OPTIONS = (
    *("-t", "20,600", "-b", "mid,up.0", "--ensemble", 2, "--fit", "pad", "--dtype", "float32"),
    *("--batch-size", ROWS, "--workers", 1, "--on-error", "skip", "--device", "cpu"),
)
"""SPEC as a command."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE = 90
"""Seconds after which something hangs."""


def save_pictures(folder: Path, count: int = COUNT, broken: int | None = BROKEN) -> Path:
    """Pictures in two classes, tall ones so that they are padded; one cannot be read."""
    draw = np.random.default_rng(0)
    for k in range(count):
        path = folder / "ab"[k * 2 // count] / f"ü{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 30, 3), np.uint8)).save(path)
        if k == broken:
            path.write_bytes(path.read_bytes()[:100])
    return folder


def extract(model: Path | str, pictures: Path | diffeat.Source, path: Path, **options):
    """SPEC by `extract_to_file`, in this process unless the options say otherwise."""
    source = diffeat.open_source(pictures) if isinstance(pictures, (Path, str)) else pictures
    request = ModelRequest(str(model), device="cpu")
    given = {"spec": SPEC, "batch_size": ROWS, "workers": 1, "on_error": "skip", "progress": False}
    return extract_to_file(request, source, path=path, **{**given, **options})


def content(path: Path) -> dict[str, tuple]:
    """Everything in a feature file, by plain h5py: name → (dtype, shape, bytes or texts)."""
    found = {}

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            values = item.asstr()[:].tolist() if item.dtype.kind == "O" else item[:].tobytes()
            found[name] = (str(item.dtype), item.shape, values)

    with h5py.File(path) as file:
        assert file.attrs["complete"]
        file.visititems(look)
        pictures = json.loads(file.attrs["pictures"])
        pictures.pop("beside")  # from where the file lies
        found["/"] = (file.attrs["fingerprint"], file.attrs["spec"], pictures)
    return found


def same(path: Path, reference: dict[str, tuple]) -> bool:
    """Whether a file holds what the reference holds, and its parts are gone."""
    found = content(path)
    assert sorted(found) == sorted(reference)
    different = [name for name in reference if found[name] != reference[name]]
    assert different == []
    assert not parts_of(path).exists()
    return True


def half(model: Path, pictures: Path, path: Path) -> int:
    """A finished file of every other picture; how many of the others can be read."""
    source = diffeat.open_source(pictures)
    extract(model, source.take(range(0, COUNT, 2)), path, engine="local")
    return COUNT // 2 - 1


def added(path: Path, reference: dict[str, tuple]) -> bool:
    """Whether a file that has grown holds what the reference holds, but for the last bits."""
    found = content(path)
    assert sorted(found) == sorted(reference)
    for name, values in reference.items():
        if name.startswith("features/"):
            arrays = [np.frombuffer(one[2], np.float32) for one in (found[name], values)]
            np.testing.assert_allclose(*arrays, rtol=0, atol=1e-4, err_msg=name)
        else:
            assert found[name] == values, name
    assert not parts_of(path).exists()
    return True


def parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def shards(path: Path) -> list[Path]:
    return list(parts_of(path).glob("shard-*.h5"))


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE):
    """Wait for something to be true; returns it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.002)
    return value


def start(*arguments: object, module: str = "diffeat", log: Path) -> subprocess.Popen:
    """A command in a session of its own, as from a terminal; its output goes to a file."""
    with open(log, "wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=Path(__file__).parents[2],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )


def _hear_ctrl_c() -> None:
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def below(pid: int) -> list[int]:
    """Children, their children, …"""
    found = []
    for child in _children(pid):
        found += [child, *below(child)]
    return found


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def workers_below(pid: int) -> list[int]:
    """Worker processes of a driver; not multiprocessing's own helper."""
    return [child for child in below(pid) if "spawn_main" in command_of(child)]


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# --- pictures that do something when they are read --------------------------------------------


@dataclass(frozen=True)
class Deadly(FileSource):
    """Whoever reads picture `deadly` is killed, as by the system when memory runs out."""

    deadly: int = 0

    def load(self, index: int) -> Image.Image:
        if index == self.deadly and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index)


@dataclass(frozen=True)
class Buggy(FileSource):
    """Reading fails with an error that nobody foresaw."""

    def load(self, index: int) -> Image.Image:
        raise ZeroDivisionError("by a picture")


def as_kind(kind: type[FileSource], pictures: Path, **fields) -> FileSource:
    """The pictures of a folder as another kind of source, with the same fingerprint."""
    plain = diffeat.open_source(pictures)
    return kind(plain.name, plain.ids, plain.labels, plain.class_names, paths=plain.paths, **fields)


def save_overflowing(model: Path, folder: Path) -> Path:
    """The same model with weights so large that float16 does not hold its features."""
    shutil.copytree(model, folder)
    unet = diffusers.UNet2DModel.from_pretrained(model / "unet")
    with torch.no_grad():
        unet.conv_in.weight.mul_(1e9)
    unet.save_pretrained(folder / "unet")
    return folder
