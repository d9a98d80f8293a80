"""Figures of papers beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.sections import Text


class Notes:
    """Figures of papers beside our rows, each with a number that leads to its set-up.

    Args:
        published: tables of the benchmark file, as the JSON has them.
    """

    def __init__(self, published: Sequence[dict[str, Any]]):
        self.published = published

    def beside(self, row: str) -> str:
        """ "90.1 [1]" for a row of a table, or ""."""
        found = [
            f"{one['value']:.2f} [{number}]"
            for number, one in enumerate(self.published, start=1)
            if one["beside"] == row and one["value"] is not None
        ]
        return ", ".join(found)

    def rows(self) -> list[tuple[str, str]]:
        """(what, figure) of those that stand beside none of our rows."""
        return [
            (f"{one['source']}: {one['setup']}", f"{one['value']:.2f} [{number}]")
            for number, one in enumerate(self.published, start=1)
            if not one["beside"] and one["value"] is not None
        ]

    def column(
        self, heading: Sequence[str], rows: Sequence[Sequence[str]], name: str = "paper %"
    ) -> tuple[list[str], list[list[str]]]:
        """A table with a last column of papers, or without one where they say nothing.

        Args:
            heading: without that column.
            rows: with it: what `beside` says of each. Figures beside none of them follow.
            name: of the column.
        """
        others = [[f"*{what}*", *[""] * (len(heading) - 1), figure] for what, figure in self.rows()]
        rows = [[*row] for row in (*rows, *others)]
        if not any(row[-1] for row in rows):
            return [*heading], [row[:-1] for row in rows]
        return [*heading, name], rows

    def ending(self, result: dict[str, Any]) -> Iterator[Text]:
        """What a report ends with: what was left out, then the set-ups of papers."""
        yield from map(Text, left_out(result))
        yield from self.sections()

    def sections(self) -> Iterator[Text]:
        for number, one in enumerate(self.published, start=1):
            yield Text(f"[{number}] {published_line(one)}")


def published_line(one: dict[str, Any]) -> str:
    """A figure of a paper with its source, set-up and what differs."""
    value = "" if one["value"] is None else f": {one['value']:.2f} %"
    return (
        f"{one['source']}: {one['setup']}{value}. Not comparable: other "
        f"{', other '.join(one['differs'])}."
    )


def left_out(result: dict[str, Any]) -> list[str]:
    """A line per baseline that could not be had; the JSON has the whole reason."""
    missing = result.get("missing", {})
    return [f"Left out: {name}: {why.partition(' (')[0]}." for name, why in missing.items()]
