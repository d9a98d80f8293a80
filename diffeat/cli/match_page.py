"""`diffeat match --html`: a page of two pictures or a few, with or without matches beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from diffeat.cli.match_options import SETTINGS, given

MATCHED = ("points", "points_file", "grid", "region", "output", "png_path", "heat_path", "mask",
           "warp_path", "sheet_path", "stride", "check", "matcher", *SETTINGS)  # fmt: skip
"""Options of the matches themselves, which a page does without."""


def check_count(what: str, pictures: Sequence[str], values: dict[str, Any]) -> None:
    """UsageError unless so many pictures, which are not two, can be shown on a page."""
    if not values["html_path"] or len(pictures) < 2:
        raise click.UsageError(
            f"expected two pictures after {what}, or --pairs LIST; got {len(pictures)}"
        )
    from diffeat.viz.pair_page import MOST

    if len(pictures) > MOST:
        raise click.UsageError(f"--html: {len(pictures)} pictures; expected 2 to {MOST}")
    if asked := given(MATCHED):
        raise click.UsageError(
            f"{', '.join(asked)}: for two pictures; of {len(pictures)} --html writes the page alone"
        )


def page_alone(names: Sequence[str], cells: Sequence[tuple], values: dict[str, Any]) -> bool:
    """Whether the page is all that is asked for: of more than two pictures, or of several cells
    without a word on what becomes of them in one match."""
    several = len(names) > 2 or (len(cells) > 1 and not values["combine"])
    return bool(values["html_path"]) and several and not given(MATCHED)


def write_html(
    what: str, sides: Sequence[Any], cells: Sequence[tuple], path: Path, point: Any = None
) -> dict[str, Any]:
    """Write the page.

    Args:
        what: file or model.
        sides: of `diffeat.cli.match_two`.
        cells: (block, t).
        path: of the page.
        point: x, y of the first picture, shown at first.

    Returns:
        Path, bytes, and for each cell how near the page is to the exact maps.
    """
    from diffeat.cli.match_cells import cells_words
    from diffeat.cli.match_drawn import pictures_of
    from diffeat.cli.match_options import told
    from diffeat.progress import track
    from diffeat.viz import write_pair_page

    def bar(items: list) -> Any:
        return track(items, desc="page", unit="cells") if len(items) > 1 else items

    names = [side.name for side in sides]
    facts = {"features": what, "cells": cells_words(cells), "pictures": ", ".join(names)}
    with told():
        found = write_pair_page(path, [side.maps for side in sides], pictures_of(sides), names,
                                title=f"{what}: {', '.join(names)}", facts=facts,
                                point=point, progress=bar)  # fmt: skip
    return {"path": str(path), "bytes": path.stat().st_size, "cells": found}


def page_lines(page: dict[str, Any]) -> list[str]:
    """What was written, for people."""
    from diffeat.cli.match_cells import cells_words
    from diffeat.viz.pair_page import agreement_text

    lines = [f"wrote {page['path']}, {page['bytes'] / 1e6:.1f} MB"]
    return lines + [f"  {cells_words([one.cell])}: {agreement_text(one)}" for one in page["cells"]]


def page_dict(page: dict[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {**page, "cells": [one.to_dict() for one in page["cells"]]}
