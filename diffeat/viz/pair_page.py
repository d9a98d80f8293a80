"""One HTML page of a pair of pictures, or of a few: click a point, see where it lies in another."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.errors import SpecError
from diffeat.noise import shown_t
from diffeat.viz.html import (
    data_uri,
    encoded,
    facts_table,
    part,
    plain,
    table,
    write_document,
)
from diffeat.viz.packed import Agreement, compare, kept_channels, pack
from diffeat.viz.scales import colour_map
from probes.maps import Maps

SIDE = 512
"""Pixels of a picture's longer side on the page, whose pixels are what a point is looked for in."""
MOST = 8
"""Pictures of a page."""
LIMIT = 20_000_000
"""Bytes of a page."""
SPARE = 200_000
"""Bytes for script, texts and tables; whatever is over is checked at the end."""
HOW = (
    "Click or drag in either picture, or move the point with the arrow keys (Shift: finer). The "
    "colours show how like the other picture is to that point, the ring where it is most like: "
    "the cosine of features, read bilinearly between the sites of the map and compared at every "
    "pixel of the picture as it is shown here. x and y are pixels of the picture itself, 0, 0 the "
    "centre of its first one. A cosine says how alike two places are, not how probable a match is."
)
AGREES = (
    "The maps lie in this file as int8 with a scale for each site, of all channels where they fit, "
    "of principal components of all pictures' vectors where not. A grid of points of each picture "
    "was looked for in the next one, in these maps and in the exact ones. Same match: the share "
    "whose two best matches lie within 1 site of each other. |Δ cosine|: by how much cosines of "
    "these points with all sites differ."
)
STAGE = """
<figure><div class="stage" id="{0}" tabindex="0" role="application">
<img id="{0}-image" alt=""><canvas id="{0}-heat" width="1" height="1"></canvas>
<div class="mark none" id="{0}-mark"></div></div>
<figcaption><bdi id="{0}-name"></bdi><span class="note" id="{0}-size"></span></figcaption></figure>
""".strip()
CONTROLS = """
<div class="bar" id="choice"><label>left <select id="left-picture"></select></label>
<label>right <select id="right-picture"></select></label></div>
<div class="bar"><label>block <select id="block"></select></label>
<label>t <select id="t"></select></label>
<label>colours <input id="opacity" type="range" min="0" max="100" value="60"></label>
<span class="scale"><span id="low"></span><canvas id="scale" width="256" height="1"></canvas>
<span id="high"></span></span></div>
""".strip()


def write_pair_page(
    path: str | Path,
    maps: Sequence[Maps],
    pictures: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    point: Sequence[float] | None = None,
    limit: int = LIMIT,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Agreement]:
    """Write one HTML file that needs nothing else: no network, no server, opened as a file.

    A point of one picture is clicked, and the other one shows the cosine with every pixel and the
    best match; t and block are chosen on the page. The maps lie in it as int8, of fewer channels
    where they would not fit (see `packed.pack`). What that costs is measured against the exact
    maps, printed on the page and returned: points of each picture are looked for in the next one.

    Args:
        path: the file; it is written whole or not at all.
        maps: of 2 to 8 pictures, of the same cells (block, t).
        pictures: of each, (H, W, 3) uint8, upright; shown at 512 pixels on the longer side at most.
        names: of each.
        title: headline.
        facts: what is what, such as the model, in lines of a table.
        notes: sentences below the headline.
        point: x, y of the first picture that is shown at first; None: its middle.
        limit: bytes of the file at most.
        progress: wraps the list of cells, such as a progress bar.

    Returns:
        For every cell, how near the page is to the exact maps.

    Raises:
        SpecError: other numbers of pictures, maps that do not belong together, nan, or more than
            fits.
    """
    _check(maps, pictures, names)
    shown = [_shown(picture) for picture in pictures]
    small = [_of_size(one, size) for one, (_, size) in zip(maps, shown, strict=True)]
    cells, found = [], []
    room = (limit - SPARE - sum(len(uri) for uri, _ in shown)) * 3 // 4  # base64
    shapes = {cell: [tuple(one[cell].shape) for one in maps] for cell in maps[0].values}
    most = kept_channels(shapes, room)
    for cell in progress([*maps[0].values]):
        packed = pack([one[cell] for one in small], most)
        found.append(compare(small, packed, cell))
        cells.append(_cell_data(packed, found[-1]))
    middle = [(side - 1) / 2 for side in maps[0].size[::-1]]
    data = {
        "pictures": [_picture_data(*one) for one in zip(names, maps, small, shown, strict=True)],
        "cells": cells,
        "colours": _text(np.round(255 * colour_map()(np.arange(256))[:, :3]).astype(np.uint8)),
        "start": [float(one) for one in (middle if point is None else point)],
    }
    body = _body(title, facts or {}, notes, found)
    write_document(path, title, body, style=part("pair_page.css"),
                          script=part("pair_page.js"), data=data, limit=limit)  # fmt: skip
    return found


def agreement_text(one: Agreement) -> str:
    """ "int8, all 96 channels: best match within 1 site of that of the exact maps for 98.7 % …"."""
    whole = one.kept == one.channels
    kept = f"all {one.kept} channels" if whole else f"{one.kept} components of {one.channels}"
    near = f"{100 * one.same:.1f} % of {one.points} points"
    return (
        f"int8, {kept}: best match within 1 site of that of the exact maps for {near}, cosines "
        f"{one.difference:.2g} off on average"
    )


def _check(maps: Sequence[Maps], pictures: Sequence[np.ndarray], names: Sequence[str]) -> None:
    counts = {len(maps), len(pictures), len(names)}
    if len(counts) > 1 or not 2 <= len(maps) <= MOST:
        raise SpecError(
            f"{len(maps)} maps, {len(pictures)} pictures and {len(names)} names; expected as many "
            f"of each, 2 to {MOST}"
        )
    first = maps[0]
    for name, one, picture in zip(names, maps, pictures, strict=True):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise SpecError(
                f"{name} is {picture.shape} of {picture.dtype}; expected (H, W, 3) uint8"
            )
        if picture.shape[:2] != tuple(one.size):
            raise SpecError(
                f"{name} has {picture.shape[1]}×{picture.shape[0]} pixels; its maps are of "
                f"{one.size[1]}×{one.size[0]}"
            )
        if not one.values or [*one.values] != [*first.values]:
            raise SpecError(
                f"{name} has maps of {[*one.values]}, {names[0]} of {[*first.values]}; expected "
                "the same cells, one at least"
            )
        for cell in one.values:
            shape, other = tuple(one[cell].shape), tuple(first[cell].shape)
            if len(shape) != 3 or 0 in shape or shape[0] != other[0]:
                raise SpecError(
                    f"cell {cell} of {name} has shape {shape}, of {names[0]} {other}; expected "
                    "maps (C, h, w) of equally many channels"
                )


def _shown(picture: np.ndarray) -> tuple[str, tuple[int, int]]:
    """A picture as its address, and its (H, W) on the page."""
    from PIL import Image

    data, kind, size = encoded(Image.fromarray(picture), SIDE)
    return data_uri(data, kind), size


def _of_size(maps: Maps, size: tuple[int, int]) -> Maps:
    """The same maps of a picture that is shown with (H, W) pixels: its edges stay its edges."""
    sx, tx, sy, ty = maps.numbers
    across, down = maps.size[1] / size[1], maps.size[0] / size[0]
    return replace(maps, size=size, placement=(sx * across, tx, sy * down, ty))


def _text(values: np.ndarray | bytes) -> str:
    return base64.b64encode(bytes(values)).decode()


def _picture_data(
    name: str, maps: Maps, small: Maps, shown: tuple[str, tuple[int, int]]
) -> dict[str, Any]:
    """What the script knows of a picture; sides in the order x, y."""
    sx, tx, sy, ty = small.numbers
    return {
        "name": str(name), "image": shown[0], "size": [*small.size[::-1]],
        "whole": [int(side) for side in maps.size[::-1]],
        "input": [int(side) for side in maps.input_size[::-1]],
        "scale": [sx, sy], "shift": [tx, ty],
    }  # fmt: skip


def _cell_data(packed: Any, agreement: Agreement) -> dict[str, Any]:
    block, t = agreement.cell
    return {
        "block": str(block), "t": shown_t(t) or "–", "channels": packed.kept,
        "agreement": agreement_text(agreement),
        "maps": [{"grid": [*values.shape[:2]], "data": _text(packed.data(k))}
                 for k, values in enumerate(packed.values)],
    }  # fmt: skip


def _body(
    title: str, facts: Mapping[str, str], notes: Sequence[str], found: Sequence[Agreement]
) -> Iterator[str]:
    yield f"<h1>{plain(title)}</h1>"
    for note in notes:
        yield f'<p class="note">{plain(note)}</p>'
    yield "<noscript><p>This page computes in the browser: allow its script.</p></noscript>"
    yield CONTROLS
    yield f'<div class="pair">{STAGE.format("left")}{STAGE.format("right")}</div>'
    yield '<p id="answer" role="status" aria-live="polite"></p>'
    yield f'<p class="note">{plain(HOW)}</p>'
    yield '<p class="note" id="agreement"></p>'
    yield "<h2>How near this page is to the exact maps</h2>"
    yield f'<p class="note">{plain(AGREES)}</p>'
    heading = ("block", "t", "channels", "kept", "points", "same match", "mean |Δ cosine|")
    rows = (
        (one.cell[0], shown_t(one.cell[1]), one.channels, one.kept, one.points,
         f"{100 * one.same:.1f} %", f"{one.difference:.2g}")
        for one in found
    )  # fmt: skip
    yield table(heading, rows, range(1, 7))
    if facts:
        yield "<h2>What was compared</h2>"
        yield facts_table(facts)
