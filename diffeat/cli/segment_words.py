"""`diffeat segment --words`: masks of words, by the attention of a text-to-image model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

WORDS = ("words",)
"""Options of this way alone."""


def words_options(command: Callable) -> Callable:
    """Options of `diffeat segment` that say something of words."""
    from diffeat.cli.options import option

    return option("--words", metavar="cat,dog|FILE", help="Masks of words, by a text-to-image "
                  "MODEL without training.")(command)  # fmt: skip


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Masks of words."""
    raise click.UsageError("--words is not there yet")
