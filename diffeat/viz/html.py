"""What all HTML pages share: one file each, text that stays text, and a policy that lets a browser
fetch nothing and run nothing but what was written here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffeat.errors import SpecError
from diffeat.store.format.atomic import write_synced

if TYPE_CHECKING:
    from PIL import Image

HERE = Path(__file__).parent
PLAIN = 128
"""Pixels of a picture's longer side up to which it is kept as it is, as PNG."""
QUALITY = 86
"""Of larger ones, which are JPEG."""
IN_SCRIPTS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
"""What could end a script element, as JSON may write it too."""


def part(name: str) -> str:
    """A script or style sheet that lies beside this module."""
    return (HERE / name).read_text("utf-8").strip()


def plain(text: Any) -> str:
    """Text that a browser shows as it is, whatever is in it, also within an attribute."""
    return escape(str(text), quote=True)


def quoted(text: Any) -> str:
    """The same as the value of an attribute."""
    return f'"{plain(text)}"'


def in_script(value: Any) -> str:
    """A value as JSON within a script element: ASCII alone, and nothing that ends the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(IN_SCRIPTS)


def table(
    heading: Iterable[str], rows: Iterable[Iterable[Any]], numbers: Iterable[int] = ()
) -> str:
    """A table of plain texts; the columns of `numbers` stand to the right."""
    right = set(numbers)

    def line(texts: Iterable[Any], tag: str, more: str = "") -> str:
        looks = [' class="n"' if k in right else "" for k in range(len(texts))]
        cells = (
            f"<{tag}{more}{look}><bdi>{plain(text)}</bdi></{tag}>"
            for text, look in zip(texts, looks, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    head = line([*heading], "th", ' scope="col"')
    body = "".join(line([*row], "td") for row in rows)
    return f'<div class="wide"><table>{head}{body}</table></div>'


def facts_table(facts: Mapping[str, str]) -> str:
    """What is what, a line each."""
    rows = (
        f'<tr><th scope="row">{plain(name)}</th><td>{plain(text)}</td></tr>'
        for name, text in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def image(data: bytes, kind: str, size: tuple[int, int], more: str) -> str:
    """An img element that holds its picture, shown at (H, W)."""
    return f'<img width="{size[1]}" height="{size[0]}" {more} src="{data_uri(data, kind)}">'


def data_uri(data: bytes, kind: str) -> str:
    """A picture as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(picture: Image.Image, side: int) -> tuple[bytes, str, tuple[int, int]]:
    """A picture for a page: its bytes, "png" of a small one or "jpeg", and its (H, W) there.

    Args:
        picture: of any size and mode.
        side: pixels that its longer side has at most.
    """
    from PIL import Image

    from diffeat.viz.maps import tile_size

    data, picture = BytesIO(), picture.convert("RGB")
    size = picture.size[::-1]
    if max(size) > side:
        size = tile_size(size, side)
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    elif max(size) <= PLAIN:
        picture.save(data, "png")
        return data.getvalue(), "png", size
    picture.save(data, "jpeg", quality=QUALITY)
    return data.getvalue(), "jpeg", size


def write_document(
    path: str | Path,
    title: str,
    body: Iterable[str],
    *,
    style: str = "",
    script: str = "",
    data: Any = None,
    limit: int | None = None,
) -> None:
    """Write one HTML file that needs nothing else; it is written whole or not at all.

    The content-security policy admits the style sheet and the script that are in it by their
    SHA-256, pictures that are in it, and nothing else: whatever else stood in the page, a browser
    would run and fetch nothing.

    Args:
        path: the file.
        title: of the browser's window.
        body: elements, their texts escaped.
        style: more than what all pages share.
        script: to run once the body is there.
        data: for the script, which finds it in the element `data`; None is none.
        limit: bytes of the file at most.

    Raises:
        SpecError: it would be larger.
    """
    style = "\n".join(filter(None, (part("page.css"), style)))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}"
    end = []
    if data is not None:
        end.append(f'<script type="application/json" id="data">{in_script(data)}</script>')
    if script:
        policy += f"; script-src {_hash(script)}"
        end.append(f"<script>{script}</script>")
    policy += "; base-uri 'none'; form-action 'none'"
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{plain(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        + "\n".join([*body, *end])
        + "\n</body></html>\n"
    )
    found = text.encode("utf-8", "replace")
    if limit is not None and len(found) > limit:
        raise SpecError(f"the page has {len(found):,} bytes; expected {limit:,} at most")
    write_synced(Path(path), found)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
    return f"'sha256-{digest}'"
