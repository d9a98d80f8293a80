"""`diffeat segment --parts`: parts of pictures, without labels and without words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

PARTS = ("parts",)
"""Options of this way alone."""


def parts_options(command: Callable) -> Callable:
    """Options of `diffeat segment` that say something of parts."""
    from diffeat.cli.options import option

    return option("--parts", type=click.Choice(["diffcut", "diffseg", "kmeans"]), help="Parts of "
                  "pictures without labels.")(command)  # fmt: skip


def run(what: str, pictures: str | None, values: dict[str, Any]) -> None:
    """Parts of pictures."""
    raise click.UsageError("--parts is not there yet")
