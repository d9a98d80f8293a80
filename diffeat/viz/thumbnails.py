"""Small pictures of a page, each in the file once, up to some number of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffeat.errors import PictureError
from diffeat.viz.html import data_uri, encoded, image, quoted
from diffeat.viz.maps import tile_size

if TYPE_CHECKING:
    from PIL import Image

SIDE = 112
"""Pixels of a thumbnail's longer side."""
MOST = 160
"""Thumbnails of a page, some kB each; what comes later has its text alone."""
LACKING = 5
"""Sentences on pictures that are not shown, at most."""
Picture = Callable[[str], "Image.Image | None"]
"""Id → the picture, or None where it cannot be had."""


@dataclass
class Thumbnails:
    """Pictures as data, each made once, up to MOST of them.

    Args:
        picture: gives the pictures; None shows none.

    Attributes:
        missing: sentences on why some are not shown.
    """

    picture: Picture | None
    made: dict[str, tuple[bytes, str, tuple[int, int]] | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def of(self, name: str) -> str:
        """An img element, or a few words in its place."""
        found = self._found(name)
        if isinstance(found, str):
            return f"<span>{found}</span>"
        return image(*found, f"alt={quoted(name)}")

    def data(self, name: str) -> dict[str, Any] | None:
        """Address, width and height of a picture for a script; None where it is not shown."""
        found = self._found(name)
        if isinstance(found, str):
            return None
        data, kind, (height, width) = found
        return {"src": data_uri(data, kind), "width": width, "height": height}

    def told(self) -> list[str]:
        """The first of what is missing."""
        left = len(self.missing) - LACKING
        more = [f"and {left:,} more that are not shown"] if left > 0 else []
        return [*self.missing[:LACKING], *more]

    def _found(self, name: str) -> tuple[bytes, str, tuple[int, int]] | str:
        """Bytes, kind and (H, W) to show it at; words where there is none."""
        if self.picture is None:
            return "no picture"
        if name not in self.made:
            if len(self.made) >= MOST:
                words = f"Only {MOST} pictures are shown; others are named."
                self.missing = list(dict.fromkeys([*self.missing, words]))
                return "not shown"
            self.made[name] = self._make(name)
        return self.made[name] or "no picture"

    def _make(self, name: str) -> tuple[bytes, str, tuple[int, int]] | None:
        try:
            picture = self.picture(name)
        except PictureError as error:
            self.missing.append(str(error))
            picture = None
        if picture is None:
            return None
        data, kind, _ = encoded(picture, SIDE)
        # the browser makes the pixels of a small one larger
        return data, kind, tile_size(picture.size[::-1], SIDE)
