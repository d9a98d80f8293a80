"""What a run of clusters prints and the report shows, from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.published import Notes
from benchmarks.sections import Picture, Section, Table, printed
from diffeat.noise import format_t

WAYS = {
    "silhouette": "The cell with the largest silhouette on the pictures that choose, without a "
    "label:",
    "ARI": "The cell with the largest ARI on the pictures that choose, which took their labels:",
}
"""How a cell is chosen → what stands above its table."""


def summary(result: dict[str, Any]) -> str:
    """Both tables."""
    return "\n".join([set_up(result), *printed(sections(result))])


def set_up(result: dict[str, Any]) -> str:
    """Pictures, protocol and cost in a few sentences."""
    one, machine = result["benchmark"], result["environment"]
    choosing, reported = result["counts"]
    count = one["clusters"] or result["classes"]
    return (
        f"{one['pictures']}: {choosing:,} pictures choose the cell, {reported:,} others are "
        f"clustered apart and reported; {count} clusters by k-means, means of {one['seeds']} "
        "seeds. ARI: 0 is chance. Its interval draws pictures, clusters as they are; differences "
        "are of the first seed. Accuracy is under the best names, which look at the labels that "
        "are scored. "
        f"{result['seconds']:.0f} s on {machine['cores']} cores ({machine['processor']})."
    )


def sections(result: dict[str, Any]) -> Iterator[Section]:
    """Both ways to choose; the picture; papers."""
    notes = Notes(result["benchmark"]["published"])
    for way, text in WAYS.items():
        yield _table(result["rows"], way, text, notes)
    yield Picture("ARI of clusters by cell, on the pictures that are reported")
    yield from notes.ending(result)


def _table(rows: list[dict[str, Any]], way: str, text: str, notes: Notes) -> Table:
    free = way == "silhouette"
    heading = ["features", "block", "t", "ARI (95 % interval)", "NMI", "accuracy", "at random",
               "silhouette", "first row less this" if free else "best of all cells"]  # fmt: skip
    body = []
    for row in rows:
        one = row["chosen"][way]
        values = one["values"]
        last = _against(row) if free else f"{row['best']:.3f} of {row['cells']}"
        beside = notes.beside(row["label"])
        body.append([
            row["label"] + (f" {beside}" if beside else ""), one["block"],
            "" if row["kind"] in ("pixels", "vision") else format_t(one["t"]),
            f"{values['ari']:.3f} ({one['low']:.3f} to {one['high']:.3f})",
            f"{values['nmi']:.3f}", f"{100 * values['accuracy']:.1f} %",
            f"NMI {one['chance']['nmi']:.3f}, {100 * one['chance']['accuracy']:.1f} %",
            f"{values['silhouette']:.3f}", last,
        ])  # fmt: skip
    return Table(heading, body, text, way)


def _against(row: dict[str, Any]) -> str:
    found = row.get("against")
    if found is None:
        return ""
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
