"""Aggregators that learn from targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffeat._version import __version__
from diffeat.aggregation.sources import Sources
from diffeat.errors import SpecError


def keep(aggregator: Any, sources: Sources, path: str | Path, more: dict[str, Any]) -> None:
    """Keep a fitted aggregator, with what its features are.

    Args:
        more: further plain values, such as scores.

    Raises:
        SpecError: it cannot be kept.
        StoreError: it cannot be written.
    """
    from probes import HeadError, save

    about = {"sources": sources.about(), **more, "versions": {"diffeat": __version__}}
    try:
        save(aggregator, path, about)
    except HeadError as error:
        raise SpecError(str(error)) from error
