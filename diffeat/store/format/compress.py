"""Compression of feature files: which filters diffeat writes, and reads."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffeat.errors import SpecError, StoreError

COMPRESSIONS = ("none", "lzf", "gzip", "zstd")
ZSTD = 32015
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf", ZSTD: "zstd"}
"""Registered numbers of the filters, and what h5py or the plugin call them."""


def check_compression(name: str) -> str:
    """The name of a compression that can be written here.

    Raises:
        SpecError: there is no such compression.
        StoreError: it needs a package that is not installed.
    """
    if name not in COMPRESSIONS:
        raise SpecError(f"compression={name!r}; expected {', '.join(COMPRESSIONS)}")
    if name == "zstd":
        need_plugin([ZSTD], "zstd")
    return name


def need_plugin(filters: Iterable[int], what: str) -> Any:
    """Import the package that reads and writes zstd, where one of the filters is that.

    Raises:
        StoreError: it is not installed.
    """
    if ZSTD not in filters:
        return None
    try:
        return importlib.import_module("hdf5plugin")
    except ImportError:
        raise StoreError(
            f"{what}: compression with zstd needs the package hdf5plugin; "
            "pip install 'diffeat[zstd]'"
        ) from None


def creation_options(compression: str, dtype: str) -> dict[str, Any]:
    """Arguments of h5py's `create_dataset`; bytes of equal weight are put side by side first.

    Shuffling makes exponents and signs neighbours, which is what compresses in floats; single
    bytes have nothing to shuffle.
    """
    if compression == "none":
        return {}
    options = {"shuffle": np.dtype(dtype).itemsize > 1}
    if compression == "zstd":
        return {**options, **need_plugin([ZSTD], "zstd").Zstd(clevel=3)}
    return {**options, "compression": compression}


def compression_of(dataset) -> str:
    """The compression of an h5py data set."""
    properties = dataset.id.get_create_plist()
    used = [FILTERS.get(properties.get_filter(k)[0]) for k in range(properties.get_nfilters())]
    return next((name for name in used if name in COMPRESSIONS), "none")
