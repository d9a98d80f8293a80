"""What `diffeat match` draws of two pictures, and what it carries from one to the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.cli.ending import note
from diffeat.cli.match_options import told
from diffeat.errors import SourceError, SpecError, StoreError

HEATED = 7
"""Points with a heat map of their own; with the first picture they fill two lines."""
Pixels = Sequence[np.ndarray]
DRAWN = ("png_path", "heat_path", "warp_path", "sheet_path")
"""Options that need the pictures themselves."""


def draw(found: Any, values: dict[str, Any]) -> None:
    """Write the pictures that are asked for.

    Args:
        found: of `diffeat.cli.match_two`.
        values: options.
    """
    if not any(values[name] for name in DRAWN):
        return
    from diffeat.viz import match_lines

    pixels = pictures_of((found.source, found.target))
    titled = {"title": found.title, "names": (found.source.name, found.target.name)}
    if path := values["png_path"]:
        match_lines(*pixels, found.points.at, found.matches, path, **titled)
    if path := values["heat_path"]:
        _draw_heat(found, pixels, path, titled)
    if values["warp_path"] or values["sheet_path"]:
        _warp(found, pixels, values, titled)


def pictures_of(sides: Iterable[Any]) -> list[np.ndarray]:
    """Pictures, (H, W, 3) uint8 and upright.

    Raises:
        StoreError: they are not where the feature file says.
        SpecError: one has another size than its maps say.
    """
    pixels = []
    for side in sides:
        try:
            pixels.append(np.asarray(side.load()))
        except (SourceError, StoreError) as error:
            raise StoreError(
                f"{error}; say with --pictures where they lie, or leave the drawings out"
            ) from error
        if (size := pixels[-1].shape[:2]) != tuple(side.maps.size):
            raise SpecError(
                f"{side.name} has {size[1]}×{size[0]} pixels by now; its features are of "
                f"{side.maps.size[1]}×{side.maps.size[0]}: extract it again"
            )
    return pixels


def _draw_heat(
    found: Any, pixels: Sequence[np.ndarray], path: Path, titled: dict[str, Any]
) -> None:
    from diffeat.viz import similarity_sheet

    some = found.points.at[:HEATED]
    if len(some) < len(found.points.at):
        note(f"{path}: of the first {HEATED} of {len(found.points.at)} points")
    with told():
        maps = [found.matcher.similarity(found.source.maps, found.target.maps, one) for one in some]
    similarity_sheet(*pixels, some, maps, path, **titled)


def _warp(found: Any, pixels: Pixels, values: dict[str, Any], titled: dict[str, Any]) -> None:
    """The first picture's colours, or labels of its mask, at the pixels of the second."""
    from PIL import Image

    from diffeat.viz import warp_sheet
    from probes.matching import warp

    labels, palette = (pixels[0], None)
    if values["mask"]:
        labels, palette = read_mask(values["mask"], found.source.maps.size, found.source.name)
    with told():
        carried = warp(labels, found.source.maps, found.target.maps, found.matcher,
                       stride=values["stride"], check=values["check"])  # fmt: skip
    if path := values["warp_path"]:
        image = Image.fromarray(carried)
        if palette is not None:
            image.putpalette(palette)
        image.save(path)
    if path := values["sheet_path"]:
        what = {"labels": labels, "carried": carried} if values["mask"] else {"warped": carried}
        warp_sheet(*pixels, path, **what, **titled)


def read_mask(path: Path, size: tuple[int, int], name: str) -> tuple[np.ndarray, Any]:
    """(H, W) labels of a picture as it is seen, and the palette of its file or None.

    Args:
        size: (H, W) of the picture.
        name: of it, for messages.

    Raises:
        PictureError: it cannot be read, or holds colours and no labels.
        SpecError: it has another size than its picture.
    """
    from diffeat.images import read_labels

    labels, palette = read_labels(path)
    if labels.shape != tuple(size):
        raise SpecError(
            f"{path} is {labels.shape[1]}×{labels.shape[0]}; expected the {size[1]}×{size[0]} "
            f"pixels of {name}, as it is seen"
        )
    return labels, palette
