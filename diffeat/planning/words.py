"""Numbers of a plan as people read them, and the line that sums it up."""

from __future__ import annotations

from typing import Any

SECONDS = ((86400, "days"), (3600, "h"), (60, "min"))


def size_text(count: float) -> str:
    """Bytes in decimal units: 1.2 GB."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def flop_text(count: float, per: str = "FLOP") -> str:
    """Operations: 1.2 TFLOP."""
    return _scaled(count, tuple(f"{letter}{per}" for letter in ("", "k", "M", "G", "T", "P", "E")))


def time_text(seconds: float) -> str:
    """Seconds, in the unit that suits: 40 s, 3.5 h."""
    for length, unit in SECONDS:
        if seconds >= 2 * length:
            return f"{_short(seconds / length)} {unit}"
    return "under 1 s" if seconds < 1 else f"{_short(seconds)} s"


def about_text(seconds: float) -> str:
    """The same as an estimate: "about 40 s", "under 1 s"."""
    return ("" if seconds < 1 else "about ") + time_text(seconds)


def _scaled(value: float, units: tuple[str, ...]) -> str:
    place = 0
    while value >= 999.5 and place + 1 < len(units):
        value, place = value / 1000, place + 1
    return f"{_short(value) if place else f'{value:.0f}'} {units[place]}"


def _short(value: float) -> str:
    """Two digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def times_text(
    pictures: int, levels: int, effort: dict[str, Any], members: int, timed: bool = True
) -> str:
    """1,797 pictures × 2 t × 8 members = 28,752 forwards."""
    forwards = effort["forwards"] * pictures
    if not effort["forwards"]:
        return f"{pictures:,} pictures, {effort['encodes'] * pictures:,} encodes of the VAE"
    runs = effort["evaluations"]
    views = effort["forwards"] // (runs * members)
    steps = f"{runs:,} steps" if effort["walks"] else f"{levels:,} t" if timed else ""
    parts = [
        f"{pictures:,} picture{'s'[: pictures != 1]}",
        steps,
        f"{members:,} members" if members > 1 else "",
        f"{views:,} views" if views > 1 else "",
    ]
    return f"{' × '.join(filter(None, parts))} = {forwards:,} forward{'s'[: forwards != 1]}"


def line_text(times: str, flops: float | None, seconds: float | None, disk: str) -> str:
    """All of it in one line; what is not known is left out."""
    parts = [
        times,
        None if flops is None else flop_text(flops),
        None if seconds is None else f"{about_text(seconds)} here",
        disk,
    ]
    return "plan: " + ", ".join(filter(None, parts))


def disk_text(size: int, pooled: int, compressed: bool) -> str:
    """How large the file is; where maps are kept and it is large, what pooling would make of it."""
    hint = ""
    if size > LARGE and pooled < size / 10:
        hint = f" (maps; --pool 1x1 would make it {size_text(pooled)})"
    return f"{'up to ' if compressed else ''}{size_text(size)}{hint}"


LARGE = 1_000_000_000
"""Bytes of a file from which on it is said how it could be smaller."""
