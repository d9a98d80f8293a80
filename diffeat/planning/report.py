"""A plan for people."""

from __future__ import annotations

from collections.abc import Iterator

from diffeat.planning.estimate import Estimate
from diffeat.planning.words import (
    about_text,
    disk_text,
    flop_text,
    line_text,
    size_text,
    times_text,
)

WIDTH = 12


def report_lines(found: Estimate) -> list[str]:
    """The lines of a plan: what, how much, how long, how large; an estimate, and says so."""
    lines = [line_text(*_sums(found))]
    lines += [f"{name:<{WIDTH}}{text}" for name, text in _rows(found)]
    return lines + [f"{'note':<{WIDTH}}{note}" for note in found.notes]


def _sums(found: Estimate) -> tuple[str, float, float | None, str]:
    spec, effort = found.spec, found.effort
    times = times_text(
        found.left, len(spec["timesteps"]), effort, spec["ensemble"], effort["timed"]
    )
    disk = disk_text(found.file_bytes, found.pooled_bytes, found.compression != "none")
    here = found.seconds if found.rate and "peak" not in found.rate else None
    return times, found.flops, here, disk


def _rows(found: Estimate) -> Iterator[tuple[str, str]]:
    worse = f", corrupted by {found.spec['corrupt']}" if found.spec.get("corrupt") else ""
    yield "pictures", f"{found.count:,} of {found.pictures}, {_size(found)}{worse}"
    yield "forwards", _forwards(found)
    yield "operations", _operations(found)
    yield "time", _time(found)
    left = "" if found.left == found.count else f" of the {found.left:,} that are left"
    yield (
        "file",
        disk_text(found.file_bytes, found.pooled_bytes, found.compression != "none")
        + (f", {found.compression}" if found.compression != "none" else ""),
    )
    room = "" if _fits(found) else ": TOO LITTLE"
    yield (
        "disk",
        (
            f"{size_text(found.shard_bytes)} of parts{left} beside it until they are merged; "
            f"{size_text(found.free_bytes)} are free{room}"
        ),
    )
    yield "memory", _memory(found)


def _fits(found: Estimate) -> bool:
    merged = found.file_bytes if found.compression == "none" else 0
    return found.shard_bytes + merged <= found.free_bytes


def _size(found: Estimate) -> str:
    if found.spec["fit"] == "native":
        (low, high), tile = found.size, ""
        return f"from {low[0]}×{low[1]} to {high[0]}×{high[1]} pixels by their headers"
    height, width = found.spec["size"]
    tile = found.spec["tile"]
    tiles = f", in tiles of {tile[0]}×{tile[1]}" if tile else ""
    return f"{height}×{width} pixels{tiles}"


def _forwards(found: Estimate) -> str:
    effort, left = found.effort, found.left
    parts = [f"{effort['forwards'] * left:,} of the network, {found.batch:,} rows at a time"]
    if effort["encodes"]:
        parts.append(f"{effort['encodes'] * left:,} of the VAE's encoder")
    if effort["texts"]:
        parts.append(f"{effort['texts']:,} of the text encoder")
    return "; ".join(parts)


def _operations(found: Estimate) -> str:
    costs, last = found.costs, found.spec["blocks"][-1]
    parts = [f"{flop_text(costs['cut'])} a forward, which ends after {last}"]
    if found.effort["walks"]:
        parts.append(f"{flop_text(costs['whole'])} one that goes on")
    if found.effort["encodes"]:
        parts.append(f"{flop_text(costs['encode'])} an encode")
    if found.effort["texts"] and found.text_flops:
        parts.append(f"{flop_text(found.text_flops)} a text")
    each = found.flops / max(1, found.left)
    return f"{', '.join(parts)}; {flop_text(each)} a picture, {flop_text(found.flops)} in all"


def _time(found: Estimate) -> str:
    rate = found.rate
    if rate is None:
        return "not known; --gpu NAME estimates it for a GPU"
    about = about_text(found.seconds)
    speed = flop_text(rate["rate"], "FLOP/s")
    if "peak" in rate:
        peak = flop_text(rate["peak"], "FLOP/s")
        return (
            f"{about} on {rate['from']}, an estimate: {rate['fraction']:g} of its published "
            f"{peak} in {rate['dtype']} (dense)"
        )
    how = f"forwards of {rate['rows']} rows, measured now"
    if rate["from"] == "remembered":
        how = f"forwards of {rate['rows']} rows, measured before"
        if rate.get("by") == "extraction":
            how = f"the last extraction of {rate['pictures']:,} pictures, {rate['on']}"
    return f"{about} here, an estimate: {speed} as by {how}"


def _memory(found: Estimate) -> str:
    parts = [
        f"{name} {size_text(found.memory[name])}"
        for name in ("program", "weights", "forward", "pictures", "features")
    ]
    each = f" a process ({found.processes} of them)" if found.processes > 1 else ""
    return f"about {size_text(found.memory['peak'])}{each}, an estimate: {', '.join(parts)}"
