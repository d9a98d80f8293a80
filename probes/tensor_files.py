"""Tensors and JSON in one .safetensors file, written whole or not at all; reading runs no code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
METADATA = "__metadata__"
MOST_JSON = 64 << 20
"""Bytes of metadata that are read of a file; names of 100,000 classes take a few MiB."""


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], texts: dict[str, str]) -> None:
    """Write to a file beside it, sync, and rename it over the old one.

    Args:
        tensors: on any device; they are copied.
        texts: the metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {
        name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()
    }  # clones: safetensors refuses tensors that share memory
    beside = path.with_name(f".{path.name}.part")  # of a killed writer: written over
    try:
        save_file(flat, beside, texts)
        with open(beside, "rb+") as file:
            _order_texts(file)
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _order_texts(file: IO[bytes]) -> None:
    """Bring the metadata into the order of their names: the library writes them in any, and equal
    contents shall be equal bytes."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    if METADATA in header:
        header[METADATA] = dict(sorted(header[METADATA].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a power cut, where folders can be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_texts(path: Path) -> dict[str, str]:
    """The metadata of a file; no tensor is read.

    Raises:
        ValueError: no regular file, no .safetensors file, or more metadata than can be meant.
        OSError: it cannot be read.
    """
    _check_header(path)
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"no .safetensors file ({error})") from error


def read_tensors(path: Path) -> Tensors:
    """All tensors, in memory of their own.

    Raises:
        ValueError: no .safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"no .safetensors file ({error})") from error


def _check_header(path: Path) -> None:
    """ValueError before a header of gigabytes is parsed."""
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "no regular file")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(MOST_JSON, path.stat().st_size - 8):
        raise ValueError(f"no .safetensors file (a header of {length:,} bytes is said)")


def parse_json(text: str) -> object:
    """JSON as it is in files from strangers.

    Raises:
        ValueError: no JSON, nested too deeply, or nan and inf, which JSON does not have.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} in JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
