"""Backbones whose weights say that they lie on a CUDA device; see `tests.device.claims`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import diffeat
from tests.device.claims import Claims, cuda


@pytest.fixture
def mode() -> Claims:
    """The mode, for the time of the test."""
    with cuda() as mode:
        yield mode


@pytest.fixture(scope="package")
def claimed_backbone(folder_of) -> Callable[..., diffeat.Backbone]:
    """Backbone in fp32 on the device by name; leave it as it is."""
    loaded = {}

    def backbone(name: str, **options) -> diffeat.Backbone:
        key = (name, *options.items())
        if key not in loaded:
            folder = str(folder_of(name))
            with cuda():
                loaded[key] = diffeat.load(folder, device="cuda", **{"dtype": "float32", **options})
        return loaded[key]

    return backbone
